//! Everything at once, and what must not die killed at random moments: afterwards no container is lost, no exit code is
//! lost, nothing is left behind. `make test-chaos` does hundreds of rounds; the tests a few.
//!
//! What a client was told counts: a container that `run -d` has answered for exists, and ends with the code that its
//! command ends with, whatever was killed meanwhile; only one whose shim was killed may have 137 instead.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sampan_testkit::{Command, Instance, Mounted, wait_until};

use crate::crash::Moments;

crate::cases! {
    daemons_and_shims_killed_under_load,
    a_shim_that_nobody_can_reach_is_ended_with_its_container,
    no_descriptor_is_left_for_the_daemon,
    what_cannot_be_removed_is_removed_later,
    a_shim_that_waits_for_a_container_may_die_and_ends_with_the_daemon,
    a_snapshot_that_is_gone_is_told_and_its_container_can_be_removed,
    damaged_records_are_made_anew_and_nothing_is_lost,
}

/// Rounds of killing, unless `CHAOS_ROUNDS` says otherwise.
const ROUNDS: u32 = 10;
/// How many clients ask for something at once.
const CLIENTS: u64 = 4;
/// How many things each of them asks for in a round.
const REQUESTS: u64 = 4;

/// What clients were told in a round.
#[derive(Default)]
struct Told {
    /// Containers by name, with the code that each will end with.
    running: BTreeMap<String, i64>,
    networks: BTreeSet<String>,
    volumes: BTreeSet<String>,
}

fn daemons_and_shims_killed_under_load() {
    let it = Instance::new();
    let rounds = std::env::var("CHAOS_ROUNDS").ok().and_then(|t| t.parse().ok()).unwrap_or(ROUNDS);
    let mut moments = Moments::new("daemons_and_shims_killed_under_load");
    it.sampan(["network", "create", "mesh"]).ok();
    for round in 0..rounds {
        // Some live through all of it, and some are made anew when their shim was killed.
        for name in ["old", "always"] {
            if it.sampan(["inspect", name]).code != 0 {
                let policy = if name == "always" { "always" } else { "no" };
                it.sampan([
                    "run",
                    "-d",
                    "--name",
                    name,
                    "--restart",
                    policy,
                    "--network",
                    "mesh",
                    "busybox",
                    "sleep",
                    "100000",
                ])
                .ok();
            }
        }
        let told = Mutex::new(Told::default());
        let killed = std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let mut moments = Moments::seeded(moments.below(u64::MAX - 1) | 1);
                let (it, told) = (&it, &told);
                scope.spawn(move || ask(it, &format!("r{round}c{client}"), &mut moments, told));
            }
            moments.pass(Duration::from_millis(400));
            let mut killed = BTreeSet::new();
            if moments.below(2) == 0 {
                let shims = shims(&it);
                if !shims.is_empty() {
                    let at = usize::try_from(moments.below(shims.len() as u64)).unwrap();
                    killed.extend(kill_shim(&it, shims[at].0));
                }
            }
            if moments.below(4) != 0 {
                it.kill_9();
                moments.pass(Duration::from_millis(100));
                it.start();
            }
            killed
        });
        check(&it, told.into_inner().unwrap(), &killed, round);
    }
    it.sampan(["rm", "-f", "-v", "old", "always"]).ok();
    it.sampan(["network", "rm", "mesh"]).ok();
    it.sampan(["volume", "prune", "-a", "-f"]).ok();
    it.assert_idle();
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", it.daemon_pid())).unwrap().count();
    assert!(descriptors < 64, "an idle daemon holds {descriptors} descriptors");
}

/// One client's requests; whatever fails may fail.
fn ask(it: &Instance, client: &str, moments: &mut Moments, told: &Mutex<Told>) {
    for request in 0..REQUESTS {
        let name = format!("{client}n{request}");
        let code = i64::try_from(moments.below(100)).unwrap();
        let network = if moments.below(2) == 0 { "mesh" } else { "bridge" };
        match moments.below(8) {
            0..3 => {
                let script = format!("sleep 0.{}; exit {code}", moments.below(5));
                let done = it.sampan([
                    "run",
                    "-d",
                    "--name",
                    &name,
                    "--network",
                    network,
                    "busybox",
                    "sh",
                    "-c",
                    &script,
                ]);
                if done.code == 0 {
                    told.lock().unwrap().running.insert(name, code);
                }
            }
            3 => drop(it.sampan(["run", "--rm", "--network", network, "busybox", "true"])),
            4 => drop(it.sampan(["exec", "old", "true"])),
            5 => {
                if it.sampan(["network", "create", &name]).code == 0 {
                    told.lock().unwrap().networks.insert(name.clone());
                    drop(it.sampan(["network", "connect", &name, "old"]));
                }
            }
            6 => {
                let bind = format!("{name}:/v");
                if it.sampan(["volume", "create", &name]).code == 0 {
                    told.lock().unwrap().volumes.insert(name);
                    drop(it.sampan(["run", "--rm", "-v", &bind, "busybox", "touch", "/v/x"]));
                }
            }
            _ => drop(it.sampan(["restart", "-t", "0", "always"])),
        }
    }
}

/// The shims of this daemon, with their containers' ids. What the runtime starts is a copy of its shim for a moment: its
/// commands lead no session, and a container's processes are in a pid namespace of their own.
fn shims(it: &Instance) -> Vec<(Pid, String)> {
    let shim_of = |(pid, line): (u32, String)| {
        let id = line.split(' ').skip_while(|word| *word != "-id").nth(1)?;
        let pid = Pid::from_raw(pid.cast_signed())?;
        (leads_session(pid) && is_on_the_host(pid)).then(|| (pid, id.to_owned()))
    };
    sampan_testkit::processes(&it.state()).into_iter().filter_map(shim_of).collect()
}

/// Kills a shim; its container's id, unless it had ended by itself.
fn kill_shim(it: &Instance, pid: Pid) -> Option<String> {
    // One that waits may become a container's at any time, and not between the next two lines.
    kill_process(pid, Signal::STOP).ok()?;
    wait_until("the shim stands still", || {
        stat(pid).first().is_none_or(|state| state == "T" || state == "Z")
    });
    let id = shims(it).into_iter().find(|(shim, _)| *shim == pid).map(|(_, id)| id);
    kill_process(pid, Signal::KILL).ok()?;
    id
}

/// Whether a process leads its session. Not by getsid(2): it gives 0 for a session that was begun outside of this
/// process's pid namespace, as all may be before they have one of their own, and rustix knows no pid 0.
fn leads_session(pid: Pid) -> bool {
    stat(pid).get(3).is_some_and(|session| *session == pid.to_string())
}

/// A process's state and what follows it in proc_pid_stat(5); nothing if it is gone.
fn stat(pid: Pid) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    after_name.split_whitespace().map(str::to_owned).collect()
}

/// Whether a process is in this one's pid namespace.
fn is_on_the_host(pid: Pid) -> bool {
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/pid")).ok();
    namespace(&pid.to_string()) == namespace("self")
}

fn check(it: &Instance, told: Told, killed: &BTreeSet<String>, round: u32) {
    let listed = it.sampan(["ps", "-a", "--no-trunc", "--format", "{{.Names}} {{.ID}}"]).ok().stdout;
    let ids: BTreeMap<&str, &str> = listed.lines().filter_map(|line| line.split_once(' ')).collect();
    for (name, code) in &told.running {
        let id = ids.get(name.as_str()).unwrap_or_else(|| panic!("round {round}: {name} is lost\n{listed}"));
        let got: i64 = it.sampan(["wait", name]).ok().text().parse().unwrap();
        let excused = killed.contains(*id) && got == 137;
        assert!(got == *code || excused, "round {round}: {name} ended with {got}, not {code}");
    }
    for name in ["old", "always"] {
        let Some(id) = ids.get(name) else { panic!("round {round}: {name} is lost\n{listed}") };
        if name == "old" && killed.contains(*id) {
            wait_until("the end of a container without a shim is noted", || {
                it.inspect(name, "/State/Running") == false
            });
            it.sampan(["rm", "-f", name]).ok();
        } else {
            // Its policy, or the next daemon, brings it back.
            wait_until("what is to run runs", || it.sampan(["exec", name, "true"]).code == 0);
        }
    }
    let networks = it.sampan(["network", "ls", "--format", "{{.Name}}"]).ok().stdout;
    for name in &told.networks {
        assert!(networks.lines().any(|n| n == name), "round {round}: network {name} is lost\n{networks}");
    }
    let volumes = it.sampan(["volume", "ls", "-q"]).ok().stdout;
    for name in &told.volumes {
        assert!(volumes.lines().any(|n| n == name), "round {round}: volume {name} is lost\n{volumes}");
    }
    // Also those that nobody was told of.
    for id in it.container_ids() {
        if !["old", "always"].iter().any(|name| ids.get(name) == Some(&id.as_str())) {
            drop(it.sampan(["rm", "-f", "-v", &id]));
        }
    }
    for name in networks.lines().filter(|n| n.starts_with('r')) {
        drop(it.sampan(["network", "disconnect", "-f", name, "old"]));
        it.sampan(["network", "rm", name]).ok();
    }
    for name in volumes.lines().filter(|n| n.starts_with('r')) {
        it.sampan(["volume", "rm", name]).ok();
    }
}

fn a_shim_that_waits_for_a_container_may_die_and_ends_with_the_daemon() {
    let it = Instance::new();
    let nobody = "0".repeat(64);
    let spare = || shims(&it).into_iter().find(|(_, id)| *id == nobody).map(|(pid, _)| pid);
    for signal in [Signal::KILL, Signal::TERM] {
        wait_until("a shim waits", || spare().is_some());
        let pid = spare().unwrap();
        kill_process(pid, signal).unwrap();
        wait_until("it has ended", || spare() != Some(pid));
        it.sampan(["run", "--rm", "busybox", "echo", "well"]).ok().is("well");
    }
    // It may also die when it has been told what it is for: here it stands still, so that it has done nothing of it yet.
    wait_until("a shim waits", || spare().is_some());
    let pid = spare().unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| it.sampan(["run", "--name", "c0", "busybox", "echo", "well"]));
        wait_until("the daemon has asked it for a container", || is_asked(&it));
        kill_process(pid, Signal::KILL).unwrap();
        run.join().unwrap().ok().is("well");
    });
    assert!(it.log().contains("trying once more to start it"), "{}", it.log());
    it.sampan(["rm", "c0"]).ok();
    // The one that waits becomes a container's, and says so.
    wait_until("a shim waits", || spare().is_some());
    let pid = spare().unwrap();
    let id = it.sampan(["run", "-d", "--name", "c1", "busybox", "sleep", "1000"]).ok().text().to_owned();
    assert!(shims(&it).contains(&(pid, id)));
    wait_until("the next one waits", || spare().is_some());
    it.kill_9();
    wait_until("it ends with the daemon", || spare().is_none());
    it.start();
    it.sampan(["exec", "c1", "true"]).ok();
    it.sampan(["rm", "-f", "c1"]).ok();
}

/// Whether a client has connected to the socket of the only bundle there is, besides whoever listens there.
fn is_asked(it: &Instance) -> bool {
    let bundles = std::fs::read_dir(it.state().join("bundles")).unwrap().flatten();
    let Some(address) = bundles.filter_map(|b| std::fs::read_to_string(b.path().join("address")).ok()).next()
    else {
        return false;
    };
    let path = address.trim_start_matches("unix://");
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    sockets.lines().filter(|line| line.ends_with(path)).count() > 1
}

fn a_shim_that_nobody_can_reach_is_ended_with_its_container() {
    let it = Instance::new();
    it.sampan(["run", "-d", "--name", "c1", "--restart", "always", "busybox", "sleep", "1000"]).ok();
    let (id, first) = (it.inspect("c1", "/Id"), it.inspect("c1", "/State/Pid"));
    let address = it.state().join("bundles").join(id.as_str().unwrap()).join("address");
    let address = std::fs::read_to_string(address).unwrap();
    it.kill_9();
    std::fs::remove_file(address.strip_prefix("unix://").unwrap()).unwrap();
    it.start();
    wait_until("the container runs again", || it.sampan(["exec", "c1", "true"]).code == 0);
    assert_ne!(it.inspect("c1", "/State/Pid"), first);
    it.sampan(["rm", "-f", "c1"]).ok();
    it.assert_idle();
}

fn no_descriptor_is_left_for_the_daemon() {
    let it = Instance::new();
    it.sampan(["run", "-d", "--name", "c1", "busybox", "sleep", "1000"]).ok();
    let pid = it.daemon_pid().to_string();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let limit =
        |soft: usize| Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={soft}:")]).run().ok();
    let before: usize = {
        let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = text.lines().find(|l| l.starts_with("Max open files")).unwrap().to_owned();
        line.split_whitespace().nth(3).unwrap().parse().unwrap()
    };
    limit(open + 4);
    let mut idle = Vec::new();
    wait_until("whoever comes when there is no descriptor is told", || {
        idle.push(std::os::unix::net::UnixStream::connect(it.socket()).unwrap());
        let refused = it.sampan(["ps"]);
        refused.code != 0 && refused.stderr.contains("too many open files")
    });
    drop(idle);
    for room in 0..24 {
        limit(open + room);
        let failed = it.sampan(["run", "--rm", "busybox", "true"]);
        assert!(failed.code == 0 || !failed.stderr.is_empty(), "{failed}");
    }
    limit(before);
    it.sampan(["exec", "c1", "true"]).ok();
    it.sampan(["run", "--rm", "busybox", "echo", "back"]).ok().is("back");
    it.sampan(["rm", "-f", "c1"]).ok();
}

fn what_cannot_be_removed_is_removed_later() {
    let it = Instance::new();
    let upper = |name: &str| it.inspect(name, "/GraphDriver/Data/UpperDir").as_str().unwrap().to_owned();
    it.sampan(["create", "--name", "c1", "busybox", "true"]).ok();
    let own = it.root().join("containers").join(it.inspect("c1", "/Id").as_str().unwrap());
    let snapshot = PathBuf::from(upper("c1")).parent().unwrap().to_owned();
    // Nobody can remove a directory where something is mounted.
    let mounts = [&own, &snapshot].map(|directory| {
        let busy = directory.join("busy");
        std::fs::create_dir(&busy).unwrap();
        Mounted::new("tmpfs", &busy, "")
    });
    it.sampan(["rm", "c1"]).ok();
    it.sampan(["inspect", "c1"]).code(1);
    wait_until("both were tried", || {
        let log = it.log();
        log.contains("cannot remove the directory") && log.contains("cannot remove a snapshot's files")
    });
    it.sampan(["run", "--rm", "busybox", "true"]).ok();
    assert!(own.exists() && snapshot.exists());
    drop(mounts);
    it.sampan(["run", "--rm", "busybox", "true"]).ok();
    wait_until("the next run takes it away", || !own.exists() && !snapshot.exists());
}

fn a_snapshot_that_is_gone_is_told_and_its_container_can_be_removed() {
    let it = Instance::new();
    it.sampan(["create", "--name", "c1", "busybox", "true"]).ok();
    it.sampan(["run", "-d", "--name", "c2", "busybox", "sleep", "1000"]).ok();
    let upper = it.inspect("c1", "/GraphDriver/Data/UpperDir");
    let directory = std::path::Path::new(upper.as_str().unwrap()).parent().unwrap().to_owned();
    it.kill_9();
    std::fs::remove_dir_all(&directory).unwrap();
    it.start();
    it.sampan(["exec", "c2", "true"]).ok();
    let failed = it.sampan(["start", "c1"]);
    assert!(failed.code != 0 && failed.stderr.contains("is not there any more"), "{failed}");
    it.sampan(["rm", "c1"]).ok();
}

fn damaged_records_are_made_anew_and_nothing_is_lost() {
    let it = Instance::new();
    it.sampan(["network", "create", "net1"]).ok();
    it.sampan(["volume", "create", "--label", "a=b", "vol1"]).ok();
    it.sampan([
        "run",
        "-d",
        "--name",
        "c1",
        "--network",
        "net1",
        "-v",
        "vol1:/v",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    it.sampan(["run", "--name", "c2", "busybox", "sh", "-c", "echo said; exit 3"]).code(3);
    it.sampan(["create", "--name", "c3", "busybox", "true"]).ok();
    it.sampan(["rm", "c3"]).ok();
    let pid = it.inspect("c1", "/State/Pid");
    it.terminate();
    let path = it.root().join("engine.redb");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    it.start();
    assert!(it.log().contains("made anew of their copies"), "{}", it.log());
    assert_eq!(it.inspect("c1", "/State/Pid"), pid);
    it.sampan(["exec", "c1", "touch", "/v/x"]).ok();
    assert_eq!(it.inspect("c2", "/State/ExitCode"), 3);
    it.sampan(["logs", "c2"]).ok().is("said");
    // Not by its name alone: an image or a network may have an id that begins with it.
    it.sampan(["inspect", "--type", "container", "c3"]).code(1);
    assert_eq!(it.sampan(["volume", "inspect", "vol1"]).ok().json()[0]["Labels"]["a"], "b");
    it.sampan(["run", "--rm", "--network", "net1", "-v", "vol1:/v", "busybox", "ls", "/v"]).ok().is("x");
    // Where a copy is missing, too, what the container has written is kept, until somebody removes it.
    let id = it.inspect("c2", "/Id").as_str().unwrap().to_owned();
    it.terminate();
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(it.root().join("records/containers").join(&id)).unwrap();
    it.start();
    it.sampan(["exec", "c1", "true"]).ok();
    assert!(it.container_ids().contains(&id));
    it.sampan(["start", &id]).code(1).complains("can't be read");
    it.sampan(["logs", &id]).ok().is("said");
    it.sampan(["rm", &id]).ok();
    it.sampan(["rm", "-f", "c1"]).ok();
    it.sampan(["network", "rm", "net1"]).ok();
    it.sampan(["volume", "rm", "vol1"]).ok();
}
