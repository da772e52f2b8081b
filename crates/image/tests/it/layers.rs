//! Tars in, trees out, and back.

use expect_test::expect;
use sampan_image::InitLayer;

use crate::support::{TestStore, tree};

#[test]
fn an_imported_tar_is_mounted_changed_told_and_committed() {
    let test = TestStore::new();
    let image = test.import(
        "debian:bookworm",
        "etc dir\netc/passwd file = root\nbin dir\nbin/sh file 755 = sh\ntmp dir 1777",
    );
    assert_eq!(test.resolve("debian:bookworm").unwrap(), image);
    test.prepare("c1", image.chain_id(), &InitLayer::docker()).unwrap();
    let at = test.mount_point("rootfs");
    test.mount("c1", &at).unwrap();
    expect![[r#"
        .dockerenv file 755 = 
        bin dir 755
        bin/sh file 755 = sh
        dev dir 755
        dev/console file 755 = 
        dev/pts dir 755
        dev/shm dir 755
        etc dir 755
        etc/hostname file 755 = 
        etc/hosts file 755 = 
        etc/mtab link = /proc/mounts
        etc/passwd file 644 = root
        etc/resolv.conf file 755 = 
        proc dir 755
        sys dir 755
        tmp dir 1777
    "#]]
    .assert_eq(&tree(&at));
    std::fs::write(at.join("etc/new"), "n").unwrap();
    std::fs::remove_file(at.join("bin/sh")).unwrap();
    let told: Vec<String> = test
        .changes("c1")
        .unwrap()
        .iter()
        .map(|c| format!("{} {}", c.kind.letter(), c.path.display()))
        .collect();
    assert_eq!(told, ["C /bin", "D /bin/sh", "C /etc", "A /etc/new"]);
    let lease = test.lease();
    let layer = test.commit("c1", &lease).unwrap().unwrap();
    let mut layers = image.layers.clone();
    layers.push(layer);
    let committed = test.create_image(image.config.clone(), &layers, &["new".parse().unwrap()]).unwrap();
    drop(lease);
    test.unmount(&at).unwrap();
    test.remove_snapshot("c1").unwrap();
    test.prepare("c2", committed.chain_id(), &InitLayer::empty()).unwrap();
    test.mount("c2", &at).unwrap();
    expect![[r#"
        bin dir 755
        etc dir 755
        etc/new file 644 = n
        etc/passwd file 644 = root
        tmp dir 1777
    "#]]
    .assert_eq(&tree(&at));
}
