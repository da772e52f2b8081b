//! Blobs and manifests on their way to a registry.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use sampan_base::Digest;
use sampan_oci::image::media;
use sampan_registry::{UploadSource, Uploaded, Which};
use sampan_testkit::http::{Reply, Request, Server};
use sampan_testkit::proxy::{Fault, Proxy};
use sampan_testkit::registry::Registry;

use super::support::{descriptor, noise, put_image, repository, tag, told};

super::cases! {
    a_blob_is_sent_once
    a_blob_is_taken_from_another_repository
    a_mount_that_is_refused_becomes_an_upload
    a_cut_upload_goes_on_where_the_registry_is
    an_upload_that_the_registry_lost_begins_anew
    a_registry_that_refuses_one_piece_gets_many
    trouble_in_the_middle_is_waited_out
    a_refusal_is_told
    bytes_that_are_not_the_digest_are_refused
    a_source_that_ends_too_early_is_told
    a_manifest_must_arrive_as_it_was
}

const LENGTH: usize = 400_000;

fn is_put(r: &Request) -> bool {
    r.method == "PUT" && r.target.contains("/blobs/uploads/")
}

fn bodies(proxy: &Proxy) -> Vec<(String, u64)> {
    let all = proxy.seen().into_iter().filter(|(r, _)| matches!(r.method.as_str(), "PUT" | "PATCH"));
    all.map(|(r, sent)| (r.method, sent)).collect()
}

fn a_blob_is_sent_once() {
    let registry = Registry::default();
    let proxy = Proxy::new(registry.authority(), |_| Fault::None);
    let (repository, _) = repository(&proxy.authority(), "x");
    let bytes = noise(1, LENGTH);
    let blob = descriptor(media::LAYER, &bytes);
    let told = Mutex::new(Vec::new());
    let upload = || repository.upload(&blob, &bytes, &[], &|n| told.lock().unwrap().push(n)).unwrap();
    assert_eq!(upload(), Uploaded::Sent);
    assert_eq!(told.lock().unwrap().last(), Some(&(LENGTH as u64)));
    assert_eq!(upload(), Uploaded::There);
    assert_eq!(bodies(&proxy), [("PUT".to_owned(), LENGTH as u64)]);
    assert_eq!(repository.small_blob(&blob, 1 << 20).unwrap(), bytes);
}

fn a_blob_is_taken_from_another_repository() {
    let registry = Registry::default();
    let bytes = noise(1, LENGTH);
    let (first, _) = repository(registry.authority(), "first");
    let blob = super::support::put_blob(&first, &bytes);
    let proxy = Proxy::new(registry.authority(), |_| Fault::None);
    let (second, _) = repository(&proxy.authority(), "second");
    let from = ["elsewhere".to_owned(), "first".to_owned()];
    let uploaded = second.upload(&blob, &bytes, &from, &|_| ()).unwrap();
    assert_eq!(uploaded, Uploaded::Mounted { from: "first".to_owned() });
    assert_eq!(bodies(&proxy), []);
    assert!(second.has_blob(&blob.digest).unwrap());
}

fn a_mount_that_is_refused_becomes_an_upload() {
    let registry = Registry::default();
    let proxy = Proxy::new(registry.authority(), |r| {
        if r.target.contains("mount=") { Fault::Answer(Reply::status(405)) } else { Fault::None }
    });
    let (repository, _) = repository(&proxy.authority(), "x");
    let bytes = noise(1, 100);
    let blob = descriptor(media::LAYER, &bytes);
    let uploaded = repository.upload(&blob, &bytes, &["y".to_owned()], &|_| ()).unwrap();
    assert_eq!(uploaded, Uploaded::Sent);
}

/// A registry that takes uploads as the specification has it: what came of a cut request is kept. (docker-registry 2.8
/// forgets such uploads.)
fn keeping(stored: Arc<Mutex<Vec<u8>>>) -> Server {
    Server::new(move |r| {
        let mut stored = stored.lock().unwrap();
        let location = "/v2/x/blobs/uploads/1?state=2";
        let upload = r.target.starts_with(location);
        let whole = r.header("content-length").is_none_or(|l| l == r.body.len().to_string());
        match r.method.as_str() {
            _ if r.target == "/v2/" => Reply::default(),
            "POST" => Reply::status(202).header("location", location),
            "GET" if upload && !stored.is_empty() => Reply::status(204)
                .header("range", format!("0-{}", stored.len() - 1))
                .header("location", location),
            "PATCH" | "PUT" if upload => {
                let from = r.header("content-range").and_then(|c| c.split('-').next()?.parse().ok());
                if from.is_some_and(|from: usize| from != stored.len()) {
                    return Reply::status(416);
                }
                stored.extend(&r.body);
                match r.method.as_str() {
                    _ if !whole => Reply::status(500),
                    "PATCH" => Reply::status(202)
                        .header("location", location)
                        .header("range", format!("0-{}", stored.len() - 1)),
                    _ => Reply::status(201),
                }
            }
            _ => Reply::status(404),
        }
    })
}

fn a_cut_upload_goes_on_where_the_registry_is() {
    let stored: Arc<Mutex<Vec<u8>>> = Arc::default();
    let registry = keeping(Arc::clone(&stored));
    let cuts = AtomicU32::new(0);
    let proxy = Proxy::new(&registry.authority(), move |r| match r.method.as_str() {
        "PUT" | "PATCH" => match cuts.fetch_add(1, Ordering::SeqCst) {
            0 => Fault::CutRequest(150_000),
            1 => Fault::CutRequest(100_000),
            _ => Fault::None,
        },
        _ => Fault::None,
    });
    let (repository, pace) = repository(&proxy.authority(), "x");
    let bytes = noise(1, LENGTH);
    let blob = descriptor(media::LAYER, &bytes);
    assert_eq!(repository.upload(&blob, &bytes, &[], &|_| ()).unwrap(), Uploaded::Sent);
    assert_eq!(*stored.lock().unwrap(), bytes);
    let put = |n| ("PUT".to_owned(), n);
    let patch = |n| ("PATCH".to_owned(), n);
    assert_eq!(bodies(&proxy), [put(150_000), patch(100_000), patch(150_000), put(0)]);
    assert_eq!(pace.waits().len(), 2);
}

fn an_upload_that_the_registry_lost_begins_anew() {
    let registry = Registry::default();
    let cut = AtomicBool::new(true);
    let proxy = Proxy::new(registry.authority(), move |r| {
        if is_put(r) && cut.swap(false, Ordering::SeqCst) {
            return Fault::CutRequest(150_000);
        }
        Fault::None
    });
    let (repository, _) = repository(&proxy.authority(), "x");
    let bytes = noise(1, LENGTH);
    let blob = descriptor(media::LAYER, &bytes);
    assert_eq!(repository.upload(&blob, &bytes, &[], &|_| ()).unwrap(), Uploaded::Sent);
    assert_eq!(bodies(&proxy), [("PUT".to_owned(), 150_000), ("PUT".to_owned(), LENGTH as u64)]);
}

fn a_registry_that_refuses_one_piece_gets_many() {
    const LONG: usize = 40 << 20;
    let registry = Registry::default();
    let proxy = Proxy::new(registry.authority(), |r| {
        let length: usize = r.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
        if length > 20 << 20 { Fault::Answer(Reply::status(413)) } else { Fault::None }
    });
    let (repository, _) = repository(&proxy.authority(), "x");
    let bytes = vec![7; LONG];
    let blob = descriptor(media::LAYER, &bytes);
    assert_eq!(repository.upload(&blob, &bytes, &[], &|_| ()).unwrap(), Uploaded::Sent);
    let sent: Vec<u64> = bodies(&proxy).into_iter().map(|(_, n)| n).collect();
    assert_eq!(sent, [0, 16 << 20, 16 << 20, 8 << 20, 0]);
    assert!(repository.has_blob(&blob.digest).unwrap());
}

fn trouble_in_the_middle_is_waited_out() {
    let registry = Registry::default();
    let tries = AtomicU32::new(0);
    let proxy = Proxy::new(registry.authority(), move |r| {
        if is_put(r) && tries.fetch_add(1, Ordering::SeqCst) < 2 {
            return Fault::Answer(Reply::status(503).header("retry-after", "3"));
        }
        Fault::None
    });
    let (repository, pace) = repository(&proxy.authority(), "x");
    let bytes = noise(1, LENGTH);
    let blob = descriptor(media::LAYER, &bytes);
    assert_eq!(repository.upload(&blob, &bytes, &[], &|_| ()).unwrap(), Uploaded::Sent);
    assert_eq!(pace.waits(), [std::time::Duration::from_secs(3); 2]);
}

fn a_refusal_is_told() {
    let registry = Registry::default();
    let proxy = Proxy::new(registry.authority(), |r| {
        let body = r#"{"errors":[{"code":"DENIED","message":"quota"}]}"#;
        if is_put(r) { Fault::Answer(Reply { status: 403, ..Reply::body(body) }) } else { Fault::None }
    });
    let (repository, pace) = repository(&proxy.authority(), "x");
    let bytes = noise(1, 100);
    let blob = descriptor(media::LAYER, &bytes);
    let error = told(repository.upload(&blob, &bytes, &[], &|_| ()));
    assert!(error.contains("cannot push the blob") && error.contains("403: DENIED (quota)"), "{error}");
    assert!(pace.waits().is_empty());
}

fn bytes_that_are_not_the_digest_are_refused() {
    let registry = Registry::default();
    let (repository, _) = repository(registry.authority(), "x");
    let mut blob = descriptor(media::LAYER, &noise(1, 100));
    blob.digest = Digest::of(b"something else");
    let error = told(repository.upload(&blob, &noise(1, 100), &[], &|_| ()));
    assert!(error.contains("DIGEST_INVALID"), "{error}");
}

fn a_source_that_ends_too_early_is_told() {
    struct Short;
    impl UploadSource for Short {
        fn open_at(&self, _: u64) -> std::io::Result<Box<dyn std::io::Read + Send + '_>> {
            Ok(Box::new(&b"short"[..]))
        }
    }
    let registry = Registry::default();
    let (repository, _) = repository(registry.authority(), "x");
    let blob = descriptor(media::LAYER, &noise(1, 100));
    let error = told(repository.upload(&blob, &Short, &[], &|_| ()));
    assert!(error.contains("shorter than it should be"), "{error}");
}

fn a_manifest_must_arrive_as_it_was() {
    let registry = Registry::default();
    let (direct, _) = repository(registry.authority(), "x");
    put_image(&direct, Some(&tag("1")), "linux/amd64", &[&noise(1, 10)]);
    let manifest = direct.document(&tag("1")).unwrap();
    let proxy = Proxy::new(registry.authority(), |r| {
        let other = Digest::of(b"other").to_string();
        let stored = Reply::status(201).header("docker-content-digest", other);
        if r.method == "PUT" { Fault::Answer(stored) } else { Fault::None }
    });
    let (repository, _) = repository(&proxy.authority(), "x");
    let put = repository.put_document(&Which::Tag("2".to_owned()), media::MANIFEST, &manifest.bytes);
    let error = told(put);
    assert!(error.contains("the registry stored sha256:"), "{error}");
}
