//! Who a process in a container runs as: `user[:group]` looked up in the container's own /etc/passwd and /etc/group.
//!
//! The files belong to the image, so they are opened beneath the rootfs by the kernel (no link leads out), read up to a
//! limit, and malformed lines are skipped.

use std::io::Read;
use std::path::Path;

use sampan_kernel::beneath::RootDir;

use crate::error::{EngineError, Result};

/// How much of /etc/passwd or /etc/group is read.
const LIMIT_BYTES: u64 = 8 << 20;

/// A user as the kernel knows it, and its home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// All groups, with the first one, ascending.
    pub groups: Vec<u32>,
    /// From passwd, else `/`.
    pub home: String,
}

fn read_in_root(root: &RootDir, path: &str) -> String {
    let mut bytes = Vec::new();
    let read = root.file(Path::new(path)).and_then(|file| file.take(LIMIT_BYTES).read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        // An image without the file is an image without names.
        Err(_) => String::new(),
    }
}

/// Looks up `text` and the further groups `add` in the files of `root`.
///
/// # Errors
/// If a name is in no file; numbers need not be.
pub(crate) fn resolve(root: &Path, text: &str, add: &[String]) -> Result<ResolvedUser> {
    let root = RootDir::open(root).map_err(EngineError::io(format!("cannot open `{}`", root.display())))?;
    resolve_in(&root, text, add)
}

/// As [`resolve`], in a tree that is open.
pub(crate) fn resolve_in(root: &RootDir, text: &str, add: &[String]) -> Result<ResolvedUser> {
    let passwd = read_in_root(root, "etc/passwd");
    let group = read_in_root(root, "etc/group");
    lookup(&passwd, &group, text, add)
}

struct PasswdLine<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd_lines(text: &str) -> impl Iterator<Item = PasswdLine<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        let home = fields.nth(1).unwrap_or("");
        Some(PasswdLine { name, uid, gid, home })
    })
}

struct GroupLine<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn group_lines(text: &str) -> impl Iterator<Item = GroupLine<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, gid) = (fields.next()?, fields.nth(1)?.parse().ok()?);
        Some(GroupLine { name, gid, members: fields.next().unwrap_or("") })
    })
}

/// An id as people write it: digits only. Anything else is a name (so `0x1`, `+1` and ` 1` are names, and not found).
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // Ids above i32::MAX are taken for -1 by old interfaces, so Docker refuses them, too.
    digits.then(|| text.parse().ok()).flatten().filter(|n| *n <= i32::MAX as u32)
}

fn lookup(passwd: &str, group: &str, text: &str, add: &[String]) -> Result<ResolvedUser> {
    let (user, wanted_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (text, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let entry = passwd_lines(passwd)
        .find(|line| line.name == user)
        .or_else(|| number(user).and_then(|uid| passwd_lines(passwd).find(|line| line.uid == uid)));
    let (uid, default_gid, home, name) = match (entry, number(user)) {
        (Some(line), _) => (line.uid, line.gid, line.home, Some(line.name)),
        (None, Some(uid)) => (uid, 0, "", None),
        (None, None) => {
            return Err(EngineError::Invalid(format!(
                "unable to find user {user}: no matching entries in passwd file"
            )));
        }
    };
    let group_id = |wanted: &str| {
        group_lines(group)
            .find(|line| line.name == wanted)
            .map(|line| line.gid)
            .or_else(|| number(wanted))
            .ok_or_else(|| {
                EngineError::Invalid(format!(
                    "unable to find group {wanted}: no matching entries in group file"
                ))
            })
    };
    let gid = match wanted_group {
        Some(wanted) => group_id(wanted)?,
        None => default_gid,
    };
    // Membership counts only where no group was named (as Docker and runc have it).
    let member = |line: &GroupLine<'_>| name.is_some_and(|name| line.members.split(',').any(|m| m == name));
    let mut groups: Vec<u32> = if wanted_group.is_none() {
        group_lines(group).filter(member).map(|line| line.gid).collect()
    } else {
        Vec::new()
    };
    for wanted in add {
        groups.push(group_id(wanted)?);
    }
    // A process that changes its group must not lose what the first one was denied (CVE-2022-36109).
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    let home = if home.is_empty() { "/" } else { home };
    Ok(ResolvedUser { uid, gid, groups, home: home.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34::/srv:/bin/false\n7:x:70:71::/seven:\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlog:x:40:web,root\nlate:x:41:web\n";

    fn check(text: &str, add: &[&str], expected: &str) {
        let add: Vec<String> = add.iter().map(|s| (*s).to_owned()).collect();
        let got = match lookup(PASSWD, GROUP, text, &add) {
            Ok(u) => format!("{}:{} {:?} {}", u.uid, u.gid, u.groups, u.home),
            Err(error) => error.to_string(),
        };
        assert_eq!(got, expected, "{text}");
    }

    #[test]
    fn names_numbers_and_groups() {
        check("", &[], "0:0 [0, 40] /root");
        check("web", &[], "33:34 [34, 40, 41] /srv");
        check("33", &[], "33:34 [34, 40, 41] /srv");
        check("web:log", &[], "33:40 [40] /srv");
        check("1000", &[], "1000:0 [0] /");
        check("1000:5", &["log", "9"], "1000:5 [5, 9, 40] /");
        check("7", &[], "70:71 [71] /seven");
    }

    #[test]
    fn what_is_no_number_is_a_name() {
        for text in ["0x1", "+1", " 1", "-1", "4294967296", "4294967295", "nobody"] {
            check(text, &[], &format!("unable to find user {text}: no matching entries in passwd file"));
        }
        check("0:nogroup", &[], "unable to find group nogroup: no matching entries in group file");
    }

    #[test]
    fn a_passwd_that_leads_out_of_the_rootfs_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("../../../../../../etc/passwd", root.path().join("etc/passwd")).unwrap();
        // The link resolves inside the rootfs, to itself: no file, so no names.
        assert!(resolve(root.path(), "root", &[]).is_err());
        assert_eq!(resolve(root.path(), "0", &[]).unwrap().uid, 0);
    }
}
