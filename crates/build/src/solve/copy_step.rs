//! `COPY` and `ADD`.

use std::path::{Path, PathBuf};

use sampan_base::digest::Hasher;
use sampan_base::{ChainId, Digest};
use sampan_image::InitLayer;
use sampan_kernel::beneath::RootDir;

use super::state::{State, chain_text, key_of};
use super::{Builder, Result};
use crate::change::Words;
use crate::copy::Look;
use crate::dockerfile::{Copy, Problem, expand};
use crate::error::BuildError;
use crate::tree::Tree;
use crate::{config, copy, graph, users};

impl Builder<'_> {
    pub(super) fn copy(&mut self, state: &mut State, line: usize, copy: &Copy, stage: usize) -> Result<()> {
        let name = if copy.add { "ADD" } else { "COPY" };
        let asked = [
            ("--parents", copy.parents),
            ("--exclude", !copy.exclude.is_empty()),
            ("--checksum", copy.checksum.is_some()),
            ("--keep-git-dir", copy.keep_git_dir.is_some()),
            ("--unpack", copy.unpack.is_some()),
        ];
        if let Some((flag, _)) = asked.iter().find(|(_, asked)| *asked) {
            return Err(self.wrong(line, Problem::Unsupported { what: format!("{name} {flag}") }));
        }
        let (sources, destination, chown, chmod, inline) = {
            let lookup = state.lookup();
            let words = Words { escape: self.file.escape, lookup: &lookup };
            let wrong = |e: expand::WordError| self.wrong(line, e.into());
            let optional =
                |text: &Option<String>| text.as_deref().map(|t| words.one(t)).transpose().map_err(wrong);
            let sources =
                copy.sources.iter().map(|s| words.one(s)).collect::<std::result::Result<Vec<_>, _>>();
            let mut inline = Vec::new();
            for heredoc in &copy.heredocs {
                let text = if heredoc.expand {
                    expand::document(&heredoc.text(), self.file.escape, &lookup).map_err(wrong)?
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
            self.wrong(line, Problem::Invalid { instruction: name.to_owned(), what, value })
        };
        if let Some(url) = sources.iter().find(|s| copy.add && is_remote(s)) {
            return Err(self.wrong(line, Problem::Unsupported { what: format!("ADD of the remote `{url}`") }));
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
        let at = self.at(line);
        let failed =
            |source| BuildError::Copy { at: at.clone(), instruction: name, source: Box::new(source) };
        let from = match &copy.from {
            Some(from) => Some(self.from(from, stage, line)?),
            None => None,
        };
        let tree = match &from {
            Some(chain) => {
                let rootfs = self.view(chain.as_ref(), line)?;
                Tree::Mounted(RootDir::open(&rootfs).map_err(|source| {
                    failed(copy::CopyError::Destination { action: "open", path: rootfs, source })
                })?)
            }
            None => Tree::Context { context: self.context, visible: self.visible },
        };
        let mut work: Vec<(Tree<'_>, Vec<PathBuf>)> = Vec::new();
        let mut selected = Vec::new();
        for source in &sources {
            selected.extend(tree.select(source).map_err(|e| failed(e.into()))?);
        }
        let count = selected.len() + inline.len();
        if count == 0 {
            return Err(BuildError::NoSources {
                at: self.at(line),
                instruction: name,
                patterns: sources.iter().map(|s| format!("`{s}`")).collect::<Vec<_>>().join(", "),
            });
        }
        if count > 1 && !absolute.ends_with('/') {
            return Err(BuildError::NotADirectory { at: self.at(line), instruction: name, destination });
        }
        let names: Vec<PathBuf> = inline.iter().map(|(name, _)| name.into()).collect();
        work.push((tree, selected));
        work.push((Tree::Inline(inline), names));
        let (digest, kind) = digest_of(&work).map_err(failed)?;
        let owner = chown.clone().unwrap_or_else(|| if from.is_some() { "kept" } else { "0:0" }.to_owned());
        let mode_text = mode.map(|m| format!("{m:o}")).unwrap_or_default();
        let parts = ["copy", name, chain_text(state), &absolute, &owner, &mode_text, digest.as_str()];
        let key = key_of(&parts);
        let shown_owner = chown.as_ref().map(|c| format!("--chown={c} ")).unwrap_or_default();
        let shell = config::shell(&state.image.config).join(" ");
        let by = format!("{shell} #(nop) {name} {shown_owner}{kind}:{} in {destination} ", digest.hex());
        if self.take_cached(state, &key, &by)? {
            return Ok(());
        }
        let scratch = self.scratch(state, &InitLayer::empty(), line)?;
        let owner = match (&chown, &from) {
            (Some(text), _) => {
                let root = open_root(scratch.rootfs()).map_err(failed)?;
                Some(
                    users::ids(&root, text)
                        .map_err(|source| BuildError::User { at: self.at(line), source })?,
                )
            }
            (None, _) => None,
        };
        for (tree, paths) in &work {
            let look = Look { owner, mode, unpack: copy.add };
            copy::copy(tree, paths, scratch.rootfs(), &absolute, &look).map_err(failed)?;
        }
        drop(work);
        self.freeze(state, scratch, &key, by, line)
    }

    /// The layers that `--from` means: a stage by name or number, or an image.
    fn from(&mut self, from: &str, stage: usize, line: usize) -> Result<Option<ChainId>> {
        if let Some(index) = graph::copied_stage(self.file, from, stage)
            && let Some(state) = self.stages.get(index).and_then(Option::as_ref)
        {
            return Ok(state.chain().cloned());
        }
        let image = self
            .store
            .resolve(from)
            .map_err(|source| BuildError::Base { at: self.at(line), source: Box::new(source) })?;
        self.store.hold(&image, &self.lease);
        Ok(image.chain_id().cloned())
    }

    /// Where these layers are mounted to be copied from.
    fn view(&mut self, chain: Option<&ChainId>, line: usize) -> Result<PathBuf> {
        if let Some(view) = self.views.get(&chain.cloned()) {
            return Ok(view.rootfs().to_owned());
        }
        let view = self.store.view(chain, &self.lease);
        let view =
            view.map_err(|source| BuildError::Snapshot { at: self.at(line), source: Box::new(source) })?;
        let rootfs = view.rootfs().to_owned();
        self.views.insert(chain.cloned(), view);
        Ok(rootfs)
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
