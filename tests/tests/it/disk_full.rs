//! A disk that fills up.

use sampan_testkit::{Instance, Mounted};

crate::cases! {
    a_build_on_a_full_disk_fails_clearly_and_leaves_a_usable_store,
    an_import_on_a_full_disk_fails_clearly_and_leaves_a_usable_store,
    containers_on_a_full_disk_fail_clearly_and_work_again_when_there_is_room,
}

/// A small file system of its own, and the directory where it is mounted.
struct Disk {
    mounted: Mounted,
    _directory: tempfile::TempDir,
}

impl Disk {
    fn new(size: &str) -> Disk {
        let directory = tempfile::Builder::new().prefix("sampan-it-disk-").tempdir().unwrap();
        let mounted = Mounted::new("tmpfs", directory.path(), &format!("size={size},mode=0711"));
        Disk { mounted, _directory: directory }
    }

    fn used(&self) -> u64 {
        let told = rustix::fs::statvfs(self.mounted.path()).unwrap();
        (told.f_blocks - told.f_bfree) * told.f_frsize
    }
}

fn a_build_on_a_full_disk_fails_clearly_and_leaves_a_usable_store() {
    let disk = Disk::new("24m");
    let it = Instance::builder().root(disk.mounted.path()).start();
    let context = it.scratch().join("context");
    std::fs::create_dir(&context).unwrap();
    let dockerfile = context.join("Dockerfile");
    let build = || it.sampan(["build", "-t", "built", context.to_str().unwrap()]);
    let images = it.sampan(["images", "-aq"]).ok().stdout;
    let before = disk.used();

    // In a RUN.
    std::fs::write(&dockerfile, "FROM busybox\nRUN dd if=/dev/urandom of=/big bs=1M count=100\n").unwrap();
    let failed = build();
    assert_ne!(failed.code, 0, "{failed}");
    assert!(format!("{failed}").contains("No space left on device"), "{failed}");
    // In a COPY.
    let big: Vec<u8> = (0..40_u32 << 18).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(context.join("big"), big).unwrap();
    std::fs::write(&dockerfile, "FROM busybox\nCOPY big /big\n").unwrap();
    let failed = build();
    assert_ne!(failed.code, 0, "{failed}");
    let line = failed.stderr.lines().find(|l| l.contains("o space left on device"));
    assert!(line.is_some(), "{failed}");
    std::fs::remove_file(context.join("big")).unwrap();

    assert_eq!(it.sampan(["images", "-aq"]).ok().stdout, images);
    it.assert_idle();
    let after = disk.used();
    assert!(after < before + (2 << 20), "{} bytes more are used than before", after - before);
    std::fs::write(&dockerfile, "FROM busybox\nRUN echo fits >/small\n").unwrap();
    build().ok();
    it.sampan(["run", "--rm", "built", "cat", "/small"]).ok().is("fits");
    it.restart();
    it.sampan(["run", "--rm", "built", "cat", "/small"]).ok().is("fits");
    drop(it);
}

fn an_import_on_a_full_disk_fails_clearly_and_leaves_a_usable_store() {
    let disk = Disk::new("24m");
    let it = Instance::builder().root(disk.mounted.path()).start();
    let before = disk.used();
    let file = it.scratch().join("big.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&file).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(40 << 20);
    let noise: Vec<u8> =
        (0..10_u32 << 20).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    tar.append_data(&mut header, "big", noise.as_slice()).unwrap();
    tar.finish().unwrap();
    let failed = it.sampan(["import", file.to_str().unwrap(), "big:1"]);
    assert_ne!(failed.code, 0, "{failed}");
    assert!(failed.stderr.contains("o space left on device"), "{failed}");
    assert!(!it.sampan(["images"]).ok().stdout.contains("big"));
    let after = disk.used();
    assert!(after < before + (2 << 20), "{} bytes more are used than before", after - before);
    it.sampan(["run", "--rm", "busybox", "echo", "still here"]).ok().is("still here");
    drop(it);
}

fn containers_on_a_full_disk_fail_clearly_and_work_again_when_there_is_room() {
    let disk = Disk::new("24m");
    let it = Instance::builder().root(disk.mounted.path()).start();
    let script = "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done";
    it.sampan(["run", "-d", "--name", "c1", "busybox", "sh", "-c", script]).ok();
    sampan_testkit::wait_until("it runs", || it.sampan(["logs", "c1"]).stdout.contains("up"));
    let filler = disk.mounted.path().join("filler");
    let full = std::fs::write(&filler, vec![1u8; 24 << 20]);
    assert!(full.is_err(), "the disk is full");

    for arguments in
        [&["create", "busybox", "true"][..], &["run", "--rm", "busybox", "true"], &["volume", "create", "v1"]]
    {
        let failed = it.sampan(arguments);
        assert!(failed.code != 0 && failed.stderr.contains("No space left on device"), "{failed}");
    }
    // What is in memory goes on.
    it.sampan(["exec", "c1", "true"]).ok();
    it.sampan(["stop", "c1"]).ok();
    assert_eq!(it.inspect("c1", "/State/ExitCode"), 7);
    // Also to a next daemon.
    it.kill_9();
    it.start();
    assert_eq!(it.inspect("c1", "/State/ExitCode"), 7);
    std::fs::remove_file(&filler).unwrap();
    it.sampan(["run", "--rm", "busybox", "true"]).ok();
    it.sampan(["volume", "create", "v1"]).ok();
    it.sampan(["start", "c1"]).ok();
    it.restart();
    assert_eq!(it.inspect("c1", "/State/Status"), "running");
    it.sampan(["rm", "-f", "c1"]).ok();
    it.sampan(["volume", "rm", "v1"]).ok();
}
