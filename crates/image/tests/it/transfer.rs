//! Images from one store to another, as through a registry.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Mutex;

use sampan_base::{Class, Digest};
use sampan_image::{BlobSource, Image, LayerProgress, Progress, Store};
use sampan_oci::image::{Descriptor, Manifest, media};

use crate::support::{TestStore, tar, tree};

/// A registry in memory, that counts what it gives.
#[derive(Default)]
struct Blobs {
    blobs: BTreeMap<Digest, Vec<u8>>,
    opened: Mutex<Vec<Digest>>,
}

impl BlobSource for Blobs {
    fn open(&self, blob: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        self.opened.lock().unwrap().push(blob.digest.clone());
        let bytes = self.blobs.get(&blob.digest).cloned();
        Ok(Box::new(io::Cursor::new(bytes.ok_or(io::ErrorKind::NotFound)?)))
    }
}

impl Blobs {
    /// What a push of the image brings; answers its manifest and configuration.
    fn push(&mut self, store: &Store, image: &Image) -> (Vec<u8>, Vec<u8>) {
        let sendable = store.to_send(&image.id).unwrap();
        assert_eq!(Digest::of(&sendable.manifest), sendable.manifest_descriptor.digest);
        let read = |d: &Descriptor| {
            let mut bytes = Vec::new();
            store.open_blob(&d.digest).unwrap().read_to_end(&mut bytes).unwrap();
            assert_eq!((bytes.len() as u64, Digest::of(&bytes)), (d.size, d.digest.clone()));
            bytes
        };
        for layer in &sendable.layers {
            assert_eq!(layer.media_type, media::LAYER_GZIP);
            self.blobs.insert(layer.digest.clone(), read(layer));
        }
        (sendable.manifest.clone(), read(&sendable.config))
    }

    fn opened(&self) -> usize {
        std::mem::take(&mut *self.opened.lock().unwrap()).len()
    }
}

/// The last state of each layer.
#[derive(Default)]
struct Seen(Mutex<BTreeMap<Digest, LayerProgress>>);

impl Progress for Seen {
    fn layer(&self, layer: &Descriptor, state: LayerProgress) {
        self.0.lock().unwrap().insert(layer.digest.clone(), state);
    }
}

fn three_layers(test: &TestStore, last: &str) -> Image {
    let lease = test.lease();
    let mut layers = Vec::new();
    for listing in [
        "etc dir 750 1:2\netc/a file 600 3:4 = a\nlib dir\nlib/l file = l\nlink link = lib\nd dir\nd/x file = x",
        "etc/b file = b\nhard hard = lib/l\nd/.wh.x file =\nlib/.wh..wh..opq file =",
        last,
    ] {
        let parent = layers.last().map(|l: &sampan_image::Layer| l.chain_id.clone());
        layers
            .push(test.add_layer(&mut &*tar(listing), parent.as_ref(), &Default::default(), &lease).unwrap());
    }
    let mut config = sampan_oci::image::ImageConfig::for_host();
    config.author = last.to_owned();
    test.create_image(config, &layers, &["127.0.0.1:5000/a:1".parse().unwrap()]).unwrap()
}

fn contents(test: &TestStore, image: &Image) -> String {
    let lease = test.lease();
    tree(test.view(image.chain_id(), &lease).unwrap().rootfs())
}

#[test]
fn what_is_pushed_is_received_as_the_same_image() {
    let (here, mut there) = (TestStore::new(), Blobs::default());
    let image = three_layers(&here, "etc/c file = c\nnew/deep/f file = f");
    let before = here.files().len();
    let (manifest, config) = there.push(&here, &image);
    assert_eq!(here.files().len(), before, "the packed blobs are in the bare ones' place");
    assert_eq!(there.push(&here, &image).0, manifest, "the second push sends the same");

    let mut other = TestStore::new();
    let digest = Digest::of(&manifest);
    let tag: sampan_base::ImageRef = "127.0.0.1:5000/a:1".parse().unwrap();
    let names = [tag.clone(), tag.with_digest(&digest)];
    let seen = Seen::default();
    let received = other.receive(&manifest, &config, &names, &there, &seen).unwrap();
    assert_eq!((&received.id, &received.manifest, &received.names[..]), (&image.id, &digest, &names[..1]));
    assert_eq!(received.digests, names[1..]);
    assert_eq!(there.opened(), 3);
    assert!(seen.0.into_inner().unwrap().values().all(|s| *s == LayerProgress::Done));
    assert_eq!(contents(&other, &received), contents(&here, &image));
    assert_eq!(other.to_send(&received.id).unwrap().manifest, manifest, "it goes on as it came");
    assert_eq!(other.resolve(&format!("127.0.0.1:5000/a@{digest}")).unwrap().id, image.id);

    // Again: nothing is fetched. With another last layer: only that one.
    let again = other.receive(&manifest, &config, &names, &there, &()).unwrap();
    assert_eq!((there.opened(), again.added), (0, received.added));
    let changed = three_layers(&here, "etc/c file = changed");
    let (manifest, config) = there.push(&here, &changed);
    let seen = Seen::default();
    let received = other.receive(&manifest, &config, &names[..1], &there, &seen).unwrap();
    assert_eq!(there.opened(), 1);
    let states: Vec<_> = seen.0.into_inner().unwrap().into_values().collect();
    assert_eq!(states.iter().filter(|s| **s == LayerProgress::Exists).count(), 2);
    other.reopen();
    assert_eq!(contents(&other, &received), contents(&here, &changed));
    other.untag(&names[0]).unwrap();
    assert!(other.image(&image.id).unwrap().names.is_empty());
}

#[test]
fn what_is_not_as_it_should_be_is_refused_and_leaves_nothing() {
    let (here, mut there) = (TestStore::new(), Blobs::default());
    let image = three_layers(&here, "z file = z");
    let (manifest, config) = there.push(&here, &image);
    let read: Manifest = serde_json::from_slice(&manifest).unwrap();
    let other = TestStore::new();
    let refused = |blobs: &Blobs, manifest: &[u8], config: &[u8], class: Class, why: &str| {
        let error = other.receive(manifest, config, &[], blobs, &()).unwrap_err();
        let text = sampan_base::chain(&error);
        assert!(text.contains(why), "{text}");
        assert_eq!(error.class(), class, "{text}");
        other.gc().unwrap();
        assert_eq!(other.files(), [] as [&str; 0]);
    };
    refused(&there, b"{", &config, Class::Invalid, "the manifest of the image is damaged");
    refused(&there, &manifest, b"{}", Class::Invalid, "the configuration of the image has the digest");
    let changed = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = read.clone();
        change(&mut manifest);
        serde_json::to_vec(&manifest).unwrap()
    };
    let fewer = changed(&|m| drop(m.layers.pop()));
    refused(&there, &fewer, &config, Class::Invalid, "3 diff ids for 2 layers");
    let chart = changed(&|m| m.config.media_type = "application/vnd.cncf.helm.config.v1+json".into());
    refused(&there, &chart, &config, Class::Unsupported, "not a container image");
    for by in [1u64, 1 << 20] {
        let longer = changed(&|m| m.layers[1].size += by);
        refused(&there, &longer, &config, Class::Invalid, "bytes, not");
        let shorter = changed(&|m| m.layers[1].size -= by.min(m.layers[1].size));
        refused(&there, &shorter, &config, Class::Invalid, "bytes, not");
    }
    let swapped = changed(&|m| m.layers.swap(0, 2));
    refused(&there, &swapped, &config, Class::Invalid, "has the digest");
    let victim = read.layers[2].digest.clone();
    let good = there.blobs[&victim].clone();
    for damage in 0..good.len() {
        let mut bytes = good.clone();
        bytes[damage] ^= 0x10;
        there.blobs.insert(victim.clone(), bytes);
        refused(&there, &manifest, &config, Class::Invalid, "layer");
    }
    there.blobs.remove(&victim);
    refused(&there, &manifest, &config, Class::NotFound, "cannot receive the layer");
}

/// Gives each layer's bytes slowly, or late, so that layers come in another order than they lie.
struct Slow<'a> {
    blobs: &'a Blobs,
    /// The layer that comes only when all others are through, if there is one.
    last: Option<&'a Digest>,
    through: &'a Through,
}

#[derive(Default)]
struct Through {
    ended: Mutex<usize>,
    changed: std::sync::Condvar,
}

struct SlowReader<'a> {
    bytes: io::Cursor<Vec<u8>>,
    wait_for: usize,
    through: &'a Through,
    ended: bool,
}

impl Read for SlowReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut ended = self.through.ended.lock().unwrap();
        while *ended < self.wait_for {
            ended = self.through.changed.wait(ended).unwrap();
        }
        // A byte at a time: no reader may count on more.
        let n = self.bytes.read(&mut buffer[..1])?;
        if n == 0 && !self.ended {
            self.ended = true;
            *ended += 1;
            self.through.changed.notify_all();
        }
        Ok(n)
    }
}

impl BlobSource for Slow<'static> {
    fn open(&self, blob: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        let wait_for = if self.last == Some(&blob.digest) { 3 } else { 0 };
        let bytes = io::Cursor::new(self.blobs.blobs[&blob.digest].clone());
        Ok(Box::new(SlowReader { bytes, wait_for, through: self.through, ended: false }))
    }
}

fn stacked(test: &TestStore, listings: &[&str], name: &str) -> Image {
    let lease = test.lease();
    let mut layers: Vec<sampan_image::Layer> = Vec::new();
    for listing in listings {
        let parent = layers.last().map(|l| l.chain_id.clone());
        layers
            .push(test.add_layer(&mut &*tar(listing), parent.as_ref(), &Default::default(), &lease).unwrap());
    }
    let mut config = sampan_oci::image::ImageConfig::for_host();
    config.author = name.to_owned();
    test.create_image(config, &layers, &[]).unwrap()
}

#[test]
fn layers_come_in_any_order_and_lie_in_the_right_one() {
    let here = TestStore::new();
    let same = "same dir 711 5:5\nsame/file file = same";
    let listings = [
        "d dir 750 7:8\nd/x file = x\nd/y file = y\ne dir\ne/f file = f",
        // Each needs something of those below: looks of a directory, files to delete, nothing.
        "d/z file = z\nd/.wh.x file =\nnew/deep file = 1",
        same,
        "e/.wh..wh..opq file =\ne/g file = g\nd/w file = w",
        same,
    ];
    let image = stacked(&here, &listings, "a");
    let blobs: &'static mut Blobs = Box::leak(Box::default());
    let (manifest, config) = blobs.push(&here, &image);
    let blobs: &'static Blobs = blobs;
    let read: Manifest = serde_json::from_slice(&manifest).unwrap();
    let expected = contents(&here, &image);
    for last in [None, Some(0), Some(1), Some(2), Some(3)] {
        let through: &'static Through = Box::leak(Box::default());
        // Leaked, because readers outlive the call that opens them.
        let digest: Option<&'static Digest> =
            last.map(|i: usize| -> &'static Digest { Box::leak(Box::new(read.layers[i].digest.clone())) });
        let source = Slow { blobs, last: digest, through };
        let other = TestStore::new();
        let received = other.receive(&manifest, &config, &[], &source, &()).unwrap();
        assert_eq!(contents(&other, &received), expected, "layer {last:?} last");
        assert_eq!(*through.ended.lock().unwrap(), 4, "the twin is not fetched twice");
    }
}

#[test]
fn a_hard_link_to_a_file_below_waits_for_it() {
    let here = TestStore::new();
    let listings = ["a file 600 = content", "b hard = a\nc hard = b", "d hard = c"];
    let image = stacked(&here, &listings, "hard");
    let mut there = Blobs::default();
    let (manifest, config) = there.push(&here, &image);
    let other = TestStore::new();
    let received = other.receive(&manifest, &config, &[], &there, &()).unwrap();
    assert_eq!(contents(&other, &received), contents(&here, &image));
    // If what it waits for never comes, it does not wait for ever.
    let read: Manifest = serde_json::from_slice(&manifest).unwrap();
    there.blobs.insert(read.layers[0].digest.clone(), b"nonsense".to_vec());
    let third = TestStore::new();
    let error = third.receive(&manifest, &config, &[], &there, &()).unwrap_err();
    assert!(sampan_base::chain(&error).contains(read.layers[0].digest.as_str()), "{error}");
}

#[test]
fn an_image_of_another_platform_is_held_and_its_layers_are_checked() {
    let here = TestStore::new();
    let image = stacked(&here, &["a file = 1", "b file = 2"], "arm");
    let mut config = image.config.clone();
    config.architecture = "riscv64".into();
    let image = here.create_image(config, &image.layers, &[]).unwrap();
    let mut there = Blobs::default();
    let (manifest, config) = there.push(&here, &image);
    let other = TestStore::new();
    let received = other.receive(&manifest, &config, &["x".parse().unwrap()], &there, &()).unwrap();
    assert_eq!((received.size, received.layers.len()), (2, 2));
    assert!(other.files().iter().all(|f| !f.starts_with("snapshots/")), "nothing is unpacked yet");
    assert_eq!(contents(&other, &received), contents(&here, &image), "it is when it is needed");
    let read: Manifest = serde_json::from_slice(&manifest).unwrap();
    let swapped = Manifest { layers: read.layers.iter().rev().cloned().collect(), ..read };
    let swapped = serde_json::to_vec(&swapped).unwrap();
    let third = TestStore::new();
    assert_eq!(third.receive(&swapped, &config, &[], &there, &()).unwrap_err().class(), Class::Invalid);
}

/// Whatever is collected while an image comes, nothing of the image is.
#[test]
fn a_pull_in_progress_is_never_collected() {
    let here = TestStore::new();
    let listings: Vec<String> =
        (0..6).map(|i| format!("f{i} file = {}\nd dir\nd/x{i} file = {i}", "y".repeat(3000))).collect();
    let listings: Vec<&str> = listings.iter().map(String::as_str).collect();
    let image = stacked(&here, &listings, "kept");
    let mut there = Blobs::default();
    let (manifest, config) = there.push(&here, &image);
    let other = TestStore::new();
    let store = other.store.as_ref().unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    store.gc().unwrap();
                }
            });
        }
        for round in 0..10 {
            let name = format!("pulled:{round}").parse().unwrap();
            let received = store.receive(&manifest, &config, &[name], &there, &()).unwrap();
            assert_eq!(contents(&other, &received), contents(&here, &image));
            store.remove(&received.id).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    store.gc().unwrap();
    assert_eq!(other.files(), [] as [&str; 0]);
}

/// Several pulls of one image, and of others with the same layers, at once.
#[test]
fn pulls_at_once_end_with_one_copy_of_each_layer() {
    let here = TestStore::new();
    let mut there = Blobs::default();
    let documents: Vec<_> = ["one", "two"]
        .map(|last| {
            let last = format!("last file = {last}");
            let image = stacked(&here, &["a file = 1\nd dir", "d/b file = 2\n.wh.a file =", &last], &last);
            let (manifest, config) = there.push(&here, &image);
            (manifest, config, contents(&here, &image))
        })
        .into();
    let other = TestStore::new();
    let store = other.store.as_ref().unwrap();
    std::thread::scope(|scope| {
        for round in 0..8 {
            let (manifest, config, expected) = &documents[round % 2];
            let (there, other) = (&there, &other);
            scope.spawn(move || {
                let received = store.receive(manifest, config, &[], there, &()).unwrap();
                assert_eq!(&contents(other, &received), expected);
            });
        }
    });
    assert_eq!(store.list().unwrap().len(), 2);
    let opened = there.opened();
    assert!((4..=6).contains(&opened), "{opened}: an image that comes already is not fetched again");
    let unpacked = other.files().iter().filter(|f| f.starts_with("snapshots/")).count();
    assert_eq!(unpacked, 4, "two layers that both have, and one of each alone");
    let report = store.check(sampan_image::CheckOptions { deep: true, repair: false }).unwrap();
    assert_eq!(report.problems, []);
}
