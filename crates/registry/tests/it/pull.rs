//! What a name leads to, and that nothing else is taken for it.

use std::io::Read;

use sampan_base::Digest;
use sampan_oci::image::{Index, Platform, media};
use sampan_registry::Which;
use sampan_testkit::http::{Reply, Server};
use sampan_testkit::proxy::{Fault, Proxy};
use sampan_testkit::registry::Registry;

use super::support::{descriptor, noise, put_image, repository, tag, told, told_io};

super::cases! {
    an_index_leads_to_the_platforms_image
    a_manifest_comes_by_tag_and_by_digest
    what_is_not_there_is_told_by_name
    another_manifest_than_was_asked_for_is_refused
    a_small_blob_that_is_not_its_digest_is_refused
    a_blob_of_another_size_is_refused
    documents_have_limits
    a_circle_of_redirects_ends
    a_redirect_gets_no_credentials
}

fn an_index_leads_to_the_platforms_image() {
    let registry = Registry::default();
    let (repository, _) = repository(registry.authority(), "many");
    let layers = [noise(1, 1000), noise(2, 1000)];
    let manifests = vec![
        put_image(&repository, None, "linux/arm64", &[&layers[0]]),
        put_image(&repository, None, "linux/amd64", &[&layers[1]]),
    ];
    let index = Index {
        schema_version: 2,
        media_type: Some(media::DOCKER_MANIFEST_LIST.to_owned()),
        manifests: manifests.clone(),
        annotations: Default::default(),
        other: Default::default(),
    };
    let bytes = serde_json::to_vec(&index).unwrap();
    let digest = repository.put_document(&tag("1"), media::DOCKER_MANIFEST_LIST, &bytes).unwrap();
    for (n, platform) in ["linux/arm64", "linux/amd64"].into_iter().enumerate() {
        let platform: Platform = platform.parse().unwrap();
        for which in [tag("1"), Which::Digest(digest.clone()), Which::Digest(manifests[n].digest.clone())] {
            let found = repository.find(&which, &platform).unwrap();
            assert_eq!(found.manifest.descriptor.digest, manifests[n].digest);
            assert_eq!(found.parsed.layers[0].digest, Digest::of(&layers[n]));
        }
        assert_eq!(repository.find(&tag("1"), &platform).unwrap().root.digest, digest);
    }
    let error = told(repository.find(&tag("1"), &"linux/s390x".parse().unwrap()));
    assert!(error.contains("no image for linux/s390x; there are: linux/arm64, linux/amd64"), "{error}");
}

fn a_manifest_comes_by_tag_and_by_digest() {
    let registry = Registry::default();
    let (repository, _) = repository(registry.authority(), "a/b");
    let put = put_image(&repository, Some(&tag("v1")), "linux/amd64", &[&noise(1, 10)]);
    let by_tag = repository.document(&tag("v1")).unwrap();
    assert_eq!(by_tag, repository.document(&Which::Digest(put.digest.clone())).unwrap());
    assert_eq!(by_tag.descriptor.media_type, media::MANIFEST);
    let head = repository.head(&tag("v1")).unwrap().unwrap();
    assert_eq!((head.digest, head.size), (put.digest, put.size));
    assert_eq!(repository.head(&tag("v2")).unwrap(), None);
}

fn what_is_not_there_is_told_by_name() {
    let registry = Registry::default();
    let (repository, pace) = repository(registry.authority(), "a/b");
    let error = told(repository.document(&tag("v9")));
    let expected = format!(
        "http://{}: cannot pull the manifest a/b:v9: the registry answered 404: MANIFEST_UNKNOWN (manifest unknown)",
        registry.authority()
    );
    assert_eq!(error, expected);
    let blob = descriptor(media::LAYER, b"x");
    let error = told(repository.blob(&blob));
    assert!(error.contains("BLOB_UNKNOWN"), "{error}");
    assert!(pace.waits().is_empty(), "a no is no reason to try again");
}

fn another_manifest_than_was_asked_for_is_refused() {
    let registry = Registry::default();
    let (repository, _) = repository(registry.authority(), "x");
    let put = put_image(&repository, Some(&tag("1")), "linux/amd64", &[&noise(1, 10)]);
    // Its JSON stays whole: only the digest can tell.
    let proxy = Proxy::new(registry.authority(), |r| {
        if r.target.contains("/manifests/") { Fault::CorruptAnswer(40) } else { Fault::None }
    });
    let (spoiled, _) = super::support::repository(&proxy.authority(), "x");
    for which in [Which::Digest(put.digest.clone()), tag("1")] {
        let error = told(spoiled.document(&which));
        assert!(error.contains("content is wrong") && error.contains(put.digest.as_str()), "{error}");
    }
}

fn a_small_blob_that_is_not_its_digest_is_refused() {
    let registry = Registry::default();
    let (repository, _) = repository(registry.authority(), "x");
    let blob = super::support::put_blob(&repository, &noise(1, 100));
    let proxy = Proxy::new(registry.authority(), |_| Fault::CorruptAnswer(50));
    let (spoiled, _) = super::support::repository(&proxy.authority(), "x");
    let error = told(spoiled.small_blob(&blob, 1000));
    assert!(error.contains(blob.digest.as_str()) && error.contains("content is wrong"), "{error}");
    let error = told(repository.small_blob(&blob, 99));
    assert!(error.contains("longer than 99 bytes"), "{error}");
}

fn a_blob_of_another_size_is_refused() {
    let registry = Registry::default();
    let (repository, _) = repository(registry.authority(), "x");
    let mut blob = super::support::put_blob(&repository, &noise(1, 100));
    for size in [99, 101] {
        blob.size = size;
        let error = told(repository.blob(&blob));
        assert!(error.contains(&format!("a blob of 100 bytes where the manifest says {size}")), "{error}");
    }
    // A server that says no length is found out at the end.
    let endless = Server::new(|r| match r.target.as_str() {
        "/v2/" => Reply::default(),
        _ => Reply { length: None, ..Reply::body(noise(1, 100)) }.header("transfer-encoding", "identity"),
    });
    blob.size = 50;
    let (repository, _) = super::support::repository(&endless.authority(), "x");
    let read = repository.blob(&blob).map(|mut b| b.read_to_end(&mut Vec::new()));
    let error = match read {
        Err(error) => sampan_base::chain(&error),
        Ok(read) => told_io(read),
    };
    assert!(error.contains("a blob of "), "{error}");
}

fn documents_have_limits() {
    let long = vec![b' '; 5 << 20];
    let server = Server::new(move |r| match r.target.as_str() {
        "/v2/" => Reply::default(),
        _ => Reply::body(long.clone()),
    });
    let (repository, _) = repository(&server.authority(), "x");
    let error = told(repository.document(&tag("1")));
    assert!(error.contains("longer than 4194304 bytes"), "{error}");
}

fn a_circle_of_redirects_ends() {
    let server = Server::new(|r| match r.target.as_str() {
        "/v2/" => Reply::default(),
        _ => Reply::status(307).header("location", "/v2/x/manifests/1"),
    });
    let (repository, _) = repository(&server.authority(), "x");
    let error = told(repository.document(&tag("1")));
    assert!(error.contains("more than 10 redirects"), "{error}");
}

fn a_redirect_gets_no_credentials() {
    let blob = noise(1, 100);
    let content = blob.clone();
    let elsewhere = Server::new(move |_| Reply::body(content.clone()));
    let target = format!("http://{}/blob", elsewhere.authority());
    let registry = Registry::new(sampan_testkit::registry::Setup { password: true, ..Default::default() });
    let proxy = Proxy::new(registry.authority(), move |r| {
        if r.target.contains("/blobs/sha256:") && r.method == "GET" {
            Fault::Answer(Reply::status(307).header("location", target.clone()))
        } else {
            Fault::None
        }
    });
    let me = sampan_registry::Credentials::password("me", "hunter2");
    let (repository, _) = super::support::repository_as(&proxy.authority(), "x", me);
    let descriptor = super::support::put_blob(&repository, &blob);
    assert_eq!(repository.small_blob(&descriptor, 1000).unwrap(), blob);
    let seen = elsewhere.seen();
    assert_eq!((seen.len(), seen[0].header("authorization")), (1, None));
    let asked = proxy.seen().into_iter().find(|(r, _)| r.method == "GET" && r.target.contains("/blobs/"));
    assert!(asked.unwrap().0.header("authorization").is_some());
}
