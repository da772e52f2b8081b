//! The checks of the image store: one function a target. Bytes that are no archive are repaired a little first, so that
//! they come further than the first checksum.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use sampan_image::{Expected, Layer, Lease, Store};

/// A store with one layer, and beside it what nobody may touch.
struct World {
    store: Store,
    _lease: Lease,
    base: Layer,
    victim: tempfile::TempDir,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("root")).unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        for path in ["base/file", "d/x", "d/sub/y", "etc/passwd"] {
            let mut header = tar::Header::new_ustar();
            header.set_size(4);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, &b"base"[..]).unwrap();
        }
        let lease = store.lease();
        let bytes = tar.into_inner().unwrap();
        let base = store.add_layer(&mut &*bytes, None, &Expected::default(), &lease).unwrap();
        let victim = tempfile::tempdir_in("/tmp").unwrap();
        fs::write(victim.path().join("kept"), "untouched").unwrap();
        World { store, _lease: lease, base, victim, dir }
    }

    /// What lies outside the store: beside it, and in `/tmp`'s victim, which layers of the fuzzer can name.
    fn outside(&self) -> Vec<String> {
        let list = |path: &Path| {
            fs::read_dir(path).unwrap().map(|e| format!("{:?}", e.unwrap().file_name())).collect()
        };
        let mut found: Vec<String> = list(self.victim.path());
        found.extend(list(self.dir.path()));
        found.push(fs::read_to_string(self.victim.path().join("kept")).unwrap());
        found.sort();
        found
    }
}

/// Gives every header block the checksum that it should have, and every link to `/tmp` the victim for a target.
fn repair(data: &[u8], victim: &Path) -> Vec<u8> {
    let mut bytes = data.to_vec();
    for block in bytes.chunks_exact_mut(512) {
        if &block[257..262] != b"ustar" {
            continue;
        }
        if block[157..].starts_with(b"/tmp\0") {
            let target = victim.as_os_str().as_encoded_bytes();
            block[157..157 + target.len()].copy_from_slice(target);
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    bytes
}

/// A layer on top of another: it is unpacked or refused, and what is outside its root stays as it is.
pub fn layer(data: &[u8]) {
    static WORLD: OnceLock<World> = OnceLock::new();
    let world = WORLD.get_or_init(World::new);
    let bytes = repair(data, world.victim.path());
    let before = world.outside();
    let lease = world.store.lease();
    for parent in [None, Some(&world.base.chain_id)] {
        let added = world.store.add_layer(&mut &*bytes, parent, &Expected::default(), &lease);
        if let Ok(layer) = added {
            // What is in the store can be mounted, read and told.
            let view = world.store.view(Some(&layer.chain_id), &lease).unwrap();
            assert!(fs::read_dir(view.rootfs()).is_ok());
        }
    }
    assert_eq!(world.outside(), before);
    drop(lease);
    world.store.gc().unwrap();
}

/// `load` of any archive: images or an error; nothing stays of what is refused.
pub fn archive(data: &[u8]) {
    static WORLD: OnceLock<World> = OnceLock::new();
    let world = WORLD.get_or_init(World::new);
    let before = world.outside();
    if let Ok(images) = world.store.load(&mut &*repair(data, world.victim.path()), None) {
        for image in images {
            assert!(world.store.image(&image.id).is_ok());
        }
    }
    for image in world.store.list().unwrap() {
        world.store.remove(&image.id).unwrap();
    }
    world.store.gc().unwrap();
    assert_eq!(world.outside(), before);
    let blobs = fs::read_dir(world.store.root().join("content/blobs/sha256")).unwrap().count();
    assert_eq!(blobs, 1, "only the base's layer stays");
}
