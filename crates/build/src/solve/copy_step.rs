//! `COPY` and `ADD`.

use std::path::Path;

use sampan_image::InitLayer;
use sampan_kernel::beneath::RootDir;

use super::mounts::Source;
use super::remote::{self, Remote};
use super::stage::StageRun;
use super::state::State;
use super::{For, Result};
use crate::change::Words;
use crate::chmod::Chmod;
use crate::copy::{self, CopyError, Look};
use crate::dockerfile::{Copy, Problem, expand};
use crate::error::BuildError;
use crate::ignore::Ignore;
use crate::select::{Item, Taking, digest_of, select};
use crate::tree::Tree;
use crate::{config, users};

/// What an instruction says, expanded.
struct Wanted {
    /// In a context, a stage or an image.
    local: Vec<String>,
    /// On other hosts.
    remote: Vec<String>,
    /// Here-documents: name and text.
    inline: Vec<(String, String)>,
    destination: String,
    chown: Option<String>,
    chmod: Option<String>,
    checksum: Option<String>,
    exclude: Vec<String>,
}

impl StageRun<'_, '_> {
    pub(super) fn copy(&mut self, state: &mut State, copy: &Copy) -> Result<()> {
        let (solve, line) = (self.solve, self.line);
        let name = if copy.add { "ADD" } else { "COPY" };
        let wanted = self.wanted(state, copy)?;
        let invalid = |what, value: &str| {
            let value = value.to_owned();
            solve.wrong(line, Problem::Invalid { instruction: name.to_owned(), what, value })
        };
        if let Some(url) = wanted.remote.first().filter(|_| !copy.add) {
            return Err(invalid("source: only ADD takes files from other hosts", url));
        }
        let mode = match &wanted.chmod {
            Some(text) => Some(Chmod::parse(text).ok_or_else(|| invalid("value of --chmod", text))?),
            None => None,
        };
        let exclude = Ignore::of_patterns(&wanted.exclude);
        let exclude = exclude.map_err(|_| invalid("pattern of --exclude", &wanted.exclude.join(", ")))?;
        if let Some(checksum) = &wanted.checksum
            && (wanted.remote.len() != 1 || !wanted.local.is_empty())
        {
            return Err(invalid("--checksum: it is for one file from another host", checksum));
        }
        let absolute = absolute(state, &wanted.destination);
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
                view = solve.view(chain.as_ref(), For::Us, line)?;
                Tree::Mounted(open_root(view.rootfs()).map_err(failed)?)
            }
            files => solve.files(files),
        };
        // Files of a context have no owner of their own.
        let owned = matches!(from, Source::Layers(_));
        let taking = Taking { parents: copy.parents, exclude };
        let local = select(&tree, &wanted.local, &taking).map_err(|e| failed(e.into()))?;
        let remotes = wanted.remote.iter().map(|url| self.remote(url, copy, wanted.checksum.as_deref()));
        let remotes: Vec<Remote> = remotes.collect::<Result<_>>()?;
        let count = local.len() + remotes.len() + wanted.inline.len();
        if count > 1 && !absolute.ends_with('/') && !copy.parents {
            let destination = wanted.destination;
            return Err(BuildError::NotADirectory { at, instruction: name, destination });
        }
        let names = wanted.inline.iter().map(|(name, _)| Item::File { path: name.into(), name: name.into() });
        let names: Vec<Item> = names.collect();
        let mut work = vec![(tree, local), (Tree::Inline(wanted.inline), names)];
        let (mut digest, mut kind) = digest_of(&work).map_err(|e| failed(e.into()))?;
        if !remotes.is_empty() {
            (digest, kind) = (remote::digest_of(&digest, &remotes), "multi");
        }
        let owner = wanted.chown.clone().unwrap_or_else(|| if owned { "kept" } else { "0:0" }.to_owned());
        // What is linked does not depend on what is below it.
        let chain = if copy.link { "link" } else { state.chain_text() }.to_owned();
        let chmod = wanted.chmod.clone().unwrap_or_default();
        let unpack = copy.unpack.map_or("", |unpack| if unpack { "unpack" } else { "keep" });
        let parts = ["copy", name, &chain, &absolute, &owner, &chmod, unpack, digest.as_str()];
        let shown_owner = wanted.chown.as_ref().map(|c| format!("--chown={c} ")).unwrap_or_default();
        let shell = config::shell(&state.image.config).join(" ");
        let destination = &wanted.destination;
        let by = format!("{shell} #(nop) {name} {shown_owner}{kind}:{} in {destination} ", digest.hex());
        let Some(claim) = self.recall(state, &parts, &by)? else { return Ok(()) };
        let scratch = if copy.link {
            let scratch = solve.store.scratch(None, &InitLayer::empty(), &solve.lease);
            scratch.map_err(|e| self.snapshot_failed(e))?
        } else {
            self.scratch(For::Us, state, &InitLayer::empty())?
        };
        let owner = match &wanted.chown {
            Some(text) => {
                let root = open_root(scratch.rootfs()).map_err(failed)?;
                let ids = users::ids(&root, text);
                Some(ids.map_err(|source| BuildError::User { at: solve.at(line), source })?)
            }
            None => None,
        };
        let look = |unpack| Look { owner, mode: mode.clone(), unpack };
        let unpack = copy.add && copy.unpack != Some(false);
        for (tree, items) in work.drain(..) {
            copy::copy(&tree, &items, scratch.rootfs(), &absolute, &look(unpack)).map_err(failed)?;
        }
        for remote in remotes {
            let (tree, items) = self.fetched(remote, copy)?;
            // What comes from elsewhere is unpacked only if that is asked for.
            let unpack = copy.unpack == Some(true);
            copy::copy(&tree, &items, scratch.rootfs(), &absolute, &look(unpack)).map_err(failed)?;
        }
        if copy.link {
            self.freeze_linked(state, scratch, claim, by)
        } else {
            self.freeze(state, scratch, claim, by)
        }
    }

    fn wanted(&self, state: &State, copy: &Copy) -> Result<Wanted> {
        let lookup = state.lookup();
        let words = Words { escape: self.solve.file.escape, lookup: &lookup };
        let wrong = |e: expand::WordError| self.solve.wrong(self.line, e.into());
        let one = |text: &String| words.one(text).map_err(wrong);
        let optional = |text: &Option<String>| text.as_ref().map(one).transpose();
        let all = |texts: &[String]| texts.iter().map(one).collect::<Result<Vec<String>>>();
        let mut inline = Vec::new();
        for heredoc in &copy.heredocs {
            let text = if heredoc.expand {
                expand::document(&heredoc.text(), &lookup).map_err(wrong)?
            } else {
                heredoc.text()
            };
            inline.push((heredoc.name.clone(), text));
        }
        let (remote, local) = all(&copy.sources)?.into_iter().partition(|s| remote::is_remote(s));
        Ok(Wanted {
            local,
            remote,
            inline,
            destination: one(&copy.destination)?,
            chown: optional(&copy.chown)?.filter(|c| !c.is_empty()),
            chmod: optional(&copy.chmod)?.filter(|c| !c.is_empty()),
            checksum: optional(&copy.checksum)?.filter(|c| !c.is_empty()),
            exclude: all(&copy.exclude)?,
        })
    }
}

/// A destination from the root on; with a slash at its end if it is a directory's.
fn absolute(state: &State, destination: &str) -> String {
    let mut absolute = config::join_workdir(&state.image.config, destination);
    let directory =
        destination.ends_with('/') || destination.ends_with("/.") || matches!(destination, "." | "..");
    // Nothing at all is the work directory.
    if (directory || destination.is_empty()) && absolute != "/" {
        absolute.push('/');
    }
    absolute
}

pub(super) fn open_root(rootfs: &Path) -> std::result::Result<RootDir, CopyError> {
    RootDir::open(rootfs).map_err(|source| CopyError::Destination {
        action: "open",
        path: rootfs.to_owned(),
        source,
    })
}
