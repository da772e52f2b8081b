//! Stores that are damaged on purpose or by a kill, and what is found and mended.

use std::fs;
use std::path::PathBuf;

use sampan_image::{CheckOptions, Image, InitLayer, Report, Store};

use crate::support::{TestStore, tar, tree};

const DEEP: CheckOptions = CheckOptions { deep: true, repair: false };
const REPAIR: CheckOptions = CheckOptions { deep: true, repair: true };

/// A pushed and a built layer, a container, a name.
fn filled() -> (TestStore, Image) {
    let test = TestStore::new();
    let base =
        test.import("base:1", "a file = 1\nd dir 750 3:4\nd/x file = x\nd/y hard = d/x\nl link 777 = a");
    let packed = test.to_send(&base.id).unwrap();
    drop(packed);
    let base = test.image(&base.id).unwrap();
    let lease = test.lease();
    let scratch = test.scratch(base.chain_id(), &InitLayer::docker(), &lease).unwrap();
    fs::remove_file(scratch.rootfs().join("d/x")).unwrap();
    fs::write(scratch.rootfs().join("new"), "n").unwrap();
    let built = scratch.freeze(&lease, None).unwrap().unwrap();
    let layers: Vec<_> = base.layers.iter().cloned().chain([built]).collect();
    let image = test.create_image(base.config.clone(), &layers, &["built:1".parse().unwrap()]).unwrap();
    test.prepare("c1", image.chain_id(), &InitLayer::docker()).unwrap();
    (test, image)
}

fn problems(report: &Report) -> Vec<String> {
    report.problems.iter().map(|p| format!("{}: {}", p.subject, p.what)).collect()
}

#[test]
fn a_whole_store_has_no_problems() {
    let (mut test, _) = filled();
    for _ in 0..2 {
        let report = test.check(DEEP).unwrap();
        assert_eq!(problems(&report), [] as [&str; 0]);
        assert_eq!((report.images, report.blobs, report.layers, report.snapshots), (2, 2, 2, 1));
        test.reopen();
    }
}

/// Does `damage`, checks that the check finds just that, mends, and checks that nothing is left.
fn mends(what: &str, lost: usize, damage: impl FnOnce(&TestStore, &Image)) {
    let (mut test, image) = filled();
    let expected = contents(&test, &image);
    damage(&test, &image);
    let found = test.check(DEEP).unwrap();
    assert!(!found.is_whole() && problems(&found).iter().any(|p| p.contains(what)), "{found:#?}");
    let mended = test.check(REPAIR).unwrap();
    assert!(mended.is_whole(), "{mended:#?}");
    let after = test.check(DEEP).unwrap();
    assert_eq!(problems(&after), [] as [&str; 0], "{what}");
    assert_eq!(test.list().unwrap().len(), 2 - lost, "{what}: {mended:#?}");
    if lost == 0 {
        assert_eq!(contents(&test, &image), expected);
    }
    test.reopen();
    assert_eq!(problems(&test.check(DEEP).unwrap()), [] as [&str; 0], "{what}, opened again");
}

fn contents(test: &TestStore, image: &Image) -> String {
    let lease = test.lease();
    tree(test.view(image.chain_id(), &lease).unwrap().rootfs())
}

/// The directory of the layer on place `index`.
fn directory(test: &TestStore, image: &Image, index: usize) -> PathBuf {
    let chain = image.layers[index].chain_id.0.as_str().to_owned();
    let mut all = fs::read_dir(test.root().join("snapshots")).unwrap().map(|e| e.unwrap().path());
    all.find(|p| {
        fs::read_to_string(p.join("about.json")).unwrap().contains(&format!("\"chain\":\"{chain}\""))
    })
    .unwrap()
}

#[test]
fn what_is_damaged_is_found_and_mended() {
    mends("its directory", 0, |test, image| fs::remove_dir_all(directory(test, image, 1)).unwrap());
    mends("its content", 0, |test, image| {
        let file = directory(test, image, 0).join("fs/a");
        let times = fs::metadata(&file).unwrap().modified().unwrap();
        fs::write(&file, "2").unwrap();
        fs::File::open(&file).unwrap().set_modified(times).unwrap();
    });
    mends("its mode", 0, |test, image| {
        let path = directory(test, image, 0).join("fs/d");
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    });
    mends("it is missing", 0, |test, image| fs::remove_file(directory(test, image, 0).join("fs/l")).unwrap());
    // The tar of a layer that was built here is made again from its directory.
    mends("has the digest", 0, |test, image| {
        fs::write(test.blob_path(&image.layers[1].blob), "nonsense").unwrap();
    });
    mends("its blob is missing", 0, |test, image| {
        fs::remove_file(test.blob_path(&image.layers[1].blob)).unwrap();
    });
    // So is one that came packed, if its directory gives the same bytes.
    mends("its blob is missing", 0, |test, image| {
        fs::remove_file(test.blob_path(&image.layers[0].blob)).unwrap();
    });
    mends("nothing names this blob", 0, |test, _| {
        let digest = sampan_base::Digest::of(b"litter");
        fs::write(test.blob_path(&digest), "litter").unwrap();
    });
    mends("nothing names this directory", 0, |test, _| {
        fs::create_dir_all(test.root().join("snapshots/4711/fs/x")).unwrap();
    });
    mends("index.json", 0, |test, _| fs::write(test.root().join("content/index.json"), "{}").unwrap());
    mends("`work`", 0, |test, _| {
        let work = test.snapshot("c1").unwrap().upper.parent().unwrap().join("work");
        fs::remove_dir_all(work).unwrap();
    });
    mends("its configuration", 1, |test, image| fs::write(test.blob_path(&image.id.0), "{").unwrap());
}

#[test]
fn an_image_whose_layer_is_lost_is_dropped_and_named() {
    let (test, image) = filled();
    test.remove_snapshot("c1").unwrap();
    fs::remove_file(test.blob_path(&image.layers[1].blob)).unwrap();
    fs::remove_dir_all(directory(&test, &image, 1)).unwrap();
    let report = test.check(REPAIR).unwrap();
    let dropped = report.problems.iter().find(|p| p.subject == image.id.to_string()).unwrap();
    assert!(dropped.mended.as_deref().unwrap().contains("dropped"), "{dropped:?}");
    assert_eq!(test.list().unwrap().len(), 1);
    let again = test.check(REPAIR).unwrap();
    assert_eq!(problems(&test.check(DEEP).unwrap()), [] as [&str; 0], "{again:?}");
}

#[test]
fn a_container_that_runs_is_not_pulled_from_under() {
    let (test, image) = filled();
    let at = test.mount_point("m");
    test.mount("c1", &at).unwrap();
    fs::write(directory(&test, &image, 0).join("fs/extra"), "x").unwrap();
    let report = test.check(REPAIR).unwrap();
    assert!(!report.is_whole());
    assert!(problems(&report).iter().any(|p| p.contains("a container runs on it")), "{report:?}");
    test.unmount(&at).unwrap();
    assert!(test.check(REPAIR).unwrap().is_whole());
    test.mount("c1", &at).unwrap();
    assert!(at.join("a").exists() && !at.join("extra").exists());
}

#[test]
fn a_lost_database_is_made_again_from_what_is_on_disk() {
    for damage in ["garbage", "half", "gone"] {
        let (mut test, image) = filled();
        let expected = contents(&test, &image);
        fs::write(test.snapshot("c1").unwrap().upper.join("written"), "by the container").unwrap();
        test.store = None;
        let path = test.root().join("image.redb");
        let bytes = fs::read(&path).unwrap();
        match damage {
            "garbage" => fs::write(&path, vec![0x5a; bytes.len()]).unwrap(),
            "half" => fs::write(&path, &bytes[..bytes.len() / 2]).unwrap(),
            _ => fs::write(&path, b"").unwrap(),
        }
        test.reopen();
        if damage != "gone" {
            let recovered = test.recovered().unwrap();
            assert!(recovered.set_aside.exists() && recovered.lost.is_empty(), "{recovered:?}");
            assert_eq!((recovered.images, recovered.snapshots), (2, 1));
            assert_eq!(test.resolve("built:1").unwrap().layers, image.layers);
            assert_eq!(contents(&test, &image), expected);
            let at = test.mount_point("m");
            test.mount("c1", &at).unwrap();
            assert_eq!(fs::read_to_string(at.join("written")).unwrap(), "by the container");
        }
        assert_eq!(problems(&test.check(DEEP).unwrap()), [] as [&str; 0], "{damage}");
    }
}

/// The child of the kill test: pulls, loads, commits, packs and collects until it is killed.
#[test]
#[ignore = "run by the kill test"]
fn kill_child() {
    let dir = PathBuf::from(std::env::var("SAMPAN_KILL_ROOT").unwrap());
    let store = Store::open(&dir.join("root")).unwrap();
    let source = Store::open(&dir.join("source")).unwrap();
    struct From<'a>(&'a Store);
    impl sampan_image::BlobSource for From<'_> {
        fn open(
            &self,
            blob: &sampan_oci::image::Descriptor,
        ) -> std::io::Result<Box<dyn std::io::Read + Send>> {
            self.0
                .open_blob(&blob.digest)
                .map(|f| Box::new(f) as Box<dyn std::io::Read + Send>)
                .map_err(|e| e.source)
        }
    }
    let images = source.list().unwrap();
    let archive = fs::read(dir.join("archive.tar")).unwrap();
    for left in store.snapshots().unwrap() {
        store.remove_snapshot(&left.key).unwrap();
    }
    for round in 0.. {
        for image in &images {
            let sendable = source.to_send(&image.id).unwrap();
            let config = source.config_bytes(&image.id).unwrap();
            let name = format!("pulled:{}", round % 3).parse().unwrap();
            store.receive(&sendable.manifest, &config, &[name], &From(&source), &()).unwrap();
        }
        let key = format!("c{round}");
        store.prepare(&key, images[0].chain_id(), &InitLayer::docker()).unwrap();
        let upper = store.snapshot(&key).unwrap().upper;
        fs::write(upper.join("f"), format!("{round}")).unwrap();
        let lease = store.lease();
        let layer = store.commit(&key, &lease).unwrap().unwrap();
        let layers: Vec<_> = images[0].layers.iter().cloned().chain([layer]).collect();
        let committed = store.create_image(images[0].config.clone(), &layers, &[]).unwrap();
        drop(lease);
        drop(store.to_send(&committed.id).unwrap());
        store.load(&mut &*archive, None).unwrap();
        store.remove_snapshot(&key).unwrap();
        for image in store.list().unwrap().into_iter().skip(usize::try_from(round % 2).unwrap()) {
            store.remove(&image.id).unwrap();
        }
    }
}

/// SIGKILL at many points: what is left is whole each time. `SAMPAN_KILL_ROUNDS` says how often.
#[test]
fn a_killed_process_leaves_nothing_for_check_to_find() {
    let dir = tempfile::Builder::new().prefix("sampan-kill-").tempdir().unwrap();
    {
        let source = Store::open(&dir.path().join("source")).unwrap();
        let lease = source.lease();
        for image in 0..3 {
            let mut layers: Vec<sampan_image::Layer> = Vec::new();
            for layer in 0..3 {
                let content = "y".repeat(50_000 * (1 + (image + layer) % 3));
                let listing = format!(
                    "f{layer} file = {image}{content}\nd dir\nd/x{layer} file = {layer}\nd/l{layer} hard = f0"
                );
                let parent = layers.last().map(|l| l.chain_id.clone());
                layers.push(
                    source
                        .add_layer(&mut &*tar(&listing), parent.as_ref(), &Default::default(), &lease)
                        .unwrap(),
                );
            }
            let made = source.create_image(sampan_oci::image::ImageConfig::for_host(), &layers, &[]).unwrap();
            drop(source.to_send(&made.id).unwrap());
        }
        let all = source.list().unwrap();
        let texts: Vec<&str> = all.iter().map(|i| i.id.as_str()).collect();
        source
            .save(&texts[1..], None, &mut fs::File::create(dir.path().join("archive.tar")).unwrap())
            .unwrap();
    }
    let rounds: u64 = std::env::var("SAMPAN_KILL_ROUNDS").map_or(24, |n| n.parse().unwrap());
    let (mut came_far, root) = (0, dir.path().join("root"));
    for round in 0..rounds {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--nocapture", "--exact", "check::kill_child"])
            .env("SAMPAN_KILL_ROOT", dir.path())
            .stdout(std::process::Stdio::null())
            .stderr(fs::File::create(dir.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        // Long enough to open and do something, different each time, so that the kill hits different places.
        std::thread::sleep(std::time::Duration::from_millis(10 + round * 53 % 311));
        let died = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(died, None, "{}", fs::read_to_string(dir.path().join("stderr")).unwrap());
        let store = Store::open(&root).unwrap();
        let report = store.check(DEEP).unwrap();
        assert_eq!(problems(&report), [] as [&str; 0], "round {round}");
        came_far = came_far.max(report.images);
    }
    assert!(came_far > 0, "the child came as far as making images");
}
