//! Classes 6, 20 and 23: what of the caller's and the runtime's privileges is left in the container.
//!
//! * 06 (CVE-2022-29162, crun CVE-2022-27650, youki CVE-2025-27612). Attack: `exec --cap` makes capabilities inheritable, so
//!   that programs with inheritable file capabilities get them. Defence: they go to the other sets alone. Control: a process
//!   with an inheritable capability.
//! * 20: Attack: calls of 32 bits, or of x32, that a filter does not know. Also: what the runtime needed to load a filter is
//!   still there. Defence: our compiler ends a process that makes a call of an architecture that is not listed; the last
//!   thing before exec is to drop CAP_SYS_ADMIN. Control: a filter that looks at numbers alone.
//! * 23 (and the supplementary groups of CVE-2022-2995, CVE-2022-36109). Attack: the caller's session keyring, a keyring
//!   that somebody made ahead under the name that the container's will have, and the caller's supplementary groups.
//!   Defence: a new keyring without a name for each process that is started; setgroups always. Control: a runtime that does
//!   neither.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::harness::{Fixture, Output, run};
use crate::support::{OLD_RUNC, naive, program, with_attacker};

const SETS: &str = "grep -E 'Cap(Inh|Prm|Amb)' /proc/self/status | tr '\\n\\t' '  '";

pub(crate) fn inheritable() {
    let f = Fixture::running("exec sleep 100");
    let call = |args: &[&str]| f.call(&[&["exec"], args, &["c", "sh", "-c", SETS]].concat()).ok();
    let zero = "0000000000000000";
    for args in
        [&["--cap", "CAP_NET_RAW"][..], &["--cap", "CAP_NET_RAW", "--user", "1000"], &["--user", "1000"], &[]]
    {
        let said = call(args);
        assert!(said.contains(&format!("CapInh: {zero}")), "{args:?}: {said}");
        assert!(said.contains(&format!("CapAmb: {zero}")), "{args:?}: {said}");
        if args.contains(&"1000") {
            assert!(said.contains(&format!("CapPrm: {zero}")), "{args:?}: {said}");
        }
    }
    assert!(Fixture::new(SETS).run().ok().contains(&format!("CapInh: {zero}")));
}

pub(crate) fn inheritable_control() {
    // CAP_NET_RAW is number 13.
    let output = naive("capabilities 2000 2000", &["/bin/sh", "-c", "grep CapInh /proc/self/status"]);
    assert_eq!(output.ok(), "CapInh:\t0000000000002000\n");
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

const INT_80: [u8; 2] = [0xcd, 0x80];
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// mkdir, in each way that there is. mkdir(NULL) fails with EFAULT, 14.
const PROGRAMS: [(&str, [u8; 2], u32); 3] =
    [("native", SYSCALL, 83), ("bits32", INT_80, 39), ("x32", SYSCALL, 0x4000_0000 | 83)];

fn with_programs(f: Fixture) -> Fixture {
    for (name, instruction, number) in PROGRAMS {
        let file = f.rootfs().join(name);
        fs::write(&file, call_by(instruction, number)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    f
}

fn script(directory: &str) -> String {
    PROGRAMS.map(|(name, ..)| format!("{directory}/{name}; echo {name} $?; ")).concat()
}

fn codes(output: &Output) -> Vec<&str> {
    output.out.lines().filter_map(|line| line.split(' ').nth(1)).collect()
}

pub(crate) fn architectures() {
    let check = |architectures: serde_json::Value, expected: [&str; 3]| {
        let f = with_programs(Fixture::new(&script(""))).with(|c| {
            c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures,
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77}]});
        });
        let output = f.run();
        assert_eq!(codes(&output), expected, "{output:?}");
    };
    let killed = "159";
    check(json!([]), ["77", killed, killed]);
    check(json!(["SCMP_ARCH_X86_64"]), ["77", killed, killed]);
    check(json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]), ["77", "77", "77"]);
}

pub(crate) fn architectures_control() {
    let f = with_programs(Fixture::new("true"));
    let output = naive("filter", &["/bin/sh", "-c", &script(&f.rootfs().display().to_string())]);
    let codes = codes(&output);
    assert_eq!(codes[0], "77", "{output:?}");
    // The number of 32 bits is another one's, so it passes; that of x32 fails as the kernel says, if it has x32 at all.
    assert_eq!(codes[1], "14", "{output:?}");
    assert_ne!(codes[2], "77", "{output:?}");
}

pub(crate) fn filter_order() {
    let said = "grep -E 'Cap(Eff|Prm|Bnd|Inh|Amb)|NoNewPrivs|Seccomp:' /proc/self/status";
    let admin = 1u64 << 21;
    for no_new_privileges in [false, true] {
        let f = Fixture::new(said).with(|c| {
            c["process"]["noNewPrivileges"] = no_new_privileges.into();
            // Calls that the runtime itself makes at last are forbidden: nothing is left to be done.
            let last = ["capset", "setgroups", "mount", "seccomp", "keyctl", "close_range"];
            c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": last, "action": "SCMP_ACT_KILL_PROCESS"}]});
        });
        let check = |output: Output| {
            if !no_new_privileges {
                // Then capset comes after the filter, and drops what loading it took: no program runs without that.
                return output.code != 0 && output.out.is_empty();
            }
            let said = output.ok();
            let set = |name: &str| {
                let line = said.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
                u64::from_str_radix(line, 16).unwrap()
            };
            ["CapEff:", "CapPrm:", "CapBnd:", "CapInh:", "CapAmb:"].iter().all(|name| set(name) & admin == 0)
                && said.contains("Seccomp:\t2")
        };
        assert!(check(f.run()), "no_new_privs {no_new_privileges}");
    }
    let f = Fixture::new(said).with(|c| {
        c["process"]["noNewPrivileges"] = false.into();
        c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO"}]});
    });
    let said = f.run().ok();
    for line in said.lines().filter(|line| line.starts_with("Cap")) {
        let set = u64::from_str_radix(line.split('\t').nth(1).unwrap(), 16).unwrap();
        assert_eq!(set & admin, 0, "{said}");
    }
    assert!(said.contains("Seccomp:\t2") && said.contains("NoNewPrivs:\t0"), "{said}");
}

/// A command of the runtime by a caller who has a key in his session's keyring.
fn with_key(f: &Fixture, keyring: &[&str], args: &[&str]) -> Output {
    let plain = f.command(args);
    let mut command = Command::new(program("attacker"));
    command
        .args(["key"])
        .args(keyring)
        .args(["put", "secret", "exec"])
        .arg(&f.runtime)
        .args(plain.get_args());
    command.current_dir(f.bundle()).stdin(std::process::Stdio::null());
    run(command)
}

pub(crate) fn keys() {
    let f = with_attacker(Fixture::new("attacker key get; exec sleep 100")).with(|c| {
        c["process"]["args"] = json!(["sh", "-c", "attacker key get > /tmp/said; exec sleep 100"]);
    });
    with_key(&f, &["session"], &["create", "c"]).ok();
    with_key(&f, &["session"], &["start", "c"]).ok();
    crate::harness::eventually("the container has said it", || {
        fs::read_to_string(f.rootfs().join("tmp/said")).is_ok_and(|said| said.ends_with('\n'))
    });
    assert_eq!(fs::read_to_string(f.rootfs().join("tmp/said")).unwrap(), "key: nothing\n");
    let said = with_key(&f, &["session"], &["exec", "c", "attacker", "key", "get"]).ok();
    assert_eq!(said, "key: nothing\n");
    let f = with_attacker(Fixture::new("attacker key get"));
    assert_eq!(with_key(&f, &["session"], &["run", "c"]).ok(), "key: nothing\n");
    // Who asks for the caller's keyring gets it, also for what is added later.
    assert_eq!(with_key(&f, &["session"], &["run", "--no-new-keyring", "c"]).ok(), "key: secret\n");
}

pub(crate) fn planted_keys() {
    // Another container's process has made a keyring of the name that runtimes give, open to all, and waits.
    let f = with_attacker(Fixture::new("attacker key put victims exec /bin/attacker key get"));
    let mut planted = Command::new(program("attacker"));
    planted.args(["key", "plant", "_ses.c", "put", "planted", "exec", "/bin/sleep", "100"]);
    let _planted = crate::harness::Guard(planted.spawn().unwrap());
    crate::harness::eventually("the keyring is there", || {
        fs::read_to_string("/proc/keys").is_ok_and(|keys| keys.contains("_ses.c:"))
    });
    let f2 = with_attacker(Fixture::new("attacker key get"));
    assert_eq!(f2.run().ok(), "key: nothing\n");
    assert_eq!(f.run().ok(), "key: victims\n");
}

pub(crate) fn planted_keys_old_runc() {
    let mut planted = Command::new(program("attacker"));
    planted.args(["key", "plant", "_ses.c", "put", "planted", "exec", "/bin/sleep", "100"]);
    let _planted = crate::harness::Guard(planted.spawn().unwrap());
    crate::harness::eventually("the keyring is there", || {
        fs::read_to_string("/proc/keys").is_ok_and(|keys| keys.contains("_ses.c:"))
    });
    let f = with_attacker(Fixture::with_runtime(Path::new(OLD_RUNC), "attacker key get"));
    let f = f.with(|c| c["ociVersion"] = "1.0.2".into());
    assert_eq!(f.run().ok(), "key: planted\n");
}

pub(crate) fn keys_control() {
    let mut command = Command::new(program("attacker"));
    command.args(["key", "session", "put", "secret", "exec"]).arg(program("naive"));
    command.args(["exec"]).arg(program("attacker")).args(["key", "get"]);
    assert_eq!(run(command).ok(), "key: secret\n");
    // And a keyring that is joined by its name is whoever's was first.
    let mut planted = Command::new(program("attacker"));
    planted.args(["key", "plant", "sampan-test-ring", "put", "planted", "exec", "/bin/sleep", "100"]);
    let _planted = crate::harness::Guard(planted.spawn().unwrap());
    let joined = || {
        let mut join = Command::new(program("attacker"));
        join.args(["key", "plant", "sampan-test-ring", "get"]);
        run(join).out
    };
    crate::harness::eventually("the planted key is found", || joined() == "key: planted\n");
}

pub(crate) fn groups() {
    let call = |f: &Fixture, args: &[&str]| {
        let plain = f.command(args);
        let mut command = Command::new("setpriv");
        command.args(["--groups", "4242,4243"]).arg(&f.runtime).args(plain.get_args());
        command.current_dir(f.bundle()).stdin(std::process::Stdio::null());
        run(command)
    };
    let script = "grep Groups: /proc/self/status";
    let f = Fixture::new(script);
    assert!(!call(&f, &["run", "c"]).ok().contains("424"));
    let f = f.with(|c| c["process"]["user"]["additionalGids"] = json!([7]));
    assert_eq!(call(&f, &["run", "c"]).ok().trim_end(), "Groups:\t7");
    let f = Fixture::running("exec sleep 100");
    assert!(!call(&f, &["exec", "c", "sh", "-c", script]).ok().contains("424"));
    assert!(!call(&f, &["exec", "--user", "1000:1000", "c", "sh", "-c", script]).ok().contains("424"));
}

pub(crate) fn groups_control() {
    let mut command = Command::new("setpriv");
    command.args(["--groups", "4242"]).arg(program("naive")).args([
        "user",
        "1000:1000",
        "exec",
        "/bin/grep",
        "Groups:",
    ]);
    command.arg("/proc/self/status");
    assert!(run(command).ok().contains("4242"));
}
