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
