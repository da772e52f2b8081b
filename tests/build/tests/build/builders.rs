//! Who builds: ours, Docker's two builders, buildah.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicUsize, Ordering};

use sampan_testkit::{Command, Instance, Output, wait_until};

use crate::context;
use crate::corpus::Case;
use crate::result::{Saved, Tree, shown};

/// A builder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Who {
    /// `sampan build`
    Sampan,
    /// Docker's client, our daemon.
    Client,
    /// Docker's client and daemon with BuildKit.
    BuildKit,
    /// Docker's client and daemon without.
    Classic,
    Buildah,
}

impl Who {
    pub(crate) const ALL: [Who; 5] = [Who::Sampan, Who::Client, Who::BuildKit, Who::Classic, Who::Buildah];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Who::Sampan => "sampan",
            Who::Client => "docker-client",
            Who::BuildKit => "buildkit",
            Who::Classic => "classic",
            Who::Buildah => "buildah",
        }
    }

    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Who::Sampan | Who::Client)
    }
}

/// What became of a build.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// What is in the image.
    Built(String),
    /// What was said.
    Failed(String),
}

const DOCKER: &str = "/usr/bin/docker";

/// All builders that a run needs, with their stores.
pub(crate) struct Builders {
    // Dropped in this order: the directory goes when nobody has anything in it any more.
    peers: Option<Peers>,
    instance: Instance,
    directory: tempfile::TempDir,
    base: Tree,
    count: AtomicUsize,
}

/// Docker's daemon and buildah's store.
struct Peers {
    directory: PathBuf,
    dockerd: Child,
}

impl Builders {
    pub(crate) fn new(with_peers: bool) -> Builders {
        let directory = tempfile::Builder::new().prefix("sampan-build-").tempdir().unwrap();
        let archive = directory.path().join("base.tar");
        write_base(&archive);
        let base = Saved::read(std::fs::File::open(&archive).unwrap()).tree();
        let instance = Instance::builder().bare().start();
        instance.sampan(["load", "-i", archive.to_str().unwrap()]).ok();
        let peers = with_peers.then(|| Peers::new(directory.path(), &archive));
        Builders { directory, instance, peers, base, count: AtomicUsize::new(0) }
    }

    /// Builds a case.
    pub(crate) fn build(&self, who: Who, case: &Case) -> Outcome {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let directory = self.directory.path().join(format!("case-{count}"));
        let context = directory.join("context");
        std::fs::create_dir_all(&context).unwrap();
        context::write(case, &context);
        let tag = format!("{}-{}", case.tag(), format!("{who:?}").to_lowercase());
        if !case.before.is_empty() {
            let before = directory.join("before");
            std::fs::write(&before, &case.before).unwrap();
            let tag = format!("{}-before", case.tag());
            let output = self.run(who, &tag, &["-f", before.to_str().unwrap()], &context);
            if output.code != 0 {
                return Outcome::Failed(output.to_string());
            }
        }
        let args: Vec<&str> = case.args.iter().map(String::as_str).collect();
        let output = self.run(who, &tag, &args, &context);
        let outcome = if output.code == 0 {
            let saved = directory.join("saved.tar");
            let output = self.save(who, &tag, &saved);
            if output.code == 0 {
                Outcome::Built(shown(&Saved::read(std::fs::File::open(saved).unwrap()), &self.base))
            } else {
                Outcome::Failed(format!("the image can't be saved: {output}"))
            }
        } else {
            Outcome::Failed(format!("{}{}", output.stdout, output.stderr))
        };
        std::fs::remove_dir_all(directory).unwrap();
        outcome
    }

    /// Builds what is at `address` by `sampan build`.
    pub(crate) fn build_at(&self, address: &str, tag: &str) -> Outcome {
        let output = self.instance.sampan(["build", "-t", tag, address]);
        if output.code != 0 {
            return Outcome::Failed(output.stderr);
        }
        let saved = self.directory.path().join(format!("{tag}.tar").replace('/', "-"));
        self.save(Who::Sampan, tag, &saved).ok();
        Outcome::Built(shown(&Saved::read(std::fs::File::open(saved).unwrap()), &self.base))
    }

    fn run(&self, who: Who, tag: &str, args: &[&str], context: &Path) -> Output {
        let build = ["build", "-t", tag].into_iter().chain(args.iter().copied());
        // Files are looked for from the working directory on. BuildKit takes contexts of one name for one context, and a
        // file of one size and time for the file that it has.
        let path = context.to_str().unwrap();
        match who {
            Who::Sampan => self.instance.sampan_command(build.chain([path])).directory(context).run(),
            Who::Client => self.instance.docker_command(build.chain([path])).directory(context).run(),
            // Its commands have no network but the host's: it has no bridge.
            Who::BuildKit | Who::Classic => {
                let buildkit = if who == Who::BuildKit { "1" } else { "0" };
                let build = build.chain(["--network=host", path]);
                self.docker(build).env("DOCKER_BUILDKIT", buildkit).directory(context).run()
            }
            Who::Buildah => {
                let args = args.iter().copied();
                let build = ["bud", "--layers", "--isolation=chroot", "--format=docker", "-t", tag];
                self.buildah(build.into_iter().chain(args).chain([path])).directory(context).run()
            }
        }
    }

    fn save(&self, who: Who, tag: &str, file: &Path) -> Output {
        let file = file.to_str().unwrap();
        match who {
            Who::Sampan | Who::Client => self.instance.sampan(["save", "-o", file, tag]),
            Who::BuildKit | Who::Classic => self.docker(["save", "-o", file, tag]).run(),
            Who::Buildah => self.buildah(["push", "-q", tag, &format!("docker-archive:{file}")]).run(),
        }
    }

    fn peers(&self) -> &Peers {
        self.peers.as_ref().expect("peers are only asked when there are any")
    }

    fn docker<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        docker(&self.peers().directory, args)
    }

    fn buildah<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        buildah(&self.peers().directory, args)
    }
}

fn docker<'a>(directory: &Path, args: impl IntoIterator<Item = &'a str>) -> Command {
    Command::new(DOCKER)
        .env("DOCKER_HOST", format!("unix://{}", directory.join("docker.sock").display()))
        .env("DOCKER_CONFIG", directory.join("docker-config"))
        .args(args)
}

fn buildah<'a>(directory: &Path, args: impl IntoIterator<Item = &'a str>) -> Command {
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let own = ["--root", &path("buildah"), "--runroot", &path("buildah-run"), "--storage-driver", "vfs"];
    Command::new("buildah").args(own).args(args)
}

impl Peers {
    fn new(directory: &Path, archive: &Path) -> Peers {
        let directory = directory.to_owned();
        std::fs::write(directory.join("daemon.json"), "{}").unwrap();
        let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        let log = std::fs::File::create(directory.join("dockerd.log")).unwrap();
        let socket = format!("unix://{}", path("docker.sock"));
        let dockerd = std::process::Command::new("/usr/sbin/dockerd")
            .args(["--data-root", &path("docker"), "--exec-root", &path("docker-run"), "-H", &socket])
            .args(["--pidfile", &path("docker.pid"), "--config-file", &path("daemon.json")])
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false"])
            .stderr(log)
            .spawn()
            .unwrap();
        let peers = Peers { directory: directory.clone(), dockerd };
        wait_until("dockerd answers", || docker(&directory, ["version"]).run().code == 0);
        let archive = archive.to_str().unwrap();
        docker(&directory, ["load", "-i", archive]).run().ok();
        buildah(&directory, ["pull", &format!("docker-archive:{archive}")]).run().ok();
        peers
    }

    /// What is asked, for the table.
    fn versions(&self) -> Vec<String> {
        let docker = docker(&self.directory, ["version", "-f", "{{.Server.Version}}"]).run().ok().stdout;
        let buildah = buildah(&self.directory, ["--version"]).run().ok().stdout;
        vec![format!("docker {}", docker.trim()), buildah.trim().to_owned()]
    }
}

impl Builders {
    pub(crate) fn versions(&self) -> Vec<String> {
        self.peers().versions()
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.dockerd);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.dockerd.wait();
        // What it leaves mounted would keep its directory.
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for line in table.lines().rev() {
            let at = Path::new(line.split(' ').nth(4).unwrap_or_default());
            if at.starts_with(&self.directory) {
                let _ = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH);
            }
        }
    }
}

/// `localhost/base` as an archive that all of them load: a small busybox root file system.
fn write_base(path: &Path) {
    let mut layer = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind: tar::EntryType, mode: u32, content: &[u8], link: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_mtime(1_300_000_000);
        header.set_uid(0);
        header.set_gid(0);
        if link.is_empty() {
            layer.append_data(&mut header, name, content).unwrap();
        } else {
            layer.append_link(&mut header, name, link).unwrap();
        }
    };
    use tar::EntryType::{Directory, Regular, Symlink};
    for name in ["bin", "dev", "etc", "home", "proc", "root", "run", "sys", "full", "full/sub"] {
        add(name, Directory, 0o755, b"", "");
    }
    add("tmp", Directory, 0o1777, b"", "");
    add("locked", Directory, 0o700, b"", "");
    let busybox = std::fs::read(sampan_testkit::busybox::BUSYBOX).unwrap();
    add("bin/busybox", Regular, 0o755, &busybox, "");
    for applet in [
        "sh", "cat", "chmod", "chown", "cp", "echo", "env", "false", "find", "grep", "id", "ln", "ls",
        "mkdir", "mkfifo", "mv", "pwd", "rm", "rmdir", "sleep", "stat", "tee", "test", "touch", "true", "wc",
        "head", "sort", "printf", "readlink", "tar", "od", "mount",
    ] {
        add(&format!("bin/{applet}"), Symlink, 0o777, b"", "busybox");
    }
    add("etc/passwd", Regular, 0o644, b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:web:/home:/bin/sh\n", "");
    add("etc/group", Regular, 0o644, b"root:x:0:\nweb:x:44:\nstaff:x:50:\n", "");
    add("full/file", Regular, 0o640, b"there\n", "");
    add("full/sub/file", Regular, 0o644, b"there too\n", "");
    add("link", Symlink, 0o777, b"", "full");
    add("filelink", Symlink, 0o777, b"", "full/file");
    add("dangling", Symlink, 0o777, b"", "full/nothing");
    add("absolute", Symlink, 0o777, b"", "/full");
    add("upwards", Symlink, 0o777, b"", "../../../../full");
    // A program with a capability, and a note.
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let attributes =
        [("SCHILY.xattr.security.capability", capability), ("SCHILY.xattr.user.note", &b"hello"[..])];
    layer.append_pax_extensions(attributes).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(2);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_300_000_000);
    layer.append_data(&mut header, "bin/capable", &b"c\n"[..]).unwrap();
    let layer = layer.into_inner().unwrap();
    let digest = |bytes: &[u8]| {
        let digest = <sha2::Sha256 as sha2::Digest>::digest(bytes);
        digest.iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "created": "2020-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/bin", "BASE=base"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))]},
        "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "base"}],
    });
    let config = serde_json::to_vec(&config).unwrap();
    let name = format!("{}.json", digest(&config));
    let manifest =
        serde_json::json!([{"Config": name, "RepoTags": ["localhost/base:latest"], "Layers": ["layer.tar"]}]);
    let mut archive = tar::Builder::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in [
        (name.as_str(), config.as_slice()),
        ("layer.tar", &layer),
        ("manifest.json", &serde_json::to_vec(&manifest).unwrap()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes).unwrap();
    }
    archive.finish().unwrap();
}
