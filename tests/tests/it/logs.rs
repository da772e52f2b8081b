//! Log drivers through docker's client: what is kept, rotated, compressed, sent on, and refused.

use std::io::Read;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::PathBuf;

use sampan_testkit::{Instance, wait_until};

crate::cases! {
    json_files_rotate_and_are_read_across,
    local_logs_are_compressed_and_read_across,
    attributes_stand_beside_lines,
    syslog_gets_every_line_and_logs_still_answers,
    syslog_over_tcp_and_a_server_that_goes_away,
    a_service_that_takes_nothing_holds_nobody_up,
    the_daemons_default_driver_and_options_are_taken_over,
    no_line_is_lost_while_the_daemon_is_killed_and_started,
    drivers_and_options_that_make_no_sense_are_refused,
}

fn directory(it: &Instance, name: &str) -> PathBuf {
    it.root().join("containers").join(text(it, name, "/Id"))
}

fn text(it: &Instance, name: &str, pointer: &str) -> String {
    it.inspect(name, pointer).as_str().unwrap().to_owned()
}

fn files_in(directory: PathBuf) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.contains("log"));
    names.sort();
    names
}

/// Numbers from 1 to 2000, a line each.
const COUNT: &str = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line $i; done";

fn json_files_rotate_and_are_read_across() {
    let it = Instance::new();
    it.docker([
        "run",
        "--name",
        "c1",
        "--log-opt",
        "max-size=20k",
        "--log-opt",
        "max-file=3",
        "busybox",
        "sh",
        "-c",
        COUNT,
    ])
    .ok();
    let id = text(&it, "c1", "/Id");
    let name = |n: &str| format!("{id}-json.log{n}");
    assert_eq!(files_in(directory(&it, "c1")), [name(""), name(".1"), name(".2")]);
    let all = it.docker(["logs", "c1"]).ok().stdout;
    let lines: Vec<&str> = all.lines().collect();
    assert!(lines.len() > 300 && lines.len() < 2000, "{}", lines.len());
    assert_eq!(lines.last(), Some(&"line 2000"));
    let first: usize = lines[0].rsplit(' ').next().unwrap().parse().unwrap();
    assert_eq!(lines.len(), 2000 - first + 1, "no line is missing in between");
    let tail = it.docker(["logs", "--tail", "300", "c1"]).ok().stdout;
    assert_eq!(tail.lines().collect::<Vec<_>>(), lines[lines.len() - 300..]);
}

fn local_logs_are_compressed_and_read_across() {
    let it = Instance::new();
    let options = ["--log-driver", "local", "--log-opt", "max-size=10k", "--log-opt", "max-file=30"];
    it.docker([&["run", "--name", "c1"][..], &options, &["busybox", "sh", "-c", COUNT]].concat()).ok();
    let files = files_in(directory(&it, "c1").join("local-logs"));
    assert!(files.iter().any(|name| name.ends_with(".gz")), "{files:?}");
    let expected: Vec<String> = (1..=2000).map(|n| format!("line {n}")).collect();
    assert_eq!(it.docker(["logs", "c1"]).ok().stdout.lines().collect::<Vec<_>>(), expected);
    let tail = it.docker(["logs", "--tail", "1500", "c1"]).ok().stdout;
    assert_eq!(tail.lines().collect::<Vec<_>>(), expected[500..]);
    assert_eq!(it.inspect("c1", "/LogPath"), "");
    // A follower goes on to the next run.
    it.docker([
        "run",
        "-d",
        "--name",
        "c2",
        "--log-driver",
        "local",
        "busybox",
        "sh",
        "-c",
        "printf one; read x",
    ])
    .ok();
    wait_until("the log has its line", || it.docker(["logs", "c2"]).ok().stdout == "one");
}

fn attributes_stand_beside_lines() {
    let it = Instance::new();
    let options = ["--log-opt", "labels=app", "--log-opt", "env-regex=^E", "--log-opt", "tag={{.Name}}"];
    let more = ["--label", "app=a b", "--label", "other=1", "-e", "E1=x", "busybox", "echo", "hi"];
    it.docker([&["run", "--name", "c1"][..], &options, &more].concat()).ok();
    assert_eq!(it.docker(["logs", "--details", "c1"]).ok().stdout, "E1=x,app=a+b,tag=c1 hi\n");
    assert_eq!(it.docker(["logs", "c1"]).ok().stdout, "hi\n");
    let file = std::fs::read_to_string(text(&it, "c1", "/LogPath")).unwrap();
    let line: serde_json::Value = serde_json::from_str(&file).unwrap();
    assert_eq!(line["attrs"], serde_json::json!({"E1": "x", "app": "a b", "tag": "c1"}));
}

fn syslog_gets_every_line_and_logs_still_answers() {
    let it = Instance::new();
    let socket = it.scratch().join("log");
    let server = UnixDatagram::bind(&socket).unwrap();
    let address = format!("syslog-address=unixgram://{}", socket.display());
    let options = [
        "--log-driver",
        "syslog",
        "--log-opt",
        &address,
        "--log-opt",
        "syslog-format=rfc5424",
        "--log-opt",
        "tag=t/{{.Name}}",
        "--log-opt",
        "syslog-facility=local0",
    ];
    it.docker(
        [&["run", "--name", "c1"][..], &options, &["busybox", "sh", "-c", "echo out; echo err >&2"]].concat(),
    )
    .ok();
    let mut messages = Vec::new();
    for _ in 0..2 {
        let mut buffer = [0u8; 1000];
        let n = server.recv(&mut buffer).unwrap();
        messages.push(String::from_utf8(buffer[..n].to_vec()).unwrap());
    }
    messages.sort();
    // local0 is 16; informational 6, error 3.
    assert!(messages[0].starts_with("<131>1 ") && messages[0].ends_with(" t/c1 - err"), "{messages:?}");
    assert!(messages[1].starts_with("<134>1 ") && messages[1].ends_with(" t/c1 - out"), "{messages:?}");
    let logs = it.docker(["logs", "c1"]).ok();
    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("out\n", "err\n"));
}

fn syslog_over_tcp_and_a_server_that_goes_away() {
    let it = Instance::new();
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("syslog-address=tcp://{}", server.local_addr().unwrap());
    let run = |name: &str, script: &str| {
        let options = ["--log-driver", "syslog", "--log-opt", &address];
        it.docker([&["run", "--name", name][..], &options, &["busybox", "sh", "-c", script]].concat())
    };
    run("c1", "echo hello").ok();
    let mut text = String::new();
    server.accept().unwrap().0.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("<30>") && text.ends_with("]: hello\n"), "{text}");
    drop(server);
    let refused = run("c2", "echo hello");
    assert!(refused.stderr.contains("failed to initialize logging driver"), "{refused}");
    assert_eq!(refused.code, 125);
}

fn a_service_that_takes_nothing_holds_nobody_up() {
    let it = Instance::new();
    let socket = it.scratch().join("log");
    let server = UnixListener::bind(&socket).unwrap();
    let address = format!("syslog-address=unix://{}", socket.display());
    let script = "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo $i 0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789; done";
    it.docker([
        "run",
        "--name",
        "c1",
        "--log-driver",
        "syslog",
        "--log-opt",
        &address,
        "busybox",
        "sh",
        "-c",
        script,
    ])
    .ok();
    drop(server);
    let logs = it.docker(["logs", "c1"]).ok().stdout;
    assert_eq!(logs.lines().count(), 4000);
}

fn the_daemons_default_driver_and_options_are_taken_over() {
    let it = Instance::builder().config("[log]\ndriver = 'local'\noptions = { max-size = '1m' }").start();
    it.docker(["create", "--name", "c1", "busybox", "true"]).ok();
    it.docker(["create", "--name", "c2", "--log-driver", "json-file", "busybox", "true"]).ok();
    assert_eq!(it.inspect("c1", "/HostConfig/LogConfig/Type"), "local");
    assert_eq!(it.inspect("c1", "/HostConfig/LogConfig/Config/max-size"), "1m");
    assert_eq!(it.inspect("c2", "/HostConfig/LogConfig/Type"), "json-file");
    assert_eq!(it.docker(["info", "-f", "{{.LoggingDriver}}"]).ok().stdout.trim(), "local");
}

fn no_line_is_lost_while_the_daemon_is_killed_and_started() {
    let it = Instance::new();
    for driver in ["json-file", "local"] {
        it.docker(["run", "-d", "--name", driver, "--log-driver", driver, "busybox", "sh", "-c", COUNT]).ok();
    }
    for _ in 0..3 {
        it.kill_9();
        it.start();
    }
    let expected: Vec<String> = (1..=2000).map(|n| format!("line {n}")).collect();
    for driver in ["json-file", "local"] {
        it.docker(["wait", driver]).ok().is("0");
        assert_eq!(it.docker(["logs", driver]).ok().stdout.lines().collect::<Vec<_>>(), expected, "{driver}");
    }
}

fn drivers_and_options_that_make_no_sense_are_refused() {
    let it = Instance::new();
    for (options, expected) in [
        (&["--log-driver", "foo"][..], "plugin \"foo\" not found"),
        (&["--log-opt", "foo=1"], "unknown log opt 'foo' for json-file log driver"),
        (&["--log-opt", "max-size=xx"], "failed to initialize logging driver: invalid size: 'xx'"),
        (&["--log-driver", "syslog", "--log-opt", "syslog-facility=zz"], "invalid syslog facility"),
        (&["--log-opt", "compress=true"], "compress cannot be true when max-file is less than 2"),
        (&["--log-opt", "mode=foo"], "logging mode not supported: foo"),
    ] {
        let output = it.docker([&["run", "--rm"][..], options, &["busybox", "true"]].concat());
        assert_eq!(output.code, 125, "{options:?}");
        assert!(output.stderr.contains(expected), "{options:?}: {}", output.stderr);
    }
    it.docker(["run", "--name", "c1", "--log-driver", "none", "busybox", "echo", "hi"]).ok().is("hi");
    let logs = it.docker(["logs", "c1"]);
    assert!(logs.stderr.contains("does not support reading"), "{logs}");
}
