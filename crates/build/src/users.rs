//! Users and groups of an image: `name`, `name:group`, `1000`, `1000:1000`.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use sampan_kernel::beneath::RootDir;

/// There is no such user or group in the image.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no {kind} `{name}` in the image's {file}")]
pub struct UnknownUser {
    /// `user` or `group`.
    pub kind: &'static str,
    /// The name.
    pub name: String,
    /// Where it was looked up.
    pub file: &'static str,
}

/// Bytes of `/etc/passwd` and `/etc/group` that are looked at: whole real ones, and no endless ones.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// The ids of `text` by the files of the image. A number needs no entry; without a group, a number's group is the
/// same number, and a name's its own.
pub(crate) fn ids(root: &RootDir, text: &str) -> Result<(u32, u32), UnknownUser> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let (uid, own_group) = match user.parse::<u32>() {
        Ok(uid) => (uid, uid),
        Err(_) if user.is_empty() => (0, 0),
        Err(_) => {
            let fields = entry(root, "etc/passwd", user);
            let number = |i: usize| fields.as_ref()?.get(i)?.parse().ok();
            let unknown = || UnknownUser { kind: "user", name: user.to_owned(), file: "/etc/passwd" };
            (number(2).ok_or_else(unknown)?, number(3).ok_or_else(unknown)?)
        }
    };
    let gid = match group.filter(|g| !g.is_empty()) {
        None => own_group,
        Some(group) => match group.parse() {
            Ok(gid) => gid,
            Err(_) => {
                let unknown = || UnknownUser { kind: "group", name: group.to_owned(), file: "/etc/group" };
                entry(root, "etc/group", group).and_then(|f| f.get(2)?.parse().ok()).ok_or_else(unknown)?
            }
        },
    };
    Ok((uid, gid))
}

/// The fields of the line that starts with `name`.
fn entry(root: &RootDir, file: &str, name: &str) -> Option<Vec<String>> {
    let file = root.file(Path::new(file)).ok()?;
    let lines = BufReader::new(file.take(MAX_BYTES)).split(b'\n').map_while(Result::ok);
    lines
        .map(|line| String::from_utf8_lossy(&line).split(':').map(str::to_owned).collect::<Vec<_>>())
        .find(|fields| fields.first().is_some_and(|f| f == name))
}
