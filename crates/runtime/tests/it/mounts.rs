//! Mounts, devices, masked and read-only paths, the root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::{Value, json};

use crate::harness::Fixture;

fn with_mount(script: &str, mount: Value) -> Fixture {
    Fixture::new(script).with(|c| c["mounts"].as_array_mut().unwrap().push(mount))
}

#[test]
fn the_default_mounts_are_there() {
    let f = Fixture::new("cat /proc/self/mountinfo | awk '{print $5, $6}'");
    let text = f.run().ok();
    for line in [
        "/ rw,relatime",
        "/proc rw,nosuid,nodev,noexec,relatime",
        "/dev rw,nosuid",
        "/dev/pts rw,nosuid,noexec,relatime",
        "/dev/shm rw,nosuid,nodev,noexec,relatime",
        "/dev/mqueue rw,nosuid,nodev,noexec,relatime",
        "/sys ro,nosuid,nodev,noexec,relatime",
        "/sys/fs/cgroup ro,nosuid,nodev,noexec,relatime",
        "/proc/sys ro,nosuid,nodev,noexec,relatime",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("sampan-rt-"), "nothing of the host's tree is seen");
}

#[test]
fn the_cgroup_mount_shows_only_the_own_group_and_is_read_only() {
    let f = Fixture::new(
        "cat /proc/self/cgroup | cut -d: -f3 | tr '\\n' ' '; find /sys/fs/cgroup -name 'sampan*' 2>/dev/null;
         mkdir /sys/fs/cgroup/pids/x /sys/fs/cgroup/x 2>&1 | grep -c -i read-only",
    );
    let text = f.run().ok();
    assert!(text.starts_with("/ "), "{text}");
    assert!(text.ends_with("2\n") || text.ends_with("1\n"), "{text}");
}

#[test]
fn devices_and_links_of_dev() {
    let f = Fixture::new(
        "ls -l /dev | awk '{print $1, $5, $6}' | grep ^c; for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done;
         echo x > /dev/null; head -c 3 /dev/zero | od -c | head -1; [ $(head -c 8 /dev/urandom | wc -c) = 8 ] && echo random; echo > /dev/full",
    )
    .with(|c| {
        c["linux"]["devices"] = json!([
            {"path": "/dev/fuse2", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 7, "gid": 8},
            {"path": "/dev/deep/er/null", "type": "c", "major": 1, "minor": 3}]);
    });
    let output = f.run();
    assert!(output.out.contains("crw-r----- 10, 229"), "{}", output.out);
    assert_eq!(output.out.matches("crw-rw-rw-").count(), 6, "{}", output.out);
    assert!(
        output.out.contains("/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n")
    );
    assert!(output.out.contains("\\0  \\0  \\0") && output.out.contains("random"), "{}", output.out);
    assert!(output.err.contains("No space left"), "{}", output.err);
}

#[test]
fn masked_and_read_only_paths() {
    let f = Fixture::new(
        "ls -A /secret; cat /file; cat /proc/keys; ls /sys/firmware; touch /locked/x 2>&1; touch /locked/below/x 2>&1; echo 1 > /proc/sys/kernel/domainname",
    )
    .with(|c| {
        let masked = c["linux"]["maskedPaths"].as_array_mut().unwrap();
        masked.extend([json!("/secret"), json!("/file"), json!("/not/there")]);
        c["linux"]["readonlyPaths"].as_array_mut().unwrap().extend([json!("/locked"), json!("/not/there")]);
        c["mounts"].as_array_mut().unwrap().push(json!({"destination": "/locked/below", "type": "tmpfs"}));
    });
    fs::create_dir(f.rootfs().join("secret")).unwrap();
    fs::create_dir(f.rootfs().join("locked")).unwrap();
    fs::write(f.rootfs().join("secret/word"), "x").unwrap();
    fs::write(f.rootfs().join("file"), "word").unwrap();
    let output = f.run();
    assert_eq!(output.out.matches("Read-only file system").count(), 2, "{output:?}");
    assert!(!output.out.contains("word"), "{output:?}");
    assert!(output.err.contains("domainname: Read-only"), "{output:?}");
}

#[test]
fn a_read_only_root_is_that_and_mounts_in_it_are_not() {
    let f = Fixture::new("touch /x 2>&1; touch /tmp/y && echo fine").with(|c| {
        c["root"]["readonly"] = true.into();
        c["mounts"].as_array_mut().unwrap().push(json!({"destination": "/tmp", "type": "tmpfs"}));
    });
    let text = f.run().ok();
    assert!(text.contains("Read-only file system") && text.contains("fine"), "{text}");
}

#[test]
fn binds_of_files_and_directories_with_options() {
    let f = Fixture::new(
        "cat /etc/name /data/in; touch /data/x 2>&1; cat /proc/self/mountinfo | grep ' /data ' | cut -d' ' -f6",
    );
    let source = f.path("data");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("in"), "inside\n").unwrap();
    let f = f.with(|c| {
        c["mounts"].as_array_mut().unwrap().extend([
            json!({"destination": "/data", "type": "bind", "source": source, "options": ["rbind", "ro", "nosuid", "noexec"]}),
            json!({"destination": "/etc/name", "type": "bind", "source": source.join("in"), "options": ["bind"]}),
        ]);
    });
    let text = f.run().ok();
    assert!(text.starts_with("inside\ninside\n"), "{text}");
    assert!(text.contains("Read-only") && text.ends_with("ro,nosuid,noexec,relatime\n"), "{text}");
    assert!(f.rootfs().join("etc/name").is_file(), "the place was made as a file");
}

#[test]
fn ids_of_a_mount_are_mapped() {
    let f = Fixture::new("stat -c '%u %g' /data/file; stat -c '%u %g' /plain/file");
    let source = f.path("data");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "").unwrap();
    std::os::unix::fs::chown(source.join("file"), Some(1000), Some(1001)).unwrap();
    let map = json!([{"containerID": 1000, "hostID": 2000, "size": 10}]);
    let f = f.with(|c| {
        c["mounts"].as_array_mut().unwrap().extend([
            json!({"destination": "/data", "type": "bind", "source": source, "options": ["rbind"],
                "uidMappings": map, "gidMappings": map}),
            json!({"destination": "/plain", "type": "bind", "source": source, "options": ["rbind"]}),
        ]);
    });
    assert_eq!(f.run().ok(), "2000 2001\n1000 1001\n");
    f.with(|c| {
        let mount = json!({"destination": "/x", "type": "bind", "source": "/tmp", "options": ["idmap"]});
        c["mounts"].as_array_mut().unwrap().push(mount);
    })
    .run()
    .fails(1, "`idmap` needs mappings");
}

#[test]
fn recursive_options_reach_mounts_below() {
    let f = Fixture::new("touch /data/below/x 2>&1; touch /plain/below/x && echo fine");
    let source = f.path("data");
    fs::create_dir_all(source.join("below")).unwrap();
    let f = f.with(|c| {
        c["mounts"].as_array_mut().unwrap().extend([
            json!({"destination": "/data", "type": "bind", "source": source, "options": ["rbind", "rro"]}),
            json!({"destination": "/plain", "type": "bind", "source": source, "options": ["rbind", "ro"]}),
        ]);
    });
    f.write_config();
    let script = "mount -t tmpfs x \"$0\"/below && exec \"$@\"";
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "sh", "-c", script]).arg(&source).arg(&f.runtime).arg("--root").arg(f.root());
    command.args(["run", "c"]).current_dir(f.bundle()).stdin(std::process::Stdio::null());
    let text = crate::harness::run(command).ok();
    assert!(text.contains("Read-only") && text.ends_with("fine\n"), "{text}");
}

#[test]
fn a_tmpfs_has_the_mode_of_what_it_hides_and_may_begin_as_its_copy() {
    let f = Fixture::new("stat -c %a /a /b; cat /b/file; stat -c '%a %u' /b/file /b/sub; readlink /b/link; touch /b/new").with(|c| {
        c["mounts"].as_array_mut().unwrap().extend([
            json!({"destination": "/a", "type": "tmpfs", "source": "tmpfs"}),
            json!({"destination": "/b", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=64k"]}),
        ]);
    });
    for (name, mode) in [("a", 0o1777), ("b", 0o750)] {
        fs::create_dir(f.rootfs().join(name)).unwrap();
        fs::set_permissions(f.rootfs().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(f.rootfs().join("b/sub")).unwrap();
    fs::write(f.rootfs().join("b/file"), "copied\n").unwrap();
    fs::set_permissions(f.rootfs().join("b/file"), fs::Permissions::from_mode(0o4711)).unwrap();
    std::os::unix::fs::chown(f.rootfs().join("b/sub"), Some(7), Some(7)).unwrap();
    symlink("file", f.rootfs().join("b/link")).unwrap();
    assert_eq!(f.run().ok(), "1777\n750\ncopied\n4711 0\n755 7\nfile\n");
    assert!(!f.rootfs().join("b/new").exists());
}

#[test]
fn a_long_option_goes_by_the_old_interface() {
    let f = Fixture::new("cat /merged/marker");
    let lower: Vec<String> = (0..12)
        .map(|n| {
            let path = f.path(&format!("layer-with-a-long-name-{n}"));
            fs::create_dir(&path).unwrap();
            path.display().to_string()
        })
        .collect();
    fs::write(f.path("layer-with-a-long-name-11").join("marker"), "found\n").unwrap();
    let option = format!("lowerdir={}", lower.join(":"));
    let f = f.with(|c| {
        let mount =
            json!({"destination": "/merged", "type": "overlay", "source": "overlay", "options": [option]});
        c["mounts"].as_array_mut().unwrap().push(mount);
    });
    assert_eq!(f.run().ok(), "found\n");
}

#[test]
fn places_behind_links_are_inside() {
    let f = with_mount("ls -d /run/here", json!({"destination": "/var/run/here", "type": "tmpfs"}));
    fs::create_dir(f.rootfs().join("var")).unwrap();
    symlink("/run", f.rootfs().join("var/run")).unwrap();
    assert_eq!(f.run().ok(), "/run/here\n");
    assert!(f.rootfs().join("run/here").is_dir());
}

#[test]
fn propagation_is_as_asked_for() {
    for (word, optional) in
        [("private", "-"), ("shared", "shared:"), ("slave", ""), ("unbindable", "unbindable")]
    {
        let f = Fixture::new("grep ' / / \\| /  *rw' /proc/self/mountinfo | head -1; awk '$5 == \"/\" {print $7}' /proc/self/mountinfo")
            .with(|c| c["linux"]["rootfsPropagation"] = word.into());
        let text = f.run().ok();
        assert!(text.lines().last().unwrap().starts_with(optional), "{word}: {text}");
    }
    let f = with_mount(
        "awk '$5 == \"/data\" {print $7}' /proc/self/mountinfo",
        json!({"destination": "/data", "type": "bind", "source": "/tmp", "options": ["rbind", "rshared"]}),
    );
    assert!(f.run().ok().starts_with("shared:"));
}

#[test]
fn no_pivot_works_too() {
    let f = Fixture::new("ls / | tr '\\n' ' '; cat /proc/1/comm");
    assert!(f.call(&["run", "--no-pivot", "c"]).ok().starts_with("bin dev etc proc root sys tmp"));
    f.assert_gone();
    // The host's proc, without masks, must not be within reach of a user namespace.
    let f = Fixture::new("unshare -mrpf sh -c 'mount -t proc none /proc && echo mounted'").with(|c| {
        for set in ["bounding", "effective", "permitted"] {
            c["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_SETFCAP"));
        }
    });
    let output = f.call(&["run", "--no-pivot", "c"]);
    assert!(!output.out.contains("mounted") && output.err.contains("denied"), "{output:?}");
}
