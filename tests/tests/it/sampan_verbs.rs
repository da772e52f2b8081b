//! Our client: files that are copied, flags, daemons far away and not there, shells, and verbs that watch and change.

use std::path::Path;

use sampan_testkit::registry::{Tls, free_port};
use sampan_testkit::{Command, Instance, busybox, executable, wait_until};

use crate::docker::NEW_DOCKER;

crate::cases! {
    files_are_copied_as_docker_copies_them [NewDocker],
    flags_are_read_as_dockers,
    a_daemon_far_away_by_tls,
    nobody_home,
    shells_and_man_know_the_commands,
    stats_top_port_and_update,
    networks_by_our_client,
}

/// What a directory holds: paths, with the content of files and where links lead.
fn tree(root: &Path) -> Vec<String> {
    fn walk(root: &Path, at: &Path, out: &mut Vec<String>) {
        let mut entries: Vec<_> = std::fs::read_dir(at).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let about = std::fs::symlink_metadata(&path).unwrap();
            if about.is_symlink() {
                out.push(format!("{name} -> {}", std::fs::read_link(&path).unwrap().display()));
            } else if about.is_dir() {
                out.push(format!("{name}/"));
                walk(root, &path, out);
            } else {
                out.push(format!("{name}: {}", std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut out = Vec::new();
    walk(root, root, &mut out);
    out
}

fn files_are_copied_as_docker_copies_them() {
    let it = Instance::new();
    let script = "mkdir -p /src/sub /dst; echo f >/src/f; echo g >/src/sub/g; ln -s f /src/l; ln -s src /way; echo old >/dst/file; sleep 1000";
    it.sampan(["run", "-d", "--name", "c1", "busybox", "sh", "-c", script]).ok();
    wait_until("the files are there", || it.sampan(["exec", "c1", "test", "-e", "/dst/file"]).code == 0);
    let (ours, theirs) = (it.scratch().join("ours"), it.scratch().join("theirs"));
    for root in [&ours, &theirs] {
        std::fs::create_dir_all(root.join("here/there")).unwrap();
        std::fs::write(root.join("file"), "mine").unwrap();
        std::fs::write(root.join("here/x"), "x").unwrap();
        std::os::unix::fs::symlink("x", root.join("here/link")).unwrap();
    }
    // Out: each form of source and target.
    let outs: &[(&str, &str)] = &[
        ("c1:/src", "a"),
        ("c1:/src", "here"),
        ("c1:/src/.", "here/there"),
        ("c1:/src/f", "b"),
        ("c1:/src/f", "here"),
        ("c1:src/f", "file"),
        ("c1:/src/l", "link"),
        ("c1:/src", "file"),
        ("c1:/src/f", "none/"),
        ("c1:/src/f", "none/x"),
        ("c1:/nothing", "c"),
        ("c1:/src/.", "d"),
    ];
    for (from, to) in outs {
        let (o, t) = (ours.join(to), theirs.join(to));
        let slash = if to.ends_with('/') { "/" } else { "" };
        let (o, t) = (
            format!("{}{slash}", o.display().to_string().trim_end_matches('/')),
            format!("{}{slash}", t.display().to_string().trim_end_matches('/')),
        );
        let ours_did = it.sampan(["cp", from, &o]);
        let theirs_did = it.docker_at(NEW_DOCKER, ["cp", from, &t]).run();
        assert_eq!(ours_did.code, theirs_did.code, "{from} {to}: {ours_did} {theirs_did}");
        assert_eq!(tree(&ours), tree(&theirs), "{from} {to}");
    }
    // In, each into a directory of its own.
    it.sampan([
        "exec",
        "c1",
        "sh",
        "-c",
        "mkdir -p /ours/d /theirs/d; echo z >/ours/z; echo z >/theirs/z; ln -s d /ours/l; ln -s d /theirs/l",
    ])
    .ok();
    let ins: &[(&str, &str)] = &[
        ("here", "new"),
        ("here", "d"),
        ("here/.", "d"),
        ("file", "one"),
        ("file", "z"),
        ("file", "d"),
        ("file", "l"),
        ("here", "z"),
        ("file", "no/"),
        ("none", "x"),
        ("here/link", "k"),
    ];
    for (from, to) in ins {
        let from = theirs.join(from).display().to_string() + if from.ends_with("/.") { "/." } else { "" };
        let ours_did = it.sampan(["cp", &from, &format!("c1:/ours/{to}")]);
        let theirs_did = it.docker_at(NEW_DOCKER, ["cp", &from, &format!("c1:/theirs/{to}")]).run();
        assert_eq!(ours_did.code, theirs_did.code, "{from} {to}: {ours_did} {theirs_did}");
    }
    let inside = |root: &str| {
        it.sampan([
            "exec",
            "c1",
            "sh",
            "-c",
            &format!("cd {root}; find . | sort; find . -type f | sort | xargs cat"),
        ])
        .ok()
        .stdout
    };
    assert_eq!(inside("/ours"), inside("/theirs"));
    // As a tar, both ways.
    let tar = it.sampan(["cp", "c1:/src", "-"]).ok();
    assert!(tar.stdout.contains("src/sub/g"));
    let made =
        it.sampan_command(["cp", "-", "c1:/dst"]).input(std::fs::read(busybox::archive()).unwrap()).run();
    made.ok();
    it.sampan(["exec", "c1", "cat", "/dst/etc/passwd"]).ok().says("web");
    it.sampan(["cp", "c1:/a", "c1:/b"]).code(1).complains("between containers");
}

fn flags_are_read_as_dockers() {
    let it = Instance::new();
    let cidfile = it.scratch().join("cid");
    let cid = cidfile.to_str().unwrap();
    it.sampan(["run", "--rm=false", "--name=c1", "--cidfile", cid, "busybox", "echo", "--rm=true"])
        .ok()
        .is("--rm=true");
    assert_eq!(std::fs::read_to_string(&cidfile).unwrap(), it.container_ids()[0]);
    it.sampan(["run", "--rm", "--cidfile", cid, "busybox", "true"]).code(125).complains("delete");
    it.sampan(["rm", "-f=true", "c1"]).ok().is("c1");
    it.sampan(["rm", "-f", "nobody"]).ok();
    it.sampan(["run", "--rm", "busybox", "nothing"]).code(127);
    it.sampan(["run", "--rm", "busybox", "/etc"]).code(126);
    it.sampan(["run", "--no-such", "busybox"]).code(125);
    it.sampan(["run", "--pull", "never", "nothing:1"]).code(125).complains("sampan pull nothing:1");
    it.sampan(["sart", "x"]).code(1).complains("start");
    it.sampan(["rm"]).code(1).complains("CONTAINER");
    it.sampan(["run", "-i", "--rm", "busybox", "cat"]).ok();
    it.sampan_command(["run", "-i", "--rm", "busybox", "cat"]).input("through").run().ok().is("through");
    it.sampan(["create", "--name", "c2", "-i", "busybox", "cat"]).ok();
    it.sampan_command(["start", "-a", "-i", "c2"]).input("again").run().ok().is("again");
    // Signals reach the process.
    let script = "trap 'echo got it; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let running = it.sampan_command(["run", "--rm", "busybox", "sh", "-c", script]).start();
    running.wait_for_output("ready");
    running.signal(rustix::process::Signal::TERM);
    running.wait().code(5).says("got it");
}

fn a_daemon_far_away_by_tls() {
    let directory = tempfile::tempdir().unwrap();
    let ours = Tls::new(directory.path());
    let host = format!("tcp://127.0.0.1:{}", free_port());
    let _it = crate::serving::daemon_at(&host, &ours);
    let sampan = |flags: &[&str]| Command::new(executable("sampan")).args(["-H", &host]).args(flags);
    let tls = ours.client_flags();
    let tls: Vec<&str> = tls.iter().map(String::as_str).collect();
    let run = |line: &[&str]| sampan(&[&tls[..], line].concat()).run();
    run(&["run", "--rm", "busybox", "echo", "over TLS"]).ok().is("over TLS");
    let fed = sampan(&[&tls[..], &["run", "--rm", "-i", "busybox", "cat"]].concat()).input("both ways").run();
    fed.ok().is("both ways");
    // By Docker's variables and file names.
    let certs = directory.path().join("certs");
    std::fs::create_dir(&certs).unwrap();
    for (from, to) in
        [(&ours.authority, "ca.pem"), (&ours.client_certificate, "cert.pem"), (&ours.client_key, "key.pem")]
    {
        std::fs::copy(from, certs.join(to)).unwrap();
    }
    let by_variables = Command::new(executable("sampan"))
        .env("SAMPAN_HOST", "")
        .env("DOCKER_HOST", &host)
        .env("DOCKER_TLS_VERIFY", "1")
        .env("DOCKER_CERT_PATH", &certs)
        .args(["ps", "-q"]);
    by_variables.run().ok().is("");
    // Without a certificate, with the wrong authority, without TLS.
    sampan(&["--tls", "ps"]).env("DOCKER_CERT_PATH", "/nowhere").run().code(1);
    let other = Tls::new(&directory.path().join("other"));
    sampan(&["--tlsverify", "--tlscacert", other.authority.to_str().unwrap(), "ps"])
        .env("DOCKER_CERT_PATH", "/nowhere")
        .run()
        .code(1)
        .complains("certificate");
    sampan(&["ps"]).run().code(1);
    // A context goes along: the daemon is not said to see this machine's files.
    let context = directory.path().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), "FROM busybox\nCOPY f /f\n").unwrap();
    std::fs::write(context.join("f"), "sent").unwrap();
    run(&["build", "-q", "-t", "sent", context.to_str().unwrap()]).ok();
    run(&["run", "--rm", "sent", "cat", "/f"]).ok().is("sent");
}

fn nobody_home() {
    let sampan = |host: &str| Command::new(executable("sampan")).args(["-H", host, "ps"]).run().code(1);
    sampan("unix:///nobody/here").complains("is a daemon running?").complains("/nobody/here");
    sampan("tcp://127.0.0.1:1").complains("cannot reach a daemon at `tcp://127.0.0.1:1`");
    sampan("ssh://me@there").complains("forward the socket").complains("ssh -nNT -L");
    let run = Command::new(executable("sampan")).args(["-H", "unix:///nobody/here", "run", "x"]).run();
    run.code(125);
    let version = Command::new(executable("sampan")).args(["-H", "unix:///nobody/here", "version"]).run();
    version.code(1).says("Client:");
}

fn shells_and_man_know_the_commands() {
    let directory = tempfile::tempdir().unwrap();
    let sampan = |line: &[&str]| Command::new(executable("sampan")).args(line).run();
    let script = directory.path().join("sampan.bash");
    std::fs::write(&script, sampan(&["completion", "bash"]).ok().stdout).unwrap();
    let it = Instance::new();
    it.sampan(["create", "--name", "a-container", "busybox", "true"]).ok();
    let program = executable("sampan");
    let line = format!(
        "PATH={}:$PATH; . {}; complete() {{ COMP_WORDS=(\"$@\"); COMP_CWORD=$(($#-1)); COMPREPLY=(); \
         _sampan_and_names sampan \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; echo \"${{COMPREPLY[*]}}\"; }}; \
         complete sampan comp; complete sampan run --netw; complete sampan container rm a-c; complete sampan network in",
        program.parent().unwrap().display(),
        script.display()
    );
    let host = format!("unix://{}", it.socket().display());
    let said = Command::new("/bin/bash").env("SAMPAN_HOST", host).args(["-c", &line]).run().ok();
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert!(lines[0].contains("compose") && lines[1].contains("--network"), "{said}");
    assert!(lines[2].contains("a-container") && lines[3].contains("inspect"), "{said}");
    sampan(&["completion", "zsh"]).ok().says("#compdef sampan");
    sampan(&["completion", "fish"]).ok().says("complete -c sampan");
    let pages = directory.path().join("man1");
    sampan(&["man", pages.to_str().unwrap()]).ok();
    for (page, said) in [
        ("sampan.1", "compose"),
        ("sampan-run.1", "\\-\\-network"),
        ("sampan-compose-up.1", "\\-\\-abort\\-on\\-container\\-exit"),
    ] {
        let text = std::fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.contains(said), "{page}");
    }
}

fn stats_top_port_and_update() {
    let it = Instance::new();
    it.sampan(["run", "-d", "--name", "c1", "-m", "64m", "-p", "127.0.0.1::80", "busybox", "sleep", "1000"])
        .ok();
    let once = it.sampan(["stats", "--no-stream"]).ok();
    once.says("CONTAINER ID").says("MEM USAGE / LIMIT").says("64MiB").says("c1");
    it.sampan(["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}"]).ok().is("c1 1");
    // As it goes on: a sample is shown, and the end of the container ends nothing.
    let live = it.sampan_command(["stats", "--format", "{{.Name}} {{.PIDs}}", "c1"]).start();
    live.wait_for_output("c1 1");
    live.signal(rustix::process::Signal::INT);
    live.wait();
    it.sampan(["top", "c1"]).ok().says("sleep 1000");
    let port = it.sampan(["port", "c1", "80"]).ok();
    it.sampan(["port", "c1"]).ok().is(&format!("80/tcp -> {}", port.text()));
    it.sampan(["update", "--memory", "32m", "--memory-swap", "64m", "--restart", "on-failure:2", "c1"])
        .ok()
        .is("c1");
    assert_eq!(it.inspect("c1", "/HostConfig/Memory"), 32 << 20);
    assert_eq!(it.inspect("c1", "/HostConfig/RestartPolicy/MaximumRetryCount"), 2);
    it.sampan(["update", "c1"]).code(1).complains("one or more flags");
}

fn networks_by_our_client() {
    let it = Instance::new();
    let subnet = "10.201.77.0/24";
    it.sampan(["network", "create", "--subnet", subnet, "--label", "a=b", "n1"]).ok();
    it.sampan(["network", "ls", "-f", "label=a=b", "--format", "{{.Name}} {{.Driver}}"]).ok().is("n1 bridge");
    it.sampan([
        "run",
        "-d",
        "--name",
        "c1",
        "--network",
        "n1",
        "--ip",
        "10.201.77.9",
        "--network-alias",
        "web",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    it.sampan(["run", "--rm", "--network", "n1", "busybox", "ping", "-c1", "-W5", "web"])
        .ok()
        .says("10.201.77.9");
    it.sampan(["run", "-d", "--name", "c2", "busybox", "sleep", "1000"]).ok();
    it.sampan(["network", "connect", "--alias", "db", "n1", "c2"]).ok();
    it.sampan(["exec", "c1", "ping", "-c1", "-W5", "db"]).ok();
    it.sampan(["network", "disconnect", "n1", "c2"]).ok();
    it.sampan(["network", "rm", "n1"]).code(1).complains("active endpoints");
    it.sampan(["rm", "-f", "c1", "c2"]).ok();
    it.sampan(["network", "prune", "-f"]).ok().says("n1");
    it.sampan(["network", "rm", "n1"]).code(1).complains("n1");
    it.sampan(["network", "rm", "-f", "n1"]).ok();
}
