//! `RUN --mount`: what a command sees that is no part of its layer.
//!
//! In two steps: [`plan`](StageRun::plan_mounts) says what is mounted where, which is part of the step's key; only if
//! the step has to run, [`mount`](StageRun::mount_all) makes it. Mount points are made in the step's init layer, so that
//! none is left in the image. Sources are resolved inside what they are in, and have no links left.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid};
use sampan_base::digest::Hasher;
use sampan_base::{ChainId, FileError};
use sampan_image::{InitLayer, Scratch, Workspace};
use sampan_kernel::beneath::RootDir;

use super::agent::Agent;
use super::persistent::InUse;
use super::stage::StageRun;
use super::state::State;
use super::{For, NamedContext, Result, Solve};
use crate::copy::{self, CopyError, Look};
use crate::dockerfile::{Mount, MountKind, Problem, RunMount, expand};
use crate::error::BuildError;
use crate::run::{Owners, StepMount};
use crate::select::{Taking, select};
use crate::tree::{Tree, TreeError};
use crate::{config, graph};

/// A mount that is known, but not made.
pub(super) struct Planned {
    mount: Mount,
    /// Absolute; as in the Dockerfile.
    target: String,
    source: Source,
    /// What of it makes the step another one.
    pub(super) key: String,
}

/// Where files come from.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Source {
    /// Nowhere: the mount is made of nothing.
    Nothing,
    /// The build's context, or a named one that is files.
    Files(Option<String>),
    /// Layers.
    Layers(Option<ChainId>),
}

/// Mounts that are made. They go when this is dropped.
#[derive(Default)]
pub(super) struct Mounts<'a> {
    pub(super) list: Vec<StepMount>,
    /// Secrets in variables.
    pub(super) env: Vec<String>,
    /// The ids of all secrets that are seen.
    pub(super) secrets: Vec<String>,
    held: Vec<Held<'a>>,
}

/// What must stay as long as the command runs.
#[expect(dead_code, reason = "held, not read")]
enum Held<'a> {
    Shared(Arc<Scratch>),
    Own(Scratch),
    Copies(Workspace),
    Persistent(InUse<'a>),
    Secret(SecretFile),
    Agent(Agent),
}

impl<'s, 'a> StageRun<'s, 'a> {
    /// What `--from` means: files, a stage or an image.
    pub(super) fn source(&self, from: &str) -> Result<Source> {
        let solve = self.solve;
        let image = match solve.options.contexts.get(from) {
            Some(NamedContext::Files(_)) => return Ok(Source::Files(Some(from.to_owned()))),
            Some(NamedContext::Image(name)) => name,
            None => {
                if let Some(index) = graph::copied_stage(solve.file, from, self.index) {
                    return Ok(Source::Layers(solve.stage(index, self.ordinal)?.chain().cloned()));
                }
                if from == "scratch" {
                    return Ok(Source::Layers(None));
                }
                from
            }
        };
        let image = solve.image(image, &solve.platforms[self.index], self.line, self.step)?;
        Ok(Source::Layers(image.chain_id().cloned()))
    }

    pub(super) fn plan_mounts(&self, state: &State, mounts: &[RunMount]) -> Result<Vec<Planned>> {
        let mut planned = Vec::new();
        for written in mounts {
            let lookup = state.lookup();
            let mount = written.resolve(&|word| expand::word(word, self.solve.file.escape, &lookup));
            planned.push(self.plan_mount(state, mount.map_err(|e| self.solve.wrong(self.line, e))?)?);
        }
        Ok(planned)
    }

    fn plan_mount(&self, state: &State, mount: Mount) -> Result<Planned> {
        let id = mount.id.clone().or(mount.source.clone()).unwrap_or_default();
        let target = match (&mount.target, mount.kind) {
            (Some(target), _) => config::join_workdir(&state.image.config, target),
            (None, MountKind::Ssh) => "/run/buildkit/ssh_agent.0".to_owned(),
            (None, _) => format!("/run/secrets/{}", id.rsplit('/').next().unwrap_or_default()),
        };
        if target == "/" {
            let (instruction, what) = ("RUN".to_owned(), "target of --mount");
            return Err(self.solve.wrong(self.line, Problem::Invalid { instruction, what, value: target }));
        }
        let source = match (mount.kind, &mount.from) {
            (MountKind::Bind, None) => Source::Files(None),
            (MountKind::Bind | MountKind::Cache, Some(from)) => self.source(from)?,
            _ => Source::Nothing,
        };
        let content = match &source {
            Source::Nothing => String::new(),
            Source::Layers(chain) => chain.as_ref().map_or("scratch", |c| c.0.as_str()).to_owned(),
            Source::Files(_) => self.digest_of_files(&source, mount.source.as_deref().unwrap_or("."))?,
        };
        // Whether a secret is there, and what it is, makes no other layer.
        let Mount { kind, source: path, read_only, id, size, mode, uid, gid, env, .. } = &mount;
        let key = format!(
            "{kind:?} {path:?} {read_only} {id:?} {size:?} {mode:?} {uid:?} {gid:?} {env:?} {target} {content}"
        );
        Ok(Planned { mount, target, source, key })
    }

    fn digest_of_files(&self, source: &Source, path: &str) -> Result<String> {
        let tree = self.solve.files(source);
        let digest = || -> std::result::Result<String, TreeError> {
            let mut hasher = Hasher::new();
            for selected in tree.select(path)? {
                let resolved = tree.resolve(&selected).unwrap_or(selected);
                tree.hash(&resolved, Path::new(""), &mut hasher)?;
            }
            Ok(hasher.finish().to_string())
        };
        digest().map_err(|e| self.mount_failed(e.into()))
    }

    /// The init layer of a step with these mounts: it has their mount points. What is below a link of the image is
    /// resolved first, and the mounts' targets with it.
    pub(super) fn mount_points(&self, state: &State, mounts: &mut [StepMount]) -> Result<InitLayer> {
        let mut init = InitLayer::docker();
        if mounts.is_empty() {
            return Ok(init);
        }
        let view = self.solve.view(state.chain(), For::Us, self.line)?;
        let root = RootDir::open(view.rootfs()).map_err(|source| {
            self.mount_failed(CopyError::Destination {
                action: "open",
                path: view.rootfs().to_owned(),
                source,
            })
        })?;
        let tree = Tree::Mounted(root);
        for mount in mounts {
            let (target, directory) = match mount {
                StepMount::Bind { source, target, .. } => (target, source.is_dir()),
                StepMount::Tmpfs { target, .. } => (target, true),
            };
            *target = Path::new("/").join(resolved(&tree, Path::new(target.as_str()))).display().to_string();
            // These are file systems of the container's own; what is in them is no part of any layer.
            if ["/dev", "/proc", "/sys"].iter().any(|own| Path::new(target.as_str()).starts_with(own)) {
                continue;
            }
            init = if directory {
                init.with_directory(target.as_str())
            } else {
                init.with_file(target.as_str(), b"", 0o644)
            };
        }
        Ok(init)
    }

    pub(super) fn mount_all(&self, planned: &[Planned]) -> Result<Mounts<'a>> {
        let mut mounts = Mounts::default();
        for plan in planned {
            match plan.mount.kind {
                MountKind::Bind => self.bind(plan, &mut mounts)?,
                MountKind::Cache => self.cache(plan, &mut mounts)?,
                MountKind::Secret => self.secret(plan, &mut mounts)?,
                MountKind::Ssh => self.ssh(plan, &mut mounts)?,
                MountKind::Tmpfs => {
                    let (target, size) = (plan.target.clone(), plan.mount.size);
                    mounts.list.push(StepMount::Tmpfs { target, size });
                }
            }
        }
        Ok(mounts)
    }

    fn bind(&self, plan: &Planned, mounts: &mut Mounts<'a>) -> Result<()> {
        let path = plan.mount.source.as_deref().unwrap_or("/");
        let (source, owners) = match (&plan.source, plan.mount.read_only) {
            (Source::Layers(chain), true) => {
                let view = self.solve.view(chain.as_ref(), For::Commands, self.line)?;
                let source = self.within(view.rootfs(), path)?;
                mounts.held.push(Held::Shared(view));
                (source, Owners::Host)
            }
            (Source::Layers(chain), false) => {
                // Written to by this command alone, and then gone.
                let view = self.solve.fresh_view(chain.as_ref(), For::Commands, self.line)?;
                let source = self.within(view.rootfs(), path)?;
                mounts.held.push(Held::Own(view));
                (source, Owners::Host)
            }
            _ => {
                let copies = self.solve.store.workspace().map_err(|e| self.snapshot_failed(e))?;
                let source = copies.path().join(COPIED);
                self.copy_files(&plan.source, path, copies.path(), COPIED, None)?;
                mounts.held.push(Held::Copies(copies));
                (source, Owners::Image)
            }
        };
        let (target, read_only) = (plan.target.clone(), plan.mount.read_only);
        mounts.list.push(StepMount::Bind { source, target, read_only, owners });
        Ok(())
    }

    fn cache(&self, plan: &Planned, mounts: &mut Mounts<'a>) -> Result<()> {
        let mount = &plan.mount;
        let id = mount.id.clone().unwrap_or_else(|| plan.target.clone());
        let sharing = mount.sharing.unwrap_or_default();
        let (uid, gid) = (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
        let fill = |data: &Path| -> Result<()> {
            let failed = |e: rustix::io::Errno| {
                BuildError::File(FileError { action: "make", path: data.to_owned(), source: e.into() })
            };
            let mode = Mode::from_raw_mode(mount.mode.unwrap_or(0o755));
            let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(CWD, data, owner.0, owner.1, AtFlags::empty()).map_err(failed)?;
            rustix::fs::chmodat(CWD, data, mode, AtFlags::empty()).map_err(failed)?;
            match &plan.source {
                Source::Nothing => Ok(()),
                source => {
                    let path = mount.source.as_deref().unwrap_or("/");
                    self.copy_files(source, path, data, "", Some((uid, gid)))
                }
            }
        };
        let used = self.solve.solver.persistent.acquire(&id, sharing, fill)?;
        let (source, target) = (used.path(), plan.target.clone());
        let (read_only, owners) = (mount.read_only, Owners::Image);
        mounts.list.push(StepMount::Bind { source, target, read_only, owners });
        mounts.held.push(Held::Persistent(used));
        Ok(())
    }

    fn secret(&self, plan: &Planned, mounts: &mut Mounts<'a>) -> Result<()> {
        let mount = &plan.mount;
        let of_target = || plan.target.rsplit('/').next().unwrap_or_default().to_owned();
        let id = mount.id.clone().or(mount.source.clone()).unwrap_or_else(of_target);
        let Some(secret) = self.solve.options.secrets.get(&id) else {
            return if mount.required { Err(self.missing("secret", id)) } else { Ok(()) };
        };
        mounts.secrets.push(id.clone());
        if let Some(name) = &mount.env {
            let invalid = |what| {
                let (instruction, value) = ("RUN".to_owned(), id.clone());
                self.solve.wrong(self.line, Problem::Invalid { instruction, what, value })
            };
            let text = std::str::from_utf8(&secret.0).map_err(|_| invalid("text in the secret"))?;
            mounts.env.push(format!("{name}={text}"));
            if mount.target.is_none() {
                return Ok(());
            }
        }
        let owner = self.owner_on_host(mount)?;
        let file = SecretFile::write(&self.solve.solver.volatile, &secret.0, owner, mount.mode)?;
        let (source, target) = (file.path.clone(), plan.target.clone());
        mounts.list.push(StepMount::Bind { source, target, read_only: true, owners: Owners::Host });
        mounts.held.push(Held::Secret(file));
        Ok(())
    }

    fn ssh(&self, plan: &Planned, mounts: &mut Mounts<'a>) -> Result<()> {
        let mount = &plan.mount;
        let id = mount.id.clone().unwrap_or_else(|| "default".to_owned());
        let Some(socket) = self.solve.options.ssh.get(&id) else {
            return if mount.required { Err(self.missing("SSH agent", id)) } else { Ok(()) };
        };
        let owner = self.owner_on_host(mount)?;
        let number = mounts.held.iter().filter(|held| matches!(held, Held::Agent(_))).count();
        let agent = Agent::listen(&self.solve.solver.volatile, socket, owner, mount.mode.unwrap_or(0o600))?;
        let target = match &mount.target {
            Some(_) => plan.target.clone(),
            None => format!("/run/buildkit/ssh_agent.{number}"),
        };
        if number == 0 {
            mounts.env.push(format!("SSH_AUTH_SOCK={target}"));
        }
        let source = agent.path().to_owned();
        mounts.list.push(StepMount::Bind { source, target, read_only: false, owners: Owners::Host });
        mounts.held.push(Held::Agent(agent));
        Ok(())
    }

    /// Who on the host the owner of a mount is. Its file may lie in memory, where only newer kernels mount with a mapping
    /// (tmpfs: Linux 6.3), so it is given to its owner by hand.
    fn owner_on_host(&self, mount: &Mount) -> Result<(u32, u32)> {
        let (uid, gid) = (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
        let Some(users) = self.solve.runner.users() else { return Ok((uid, gid)) };
        let nobody =
            |what: &'static str, id| BuildError::NotMapped { at: self.solve.at(self.line), what, id };
        match users.mapping.to_host(uid, gid) {
            (Some(uid), Some(gid)) => Ok((uid, gid)),
            (None, _) => Err(nobody("user", uid)),
            (_, None) => Err(nobody("group", gid)),
        }
    }

    /// Copies what `path` names in `source` to `destination` below `root`.
    fn copy_files(
        &self,
        source: &Source,
        path: &str,
        root: &Path,
        destination: &str,
        owner: Option<(u32, u32)>,
    ) -> Result<()> {
        let view;
        let tree = match source {
            Source::Layers(chain) => {
                view = self.solve.view(chain.as_ref(), For::Us, self.line)?;
                let opened = RootDir::open(view.rootfs());
                Tree::Mounted(opened.map_err(|source| {
                    let path = view.rootfs().to_owned();
                    self.mount_failed(CopyError::Destination { action: "open", path, source })
                })?)
            }
            _ => self.solve.files(source),
        };
        let selected = select(&tree, &[path.to_owned()], &Taking::default());
        let selected = selected.map_err(|e| self.mount_failed(e.into()))?;
        let owner = owner.or(matches!(source, Source::Files(_)).then_some((0, 0)));
        let look = Look { owner, ..Look::default() };
        copy::copy(&tree, &selected, root, destination, &look).map_err(|e| self.mount_failed(e))
    }

    /// The path of `path` inside the mounted file system, every link followed inside it.
    fn within(&self, rootfs: &Path, path: &str) -> Result<PathBuf> {
        let root = RootDir::open(rootfs).map_err(|source| {
            self.mount_failed(CopyError::Destination { action: "open", path: rootfs.to_owned(), source })
        })?;
        let tree = Tree::Mounted(root);
        let missing = || TreeError::NotFound { place: "the stage or image", path: path.to_owned() };
        let resolved = tree.resolve(Path::new(path)).filter(|p| tree.node(p).is_ok());
        Ok(rootfs.join(resolved.ok_or_else(|| self.mount_failed(missing().into()))?))
    }

    fn mount_failed(&self, source: CopyError) -> BuildError {
        BuildError::Copy {
            at: self.solve.at(self.line),
            instruction: "RUN --mount",
            source: Box::new(source),
        }
    }

    fn missing(&self, what: &'static str, id: String) -> BuildError {
        BuildError::NotGiven { at: self.solve.at(self.line), what, id }
    }
}

impl Solve<'_> {
    /// The tree of a context.
    pub(super) fn files(&self, source: &Source) -> Tree<'_> {
        if let Source::Files(Some(name)) = source
            && let (Some(NamedContext::Files(context)), Some(visible)) =
                (self.options.contexts.get(name), self.named.get(name.as_str()))
        {
            return Tree::Context { context, visible };
        }
        Tree::Context { context: self.context, visible: &self.visible }
    }
}

/// Where files of a context are copied to be mounted: below the root, so that one file can be mounted, too.
const COPIED: &str = "copied";

/// The path without links as far as it leads anywhere, and the rest as it is.
fn resolved(tree: &Tree<'_>, path: &Path) -> PathBuf {
    let mut at = PathBuf::new();
    for name in path.iter().filter(|n| *n != "/") {
        at = tree.resolve(&at.join(name)).unwrap_or_else(|| at.join(name));
    }
    at
}

/// A secret in a file, in memory where the state directory is; it goes with this value.
struct SecretFile {
    path: PathBuf,
}

impl SecretFile {
    fn write(directory: &Path, secret: &[u8], owner: (u32, u32), mode: Option<u32>) -> Result<SecretFile> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let name = sampan_base::id::random_id().map_err(FileError::on("name a file in", directory))?;
        let path = directory.join(name);
        let failed = || FileError::on("write a secret to", &path);
        let options = std::fs::File::options().write(true).create_new(true).mode(0o400).clone();
        let mut file = options.open(&path).map_err(failed())?;
        let this = SecretFile { path: path.clone() };
        file.write_all(secret).map_err(failed())?;
        let owner = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        rustix::fs::fchown(&file, Some(owner.0), Some(owner.1)).map_err(|e| failed()(e.into()))?;
        let mode = Mode::from_raw_mode(mode.unwrap_or(0o400));
        rustix::fs::fchmod(&file, mode).map_err(|e| failed()(e.into()))?;
        Ok(this)
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        // What stays is removed when the daemon starts the next time, or by a reboot.
        let _ = std::fs::remove_file(&self.path);
    }
}
