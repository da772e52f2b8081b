//! config.md, mounts: order, paths, options.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use serde_json::json;

use crate::harness::{Bench, contains};
use crate::table::{Test, may, must, should};

const OLD_RUNC: &[(&str, &str)] = &[("runc", "is older than this option")];

/// A test of one option: what mountinfo says of a mount with it, and must not say.
macro_rules! option {
    ($name:literal, $level:ident, $options:literal, $has:expr, $lacks:expr) => {
        $level($name, "Linux mount options", concat!("understands `", $options, "`"), |b| {
            shows(b, $options, $has, $lacks);
        })
    };
}

pub(crate) const TESTS: &[Test] = &[
    must("order", "Mounts", "mounts in the listed order", |b| {
        let (one, two) = (b.directory_with("one", "first"), b.directory_with("two", "second"));
        b.mount("/mnt", "bind", one, "bind");
        b.mount("/mnt", "bind", two, "bind");
        assert_eq!(b.sh("cat /mnt/file"), "second");
    }),
    must("order_nested", "Mounts", "mounts in the listed order, also what lies in what was mounted before", |b| {
        let source = b.directory_with("data", "inner");
        b.mount("/mnt", "tmpfs", "tmpfs", "");
        b.mount("/mnt/a/b", "bind", source, "bind");
        assert_eq!(b.sh("cat /mnt/a/b/file"), "inner");
    }),
    must("destination_relative", "Mounts", "takes a relative destination from the root", |b| {
        b.set("/process/cwd", "/tmp");
        let source = b.directory_with("data", "inner");
        b.mount("mnt/x", "bind", source, "bind");
        assert_eq!(b.sh("cat /mnt/x/file"), "inner");
    }),
    must("source_relative", "Mounts", "takes the relative source of a bind mount from the bundle", |b| {
        fs::create_dir(b.bundle().join("data")).unwrap();
        fs::write(b.bundle().join("data/file"), "bundled").unwrap();
        b.mount("/mnt", "bind", "data", "bind");
        assert_eq!(b.sh("cat /mnt/file"), "bundled");
    }),
    must("bind_by_option", "Mounts", "takes for a bind mount what has bind or rbind among its options, whatever its type", |b| {
        let source = b.directory_with("data", "bound");
        b.mount("/mnt", "none", &source, "rbind");
        b.mount("/tmp", "tmpfs", &source, "bind");
        assert_eq!(b.sh("cat /mnt/file /tmp/file"), "boundbound");
    }),
    must("bind_file", "Mounts", "binds files", |b| {
        let source = b.directory_with("data", "bound").join("file");
        b.mount("/etc/made", "bind", source, "bind");
        assert_eq!(b.sh("cat /etc/made"), "bound");
    }),
    must("bind_missing", "Mounts", "refuses a bind mount of what is not there", |b| {
        b.mount("/mnt", "bind", "/nonexistent", "bind");
        b.refused();
    }),
    must("type_unknown", "POSIX-platform Mounts", "refuses a type of file system that the kernel does not know", |b| {
        b.mount("/mnt", "nosuchfs", "none", "");
        b.refused();
    }),
    must("rbind", "Linux mount options", "brings the mounts below with rbind, and not with bind", |b| {
        b.mount("/mnt/r", "bind", "/sys/fs", "rbind");
        b.mount("/mnt/n", "bind", "/sys/fs", "bind");
        let text = b.sh("ls /mnt/r/cgroup | wc -l; ls /mnt/n/cgroup | wc -l");
        let counts: Vec<u32> = text.lines().map(|l| l.parse().unwrap()).collect();
        assert!(counts[0] > 0 && counts[1] == 0, "{text}");
    }),
    option!("ro", must, "ro", &["ro"], &[]),
    option!("rw", must, "ro,rw", &["rw"], &[]).but(&[("crun", "a word does not undo an earlier one")]),
    option!("nosuid", must, "nosuid", &["nosuid"], &[]),
    option!("suid", must, "nosuid,suid", &[], &["nosuid"]).but(&[("crun", "a word does not undo an earlier one")]),
    option!("nodev", must, "nodev", &["nodev"], &[]),
    option!("dev", must, "nodev,dev", &[], &["nodev"]).but(&[("crun", "a word does not undo an earlier one")]),
    option!("noexec", must, "noexec", &["noexec"], &[]),
    option!("exec", must, "noexec,exec", &[], &["noexec"]).but(&[("crun", "a word does not undo an earlier one")]),
    option!("noatime", must, "noatime", &["noatime"], &[]),
    option!("atime", must, "noatime,atime", &[], &["noatime"]).but(&[("crun", "a word does not undo an earlier one")]),
    option!("nodiratime", must, "nodiratime", &["nodiratime"], &[]),
    option!("diratime", must, "nodiratime,diratime", &[], &["nodiratime"]).but(&[("crun", "a word does not undo an earlier one")]),
    option!("relatime", must, "relatime", &["relatime"], &[]),
    option!("strictatime", must, "strictatime", &[], &["relatime", "noatime"]),
    option!("norelatime", must, "norelatime", &[], &["noatime"]),
    option!("nostrictatime", must, "nostrictatime", &[], &["noatime"]),
    option!("nosymfollow", should, "nosymfollow", &["nosymfollow"], &[]).but(&[("crun", "is older than this option")]),
    option!("symfollow", should, "nosymfollow,symfollow", &[], &["nosymfollow"]),
    option!("private", must, "private", &[], &["shared:", "master:"]),
    option!("rprivate", must, "rprivate", &[], &["shared:", "master:"]),
    option!("shared", must, "shared", &["shared:"], &[]).but(&[("crun", "the propagation of the root, private by default, is given to all mounts at last")]),
    option!("rshared", must, "rshared", &["shared:"], &[]).but(&[("crun", "the propagation of the root, private by default, is given to all mounts at last")]),
    option!("slave", must, "shared,slave", &[], &["shared:"]).but(&[("crun", "joins two propagations to one call, which the kernel refuses")]),
    option!("rslave", must, "rshared,rslave", &[], &["shared:"]).but(&[("crun", "joins two propagations to one call, which the kernel refuses")]),
    option!("unbindable", must, "unbindable", &["unbindable"], &[]).but(&[("crun", "the propagation of the root, private by default, is given to all mounts at last")]),
    option!("runbindable", must, "runbindable", &["unbindable"], &[]).but(&[("crun", "the propagation of the root, private by default, is given to all mounts at last")]),
    must("words_of_mount", "Linux mount options", "understands async, defaults, dirsync, iversion, lazytime, loud, noiversion, nolazytime, silent, sync", |b| {
        for word in ["async", "defaults", "dirsync", "iversion", "lazytime", "loud", "noiversion", "nolazytime", "silent", "sync"] {
            let words = [word];
            b.mount("/mnt", "tmpfs", "tmpfs", &words.join(","));
            b.script("grep -c ' /mnt ' /proc/self/mountinfo");
            let output = b.run();
            assert_eq!((output.code, output.out.as_str()), (0, "1\n"), "{word}: {}", output.err);
            b.config["mounts"].as_array_mut().unwrap().pop();
        }
    }).but(&[("runc", "hands `defaults` on to tmpfs, which refuses it"),("crun", "hands `iversion` on to tmpfs, which refuses it")]),
    must("sync_is_set", "Linux mount options", "mounts synchronously with sync and dirsync", |b| {
        b.mount("/mnt", "tmpfs", "tmpfs", "sync,dirsync");
        contains(&b.sh("grep ' /mnt ' /proc/self/mountinfo"), &["sync", "dirsync"]);
    }),
    must("remount", "Linux mount options", "changes with remount what is mounted there", |b| {
        b.mount("/mnt", "tmpfs", "tmpfs", "size=1m");
        b.mount("/mnt", "tmpfs", "tmpfs", "remount,ro,noexec");
        let text = b.sh("grep ' /mnt ' /proc/self/mountinfo");
        assert_eq!(text.lines().count(), 1, "{text}");
        contains(&text, &["ro,", "noexec"]);
    }),
    should("recursive", "Linux mount options", "understands rro, rnosuid, rnodev, rnoexec, rnoatime, rnodiratime, rnosymfollow and applies them below", |b| {
        b.mount("/mnt", "bind", "/sys", "rbind,rro,rnosuid,rnodev,rnoexec,rnoatime,rnodiratime,rnosymfollow");
        let text = b.sh("awk '$5 ~ /^\\/mnt/ {print $6}' /proc/self/mountinfo");
        assert!(text.lines().count() > 1, "{text}");
        for line in text.lines() {
            contains(line, &["ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow"]);
        }
    }).but(&[("crun", "sets `rnoatime` without clearing the other modes, which the kernel refuses")]),
    should("recursive_opposites", "Linux mount options", "understands rrw, rsuid, rdev, rexec, ratime, rdiratime, rrelatime, rstrictatime, rnorelatime, rnostrictatime, rsymfollow", |b| {
        for word in ["rrw", "rsuid", "rdev", "rexec", "ratime", "rdiratime", "rrelatime", "rstrictatime", "rnorelatime", "rnostrictatime", "rsymfollow"] {
            let source = b.directory_with("data", "x");
            b.mount("/mnt", "bind", source, &format!("rbind,{word}"));
            b.script("cat /mnt/file");
            let output = b.run();
            assert_eq!(output.code, 0, "{word}: {}", output.err);
            b.config["mounts"].as_array_mut().unwrap().pop();
        }
    }).but(&[("runc", "sets `ratime` without clearing the other modes, which the kernel refuses"),("crun", "sets `ratime` without clearing the other modes, which the kernel refuses")]),
    may("tmpcopyup", "Linux mount options", "fills a tmpfs with what it hides if asked to", |b| {
        fs::write(b.rootfs("mnt/a"), "kept").unwrap();
        fs::set_permissions(b.rootfs("mnt/a"), fs::Permissions::from_mode(0o640)).unwrap();
        b.mount("/mnt", "tmpfs", "tmpfs", "tmpcopyup");
        assert_eq!(b.sh("cat /mnt/a; stat -c %a /mnt/a; echo > /mnt/a"), "kept640\n");
        assert_eq!(fs::read_to_string(b.rootfs("mnt/a")).unwrap(), "kept");
    }),
    should("idmap", "Linux mount options", "shows the ids of a mount by its mappings", |b| {
        owned_directory(b);
        assert_eq!(b.sh("stat -c '%u %g' /mnt/file"), "2000 2001\n");
    }).but(&[("runc", "is older than this option")]),
    must("idmap_without", "Linux mount options", "refuses idmap without mappings and without a user namespace", |b| {
        let source = b.directory_with("data", "x");
        b.mount("/mnt", "bind", source, "bind,idmap");
        b.refused();
    })
    .but(OLD_RUNC),
    must("idmap_half", "POSIX-platform Mounts", "refuses uidMappings without gidMappings", |b| {
        owned_directory(b);
        let last = b.config["mounts"].as_array().unwrap().len() - 1;
        b.unset(&format!("/mounts/{last}/gidMappings"));
        b.refused();
    }).but(&[("runc", "is older than this option")]),
    may("idmap_of_container", "Linux mount options", "takes the container's mappings for idmap without any", |b| {
        let source = b.directory_with("data", "x");
        chown(source.join("file"), Some(5), Some(6)).unwrap();
        b.user_namespace();
        b.mount("/mnt", "bind", source, "bind,idmap");
        assert_eq!(b.sh("stat -c '%u %g' /mnt/file"), "5 6\n");
    })
    .but(OLD_RUNC),
    should("unknown_option", "Linux mount options", "hands options that it does not know to the file system", |b| {
        b.mount("/mnt", "tmpfs", "tmpfs", "size=3m,mode=1750");
        contains(&b.sh("grep ' /mnt ' /proc/self/mountinfo; stat -c %a /mnt"), &["size=3072k", "1750"]);
    }),
    must("unknown_option_refused", "Linux mount options", "fails if the file system does not know an option", |b| {
        b.mount("/mnt", "tmpfs", "tmpfs", "moon=1");
        b.refused();
    }),
    must("destination_inside", "Mounts", "keeps a destination inside of the container, whatever links are on the way", |b| {
        let outside = b.directory_with("outside", "host");
        std::os::unix::fs::symlink(&outside, b.rootfs("link")).unwrap();
        let source = b.directory_with("data", "x");
        b.mount("/link/made", "bind", source, "bind");
        b.script("true");
        b.run();
        assert_eq!(fs::read_dir(outside).unwrap().count(), 1);
    }),
];

/// Binds a directory with an option, and looks at its line of mountinfo.
#[track_caller]
fn shows(b: &mut Bench, options: &str, has: &[&str], lacks: &[&str]) {
    let source = b.directory_with("data", "x");
    b.mount("/mnt", "bind", source, &format!("bind,{options}"));
    let line = b.sh("grep ' /mnt ' /proc/self/mountinfo");
    // Options of the mount, then its propagation: what follows is about the file system as a whole.
    let fields: Vec<&str> = line.split(" - ").next().unwrap_or_default().split(' ').skip(5).collect();
    let words: Vec<&str> = fields.iter().flat_map(|field| field.split(',')).collect();
    for word in has {
        assert!(
            words.iter().any(|w| w == word || (word.ends_with(':') && w.starts_with(word))),
            "no {word}: {line}"
        );
    }
    for word in lacks {
        assert!(
            !words.iter().any(|w| w == word || (word.ends_with(':') && w.starts_with(word))),
            "{word}: {line}"
        );
    }
}

fn owned_directory(b: &mut Bench) {
    let source = b.directory_with("data", "x");
    chown(source.join("file"), Some(1000), Some(1001)).unwrap();
    let map = json!([{"containerID": 1000, "hostID": 2000, "size": 10}]);
    b.push(
        "/mounts",
        json!({"destination": "/mnt", "type": "bind", "source": source, "options": ["bind", "idmap"],
        "uidMappings": map, "gidMappings": map}),
    );
}
