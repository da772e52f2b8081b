//! Who we are: passwords, tokens, and tokens that end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sampan_registry::{Cancel, Credentials, RegistryConfig, Secret};
use sampan_testkit::http::Reply;
use sampan_testkit::proxy::{Fault, Proxy};
use sampan_testkit::registry::{IDENTITY, PASSWORD, Registry, Setup, TokenServer, USER};

use super::support::{noise, put_image, registries, repository, repository_as, tag, told};

super::cases! {
    a_password_opens_and_a_wrong_one_does_not
    tokens_are_fetched_for_what_is_done
    an_identity_token_stands_for_the_password
    a_token_that_ends_is_renewed_before
    a_token_that_is_refused_in_the_middle_is_replaced
    no_error_shows_a_secret
}

fn me() -> Credentials {
    Credentials::password(USER, PASSWORD)
}

fn a_password_opens_and_a_wrong_one_does_not() {
    let registry = Registry::new(Setup { password: true, ..Setup::default() });
    let (mine, _) = repository_as(registry.authority(), "x", me());
    put_image(&mine, Some(&tag("1")), "linux/amd64", &[&noise(1, 10)]);
    let (wrong, pace) = repository_as(registry.authority(), "x", Credentials::password(USER, "guess"));
    let error = told(wrong.document(&tag("1")));
    assert!(error.contains("401") && error.contains("not accepted"), "{error}");
    let (nobody, _) = repository(registry.authority(), "x");
    let error = told(nobody.document(&tag("1")));
    assert!(error.contains("UNAUTHORIZED") && error.contains("`sampan login`"), "{error}");
    assert!(pace.waits().is_empty());
    let (all, _) = registries(RegistryConfig::default());
    assert_eq!(all.login(registry.authority(), &me(), &Cancel::default()).unwrap(), None);
    let error =
        told(all.login(registry.authority(), &Credentials::password(USER, "guess"), &Cancel::default()));
    assert!(error.contains("cannot log in") && error.contains("401"), "{error}");
}

struct Tokens {
    server: TokenServer,
    registry: Registry,
    _directory: tempfile::TempDir,
}

fn tokens() -> Tokens {
    let directory = tempfile::tempdir().unwrap();
    let server = TokenServer::new(directory.path());
    let registry = Registry::new(Setup { tokens: Some(server.setup()), ..Setup::default() });
    Tokens { server, registry, _directory: directory }
}

fn tokens_are_fetched_for_what_is_done() {
    let tokens = tokens();
    let (mine, _) = repository_as(tokens.registry.authority(), "a/b", me());
    put_image(&mine, Some(&tag("1")), "linux/amd64", &[&noise(1, 10), &noise(2, 10)]);
    mine.document(&tag("1")).unwrap();
    let scopes: Vec<_> = tokens.server.seen().iter().flat_map(|r| r.parameters("scope")).collect();
    assert_eq!(scopes, ["repository:a/b:pull,push", "repository:a/b:pull"], "one token for all of a push");
    assert_eq!(tokens.server.seen()[0].parameters("account"), [USER]);
    assert_eq!(tokens.server.seen()[0].parameters("service"), ["sampan-test-registry"]);
    // Anybody may pull; who may not push is told so.
    let (nobody, _) = repository(tokens.registry.authority(), "a/b");
    nobody.find(&tag("1"), &"linux/amd64".parse().unwrap()).unwrap();
    let error = told(nobody.put_document(&tag("2"), "application/vnd.oci.image.manifest.v1+json", b"{}"));
    assert!(error.contains("cannot push the manifest a/b:2") && error.contains("`sampan login`"), "{error}");
    let (wrong, _) = repository_as(tokens.registry.authority(), "a/b", Credentials::password(USER, "guess"));
    let error = told(wrong.document(&tag("1")));
    assert!(error.contains("UNAUTHORIZED (who?)"), "{error}");
}

fn an_identity_token_stands_for_the_password() {
    let tokens = tokens();
    let (all, _) = registries(RegistryConfig::default());
    let authority = tokens.registry.authority();
    let identity = all.login(authority, &me(), &Cancel::default()).unwrap();
    assert_eq!(identity, Some(Secret::new(IDENTITY)));
    let (mine, _) = repository_as(authority, "x", Credentials::Identity(identity.unwrap()));
    put_image(&mine, Some(&tag("1")), "linux/amd64", &[&noise(1, 10)]);
    let asked = tokens.server.seen().pop().unwrap();
    assert_eq!((asked.method.as_str(), asked.header("authorization")), ("POST", None));
    assert_eq!(asked.parameters("grant_type"), ["refresh_token"]);
    let bad = Credentials::Identity(Secret::new("stale"));
    let error = told(all.login(authority, &bad, &Cancel::default()));
    assert!(error.contains("401"), "{error}");
}

fn a_token_that_ends_is_renewed_before() {
    let tokens = tokens();
    let (mine, pace) = repository_as(tokens.registry.authority(), "x", me());
    let ask = || mine.head(&tag("1")).unwrap();
    ask();
    ask();
    assert_eq!(tokens.server.seen().len(), 1);
    pace.move_clock(289);
    ask();
    assert_eq!(tokens.server.seen().len(), 1);
    pace.move_clock(2);
    ask();
    assert_eq!(tokens.server.seen().len(), 2, "ten seconds before its end it is renewed");
    tokens.server.set_life(u64::MAX);
    pace.move_clock(1000);
    ask();
}

fn a_token_that_is_refused_in_the_middle_is_replaced() {
    let tokens = tokens();
    let refuse = Arc::new(AtomicBool::new(false));
    let once = Arc::clone(&refuse);
    let realm = tokens.server.setup().0;
    let proxy = Proxy::new(tokens.registry.authority(), move |r| {
        let get = r.target.contains("/blobs/sha256:") && r.method == "GET";
        if (get || r.method == "PUT") && once.swap(false, Ordering::SeqCst) {
            let challenge = format!(
                r#"Bearer realm="{realm}",service="sampan-test-registry",scope="repository:x:pull",error="invalid_token""#
            );
            return Fault::Answer(Reply::status(401).header("www-authenticate", challenge));
        }
        Fault::None
    });
    let (mine, _) = repository_as(&proxy.authority(), "x", me());
    let blob = super::support::put_blob(&mine, &noise(1, 10));
    mine.small_blob(&blob, 100).unwrap();
    let before = tokens.server.seen().len();
    refuse.store(true, Ordering::SeqCst);
    mine.small_blob(&blob, 100).unwrap();
    assert_eq!(tokens.server.seen().len(), before + 1);
    // In the middle of an upload, too, whose bytes then go once more.
    refuse.store(true, Ordering::SeqCst);
    super::support::put_blob(&mine, &noise(2, 10));
    assert_eq!(tokens.server.seen().len(), before + 2);
}

fn no_error_shows_a_secret() {
    let registry = Registry::new(Setup { password: true, ..Setup::default() });
    let wrong = Credentials::password(USER, "hunter3");
    let (repository, _) = repository_as(registry.authority(), "x", wrong);
    let error = repository.document(&tag("1")).unwrap_err();
    let shown = format!("{error:?} {repository:?} {}", sampan_base::chain(&error));
    // In base64, too: `me:hunter3`.
    assert!(!shown.contains("hunter3") && !shown.contains("bWU6aHVudGVyMw"), "{shown}");
}
