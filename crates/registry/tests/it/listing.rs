//! Tags page by page, and what refers to a manifest.

use sampan_base::Digest;
use sampan_oci::image::{Descriptor, Index, media};
use sampan_testkit::http::{Reply, Server};
use sampan_testkit::registry::Registry;
use serde_json::json;

use super::support::{noise, put_image, repository, tag, told};

super::cases! {
    all_pages_of_tags_are_read
    a_listing_that_goes_in_circles_ends
    a_repository_that_is_not_there_is_told
    referrers_come_from_the_api
    referrers_come_from_a_tag_where_there_is_no_api
}

fn all_pages_of_tags_are_read() {
    let server = Server::new(|r| match r.target.as_str() {
        "/v2/x/tags/list?n=1000" => Reply::body(r#"{"tags":["a","b"]}"#)
            .header("link", r#"</v2/x/tags/list?last=b&n=1000>; rel="next""#),
        "/v2/x/tags/list?last=b&n=1000" => Reply::body(r#"{"tags":["c"]}"#),
        "/v2/" => Reply::default(),
        _ => Reply::status(400),
    });
    let (fake, _) = repository(&server.authority(), "x");
    assert_eq!(fake.tags().unwrap(), ["a", "b", "c"]);
    let registry = Registry::default();
    let (real, _) = repository(registry.authority(), "x");
    for name in ["1", "2"] {
        put_image(&real, Some(&tag(name)), "linux/amd64", &[&noise(1, 10)]);
    }
    let mut tags = real.tags().unwrap();
    tags.sort();
    assert_eq!(tags, ["1", "2"]);
}

fn a_listing_that_goes_in_circles_ends() {
    let server = Server::new(|r| match r.target.as_str() {
        "/v2/" => Reply::default(),
        _ => Reply::body(r#"{"tags":["a"]}"#).header("link", "</v2/x/tags/list?n=1000>; rel=next"),
    });
    let (repository, _) = repository(&server.authority(), "x");
    let error = told(repository.tags());
    assert!(error.contains("more than 1000 pages"), "{error}");
}

fn a_repository_that_is_not_there_is_told() {
    let registry = Registry::default();
    let (repository, _) = repository(registry.authority(), "nowhere");
    let error = told(repository.tags());
    assert!(error.contains("cannot list the tags of nowhere") && error.contains("NAME_UNKNOWN"), "{error}");
}

fn entry(kind: &str, seed: u8) -> Descriptor {
    let mut entry = Descriptor::new(media::MANIFEST, Digest::of(&[seed]), 1);
    entry.other.insert("artifactType".to_owned(), json!(kind));
    entry
}

fn index(manifests: Vec<Descriptor>) -> Vec<u8> {
    serde_json::to_vec(&Index {
        schema_version: 2,
        media_type: Some(media::INDEX.to_owned()),
        manifests,
        annotations: Default::default(),
        other: Default::default(),
    })
    .unwrap()
}

fn referrers_come_from_the_api() {
    let body = index(vec![entry("a/signature", 1), entry("a/sbom", 2)]);
    let subject = Digest::of(b"subject");
    let path = format!("/v2/x/referrers/{subject}");
    let server = Server::new(move |r| match r.target.split('?').next().unwrap() {
        "/v2/" => Reply::default(),
        p if p == path => Reply::body(body.clone()).header("content-type", media::INDEX),
        _ => Reply::status(404),
    });
    let (repository, _) = repository(&server.authority(), "x");
    assert_eq!(repository.referrers(&subject, None).unwrap().len(), 2);
    // The server does not filter; we do.
    assert_eq!(repository.referrers(&subject, Some("a/sbom")).unwrap(), [entry("a/sbom", 2)]);
}

fn referrers_come_from_a_tag_where_there_is_no_api() {
    let registry = Registry::default();
    let (repository, _) = repository(registry.authority(), "x");
    let subject = put_image(&repository, Some(&tag("1")), "linux/amd64", &[&noise(1, 10)]);
    assert_eq!(repository.referrers(&subject.digest, None).unwrap(), []);
    let signature = put_image(&repository, None, "linux/amd64", &[&noise(2, 10)]);
    let mut listed = Descriptor::new(media::MANIFEST, signature.digest, signature.size);
    listed.other.insert("artifactType".to_owned(), json!("a/signature"));
    let tag = tag(&format!("sha256-{}", subject.digest.hex()));
    repository.put_document(&tag, media::INDEX, &index(vec![listed.clone()])).unwrap();
    assert_eq!(repository.referrers(&subject.digest, None).unwrap(), [listed]);
}
