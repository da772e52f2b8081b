//! User namespaces: containers whose users are others on the host.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sampan_testkit::{Command, Instance, Mounted, wait_until};

use crate::mounts::post;

crate::cases! {
    ids_inside_are_others_outside [Docker],
    a_containers_network_is_its_own_to_change [Docker],
    files_belong_to_the_ids_inside [Docker],
    an_image_serves_mapped_containers_and_others [Docker],
    what_belongs_to_the_hosts_root_is_out_of_reach [Docker],
    what_needs_the_hosts_namespaces_is_refused [Docker, Curl],
    a_container_may_stay_with_the_hosts_users [Docker],
    a_daemon_that_maps_nobody_maps_who_asks,
    containers_find_each_other_and_are_published [Docker, Curl],
    whoever_joins_namespaces_joins_their_users [Docker],
    containers_outlive_a_killed_daemon [Docker],
    a_container_keeps_the_ids_that_it_began_with,
    an_image_with_a_user_of_its_own_is_built_and_run [Docker],
    a_daemon_without_ids_says_which_line_is_missing [Docker],
    a_daemon_whose_file_system_takes_no_mapping_says_so,
}

/// Two ranges: the users 0 to 999, and the others.
pub(crate) const IDS: &str = "somebody:5:5\nsampan:400000:64536\nsampan:300000:1000\n";
pub(crate) const CONFIG: &str =
    "userns-remap = 'default'\nsubuid = '{directory}/ids'\nsubgid = '{directory}/ids'\n";

pub(crate) fn remapping() -> Instance {
    Instance::builder().file("ids", IDS).config(CONFIG).start()
}

/// A file below `/proc/<pid>` of a running container's first process.
fn proc_of(it: &Instance, name: &str, file: &str) -> String {
    let pid = it.inspect(name, "/State/Pid");
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap()
}

/// Who the first process of a container is on the host.
fn uid_of(it: &Instance, name: &str) -> String {
    let status = proc_of(it, name, "status");
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    line.split_whitespace().next().unwrap().to_owned()
}

fn user_namespace(it: &Instance, name: &str) -> String {
    let pid = it.inspect(name, "/State/Pid");
    std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap().display().to_string()
}

pub(crate) fn owner(path: &Path) -> (u32, u32) {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

fn sleeper(it: &Instance, name: &str, more: &[&str]) {
    let arguments = [&["run", "-d", "--name", name], more, &["busybox", "sleep", "1000"]];
    it.docker(arguments.concat()).ok();
}

fn ids_inside_are_others_outside() {
    let it = remapping();
    sleeper(&it, "c1", &[]);
    sleeper(&it, "c2", &["--user", "1000:7"]);
    let map: Vec<String> = proc_of(&it, "c1", "uid_map").split_whitespace().map(str::to_owned).collect();
    assert_eq!(map.join(" "), "0 300000 1000 1000 400000 64536");
    assert_eq!((uid_of(&it, "c1").as_str(), uid_of(&it, "c2").as_str()), ("300000", "400000"));
    assert!(proc_of(&it, "c2", "status").contains("Gid:\t300007\t"));
    // Each has a user namespace of its own, and none the host's.
    let all = [user_namespace(&it, "c1"), user_namespace(&it, "c2")];
    let host = std::fs::read_link("/proc/self/ns/user").unwrap().display().to_string();
    assert!(all[0] != all[1] && !all.contains(&host));
    it.docker(["info", "--format", "{{.SecurityOptions}}"]).ok().says("name=userns");
    it.docker(["top", "c1"]).ok().says("300000");
    it.docker(["exec", "c1", "id", "-u"]).ok().is("0");
    it.docker(["exec", "-u", "65000", "c1", "id", "-u"]).ok().is("65000");
    it.docker(["exec", "-u", "70000", "c1", "id"]).code(126).says("has no user 70000");
    it.docker(["run", "--rm", "-u", "0:70000", "busybox", "id"]).code(125).complains("has no group 70000");
    // What every container has.
    let script = "echo out > /dev/stdout; echo null > /dev/null; test -w /dev/shm; touch /dev/shm/f; \
        echo '# x' >> /etc/hosts; cat /sys/class/net/lo/mtu; cat /proc/sys/net/ipv4/ping_group_range; \
        ls -ldn /dev/shm /etc/hosts /etc/resolv.conf /etc/hostname | awk '{print $3, $4}'";
    let expected = "out\n65536\n0\t999\n0 0\n0 0\n0 0\n0 0";
    it.docker(["run", "--rm", "busybox", "sh", "-c", script]).ok().is(expected);
    it.docker(["run", "--rm", "--ipc", "shareable", "busybox", "sh", "-c", script]).ok().is(expected);
    it.docker(["run", "--rm", "-u", "1000", "busybox", "sh", "-c", "echo out > /dev/stdout"]).ok().is("out");
    it.docker([
        "run",
        "--rm",
        "-t",
        "-u",
        "1000",
        "busybox",
        "sh",
        "-c",
        "test -t 0; echo x > /dev/console; stat -c %u /dev/console",
    ])
    .ok()
    .is("x\r\n1000");
    it.docker(["run", "--rm", "--init", "busybox", "cat", "/proc/1/comm"]).ok().is("docker-init");
    it.docker(["run", "--rm", "--uts", "host", "busybox", "id", "-u"]).ok().is("0");
    it.docker(["run", "--rm", "--device", "/dev/zero:/dev/x", "busybox", "head", "-c", "1", "/dev/x"]).ok();
    it.docker_command(["run", "--rm", "-i", "busybox", "cat"]).input("in").run().ok().is("in");
    it.docker([
        "run",
        "-d",
        "--name",
        "c3",
        "--health-cmd",
        "test $(id -u) = 0",
        "--health-interval",
        "100ms",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    wait_until("it is healthy", || it.inspect("c3", "/State/Health/Status") == "healthy");
}

fn a_containers_network_is_its_own_to_change() {
    let it = remapping();
    let script = "ip link set lo down && ip link set lo up && ip addr add 10.9.9.9/32 dev lo && echo done";
    it.docker(["run", "--rm", "--cap-add", "NET_ADMIN", "busybox", "sh", "-c", script]).ok().is("done");
    it.docker(["run", "--rm", "--network", "none", "--cap-add", "NET_ADMIN", "busybox", "sh", "-c", script])
        .ok()
        .is("done");
    it.docker([
        "run",
        "--rm",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "busybox",
        "cat",
        "/proc/sys/net/ipv4/ip_forward",
    ])
    .ok()
    .is("1");
    it.docker(["run", "--rm", "busybox", "ping", "-c", "1", &it.gateway()]).ok();
}

fn files_belong_to_the_ids_inside() {
    let it = remapping();
    let context = it.scratch().join("context");
    std::fs::create_dir_all(&context).unwrap();
    std::fs::write(
        context.join("Dockerfile"),
        "FROM busybox\nRUN mkdir /data && echo x > /data/f && chown 1000:7 /data/f && chown 5:6 /data && chmod 750 /data\n",
    )
    .unwrap();
    it.sampan(["build", "-t", "data", context.to_str().unwrap()]).ok();
    sleeper(&it, "c1", &[]);
    let list = |image: &str, mount: &str, script: &str| {
        let arguments = ["run", "--rm", "-v", mount, image, "sh", "-c", script];
        it.docker(arguments).ok().text().to_owned()
    };
    // A new volume, one that is filled, one without a name, one made by hand.
    assert_eq!(list("busybox", "v1:/new", "stat -c '%u %g' /new"), "0 0");
    assert_eq!(list("data", "v2:/data", "stat -c '%u %g %a' /data /data/f"), "5 6 750\n1000 7 644");
    assert_eq!(list("data", "/data", "stat -c '%u %g' /data/f"), "1000 7");
    it.docker(["volume", "create", "v3"]).ok();
    assert_eq!(list("busybox", "v3:/v", "touch /v/f; stat -c '%u %g' /v /v/f"), "0 0\n0 0");
    let volume = |name: &str| it.root().join("volumes").join(name).join("_data");
    assert_eq!(owner(&volume("v1")), (300_000, 300_000));
    assert_eq!(owner(&volume("v2")), (300_005, 300_006));
    assert_eq!(owner(&volume("v2").join("f")), (400_000, 300_007));
    // Temporary file systems, and an image as a mount.
    it.docker(["run", "--rm", "--tmpfs", "/t", "busybox", "stat", "-c", "%u", "/t"]).ok().is("0");
    let body = r#"{"Image":"busybox","Cmd":["stat","-c","%u %g","/i/data/f"],"HostConfig":{"Mounts":[{"Type":"image","Source":"data","Target":"/i"}]}}"#;
    post(&it, "/containers/create?name=image", body).ok();
    it.docker(["start", "-a", "image"]).ok().is("1000 7");
    // Binds are as they are.
    let bound = it.scratch().join("bound");
    std::fs::create_dir(&bound).unwrap();
    std::os::unix::fs::chown(&bound, Some(300_003), Some(300_004)).unwrap();
    std::fs::write(bound.join("root"), "").unwrap();
    let mount = format!("{}:/b", bound.display());
    assert_eq!(list("busybox", &mount, "stat -c '%u %g' /b /b/root"), "3 4\n65534 65534");
    // In, out, what has changed, and what becomes of it.
    let given = it.scratch().join("given");
    std::fs::write(&given, "given").unwrap();
    std::os::unix::fs::chown(&given, Some(7), Some(8)).unwrap();
    it.docker(["exec", "c1", "sh", "-c", "touch /own; chown 1000:9 /own; rm /bin/zcat"]).ok();
    it.docker(["cp", "-a", given.to_str().unwrap(), "c1:/given"]).ok();
    it.docker(["exec", "c1", "stat", "-c", "%u %g", "/given", "/own"]).ok().is("7 8\n1000 9");
    let changes = it.docker(["diff", "c1"]).ok().text().to_owned();
    let mut changes: Vec<&str> = changes.lines().collect();
    changes.sort_unstable();
    assert_eq!(changes, ["A /given", "A /own", "C /bin", "D /bin/zcat"]);
    Command::new("sh")
        .args(["-c", "docker cp c1:/own - | tar -tvnf -"])
        .env("DOCKER_HOST", format!("unix://{}", it.socket().display()))
        .run()
        .ok()
        .says(" 1000/9 ");
    let tar = it.scratch().join("c1.tar");
    for stopped in [false, true] {
        if stopped {
            it.docker(["stop", "-t", "0", "c1"]).ok();
        }
        it.docker(["export", "-o", tar.to_str().unwrap(), "c1"]).ok();
        let listed = Command::new("tar").args(["-tvnf", tar.to_str().unwrap(), "own", "given"]).run().ok();
        assert!(listed.stdout.contains("1000/9") && listed.stdout.contains("7/8"), "{listed}");
    }
    it.docker(["cp", given.to_str().unwrap(), "c1:/later"]).ok();
    it.docker(["commit", "c1", "committed"]).ok();
    let script = "stat -c '%u %g' /own /given /etc; test -e /bin/zcat || echo gone";
    for mode in ["", "host"] {
        it.docker(["run", "--rm", "--userns", mode, "committed", "sh", "-c", script])
            .ok()
            .is("1000 9\n7 8\n0 0\ngone");
    }
    it.docker(["start", "c1"]).ok();
    it.docker(["exec", "c1", "stat", "-c", "%u %g", "/own", "/given"]).ok().is("1000 9\n7 8");
    // Who is nobody inside can't own anything there.
    let archive = Command::new("tar").args([
        "--owner=70000",
        "--numeric-owner",
        "-cf",
        tar.to_str().unwrap(),
        "-C",
        it.scratch().to_str().unwrap(),
        "given",
    ]);
    archive.run().ok();
    let bytes = std::fs::read(&tar).unwrap();
    it.docker_command(["cp", "-", "c1:/"])
        .input(bytes)
        .run()
        .code(1)
        .complains("container ID 70000 cannot be mapped to a host ID");
}

fn an_image_serves_mapped_containers_and_others() {
    let it = remapping();
    sleeper(&it, "mapped", &[]);
    sleeper(&it, "host", &["--userns", "host"]);
    for name in ["mapped", "host"] {
        it.docker([
            "exec",
            name,
            "sh",
            "-c",
            "stat -c '%u %g' /bin/busybox; touch /bin/new; stat -c %u /bin/new",
        ])
        .ok()
        .is("0 0\n0");
    }
    let upper = |name: &str| it.inspect(name, "/GraphDriver/Data/UpperDir").as_str().unwrap().to_owned();
    assert_eq!(owner(&Path::new(&upper("mapped")).join("bin/new")), (300_000, 300_000));
    assert_eq!(owner(&Path::new(&upper("host")).join("bin/new")), (0, 0));
}

fn what_belongs_to_the_hosts_root_is_out_of_reach() {
    let it = remapping();
    let bound = it.scratch().join("bound");
    std::fs::create_dir(&bound).unwrap();
    std::fs::write(bound.join("secret"), "secret").unwrap();
    std::fs::set_permissions(bound.join("secret"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    let mount = format!("{}:/b", bound.display());
    let all = ["--cap-add", "ALL", "--security-opt", "seccomp=unconfined"];
    let attempt = |script: &str| {
        let arguments = [&["run", "--rm", "-v", &mount][..], &all, &["busybox", "sh", "-c", script]];
        it.docker(arguments.concat())
    };
    attempt("cat /b/secret").code(1).complains("Permission denied");
    attempt("chown 0:0 /b/secret").code(1).complains("not permitted");
    attempt("touch /b/new").code(1).complains("Permission denied");
    attempt("mknod /x b 8 0").code(1).complains("not permitted");
    attempt("echo 1 > /proc/sys/kernel/sysrq").code(1);
    attempt("mkdir /m && mount -t tmpfs t /m && touch /m/f && hostname x").code(0);
    assert_eq!(owner(&bound.join("secret")), (0, 0));
    // An id of an image that is one of the host's for a container does not become that container's root.
    let (tree, tar) = (it.scratch().join("tree"), it.scratch().join("tree.tar"));
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("f"), "").unwrap();
    std::os::unix::fs::chown(tree.join("f"), Some(300_000), Some(300_000)).unwrap();
    Command::new("tar").args(["-cf", tar.to_str().unwrap(), "-C", tree.to_str().unwrap(), "."]).run().ok();
    it.docker(["import", tar.to_str().unwrap(), "strange"]).ok();
    let body = r#"{"Image":"busybox","Cmd":["stat","-c","%u %g","/i/f"],"HostConfig":{"Mounts":[{"Type":"image","Source":"strange","Target":"/i"}]}}"#;
    post(&it, "/containers/create?name=image", body).ok();
    it.docker(["start", "-a", "image"]).ok().is("65534 65534");
    // A program of root's that a container leaves in a volume is not root's on the host.
    it.docker([
        "run",
        "--rm",
        "-v",
        "vol:/v",
        "busybox",
        "sh",
        "-c",
        "cp /bin/busybox /v/; chmod u+s /v/busybox",
    ])
    .ok();
    let program = std::fs::metadata(it.root().join("volumes/vol/_data/busybox")).unwrap();
    assert_eq!((program.uid(), program.mode() & 0o4000), (300_000, 0o4000));
}

fn what_needs_the_hosts_namespaces_is_refused() {
    let it = remapping();
    // Byte for byte what Docker 20.10 says.
    let privileged = "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode";
    let network = "cannot share the host's network namespace when user namespaces are enabled";
    let pid = "cannot share the host PID namespace when user namespaces are enabled";
    let ipc = "cannot share the host IPC namespace when user namespaces are enabled";
    for (asked, said) in [
        (r#""Privileged":true,"NetworkMode":"host","PidMode":"host""#, privileged),
        (r#""NetworkMode":"host","PidMode":"host""#, network),
        (r#""PidMode":"host""#, pid),
        (r#""IpcMode":"host""#, ipc),
        (r#""UsernsMode":"private","Privileged":true"#, privileged),
        (r#""UsernsMode":"nonsense""#, "invalid user namespace mode: nonsense"),
    ] {
        let body = format!(r#"{{"Image":"busybox","Cmd":["true"],"HostConfig":{{{asked}}}}}"#);
        let answer = post(&it, "/containers/create", &body).ok();
        assert_eq!(answer.json(), serde_json::json!({ "message": said }), "{asked}");
        let body = body.replace(r#""HostConfig":{"#, r#""HostConfig":{"UsernsMode":"host","#);
        if !asked.contains("UsernsMode") {
            assert!(post(&it, "/containers/create", &body).ok().json()["Id"].is_string(), "{asked}");
        }
    }
    it.docker(["run", "--rm", "--privileged", "busybox", "true"]).code(125).complains(privileged);
}

fn a_container_may_stay_with_the_hosts_users() {
    let it = remapping();
    sleeper(&it, "c1", &["--userns", "host"]);
    assert_eq!(uid_of(&it, "c1"), "0");
    let host = std::fs::read_link("/proc/self/ns/user").unwrap().display().to_string();
    assert_eq!(user_namespace(&it, "c1"), host);
    assert_eq!(it.inspect("c1", "/HostConfig/UsernsMode"), "host");
    let all = ["--userns=host", "--privileged", "--network=host", "--pid=host", "--ipc=host"];
    it.docker(["run", "--rm"].iter().chain(&all).chain(&["busybox", "id", "-u"])).ok().is("0");
}

fn a_daemon_that_maps_nobody_maps_who_asks() {
    let config = CONFIG.lines().skip(1).collect::<Vec<_>>().join("\n");
    let it = Instance::builder().file("ids", IDS).config(&config).start();
    let run = |name: &str, mode: &str| {
        it.sampan([
            "run",
            "-d",
            "--name",
            name,
            "--userns",
            mode,
            "-v",
            "shared:/v",
            "busybox",
            "sleep",
            "1000",
        ])
    };
    run("c1", "private").ok();
    run("c2", "").ok();
    assert_eq!((uid_of(&it, "c1").as_str(), uid_of(&it, "c2").as_str()), ("300000", "0"));
    assert_eq!(it.inspect("c1", "/HostConfig/UsernsMode"), "private");
    // The volume was new to the first.
    it.sampan(["exec", "c1", "stat", "-c", "%u", "/v"]).ok().is("0");
    it.sampan(["exec", "c2", "stat", "-c", "%u", "/v"]).ok().is("300000");
    let info = it.sampan(["info", "--format", "{{.SecurityOptions}}"]).ok();
    assert!(!info.stdout.contains("userns"), "{info}");
    run("c3", "nonsense").code(125).complains("invalid user namespace mode: nonsense");
    it.sampan(["run", "--rm", "--userns=private", "--privileged", "busybox", "true"])
        .code(125)
        .complains("incompatible with user namespaces");
}

fn containers_find_each_other_and_are_published() {
    let it = remapping();
    it.docker(["network", "create", "n1"]).ok();
    let script = "mkdir /www; echo hello >/www/index.html; exec httpd -f -p 80 -h /www";
    it.docker(["run", "-d", "--name", "web", "--network", "n1", "-p", "80", "busybox", "sh", "-c", script])
        .ok();
    let port = it.inspect("web", "/NetworkSettings/Ports/80~1tcp/0/HostPort");
    let url = format!("http://127.0.0.1:{}/", port.as_str().unwrap());
    let curl = || Command::new("curl").args(["-sS", "--noproxy", "*", "--max-time", "10", &url]).run();
    wait_until("the server answers", || curl().stdout.trim() == "hello");
    it.docker(["run", "--rm", "--network", "n1", "busybox", "wget", "-qO-", "http://web/"]).ok().is("hello");
    it.docker(["run", "--rm", "--userns=host", "--network", "n1", "busybox", "wget", "-qO-", "http://web/"])
        .ok()
        .is("hello");
    // One that comes later, and goes.
    sleeper(&it, "late", &[]);
    // (Busybox may crash when it finds no address.)
    let early = it.docker(["exec", "late", "wget", "-T", "2", "-qO-", "http://web/"]);
    assert_ne!(early.code, 0, "{early}");
    it.docker(["network", "connect", "n1", "late"]).ok();
    it.docker(["exec", "late", "wget", "-qO-", "http://web/"]).ok().is("hello");
    it.docker(["network", "disconnect", "n1", "late"]).ok();
    it.docker(["exec", "late", "ip", "-o", "link"]).ok().says("eth0");
    it.docker(["run", "--rm", "--network", "none", "busybox", "ls", "/sys/class/net"]).ok().is("lo");
    // The next container of the same network and port.
    it.docker(["restart", "-t", "0", "web"]).ok();
    it.docker([
        "run",
        "--rm",
        "--network",
        "n1",
        "busybox",
        "sh",
        "-c",
        "until wget -qO- http://web/; do :; done",
    ])
    .ok()
    .is("hello");
}

fn whoever_joins_namespaces_joins_their_users() {
    let it = remapping();
    sleeper(&it, "c1", &["--ipc", "shareable"]);
    sleeper(&it, "host", &["--userns", "host"]);
    for joins in ["--network", "--pid", "--ipc"] {
        let target = format!("{joins}=container:c1");
        sleeper(&it, "c2", &[&target]);
        assert_eq!(user_namespace(&it, "c1"), user_namespace(&it, "c2"), "{joins}");
        // It is at home there, and so is who comes later.
        it.docker([
            "exec",
            "c2",
            "sh",
            "-c",
            "id -u; cat /sys/class/net/lo/mtu; touch /dev/shm/f && echo x > /dev/stdout",
        ])
        .ok()
        .is("0\n65536\nx");
        it.docker(["rm", "-f", "c2"]).ok();
        // It ends as others do.
        it.docker(["run", "--rm", &target, "busybox", "sh", "-c", "exit 3"]).code(3);
        // From the host's namespace one may come in, but not the other way.
        it.docker(["run", "--rm", "--userns=host", &target, "busybox", "id", "-u"]).ok().is("0");
        let target = format!("{joins}=container:host");
        if joins != "--ipc" {
            it.docker(["run", "--rm", &target, "busybox", "true"])
                .code(125)
                .complains("which is in the host's user namespace");
        }
    }
    sleeper(&it, "c3", &[]);
    it.docker(["run", "--rm", "--network=container:c1", "--pid=container:c3", "busybox", "true"])
        .code(125)
        .complains("cannot share namespaces of containers that are in different user namespaces");
}

fn containers_outlive_a_killed_daemon() {
    let it = remapping();
    let script = "echo up; n=0; while read l; do echo got $l; done; exec sleep 1000";
    it.docker(["run", "-d", "--name", "c1", "-p", "80", "busybox", "sh", "-c", script]).ok();
    sleeper(&it, "c2", &["--network", "container:c1"]);
    sleeper(&it, "c3", &["--rm"]);
    sleeper(&it, "c4", &["--restart", "always"]);
    let (pid, before) = (it.inspect("c1", "/State/Pid"), user_namespace(&it, "c1"));
    it.kill_9();
    it.start();
    assert_eq!((it.inspect("c1", "/State/Pid"), user_namespace(&it, "c1")), (pid, before));
    it.docker(["exec", "c1", "id", "-u"]).ok().is("0");
    it.docker(["logs", "c1"]).ok().says("up");
    it.docker(["exec", "c2", "cat", "/sys/class/net/eth0/operstate"]).ok().is("up");
    it.docker(["exec", "c1", "touch", "/f"]).ok();
    let pids =
        ["c3", "c4"].map(|name| i32::try_from(it.inspect(name, "/State/Pid").as_i64().unwrap()).unwrap());
    // What ends while nobody looks, and what is to run again.
    it.kill_9();
    for pid in pids {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    it.start();
    // What waits for its restart is running, too, as Docker tells it.
    wait_until("it runs again", || it.inspect("c4", "/State/Status") == "running");
    it.docker(["exec", "c4", "id", "-u"]).ok().is("0");
    it.docker(["inspect", "--type", "container", "c3"]).code(1);
    it.docker(["restart", "-t", "0", "c1"]).ok();
    it.docker(["exec", "c1", "stat", "-c", "%u", "/f"]).ok().is("0");
    assert_eq!(uid_of(&it, "c1"), "300000");
    it.docker([
        "run",
        "--name",
        "c5",
        "--restart",
        "on-failure:2",
        "busybox",
        "sh",
        "-c",
        "echo x >> /n; wc -l < /n; exit 1",
    ])
    .code(1);
    wait_until("it has given up", || {
        it.inspect("c5", "/RestartCount") == 2 && it.inspect("c5", "/State/Status") == "exited"
    });
    it.docker(["logs", "c5"]).ok().is("1\n2\n3");
}

fn a_container_keeps_the_ids_that_it_began_with() {
    let it = remapping();
    it.sampan(["run", "--name", "c1", "busybox", "sh", "-c", "touch /f; stat -c %u /f"]).ok().is("0");
    it.sampan(["run", "--name", "c2", "--userns=host", "busybox", "true"]).ok();
    it.terminate();
    it.write_config("");
    it.start();
    it.sampan(["start", "-a", "c1"]).ok().is("0");
    let upper = it.inspect("c1", "/GraphDriver/Data/UpperDir").as_str().unwrap().to_owned();
    assert_eq!(owner(&Path::new(&upper).join("f")), (300_000, 300_000));
    it.sampan(["run", "-d", "--name", "c3", "busybox", "sleep", "1000"]).ok();
    assert_eq!(uid_of(&it, "c3"), "0");
    it.sampan(["rm", "-f", "c3"]).ok();
    it.sampan(["commit", "c1", "kept"]).ok();
    it.sampan(["run", "--rm", "kept", "stat", "-c", "%u", "/f"]).ok().is("0");
}

fn an_image_with_a_user_of_its_own_is_built_and_run() {
    let it = remapping();
    let context = it.scratch().join("context");
    std::fs::create_dir_all(&context).unwrap();
    std::fs::write(context.join("file"), "x").unwrap();
    std::fs::write(
        context.join("Dockerfile"),
        "FROM busybox\nRUN mkdir /own && chown 1000:1000 /own\nCOPY --chown=1000:1000 file /own/file\nCOPY file /file\n\
         RUN stat -c '%u %g' /file /own/file\nUSER 1000\nWORKDIR /own\nRUN touch made\nCMD [\"sleep\", \"1000\"]\n",
    )
    .unwrap();
    it.docker(["build", "-t", "own", context.to_str().unwrap()]).ok().says("0 0\n1000 1000");
    it.docker(["run", "-d", "--name", "c1", "own"]).ok();
    assert_eq!(uid_of(&it, "c1"), "400000");
    let script = "id -u; stat -c %u /file file made; touch new; stat -c %u new; echo x > /dev/stdout";
    it.docker(["exec", "c1", "sh", "-c", script]).ok().is("1000\n0\n1000\n1000\n1000\nx");
    it.docker(["run", "--rm", "--userns=host", "own", "sh", "-c", script])
        .ok()
        .is("1000\n0\n1000\n1000\n1000\nx");
}

fn a_daemon_whose_file_system_takes_no_mapping_says_so() {
    let it = remapping();
    it.terminate();
    let mounted = Mounted::new("ramfs", it.root(), "");
    let said = "cannot start with `userns-remap`; leave it out, or mend what follows: the file system of";
    it.daemon_command().run().code(1).complains(said).complains("can't be mapped");
    drop(mounted);
    it.start();
}

fn a_daemon_without_ids_says_which_line_is_missing() {
    let it = Instance::new();
    it.terminate();
    std::fs::write(it.scratch().join("ids"), "somebody:100000:65536\n").unwrap();
    let ids = it.scratch().join("ids");
    let files = format!("subuid = '{0}'\nsubgid = '{0}'\n", ids.display());
    for (remap, said) in [
        (
            "default",
            format!(
                "the user `sampan` has no subordinate ids to map containers to: add the line `sampan:165536:65536` to `{}`",
                ids.display()
            ),
        ),
        ("somebody:nobody-here", "the group `nobody-here` has no subordinate ids".to_owned()),
    ] {
        it.write_config(&format!("userns-remap = '{remap}'\n{files}"));
        it.daemon_command().run().code(1).complains(&said);
    }
    // A daemon that maps nobody says it to who asks.
    it.write_config(&files);
    it.start();
    it.sampan(["run", "--rm", "--userns=private", "busybox", "true"])
        .code(125)
        .complains("add the line `sampan:165536:65536`");
    it.docker(["run", "--rm", "busybox", "true"]).ok();
}
