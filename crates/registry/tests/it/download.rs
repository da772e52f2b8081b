//! Plain downloads.

use std::io::Read;

use sampan_registry::{Cancel, Download, Downloaded, Known, download};
use sampan_testkit::http::{Reply, Server};

use super::support::{told, told_io};

super::cases! {
    a_file_comes_with_what_is_known_of_it
    what_is_known_need_not_come_again
    limits_and_lengths_hold
    what_is_no_download_is_told
}

fn get(url: &str, limit: u64) -> Download {
    match download(url, &Known::default(), limit, &Cancel::default()).unwrap() {
        Downloaded::New(download) => download,
        Downloaded::Unchanged => panic!("unchanged"),
    }
}

fn a_file_comes_with_what_is_known_of_it() {
    let server = Server::new(|r| match r.target.as_str() {
        "/a" => Reply::status(302).header("location", "/b?x=1"),
        "/b?x=1" => Reply::body("hello")
            .header("etag", "\"1\"")
            .header("last-modified", "Sat, 21 Nov 2026 10:00:00 GMT")
            .header("content-disposition", "attachment; filename=c"),
        _ => Reply::status(404),
    });
    let mut file = get(&format!("http://{}/a", server.authority()), 100);
    assert_eq!(file.url, format!("http://{}/b?x=1", server.authority()));
    assert_eq!((file.length, file.etag.as_deref()), (Some(5), Some("\"1\"")));
    assert_eq!(file.last_modified.as_deref(), Some("Sat, 21 Nov 2026 10:00:00 GMT"));
    assert_eq!(file.content_disposition.as_deref(), Some("attachment; filename=c"));
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
}

fn what_is_known_need_not_come_again() {
    let server = Server::new(|r| match r.header("if-none-match") {
        Some("\"1\"") => Reply::status(304),
        _ => Reply::body("x"),
    });
    let known = Known { etag: Some("\"1\"".to_owned()), last_modified: None };
    let url = format!("http://{}/", server.authority());
    let again = download(&url, &known, 10, &Cancel::default()).unwrap();
    assert!(matches!(again, Downloaded::Unchanged));
}

fn limits_and_lengths_hold() {
    let server = Server::new(|r| match r.target.as_str() {
        "/short" => Reply { length: Some(100), ..Reply::body("only this") },
        _ => Reply::body(vec![0; 1000]),
    });
    let url = |path: &str| format!("http://{}/{path}", server.authority());
    let error = told(download(&url("long"), &Known::default(), 999, &Cancel::default()));
    assert!(error.contains("longer than 999 bytes"), "{error}");
    assert_eq!(get(&url("long"), 1000).read_to_end(&mut Vec::new()).unwrap(), 1000);
    told_io(get(&url("short"), 1000).read_to_end(&mut Vec::new()));
}

fn what_is_no_download_is_told() {
    let server = Server::new(|_| Reply { status: 404, ..Reply::body("gone") });
    let url = format!("http://{}/f?token=secret", server.authority());
    for (url, expected) in [
        (url.as_str(), "the registry answered 404: gone"),
        ("ftp://x/y", "neither http:// nor https://"),
        ("http://me:secret@x/y", "is not an address"),
        ("http://", "is not an address"),
    ] {
        let error = told(download(url, &Known::default(), 10, &Cancel::default()));
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}
