//! Much at once, at one daemon.

use sampan_testkit::{Instance, Running};

crate::cases! {
    many_containers_run_at_once,
    one_of_many_gets_a_name_and_a_port,
    builds_and_removals_side_by_side_keep_the_store_whole,
    starts_stops_and_removals_of_one_container_race_cleanly,
}

fn all<T>(count: usize, start: impl Fn(usize) -> T) -> Vec<T> {
    (0..count).map(start).collect()
}

fn many_containers_run_at_once() {
    let it = Instance::new();
    let runs = all(16, |n| {
        it.sampan_command(["run", "--rm", "-v", "/v", "busybox", "sh", "-c", &format!("echo {n}; exit {n}")])
            .start()
    });
    for (n, run) in runs.into_iter().enumerate() {
        run.wait().code(i32::try_from(n).unwrap()).is(&n.to_string());
    }
    it.sampan(["ps", "-aq"]).ok().is("");
    it.sampan(["volume", "ls", "-q"]).ok().is("");
    it.assert_idle();
    let execs = {
        it.sampan(["run", "-d", "--name", "c1", "busybox", "sleep", "1000"]).ok();
        all(12, |n| it.sampan_command(["exec", "c1", "sh", "-c", &format!("echo {n}; exit {n}")]).start())
    };
    for (n, exec) in execs.into_iter().enumerate() {
        exec.wait().code(i32::try_from(n).unwrap()).is(&n.to_string());
    }
}

fn one_of_many_gets_a_name_and_a_port() {
    let it = Instance::new();
    let created = all(8, |_| it.sampan_command(["create", "--name", "only", "busybox", "true"]).start());
    let codes: Vec<i32> = created.into_iter().map(|c| c.wait().code).collect();
    assert_eq!(codes.iter().filter(|c| **c == 0).count(), 1, "{codes:?}");
    assert_eq!(it.container_ids().len(), 1);
    it.sampan(["rm", "only"]).ok();
    let free = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let publish = format!("{}:80", free.local_addr().unwrap().port());
    drop(free);
    let runs =
        all(6, |_| it.sampan_command(["run", "-d", "-p", &publish, "busybox", "sleep", "1000"]).start());
    let codes: Vec<i32> = runs.into_iter().map(|c| c.wait().code).collect();
    assert_eq!(codes.iter().filter(|c| **c == 0).count(), 1, "{codes:?}");
    assert_eq!(it.sampan(["ps", "-q"]).ok().stdout.lines().count(), 1);
}

fn builds_and_removals_side_by_side_keep_the_store_whole() {
    let it = Instance::new();
    let build = |n: usize| -> Running {
        let text =
            format!("FROM busybox\nRUN echo shared >/shared\nRUN echo {n} >/own\nCMD cat /shared /own\n");
        it.sampan_command(["build", "-t", &format!("built:{n}"), "-"]).input(text).start()
    };
    for _ in 0..2 {
        for built in all(4, build) {
            built.wait().ok();
        }
        let half = all(2, |n| it.sampan_command(["rmi", &format!("built:{n}")]).start());
        let runs = all(2, |n| it.sampan_command(["run", "--rm", &format!("built:{}", n + 2)]).start());
        for removed in half {
            removed.wait().ok();
        }
        for (n, run) in runs.into_iter().enumerate() {
            run.wait().ok().is(&format!("shared\n{}", n + 2));
        }
    }
    it.restart();
    for n in 2..4 {
        it.sampan(["run", "--rm", &format!("built:{n}")]).ok().is(&format!("shared\n{n}"));
    }
}

fn starts_stops_and_removals_of_one_container_race_cleanly() {
    let it = Instance::new();
    for _ in 0..4 {
        it.sampan(["create", "--name", "c1", "busybox", "sleep", "1000"]).ok();
        let verbs: [&[&str]; 6] = [
            &["exec", "c1", "true"],
            &["start", "c1"],
            &["restart", "-t", "0", "c1"],
            &["stop", "-t", "0", "c1"],
            &["pause", "c1"],
            &["start", "c1"],
        ];
        let [exec, others @ ..] = verbs.map(|v| it.sampan_command(v.iter().copied()).start());
        for running in others {
            // Whichever comes first, each gets an answer; none hangs.
            running.wait();
        }
        // What was begun just before a pause that nothing ended waits for its end, as with Docker.
        it.sampan(["unpause", "c1"]);
        exec.wait();
        let removals = all(3, |_| it.sampan_command(["rm", "-f", "c1"]).start());
        let codes: Vec<i32> = removals.into_iter().map(|c| c.wait().code).collect();
        assert!(codes.contains(&0), "{codes:?}");
        it.sampan(["ps", "-aq"]).ok().is("");
        it.assert_idle();
    }
}
