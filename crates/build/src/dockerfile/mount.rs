//! `RUN --mount`: what a command sees that is no part of its layer.

use super::Problem;
use super::expand::WordError;
use super::near::suggest;

/// A `--mount` as written: its words may have variables, so what it says is known only in a build ([`RunMount::resolve`]).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunMount {
    /// The fields, comma-separated.
    pub text: String,
    /// `from`: the stage, image or context that it shows; variables have no meaning in it.
    pub from: Option<String>,
}

/// What a mount is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MountKind {
    /// A file or directory of the context, a stage or an image. What is written there is lost.
    #[default]
    Bind,
    /// A directory that stays for later builds.
    Cache,
    /// A file, or variable, with a secret.
    Secret,
    /// The socket of an SSH agent.
    Ssh,
    /// An empty directory in memory.
    Tmpfs,
}

/// How several steps use one cache at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sharing {
    /// All at once.
    #[default]
    Shared,
    /// Each its own: who comes second gets a new one.
    Private,
    /// One after the other.
    Locked,
}

/// A mount with its words expanded. What is `None` was not given.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mount {
    /// `type`
    pub kind: MountKind,
    /// `from`
    pub from: Option<String>,
    /// `source`, `src`: in what `from` names; of a secret the same as `id`.
    pub source: Option<String>,
    /// `target`, `dst`, `destination`
    pub target: Option<String>,
    /// `readonly`, `ro`, `readwrite`, `rw`; a cache and a tmpfs can be written if nothing is said, others can not.
    pub read_only: bool,
    /// `id` of a cache, secret or agent.
    pub id: Option<String>,
    /// `sharing` of a cache.
    pub sharing: Option<Sharing>,
    /// `size` of a tmpfs, in bytes.
    pub size: Option<u64>,
    /// `mode` of a cache, secret or agent's socket.
    pub mode: Option<u32>,
    /// `uid` of the same.
    pub uid: Option<u32>,
    /// `gid` of the same.
    pub gid: Option<u32>,
    /// `required`: without the secret or agent the step fails; else it goes on without.
    pub required: bool,
    /// `env`: the variable that a secret is in; then it is a file only if there is a target, too.
    pub env: Option<String>,
}

/// Bytes of one `--mount`.
const MAX_MOUNT_BYTES: usize = 64 * 1024;

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
];

impl RunMount {
    /// Reads what can be known without a build, and checks it.
    pub(super) fn parse(text: &str) -> Result<RunMount, Problem> {
        let fields = fields(text)?;
        let mut mount = RunMount { text: text.to_owned(), from: None };
        for (key, value) in &fields {
            if key == "from" && value.as_deref().is_some_and(has_variable) {
                return Err(mount.wrong("`from` does not support variable expansion: define a stage for it"));
            }
            if key == "from" {
                mount.from.clone_from(value);
            }
        }
        // Without variables all of it can be checked at once.
        if !has_variable(text) {
            mount.resolve(&|word| Ok(word.to_owned()))?;
        }
        Ok(mount)
    }

    fn wrong(&self, why: impl Into<String>) -> Problem {
        Problem::Mount { mount: self.text.chars().take(200).collect(), why: why.into() }
    }

    /// What it says once `expand` has expanded its words.
    ///
    /// # Errors
    /// If a word can't be expanded, or the fields do not fit together.
    pub fn resolve(&self, expand: &dyn Fn(&str) -> Result<String, WordError>) -> Result<Mount, Problem> {
        let mut mount = Mount::default();
        let mut read_only = None;
        let mut seen: Vec<String> = Vec::new();
        for (key, value) in fields(&self.text)? {
            seen.push(key.clone());
            let secret = matches!(mount.kind, MountKind::Secret | MountKind::Ssh);
            let misplaced = || self.wrong(format!("unexpected key `{key}` for this type of mount"));
            let Some(value) = value else {
                match key.as_str() {
                    "readonly" | "ro" => read_only = Some(true),
                    "readwrite" | "rw" => read_only = Some(false),
                    "required" if secret => mount.required = true,
                    "required" => return Err(misplaced()),
                    _ => return Err(self.wrong(format!("the field `{key}` must be a key=value pair"))),
                }
                continue;
            };
            let value = expand(&value)?;
            let invalid = || self.wrong(format!("invalid value for {key}: `{value}`"));
            let number = |radix| u32::from_str_radix(&value, radix).map_err(|_| invalid());
            match key.as_str() {
                "type" => {
                    mount.kind = match value.to_ascii_lowercase().as_str() {
                        "bind" => MountKind::Bind,
                        "cache" => MountKind::Cache,
                        "secret" => MountKind::Secret,
                        "ssh" => MountKind::Ssh,
                        "tmpfs" => MountKind::Tmpfs,
                        other => {
                            let kinds = ["bind", "cache", "secret", "ssh", "tmpfs"];
                            let hint = super::hint(suggest(other, &kinds));
                            return Err(self.wrong(format!("unsupported mount type `{value}`{hint}")));
                        }
                    }
                }
                "from" => mount.from = Some(value).filter(|v| !v.is_empty()),
                "source" | "src" => mount.source = Some(value).filter(|v| !v.is_empty()),
                "target" | "dst" | "destination" => mount.target = Some(value).filter(|v| !v.is_empty()),
                "readonly" | "ro" => read_only = Some(boolean(&value).ok_or_else(invalid)?),
                "readwrite" | "rw" => read_only = Some(!boolean(&value).ok_or_else(invalid)?),
                "required" if secret => mount.required = boolean(&value).ok_or_else(invalid)?,
                "size" if mount.kind == MountKind::Tmpfs => {
                    mount.size = Some(bytes(&value).ok_or_else(invalid)?)
                }
                "env" if mount.kind == MountKind::Secret => mount.env = Some(value).filter(|v| !v.is_empty()),
                "required" | "size" | "env" => return Err(misplaced()),
                "id" => mount.id = Some(value).filter(|v| !v.is_empty()),
                "sharing" => {
                    mount.sharing = Some(match value.to_ascii_lowercase().as_str() {
                        "shared" => Sharing::Shared,
                        "private" => Sharing::Private,
                        "locked" => Sharing::Locked,
                        other => {
                            let hint = super::hint(suggest(other, &["shared", "private", "locked"]));
                            return Err(self.wrong(format!("unsupported sharing value `{value}`{hint}")));
                        }
                    })
                }
                "mode" => mount.mode = Some(number(8).ok().filter(|m| *m <= 0o7777).ok_or_else(invalid)?),
                "uid" => mount.uid = Some(number(10)?),
                "gid" => mount.gid = Some(number(10)?),
                _ => {
                    let hint = super::hint(suggest(&key, &KEYS));
                    return Err(self.wrong(format!("unexpected key `{key}`{hint}")));
                }
            }
        }
        let writable = matches!(mount.kind, MountKind::Cache | MountKind::Tmpfs);
        mount.read_only = read_only.unwrap_or(!writable);
        self.check(mount)
    }

    fn check(&self, mount: Mount) -> Result<Mount, Problem> {
        let owned = matches!(mount.kind, MountKind::Cache | MountKind::Secret | MountKind::Ssh);
        let given = [("mode", mount.mode), ("uid", mount.uid), ("gid", mount.gid)];
        if let Some((key, _)) = given.iter().find(|(_, value)| !owned && value.is_some()) {
            return Err(self.wrong(format!("{key} is not allowed for this type of mount")));
        }
        if mount.sharing.is_some() && mount.kind != MountKind::Cache {
            return Err(self.wrong("sharing is for cache mounts"));
        }
        match mount.kind {
            MountKind::Secret if mount.from.is_some() => Err(self.wrong("a secret has no `from`")),
            MountKind::Secret if mount.source.is_some() && mount.id.is_some() => {
                Err(self.wrong("both source and id can't be set"))
            }
            MountKind::Secret if mount.source.is_none() && mount.target.is_none() && mount.id.is_none() => {
                Err(self.wrong("a secret needs an id or a target"))
            }
            MountKind::Bind | MountKind::Cache | MountKind::Tmpfs if mount.target.is_none() => {
                Err(self.wrong("a target is needed"))
            }
            _ => Ok(mount),
        }
    }
}

fn has_variable(text: &str) -> bool {
    text.match_indices('$').any(|(at, _)| at + 1 < text.len())
}

/// The fields, keys in lower case: comma-separated values with quotes as in CSV.
fn fields(text: &str) -> Result<Vec<(String, Option<String>)>, Problem> {
    let wrong = |why: &str| Problem::Mount { mount: text.chars().take(200).collect(), why: why.to_owned() };
    if text.len() > MAX_MOUNT_BYTES {
        return Err(wrong("it is too long"));
    }
    let mut all = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        let mut field = String::new();
        if chars.next_if_eq(&'"').is_some() {
            loop {
                match chars.next() {
                    // Two quotes are one.
                    Some('"') if chars.next_if_eq(&'"').is_some() => field.push('"'),
                    Some('"') => break,
                    Some(c) => field.push(c),
                    None => return Err(wrong("a quote does not end")),
                }
            }
            if chars.peek().is_some_and(|c| *c != ',') {
                return Err(wrong("text after a closing quote"));
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != ',') {
                if c == '"' {
                    return Err(wrong("a quote inside a field"));
                }
                field.push(c);
            }
        }
        all.push(match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value.to_owned())),
            None => (field.to_ascii_lowercase(), None),
        });
        if chars.next().is_none() {
            return Ok(all);
        }
    }
}

/// As Go reads them.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A size as Docker writes it: `64m`, `1.5GiB`; units are powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    let unit = text[end..].trim_start();
    let power = match unit.chars().next() {
        None | Some('b') => 0,
        Some(c) => "kmgtp".find(c)? + 1,
    };
    let known = matches!(unit.get(1..).unwrap_or(""), "" | "b" | "ib") && (power > 0 || unit.len() < 2);
    let value = number * 1024f64.powi(i32::try_from(power).ok()?);
    // Far below the limit, and whole.
    (known && value < 1e18).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let shown = RunMount::parse(text).and_then(|m| m.resolve(&|w| Ok(w.replace("$t", "cache"))));
        let shown = match shown {
            Ok(mount) => {
                let text = format!("{mount:?}");
                // Only what was said.
                let fields = text.trim_start_matches("Mount { ").trim_end_matches(" }").split(", ");
                let said: Vec<&str> =
                    fields.filter(|f| !f.ends_with("None") && *f != "required: false").collect();
                said.join(", ")
            }
            Err(e) => e.to_string(),
        };
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn all_kinds_and_keys() {
        for (text, expected) in [
            ("target=/x", "kind: Bind, target: Some(\"/x\"), read_only: true"),
            (
                "type=bind,from=b,src=/s,dst=d,rw",
                "kind: Bind, from: Some(\"b\"), source: Some(\"/s\"), target: Some(\"d\"), read_only: false",
            ),
            (
                "type=$t,id=i,target=/c,sharing=locked,mode=0755,uid=1,gid=2,ro=true",
                "kind: Cache, target: Some(\"/c\"), read_only: true, id: Some(\"i\"), sharing: Some(Locked), mode: Some(493), uid: Some(1), gid: Some(2)",
            ),
            (
                "type=secret,id=s,required,env=E",
                "kind: Secret, read_only: true, id: Some(\"s\"), required: true, env: Some(\"E\")",
            ),
            ("type=ssh,required=false", "kind: Ssh, read_only: true"),
            (
                "type=tmpfs,target=/t,size=1.5k",
                "kind: Tmpfs, target: Some(\"/t\"), read_only: false, size: Some(1536)",
            ),
            ("\"target=/a,b\"\"\"", "kind: Bind, target: Some(\"/a,b\\\"\"), read_only: true"),
        ] {
            check(text, expected);
        }
    }

    #[test]
    fn what_does_not_fit_is_told() {
        for (text, why) in [
            ("type=bnd,target=/x", "unsupported mount type `bnd` (did you mean bind?)"),
            ("type=cache,target=/x,sharing=lock", "unsupported sharing value `lock` (did you mean locked?)"),
            ("target=/x,taget=/y", "unexpected key `taget` (did you mean target?)"),
            ("target", "the field `target` must be a key=value pair"),
            ("from=$x,target=/y", "`from` does not support variable expansion: define a stage for it"),
            ("type=bind,target=/x,required", "unexpected key `required` for this type of mount"),
            ("type=cache,target=/x,size=1m", "unexpected key `size` for this type of mount"),
            ("type=ssh,env=X", "unexpected key `env` for this type of mount"),
            ("type=bind,target=/x,uid=1", "uid is not allowed for this type of mount"),
            ("type=secret", "a secret needs an id or a target"),
            ("type=secret,src=a,id=b", "both source and id can't be set"),
            ("type=tmpfs,target=/x,size=1x", "invalid value for size: `1x`"),
            ("type=cache,target=/x,mode=8", "invalid value for mode: `8`"),
            ("type=cache", "a target is needed"),
            ("a\"b", "a quote inside a field"),
        ] {
            check(text, &format!("invalid mount `{text}`: {why}"));
        }
    }
}
