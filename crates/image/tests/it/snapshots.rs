//! The contract of snapshots, which an overlay and a copy must both keep; and mounts for user namespaces.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use sampan_base::Class;
use sampan_image::{IdMapping, IdRange, InitLayer, Snapshotter, Store, UserNamespace, extract};

use crate::support::{TestStore, tar, tree};

const BASE: &str = "d dir 750 3:4\nd/a file 600 3:4 = a\nd/gone file = g\nd/deep/x file = x\nl link 777 = d\nhard file = h\nhard2 hard = hard\nf file = f + user.k=v\nno dir\nno/x file = x";
const TOP: &str = ".wh.no file =\nd/deep/.wh..wh..opq file =\nd/deep/y file = y\nf file = f2";

/// The layers as a container sees them.
const SEEN: &str = "d dir 750 3:4\nd/a file 600 3:4 = a\nd/deep dir 755\nd/deep/y file 644 = y\nd/gone file 644 = g\nf file 644 = f2\nhard file 644 x2 = h\nhard2 file 644 x2 = h\nl link = d\n";

fn contract(how: Snapshotter) {
    let mut test = TestStore::with(how);
    let base = test.import("base", BASE);
    let lease = test.lease();
    let top = test.add_layer(&mut &*tar(TOP), base.chain_id(), &Default::default(), &lease).unwrap();
    let layers: Vec<_> = base.layers.iter().cloned().chain([top]).collect();
    let image = test.create_image(base.config.clone(), &layers, &["top".parse().unwrap()]).unwrap();
    drop(lease);
    let at = test.mount_point("m");

    // What is prepared is there, and can be mounted again and again.
    test.prepare("c", image.chain_id(), &InitLayer::docker()).unwrap();
    assert_eq!(test.prepare("c", None, &InitLayer::empty()).unwrap_err().class(), Class::Conflict);
    test.mount("c", &at).unwrap();
    assert!(at.join("proc").is_dir() && at.join("etc/hosts").is_file());
    assert_eq!(fs::metadata(at.join("d")).unwrap().mode() & 0o7777, 0o750);
    assert_eq!(test.changes("c").unwrap(), [], "nothing was changed yet");
    assert_eq!(test.snapshot_size("c").unwrap(), 0);
    let lease = test.lease();
    assert_eq!(test.commit("c", &lease).unwrap(), None);

    // Every kind of change.
    fs::write(at.join("d/new"), "new").unwrap();
    fs::write(at.join("d/a"), "changed").unwrap();
    fs::remove_file(at.join("d/gone")).unwrap();
    fs::remove_dir_all(at.join("d/deep")).unwrap();
    fs::create_dir(at.join("d/deep")).unwrap();
    fs::write(at.join("d/deep/z"), "z").unwrap();
    fs::set_permissions(at.join("f"), PermissionsExt::from_mode(0o4711)).unwrap();
    fs::remove_file(at.join("l")).unwrap();
    fs::create_dir(at.join("l")).unwrap();
    extract(
        &mut &*tar(
            "n char 600 = 1:3\np fifo 640 9:9\nx/y/z file 600 100000:1 = z + user.k=v\nx/w hard = x/y/z",
        ),
        &at,
        Path::new(""),
    )
    .unwrap();
    let seen = tree(&at);
    test.unmount(&at).unwrap();
    let changed: Vec<String> = test
        .changes("c")
        .unwrap()
        .iter()
        .map(|c| format!("{} {}", c.kind.letter(), c.path.display()))
        // In a directory that was made anew an overlay does not know any more what there was.
        .filter(|line| line != "D /d/deep/y")
        .collect();
    expect_test::expect![[r#"
        C /d
        C /d/a
        C /d/deep
        A /d/deep/z
        D /d/gone
        A /d/new
        C /f
        C /l
        A /n
        A /p
        A /x
        A /x/w
        A /x/y
        A /x/y/z"#]]
    .assert_eq(&changed.join("\n"));

    // It survives: another process, another mount.
    drop(lease);
    test.store = None;
    test.store = Some(Store::open_with(&test.root(), how).unwrap());
    test.mount("c", &at).unwrap();
    assert_eq!(tree(&at), seen);

    // What is committed is what was seen, without the init layer.
    let lease = test.lease();
    let layer = test.commit("c", &lease).unwrap().unwrap();
    let view = test.view(Some(&layer.chain_id), &lease).unwrap();
    let init = |line: &&str| !["etc", "proc", "sys", "dev", ".dockerenv"].iter().any(|p| line.starts_with(p));
    let expected: Vec<&str> = seen.lines().filter(init).collect();
    assert_eq!(tree(view.rootfs()).lines().collect::<Vec<_>>(), expected);
    drop(view);
    let view = test.view(image.chain_id(), &lease).unwrap();
    assert_eq!(tree(view.rootfs()), SEEN, "the image is as it was");
    drop(view);

    // A build step: a layer, or nothing.
    let scratch = test.scratch(image.chain_id(), &InitLayer::docker(), &lease).unwrap();
    assert!(scratch.freeze(&lease, None).unwrap().is_none());
    let scratch = test.scratch(image.chain_id(), &InitLayer::docker(), &lease).unwrap();
    fs::write(scratch.rootfs().join("made"), "m").unwrap();
    fs::remove_file(scratch.rootfs().join("f")).unwrap();
    let made = scratch.freeze(&lease, None).unwrap().unwrap();
    let view = test.view(Some(&made.chain_id), &lease).unwrap();
    let expected =
        SEEN.replace("f file 644 = f2\n", "").replace("l link = d\n", "l link = d\nmade file 644 = m\n");
    assert_eq!(tree(view.rootfs()), expected);
    drop(view);

    drop(lease);
    test.unmount(&at).unwrap();
    test.remove_snapshot("c").unwrap();
    test.gc().unwrap();
    let report = test.check(sampan_image::CheckOptions { deep: true, repair: false }).unwrap();
    assert_eq!(report.problems, []);
}

#[test]
fn an_overlay_keeps_the_contract() {
    contract(Snapshotter::Overlay);
}

#[test]
fn a_copy_keeps_the_contract() {
    contract(Snapshotter::Copy);
}

/// A host may lose or gain overlayfs: what was changed stays.
#[test]
fn a_snapshot_of_the_one_kind_is_mounted_by_the_other() {
    let mut test = TestStore::with(Snapshotter::Overlay);
    let image = test.import("base", BASE);
    let at = test.mount_point("m");
    test.prepare("c", image.chain_id(), &InitLayer::empty()).unwrap();
    for (round, how) in
        [Snapshotter::Overlay, Snapshotter::Copy, Snapshotter::Overlay].into_iter().enumerate()
    {
        test.store = None;
        test.store = Some(Store::open_with(&test.root(), how).unwrap());
        test.mount("c", &at).unwrap();
        fs::write(at.join(round.to_string()), "x").unwrap();
        assert_eq!((0..=round).filter(|n| at.join(n.to_string()).exists()).count(), round + 1);
        test.unmount(&at).unwrap();
        assert_eq!(test.changes("c").unwrap().len(), round + 1);
    }
}

/// A process in a user namespace that maps 0 to 100000, and so on; killed when dropped.
struct Namespace(std::process::Child);

impl Namespace {
    fn new() -> Namespace {
        let child = std::process::Command::new("unshare").args(["--user", "sleep", "60"]).spawn().unwrap();
        let proc = format!("/proc/{}", child.id());
        let own = fs::read_link("/proc/self/ns/user").unwrap();
        while fs::read_link(format!("{proc}/ns/user")).unwrap() == own {
            std::thread::yield_now();
        }
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("{proc}/{map}"), "0 100000 65536").unwrap();
        }
        Namespace(child)
    }

    fn file(&self) -> fs::File {
        fs::File::open(format!("/proc/{}/ns/user", self.0.id())).unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_mapped_snapshot_belongs_to_the_user_namespace_and_its_layer_to_the_image() {
    let test = TestStore::with(Snapshotter::Overlay);
    let image = test.import("base", BASE);
    let namespace = Namespace::new();
    let range = vec![IdRange { inside: 0, outside: 100_000, length: 65_536 }];
    let mapping = IdMapping { uids: range.clone(), gids: range };
    let at = test.mount_point("m");
    test.prepare("c", image.chain_id(), &InitLayer::docker()).unwrap();
    test.mount_mapped("c", namespace.file().as_fd(), &mapping, &at).unwrap();
    let owner = |path: &Path| fs::symlink_metadata(path).map(|m| (m.uid(), m.gid())).unwrap();
    assert_eq!(owner(&at), (100_000, 100_000));
    assert_eq!(owner(&at.join("f")), (100_000, 100_000));
    assert_eq!(owner(&at.join("d/a")), (100_003, 100_004));
    assert_eq!(owner(&at.join("etc/hosts")), (100_000, 100_000), "the init layer, too");
    assert_eq!(test.changes("c").unwrap(), []);
    // What the namespace's users do.
    fs::write(at.join("d/a"), "changed").unwrap();
    fs::write(at.join("d/new"), "n").unwrap();
    std::os::unix::fs::chown(at.join("d/new"), Some(100_007), Some(100_008)).unwrap();
    fs::remove_file(at.join("d/gone")).unwrap();
    test.unmount(&at).unwrap();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(test.dir.path().to_str().unwrap()), "nothing stays mounted");
    let changed = test.changes("c").unwrap();
    let changed: Vec<_> =
        changed.iter().map(|c| format!("{} {}", c.kind.letter(), c.path.display())).collect();
    assert_eq!(changed, ["C /d", "C /d/a", "D /d/gone", "A /d/new"]);
    let lease = test.lease();
    let layer = test.commit("c", &lease).unwrap().unwrap();
    let view = test.view(Some(&layer.chain_id), &lease).unwrap();
    assert_eq!(owner(&view.rootfs().join("d")), (3, 4));
    assert_eq!(owner(&view.rootfs().join("d/a")), (3, 4));
    assert_eq!(owner(&view.rootfs().join("d/new")), (7, 8));
    drop(view);
    // The mapping stays the snapshot's.
    let other = IdMapping::default();
    for refused in [test.mount("c", &at), test.mount_mapped("c", namespace.file().as_fd(), &other, &at)] {
        assert_eq!(refused.unwrap_err().class(), Class::Unsupported);
    }
    test.mount_mapped("c", namespace.file().as_fd(), &mapping, &at).unwrap();
    assert_eq!(owner(&at.join("d/new")), (100_007, 100_008));
    test.unmount(&at).unwrap();
    let copy = TestStore::with(Snapshotter::Copy);
    let image = copy.import("base", BASE);
    copy.prepare("c", image.chain_id(), &InitLayer::empty()).unwrap();
    let refused = copy.mount_mapped("c", namespace.file().as_fd(), &mapping, &at).unwrap_err();
    assert_eq!(refused.class(), Class::Unsupported);
}

#[test]
fn what_a_step_in_a_user_namespace_makes_is_the_layer_that_the_host_would_make() {
    const CAPABILITY: &str = "security.capability";
    let test = TestStore::with(Snapshotter::Overlay);
    let image = test.import("base", BASE);
    let namespace = Namespace::new();
    let range = vec![IdRange { inside: 0, outside: 100_000, length: 65_536 }];
    let mapping = IdMapping { uids: range.clone(), gids: range };
    let users = UserNamespace { namespace: std::sync::Arc::new(namespace.file()), mapping };
    let lease = test.lease();
    // By whoever is root there: `first` is its id here.
    let step = |users: Option<&UserNamespace>, first: u32, capability: &[u8]| {
        let scratch = test.scratch_for(users, image.chain_id(), &InitLayer::docker(), &lease).unwrap();
        let at = scratch.rootfs().to_owned();
        let owner = |path: &str| fs::symlink_metadata(at.join(path)).map(|m| (m.uid(), m.gid())).unwrap();
        assert_eq!([owner(""), owner("f"), owner("proc")], [(first, first); 3]);
        assert_eq!(owner("d/a"), (first + 3, first + 4));
        let change = || {
            fs::write(at.join("d/a"), "changed").unwrap();
            fs::write(at.join("d/new"), "n").unwrap();
            std::os::unix::fs::chown(at.join("d/new"), Some(first + 7), Some(first + 8)).unwrap();
            fs::set_permissions(at.join("d/new"), PermissionsExt::from_mode(0o6755)).unwrap();
            fs::remove_file(at.join("d/gone")).unwrap();
            fs::create_dir(at.join("made")).unwrap();
            std::os::unix::fs::symlink("to", at.join("made/link")).unwrap();
            rustix::fs::setxattr(at.join("f"), CAPABILITY, capability, rustix::fs::XattrFlags::empty())
                .unwrap();
        };
        sampan_kernel::fs_user::as_user(first, first, change).unwrap();
        let layer = scratch.freeze(&lease, Some(0)).unwrap().unwrap();
        let view = test.view(Some(&layer.chain_id), &lease).unwrap();
        let owner = |path: &str| fs::symlink_metadata(view.rootfs().join(path)).map(|m| (m.uid(), m.gid()));
        assert_eq!((owner("d/new").unwrap(), owner("made/link").unwrap()), ((7, 8), (0, 0)));
        layer
    };
    // What gives a program CAP_NET_RAW, and the same for the root of a namespace alone.
    let sets = [0x2000u32, 0, 0, 0].map(u32::to_le_bytes).concat();
    let whole = [&0x0200_0001u32.to_le_bytes()[..], &sets].concat();
    let own = [&0x0300_0001u32.to_le_bytes()[..], &sets, &100_000u32.to_le_bytes()].concat();
    let mapped = step(Some(&users), 100_000, &own);
    assert_eq!(mapped, step(None, 0, &whole));
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(test.dir.path().to_str().unwrap()), "nothing stays mounted");
    // Nothing of it is left beside the layers, and a store that opens finds nothing to mend.
    let report = test.check(sampan_image::CheckOptions { deep: true, repair: false }).unwrap();
    assert_eq!(report.problems, []);
    let copy = TestStore::with(Snapshotter::Copy);
    let refused = copy.scratch_for(Some(&users), None, &InitLayer::empty(), &copy.lease()).err().unwrap();
    assert_eq!(refused.class(), Class::Unsupported);
}

#[test]
fn a_short_lived_snapshot_outlives_the_process_without_a_record() {
    let mut test = TestStore::new();
    let image = test.import("base", BASE);
    let at = test.mount_point("m");
    test.prepare_short_lived("c", image.chain_id(), &InitLayer::docker()).unwrap();
    assert_eq!(test.prepare("c", None, &InitLayer::empty()).unwrap_err().class(), Class::Conflict);
    test.mount("c", &at).unwrap();
    fs::write(at.join("new"), "new").unwrap();
    test.unmount(&at).unwrap();
    // Its layers are in use, though no record in the database says so.
    test.remove(&image.id).unwrap();
    test.gc().unwrap();
    test.prepare_short_lived("d", image.chain_id(), &InitLayer::docker()).unwrap();
    test.remove_snapshot("d").unwrap();
    for _ in 0..2 {
        test.reopen();
        let keys: Vec<_> = test.snapshots().unwrap().into_iter().map(|s| s.key).collect();
        assert_eq!(keys, ["c"]);
        test.mount("c", &at).unwrap();
        assert_eq!(fs::read_to_string(at.join("new")).unwrap(), "new");
        test.unmount(&at).unwrap();
    }
    // One that was committed with others goes like any other.
    test.import("other", BASE);
    test.reopen();
    test.remove_snapshot("c").unwrap();
    test.reopen();
    assert!(test.snapshots().unwrap().is_empty());
    assert!(test.check(sampan_image::CheckOptions::default()).unwrap().problems.is_empty());
}
