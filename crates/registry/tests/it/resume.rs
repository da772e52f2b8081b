//! Transfers that break, in both directions, and registries that want to be left alone for a while.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use sampan_base::Digest;
use sampan_registry::{Cancel, Credentials, RegistryConfig};
use sampan_testkit::http::{Reply, Request};
use sampan_testkit::proxy::{Fault, Proxy};
use sampan_testkit::registry::Registry;

use super::support::{name, noise, put_blob, registries, repository, tag, told, told_io};

super::cases! {
    a_cut_blob_goes_on_where_it_was_cut
    a_registry_without_ranges_is_read_again
    a_silent_connection_is_given_up_for_another
    corrupted_bytes_come_through_and_do_not_have_the_digest
    a_blob_that_never_comes_fails_with_its_place
    retry_after_is_waited_for
    one_that_asks_for_too_much_patience_fails
    servers_in_trouble_are_asked_again_with_longer_waits
    nobody_there_fails_at_once
    what_is_cancelled_ends
}

const LENGTH: usize = 300_000;

fn is_blob(r: &Request) -> bool {
    r.method == "GET" && r.target.contains("/blobs/sha256:")
}

/// Reads a blob of the registry through a proxy; answers how often it was asked for, and the waits.
fn read_through(
    decide: impl Fn(u32) -> Fault + Send + Sync + 'static,
) -> (std::io::Result<Vec<u8>>, Vec<Request>, Vec<Duration>) {
    let registry = Registry::default();
    let (direct, _) = repository(registry.authority(), "x");
    let blob = put_blob(&direct, &noise(1, LENGTH));
    let asked = AtomicU32::new(0);
    let proxy = Proxy::new(registry.authority(), move |r| {
        if is_blob(r) { decide(asked.fetch_add(1, Ordering::SeqCst)) } else { Fault::None }
    });
    let config =
        RegistryConfig { stall_timeout: Some(Duration::from_millis(300)), ..RegistryConfig::default() };
    let (registries, pace) = registries(config);
    let spoiled = registries
        .repository(&name(&proxy.authority(), "x"), &Credentials::Anonymous, &Cancel::default())
        .unwrap();
    let mut bytes = Vec::new();
    let read = spoiled.blob(&blob).unwrap().read_to_end(&mut bytes).map(|_| bytes);
    let requests = proxy.seen().into_iter().map(|(r, _)| r).filter(is_blob).collect();
    (read, requests, pace.waits())
}

fn ranges(requests: &[Request]) -> Vec<String> {
    requests.iter().map(|r| r.header("range").unwrap_or("-").to_owned()).collect()
}

fn a_cut_blob_goes_on_where_it_was_cut() {
    let (read, requests, waits) = read_through(|n| match n {
        0 => Fault::CutAnswer(100_000),
        1 => Fault::CutAnswer(50_000),
        2 => Fault::CutAnswer(1),
        _ => Fault::None,
    });
    assert_eq!(read.unwrap(), noise(1, LENGTH));
    assert_eq!(ranges(&requests), ["-", "bytes=100000-", "bytes=150000-", "bytes=150001-"]);
    assert!(waits.is_empty(), "each cut came after progress");
}

fn a_registry_without_ranges_is_read_again() {
    let (read, requests, _) =
        read_through(|n| if n == 0 { Fault::CutAnswer(123_456) } else { Fault::NoRange });
    assert_eq!(read.unwrap(), noise(1, LENGTH));
    assert_eq!(ranges(&requests), ["-", "bytes=123456-"]);
}

fn a_silent_connection_is_given_up_for_another() {
    let (read, requests, _) =
        read_through(|n| if n == 0 { Fault::StallAnswer(200_000) } else { Fault::None });
    assert_eq!(read.unwrap(), noise(1, LENGTH));
    assert_eq!(ranges(&requests), ["-", "bytes=200000-"]);
}

fn corrupted_bytes_come_through_and_do_not_have_the_digest() {
    let (read, _, _) = read_through(|_| Fault::CorruptAnswer(5));
    let read = read.unwrap();
    assert_ne!(Digest::of(&read), Digest::of(&noise(1, LENGTH)));
    assert_eq!(read.len(), LENGTH);
}

fn a_blob_that_never_comes_fails_with_its_place() {
    let (read, requests, waits) =
        read_through(|n| if n == 0 { Fault::CutAnswer(1000) } else { Fault::CutAnswer(0) });
    let error = told_io(read);
    assert!(error.contains("(at byte 1000 of 300000)") && error.contains("no answer"), "{error}");
    assert_eq!(requests.len(), 5);
    assert_eq!(waits.len(), 3, "{waits:?}");
}

fn failing(times: u32, reply: Reply) -> (Registry, Proxy) {
    let registry = Registry::default();
    let (direct, _) = repository(registry.authority(), "x");
    super::support::put_image(&direct, Some(&tag("1")), "linux/amd64", &[&noise(1, 10)]);
    let left = AtomicU32::new(times);
    let proxy = Proxy::new(registry.authority(), move |r| {
        let manifest = r.target.contains("/manifests/");
        let fails =
            manifest && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if fails { Fault::Answer(reply.clone()) } else { Fault::None }
    });
    (registry, proxy)
}

fn retry_after_is_waited_for() {
    let (_registry, proxy) = failing(2, Reply::status(429).header("retry-after", "7"));
    let (repository, pace) = repository(&proxy.authority(), "x");
    repository.document(&tag("1")).unwrap();
    assert_eq!(pace.waits(), [Duration::from_secs(7); 2]);
}

fn one_that_asks_for_too_much_patience_fails() {
    let (_registry, proxy) = failing(1, Reply::status(429).header("retry-after", "86400"));
    let (repository, pace) = repository(&proxy.authority(), "x");
    let error = told(repository.document(&tag("1")));
    assert!(error.contains("come back in 86400 s"), "{error}");
    assert!(pace.waits().is_empty());
}

fn servers_in_trouble_are_asked_again_with_longer_waits() {
    let (_registry, proxy) = failing(3, Reply::status(503));
    let (repository, pace) = repository(&proxy.authority(), "x");
    repository.document(&tag("1")).unwrap();
    assert_eq!(pace.waits(), [250, 500, 1000].map(Duration::from_millis));
    let (_registry, proxy) = failing(u32::MAX, Reply { status: 502, ..Reply::body("<b>Bad Gateway</b>") });
    let (repository, pace) = super::support::repository(&proxy.authority(), "x");
    let error = told(repository.document(&tag("1")));
    assert!(error.ends_with("the registry answered 502: <b>Bad Gateway</b>"), "{error}");
    assert_eq!(pace.waits().len(), 4);
}

fn nobody_there_fails_at_once() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (repository, pace) = repository(&free.to_string(), "x");
    let error = told(repository.document(&tag("1")));
    assert!(
        error.contains("cannot pull the manifest x:1") && error.contains("Connection refused"),
        "{error}"
    );
    assert!(pace.waits().is_empty());
}

fn what_is_cancelled_ends() {
    let registry = Registry::default();
    let (direct, _) = repository(registry.authority(), "x");
    let blob = put_blob(&direct, &noise(1, LENGTH));
    let proxy =
        Proxy::new(registry.authority(), |r| if is_blob(r) { Fault::StallAnswer(1000) } else { Fault::None });
    let cancel = Cancel::default();
    let (registries, _) = registries(RegistryConfig::default());
    let repository =
        registries.repository(&name(&proxy.authority(), "x"), &Credentials::Anonymous, &cancel).unwrap();
    let mut reader = repository.blob(&blob).unwrap();
    let read = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&read);
    let reading = std::thread::spawn(move || {
        let mut piece = [0; 500];
        loop {
            match reader.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(n) => drop(counted.fetch_add(n as u64, Ordering::SeqCst)),
                Err(error) => return Err(error),
            }
        }
    });
    // Only when it waits for bytes that never come.
    sampan_testkit::wait_until("the reader has what there is", || read.load(Ordering::SeqCst) == 1000);
    cancel.set();
    let error = told_io(reading.join().unwrap());
    assert!(error.contains("cancelled"), "{error}");
    let error = told(repository.document(&tag("1")));
    assert!(error.contains("cancelled"), "{error}");
}
