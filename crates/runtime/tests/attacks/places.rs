//! Classes 4, 10, 11, 12, 14, 15 and 17: places in the root file system that are not where they were, or not what.
//!
//! * 04 (CVE-2021-30465). Attack: another container that shares a volume swaps the place of a mount for a link out of the
//!   root while the container is made. Defence: the kernel resolves inside the root (`openat2`, `RESOLVE_IN_ROOT`), and the
//!   mount is attached to what was found, by descriptor. Control: look, then mount by path.
//! * 10 (CVE-2024-45310). Attack: as 4, where the place is missing and is made. Defence: made part by part, by
//!   descriptor. Control: look, then `mkdir -p`.
//! * 11 (CVE-2025-31133). Attack: `/dev/null` of a volume is swapped for a link, and that is what masked paths get.
//!   Defence: they get the host's null device, opened and looked at before. Control: look, then bind by path.
//! * 12 (CVE-2025-52565). Attack: `/dev/pts/N` or `/dev/console` is swapped while the terminal is bound. Defence: the
//!   terminal is taken from the kernel by its other end (`TIOCGPTPEER`) and bound by descriptor. Control: bind by path.
//! * 14 (runc 2026-41579, crun 2026-47766). Attack: `/dev` is a link, and device nodes are made where it leads. Defence:
//!   links are refused there. Control: mknod by path.
//! * 15 (crun 2026-88264, 2026-88265). Attack: `/dev/null` or `/dev/console` of the image is a link; its target gets
//!   another owner, or a mount. Defence: what is not the device is refused; only pipes and terminals change owners.
//!   Control: open and chown by path.
//! * 24: Attack: a mount is to be removed from a running container, which has put a link to `/proc` where the directory was:
//!   a mask is removed instead. Defence: nothing is removed from proc and sysfs.
//! * 17 (crun CVE-2025-24965, CVE-2019-18837). Attack: a file that the runtime reads or writes in the root is a link.
//!   Defence: as 4; nothing is written there, and passwd is read from inside. Control: made and mounted by path.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, makedev, mknodat};
use serde_json::json;

use crate::harness::Fixture;
use crate::support::{
    OLD_RUNC, ROUNDS, exchange, mount, naive, naive_paused, swapping, without_mounts, without_network,
};

/// A bundle whose `/shared` has a directory `a` and a link `b` to a directory of the host.
fn volume(script: &str) -> (Fixture, PathBuf, PathBuf) {
    let f = Fixture::new(script).with(without_network);
    let (volume, outside) = (f.rootfs().join("shared"), f.path("outside"));
    fs::create_dir_all(volume.join("a")).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink(&outside, volume.join("b")).unwrap();
    (f, volume, outside)
}

pub(crate) fn swapped_place() {
    let (f, volume, outside) = volume("true");
    let seen = f.path("seen");
    for file in [&seen, &outside.join("there")] {
        fs::write(file, "").unwrap();
    }
    // A hook looks before the host's tree is let go whether something hides what is there: later nobody could tell.
    let look = format!("test -e {}/there || echo hidden >> {}", outside.display(), seen.display());
    let f = f.with(|c| {
        mount(c, json!({"destination": "/shared/a", "type": "tmpfs", "source": "tmpfs"}));
        c["hooks"] = json!({"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", look]}]});
    });
    let swapper = swapping(&volume, "a", "b");
    for _ in 0..ROUNDS {
        f.run();
    }
    drop(swapper);
    assert_eq!(fs::read_to_string(seen).unwrap(), "", "it was mounted outside");
    f.assert_gone();
}

pub(crate) fn swapped_place_control() {
    let (f, volume, outside) = volume("true");
    let (pause, mounts) = (f.path("pause"), f.path("mounts"));
    let steps = format!(
        "unshare m root {} is-inside /shared/a pause {} mount tmpfs none /shared/a mounts {}",
        f.rootfs().display(),
        pause.display(),
        mounts.display()
    );
    naive_paused(&pause, &steps, &[], || exchange(&volume, "a", "b")).ok();
    let mounts = fs::read_to_string(mounts).unwrap();
    assert!(mounts.contains(&format!(" {} ", outside.display())), "{mounts}");
}

pub(crate) fn made_outside() {
    let (f, volume, outside) = volume("true");
    let file = f.path("file");
    fs::write(&file, "").unwrap();
    let f = f.with(|c| {
        mount(c, json!({"destination": "/shared/a/x/y", "type": "tmpfs", "source": "tmpfs"}));
        mount(c, json!({"destination": "/shared/a/z", "type": "bind", "source": file, "options": ["bind"]}));
        c["process"]["cwd"] = "/shared/a/cwd".into();
    });
    let swapper = swapping(&volume, "a", "b");
    for _ in 0..ROUNDS {
        f.run();
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "something was made outside");
        // What is there already is not made.
        for directory in [volume.join("a"), volume.join("b")] {
            for name in ["x", "cwd"] {
                let _ = fs::remove_dir_all(directory.join(name));
            }
            let _ = fs::remove_file(directory.join("z"));
        }
    }
    drop(swapper);
    f.assert_gone();
}

pub(crate) fn made_outside_control() {
    let (f, volume, outside) = volume("true");
    let pause = f.path("pause");
    let root = f.rootfs();
    let steps = format!(
        "unshare m root {} is-inside /shared/a pause {} directories /shared/a/x/y",
        root.display(),
        pause.display()
    );
    naive_paused(&pause, &steps, &[], || exchange(&volume, "a", "b")).ok();
    assert!(outside.join("x/y").is_dir());
}

/// A volume for `/dev`: the null device, and a link to what nobody in a container may touch.
fn dev(f: &Fixture) -> PathBuf {
    let dev = f.path("dev");
    fs::create_dir(&dev).unwrap();
    for sub in ["pts", "shm", "mqueue"] {
        fs::create_dir(dev.join(sub)).unwrap();
    }
    mknodat(CWD, dev.join("null"), FileType::CharacterDevice, 0o666.into(), makedev(1, 3)).unwrap();
    fs::write(dev.join("console"), "").unwrap();
    symlink("/proc/sys/kernel/core_pattern", dev.join("link")).unwrap();
    dev
}

pub(crate) fn swapped_null() {
    let f = Fixture::new("stat -c %t,%T /proc/keys; grep -c core_pattern /proc/self/mountinfo");
    let dev = dev(&f);
    let f = f.with(|c| {
        without_network(c);
        without_mounts(c, "/dev");
        mount(c, json!({"destination": "/dev", "type": "bind", "source": dev, "options": ["bind"]}));
        c["linux"]["maskedPaths"] = json!(["/proc/keys", "/proc/timer_list", "/proc/kcore"]);
    });
    assert_eq!(f.run().ok_whatever(), "1,3\n0\n");
    let swapper = swapping(&dev, "null", "link");
    for _ in 0..ROUNDS {
        assert_eq!(f.run().out, "1,3\n0\n");
    }
    drop(swapper);
    f.assert_gone();
}

pub(crate) fn swapped_null_old_runc() {
    // Not a race: it takes what is there, and nobody looks.
    let f = Fixture::with_runtime(Path::new(OLD_RUNC), "grep -c core_pattern /proc/self/mountinfo");
    let dev = dev(&f);
    exchange(&dev, "null", "link");
    let f = f.with(|c| {
        c["ociVersion"] = "1.0.2".into();
        without_network(c);
        without_mounts(c, "/dev");
        mount(c, json!({"destination": "/dev", "type": "bind", "source": dev, "options": ["bind"]}));
        c["linux"]["maskedPaths"] = json!(["/proc/keys"]);
    });
    assert_eq!(f.run().ok(), "1\n");
}

/// What came out of a script whose last command is `grep -c`, which fails when there is nothing.
trait Whatever {
    fn ok_whatever(self) -> String;
}

impl Whatever for crate::harness::Output {
    fn ok_whatever(self) -> String {
        assert!(self.code <= 1 && self.err.is_empty(), "{self:?}");
        self.out
    }
}

pub(crate) fn swapped_null_control() {
    let f = Fixture::new("true");
    let dev = dev(&f);
    fs::copy(crate::support::program("attacker"), f.rootfs().join("bin/x")).unwrap();
    // Inside the container, because that is where a runtime masks.
    let steps = format!(
        "unshare mp root {} mount proc proc /proc mount bind {} /dev enter is-device /dev/null pause /tmp/pause \
         bind /dev/null /proc/keys",
        f.rootfs().display(),
        dev.display()
    );
    let pause = f.rootfs().join("tmp/pause");
    let mut child = crate::support::naive_command(&steps, &["/bin/cat", "/proc/self/mountinfo"]);
    let out = tempfile::NamedTempFile::new().unwrap();
    let mut child = crate::harness::Guard(child.stdout(out.reopen().unwrap()).spawn().unwrap());
    crate::support::at_pause(&pause, &mut child.0);
    exchange(&dev, "null", "link");
    fs::write(&pause, "").unwrap();
    assert!(child.0.wait().unwrap().success());
    let mounts = fs::read_to_string(out.path()).unwrap();
    assert!(mounts.contains("/sys/kernel/core_pattern /proc/keys"), "{mounts}");
}

pub(crate) fn swapped_console() {
    let f = Fixture::new(
        "grep -c -E 'core_pattern|outside' /proc/self/mountinfo; grep ' /dev/console ' /proc/self/mountinfo",
    );
    let dev = dev(&f);
    fs::create_dir(dev.join("other")).unwrap();
    let f = f.with(|c| {
        without_network(c);
        without_mounts(c, "/dev");
        mount(c, json!({"destination": "/dev", "type": "bind", "source": dev, "options": ["bind"]}));
        mount(
            c,
            json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["newinstance", "ptmxmode=0666", "mode=0620"]}),
        );
        c["process"]["terminal"] = true.into();
    });
    let before = f.run();
    assert!(before.out.starts_with("0\r\n") && before.out.contains(" - devpts "), "{before:?}");
    for (a, b) in [("console", "link"), ("pts", "other")] {
        let swapper = swapping(&dev, a, b);
        let mut ran = 0;
        for _ in 0..ROUNDS / 2 {
            let output = f.run();
            if output.out.is_empty() {
                assert_eq!(output.code, 1, "{output:?}");
            } else {
                ran += 1;
                assert!(output.out.starts_with("0\r\n"), "{output:?}");
                let console = output.out.lines().nth(1).unwrap_or_default();
                assert!(console.is_empty() || console.contains(" - devpts "), "{output:?}");
            }
        }
        drop(swapper);
        // With its devpts under another name, there is hardly ever a terminal.
        assert!(ran > 0 || a == "pts", "no container ran at all");
    }
    f.assert_gone();
}

pub(crate) fn swapped_console_control() {
    let f = Fixture::new("true");
    let dev = dev(&f);
    fs::write(dev.join("pts/0"), "").unwrap();
    symlink("/proc/sys/kernel/core_pattern", dev.join("pts/link")).unwrap();
    let steps = format!(
        "unshare mp root {} mount proc proc /proc mount bind {} /dev enter pause /tmp/pause bind /dev/pts/0 /dev/console",
        f.rootfs().display(),
        dev.display()
    );
    let pause = f.rootfs().join("tmp/pause");
    let mut child = crate::support::naive_command(&steps, &["/bin/cat", "/proc/self/mountinfo"]);
    let out = tempfile::NamedTempFile::new().unwrap();
    let mut child = crate::harness::Guard(child.stdout(out.reopen().unwrap()).spawn().unwrap());
    crate::support::at_pause(&pause, &mut child.0);
    exchange(&dev.join("pts"), "0", "link");
    fs::write(&pause, "").unwrap();
    assert!(child.0.wait().unwrap().success());
    let mounts = fs::read_to_string(out.path()).unwrap();
    assert!(mounts.contains("/sys/kernel/core_pattern /dev/console"), "{mounts}");
}

/// A bundle that mounts nothing at `/dev`.
fn without_dev() -> Fixture {
    Fixture::new("true").with(|c| without_mounts(c, "/dev"))
}

pub(crate) fn dev_link() {
    let f = without_dev();
    let outside = f.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::create_dir(f.rootfs().join("inside")).unwrap();
    fs::remove_dir(f.rootfs().join("dev")).unwrap();
    for target in [outside.as_path(), std::path::Path::new("/inside")] {
        let _ = fs::remove_file(f.rootfs().join("dev"));
        symlink(target, f.rootfs().join("dev")).unwrap();
        f.run().fails(1, "make the device `/dev/");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        assert_eq!(fs::read_dir(f.rootfs().join("inside")).unwrap().count(), 0);
    }
}

pub(crate) fn dev_link_control() {
    let f = without_dev();
    let outside = f.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::remove_dir(f.rootfs().join("dev")).unwrap();
    symlink(&outside, f.rootfs().join("dev")).unwrap();
    naive(&format!("unshare m root {} node /dev/null", f.rootfs().display()), &[]).ok();
    assert!(outside.join("null").exists());
}

pub(crate) fn null_link() {
    let f = without_dev().with(|c| c["process"]["user"]["uid"] = 1000.into());
    let target = f.rootfs().join("etc/target");
    fs::write(&target, "").unwrap();
    symlink("/etc/target", f.rootfs().join("dev/null")).unwrap();
    f.run().fails(1, "something else is at its place");
    assert_eq!(fs::metadata(&target).unwrap().uid(), 0);
}

pub(crate) fn console_link() {
    for target in ["/etc/target", "/proc/sys/kernel/core_pattern", "OUTSIDE"] {
        let f =
            Fixture::new("grep ' /etc/target \\|core_pattern\\|outside' /proc/self/mountinfo").with(|c| {
                c["process"]["terminal"] = true.into();
                c["process"]["user"]["uid"] = 1000.into();
                without_mounts(c, "/dev");
                mount(c, json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts"}));
            });
        let (file, outside) = (f.rootfs().join("etc/target"), f.path("outside"));
        for file in [&file, &outside] {
            fs::write(file, "").unwrap();
        }
        symlink(target.replace("OUTSIDE", &outside.display().to_string()), f.rootfs().join("dev/console"))
            .unwrap();
        let output = f.run();
        assert!(output.code == 1 && output.out.is_empty(), "{target}: {output:?}");
        for file in [file, outside] {
            assert_eq!(fs::metadata(file).unwrap().uid(), 0, "{target}");
        }
    }
}

pub(crate) fn null_link_control() {
    let f = without_dev();
    let target = f.rootfs().join("etc/target");
    fs::write(&target, "").unwrap();
    symlink("/etc/target", f.rootfs().join("dev/null")).unwrap();
    let steps = format!("unshare m root {} enter own-null 1000", f.rootfs().display());
    naive(&steps, &["/bin/true"]).ok();
    assert_eq!(fs::metadata(&target).unwrap().uid(), 1000);
}

pub(crate) fn mask_by_link() {
    let f = Fixture::running("exec sleep 100");
    let masked =
        "stat -c %t,%T /proc/keys; ls /proc/acpi /sys/firmware; grep -c ' /proc/sys ro' /proc/self/mountinfo";
    let before = f.exec(masked).out;
    f.exec("ln -s /proc /data && ln -s /sys /more && ln -s /proc/keys /file").ok();
    for place in [
        "/data/keys",
        "/data/acpi",
        "/data/sys",
        "/more/firmware",
        "/proc/keys",
        "/file",
        "/data",
        "/",
        "/nope",
    ] {
        let output = {
            let file = f.path("destinations");
            fs::write(&file, json!([{"destination": place}]).to_string()).unwrap();
            f.call(&["mounts", "remove", "c", &file.display().to_string()])
        };
        assert_ne!(output.code, 0, "{place}: {output:?}");
        assert_eq!(f.exec(masked).out, before, "{place}");
    }
}

pub(crate) fn links_stay_inside() {
    // What a runtime may want to read or write in a root, each a link to a file or directory of the host's.
    let f = Fixture::new("echo $HOME").with(|c| without_mounts(c, "/sys"));
    let (outside, secret) = (f.path("outside"), f.path("secret"));
    fs::create_dir(&outside).unwrap();
    fs::write(&secret, "x:x:0:0::/outside:\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    symlink(&secret, f.rootfs().join("etc/passwd")).unwrap();
    for name in [".krun_config.json", "etc/hostname", "etc/mtab", "run"] {
        symlink(&secret, f.rootfs().join(name)).unwrap();
    }
    fs::create_dir_all(f.rootfs().join("sys/fs")).unwrap();
    symlink(&outside, f.rootfs().join("sys/fs/cgroup")).unwrap();
    let f = f.with(|c| {
        mount(c, json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}));
    });
    let output = f.run();
    assert_eq!(output.ok(), "/\n");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(&secret).unwrap(), "x:x:0:0::/outside:\n");
}

pub(crate) fn links_stay_inside_control() {
    let f = Fixture::new("true");
    let (outside, mounts) = (f.path("outside"), f.path("mounts"));
    fs::create_dir(&outside).unwrap();
    fs::create_dir_all(f.rootfs().join("sys/fs")).unwrap();
    symlink(&outside, f.rootfs().join("sys/fs/cgroup")).unwrap();
    symlink(outside.join("made"), f.rootfs().join(".config.json")).unwrap();
    let steps = format!(
        "unshare m root {} file /.config.json mount tmpfs none /sys/fs/cgroup mounts {}",
        f.rootfs().display(),
        mounts.display()
    );
    naive(&steps, &[]).ok();
    assert!(outside.join("made").exists());
    let mounts = fs::read_to_string(mounts).unwrap();
    assert!(mounts.contains(&format!(" / {} ", outside.display())), "{mounts}");
}
