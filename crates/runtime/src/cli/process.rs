//! The process of `exec`, from the command line.

use sampan_oci::runtime::{Process, Spec};

use super::Failure;
use super::arguments::{Known, Parsed, flag, value};
use crate::error::Refused;

/// exec's options.
pub(super) const EXEC_OPTIONS: [Known; 19] = [
    value("console-socket", "SOCKET", "a Unix socket that gets the terminal's other end"),
    value("pidfd-socket", "SOCKET", "a Unix socket that gets a handle on the process"),
    value("cwd", "DIR", "the working directory in the container"),
    value("env", "NAME=VALUE", "set an environment variable; may be repeated").or('e'),
    flag("tty", "give it a terminal").or('t'),
    value("user", "UID[:GID]", "the user, in numbers").or('u'),
    value("additional-gids", "GID", "a supplementary group; may be repeated").or('g'),
    value("process", "FILE", "the process as JSON, instead of all other options").or('p'),
    flag("detach", "do not wait for the process").or('d'),
    value("pid-file", "FILE", "write the process's number to FILE"),
    value("process-label", "LABEL", "the SELinux context"),
    value("apparmor", "PROFILE", "the AppArmor profile"),
    flag("no-new-privs", "never grant privileges by exec"),
    value("cap", "CAPABILITY", "add a capability; may be repeated").or('c'),
    value("preserve-fds", "N", "hand on N descriptors from 3 on"),
    value("cgroup", "[CONTROLLER,..:]PATH", "put it into a cgroup below the container's; may be repeated"),
    flag("ignore-paused", "exec in a paused container, too"),
    flag("no-subreaper", "ignored: the runtime adopts no processes"),
    flag("help", "show this help").or('h'),
];

/// How many descriptors from 3 on are handed on: `--preserve-fds`, after those of `$LISTEN_FDS`. To be asked before
/// any file is opened.
pub(super) fn preserved(parsed: &Parsed) -> Result<u32, Failure> {
    let listen = std::env::var("LISTEN_FDS").ok().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    let count = parsed.number::<u32>("preserve-fds")?.unwrap_or(0).saturating_add(listen);
    // One that the caller has not passed would be one of ours by the time the process is executed.
    let missing = (3..3u32.saturating_add(count)).find(|fd| !is_inherited(*fd));
    match missing {
        Some(fd) => {
            Err(Refused::Invalid(format!("descriptor {fd} is to be handed on, but is not open")).into())
        }
        None => Ok(count),
    }
}

/// Whether a descriptor has come from the caller: it survived our exec, so it does not close on exec, and ours all do.
fn is_inherited(fd: u32) -> bool {
    const O_CLOEXEC: u32 = 0o2_000_000;
    let Ok(info) = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")) else { return false };
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & O_CLOEXEC == 0)
}

/// What tells the process about sockets that a supervisor has passed: the first of a container is number 1.
pub(super) fn socket_activation() -> Vec<String> {
    match std::env::var("LISTEN_FDS") {
        Ok(count) if count.parse::<u32>().is_ok_and(|n| n > 0) => {
            let names = std::env::var("LISTEN_FDNAMES").map(|names| format!("LISTEN_FDNAMES={names}"));
            [format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()].into_iter().chain(names).collect()
        }
        _ => Vec::new(),
    }
}

/// The container's own process with another command, and with what the options change.
pub(super) fn from_options(spec: &Spec, parsed: &Parsed) -> Result<Process, Refused> {
    let args = parsed.rest[1..].to_vec();
    if args.is_empty() {
        return Err(Refused::Invalid("exec needs a command".to_owned()));
    }
    let mut process = spec.process.clone().unwrap_or_default();
    process.args = args;
    process.console_size = None;
    if process.cwd.is_empty() {
        process.cwd = "/".to_owned();
    }
    process.terminal = parsed.has("tty");
    if let Some(cwd) = parsed.get("cwd") {
        process.cwd = cwd.to_owned();
    }
    process.env.extend(parsed.all("env").map(str::to_owned));
    if let Some(user) = parsed.get("user") {
        let (uid, gid) = parse_user(user)?;
        process.user.uid = uid;
        if let Some(gid) = gid {
            process.user.gid = gid;
        }
    }
    for gid in parsed.all("additional-gids") {
        process.user.additional_gids.push(parse_id(gid)?);
    }
    if let Some(profile) = parsed.get("apparmor") {
        process.apparmor_profile = Some(profile.to_owned());
    }
    if let Some(label) = parsed.get("process-label") {
        process.selinux_label = Some(label.to_owned());
    }
    if parsed.get("no-new-privs").is_some() {
        process.no_new_privileges = parsed.has("no-new-privs");
    }
    let capabilities: Vec<String> = parsed.all("cap").map(str::to_owned).collect();
    if !capabilities.is_empty() {
        // Not the inheritable set: what it holds would survive where nobody expects it (CVE-2022-29162).
        let sets = process.capabilities.get_or_insert_default();
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            set.extend(capabilities.iter().cloned());
        }
    }
    Ok(process)
}

/// Numbers only, and nothing around them: `1` must never be read as 0.
fn parse_user(text: &str) -> Result<(u32, Option<u32>), Refused> {
    match text.split_once(':') {
        Some((uid, gid)) => Ok((parse_id(uid)?, Some(parse_id(gid)?))),
        None => Ok((parse_id(text)?, None)),
    }
}

fn parse_id(text: &str) -> Result<u32, Refused> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let id = if digits { text.parse().ok() } else { None };
    id.ok_or_else(|| Refused::Invalid(format!("`{text}` is no user or group number")))
}

#[cfg(test)]
mod tests {
    use super::super::arguments::{End, parse};
    use super::*;

    #[test]
    fn users_are_numbers_and_nothing_else() {
        assert_eq!(parse_user("1").unwrap(), (1, None));
        assert_eq!(parse_user("01:7").unwrap(), (1, Some(7)));
        for text in ["", "1:", ":1", "0x1", "+1", " 1", "-1", "4294967296", "root", "1:2:3"] {
            assert!(parse_user(text).is_err(), "{text}");
        }
    }

    #[test]
    fn options_change_the_containers_process() {
        let spec: Spec = serde_json::from_str(
            r#"{"process":{"args":["init"],"env":["A=1"],"cwd":"/w","noNewPrivileges":true,"terminal":true,
                "user":{"uid":5,"gid":6},"capabilities":{"bounding":["CAP_KILL"],"inheritable":[]}}}"#,
        )
        .unwrap();
        let line = "-e B=2 --user 7 --cap CAP_CHOWN -g 9 ID ls -l";
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let parsed = parse(&EXEC_OPTIONS, &args, End::FirstArgument).unwrap();
        let process = from_options(&spec, &parsed).unwrap();
        assert_eq!(process.args, ["ls", "-l"]);
        assert_eq!(process.env, ["A=1", "B=2"]);
        assert_eq!((process.user.uid, process.user.gid), (7, 6));
        assert_eq!(process.user.additional_gids, [9]);
        assert!(process.no_new_privileges && !process.terminal);
        let sets = process.capabilities.unwrap();
        assert_eq!(sets.bounding, ["CAP_KILL", "CAP_CHOWN"]);
        assert!(sets.inheritable.is_empty());
    }
}
