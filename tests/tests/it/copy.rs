//! Files copied out of and into containers.

use sampan_testkit::{Instance, wait_until};

crate::cases! {
    files_and_directories_go_out_and_in_while_it_runs [Docker],
    files_go_out_and_in_while_it_does_not_run [Docker],
    links_lead_where_they_lead_inside [Docker],
    what_is_read_only_or_missing_is_refused [Docker],
    kinds_are_kept_and_owners_set [Docker],
    a_start_while_files_are_copied_goes_well [Docker, Curl],
}

fn write(it: &Instance, name: &str, text: &str) -> String {
    let path = it.scratch().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn files_and_directories_go_out_and_in_while_it_runs() {
    let it = Instance::new();
    it.docker([
        "run",
        "-d",
        "--name",
        "c1",
        "-v",
        "vol:/data",
        "--tmpfs",
        "/mem",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    let file = write(&it, "one.txt", "one\n");
    write(&it, "tree/a/b", "b\n");
    let tree = it.scratch().join("tree");
    for target in ["/etc", "/data", "/mem"] {
        it.docker(["cp", &file, &format!("c1:{target}/two.txt")]).ok();
        it.docker(["exec", "c1", "cat", &format!("{target}/two.txt")]).ok().is("one");
    }
    it.docker(["cp", tree.to_str().unwrap(), "c1:/"]).ok();
    it.docker(["exec", "c1", "cat", "/tree/a/b"]).ok().is("b");
    it.docker(["exec", "c1", "ln", "/tree/a/b", "/tree/c"]).ok();
    it.docker(["exec", "c1", "mkfifo", "/tree/fifo"]).ok();
    let out = it.scratch().join("out");
    it.docker(["cp", "c1:/tree", out.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read_to_string(out.join("a/b")).unwrap(), "b\n");
    assert_eq!(std::fs::read_to_string(out.join("c")).unwrap(), "b\n");
    it.docker(["cp", "c1:/data/two.txt", out.join("back").to_str().unwrap()]).ok();
    assert_eq!(std::fs::read_to_string(out.join("back")).unwrap(), "one\n");
    it.docker(["cp", "c1:/etc/passwd", "-"]).ok().says("root:x:0:0");
    it.docker(["pause", "c1"]).ok();
    it.docker(["cp", "c1:/etc/passwd", "-"]).ok().says("root:x:0:0");
}

fn files_go_out_and_in_while_it_does_not_run() {
    let it = Instance::new();
    let bound = it.scratch().join("bound");
    std::fs::create_dir_all(&bound).unwrap();
    std::fs::write(bound.join("f"), "of the host\n").unwrap();
    it.docker([
        "create",
        "--name",
        "c1",
        "-v",
        "vol:/data",
        "-v",
        &format!("{}:/host", bound.display()),
        "busybox",
        "cat",
        "/one",
        "/data/one",
    ])
    .ok();
    let file = write(&it, "one", "1\n");
    it.docker(["cp", &file, "c1:/"]).ok();
    it.docker(["cp", &file, "c1:/data/"]).ok();
    it.docker(["cp", "c1:/host/f", "-"]).ok().says("of the host");
    it.docker(["start", "-a", "c1"]).ok().is("1\n1");
    it.docker(["cp", "c1:/one", "-"]).ok().says("1\n");
    let left = std::fs::read_dir(it.state().join("borrowed")).map_or(0, |d| d.count());
    assert_eq!(left, 0, "mounts that were borrowed are gone");
    it.docker(["rm", "c1"]).ok();
}

fn links_lead_where_they_lead_inside() {
    let it = Instance::new();
    let script = "ln -s /etc/passwd /l; ln -s /tmp /d; ln -s ../../../../../../etc/hostname /up; sleep 1000";
    it.docker(["run", "-d", "--name", "c1", "--hostname", "inside", "busybox", "sh", "-c", script]).ok();
    wait_until("the links are there", || it.docker(["exec", "c1", "ls", "/up"]).code == 0);
    it.docker(["cp", "-L", "c1:/up", "-"]).ok().says("inside");
    let file = write(&it, "x", "x\n");
    it.docker(["cp", &file, "c1:/d"]).ok();
    it.docker(["exec", "c1", "cat", "/tmp/x"]).ok().is("x");
    let stat = sampan_testkit::Command::new("curl")
        .args([
            "-s",
            "-I",
            "--unix-socket",
            it.socket().to_str().unwrap(),
            "http://d/containers/c1/archive?path=/l",
        ])
        .run()
        .ok();
    let header = stat
        .stdout
        .lines()
        .find_map(|l| l.to_lowercase().starts_with("x-docker-container-path-stat").then(|| l.to_owned()));
    let encoded = header.unwrap().split_once(' ').unwrap().1.trim().to_owned();
    let told = sampan_testkit::Command::new("base64").args(["-d"]).input(encoded).run().ok().json();
    assert_eq!((told["name"].as_str(), told["linkTarget"].as_str()), (Some("l"), Some("/etc/passwd")));
    assert_eq!(told["mode"], 0x0800_01ff);
}

fn what_is_read_only_or_missing_is_refused() {
    let it = Instance::new();
    it.docker([
        "run",
        "-d",
        "--name",
        "c1",
        "--read-only",
        "-v",
        "vol:/data:ro",
        "--tmpfs",
        "/tmp",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    let file = write(&it, "x", "x\n");
    it.docker(["cp", &file, "c1:/etc/"]).code(1).complains("container rootfs is marked read-only");
    it.docker(["cp", &file, "c1:/data/"]).code(1).complains("mounted volume is marked read-only");
    it.docker(["cp", "c1:/nope", "-"]).code(1).complains("No such container:path: c1:/nope");
    it.docker(["cp", "nope:/x", "-"]).code(1).complains("No such container");
    it.docker(["cp", &file, "c1:/nope/x"]).code(1).complains("nope");
    it.docker(["cp", &file, "c1:/etc/passwd/x"]).code(1);
}

fn kinds_are_kept_and_owners_set() {
    let it = Instance::new();
    it.docker(["run", "-d", "--name", "c1", "--user", "web", "busybox", "sleep", "1000"]).ok();
    let file = write(&it, "x", "x\n");
    std::os::unix::fs::chown(&file, Some(1234), Some(1234)).unwrap();
    let owner = || it.docker(["exec", "c1", "stat", "-c", "%u:%g", "/tmp/x"]).ok().text().to_owned();
    it.docker(["cp", "-a", &file, "c1:/tmp/"]).ok();
    assert_eq!(owner(), "33:33");
    let archive = it.scratch().join("a.tar");
    let tar = |name: &str| {
        sampan_testkit::Command::new("tar")
            .args(["-C", it.scratch().to_str().unwrap(), "-cf", archive.to_str().unwrap(), name])
            .run()
            .ok();
    };
    tar("x");
    let put = |query: &str| {
        sampan_testkit::Command::new("curl")
            .args([
                "-s",
                "-X",
                "PUT",
                "--unix-socket",
                it.socket().to_str().unwrap(),
                "-T",
                archive.to_str().unwrap(),
            ])
            .args([format!("http://d/containers/c1/archive?path=/tmp&{query}")])
            .run()
            .ok()
    };
    it.docker(["exec", "-u", "0", "c1", "sh", "-c", "rm /tmp/x; mkdir /tmp/x"]).ok();
    put("noOverwriteDirNonDir=1").says("cannot overwrite a directory with a non-directory");
    put("noOverwriteDirNonDir=0").is("");
    assert_eq!(owner(), "1234:1234");
    it.docker(["exec", "c1", "cat", "/tmp/x"]).ok().is("x");
}

fn a_start_while_files_are_copied_goes_well() {
    let it = Instance::new();
    it.docker(["create", "--name", "c1", "busybox", "sh", "-c", "echo in > /new; sleep 1000"]).ok();
    // A reader that does not read holds the copy open.
    let slow = sampan_testkit::Command::new("curl")
        .args(["-s", "--limit-rate", "1k", "-o", "/dev/null", "--unix-socket", it.socket().to_str().unwrap()])
        .args(["http://d/containers/c1/archive?path=/bin"])
        .start();
    wait_until("it is mounted", || {
        std::fs::read_dir(it.state().join("borrowed")).is_ok_and(|mut d| d.next().is_some())
    });
    it.docker(["start", "c1"]).ok();
    wait_until("it has written", || it.docker(["exec", "c1", "cat", "/new"]).code == 0);
    it.docker(["cp", "c1:/new", "-"]).ok().says("in");
    slow.signal(rustix::process::Signal::KILL);
    slow.wait();
    wait_until("the mount is gone", || {
        std::fs::read_dir(it.state().join("borrowed")).is_ok_and(|mut d| d.next().is_none())
    });
    it.docker(["exec", "c1", "cat", "/new"]).ok().is("in");
    it.docker(["rm", "-f", "c1"]).ok();
}
