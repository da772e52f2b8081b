//! Mirrors: asked first, believed no more than the registry, and told no passwords.

use std::collections::BTreeMap;

use sampan_registry::{Cancel, Credentials, Registries, RegistryConfig, Repository};
use sampan_testkit::http::{Reply, Server};
use sampan_testkit::proxy::{Fault, Proxy};
use sampan_testkit::registry::{PASSWORD, Registry, Setup, USER};

use super::support::{name, noise, put_image, repository, repository_as, tag};

super::cases! {
    a_mirror_is_asked_first
    what_a_mirror_has_not_comes_from_the_registry
    a_mirror_gets_no_password_and_nothing_pushed
}

fn mirrored(registry: &str, mirrors: &[String], who: Credentials) -> Repository {
    let mirrors = BTreeMap::from([(registry.to_owned(), mirrors.to_vec())]);
    let config = RegistryConfig { mirrors, ..RegistryConfig::default() };
    Registries::new(config).repository(&name(registry, "x"), &who, &Cancel::default()).unwrap()
}

fn a_mirror_is_asked_first() {
    let (registry, mirror) = (Registry::default(), Registry::default());
    let (there, _) = repository(mirror.authority(), "x");
    put_image(&there, Some(&tag("1")), "linux/amd64", &[&noise(1, 10)]);
    let both =
        mirrored(registry.authority(), &[format!("http://{}", mirror.authority())], Credentials::Anonymous);
    let found = both.find(&tag("1"), &"linux/amd64".parse().unwrap()).unwrap();
    both.small_blob(&found.parsed.layers[0], 100).unwrap();
}

fn what_a_mirror_has_not_comes_from_the_registry() {
    let (registry, mirror) = (Registry::default(), Registry::default());
    let (there, _) = repository(registry.authority(), "x");
    put_image(&there, Some(&tag("1")), "linux/amd64", &[&noise(1, 10)]);
    let broken = Server::new(|_| Reply::status(418));
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mirrors =
        [mirror.authority().to_owned(), broken.authority(), free.to_string()].map(|m| format!("http://{m}"));
    let all = mirrored(registry.authority(), &mirrors, Credentials::Anonymous);
    let found = all.find(&tag("1"), &"linux/amd64".parse().unwrap()).unwrap();
    all.small_blob(&found.parsed.layers[0], 100).unwrap();
}

fn a_mirror_gets_no_password_and_nothing_pushed() {
    let registry = Registry::new(Setup { password: true, ..Setup::default() });
    let elsewhere = Registry::new(Setup { password: true, ..Setup::default() });
    let mirror = Proxy::new(elsewhere.authority(), |_| Fault::None);
    let me = Credentials::password(USER, PASSWORD);
    let both = mirrored(registry.authority(), &[format!("http://{}", mirror.authority())], me.clone());
    put_image(&both, Some(&tag("1")), "linux/amd64", &[&noise(1, 10)]);
    assert!(mirror.seen().is_empty(), "pushes go to the registry itself");
    both.document(&tag("1")).unwrap();
    assert!(!mirror.seen().is_empty());
    assert!(mirror.seen().iter().all(|(r, _)| r.header("authorization").is_none()));
    let (own, _) = repository_as(registry.authority(), "x", me);
    own.document(&tag("1")).unwrap();
}
