//! Daemons: beside each other, one after the other, and how they end.

use std::os::unix::fs::PermissionsExt;

use sampan_testkit::Instance;

crate::cases! {
    two_daemons_live_side_by_side,
    a_second_daemon_on_the_same_directory_is_refused,
    a_daemon_that_ends_takes_its_bridge_and_table_with_it,
    containers_outlive_a_restart,
    only_root_may_connect,
    the_api_answers_curl [Curl],
}

fn two_daemons_live_side_by_side() {
    let (one, two) = (Instance::new(), Instance::new());
    one.sampan(["run", "-d", "--name", "same", "busybox", "sleep", "1000"]).ok();
    two.sampan(["run", "-d", "--name", "same", "busybox", "sleep", "1000"]).ok();
    one.sampan(["tag", "busybox", "only:one"]).ok();
    assert!(!two.sampan(["images"]).ok().stdout.contains("only"));
    let prefix = |it: &Instance| it.gateway().trim_end_matches('1').to_owned();
    for it in [&one, &two] {
        let address = it.inspect("same", "/NetworkSettings/IPAddress");
        assert!(address.as_str().unwrap().starts_with(&prefix(it)), "{address}");
    }
    one.sampan(["rm", "-f", "same"]).ok();
    two.sampan(["exec", "same", "true"]).ok();
    drop(one);
    two.sampan(["exec", "same", "ping", "-c", "1", "-W", "10", &two.gateway()]).ok();
}

fn a_second_daemon_on_the_same_directory_is_refused() {
    let it = Instance::new();
    let second = it.daemon_command().run();
    assert_ne!(second.code, 0, "{second}");
    let said = second.stderr.lines().filter(|line| line.contains(it.root().to_str().unwrap())).count();
    assert_eq!(said, 1, "one line should name the directory: {second}");
    // The first one is none the worse for it.
    it.sampan(["run", "--rm", "busybox", "true"]).ok();
}

fn a_daemon_that_ends_takes_its_bridge_and_table_with_it() {
    let it = Instance::new();
    it.sampan(["run", "--rm", "busybox", "true"]).ok();
    let link = std::path::Path::new("/sys/class/net").join(it.bridge());
    assert!(link.exists());
    let tables = || sampan_testkit::Command::new("nft").args(["list", "tables"]).run().ok().stdout;
    assert!(tables().contains(it.table()));
    it.terminate();
    assert!(!link.exists() && !tables().contains(it.table()));
    it.start();
    it.sampan(["run", "--rm", "busybox", "true"]).ok();
}

fn containers_outlive_a_restart() {
    let it = Instance::new();
    it.sampan(["run", "-d", "--name", "c1", "busybox", "sleep", "1000"]).ok();
    it.sampan(["create", "--name", "c2", "busybox", "true"]).ok();
    let pid = it.inspect("c1", "/State/Pid");
    it.restart();
    assert_eq!(it.inspect("c1", "/State/Pid"), pid);
    assert_eq!(it.inspect("c2", "/State/Status"), "created");
    it.sampan(["start", "c2"]).ok();
    it.sampan(["wait", "c2"]).ok().is("0");
    it.sampan(["stop", "-t", "0", "c1"]).ok();
}

fn only_root_may_connect() {
    let it = Instance::builder().bare().start();
    let mode = std::fs::metadata(it.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

fn the_api_answers_curl() {
    let it = Instance::new();
    it.get("/_ping").ok().is("OK");
    let version = it.get("/v1.41/version").ok().json();
    assert_eq!(version["Os"], "linux");
    let images = it.get("/v1.41/images/json").ok().json();
    assert_eq!(images[0]["RepoTags"][0], "busybox:latest");
    it.get("/v1.41/containers/none/json").ok().says("No such container: none");
    it.get("/v1.41/nonsense").ok().says("message");
}
