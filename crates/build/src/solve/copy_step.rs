//! `COPY` and `ADD`.

use std::path::{Path, PathBuf};

use sampan_base::Digest;
use sampan_base::digest::Hasher;
use sampan_image::InitLayer;
use sampan_kernel::beneath::RootDir;

use super::Result;
use super::mounts::Source;
use super::stage::StageRun;
use super::state::State;
use crate::change::Words;
use crate::copy::Look;
use crate::dockerfile::{Copy, Problem, expand};
use crate::error::BuildError;
use crate::tree::Tree;
use crate::{config, copy, users};

impl StageRun<'_, '_> {
    pub(super) fn copy(&mut self, state: &mut State, copy: &Copy) -> Result<()> {
        let (solve, line) = (self.solve, self.line);
        let name = if copy.add { "ADD" } else { "COPY" };
        let asked = [
            ("--parents", copy.parents),
            ("--exclude", !copy.exclude.is_empty()),
            ("--checksum", copy.checksum.is_some()),
            ("--keep-git-dir", copy.keep_git_dir.is_some()),
            ("--unpack", copy.unpack.is_some()),
        ];
        if let Some((flag, _)) = asked.iter().find(|(_, asked)| *asked) {
            return Err(solve.wrong(line, Problem::Unsupported { what: format!("{name} {flag}") }));
        }
        let (sources, destination, chown, chmod, inline) = {
            let lookup = state.lookup();
            let words = Words { escape: solve.file.escape, lookup: &lookup };
            let wrong = |e: expand::WordError| solve.wrong(line, e.into());
            let optional =
                |text: &Option<String>| text.as_deref().map(|t| words.one(t)).transpose().map_err(wrong);
            let sources =
                copy.sources.iter().map(|s| words.one(s)).collect::<std::result::Result<Vec<_>, _>>();
            let mut inline = Vec::new();
            for heredoc in &copy.heredocs {
                let text = if heredoc.expand {
                    expand::document(&heredoc.text(), &lookup).map_err(wrong)?
                } else {
                    heredoc.text()
                };
                inline.push((heredoc.name.clone(), text));
            }
            let destination = words.one(&copy.destination).map_err(wrong)?;
            let chown = optional(&copy.chown)?.filter(|c| !c.is_empty());
            (sources.map_err(wrong)?, destination, chown, optional(&copy.chmod)?, inline)
        };
        let invalid = |what, value: &str| {
            let value = value.to_owned();
            solve.wrong(line, Problem::Invalid { instruction: name.to_owned(), what, value })
        };
        if let Some(url) = sources.iter().find(|s| copy.add && is_remote(s)) {
            return Err(
                solve.wrong(line, Problem::Unsupported { what: format!("ADD of the remote `{url}`") })
            );
        }
        let mode = match &chmod {
            Some(text) => {
                let parsed = u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o7777);
                Some(parsed.ok_or_else(|| invalid("value of --chmod", text))?)
            }
            None => None,
        };
        let mut absolute = config::join_workdir(&state.image.config, &destination);
        if (destination.ends_with('/') || destination.ends_with("/.") || destination == ".")
            && absolute != "/"
        {
            absolute.push('/');
        }
        let at = solve.at(line);
        let failed =
            |source| BuildError::Copy { at: at.clone(), instruction: name, source: Box::new(source) };
        let from = match &copy.from {
            Some(from) => self.source(from)?,
            None => Source::Files(None),
        };
        let view;
        let tree = match &from {
            Source::Layers(chain) => {
                view = solve.view(chain.as_ref(), line)?;
                Tree::Mounted(open_root(view.rootfs()).map_err(failed)?)
            }
            files => solve.files(files),
        };
        // Files of a context have no owner of their own.
        let owned = matches!(from, Source::Layers(_));
        let mut work: Vec<(Tree<'_>, Vec<PathBuf>)> = Vec::new();
        let mut selected = Vec::new();
        for source in &sources {
            selected.extend(tree.select(source).map_err(|e| failed(e.into()))?);
        }
        let count = selected.len() + inline.len();
        if count == 0 {
            return Err(BuildError::NoSources {
                at: solve.at(line),
                instruction: name,
                patterns: sources.iter().map(|s| format!("`{s}`")).collect::<Vec<_>>().join(", "),
            });
        }
        if count > 1 && !absolute.ends_with('/') {
            return Err(BuildError::NotADirectory { at: solve.at(line), instruction: name, destination });
        }
        let names: Vec<PathBuf> = inline.iter().map(|(name, _)| name.into()).collect();
        work.push((tree, selected));
        work.push((Tree::Inline(inline), names));
        let (digest, kind) = digest_of(&work).map_err(failed)?;
        let owner = chown.clone().unwrap_or_else(|| if owned { "kept" } else { "0:0" }.to_owned());
        let mode_text = mode.map(|m| format!("{m:o}")).unwrap_or_default();
        let chain = state.chain_text().to_owned();
        let parts = ["copy", name, &chain, &absolute, &owner, &mode_text, digest.as_str()];
        let shown_owner = chown.as_ref().map(|c| format!("--chown={c} ")).unwrap_or_default();
        let shell = config::shell(&state.image.config).join(" ");
        let by = format!("{shell} #(nop) {name} {shown_owner}{kind}:{} in {destination} ", digest.hex());
        let Some(claim) = self.recall(state, &parts, &by)? else { return Ok(()) };
        let scratch = self.scratch(state, &InitLayer::empty())?;
        let owner = match &chown {
            Some(text) => {
                let root = open_root(scratch.rootfs()).map_err(failed)?;
                let ids = users::ids(&root, text);
                Some(ids.map_err(|source| BuildError::User { at: solve.at(line), source })?)
            }
            None => None,
        };
        for (tree, paths) in &work {
            let look = Look { owner, mode, unpack: copy.add };
            copy::copy(tree, paths, scratch.rootfs(), &absolute, &look).map_err(failed)?;
        }
        drop(work);
        self.freeze(state, scratch, claim, by)
    }
}

fn is_remote(source: &str) -> bool {
    ["http://", "https://", "ftp://", "git://", "ssh://", "git@"]
        .iter()
        .any(|scheme| source.starts_with(scheme))
}

/// The digest of everything to be copied, and what it is in history: one file, one directory, or several.
fn digest_of(
    work: &[(Tree<'_>, Vec<PathBuf>)],
) -> std::result::Result<(Digest, &'static str), copy::CopyError> {
    let mut hasher = Hasher::new();
    let mut kinds = Vec::new();
    for (tree, paths) in work {
        for path in paths {
            let resolved = tree.resolve(path).unwrap_or_else(|| path.clone());
            let directory = tree.node(&resolved)?.kind == crate::tree::NodeKind::Directory;
            // A directory's own name is not copied, a file's is, if it goes into a directory.
            let name =
                if directory { Path::new("") } else { Path::new(path.file_name().unwrap_or_default()) };
            tree.hash(&resolved, name, &mut hasher)?;
            kinds.push(if directory { "dir" } else { "file" });
        }
    }
    let kind = if kinds.len() > 1 { "multi" } else { kinds.first().copied().unwrap_or("multi") };
    Ok((hasher.finish(), kind))
}

pub(super) fn open_root(rootfs: &Path) -> std::result::Result<RootDir, copy::CopyError> {
    RootDir::open(rootfs).map_err(|source| copy::CopyError::Destination {
        action: "open",
        path: rootfs.to_owned(),
        source,
    })
}
