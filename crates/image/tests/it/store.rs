//! Names, garbage, crashes, full disks.

use std::path::Path;

use sampan_image::{ImportOptions, InitLayer, OpenError, ResolveError, Store};

use crate::support::{TestStore, tar, tree};

#[test]
fn names_ids_and_starts_of_ids_lead_to_an_image() {
    let test = TestStore::new();
    let a = test.import("debian:bookworm", "a file = 1");
    let b = test.import("web", "b file = 2");
    for text in
        ["debian:bookworm", "docker.io/library/debian:bookworm", a.id.as_str(), a.id.short(), a.id.0.hex()]
    {
        assert_eq!(test.resolve(text).unwrap().id, a.id, "{text}");
    }
    assert_eq!(test.resolve(&a.id.as_str()[..12]).unwrap().id, a.id);
    assert_eq!(test.resolve(&format!("web@{}", b.manifest)).unwrap().id, b.id);
    assert!(matches!(test.resolve("nothing"), Err(ResolveError::NotFound { .. })));
    assert!(matches!(test.resolve("Web"), Err(ResolveError::Invalid(_))));
    assert!(matches!(test.resolve("sha256:zz"), Err(ResolveError::NotFound { .. })));
    assert_eq!(test.resolve("nothing").unwrap_err().to_string(), "no such image: `nothing`");
    // A tag moves; the image that had it stays.
    test.tag(&b.id, &"debian:bookworm".parse().unwrap()).unwrap();
    assert_eq!(test.resolve("debian:bookworm").unwrap().id, b.id);
    assert!(test.image(&a.id).unwrap().names.is_empty());
    let names: Vec<String> = test.image(&b.id).unwrap().names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["debian:bookworm", "web:latest"]);
    assert_eq!(test.untag(&"web".parse().unwrap()).unwrap(), Some(b.id));
    assert_eq!(test.untag(&"web".parse().unwrap()).unwrap(), None);
    assert_eq!(test.list().unwrap().len(), 2);
}

#[test]
fn sizes_and_history_are_recorded() {
    let test = TestStore::new();
    let options = ImportOptions { message: "Imported from -".into(), ..ImportOptions::default() };
    let image = test.import_rootfs(&mut &*tar("a file = 12345\nb file = 123\nc hard = a"), &options).unwrap();
    assert_eq!((image.size, image.layers[0].size), (8, 8));
    assert_eq!(image.config.history[0].comment, "Imported from -");
    assert!(image.created.is_some());
}

#[test]
fn removing_an_image_keeps_layers_that_others_use() {
    let mut test = TestStore::new();
    let base = test.import("base", "a file = 1");
    test.prepare("c", base.chain_id(), &InitLayer::empty()).unwrap();
    test.remove(&base.id).unwrap();
    assert!(test.list().unwrap().is_empty());
    let at = test.mount_point("m");
    test.mount("c", &at).unwrap();
    assert_eq!(tree(&at), "a file 644 = 1\n", "the snapshot still has its layer");
    test.unmount(&at).unwrap();
    test.reopen();
    test.mount("c", &at).unwrap();
    assert_eq!(tree(&at), "a file 644 = 1\n");
    test.unmount(&at).unwrap();
    test.remove_snapshot("c").unwrap();
    test.gc().unwrap();
    assert_eq!(test.files(), [] as [&str; 0]);
}

#[test]
fn a_layer_shared_by_two_images_is_stored_once() {
    let test = TestStore::new();
    let a = test.import("a", "x file = 1");
    let options = ImportOptions { message: "other".into(), ..ImportOptions::default() };
    let b = test.import_rootfs(&mut &*tar("x file = 1"), &options).unwrap();
    assert_ne!(a.id, b.id);
    assert_eq!(a.layers, b.layers);
    let layers = || test.files().iter().filter(|f| f.starts_with("snapshots")).count();
    assert_eq!(layers(), 1);
    test.remove(&a.id).unwrap();
    assert_eq!(layers(), 1);
    test.remove(&b.id).unwrap();
    assert_eq!(test.files(), [] as [&str; 0]);
}

#[test]
fn one_process_owns_a_store() {
    let test = TestStore::new();
    assert!(matches!(Store::open(&test.root()), Err(OpenError::InUse { .. })));
}

#[test]
fn a_lease_keeps_what_no_image_has_yet() {
    let test = TestStore::new();
    let lease = test.lease();
    let layer =
        test.add_layer(&mut &*tar("a file = 1"), None, &sampan_image::Expected::default(), &lease).unwrap();
    assert_eq!(test.gc().unwrap().layers, 0);
    test.create_image(sampan_oci::image::ImageConfig::for_host(), &[layer], &[]).unwrap();
    drop(lease);
    assert_eq!(test.gc().unwrap().layers, 0);
}

#[test]
fn a_scratch_becomes_a_layer_or_vanishes() {
    let test = TestStore::new();
    let base = test.import("base", "a file = 1\nd dir\nd/b file = 2");
    let before = test.files();
    let lease = test.lease();
    let scratch = test.scratch(base.chain_id(), &InitLayer::docker(), &lease).unwrap();
    let at = scratch.rootfs().to_owned();
    std::fs::write(at.join("new"), "n").unwrap();
    drop(scratch);
    assert!(!at.exists());
    assert_eq!(test.files(), before);
    let scratch = test.scratch(base.chain_id(), &InitLayer::docker(), &lease).unwrap();
    assert!(scratch.freeze(&lease, None).unwrap().is_none(), "nothing was changed");
    let scratch = test.scratch(base.chain_id(), &InitLayer::docker(), &lease).unwrap();
    std::fs::remove_file(scratch.rootfs().join("d/b")).unwrap();
    std::fs::write(scratch.rootfs().join("new"), "n").unwrap();
    let layer = scratch.freeze(&lease, None).unwrap().unwrap();
    let view = test.view(Some(&layer.chain_id), &lease).unwrap();
    assert_eq!(tree(view.rootfs()), "a file 644 = 1\nd dir 755\nnew file 644 = n\n");
    drop(view);
    drop(lease);
    test.gc().unwrap();
    assert_eq!(test.files(), before);
}

#[test]
fn the_build_cache_is_bounded_and_the_unused_go_first() {
    use sampan_image::{Cached, limits::MAX_CACHE_RECORDS};
    let mut test = TestStore::new();
    let flush = |test: &TestStore, round: usize| {
        let mut config = sampan_oci::image::ImageConfig::for_host();
        config.author = round.to_string();
        test.create_image(config, &[], &[]).unwrap();
    };
    let value = |i: usize| Cached { chain: None, value: i.to_string(), text: String::new(), size: 0 };
    for i in 0..MAX_CACHE_RECORDS {
        test.remember(&i.to_string(), value(i));
    }
    flush(&test, 0);
    let lease = test.lease();
    assert_eq!(test.cached("0", &lease).unwrap(), Some(value(0)), "used now, so it stays");
    test.remember("more", value(7));
    flush(&test, 1);
    drop(lease);
    test.reopen();
    let lease = test.lease();
    assert_eq!(test.cached("0", &lease).unwrap(), Some(value(0)));
    assert_eq!(test.cached("more", &lease).unwrap(), Some(value(7)));
    let there =
        (0..MAX_CACHE_RECORDS).filter(|i| test.cached(&i.to_string(), &lease).unwrap().is_some()).count();
    assert!((MAX_CACHE_RECORDS * 8 / 10..MAX_CACHE_RECORDS).contains(&there), "{there}");
    drop(lease);
}

#[test]
fn what_is_exported_imports_as_the_same_tree() {
    let test = TestStore::new();
    let listing = "d dir 2750 7:8\nd/f file 4755 = x\nd/g hard = d/f\nl link = /etc\nn char 600 = 1:3\np fifo\n.wh.plain dir";
    let image = test.import("a", "etc dir\nd dir\nd/gone file = 1");
    test.prepare("c", image.chain_id(), &InitLayer::empty()).unwrap();
    let at = test.mount_point("m");
    test.mount("c", &at).unwrap();
    std::fs::remove_file(at.join("d/gone")).unwrap();
    sampan_image::extract(&mut &*tar(listing), &at, Path::new("")).unwrap();
    std::fs::remove_dir(at.join(".wh.plain")).unwrap();
    let mut exported = Vec::new();
    test.export(&at, None, &mut exported).unwrap();
    let again = test.import_rootfs(&mut &*exported, &ImportOptions::default()).unwrap();
    let lease = test.lease();
    assert_eq!(tree(test.view(again.chain_id(), &lease).unwrap().rootfs()), tree(&at));
    assert!(exported.windows(4).all(|w| w != b".wh."));
}

/// A container can nest directories as deep as it likes; whoever reads them has a stack.
#[test]
fn trees_too_deep_to_walk_are_refused_not_crashed_on() {
    use rustix::fs::{CWD, Mode, OFlags};
    let test = TestStore::new();
    let base = test.import("base", "a file = 1");
    for (depth, fits) in [(500, true), (5000, false)] {
        let key = format!("c{depth}");
        let snapshot = test.prepare(&key, base.chain_id(), &InitLayer::empty()).unwrap();
        let mut at = rustix::fs::openat(CWD, &snapshot.upper, OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let lease = test.lease();
        assert_eq!(test.commit(&key, &lease).is_ok(), fits);
        assert_eq!(test.changes(&key).is_ok(), fits);
        test.remove_snapshot(&key).unwrap();
    }
}

#[test]
fn many_layers_mount() {
    let test = TestStore::new();
    let lease = test.lease();
    let mut parent = None;
    for i in 0..200 {
        let layer = tar(&format!("f{i} file = {i}\nlast file = {i}"));
        let layer = test.add_layer(&mut &*layer, parent.as_ref(), &Default::default(), &lease).unwrap();
        parent = Some(layer.chain_id);
    }
    let view = test.view(parent.as_ref(), &lease).unwrap();
    assert_eq!(std::fs::read_to_string(view.rootfs().join("last")).unwrap(), "199");
    assert_eq!(std::fs::read_dir(view.rootfs()).unwrap().count(), 201);
}

/// Threads that make, use, remove and collect the same layers at once: nothing in use is ever missing.
#[test]
fn work_at_once_never_loses_what_is_in_use() {
    let test = TestStore::new();
    let store = test.store.as_ref().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let at = test.mount_point(&format!("m{thread}"));
            scope.spawn(move || {
                for round in 0..25 {
                    // Threads meet on the same layers, as two of them use each content.
                    let layer = tar(&format!("f file = {}\nd dir\nd/x file = x", (thread + round) % 2));
                    let message = format!("{thread}-{round}");
                    let options = ImportOptions { message, ..ImportOptions::default() };
                    let image = store.import_rootfs(&mut &*layer, &options).unwrap();
                    let key = format!("{thread}-{round}");
                    store.prepare(&key, image.chain_id(), &InitLayer::docker()).unwrap();
                    store.remove(&image.id).unwrap();
                    store.mount(&key, &at).unwrap();
                    assert!(at.join("d/x").exists());
                    store.unmount(&at).unwrap();
                    let lease = store.lease();
                    let scratch = store.scratch(image.chain_id(), &InitLayer::empty(), &lease).unwrap();
                    std::fs::write(scratch.rootfs().join("d/new"), (round % 3).to_string()).unwrap();
                    let frozen = scratch.freeze(&lease, None).unwrap().unwrap();
                    store.gc().unwrap();
                    let layers: Vec<_> = image.layers.iter().cloned().chain([frozen]).collect();
                    let built = store.create_image(image.config.clone(), &layers, &[]).unwrap();
                    drop(lease);
                    store.remove_snapshot(&key).unwrap();
                    let lease = store.lease();
                    assert!(store.view(built.chain_id(), &lease).unwrap().rootfs().join("d/new").exists());
                    drop(lease);
                    store.remove(&built.id).unwrap();
                }
            });
        }
    });
    test.gc().unwrap();
    assert_eq!(test.files(), [] as [&str; 0]);
}

/// A tmpfs of 8 MiB for the store: each verb meets a full disk, says so, and leaves a store that works on.
#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = c"size=8m";
    rustix::mount::mount("tmpfs", dir.path(), "tmpfs", rustix::mount::MountFlags::empty(), Some(options))
        .unwrap();
    let result = std::panic::catch_unwind(|| {
        let store = Store::open(&dir.path().join("root")).unwrap();
        let small = store.import_rootfs(&mut &*tar("a file = 1"), &ImportOptions::default()).unwrap();
        let big = tar(&format!("big file = {}", "x".repeat(6 << 20)));
        let error = store.import_rootfs(&mut &*big, &ImportOptions::default()).unwrap_err();
        assert_eq!(error.class(), sampan_base::Class::Exhausted, "{}", sampan_base::chain(&error));
        let free = rustix::fs::statfs(dir.path()).unwrap().f_bfree * 4096;
        assert!(free > 4 << 20, "the space is free again: {free}");
        assert_eq!(store.list().unwrap().len(), 1);
        store.prepare("c", small.chain_id(), &InitLayer::empty()).unwrap();
        store.remove_snapshot("c").unwrap();
    });
    rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    result.unwrap();
}

/// The child of the crash test: imports, prepares, freezes and removes until it is killed.
#[test]
#[ignore = "run by the crash test"]
fn crash_child() {
    let root = std::env::var("SAMPAN_CRASH_ROOT").unwrap();
    let store = Store::open(Path::new(&root)).unwrap();
    for i in 0.. {
        let options = ImportOptions { names: vec!["kept".parse().unwrap()], ..ImportOptions::default() };
        let layer = tar(&format!("f{i} file = {}\nd dir\nd/x file = {i}", "y".repeat(100_000)));
        let image = store.import_rootfs(&mut &*layer, &options).unwrap();
        let key = format!("c{i}");
        store.prepare(&key, image.chain_id(), &InitLayer::docker()).unwrap();
        let lease = store.lease();
        let scratch = store.scratch(image.chain_id(), &InitLayer::docker(), &lease).unwrap();
        std::fs::write(scratch.rootfs().join("new"), i.to_string()).unwrap();
        let layer = scratch.freeze(&lease, None).unwrap().unwrap();
        let layers: Vec<_> = image.layers.iter().cloned().chain([layer]).collect();
        let built = store.create_image(image.config.clone(), &layers, &[]).unwrap();
        if i % 2 == 0 {
            store.remove_snapshot(&key).unwrap();
            store.remove(&built.id).unwrap();
        }
    }
}

#[test]
fn a_killed_process_leaves_a_store_that_is_whole() {
    let test = TestStore::new();
    let root = test.root().join("crash");
    let exe = std::env::current_exe().unwrap();
    let mut images = 0;
    for round in 0..16u64 {
        let mut child = std::process::Command::new(&exe)
            .args(["--ignored", "--exact", "store::crash_child"])
            .env("SAMPAN_CRASH_ROOT", &root)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Long enough to open and do something, different each time, so that the kill hits different places.
        std::thread::sleep(std::time::Duration::from_millis(5 + round * 37 % 240));
        child.kill().unwrap();
        child.wait().unwrap();
        images = check_whole(&root).max(images);
    }
    assert!(images > 0, "the child came as far as making images");
}

/// Opens the store and holds every record against the disk and the disk against the records.
fn check_whole(root: &Path) -> usize {
    let store = Store::open(root).unwrap();
    let images = store.list().unwrap();
    let at = root.join("mnt");
    std::fs::create_dir_all(&at).unwrap();
    for image in &images {
        let lease = store.lease();
        let view = store.view(image.chain_id(), &lease).unwrap();
        assert!(std::fs::metadata(view.rootfs().join("d/x")).unwrap().len() > 0);
        for layer in &image.layers {
            let bytes = std::fs::read(store.blob_path(&layer.blob)).unwrap();
            assert_eq!(sampan_base::Digest::of(&bytes), layer.blob);
        }
    }
    for snapshot in store.snapshots().unwrap() {
        store.mount(&snapshot.key, &at).unwrap();
        assert!(at.join("d/x").exists() && at.join("proc").exists());
        store.unmount(&at).unwrap();
        store.remove_snapshot(&snapshot.key).unwrap();
    }
    for image in &images {
        store.remove(&image.id).unwrap();
    }
    store.gc().unwrap();
    for part in ["content/blobs/sha256", "content/ingest", "snapshots"] {
        assert_eq!(std::fs::read_dir(root.join(part)).unwrap().count(), 0, "{part} is empty at last");
    }
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(root.to_str().unwrap()), "no mount is left");
    images.len()
}
