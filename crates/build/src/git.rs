//! Files from git repositories, by the host's `git`.
//!
//! ```text
//! https://host/repository.git#branch:directory ─▶ ls-remote: a commit, which names the files
//!                                                └▶ init, fetch, checkout into an empty directory
//! ```
//!
//! Neither the repository nor the host has a say in what is executed: git runs with an environment of its own, reads no
//! configuration but ours, has no hooks, and speaks only the protocols of networks.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sampan_image::tar::Mtime;

/// A part of a repository at a time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GitRef {
    /// Where it is.
    pub remote: String,
    /// A branch, a tag or a commit; `None`: what the repository itself shows first.
    pub reference: Option<String>,
    /// A directory in it.
    pub directory: Option<String>,
}

/// Why a repository's files can't be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GitError {
    /// There is no git.
    #[error("cannot run `git`: is it installed on the builder's host?")]
    Missing {
        /// Why.
        source: io::Error,
    },
    /// It fails.
    #[error("git {action} of {remote} fails: {said}")]
    Failed {
        /// What was tried.
        action: &'static str,
        /// Of which repository.
        remote: String,
        /// What git says, shortened.
        said: String,
    },
    /// There is no such branch, tag or commit.
    #[error("{remote} has no `{reference}`")]
    NoSuchReference {
        /// The repository.
        remote: String,
        /// What was looked for.
        reference: String,
    },
    /// An address or reference that could be taken for something else.
    #[error("invalid git address `{text}`")]
    Invalid {
        /// As written.
        text: String,
    },
}

impl GitRef {
    /// Reads `https://host/x.git#reference:directory`, `ssh://…`, `git://…`, `git@host:x.git`; `None` if it is no address
    /// of a repository. One by HTTP ends with `.git`, or it is a file's.
    pub fn parse(text: &str) -> Option<GitRef> {
        let (remote, fragment) = text.split_once('#').unwrap_or((text, ""));
        let http = remote.starts_with("https://") || remote.starts_with("http://");
        let ssh = remote.starts_with("ssh://") || remote.starts_with("git://") || scp_like(remote);
        if !(ssh || http && remote.split('?').next().is_some_and(|path| path.ends_with(".git"))) {
            return None;
        }
        let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
        let given = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
        Some(GitRef { remote: remote.to_owned(), reference: given(reference), directory: given(directory) })
    }

    /// As [`GitRef::parse`], of `https://github.com/owner/repository`, which needs no `.git`.
    pub fn of_github(text: &str) -> Option<GitRef> {
        let (remote, fragment) = text.split_once('#').unwrap_or((text, ""));
        let path = remote.strip_prefix("https://github.com/")?;
        let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
        let plain = parts.len() == 2 && parts.iter().all(|part| !part.is_empty());
        plain.then(|| GitRef::parse(&format!("{}.git#{fragment}", remote.trim_end_matches('/'))))?
    }

    /// None of it may be an option of git's, or a protocol that runs programs.
    fn checked(&self) -> Result<(), GitError> {
        let invalid = |text: &str| Err(GitError::Invalid { text: text.chars().take(200).collect() });
        if self.remote.starts_with('-')
            || self.remote.contains("::")
            || self.remote.contains(char::is_control)
        {
            return invalid(&self.remote);
        }
        match &self.reference {
            Some(text)
                if text.starts_with('-') || text.contains([':', '^', '~', ' ', '\\', '*', '?', '[']) =>
            {
                invalid(text)
            }
            _ => Ok(()),
        }
    }
}

/// `user@host:path`
fn scp_like(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    text.split_once('@').is_some_and(|(user, rest)| {
        let host = rest.split_once(':').map(|(host, _)| host);
        !user.is_empty()
            && user.chars().all(plain)
            && host.is_some_and(|h| !h.is_empty() && h.chars().all(plain))
    })
}

/// Runs git for one build step.
#[derive(Clone, Debug, Default)]
pub struct Git {
    /// The socket of an SSH agent for `ssh://` and `git@`.
    pub agent: Option<PathBuf>,
}

/// A commit's name: 40 digits, or 64 in newer repositories.
fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Git {
    /// The commit that a reference means now.
    ///
    /// # Errors
    /// If there is no git, no repository, or no such reference.
    pub fn commit(&self, wanted: &GitRef) -> Result<String, GitError> {
        wanted.checked()?;
        let reference = wanted.reference.as_deref().unwrap_or("HEAD");
        if is_commit(reference) {
            return Ok(reference.to_ascii_lowercase());
        }
        let tag = format!("refs/tags/{reference}^{{}}");
        let listed = self.run(
            None,
            "ls-remote",
            &wanted.remote,
            &["ls-remote", "--", &wanted.remote, reference, &tag],
        )?;
        let lines: Vec<(&str, &str)> = listed.lines().filter_map(|l| l.split_once('\t')).collect();
        // A tag with a message is an object of its own; what it is put on comes first.
        let names =
            [tag, format!("refs/tags/{reference}"), format!("refs/heads/{reference}"), reference.to_owned()];
        let found = names.iter().find_map(|name| lines.iter().find(|(_, n)| n == name));
        found.map(|(commit, _)| (*commit).to_owned()).ok_or_else(|| GitError::NoSuchReference {
            remote: wanted.remote.clone(),
            reference: reference.to_owned(),
        })
    }

    /// Writes the files of a commit into the empty directory `into`, submodules included; answers the commit's time.
    ///
    /// # Errors
    /// As [`Git::commit`].
    pub fn checkout(&self, wanted: &GitRef, commit: &str, into: &Path) -> Result<Mtime, GitError> {
        wanted.checked()?;
        let remote = wanted.remote.as_str();
        // Templates would bring hooks.
        self.run(Some(into), "init", remote, &["init", "-q", "--template="])?;
        self.run(Some(into), "remote", remote, &["remote", "add", "origin", remote])?;
        let fetch = |what: &[&str]| {
            let arguments = [&["fetch", "-q", "--no-recurse-submodules"], what].concat();
            self.run(Some(into), "fetch", remote, &arguments)
        };
        // Not every server gives a commit by its name, or a part of the history.
        fetch(&["--depth=1", "--no-tags", "origin", commit]).or_else(|_| {
            fetch(&["origin", "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"])
        })?;
        self.run(Some(into), "checkout", remote, &["checkout", "-q", "--detach", commit])?;
        if into.join(".gitmodules").is_file() {
            let update = ["submodule", "update", "-q", "--init", "--recursive", "--depth=1"];
            self.run(Some(into), "submodule update", remote, &update)?;
        }
        let time = self.run(Some(into), "show", remote, &["show", "-s", "--format=%ct", commit])?;
        Ok(Mtime { seconds: time.trim().parse().unwrap_or(0), nanoseconds: 0 })
    }

    fn run(
        &self,
        directory: Option<&Path>,
        action: &'static str,
        remote: &str,
        arguments: &[&str],
    ) -> Result<String, GitError> {
        let mut command = Command::new("git");
        for setting in [
            "core.hooksPath=/dev/null",
            "core.fsmonitor=false",
            "core.sshCommand=ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=/dev/null",
            "credential.helper=",
            "protocol.allow=never",
            "protocol.https.allow=always",
            "protocol.http.allow=always",
            "protocol.git.allow=always",
            "protocol.ssh.allow=always",
            "http.lowSpeedLimit=100",
            "http.lowSpeedTime=60",
            "init.defaultBranch=main",
            "advice.detachedHead=false",
            "safe.directory=*",
        ] {
            command.args(["-c", setting]);
        }
        if let Some(directory) = directory {
            command.arg("-C").arg(directory);
        }
        command.args(arguments).stdin(Stdio::null()).env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs([
            ("HOME", "/nonexistent"),
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ATTR_NOSYSTEM", "1"),
        ]);
        if let Some(agent) = &self.agent {
            command.env("SSH_AUTH_SOCK", agent);
        }
        let output = command.output().map_err(|source| GitError::Missing { source })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
            let said = said.chars().take(500).collect();
            return Err(GitError::Failed { action, remote: remote.to_owned(), said });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_repositories() {
        let parse = |text: &str| {
            let found = GitRef::parse(text)?;
            let part = |part: Option<String>| part.unwrap_or_else(|| "-".to_owned());
            Some(format!("{} {} {}", found.remote, part(found.reference), part(found.directory)))
        };
        for (text, expected) in [
            ("https://h/x.git", Some("https://h/x.git - -")),
            ("https://h/x.git#v1:docs/a", Some("https://h/x.git v1 docs/a")),
            ("http://h/x.git#:docs", Some("http://h/x.git - docs")),
            ("git@h:o/x.git#main", Some("git@h:o/x.git main -")),
            ("git@h:o/x", Some("git@h:o/x - -")),
            ("ssh://git@h/x", Some("ssh://git@h/x - -")),
            ("git://h/x#a", Some("git://h/x a -")),
            ("https://h/x.tar.gz", None),
            ("https://h/x.git/y", None),
            ("file:///x.git", None),
            ("/x.git", None),
            ("a@b", None),
            ("a b@h:x", None),
        ] {
            assert_eq!(parse(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn repositories_of_github_need_no_ending() {
        let found = GitRef::of_github("https://github.com/o/r#v1:d").unwrap();
        assert_eq!(
            (found.remote.as_str(), found.directory.as_deref()),
            ("https://github.com/o/r.git", Some("d"))
        );
        assert_eq!(GitRef::of_github("https://github.com/o/r/raw/main/Dockerfile"), None);
        assert_eq!(GitRef::of_github("https://example.org/o/r"), None);
    }

    #[test]
    fn nothing_is_an_option_or_a_program() {
        for text in
            ["git@h:x#--upload-pack=x", "git://h/ext::sh", "git://h/x#a b", "git://h/x#a~1", "git://h/x#a^{}"]
        {
            let wanted = GitRef::parse(text).unwrap();
            assert!(matches!(Git::default().commit(&wanted), Err(GitError::Invalid { .. })), "{text}");
        }
    }
}
