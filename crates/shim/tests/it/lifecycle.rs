//! From create to shutdown: states, exit statuses, signals, execs, races, the shim's death.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use sampan_rpc::cgroup1::Metrics;
use sampan_rpc::task;
use sampan_rpc::ttrpc::Code;
use sampan_rpc::types::Status;
use sampan_shim::client::{CallError, Client};
use serde_json::json;

use crate::harness::{Shim, delete_command, sh};

fn code(error: CallError) -> (Code, String) {
    match error {
        CallError::Failure(failure) => (failure.code, failure.message),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn a_container_runs_and_its_exit_status_is_kept() {
    let mut shim = Shim::start(sh("echo out; echo err >&2; exit 7"), |_| {});
    let pid = shim.create_attached();
    assert!(pid > 0);
    assert_eq!(shim.state("").status(), Status::Created);
    assert_eq!(code(shim.create_again()).0, Code::AlreadyExists);
    assert_eq!(shim.start_task("").unwrap(), pid);
    assert_eq!(shim.wait(""), 7);
    let state = shim.state("");
    assert_eq!((state.status(), state.exit_status, state.pid), (Status::Stopped, 7, pid));
    let mut log = shim.log();
    log.sort();
    assert_eq!(log, [("stderr".to_owned(), "err\n".to_owned()), ("stdout".to_owned(), "out\n".to_owned())]);
    assert_eq!(code(shim.kill("", 15, false).unwrap_err()).0, Code::NotFound);
    assert_eq!(code(shim.start_task("").unwrap_err()).0, Code::FailedPrecondition);
    let deleted = shim.delete("").unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 7));
    assert_eq!(code(shim.delete("").unwrap_err()).0, Code::NotFound);
    assert!(!shim.dir.path().join("attach.sock").exists());
    shim.shut_down();
}

pub(crate) fn signals_end_it_and_show_in_the_status() {
    let mut shim = Shim::start(sh("trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done"), |_| {});
    shim.create_attached();
    assert_eq!(code(shim.delete_running()).0, Code::NotFound);
    let socket = shim.attach("", r#"{"stdout":true}"#);
    shim.start_task("").unwrap();
    crate::harness::wait_readable(&socket);
    assert_eq!(code(shim.delete("").unwrap_err()).0, Code::FailedPrecondition);
    shim.kill("", 15, false).unwrap();
    assert_eq!(shim.wait(""), 3);
    shim.delete("").unwrap();
    shim.shut_down();

    let mut shim = Shim::start(sh("sleep 1000"), |_| {});
    shim.create_attached();
    shim.start_task("").unwrap();
    shim.kill("", 9, false).unwrap();
    assert_eq!(shim.wait(""), 137);
    shim.delete("").unwrap();
    shim.shut_down();
}

pub(crate) fn a_command_that_is_not_there_fails_create_and_leaves_nothing() {
    let mut shim = Shim::start(vec!["/no/such".into()], |_| {});
    let request = shim.create_request(false, "", &shim.attach_address(), "");
    let (kind, message) = code(shim.client.call::<task::CreateTaskResponse>("Create", &request).unwrap_err());
    assert_eq!(kind, Code::Unknown);
    assert!(message.starts_with("OCI runtime create failed: ") && message.contains("/no/such"), "{message}");
    let gone: Result<task::StateResponse, _> =
        shim.client.call("State", &task::StateRequest { id: shim.id.clone(), exec_id: String::new() });
    assert_eq!(code(gone.unwrap_err()).0, Code::NotFound);
    assert!(!shim.dir.path().join("attach.sock").exists());
    shim.shut_down();
}

pub(crate) fn execs_have_their_own_lives() {
    let mut shim = Shim::start(sh("sleep 1000"), |_| {});
    shim.create_attached();
    shim.exec("early", sh("true"), false, false);
    assert_eq!(code(shim.start_task("early").unwrap_err()).0, Code::FailedPrecondition);
    shim.delete("early").unwrap();
    shim.start_task("").unwrap();
    for n in 0..5 {
        let name = format!("e{n}");
        shim.exec(&name, sh(&format!("exit {n}")), false, false);
        let pid = shim.start_task(&name).unwrap();
        assert_eq!(shim.wait(&name), n);
        let deleted = shim.delete(&name).unwrap();
        assert_eq!((deleted.pid, deleted.exit_status), (pid, n));
    }
    shim.exec("bad", vec!["/no/such".into()], false, false);
    let (_, message) = code(shim.start_task("bad").unwrap_err());
    assert!(message.starts_with("OCI runtime exec failed: "), "{message}");
    assert_eq!(shim.state("bad").status(), Status::Stopped);
    shim.delete("bad").unwrap();
    shim.exec("long", sh("sleep 1000"), false, false);
    shim.start_task("long").unwrap();
    let pids: task::PidsResponse =
        shim.client.call("Pids", &task::PidsRequest { id: shim.id.clone() }).unwrap();
    assert!(pids.processes.len() >= 2);
    assert!(pids.processes.iter().any(|p| p.info.is_some()));
    shim.kill("long", 15, false).unwrap();
    assert_eq!(shim.wait("long"), 143);
    // An exec ends with the container's first process.
    shim.exec("left", sh("sleep 1000"), false, false);
    shim.start_task("left").unwrap();
    shim.kill("", 9, false).unwrap();
    assert_eq!((shim.wait("left"), shim.wait("")), (137, 137));
    shim.delete("").unwrap();
    shim.shut_down();
}

pub(crate) fn processes_of_a_shared_pid_namespace_are_ended_with_the_first() {
    let mut shim = Shim::start(sh("sleep 12345 & echo $!; exec sleep 1000"), |spec| {
        spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
    });
    shim.create_attached();
    let socket = shim.attach("", r#"{"stdout":true}"#);
    shim.start_task("").unwrap();
    crate::harness::wait_readable(&socket);
    let child: i32 = shim.log()[0].1.trim().parse().unwrap();
    let child = rustix::process::Pid::from_raw(child).unwrap();
    let fd = rustix::process::pidfd_open(child, rustix::process::PidfdFlags::empty()).unwrap();
    shim.kill("", 9, false).unwrap();
    assert_eq!(shim.wait(""), 137);
    crate::harness::wait_readable(&fd);
    shim.delete("").unwrap();
    shim.shut_down();
}

pub(crate) fn pause_update_and_stats() {
    let mut shim = Shim::start(sh("sleep 1000"), |_| {});
    shim.create_attached();
    shim.start_task("").unwrap();
    let id = shim.id.clone();
    shim.client.call::<()>("Pause", &task::PauseRequest { id: id.clone() }).unwrap();
    assert_eq!(shim.state("").status(), Status::Paused);
    shim.client.call::<()>("Resume", &task::ResumeRequest { id: id.clone() }).unwrap();
    assert_eq!(shim.state("").status(), Status::Running);
    let resources = prost_types::Any { type_url: String::new(), value: br#"{"pids":{"limit":77}}"#.to_vec() };
    let request =
        task::UpdateTaskRequest { id: id.clone(), resources: Some(resources), ..Default::default() };
    shim.client.call::<()>("Update", &request).unwrap();
    let stats: task::StatsResponse =
        shim.client.call("Stats", &task::StatsRequest { id: id.clone() }).unwrap();
    if let Some(metrics) = sampan_rpc::unpack::<Metrics>(&stats.stats.unwrap()).unwrap() {
        assert_eq!(metrics.pids.unwrap().limit, 77);
        assert!(metrics.memory.unwrap().usage.unwrap().usage > 0);
        assert!(metrics.cpu.unwrap().usage.unwrap().total > 0);
    }
    let refused =
        shim.client.call::<()>("Checkpoint", &task::CheckpointTaskRequest { id, ..Default::default() });
    assert_eq!(code(refused.unwrap_err()).0, Code::Unimplemented);
    shim.kill("", 9, false).unwrap();
    shim.wait("");
    shim.delete("").unwrap();
    shim.shut_down();
}

pub(crate) fn want_of_memory_is_told() {
    let mut shim = Shim::start(sh("dd if=/dev/zero of=/dev/null bs=100M count=1; echo $?"), |spec| {
        spec["linux"]["resources"]["memory"] = serde_json::json!({"limit": 16 << 20, "swap": 16 << 20});
    });
    shim.create_attached();
    shim.start_task("").unwrap();
    assert_eq!(shim.wait(""), 0);
    assert!(shim.log().contains(&("stdout".into(), "137\n".into())), "{:?}", shim.log());
    assert!(shim.bundle().join("oom").exists());
    shim.delete("").unwrap();
    shim.shut_down();
}

/// A runtime that is runc, slowed down by `before` and `after`.
fn slow_runtime(shim: &mut Shim, before: &str, after: &str) {
    let path = shim.dir.path().join("slow-runc");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in {before}) sleep 0.7;; esac\n/usr/sbin/runc \"$@\"\nstatus=$?\n\
         case \"$*\" in {after}) sleep 0.5;; esac\nexit $status\n"
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    shim.runtime = path;
}

pub(crate) fn a_slow_runtime_holds_up_only_its_own_request() {
    let mut shim = Shim::start(sh("exit 4"), |_| {});
    slow_runtime(&mut shim, "*' create '*", "never");
    let request = shim.create_request(false, "", &shim.attach_address(), "");
    let mut other = shim.another();
    let creating = std::thread::spawn(move || {
        other.call::<task::CreateTaskResponse>("Create", &request).unwrap();
    });
    let begun = Instant::now();
    let connect = task::ConnectRequest { id: shim.id.clone() };
    while begun.elapsed() < Duration::from_millis(200) {
        let asked = Instant::now();
        shim.client.call::<task::ConnectResponse>("Connect", &connect).unwrap();
        assert!(asked.elapsed() < Duration::from_millis(100));
    }
    assert_eq!(shim.state("").pid, 0);
    creating.join().unwrap();
    shim.start_task("").unwrap();
    assert_eq!(shim.wait(""), 4);
    shim.delete("").unwrap();
    shim.shut_down();
}

pub(crate) fn an_exit_before_the_pid_is_known_is_not_lost() {
    let mut shim = Shim::start(sh("exec sleep 1000"), |_| {});
    slow_runtime(&mut shim, "never", "*' exec '*|*' start '*");
    shim.create_attached();
    shim.start_task("").unwrap();
    shim.exec("quick", sh("exit 9"), false, false);
    let pid = shim.start_task("quick").unwrap();
    assert!(pid > 0);
    assert_eq!(shim.wait("quick"), 9);
    shim.kill("", 9, false).unwrap();
    assert_eq!(shim.wait(""), 137);
    shim.delete("").unwrap();
    shim.shut_down();

    // The container's own process, gone while `start` still runs: Start succeeds, then Wait tells.
    let mut shim = Shim::start(sh("exit 6"), |_| {});
    slow_runtime(&mut shim, "never", "*' start '*");
    shim.create_attached();
    shim.start_task("").unwrap();
    assert_eq!(shim.wait(""), 6);
    shim.delete("").unwrap();
    shim.shut_down();
}

pub(crate) fn our_own_runtime_is_the_shim_itself_and_out_of_reach() {
    let dir = tempfile::tempdir().unwrap();
    let executable = dir.path().join("containerd-shim-sampan-v2");
    std::fs::copy(crate::harness::SHIM, &executable).unwrap();
    // Whoever executed it would fail.
    let beside = dir.path().join("sampan-runtime");
    std::fs::write(&beside, "no program").unwrap();
    let mut shim = Shim::start_executable(&executable, sh("sleep 1000"), |_| {}, ["", ""]);
    shim.runtime = beside.clone();
    let pid = shim.create_attached();
    // Between its birth and its program a container's process is the shim: not by a file that can be written (CVE-2019-5736).
    let exe = format!("/proc/{pid}/exe");
    let flags = rustix::fs::statvfs(&exe).unwrap().f_flag;
    assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    // Nor has it anything of the shim's open but the ends of its streams.
    let theirs = |pid: u32| {
        let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        links.map(|e| std::fs::read_link(e.unwrap().path()).unwrap()).collect::<Vec<_>>()
    };
    let shims = theirs(shim.shim_pid());
    // Handles of the kernel's have no names of their own; the gate has one for signals.
    let named = |link: &std::path::PathBuf| {
        !link.starts_with("/dev/null") && !link.starts_with("anon_inode:[signalfd]")
    };
    let common: Vec<_> = theirs(pid).into_iter().filter(|l| named(l) && shims.contains(l)).collect();
    assert!(common.iter().all(|link| link.to_string_lossy().starts_with("pipe:")), "{common:?}");
    shim.start_task("").unwrap();
    shim.exec("e", sh("echo from an exec; exit 8"), false, false);
    shim.start_task("e").unwrap();
    assert_eq!(shim.wait("e"), 8);
    shim.kill("", 9, false).unwrap();
    assert_eq!(shim.wait(""), 137);
    shim.delete("").unwrap();
    shim.shut_down();
}

pub(crate) fn delete_cleans_up_after_a_killed_shim() {
    let mut shim = Shim::start(sh("sleep 1000"), |_| {});
    let pid = shim.create_attached();
    shim.start_task("").unwrap();
    let fd = |pid: u32| {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        (pid, rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap())
    };
    let ((server, server_fd), (_, init_fd)) = (fd(shim.shim_pid()), fd(pid));
    let session = rustix::process::getsid(Some(server)).unwrap();
    assert_eq!(session, server);
    rustix::process::kill_process(server, rustix::process::Signal::KILL).unwrap();
    crate::harness::wait_readable(&server_fd);
    let output = delete_command(&shim);
    assert!(output.status.success(), "{output:?}");
    let response: task::DeleteResponse = prost::Message::decode(output.stdout.as_slice()).unwrap();
    assert_eq!((response.pid, response.exit_status), (pid, 137));
    crate::harness::wait_readable(&init_fd);
    assert!(!shim.socket().exists());
}

pub(crate) fn a_command_that_outlives_a_killed_shim_holds_the_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let executable = dir.path().join("containerd-shim-sampan-v2");
    std::fs::copy(crate::harness::SHIM, &executable).unwrap();
    std::fs::write(dir.path().join("sampan-runtime"), "no program: the shim is it").unwrap();
    // The hook tells that it runs, and waits for its end.
    let [told, end] = ["told", "end"].map(|name| dir.path().join(name));
    for fifo in [&told, &end] {
        rustix::fs::mknodat(rustix::fs::CWD, fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    }
    let hook = format!("echo > {}; read line < {}", told.display(), end.display());
    let edit = |spec: &mut serde_json::Value| {
        spec["hooks"] =
            json!({"createRuntime": [{"path": "/bin/busybox", "args": ["busybox", "sh", "-c", hook]}]});
    };
    let mut shim = Shim::start_executable(&executable, sh("sleep 1000"), edit, ["", ""]);
    shim.runtime = dir.path().join("sampan-runtime");
    let request = shim.create_request(false, "", "", "");
    let mut other = shim.another();
    let creating =
        std::thread::spawn(move || other.call::<task::CreateTaskResponse>("Create", &request).is_err());
    std::fs::read_to_string(&told).unwrap();

    let server = rustix::process::Pid::from_raw(shim.shim_pid().cast_signed()).unwrap();
    let ended = rustix::process::pidfd_open(server, rustix::process::PidfdFlags::empty()).unwrap();
    rustix::process::kill_process(server, rustix::process::Signal::KILL).unwrap();
    crate::harness::wait_readable(&ended);
    assert!(creating.join().unwrap());
    let bundle = std::fs::File::open(shim.bundle()).unwrap();
    assert!(matches!(bundle.try_lock(), Err(std::fs::TryLockError::WouldBlock)));
    std::fs::write(&end, "\n").unwrap();
    bundle.lock().unwrap();
    // Now whatever it made is there to be removed.
    let pid: i32 = std::fs::read_to_string(shim.bundle().join("init.pid")).unwrap().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let container = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    let root = shim.dir.path().join("runc/spt");
    let words = ["--root", root.to_str().unwrap(), "delete", "--force", &shim.id].map(str::to_owned);
    assert_eq!(sampan_runtime::cli::run(&words), 0);
    crate::harness::wait_readable(&container);
    std::fs::remove_file(shim.socket()).unwrap();
}

pub(crate) fn containers_of_one_pod_share_a_shim() {
    let annotate = |spec: &mut serde_json::Value| {
        spec["annotations"]["io.kubernetes.cri.sandbox-id"] = "spt-pod".into();
    };
    let mut first = Shim::start(sh("exit 1"), annotate);
    let second = first.dir.path().join("second");
    std::fs::create_dir(&second).unwrap();
    std::fs::copy(first.bundle().join("config.json"), second.join("config.json")).unwrap();
    std::fs::rename(first.bundle().join("rootfs"), second.join("rootfs")).unwrap();
    let id = format!("{}-b", first.id);
    let output = std::process::Command::new(crate::harness::SHIM)
        .args(["-namespace", "spt", "-id", &id, "-address", "", "start"])
        .current_dir(&second)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), first.address);
    let request = task::CreateTaskRequest {
        id: id.clone(),
        bundle: second.to_string_lossy().into_owned(),
        options: Some(first.options()),
        ..Default::default()
    };
    first.client.call::<task::CreateTaskResponse>("Create", &request).unwrap();
    let start = task::StartRequest { id: id.clone(), ..Default::default() };
    first.client.call::<task::StartResponse>("Start", &start).unwrap();
    let wait = task::WaitRequest { id: id.clone(), ..Default::default() };
    assert_eq!(first.client.call::<task::WaitResponse>("Wait", &wait).unwrap().exit_status, 1);
    let delete = task::DeleteRequest { id, ..Default::default() };
    first.client.call::<task::DeleteResponse>("Delete", &delete).unwrap();
    first.shut_down();
}

impl Shim {
    fn create_again(&mut self) -> CallError {
        let request = self.create_request(false, "", "", "");
        self.client.call::<task::CreateTaskResponse>("Create", &request).unwrap_err()
    }

    fn delete_running(&mut self) -> CallError {
        let request = task::DeleteRequest { id: "nobody".into(), exec_id: String::new() };
        self.client.call::<task::DeleteResponse>("Delete", &request).unwrap_err()
    }
}

pub(crate) fn events_go_through_a_program_where_there_is_no_ttrpc() {
    let dir = tempfile::tempdir().unwrap();
    let (program, seen) = (dir.path().join("publish"), dir.path().join("seen"));
    let script =
        format!("#!/bin/sh\nsleep 0.0$((5 - $(wc -l <{0})))\necho \"$*\" $(wc -c) >>{0}\n", seen.display());
    std::fs::write(&seen, "").unwrap();
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut shim = Shim::start_publishing(sh("exit 0"), |_| {}, program.to_str().unwrap(), "/c.sock");
    shim.create_attached();
    shim.start_task("").unwrap();
    shim.wait("");
    shim.delete("").unwrap();
    shim.shut_down();
    let seen = std::fs::read_to_string(seen).unwrap();
    let topics: Vec<&str> = seen.lines().map(|l| l.split(' ').nth(4).unwrap()).collect();
    assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"], "{seen}");
    let first = seen.lines().next().unwrap();
    assert!(first.starts_with("--address /c.sock publish --topic /tasks/create --namespace spt "), "{first}");
    assert!(seen.lines().all(|l| l.split(' ').next_back().unwrap().parse::<u32>().unwrap() > 20));
}

pub(crate) fn many_execs_at_once_keep_their_statuses_and_outputs() {
    let mut shim = Shim::start(sh("sleep 1000"), |_| {});
    shim.create_attached();
    shim.start_task("").unwrap();
    let dir = shim.dir.path().to_owned();
    let worker = |n: u32, mut client: Client, id: String| {
        for round in 0..5 {
            let exec = format!("w{n}-{round}");
            let spec = json!({"args": sh(&format!("echo {exec}; exit {n}")), "cwd": "/", "env": ["PATH=/bin"],
                "user": {"uid": 0, "gid": 0}});
            let request = task::ExecProcessRequest {
                id: id.clone(),
                exec_id: exec.clone(),
                stdout: crate::harness::logged(&dir, &format!("{exec}.log")),
                spec: Some(prost_types::Any {
                    type_url: String::new(),
                    value: spec.to_string().into_bytes(),
                }),
                ..Default::default()
            };
            client.call::<()>("Exec", &request).unwrap();
            let start = task::StartRequest { id: id.clone(), exec_id: exec.clone() };
            let pid = client.call::<task::StartResponse>("Start", &start).unwrap().pid;
            let wait = task::WaitRequest { id: id.clone(), exec_id: exec.clone() };
            assert_eq!(client.call::<task::WaitResponse>("Wait", &wait).unwrap().exit_status, n);
            let log = std::fs::read_to_string(dir.join(format!("{exec}.log"))).unwrap();
            assert!(log.contains(&format!("\"{exec}\\n\"")), "{log}");
            let delete = task::DeleteRequest { id: id.clone(), exec_id: exec };
            assert_eq!(client.call::<task::DeleteResponse>("Delete", &delete).unwrap().pid, pid);
        }
    };
    std::thread::scope(|scope| {
        for n in 0..10 {
            let (client, id, worker) = (shim.another(), shim.id.clone(), &worker);
            scope.spawn(move || worker(n, client, id));
        }
    });
    shim.kill("", 9, false).unwrap();
    assert_eq!(shim.wait(""), 137);
    shim.delete("").unwrap();
    shim.shut_down();
}

/// `SPT_RUNTIME=… cargo test -p sampan-shim --release -- --ignored --nocapture speed`
pub(crate) fn speed() {
    let mut times: [Vec<Duration>; 5] = Default::default();
    for _ in 0..40 {
        let mut shim = Shim::start(vec!["/bin/true".into()], |_| {});
        let mut lap = Instant::now();
        let mut took = |into: &mut Vec<Duration>| {
            into.push(lap.elapsed());
            lap = Instant::now();
        };
        shim.create_attached();
        took(&mut times[0]);
        shim.start_task("").unwrap();
        took(&mut times[1]);
        shim.wait("");
        took(&mut times[2]);
        shim.delete("").unwrap();
        took(&mut times[3]);
        shim.shut_down();
        took(&mut times[4]);
    }
    for (what, times) in ["create", "start", "wait", "delete", "shutdown"].iter().zip(&mut times) {
        times.sort();
        eprintln!("{what:9} min {:?} median {:?} max {:?}", times[0], times[20], times[39]);
    }
}
