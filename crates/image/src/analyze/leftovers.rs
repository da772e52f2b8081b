//! Files that programs leave behind and that a container rarely needs, told by where they lie.

use serde::Serialize;

use super::files::View;

/// What was left behind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// `apt-get update`'s package lists.
    AptLists,
    /// Packages that apt downloaded, and its indexes.
    AptCache,
    /// yum's and dnf's.
    DnfCache,
    /// apk's.
    ApkCache,
    /// pip's.
    PipCache,
    /// npm's and yarn's.
    NpmCache,
    /// cargo's registry and git checkouts.
    CargoCache,
    /// Go's modules and build results.
    GoCache,
    /// Compiled Python.
    PythonBytecode,
    /// A repository with its whole history.
    Git,
    /// What programs wrote while the image was built.
    Logs,
    /// `/tmp` and `/var/tmp`.
    Temporary,
    /// Compilers, headers, static libraries.
    BuildTools,
}

/// Leftovers of one kind in one layer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Leftover {
    /// What.
    pub kind: Kind,
    /// The layer that has them.
    pub layer: usize,
    /// Their bytes.
    pub bytes: u64,
    /// How many.
    pub files: u64,
    /// One of them.
    pub example: String,
}

impl Kind {
    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Kind::AptLists => "apt package lists",
            Kind::AptCache => "apt cache",
            Kind::DnfCache => "dnf/yum cache",
            Kind::ApkCache => "apk cache",
            Kind::PipCache => "pip cache",
            Kind::NpmCache => "npm/yarn cache",
            Kind::CargoCache => "cargo cache",
            Kind::GoCache => "Go cache",
            Kind::PythonBytecode => "Python bytecode",
            Kind::Git => "git history",
            Kind::Logs => "logs",
            Kind::Temporary => "temporary files",
            Kind::BuildTools => "build tools",
        }
    }

    /// What kind of leftover the file at `path` is, if it is one.
    fn of(path: &str) -> Option<Kind> {
        let below = |directory: &str| path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'));
        let inside = |part: &str| path.starts_with(&part[1..]) || path.contains(part);
        let name = path.rsplit('/').next().unwrap_or_default();
        let tools = [
            "gcc", "g++", "cc", "c++", "cpp", "make", "cmake", "ninja", "ld", "as", "clang", "rustc", "cargo",
        ];
        let known = [
            (below("var/lib/apt/lists"), Kind::AptLists),
            (below("var/cache/apt"), Kind::AptCache),
            (below("var/cache/dnf") || below("var/cache/yum"), Kind::DnfCache),
            (below("var/cache/apk") || below("etc/apk/cache"), Kind::ApkCache),
            (inside("/.cache/pip/"), Kind::PipCache),
            (inside("/.npm/_cacache/") || inside("/.cache/yarn/") || inside("/.npm/_logs/"), Kind::NpmCache),
            (
                inside("/.cargo/registry/") || inside("/.cargo/git/") || below("usr/local/cargo/registry"),
                Kind::CargoCache,
            ),
            (inside("/.cache/go-build/") || inside("/go/pkg/mod/"), Kind::GoCache),
            (inside("/__pycache__/"), Kind::PythonBytecode),
            (inside("/.git/"), Kind::Git),
            (below("var/log"), Kind::Logs),
            (below("tmp") || below("var/tmp"), Kind::Temporary),
            (
                below("usr/include")
                    || below("usr/lib/gcc")
                    || below("usr/libexec/gcc")
                    || (path.starts_with("usr/lib/") && name.ends_with(".a"))
                    || ((below("usr/bin") || below("usr/local/bin"))
                        && tools.iter().any(|t| is_tool(name, t))),
                Kind::BuildTools,
            ),
        ];
        known.into_iter().find(|(fits, _)| *fits).map(|(_, kind)| kind)
    }
}

/// `gcc`, `gcc-12`, `x86_64-linux-gnu-gcc-12`.
fn is_tool(name: &str, tool: &str) -> bool {
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').trim_end_matches('-');
    name == tool || name.strip_suffix(tool).is_some_and(|rest| rest.ends_with("-linux-gnu-"))
}

/// What is left behind and visible, the largest first.
pub(super) fn find(view: &View) -> Vec<Leftover> {
    let (sums, examples) =
        view.sums(|file| Some((Kind::of(&String::from_utf8_lossy(&file.path))?, file.layer + 1)));
    let mut found: Vec<Leftover> = sums
        .into_iter()
        .filter(|(_, (bytes, _))| *bytes > 0)
        .map(|((kind, layer), (bytes, files))| {
            let example = examples.get(&(kind, layer)).cloned().unwrap_or_default();
            Leftover { kind, layer, bytes, files, example }
        })
        .collect();
    found.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| (a.kind, a.layer).cmp(&(b.kind, b.layer))));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_are_told_by_their_place() {
        for (path, kind) in [
            ("var/lib/apt/lists/deb.debian.org_Packages", Some(Kind::AptLists)),
            ("var/cache/apt/archives/x.deb", Some(Kind::AptCache)),
            ("root/.cache/pip/http/a", Some(Kind::PipCache)),
            (".git/HEAD", Some(Kind::Git)),
            ("srv/.git/HEAD", Some(Kind::Git)),
            ("srv/x.git/HEAD", None),
            ("usr/bin/x86_64-linux-gnu-gcc-12", Some(Kind::BuildTools)),
            ("usr/bin/gcc", Some(Kind::BuildTools)),
            ("usr/bin/gccgo-like", None),
            ("usr/bin/asx", None),
            ("usr/bin/python3.11", None),
            ("usr/include/stdio.h", Some(Kind::BuildTools)),
            ("tmp/x", Some(Kind::Temporary)),
            ("tmpfiles/x", None),
            ("usr/lib/python3/__pycache__/a.pyc", Some(Kind::PythonBytecode)),
            ("var/log/dpkg.log", Some(Kind::Logs)),
        ] {
            assert_eq!(Kind::of(path), kind, "{path}");
        }
    }
}
