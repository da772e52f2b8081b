//! A store with a busybox image, a runner by `unshare` and `chroot`, and contexts from texts.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use sampan_build::{
    BuildError, BuildEvent, BuildOptions, BuildResult, Context, ExitStatus, RunStep, RunnerError, Solver,
    StepMount, StepRunner, Stream,
};
use sampan_image::tar::{Kind, Member, Mtime, Writer};
use sampan_image::{Image, ImportOptions, InitLayer, Store};

pub(crate) struct Test {
    pub(crate) store: Option<Store>,
    pub(crate) solver: Option<Solver>,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) runner: Chroot,
}

/// Runs commands in the mounted file system, with mounts that go with the process.
#[derive(Default)]
pub(crate) struct Chroot {
    /// What was run, a command a line.
    pub(crate) ran: Mutex<Vec<String>>,
}

impl StepRunner for Chroot {
    fn run(
        &self,
        step: &RunStep<'_>,
        output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<ExitStatus, RunnerError> {
        self.ran.lock().unwrap().push(step.args.join(" "));
        let mut script = "set -e; cd \"$1\"; mount --make-rprivate /; mount -t proc proc proc; ".to_owned();
        if step
            .mounts
            .iter()
            .any(|m| matches!(m, StepMount::Bind { target, .. } if target.starts_with("/dev/")))
        {
            script += "mount -t tmpfs tmpfs dev; ";
        }
        for mount in &step.mounts {
            script += &match mount {
                StepMount::Bind { source, target, read_only, .. } => {
                    let make = if source.is_dir() { "mkdir -p" } else { "touch" };
                    let parent = Path::new(target).parent().unwrap().display().to_string();
                    let read_only = if *read_only {
                        format!("mount -o remount,bind,ro .{target}; ")
                    } else {
                        String::new()
                    };
                    format!(
                        "mkdir -p .{parent}; [ -e .{target} ] || {make} .{target}; mount --bind {} .{target}; {read_only}",
                        source.display()
                    )
                }
                StepMount::Tmpfs { target, size } => {
                    let size = size.map(|s| format!("-o size={s}")).unwrap_or_default();
                    format!("mount -t tmpfs {size} tmpfs .{target}; ")
                }
            };
        }
        script += "shift; exec chroot \"$@\"";
        let (uid, gid) = match step.user.as_str() {
            "" | "root" => ("0", "0"),
            user => user.split_once(':').unwrap_or((user, user)),
        };
        let mut child = Command::new("unshare")
            .args(["-m", "sh", "-c", &script, "sh"])
            .arg(step.rootfs)
            .arg(format!("--userspec={uid}:{gid}"))
            .arg(".")
            .args(["/bin/env", "-i"])
            .args(&step.env)
            .args(["/bin/sh", "-c", "cd \"$0\" && exec \"$@\"", &step.cwd])
            .args(&step.args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|e| RunnerError { class: sampan_base::Class::Internal, source: e.into() })?;
        let mut out = child.stdout.take().unwrap();
        let mut buffer = [0; 4096];
        while let Ok(n) = out.read(&mut buffer) {
            if n == 0 {
                break;
            }
            output(Stream::Stdout, &buffer[..n]);
        }
        Ok(ExitStatus { code: child.wait().unwrap().code().unwrap_or(137) })
    }
}

/// A file for a context: content, or a directory if the path ends with a slash.
pub(crate) type FileSpec<'a> = (&'a str, &'a str);

pub(crate) fn tar(files: &[FileSpec<'_>], mtime: i64) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (path, content) in files {
        let (path, mode) = match path.split_once('@') {
            Some((path, mode)) => (path, u32::from_str_radix(mode, 8).unwrap()),
            None => (*path, if path.ends_with('/') { 0o755 } else { 0o644 }),
        };
        let kind = match content.strip_prefix("-> ") {
            Some(target) => Kind::Symlink { target: target.into() },
            None if path.ends_with('/') => Kind::Directory,
            None => Kind::File { size: content.len() as u64, pieces: None },
        };
        let mtime = Mtime { seconds: mtime, nanoseconds: 0 };
        let member = Member { path: path.into(), kind, mode, uid: 1000, gid: 1000, mtime, xattrs: vec![] };
        writer.append(&member, &mut content.as_bytes()).unwrap();
    }
    writer.finish().unwrap()
}

/// What a build did and said.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) steps: Vec<String>,
    pub(crate) cached: usize,
    pub(crate) output: String,
    pub(crate) warnings: Vec<String>,
}

impl Test {
    /// With the image `busybox`: the host's static one, `/etc/passwd`, `/etc/group`, `/tmp`, and a link `/link` to it.
    pub(crate) fn new() -> Test {
        let dir = tempfile::Builder::new().prefix("sampan-build-").tempdir().unwrap();
        let store = Store::open(&dir.path().join("root")).unwrap();
        std::fs::create_dir(dir.path().join("spool")).unwrap();
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| Path::new(p).exists());
        let busybox = std::fs::read(busybox.expect("busybox-static is installed")).unwrap();
        let mut writer = Writer::new(Vec::new());
        let mut add = |path: &str, kind: Kind, mode: u32, content: &[u8]| {
            let mtime = Mtime { seconds: 1_600_000_000, nanoseconds: 0 };
            let member = Member { path: path.into(), kind, mode, uid: 0, gid: 0, mtime, xattrs: vec![] };
            writer.append(&member, &mut &*content).unwrap();
        };
        for path in ["bin", "etc", "home"] {
            add(path, Kind::Directory, 0o755, b"");
        }
        add("tmp", Kind::Directory, 0o1777, b"");
        add("link", Kind::Symlink { target: b"tmp".to_vec() }, 0o777, b"");
        add("bin/busybox", Kind::File { size: busybox.len() as u64, pieces: None }, 0o755, &busybox);
        for applet in [
            "sh", "cat", "echo", "env", "rm", "mkdir", "touch", "true", "false", "ls", "id", "ln", "pwd",
            "test", "chown", "chmod", "mv", "cp", "tee", "sleep", "wc", "nc", "printf", "[",
        ] {
            add(&format!("bin/{applet}"), Kind::HardLink { target: b"bin/busybox".to_vec() }, 0o755, b"");
        }
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:web:/:/bin/sh\n";
        add("etc/passwd", Kind::File { size: passwd.len() as u64, pieces: None }, 0o644, passwd);
        let group = b"root:x:0:\nweb:x:44:\nstaff:x:50:\n";
        add("etc/group", Kind::File { size: group.len() as u64, pieces: None }, 0o644, group);
        let rootfs = writer.finish().unwrap();
        let options = ImportOptions { names: vec!["busybox".parse().unwrap()], ..ImportOptions::default() };
        store.import_rootfs(&mut &*rootfs, &options).unwrap();
        let mut test = Test { store: Some(store), solver: None, dir, runner: Chroot::default() };
        test.reopen_solver();
        test
    }

    /// As a daemon that starts anew: all of it is read from disk.
    pub(crate) fn restart(&mut self) {
        (self.solver, self.store) = (None, None);
        self.store = Some(Store::open(&self.dir.path().join("root")).unwrap());
        self.reopen_solver();
    }

    fn reopen_solver(&mut self) {
        self.solver = Some(solver(self.store(), self.dir.path()));
    }

    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    pub(crate) fn context(&self, dockerfile: &str, files: &[FileSpec<'_>]) -> Context {
        self.context_at(dockerfile, files, 1_700_000_000)
    }

    pub(crate) fn context_at(&self, dockerfile: &str, files: &[FileSpec<'_>], mtime: i64) -> Context {
        let mut all = vec![("Dockerfile", dockerfile)];
        all.extend(files);
        Context::from_tar(&mut &*tar(&all, mtime), &self.dir.path().join("spool")).unwrap()
    }

    pub(crate) fn build_with(
        &self,
        context: &Context,
        options: &BuildOptions,
    ) -> (Result<BuildResult, BuildError>, Log) {
        let log = Mutex::new(Log::default());
        let result = self.solver.as_ref().unwrap().build(context, options, &self.runner, &|event| {
            let mut log = log.lock().unwrap();
            match event {
                BuildEvent::StepStarted { place, text, .. } => {
                    log.steps.push(format!("{}/{} {text}", place.position, place.of))
                }
                BuildEvent::Cached { .. } => log.cached += 1,
                BuildEvent::Output { bytes, .. } => log.output.push_str(&String::from_utf8_lossy(bytes)),
                BuildEvent::Warning { text, .. } => log.warnings.push(text.to_owned()),
                _ => {}
            }
        });
        let log = log.into_inner().unwrap();
        let left = |name: &str| std::fs::read_dir(self.dir.path().join(name)).unwrap().count();
        assert_eq!(left("volatile"), 0);
        assert!(std::fs::read_dir(self.dir.path().join("spool")).unwrap().next().is_none());
        self.check_nothing_half_made();
        (result, log)
    }

    /// Builds, and shows what is in the image besides the base.
    pub(crate) fn build(&self, dockerfile: &str, files: &[FileSpec<'_>]) -> (Image, Log) {
        let (result, log) = self.build_with(&self.context(dockerfile, files), &BuildOptions::default());
        (result.map_err(|e| sampan_base::chain(&e)).unwrap().image, log)
    }

    pub(crate) fn fails(&self, dockerfile: &str, files: &[FileSpec<'_>]) -> String {
        let context = self.context(dockerfile, files);
        let (result, _) = self.build_with(&context, &BuildOptions::default());
        sampan_base::chain(&result.expect_err(dockerfile))
    }

    /// The files that the image has and busybox has not.
    pub(crate) fn files(&self, image: &Image) -> String {
        let lease = self.store().lease();
        let base = self.store().resolve("busybox").unwrap();
        let scratch =
            |image: &Image| self.store().scratch(image.chain_id(), &InitLayer::empty(), &lease).unwrap();
        let (base, new) = (scratch(&base), scratch(image));
        let list = |scratch: &sampan_image::Scratch| {
            let mut out = Vec::new();
            list(scratch.rootfs(), scratch.rootfs(), &mut out);
            out
        };
        let base = list(&base);
        list(&new).into_iter().filter(|line| !base.contains(line)).collect()
    }

    /// No mount and no unnamed directory is left, and no scratch.
    pub(crate) fn check_nothing_half_made(&self) {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(self.dir.path().to_str().unwrap()), "a mount is left");
        let root = self.dir.path().join("root");
        for entry in std::fs::read_dir(root.join("snapshots")).unwrap() {
            let mut names: Vec<_> =
                std::fs::read_dir(entry.unwrap().path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            assert!(names == ["fs"] || names == ["about.json", "fs"], "half-made: {names:?}");
        }
        assert_eq!(std::fs::read_dir(root.join("content/ingest")).unwrap().count(), 0);
    }
}

pub(crate) fn solver(store: &Store, directory: &Path) -> Solver {
    Solver::open(store.clone(), &directory.join("persistent"), &directory.join("volatile")).unwrap()
}

impl Drop for Test {
    fn drop(&mut self) {
        (self.solver, self.store) = (None, None);
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        for line in table.lines().rev() {
            let at = Path::new(line.split(' ').nth(4).unwrap());
            if at.starts_with(self.dir.path()) {
                rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH).unwrap();
            }
        }
    }
}

fn list(root: &Path, directory: &Path, out: &mut Vec<String>) {
    let mut entries: Vec<_> = std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let shown = path.strip_prefix(root).unwrap().display().to_string();
        let owner = format!("{}:{}", meta.uid(), meta.gid());
        let mode = meta.permissions().mode() & 0o7777;
        if meta.is_dir() {
            out.push(format!("{shown}/ {mode:o} {owner}\n"));
            list(root, &path, out);
        } else if meta.is_symlink() {
            out.push(format!("{shown} -> {}\n", std::fs::read_link(&path).unwrap().display()));
        } else {
            let content = std::fs::read(&path).unwrap();
            let text = content.split(|b| *b == 0).next().unwrap_or_default();
            let content = String::from_utf8_lossy(&text[..text.len().min(200)]).replace('\n', "|");
            out.push(format!("{shown} {mode:o} {owner} {content}\n"));
        }
    }
}
