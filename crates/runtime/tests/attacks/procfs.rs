//! Classes 3, 7, 13 and 18: proc and sysfs that are not what they seem, and what is written to them.
//!
//! * 03 (CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2023-28642). Attack: the image or a volume makes `/proc` or
//!   `/sys` a link or a directory of files, so that the security label goes to a fake. Defence: proc and sysfs are mounted
//!   on ordinary directories only, nothing else on `/proc`, and labels are written by a handle on the host's proc.
//!   Control: a label written by its path.
//! * 07 (CVE-2022-0811). Attack: a parameter's value smuggles in another parameter. Defence: one file a parameter,
//!   written as a whole, and only parameters of the container's namespaces. Control: a list that is split at `+`. (In a
//!   directory that stands for `/proc/sys`.)
//! * 13 (CVE-2025-52881). Attack: a volume is mounted over a part of proc by a link that is swapped in, so that a write
//!   meant for proc goes elsewhere. Defence: parameters are written through a proc of our own, before any mount; nothing
//!   may be mounted inside of proc, wherever a link leads. Control: mount and write by path.
//! * 18 (youki, CVE-2025-54867 and kin). Attack: as 3, the link leading out of the root. Defence: as 3, and no link leads
//!   out. Control: a mount by path.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use crate::harness::Fixture;
use crate::support::{OLD_RUNC, ROUNDS, exchange, mount, naive, naive_paused, swapping};

pub(crate) fn ordinary_directories() {
    for (name, kind) in [("proc", "proc"), ("sys", "sysfs")] {
        let f = Fixture::new("true");
        fs::remove_dir(f.rootfs().join(name)).unwrap();
        fs::create_dir(f.rootfs().join("fake")).unwrap();
        symlink("/fake", f.rootfs().join(name)).unwrap();
        f.run().fails(1, &format!("mount `{kind}` at `/{name}`: it must be mounted on ordinary directory"));
        f.assert_gone();
    }
}

pub(crate) fn nothing_on_proc() {
    for (destination, by_link) in [("/proc", false), ("/proc/self", false), ("/innocent", true)] {
        let f = Fixture::new("true");
        symlink("/proc/sys", f.rootfs().join("innocent")).unwrap();
        let source = f.path("source");
        fs::create_dir(&source).unwrap();
        let f = f.with(|c| {
            mount(
                c,
                json!({"destination": destination, "type": "bind", "source": source, "options": ["bind"]}),
            );
        });
        let with = if by_link { "leads into proc" } else { "proc" };
        f.run().fails(1, with);
        f.assert_gone();
    }
}

pub(crate) fn fake_proc_control() {
    let f = Fixture::new("true");
    let volume = f.path("volume");
    fs::create_dir_all(volume.join("self/attr")).unwrap();
    fs::write(volume.join("self/attr/exec"), "").unwrap();
    let steps = format!(
        "unshare m root {} mount bind {} /proc enter write /proc/self/attr/exec label",
        f.rootfs().display(),
        volume.display()
    );
    naive(&steps, &["/bin/true"]).ok();
    assert_eq!(fs::read_to_string(volume.join("self/attr/exec")).unwrap(), "label");
}

pub(crate) fn one_parameter() {
    let before = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    for (name, value, why) in [
        ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/x", "set sysctl"),
        ("kernel.shm_rmid_forced", "x\nkernel.core_pattern=|/x", "set sysctl"),
        ("kernel.shm_rmid_forced=1+kernel.core_pattern", "|/x", "belongs to no namespace"),
        ("net/../kernel/core_pattern", "|/x", "no parameter's name"),
        ("net.ipv4.ip_forward/../../../kernel/core_pattern", "|/x", "no parameter's name"),
        ("kernel.core_pattern", "|/x", "belongs to no namespace"),
    ] {
        let f = Fixture::new("true").with(|c| c["linux"]["sysctl"] = json!({name: value}));
        f.run().fails(1, why);
        assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before, "{name}={value}");
    }
}

pub(crate) fn one_parameter_control() {
    let f = Fixture::new("true");
    let kernel = f.path("sys/kernel");
    fs::create_dir_all(&kernel).unwrap();
    for name in ["shm_rmid_forced", "core_pattern"] {
        fs::write(kernel.join(name), "").unwrap();
    }
    let steps =
        format!("parameters {} kernel.shm_rmid_forced=1+kernel.core_pattern=|/x", f.path("sys").display());
    naive(&steps, &[]).ok();
    assert_eq!(fs::read_to_string(kernel.join("core_pattern")).unwrap(), "|/x");
}

/// A volume in which `a` is a directory and `b` a link into proc; and what a mount at `a` would put there.
fn volume(f: &Fixture) -> (std::path::PathBuf, std::path::PathBuf) {
    let (volume, fake) = (f.rootfs().join("shared"), f.path("fake"));
    fs::create_dir_all(volume.join("a")).unwrap();
    symlink("../proc/sys/net/ipv4", volume.join("b")).unwrap();
    fs::create_dir(&fake).unwrap();
    fs::write(fake.join("ip_default_ttl"), "fake").unwrap();
    (volume, fake)
}

pub(crate) fn redirected() {
    let f =
        Fixture::new("cat /proc/sys/net/ipv4/ip_default_ttl; grep -c ' /proc/sys/net' /proc/self/mountinfo");
    let (volume, fake) = volume(&f);
    let f = f.with(|c| {
        mount(c, json!({"destination": "/shared/a", "type": "bind", "source": fake, "options": ["bind"]}));
        c["linux"]["sysctl"] = json!({"net.ipv4.ip_default_ttl": "77"});
    });
    let swapper = swapping(&volume, "a", "b");
    let mut ran = 0;
    for _ in 0..ROUNDS {
        let output = f.run();
        if output.err.is_empty() {
            ran += 1;
            assert_eq!(output.out, "77\n0\n");
        } else {
            assert!(output.err.contains("leads into proc"), "{output:?}");
        }
        assert_eq!(fs::read_to_string(fake.join("ip_default_ttl")).unwrap(), "fake");
    }
    drop(swapper);
    assert!(ran > 0, "no container ran at all");
    f.assert_gone();
}

pub(crate) fn redirected_control() {
    let f = Fixture::new("true");
    let (volume, fake) = volume(&f);
    let pause = f.path("pause");
    let steps = format!(
        "unshare mpn root {} mount proc proc /proc is-inside /shared/a pause {} mount bind {} /shared/a enter \
         write /proc/sys/net/ipv4/ip_default_ttl 77",
        f.rootfs().display(),
        pause.display(),
        fake.display()
    );
    naive_paused(&pause, &steps, &["/bin/true"], || exchange(&volume, "a", "b")).ok();
    assert_eq!(fs::read_to_string(fake.join("ip_default_ttl")).unwrap(), "77ke");
}

pub(crate) fn linked_directories() {
    for name in ["proc", "sys", "dev", "sys/fs", "dev/pts"] {
        for target in ["OUTSIDE", "../../../../../../OUTSIDE", "/", "..", "/nowhere", "/proc/self/root"] {
            let f = Fixture::new("cat /proc/self/mountinfo");
            let outside = f.path("outside");
            fs::create_dir(&outside).unwrap();
            let place = f.rootfs().join(name);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            let _ = fs::remove_dir_all(&place);
            symlink(target.replace("OUTSIDE", &outside.display().to_string()), &place).unwrap();
            let output = f.run();
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{name} -> {target}: {output:?}");
            if matches!(name, "proc" | "sys") {
                assert_eq!(output.code, 1, "{name} -> {target}: {output:?}");
            }
            // Nothing of the host's is to be seen: each mount is of a file system of the container's own.
            let canary = f.directory.path().file_name().unwrap().to_str().unwrap();
            let strange = |line: &&str| line.contains(canary) && !line.contains("/bundle/rootfs / ");
            assert_eq!(output.out.lines().find(strange), None, "{name} -> {target}");
            f.assert_gone();
        }
    }
}

pub(crate) fn linked_directories_control() {
    let f = Fixture::new("true");
    let (outside, mounts) = (f.path("outside"), f.path("mounts"));
    fs::create_dir(&outside).unwrap();
    fs::remove_dir(f.rootfs().join("proc")).unwrap();
    symlink(&outside, f.rootfs().join("proc")).unwrap();
    let steps =
        format!("unshare mp root {} mount proc proc /proc mounts {}", f.rootfs().display(), mounts.display());
    naive(&steps, &[]).ok();
    let mounts = fs::read_to_string(Path::new(&mounts)).unwrap();
    assert!(mounts.contains(&format!(" / {} ", outside.display())), "{mounts}");
}

pub(crate) fn linked_directories_old_runc() {
    let f = Fixture::with_runtime(Path::new(OLD_RUNC), "true").with(|c| c["ociVersion"] = "1.0.2".into());
    let outside = f.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::remove_dir(f.rootfs().join("dev")).unwrap();
    symlink(&outside, f.rootfs().join("dev")).unwrap();
    f.run();
    assert_ne!(fs::read_dir(&outside).unwrap().count(), 0);
}
