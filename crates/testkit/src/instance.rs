//! A daemon of a test's own.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::inotify;
use rustix::process::{Pid, Signal, kill_process};

use crate::command::ends_within;
use crate::{Command, DEADLINE, Output, busybox, executable, leftovers, wait_until};

/// The docker client that Debian ships.
const DOCKER: &str = "/usr/bin/docker";
/// How much of the daemon's log a failed test shows.
const SHOWN_LOG_LINES: usize = 60;

/// A daemon with its own directories, bridge, table and addresses.
#[derive(Debug)]
pub struct Instance {
    directory: tempfile::TempDir,
    arguments: Vec<String>,
    root: PathBuf,
    bridge: String,
    table: String,
    subnet: String,
    daemon: Mutex<Option<Child>>,
    /// Tells the id of everything that ever ran here, so that its cgroups can be looked for.
    bundles: rustix::fd::OwnedFd,
    seen: Mutex<BTreeSet<String>>,
}

/// How an instance is to be.
#[derive(Debug, Default)]
pub struct Builder {
    root: Option<PathBuf>,
    bare: bool,
    config: String,
    files: Vec<(String, String)>,
    arguments: Vec<String>,
}

impl Builder {
    /// Keeps images and containers in this directory instead of one of its own.
    #[must_use]
    pub fn root(mut self, root: &Path) -> Builder {
        self.root = Some(root.to_owned());
        self
    }

    /// Has no image in it.
    #[must_use]
    pub fn bare(mut self) -> Builder {
        self.bare = true;
        self
    }

    /// Has this in its configuration file; `{directory}` stands for where its files are.
    #[must_use]
    pub fn config(mut self, toml: impl Into<String>) -> Builder {
        self.config = toml.into();
        self
    }

    /// Has a file of this name and content beside its configuration file.
    #[must_use]
    pub fn file(mut self, name: &str, text: &str) -> Builder {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Is started with these arguments, too; `{socket}` stands for the path of its usual socket.
    #[must_use]
    pub fn arguments(mut self, words: &[&str]) -> Builder {
        self.arguments = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(self) -> Instance {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let directory = tempfile::Builder::new().prefix("sampan-it-").tempdir().unwrap();
        let state = directory.path().join("state");
        std::fs::create_dir_all(state.join("bundles")).unwrap();
        let bundles = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&bundles, state.join("bundles"), inotify::WatchFlags::CREATE).unwrap();
        // 10.64.0.0/10 has 16,384 networks of 256 addresses; a clash needs two test processes at once with bad luck.
        let network = (pid.wrapping_mul(61).wrapping_add(count)) % 16_384;
        let instance = Instance {
            root: self.root.unwrap_or_else(|| directory.path().join("root")),
            bridge: format!("it{:x}b{count:x}", pid & 0xf_ffff),
            table: format!("sampan_it_{pid}_{count}"),
            subnet: format!("10.{}.{}.0/24", 64 + network / 256, network % 256),
            directory,
            arguments: self.arguments,
            daemon: Mutex::new(None),
            bundles,
            seen: Mutex::default(),
        };
        for (name, text) in &self.files {
            std::fs::write(instance.directory.path().join(name), text).unwrap();
        }
        instance.write_config(&self.config);
        instance.start();
        if !self.bare {
            instance
                .sampan([
                    "import",
                    "-m",
                    "static busybox",
                    busybox::archive().to_str().unwrap(),
                    "busybox:latest",
                ])
                .ok();
        }
        instance
    }
}

impl Default for Instance {
    fn default() -> Self {
        Instance::new()
    }
}

impl Instance {
    /// A daemon with `busybox:latest` in its store.
    ///
    /// # Panics
    /// If it does not start.
    pub fn new() -> Instance {
        Builder::default().start()
    }

    /// A daemon that is not as usual.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A directory for the test's own files.
    pub fn scratch(&self) -> PathBuf {
        let path = self.directory.path().join("scratch");
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// The daemon's persistent directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The daemon's volatile directory.
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// The socket's path.
    pub fn socket(&self) -> PathBuf {
        self.state().join("docker.sock")
    }

    /// The bridge's name.
    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    /// The nftables table's name.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The bridge's address.
    pub fn gateway(&self) -> String {
        self.subnet.replace(".0/24", ".1")
    }

    /// The daemon's command line.
    pub fn daemon_command(&self) -> Command {
        Command::new(executable("sampand")).args(self.daemon_arguments())
    }

    /// Writes the configuration file that the daemon reads when it starts, or reloads.
    ///
    /// # Panics
    /// If it can't be written, or the directory's path is not UTF-8.
    pub fn write_config(&self, toml: &str) {
        // Networks without a subnet of their own: not those of other instances.
        let pool = self.subnet.split('.').nth(1).and_then(|n| n.parse::<u8>().ok()).unwrap() + 64;
        let rest = self.subnet.splitn(3, '.').nth(2).unwrap();
        let pools =
            format!("[network]\ndefault-address-pools = [{{ base = '10.{pool}.{rest}', size = 28 }}]\n");
        let own = if toml.contains("[network]") { String::new() } else { pools };
        let toml = toml.replace("{directory}", self.directory.path().to_str().unwrap());
        std::fs::write(self.directory.path().join("config.toml"), format!("{toml}\n{own}")).unwrap();
    }

    /// The arguments that the daemon is started with.
    ///
    /// # Panics
    /// If a path is not UTF-8.
    pub fn daemon_arguments(&self) -> Vec<String> {
        let (state, config) = (self.state(), self.directory.path().join("config.toml"));
        let mut arguments = vec!["--log-level".to_owned(), "info".to_owned()];
        for (name, value) in [
            ("--root", self.root.to_str().unwrap()),
            ("--state", state.to_str().unwrap()),
            ("--bridge", &self.bridge),
            ("--table", &self.table),
            ("--subnet", &self.subnet),
            ("--config", config.to_str().unwrap()),
        ] {
            arguments.extend([name.to_owned(), value.to_owned()]);
        }
        let socket = self.socket();
        arguments
            .extend(self.arguments.iter().map(|word| word.replace("{socket}", socket.to_str().unwrap())));
        arguments
    }

    fn daemon(&self) -> MutexGuard<'_, Option<Child>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("sampand.log")
    }

    /// What the daemons have logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Starts the daemon and waits until it accepts clients.
    ///
    /// # Panics
    /// If it ends or does not accept any in time.
    pub fn start(&self) {
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = std::process::Command::new(executable("sampand"));
        command
            .args(self.daemon_arguments())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().unwrap();
        let mut ended = None;
        wait_until("sampand accepts clients", || {
            ended = child.try_wait().unwrap();
            ended.is_some() || self.answers()
        });
        assert!(ended.is_none(), "sampand ended ({ended:?}):\n{}", self.log());
        *self.daemon() = Some(child);
    }

    /// Whether a daemon answers. That one can connect is not enough: a child of a killed daemon that has not called exec
    /// yet still holds the old socket.
    fn answers(&self) -> bool {
        let Ok(mut stream) = UnixStream::connect(self.socket()) else { return false };
        let mut answer = String::new();
        stream.set_read_timeout(Some(DEADLINE)).is_ok()
            && stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n").is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.starts_with("HTTP/1.0 200")
    }

    /// The daemon's process id.
    ///
    /// # Panics
    /// If it does not run.
    pub fn daemon_pid(&self) -> u32 {
        self.daemon().as_ref().unwrap().id()
    }

    /// Kills the daemon with SIGKILL.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill_9(&self) {
        let mut child = self.daemon().take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends the daemon with SIGTERM.
    ///
    /// # Panics
    /// If it does not end in time or not with success.
    pub fn terminate(&self) {
        let mut child = self.daemon().take().unwrap();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let ended = ends_within(&child, DEADLINE);
        if !ended {
            let _ = child.kill();
        }
        let status = child.wait().unwrap();
        assert!(ended && status.success(), "sampand does not end by SIGTERM ({status}):\n{}", self.log());
    }

    /// Ends the daemon with SIGTERM and starts another one.
    pub fn restart(&self) {
        self.terminate();
        self.start();
    }

    /// The docker client of Debian with these arguments.
    pub fn docker<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        self.docker_command(arguments).run()
    }

    /// As [`Instance::docker`], not run yet.
    pub fn docker_command<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        self.docker_at(DOCKER, arguments)
    }

    /// Another docker client with these arguments, not run yet.
    pub fn docker_at<S: AsRef<std::ffi::OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        Command::new(program)
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            .env("DOCKER_CONFIG", self.scratch().join("docker-config"))
            .env("DOCKER_BUILDKIT", "0")
            .args(arguments)
    }

    /// Our own client with these arguments.
    pub fn sampan<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        self.sampan_command(arguments).run()
    }

    /// As [`Instance::sampan`], not run yet.
    pub fn sampan_command<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        Command::new(executable("sampan"))
            .env("SAMPAN_HOST", format!("unix://{}", self.socket().display()))
            .env("DOCKER_CONFIG", self.scratch().join("docker-config"))
            .args(arguments)
    }

    /// A GET request to the API by curl.
    pub fn get(&self, path: &str) -> Output {
        let socket = self.socket();
        let url = format!("http://d{path}");
        Command::new("curl")
            .args(["-sS", "--max-time", "30", "--unix-socket", socket.to_str().unwrap(), &url])
            .run()
    }

    /// A field of what `inspect` says about a container or an image.
    ///
    /// # Panics
    /// If there is no such thing.
    #[track_caller]
    pub fn inspect(&self, name: &str, pointer: &str) -> serde_json::Value {
        let all = self.sampan(["inspect", name]).ok().json();
        all[0].pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {all:#}")).clone()
    }

    /// The ids of all containers.
    ///
    /// # Panics
    /// If the daemon doesn't tell.
    pub fn container_ids(&self) -> Vec<String> {
        let listed = self.sampan(["ps", "-aq", "--no-trunc"]).ok();
        listed.stdout.lines().map(str::to_owned).collect()
    }

    /// What is here besides images and what a running daemon needs, while there are no containers: nothing, one hopes.
    pub fn leftovers(&self) -> Vec<String> {
        let state = self.state();
        let mut left = Vec::new();
        for name in ["bundles", "netns", "net/netns", "net/userns", "runtime/sampan"] {
            left.extend(
                leftovers::names_in(&state.join(name)).into_iter().map(|n| format!("file {name}/{n}")),
            );
        }
        left.extend(
            leftovers::names_in(&self.root.join("containers")).into_iter().map(|n| format!("containers/{n}")),
        );
        let daemon = self.daemon().as_ref().map(Child::id);
        // A shim that waits for a container is part of the daemon.
        let spare = format!(" -id {} ", "0".repeat(64));
        let processes = leftovers::processes(self.directory.path()).into_iter();
        left.extend(
            processes
                .filter(|(pid, line)| Some(*pid) != daemon && !line.contains(&spare))
                .map(|(pid, line)| format!("process {pid}: {line}")),
        );
        left.extend(leftovers::mounts(&state).into_iter().map(|m| format!("mount {m}")));
        left.extend(
            leftovers::mounts(&self.root)
                .into_iter()
                .filter(|m| Path::new(m) != self.root)
                .map(|m| format!("mount {m}")),
        );
        left.extend(leftovers::cgroups(&self.ids_seen()).into_iter().map(|c| format!("cgroup {c}")));
        let ports = Path::new("/sys/class/net").join(&self.bridge).join("brif");
        left.extend(leftovers::names_in(&ports).into_iter().map(|p| format!("link {p}")));
        left
    }

    /// Nothing may be left, but it may take the kernel and the daemon a moment behind the answer.
    ///
    /// # Panics
    /// If something is.
    pub fn assert_idle(&self) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let left = self.leftovers();
            if left.is_empty() {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "left behind:\n  {}", left.join("\n  "));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// The names of all bundles that were ever made here.
    fn ids_seen(&self) -> BTreeSet<String> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = [std::mem::MaybeUninit::uninit(); 8192];
        let mut reader = inotify::Reader::new(&self.bundles, &mut buffer);
        while let Ok(event) = reader.next() {
            if let Some(name) = event.file_name() {
                seen.insert(name.to_string_lossy().into_owned());
            }
        }
        seen.clone()
    }

    fn remove_containers(&self) {
        let ids = self.container_ids();
        if !ids.is_empty() {
            self.sampan(["rm", "-f", "-v"].into_iter().map(str::to_owned).chain(ids)).ok();
        }
    }

    /// After a failed test: whatever is ours goes, as well as that is possible.
    fn give_up(&self) {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let shown = lines[lines.len().saturating_sub(SHOWN_LOG_LINES)..].join("\n  ");
        eprintln!("the log of the failed test's sampand ({}):\n  {shown}", self.directory.path().display());
        if self.daemon().is_some() {
            let ids = self.sampan_command(["ps", "-aq", "--no-trunc"]).run().stdout;
            let arguments = ["rm", "-f", "-v"].into_iter().chain(ids.lines());
            drop(self.sampan_command(arguments).run());
            if let Some(mut child) = self.daemon().take() {
                let _ = kill_process(Pid::from_child(&child), Signal::TERM);
                if !ends_within(&child, std::time::Duration::from_secs(10)) {
                    let _ = child.kill();
                }
                let _ = child.wait();
            }
        }
        for mount in leftovers::mounts(self.directory.path()).into_iter().rev() {
            let _ = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A panic in here would end all tests, and what they have to say with them.
            let _ = catch_unwind(AssertUnwindSafe(|| self.give_up()));
            return;
        }
        if self.daemon().is_none() {
            self.start();
        }
        self.remove_containers();
        self.assert_idle();
        self.terminate();
        let link = Path::new("/sys/class/net").join(&self.bridge);
        assert!(!link.exists(), "the bridge {} is left", self.bridge);
        assert!(!leftovers::table_exists(&self.table), "the table {} is left", self.table);
        assert!(!self.socket().exists(), "the socket is left");
    }
}
