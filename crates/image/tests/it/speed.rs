//! Numbers, on request: `SAMPAN_TAR=rootfs.tar cargo test --release -p sampan-image --test it speed -- --ignored --nocapture`.

use std::time::Instant;

use sampan_image::{ImportOptions, InitLayer};

use crate::support::TestStore;

#[test]
#[ignore = "prints numbers; needs SAMPAN_TAR"]
fn speed() {
    let path = std::env::var("SAMPAN_TAR").unwrap();
    let test = TestStore::new();
    let timed = |what: &str, work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        println!("{what:40} {:8.2} ms", start.elapsed().as_secs_f64() * 1e3);
    };
    let bytes = std::fs::read(&path).unwrap();
    timed("sha256 alone", &mut || {
        sampan_base::Digest::of(&bytes);
    });
    timed("write and sync alone", &mut || {
        let mut file = std::fs::File::create(test.dir.path().join("alone")).unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        file.sync_all().unwrap();
    });
    timed("tar -x and sync, for comparison", &mut || {
        let to = test.mount_point("tar-x");
        let ok =
            std::process::Command::new("tar").arg("-xpf").arg(&path).arg("-C").arg(&to).status().unwrap();
        assert!(ok.success());
        rustix::fs::syncfs(std::fs::File::open(&to).unwrap()).unwrap();
    });
    let mut image = None;
    timed("import", &mut || {
        let options = ImportOptions { names: vec!["x".parse().unwrap()], ..Default::default() };
        image = Some(test.import_rootfs(&mut std::fs::File::open(&path).unwrap(), &options).unwrap());
    });
    let image = image.unwrap();
    let at = test.mount_point("m");
    timed("resolve", &mut || {
        test.resolve("x").unwrap();
    });
    timed("prepare", &mut || {
        test.prepare("c", image.chain_id(), &InitLayer::docker()).unwrap();
    });
    timed("mount", &mut || test.mount("c", &at).unwrap());
    timed("unmount", &mut || test.unmount(&at).unwrap());
    timed("remove snapshot", &mut || test.remove_snapshot("c").unwrap());
    let lease = test.lease();
    timed("scratch", &mut || {
        test.scratch(image.chain_id(), &InitLayer::docker(), &lease).unwrap();
    });
    drop(lease);
    timed("remove image", &mut || test.remove(&image.id).unwrap());
}

/// Several layers, `SAMPAN_LAYERS=directory` of `N.tar` and `N.tar.gz`, received from files.
#[test]
#[ignore = "prints numbers; needs SAMPAN_LAYERS"]
fn receive_speed() {
    use sampan_base::{DiffId, Digest};
    use sampan_oci::image::{Descriptor, ImageConfig, Manifest, media};
    struct Files(std::collections::BTreeMap<Digest, std::path::PathBuf>);
    impl sampan_image::BlobSource for Files {
        fn open(&self, blob: &Descriptor) -> std::io::Result<Box<dyn std::io::Read + Send>> {
            Ok(Box::new(std::fs::File::open(&self.0[&blob.digest])?))
        }
    }
    let dir = std::path::PathBuf::from(std::env::var("SAMPAN_LAYERS").unwrap());
    let mut files = Files(Default::default());
    let mut config = ImageConfig::for_host();
    let mut layers = Vec::new();
    for i in 0.. {
        let Ok(bare) = std::fs::read(dir.join(format!("{i}.tar"))) else { break };
        config.rootfs.diff_ids.push(DiffId(Digest::of(&bare)));
        let path = dir.join(format!("{i}.tar.gz"));
        let packed = std::fs::read(&path).unwrap();
        layers.push(Descriptor::new(media::LAYER_GZIP, Digest::of(&packed), packed.len() as u64));
        files.0.insert(Digest::of(&packed), path);
    }
    let config = serde_json::to_vec(&config).unwrap();
    let manifest = Manifest {
        schema_version: 2,
        media_type: None,
        config: Descriptor::new(media::CONFIG, Digest::of(&config), config.len() as u64),
        layers,
        annotations: Default::default(),
        other: Default::default(),
    };
    let manifest = serde_json::to_vec(&manifest).unwrap();
    // All stores live to the end: ext4 is slow to give inodes again that were freed in the last minutes.
    let stores: Vec<TestStore> = (0..3).map(|_| TestStore::new()).collect();
    for test in &stores {
        rustix::fs::sync();
        let start = Instant::now();
        test.receive(&manifest, &config, &["a".parse().unwrap()], &files, &()).unwrap();
        println!("received in {:8.2} ms", start.elapsed().as_secs_f64() * 1e3);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", status.lines().find(|l| l.starts_with("VmHWM")).unwrap());
}
