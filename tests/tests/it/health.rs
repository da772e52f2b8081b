//! Health checks.

use sampan_testkit::{Instance, wait_until};

crate::cases! {
    a_container_becomes_healthy_and_unhealthy [Docker],
    a_probe_that_hangs_is_killed [Docker],
    failures_in_the_start_period_do_not_count [NewDocker],
    the_images_check_is_inherited_overridden_and_switched_off [Docker],
    probes_go_on_after_a_new_daemon [Docker],
    a_frozen_container_is_not_probed [Docker],
    checks_that_make_no_sense_are_refused [Docker],
}

fn status(it: &Instance, name: &str) -> String {
    it.inspect(name, "/State/Health/Status").as_str().unwrap_or_default().to_owned()
}

fn a_container_becomes_healthy_and_unhealthy() {
    let it = Instance::new();
    it.docker([
        "run",
        "-d",
        "--name",
        "c1",
        "--health-cmd",
        "echo looking; test ! -e /bad",
        "--health-interval",
        "100ms",
        "--health-retries",
        "2",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    wait_until("it is healthy", || status(&it, "c1") == "healthy");
    it.docker(["ps", "--format", "{{.Status}}"]).ok().says("(healthy)");
    it.docker(["ps", "-q", "--filter", "health=unhealthy"]).ok().is("");
    it.docker(["exec", "c1", "touch", "/bad"]).ok();
    wait_until("it is unhealthy", || status(&it, "c1") == "unhealthy");
    it.docker(["ps", "--format", "{{.Status}}", "--filter", "health=unhealthy"]).ok().says("(unhealthy)");
    assert!(it.inspect("c1", "/State/Health/FailingStreak").as_i64().unwrap() >= 2);
    wait_until("the log is full", || it.inspect("c1", "/State/Health/Log").as_array().unwrap().len() == 5);
    assert_eq!(it.inspect("c1", "/State/Health/Log/4/ExitCode"), 1);
    assert_eq!(it.inspect("c1", "/State/Health/Log/4/Output"), "looking\n");
    let said = crate::restart::actions(&it, "c1");
    for action in [
        "health_status: healthy",
        "health_status: unhealthy",
        "exec_create: /bin/sh -c echo looking; test ! -e /bad",
        "exec_start: /bin/sh -c",
        "exec_die",
    ] {
        assert!(said.contains(action), "{action}: {said}");
    }
    it.docker(["stop", "-t", "0", "c1"]).ok();
    assert_eq!(status(&it, "c1"), "unhealthy");
}

fn a_probe_that_hangs_is_killed() {
    let it = Instance::new();
    it.docker([
        "run",
        "-d",
        "--name",
        "c1",
        "--health-cmd",
        "echo begun; sleep 54321; true",
        "--health-interval",
        "100ms",
        "--health-timeout",
        "300ms",
        "--health-retries",
        "1",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    wait_until("it is unhealthy", || status(&it, "c1") == "unhealthy");
    assert_eq!(it.inspect("c1", "/State/Health/Log/0/ExitCode"), -1);
    let output = it.inspect("c1", "/State/Health/Log/0/Output");
    assert!(output.as_str().unwrap().starts_with("Health check exceeded timeout (300ms)"), "{output}");
    let sleepers = || it.docker(["top", "c1"]).ok().stdout.matches("sleep 54321").count();
    wait_until("what it started is gone, but for the probe that runs", || sleepers() <= 2);
}

fn failures_in_the_start_period_do_not_count() {
    let it = Instance::new();
    let docker = |arguments: &[&str]| it.docker_at(crate::docker::NEW_DOCKER, arguments).run();
    docker(&[
        "run",
        "-d",
        "--name",
        "c1",
        "--health-cmd",
        "test -e /ok",
        "--health-interval",
        "1h",
        "--health-retries",
        "1",
        "--health-start-period",
        "1h",
        "--health-start-interval",
        "100ms",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    wait_until("it was probed", || it.inspect("c1", "/State/Health/Log").as_array().unwrap().len() >= 2);
    assert_eq!(status(&it, "c1"), "starting");
    assert_eq!(it.inspect("c1", "/State/Health/FailingStreak"), 0);
    it.docker(["ps", "--format", "{{.Status}}"]).ok().says("(health: starting)");
    it.docker(["exec", "c1", "touch", "/ok"]).ok();
    wait_until("it is healthy", || status(&it, "c1") == "healthy");
    assert_eq!(it.inspect("c1", "/Config/Healthcheck/StartInterval"), 100_000_000);
}

fn the_images_check_is_inherited_overridden_and_switched_off() {
    let it = Instance::new();
    let file = "FROM busybox\nHEALTHCHECK --interval=100ms --retries=7 CMD [\"true\"]\n";
    let directory = it.scratch();
    std::fs::write(directory.join("Dockerfile"), file).unwrap();
    it.sampan(["build", "-t", "checked", directory.to_str().unwrap()]).ok();
    it.docker(["run", "-d", "--name", "c1", "checked", "sleep", "1000"]).ok();
    wait_until("it is healthy", || status(&it, "c1") == "healthy");
    it.docker([
        "run",
        "-d",
        "--name",
        "c2",
        "--health-cmd",
        "false",
        "--health-retries",
        "1",
        "checked",
        "sleep",
        "1000",
    ])
    .ok();
    wait_until("it is unhealthy", || status(&it, "c2") == "unhealthy");
    assert_eq!(it.inspect("c2", "/Config/Healthcheck/Interval"), 100_000_000);
    it.docker(["run", "-d", "--name", "c3", "--no-healthcheck", "checked", "sleep", "1000"]).ok();
    let told = it.docker(["inspect", "c3"]).ok().json();
    assert!(told[0]["State"]["Health"].is_null(), "{told:#}");
    it.docker(["ps", "--filter", "health=none", "--format", "{{.Names}}"]).ok().is("c3");
}

fn probes_go_on_after_a_new_daemon() {
    let it = Instance::new();
    it.docker([
        "run",
        "-d",
        "--name",
        "c1",
        "--health-cmd",
        "test -e /ok",
        "--health-interval",
        "100ms",
        "--health-retries",
        "1",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    wait_until("it is unhealthy", || status(&it, "c1") == "unhealthy");
    it.kill_9();
    it.start();
    it.docker(["exec", "c1", "touch", "/ok"]).ok();
    wait_until("it is healthy", || status(&it, "c1") == "healthy");
}

fn a_frozen_container_is_not_probed() {
    let it = Instance::new();
    it.docker([
        "run",
        "-d",
        "--name",
        "c1",
        "--health-cmd",
        "true",
        "--health-interval",
        "100ms",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    wait_until("it is healthy", || status(&it, "c1") == "healthy");
    it.docker(["pause", "c1"]).ok();
    assert_eq!(status(&it, "c1"), "unhealthy");
    it.docker(["unpause", "c1"]).ok();
    wait_until("it is healthy again", || status(&it, "c1") == "healthy");
}

fn checks_that_make_no_sense_are_refused() {
    let it = Instance::new();
    let body = r#"{"Image":"busybox","Cmd":"true","Healthcheck":{"Test":["CMD","true"],"Interval":5}}"#;
    sampan_testkit::Command::new("curl")
        .args([
            "-s",
            "--unix-socket",
            it.socket().to_str().unwrap(),
            "-H",
            "Content-Type: application/json",
            "-d",
            body,
        ])
        .args(["http://d/containers/create"])
        .run()
        .ok()
        .says("Interval in Healthcheck cannot be less than 1ms");
}
