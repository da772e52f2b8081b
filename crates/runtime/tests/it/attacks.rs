//! Attacks that other runtimes have been open to, mounted against this one.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::json;

use crate::harness::Fixture;

/// CVE-2019-5736: the runtime as the container's program, and its file opened for writing.
#[test]
fn the_runtimes_executable_cannot_be_written_by_way_of_proc() {
    let f = Fixture::running("exec sleep 100");
    let before = fs::read(&f.runtime).unwrap();
    // The program is the runtime itself (it prints its help); meanwhile somebody opens its file.
    f.call(&["exec", "-d", "c", "sh", "-c", "while :; do for p in /proc/[0-9]*; do case $(readlink $p/exe) in *sampan-runtime*) (echo x >> $p/exe) 2>> /tmp/said;; esac; done; done"]).ok();
    for _ in 0..20 {
        let output = f.call(&["exec", "c", "/proc/self/exe", "--version"]);
        assert!(output.code == 0 || output.code == 255, "{output:?}");
    }
    assert!(fs::read(&f.runtime).unwrap() == before, "the runtime was overwritten");
}

/// CVE-2024-21626: a working directory by way of a descriptor of the runtime's.
#[test]
fn no_descriptor_leads_out() {
    for fd in 3..20 {
        let f = Fixture::new("ls").with(|c| c["process"]["cwd"] = format!("/proc/self/fd/{fd}").into());
        let output = f.run();
        assert_ne!(output.code, 0, "{fd}: {output:?}");
    }
    let f = Fixture::running("exec sleep 100");
    for fd in 3..20 {
        let cwd = format!("/proc/self/fd/{fd}");
        let output = f.call(&["exec", "--cwd", &cwd, "c", "ls"]);
        assert_ne!(output.code, 0, "{fd}: {output:?}");
    }
}

/// CVE-2019-19921 and its kin: proc on a link, so that labels and parameters go to a fake.
#[test]
fn proc_and_sys_are_mounted_on_ordinary_directories_only() {
    for (name, kind) in [("proc", "proc"), ("sys", "sysfs")] {
        let f = Fixture::new("true");
        fs::remove_dir(f.rootfs().join(name)).unwrap();
        fs::create_dir(f.rootfs().join("fake")).unwrap();
        symlink("/fake", f.rootfs().join(name)).unwrap();
        f.run().fails(1, &format!("mount `{kind}` at `/{name}`: the place must be an ordinary directory"));
        f.assert_gone();
    }
}

#[test]
fn nothing_else_is_mounted_on_proc_or_inside() {
    for (destination, by_link) in [("/proc", false), ("/proc/self", false), ("/innocent", true)] {
        let f = Fixture::new("true");
        symlink("/proc/sys", f.rootfs().join("innocent")).unwrap();
        let source = f.path("source");
        fs::create_dir(&source).unwrap();
        let f = f.with(|c| {
            let mount =
                json!({"destination": destination, "type": "bind", "source": source, "options": ["bind"]});
            c["mounts"].as_array_mut().unwrap().push(mount);
        });
        let with = if by_link { "leads into proc" } else { "proc" };
        f.run().fails(1, with);
        f.assert_gone();
    }
}

/// 2026-41579 and 2026-47766: `/dev` is a link, and device nodes are made where it points to.
#[test]
fn a_dev_that_is_a_link_gets_no_nodes() {
    let f = Fixture::new("true").with(|c| {
        c["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
    });
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

/// 2026-88265: `/dev/null` of the image is a link to a file, whose owner changes.
#[test]
fn a_null_that_is_a_link_is_no_device() {
    let f = Fixture::new("true").with(|c| {
        c["process"]["user"]["uid"] = 1000.into();
        c["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
    });
    let target = f.rootfs().join("etc/target");
    fs::write(&target, "").unwrap();
    symlink("/etc/target", f.rootfs().join("dev/null")).unwrap();
    f.run().fails(1, "something else is at its place");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(&target).unwrap()), 0);
}

/// CVE-2021-30465: the place of a mount is swapped for a link out of the root while the container is made.
#[test]
fn a_swapped_mount_place_never_leads_out() {
    let f = Fixture::new("true");
    let shared = f.rootfs().join("shared");
    fs::create_dir_all(shared.join("a")).unwrap();
    let canary = f.path("canary");
    fs::create_dir(&canary).unwrap();
    symlink(&canary, shared.join("b")).unwrap();
    let f = f.with(|c| {
        let mount = json!({"destination": "/shared/a", "type": "tmpfs", "source": "tmpfs"});
        c["mounts"].as_array_mut().unwrap().push(mount);
        let mount = json!({"destination": "/shared/a/new", "type": "tmpfs", "source": "tmpfs"});
        c["mounts"].as_array_mut().unwrap().push(mount);
    });
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let swapper = {
        let (stop, shared) = (stop.clone(), shared.clone());
        std::thread::spawn(move || {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            let (a, b) = (shared.join("a"), shared.join("b"));
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = rustix::fs::renameat_with(rustix::fs::CWD, &a, rustix::fs::CWD, &b, flags);
            }
        })
    };
    for _ in 0..60 {
        f.run();
        assert_eq!(fs::read_dir(&canary).unwrap().count(), 0, "something was made outside");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    swapper.join().unwrap();
    f.assert_gone();
}

/// CVE-2016-9962: what the runtime holds while it is in the container's PID namespace.
#[test]
fn a_process_on_its_way_in_shows_nothing() {
    let f = Fixture::new(
        "while :; do for p in /proc/[0-9]*; do [ $p = /proc/1 ] || ls -l $p/fd 2> /dev/null | grep -E 'cgroup|socket|memfd|ns/|sampan' >> /tmp/seen; done; done",
    );
    f.start();
    for _ in 0..30 {
        f.call(&["exec", "c", "true"]).ok();
    }
    let seen = fs::read_to_string(f.rootfs().join("tmp/seen")).unwrap_or_default();
    assert_eq!(seen, "");
}

/// CVE-2022-0811: a parameter that smuggles in another.
#[test]
fn a_parameter_is_one_parameter() {
    let before = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let f = Fixture::new("true").with(|c| {
        c["linux"]["sysctl"] = json!({"kernel.shm_rmid_forced": "1+kernel.core_pattern=|/x"});
    });
    f.run().fails(1, "set sysctl");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
}

#[test]
fn a_fifo_or_a_huge_file_as_configuration_is_refused_at_once() {
    let f = Fixture::new("true");
    f.write_config();
    let config = f.bundle().join("config.json");
    fs::remove_file(&config).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &config, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let call = || {
        let mut command = std::process::Command::new(&f.runtime);
        command.arg("--root").arg(f.root()).args(["create", "c"]).current_dir(f.bundle());
        crate::harness::run(command)
    };
    call().fails(1, "not a regular file");
    fs::remove_file(&config).unwrap();
    fs::File::create(&config).unwrap().set_len(1 << 30).unwrap();
    call().fails(1, "longer than");
}

/// A program of a few instructions, as an ELF file: the call `number` by `instruction`, then exit with what it returned
/// made positive, so that the shell can tell.
fn call_by(instruction: [u8; 2], number: u32) -> Vec<u8> {
    let mut code = vec![0x31, 0xdb]; // xor ebx, ebx
    code.push(0xb8); // mov eax, number
    code.extend(number.to_le_bytes());
    code.extend(instruction);
    code.extend([0x89, 0xc7]); // mov edi, eax
    code.extend([0xf7, 0xdf]); // neg edi
    code.extend([0xb8, 60, 0, 0, 0, 0x0f, 0x05]); // mov eax, exit; syscall
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend([2, 0, 0x3e, 0, 1, 0, 0, 0]);
    let (base, header) = (0x40_0000u64, 120u64);
    elf.extend((base + header).to_le_bytes());
    elf.extend(64u64.to_le_bytes());
    elf.extend([0u8; 12]);
    elf.extend([64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    elf.extend(0u64.to_le_bytes());
    elf.extend(base.to_le_bytes());
    elf.extend(base.to_le_bytes());
    let size = header + code.len() as u64;
    elf.extend(size.to_le_bytes());
    elf.extend(size.to_le_bytes());
    elf.extend(0x1000u64.to_le_bytes());
    elf.extend(code);
    elf
}

/// Calls of 32 bits, and those of x32, are no way around a filter.
#[test]
fn calls_of_other_architectures_do_not_pass_a_filter() {
    const INT_80: [u8; 2] = [0xcd, 0x80];
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    let programs = [("native", SYSCALL, 83), ("bits32", INT_80, 39), ("x32", SYSCALL, 0x4000_0000 | 83)];
    let script = programs.map(|(name, ..)| format!("/{name}; echo {name} $?; ")).concat();
    // mkdir(NULL) would fail with EFAULT, 14.
    let check = |architectures: serde_json::Value, expected: [&str; 3]| {
        let f = Fixture::new(&script).with(|c| {
            c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures,
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77}]});
        });
        for (name, instruction, number) in programs {
            let file = f.rootfs().join(name);
            fs::write(&file, call_by(instruction, number)).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let output = f.run();
        let codes: Vec<&str> = output.out.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        assert_eq!(codes, expected, "{output:?}");
    };
    let killed = "159";
    check(json!(["SCMP_ARCH_X86_64"]), ["77", killed, killed]);
    check(json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]), ["77", "77", "77"]);
}

#[test]
fn files_of_the_host_that_passwd_points_to_are_not_read() {
    let f = Fixture::new("echo $HOME");
    let secret = f.path("secret");
    fs::write(&secret, "x:x:0:0::/outside:\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    symlink(&secret, f.rootfs().join("etc/passwd")).unwrap();
    assert_eq!(f.run().ok(), "/\n");
}
