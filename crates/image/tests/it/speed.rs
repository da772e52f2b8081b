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
