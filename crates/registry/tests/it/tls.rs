//! Certificates, and registries that have none.

use sampan_registry::{Cancel, Credentials, Registries, RegistryConfig, Repository};
use sampan_testkit::registry::{Registry, Setup, Tls};

use super::support::{name, noise, put_image, tag, told};

super::cases! {
    the_authority_of_certs_d_is_believed_and_no_other
    a_client_shows_its_certificate
    loopback_and_insecure_registries_need_none
    plain_http_is_for_insecure_registries_only
    a_damaged_directory_is_told
    a_registry_that_changes_to_tls_is_found_again
}

fn at(host: &str, config: RegistryConfig) -> Repository {
    Registries::new(config).repository(&name(host, "x"), &Credentials::Anonymous, &Cancel::default()).unwrap()
}

/// The registry by a name that is not loopback to us, so that its certificate counts: `localhost.` is not in it, so a
/// name of the host's own is used through its address.
fn checked(registry: &Registry, config: RegistryConfig) -> Repository {
    let port = registry.authority().rsplit_once(':').unwrap().1;
    at(&format!("127.0.0.1:{port}"), config)
}

fn certs_d(
    registry: &Registry,
    directory: &std::path::Path,
    files: &[(&str, &std::path::Path)],
) -> RegistryConfig {
    let own = directory.join("certs.d").join(registry.authority());
    std::fs::create_dir_all(&own).unwrap();
    for (name, from) in files {
        std::fs::copy(from, own.join(name)).unwrap();
    }
    RegistryConfig { certificates: vec![directory.join("certs.d")], ..RegistryConfig::default() }
}

fn the_authority_of_certs_d_is_believed_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let (right, wrong) = (Tls::new(&directory.path().join("a")), Tls::new(&directory.path().join("b")));
    let registry = Registry::new(Setup { tls: Some(right.clone()), ..Setup::default() });
    let good = certs_d(&registry, &directory.path().join("good"), &[("ca.crt", &right.authority)]);
    put_image(&checked(&registry, good), Some(&tag("1")), "linux/amd64", &[&noise(1, 10)]);
    let bad = certs_d(&registry, &directory.path().join("bad"), &[("ca.crt", &wrong.authority)]);
    let error = told(checked(&registry, bad).document(&tag("1")));
    assert!(error.contains("no secure connection") && error.contains("certs.d"), "{error}");
}

fn a_client_shows_its_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let tls = Tls { clients: true, ..Tls::new(directory.path()) };
    let registry = Registry::new(Setup { tls: Some(tls.clone()), ..Setup::default() });
    let ca = ("ca.crt", tls.authority.as_path());
    let client =
        [("client.cert", tls.client_certificate.as_path()), ("client.key", tls.client_key.as_path())];
    let with = certs_d(&registry, &directory.path().join("with"), &[ca, client[0], client[1]]);
    put_image(&checked(&registry, with), Some(&tag("1")), "linux/amd64", &[&noise(1, 10)]);
    let without = certs_d(&registry, &directory.path().join("without"), &[ca]);
    let error = told(checked(&registry, without).document(&tag("1")));
    assert!(error.contains("no secure connection"), "{error}");
}

fn loopback_and_insecure_registries_need_none() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new(Setup { tls: Some(Tls::new(directory.path())), ..Setup::default() });
    put_image(
        &checked(&registry, RegistryConfig::default()),
        Some(&tag("1")),
        "linux/amd64",
        &[&noise(1, 10)],
    );
}

/// A name for this host that is not a loopback address's, if there is one.
fn other_name() -> Option<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: it only tells which address would be used.
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then(|| address.to_string())
}

fn plain_http_is_for_insecure_registries_only() {
    // A server of plain HTTP on all addresses, reached by one that is not loopback.
    let Some(host) = other_name() else { return };
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let mut start = [0; 16];
            let n = std::io::Read::read(&mut stream, &mut start).unwrap_or(0);
            let status =
                if start[..n].starts_with(b"GET /v2/") { "404 Not Found" } else { "400 Bad Request" };
            let text = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = std::io::Write::write_all(&mut stream, text.as_bytes());
        }
    });
    let registry = format!("{host}:{port}");
    let roots = RegistryConfig::default();
    let error = told(at(&registry, roots).document(&tag("1")));
    let expected = error.contains("list it as `insecure`") || error.contains("ca-certificates");
    assert!(expected, "{error}");
    let insecure = RegistryConfig { insecure: vec![registry.clone()], ..RegistryConfig::default() };
    let error = told(at(&registry, insecure).document(&tag("1")));
    assert!(error.contains("http://") && error.contains("404"), "{error}");
}

fn a_damaged_directory_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let tls = Tls::new(directory.path());
    let registry = Registry::new(Setup { tls: Some(tls.clone()), ..Setup::default() });
    let lone = certs_d(&registry, &directory.path().join("lone"), &[("client.key", &tls.client_key)]);
    let error = told(checked(&registry, lone).document(&tag("1")));
    assert!(error.contains("client.key") && error.contains("no `.cert`"), "{error}");
    std::fs::write(directory.path().join("junk"), "no certificate").unwrap();
    let junk = directory.path().join("junk");
    let empty = certs_d(&registry, &directory.path().join("empty"), &[("ca.crt", &junk)]);
    let error = told(checked(&registry, empty).document(&tag("1")));
    assert!(error.contains("there is no certificate in"), "{error}");
}

fn a_registry_that_changes_to_tls_is_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let plain = Registry::default();
    let secure = Registry::new(Setup { tls: Some(Tls::new(directory.path())), ..Setup::default() });
    // One address whose server is another one the second time.
    let tls = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (now, targets) =
        (std::sync::Arc::clone(&tls), [plain.authority().to_owned(), secure.authority().to_owned()]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let target = &targets[usize::from(now.load(std::sync::atomic::Ordering::SeqCst))];
            let server = std::net::TcpStream::connect(target).unwrap();
            for (mut from, mut to) in
                [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
            {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    let registries = Registries::new(RegistryConfig::default());
    let ask = || {
        let repository =
            registries.repository(&name(&address, "x"), &Credentials::Anonymous, &Cancel::default()).unwrap();
        told(repository.document(&tag("1")))
    };
    assert!(ask().starts_with("http://"));
    tls.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(ask().starts_with("https://"));
}
