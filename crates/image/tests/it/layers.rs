//! Tars in, trees out, and back.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use expect_test::expect;
use sampan_image::{Expected, InitLayer, Layer};

use crate::support::{TestStore, tar, tree};

/// Stacks the tars (in the language of `support`) as layers and shows what a container would see.
fn check(layers: &[&str], expected: expect_test::Expect) {
    let test = TestStore::new();
    with_mounted(&test, layers, |at| expected.assert_eq(&tree(at)));
}

fn with_mounted(test: &TestStore, layers: &[&str], look: impl FnOnce(&Path)) {
    let tars: Vec<Vec<u8>> = layers.iter().map(|l| tar(l)).collect();
    mount_tars(test, &tars, look);
}

fn mount_tars(test: &TestStore, tars: &[Vec<u8>], look: impl FnOnce(&Path)) {
    let lease = test.lease();
    let mut stack: Vec<Layer> = Vec::new();
    for tar in tars {
        let parent = stack.last().map(|l| l.chain_id.clone());
        stack.push(test.add_layer(&mut &**tar, parent.as_ref(), &Expected::default(), &lease).unwrap());
    }
    let scratch = test.view(stack.last().map(|l| &l.chain_id), &lease).unwrap();
    look(scratch.rootfs());
}

fn refused(layers: &[&str], why: &str) {
    let test = TestStore::new();
    let lease = test.lease();
    let mut parent = None;
    for (i, layer) in layers.iter().enumerate() {
        match test.add_layer(&mut &*tar(layer), parent.as_ref(), &Expected::default(), &lease) {
            Ok(layer) => parent = Some(layer.chain_id),
            Err(e) => {
                assert_eq!(i + 1, layers.len());
                let text = sampan_base::chain(&e);
                assert!(text.contains(why), "{text}");
                drop(lease);
                test.gc().unwrap();
                if layers.len() == 1 {
                    assert!(test.files().is_empty(), "left behind: {:?}", test.files());
                }
                return;
            }
        }
    }
    panic!("it was accepted");
}

#[test]
fn every_kind_of_file_comes_out_as_it_went_in() {
    check(
        &["a dir 2750 7:8\na/f file 4755 100000:3000000 = hello\na/g hard = a/f\na/l link 777 5:6 = ../../etc/passwd
           null char 666 = 1:3\nloop block 660 0:6 = 7:300\np fifo 600\nempty file 0 ="],
        expect![[r#"
            a dir 2750 7:8
            a/f file 4755 100000:3000000 x2 = hello
            a/g file 4755 100000:3000000 x2 = hello
            a/l link 5:6 = ../../etc/passwd
            empty file 0 = 
            loop block 660 0:6 = 7:300
            null char 666 = 1:3
            p fifo 600
        "#]],
    );
}

#[test]
fn times_and_attributes_survive() {
    let test = TestStore::new();
    let layer =
        "d dir @ 1600000000.123456789\nd/f file = x @ 1500000000.5 + user.note=hi\nl link = d @ 1400000000.7
                 d/caps file 755 = y + security.capability=\u{1}\0\0\u{2}\0\u{4}\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    with_mounted(&test, &[layer], |at| {
        let time = |name: &str| {
            let meta = std::fs::symlink_metadata(at.join(name)).unwrap();
            (meta.mtime(), meta.mtime_nsec())
        };
        assert_eq!(time("d"), (1_600_000_000, 123_456_789), "a directory's time is set after its content");
        assert_eq!(time("d/f"), (1_500_000_000, 5));
        assert_eq!(time("l"), (1_400_000_000, 7));
        let xattr = |name: &str, key: &str| {
            let mut value = [0u8; 100];
            let n = rustix::fs::lgetxattr(at.join(name), key, &mut value[..]).unwrap();
            value[..n].to_vec()
        };
        assert_eq!(xattr("d/f", "user.note"), b"hi");
        assert_eq!(xattr("d/caps", "security.capability").len(), 20);
    });
}

#[test]
fn whiteouts_delete_what_is_below_and_only_that() {
    check(
        &[
            "a dir\na/one file = 1\na/two file = 2\nb dir\nb/x file = x\nc file = c\nd dir\nd/old file = o",
            "a/.wh.one file =\n.wh.b file =\n.wh.c file =\nc file = new\n.wh.nothing file =\nd dir\nd/.wh..wh..opq file =\nd/new file = n
             a/.wh..wh.plnk file =",
        ],
        expect![[r#"
            a dir 755
            a/two file 644 = 2
            c file 644 = new
            d dir 755
            d/new file 644 = n
        "#]],
    );
}

#[test]
fn a_directory_deleted_and_made_anew_in_one_layer_hides_the_old_one() {
    for second in [
        ".wh.d file =\nd dir\nd/new file = n",
        "d dir\nd/new file = n\n.wh.d file =",
        ".wh.d file =\nd/new file = n",
    ] {
        check(
            &["d dir\nd/old file = o", second],
            expect![[r#"
                d dir 755
                d/new file 644 = n
            "#]],
        );
    }
}

#[test]
fn an_opaque_root_hides_all_that_is_below() {
    check(
        &["a dir\na/f file = 1\nb file = 2", "c file = 3", ".wh..wh..opq file =\nd file = 4"],
        expect![[r#"
            d file 644 = 4
        "#]],
    );
}

#[test]
fn a_directory_not_in_the_tar_looks_as_it_does_below() {
    check(
        &["a dir 700 5:5 + user.k=v\na/b dir 711 6:6", "a/b/new file = n\nc/d file = x"],
        expect![[r#"
            a dir 700 5:5
            a/b dir 711 6:6
            a/b/new file 644 = n
            c dir 755
            c/d file 644 = x
        "#]],
    );
}

#[test]
fn a_hard_link_to_a_file_below_brings_it_up() {
    check(
        &["a dir 750 1:1\na/f file 640 3:4 = below", "b hard = a/f"],
        expect![[r#"
            a dir 750 1:1
            a/f file 640 3:4 x2 = below
            b file 640 3:4 x2 = below
        "#]],
    );
}

#[test]
fn later_entries_replace_earlier_ones() {
    check(
        &[
            "a file = 1\na file = 2\nb dir\nb/c file = x\nb file = flat\nl link = a\nl dir\nl/f file = y\na hard = a\ne dir 700\ne dir 755",
        ],
        expect![[r#"
            a file 644 = 2
            b file 644 = flat
            e dir 755
            l dir 755
            l/f file 644 = y
        "#]],
    );
}

#[test]
fn hostile_tars_stay_inside() {
    let test = TestStore::new();
    std::fs::create_dir(test.dir.path().join("victim")).unwrap();
    let victim = test.dir.path().join("victim").display().to_string();
    // Through links, absolute and climbing, of every kind of entry: all of it ends below the root.
    let layer = format!(
        "abs link = {victim}\nabs2 link = /\nup link = ../../../../../../../../..{victim}\nself link = /proc/self/cwd
         abs2/etc/x file = in\n{victim}/g file = named"
    );
    with_mounted(&test, &[&layer], |at| assert!(at.join("etc/x").exists()));
    for entry in ["abs/f file = x", "up/f file = x", "abs/p fifo", "abs/d dir", "abs/l link = x"] {
        let layer = format!("abs link = {victim}\nup link = ../../../../../../../../..{victim}\n{entry}");
        let lease = test.lease();
        // It fails (the link leads nowhere inside), or lands inside; never outside.
        let _ = test.add_layer(&mut &*tar(&layer), None, &Expected::default(), &lease);
    }
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0);
    refused(&["../x file = y"], "leads out of the root");
    refused(&["a/../../x file = y"], "leads out of the root");
    refused(&["a hard = ../../etc/passwd"], "leads out of the root");
    refused(&["a hard = /etc/passwd"], "does not exist");
    refused(&[". file = x"], "it is the root");
    refused(&["a/.wh... file ="], "whiteout of nothing");
    refused(&["a file = x\na/b file = y"], "open the parent directory");
    refused(&[&format!("{} file = x", "d/".repeat(600))], "too deep");
}

#[test]
fn overlays_own_attributes_are_not_taken_from_a_tar() {
    let test = TestStore::new();
    let tars = [
        "secret file = s\nd dir\nd/x file = x",
        "d dir + trusted.overlay.opaque=y\nr dir + trusted.overlay.redirect=/secret",
    ];
    with_mounted(&test, &tars, |at| assert!(at.join("d/x").exists()));
}

#[test]
fn broken_archives_are_refused_and_leave_nothing() {
    let test = TestStore::new();
    let good = tar("a file = hello");
    let gzip = |bytes: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut out, bytes).unwrap();
        out.finish().unwrap()
    };
    let mut bad_sum = good.clone();
    bad_sum[0] ^= 1;
    let packed = gzip(&good);
    let mut bad_gzip = packed.clone();
    let middle = packed.len() / 2;
    bad_gzip[middle] ^= 0xff;
    for (bytes, why) in [
        (&good[..700], "cut off"),
        (&good[..513], "cut off"),
        (&good[..100], "cut off"),
        (&good[..514], "cut off"),
        (&bad_sum[..], "checksum"),
        (&packed[..packed.len() / 2], ""),
        (&bad_gzip[..], ""),
        (&b"this is no tar, but long enough to be taken for a header. ".repeat(20)[..], "is it a tar"),
    ] {
        let options = sampan_image::ImportOptions { names: vec!["x".parse().unwrap()], ..Default::default() };
        let error = test.import_rootfs(&mut &*bytes, &options).unwrap_err();
        let text = sampan_base::chain(&error);
        assert!(text.contains(why), "{text}");
        assert_eq!(error.class(), sampan_base::Class::Invalid, "{text}");
        assert!(test.files().is_empty(), "{:?}", test.files());
    }
    assert!(test.list().unwrap().is_empty());
    // The same, packed, is the same layer.
    let options = sampan_image::ImportOptions::default();
    let a = test.import_rootfs(&mut &*packed, &options).unwrap();
    let b = test.import_rootfs(&mut &*zstd::encode_all(&*good, 3).unwrap(), &options).unwrap();
    assert_eq!(a.layers[0].diff_id, b.layers[0].diff_id);
    assert_eq!(test.files().iter().filter(|f| f.starts_with("snapshots")).count(), 1, "stored once");
}

/// GNU tar is the judge of what archives look like: sparse files in all of its formats, long names, big numbers.
#[test]
fn archives_of_gnu_tar_are_read_in_all_its_formats() {
    let test = TestStore::new();
    let src = test.dir.path().join("src");
    let long = "long-name-".repeat(20);
    std::fs::create_dir_all(src.join(&long)).unwrap();
    let sparse = std::fs::File::create(src.join("sparse")).unwrap();
    for offset in [0u64, 1 << 20, 5 << 20, 40 << 20] {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"piece", offset).unwrap();
    }
    sparse.set_len(100 << 20).unwrap();
    std::fs::write(src.join(&long).join("f"), "deep").unwrap();
    std::os::unix::fs::symlink("x/".repeat(120), src.join("link")).unwrap();
    std::os::unix::fs::lchown(src.join(&long), Some(70_000), Some(4_000_000_000)).unwrap();
    // Before 1970, and a part of a second where the format has one.
    let early = rustix::fs::Timespec { tv_sec: -1_500_000_000, tv_nsec: 250_000_000 };
    let early = rustix::fs::Timestamps { last_access: early, last_modification: early };
    let long_file = std::fs::File::open(src.join(&long).join("f")).unwrap();
    rustix::fs::futimens(&long_file, &early).unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=gnu", "--sparse"],
        &["--format=posix"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
    ] {
        let out = std::process::Command::new("tar")
            .args(format)
            .arg("-C")
            .arg(&src)
            .args(["-cf", "-", "."])
            .output();
        let out = out.unwrap();
        assert!(out.status.success(), "{out:?}");
        mount_tars(&test, &[out.stdout], |at| {
            let meta = std::fs::metadata(at.join("sparse")).unwrap();
            assert_eq!(meta.len(), 100 << 20, "{format:?}");
            if format.contains(&"--sparse") {
                assert!(meta.blocks() < 1000, "{format:?}: holes stay holes");
            }
            assert!(std::fs::read(at.join("sparse")).unwrap() == std::fs::read(src.join("sparse")).unwrap());
            assert_eq!(std::fs::read_to_string(at.join(&long).join("f")).unwrap(), "deep");
            assert_eq!(std::fs::read_link(at.join("link")).unwrap(), Path::new(&"x/".repeat(120)));
            let owner = std::fs::metadata(at.join(&long)).unwrap();
            assert_eq!((owner.uid(), owner.gid()), (70_000, 4_000_000_000));
            let file = std::fs::metadata(at.join(&long).join("f")).unwrap();
            assert_eq!(file.mtime(), -1_500_000_000, "{format:?}");
            assert_eq!(file.mtime_nsec(), if format[0] == "--format=posix" { 250_000_000 } else { 0 });
        });
    }
}

/// A layer made from a container's changes, applied again, gives what the container saw.
#[test]
fn a_diff_applied_again_gives_the_same_tree() {
    let test = TestStore::new();
    let base =
        "etc dir\netc/a file = a\netc/b file = b\nold dir\nold/x file = x\nvar dir 1777 3:3\nvar/y file = y";
    let image = test.import("base", base);
    test.prepare("c", image.chain_id(), &InitLayer::docker()).unwrap();
    let at = test.mount_point("m");
    test.mount("c", &at).unwrap();
    let script = "cd \"$1\" && rm -r old && mkdir old && echo new > old/z && rm etc/a && echo more >> etc/b && ln etc/b etc/c &&
        ln -s nowhere link && mkfifo pipe && mknod dev/node c 1 5 && chmod 4711 etc/b && mv var/y var/moved && mkdir -p p/q/r &&
        setfattr -n user.x -v 1 p 2>/dev/null; touch -d @1234567890.5 p/q; true";
    let status = std::process::Command::new("sh").args(["-c", script, "sh"]).arg(&at).status().unwrap();
    assert!(status.success());
    let times = |root: &Path| {
        let meta = std::fs::metadata(root.join("p/q")).unwrap();
        (meta.mtime(), meta.mtime_nsec())
    };
    let (before, q) = (tree(&at), times(&at));
    let lease = test.lease();
    let layer = test.commit("c", &lease).unwrap().unwrap();
    assert_eq!(test.commit("c", &lease).unwrap().unwrap(), layer, "the same changes are the same layer");
    let below: Vec<Layer> = image.layers.iter().cloned().chain([layer]).collect();
    let committed = test.create_image(image.config.clone(), &below, &[]).unwrap();
    // The init layer is not in it: it is put on again to compare.
    test.prepare("d", committed.chain_id(), &InitLayer::docker()).unwrap();
    let again = test.mount_point("n");
    test.mount("d", &again).unwrap();
    assert_eq!(before, tree(&again));
    assert_eq!(q, times(&again));
    assert_eq!(q, (1_234_567_890, 500_000_000));
}

#[test]
fn changes_are_told_as_docker_does() {
    let test = TestStore::new();
    let image =
        test.import("base", "etc dir\netc/a file = a\nd dir\nd/x file = x\ne dir\ne/f dir\ne/f/g file = g");
    test.prepare("c", image.chain_id(), &InitLayer::docker()).unwrap();
    let at = test.mount_point("m");
    test.mount("c", &at).unwrap();
    assert!(test.changes("c").unwrap().is_empty(), "the init layer is no change");
    let script = "cd \"$1\" && echo b >> etc/a && rm -r d && mkdir -p new/dir && echo x > new/dir/f && echo 1 >> e/f/g && echo h > etc/hosts";
    std::process::Command::new("sh").args(["-c", script, "sh"]).arg(&at).status().unwrap();
    let told: String = test
        .changes("c")
        .unwrap()
        .iter()
        .map(|c| format!("{} {}\n", c.kind.letter(), c.path.display()))
        .collect();
    expect![[r#"
        D /d
        C /e/f/g
        C /etc/a
        C /etc/hosts
        A /new
        A /new/dir
        A /new/dir/f
    "#]]
    .assert_eq(&told);
    test.unmount(&at).unwrap();
}

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

/// What asks for more than there may be says which limit it hit.
#[test]
fn limits_are_named() {
    let line = |xattrs: usize| {
        let (mut member, content) = crate::support::entry("f file = x");
        member.xattrs = (0..xattrs).map(|i| (format!("user.{i}").into_bytes(), Vec::new())).collect();
        let mut writer = sampan_image::tar::Writer::new(Vec::new());
        writer.append(&member, &mut &*content).unwrap();
        writer.finish().unwrap()
    };
    let zstd_window = {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.set_parameter(zstd::zstd_safe::CParameter::WindowLog(28)).unwrap();
        std::io::Write::write_all(&mut encoder, &vec![7; 1 << 20]).unwrap();
        encoder.finish().unwrap()
    };
    let huge = {
        let mut header = tar::Header::new_ustar();
        header.set_path("f").unwrap();
        header.set_size(1 << 40);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    for (bytes, why) in [
        (line(1001), "more than 1000 extended attributes"),
        (tar(&format!("{} file = x", "n/".repeat(3000))), "too long"),
        (zstd_window, ""),
        (huge, "more than 274877906944 bytes"),
    ] {
        let test = TestStore::new();
        let error = test.add_layer(&mut &*bytes, None, &Expected::default(), &test.lease()).unwrap_err();
        let text = sampan_base::chain(&error);
        assert!(text.contains(why), "{text}");
        assert_eq!(error.class(), sampan_base::Class::Invalid, "{text}");
        test.gc().unwrap();
        assert!(test.files().is_empty());
    }
}
