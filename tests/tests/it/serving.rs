//! How clients reach the daemon, and how it lives with systemd: TLS, sockets that are passed, groups, reload, metrics.

use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use sampan_testkit::registry::{Tls, free_port};
use sampan_testkit::{Command, DEADLINE, Instance, executable, wait_until};

crate::cases! {
    tcp_takes_only_clients_with_a_certificate [Docker],
    plain_tcp_must_be_asked_for [Docker],
    a_group_may_be_let_in,
    systemd_passes_sockets_and_is_told [Docker],
    a_reload_takes_over_what_it_can_and_nothing_that_makes_no_sense [Docker],
    metrics_count_what_happens [Curl],
    versions_are_negotiated [Curl],
    there_is_no_swarm [Docker, Curl],
    a_web_socket_carries_an_attached_stream,
}

/// A daemon that also listens at `host`.
pub(crate) fn daemon_at(host: &str, tls: &Tls) -> Instance {
    let mut arguments = ["-H", "unix://{socket}", "-H", host].map(str::to_owned).to_vec();
    arguments.extend(tls.server_flags());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Instance::builder().arguments(&arguments).start()
}

fn tcp_takes_only_clients_with_a_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let ours = Tls::new(directory.path());
    let others = Tls::new(&{
        let path = directory.path().join("others");
        std::fs::create_dir(&path).unwrap();
        path
    });
    let host = format!("tcp://127.0.0.1:{}", free_port());
    let path = |p: &std::path::Path| p.to_str().unwrap().to_owned();
    let it = daemon_at(&host, &ours);
    let client = |client: &Tls| {
        // Whoever answers is asked for the certificate of ours.
        let client = Tls { authority: ours.authority.clone(), ..client.clone() };
        Command::new("/usr/bin/docker")
            .env("DOCKER_CONFIG", path(directory.path()))
            .args(["-H", &host])
            .args(client.client_flags())
            .args(["run", "--rm", "busybox", "echo", "over TLS"])
    };
    client(&ours).run().ok().is("over TLS");
    let refused = client(&others).run();
    assert_ne!(refused.code, 0, "{refused}");
    let plain = Command::new("/usr/bin/docker").args(["-H", &host, "ps"]).run();
    assert_ne!(plain.code, 0, "{plain}");
    assert_eq!(it.container_ids(), Vec::<String>::new());
}

fn plain_tcp_must_be_asked_for() {
    let port = free_port();
    let host = format!("tcp://127.0.0.1:{port}");
    let it = Instance::builder().arguments(&["-H", "unix://{socket}", "-H", &host, "--tls=false"]).start();
    Command::new("/usr/bin/docker")
        .args(["-H", &host, "run", "--rm", "busybox", "echo", "hi"])
        .run()
        .ok()
        .is("hi");
    let arguments: Vec<_> = it.daemon_arguments().into_iter().filter(|word| word != "--tls=false").collect();
    let refused = Command::new(executable("sampand")).args(arguments).run();
    assert_eq!(refused.code, 1, "{refused}");
    refused.complains("--tlscacert");
}

fn a_group_may_be_let_in() {
    let it = Instance::builder().arguments(&["-G", "12345"]).start();
    let about = std::fs::metadata(it.socket()).unwrap();
    assert_eq!((about.gid(), about.permissions().mode() & 0o777), (12345, 0o660));
    let alone = Instance::new();
    let about = std::fs::metadata(alone.socket()).unwrap();
    assert_eq!((about.gid(), about.permissions().mode() & 0o777), (0, 0o600));
}

fn systemd_passes_sockets_and_is_told() {
    let it = Instance::new();
    it.sampan(["run", "-d", "--name", "c1", "busybox", "sleep", "1000"]).ok();
    it.terminate();
    // As systemd does: the socket is there before the daemon, and a client that comes early waits.
    let passed = it.scratch().join("passed.sock");
    let listener = UnixListener::bind(&passed).unwrap();
    let told = it.scratch().join("notify.sock");
    let notify = UnixDatagram::bind(&told).unwrap();
    notify.set_read_timeout(Some(DEADLINE)).unwrap();
    let early = Command::new("/usr/bin/docker")
        .args(["-H", &format!("unix://{}", passed.display()), "ps", "--format", "{{.Names}}"])
        .start();
    let mut command = std::process::Command::new("/bin/sh");
    command
        .args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"", "sh"])
        .arg(executable("sampand"))
        .args(it.daemon_arguments())
        .args(["-H", "fd://"])
        .env("NOTIFY_SOCKET", &told)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    sampan_kernel::inherit::pass(&mut command, &[(listener.as_fd(), 3)]).unwrap();
    let mut daemon = command.spawn().unwrap();
    let said = || {
        let mut buffer = [0u8; 500];
        let n = notify.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    };
    assert_eq!(said().trim(), "READY=1");
    early.wait().ok().is("c1");
    kill_process(Pid::from_child(&daemon), Signal::HUP).unwrap();
    let reloading = said();
    assert!(reloading.contains("RELOADING=1") && reloading.contains("MONOTONIC_USEC="), "{reloading}");
    assert_eq!(said().trim(), "READY=1");
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    assert_eq!(said().trim(), "STOPPING=1");
    assert!(daemon.wait().unwrap().success());
    assert!(passed.exists(), "the socket is systemd's");
    it.start();
    assert_eq!(it.inspect("c1", "/State/Status"), "running");
}

fn a_reload_takes_over_what_it_can_and_nothing_that_makes_no_sense() {
    let it = Instance::new();
    let hang_up = || {
        let pid = i32::try_from(it.daemon_pid()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::HUP).unwrap();
    };
    let events = it.docker_command(["events", "--filter", "type=daemon", "--format", "{{.Action}}"]).start();
    wait_until("a client listens", || it.docker(["info", "-f", "{{.NEventsListener}}"]).text() != "0");
    it.write_config("labels = ['a=1']\n[log]\ndriver = 'local'\n[registries]\ninsecure = ['reg.example']");
    hang_up();
    events.wait_for_output("reload");
    let shown = it
        .docker(["info", "-f", "{{.Labels}} {{.LoggingDriver}} {{.RegistryConfig.InsecureRegistryCIDRs}}"])
        .ok();
    assert!(shown.text().starts_with("[a=1] local"), "{shown}");
    it.write_config("labels = ['a=2']\nnonsense = 1");
    hang_up();
    wait_until("the daemon has complained", || it.log().contains("the configuration stays as it was"));
    assert_eq!(it.docker(["info", "-f", "{{.Labels}}"]).text(), "[a=1]");
}

fn metrics_count_what_happens() {
    let port = free_port().to_string();
    let it = Instance::builder().arguments(&["--metrics-addr", &format!("127.0.0.1:{port}")]).start();
    it.sampan(["run", "-d", "--name", "c1", "busybox", "sleep", "1000"]).ok();
    it.sampan(["run", "--rm", "busybox", "true"]).ok();
    let text =
        Command::new("curl").args(["-s", &format!("http://127.0.0.1:{port}/metrics")]).run().ok().stdout;
    for line in [
        "engine_daemon_container_states_containers{state=\"running\"} 1",
        "engine_daemon_container_actions_seconds_count{action=\"create\"} 2",
        "engine_daemon_container_actions_seconds_count{action=\"start\"} 2",
        "engine_daemon_http_requests_total{method=\"POST\",path=\"/containers/{id}/start\",code=\"204\"} 2",
        "engine_daemon_engine_cpus_cpus ",
        "process_open_fds ",
        "# EOF",
    ] {
        assert!(text.contains(line), "no `{line}` in\n{text}");
    }
    assert_eq!(text.matches("# EOF").count(), 1);
}

fn versions_are_negotiated() {
    let it = Instance::new();
    for (path, expected) in [
        ("/v1.24/version", "\"ApiVersion\":\"1.50\""),
        ("/v1.50/version", "\"MinAPIVersion\":\"1.24\""),
        ("/v1.12/version", "client version 1.12 is too old. Minimum supported API version is 1.24"),
        ("/v1.99/version", "client version 1.99 is too new. Maximum supported API version is 1.50"),
        ("/v1.44/nothing", "page not found"),
    ] {
        it.get(path).says(expected);
    }
}

fn there_is_no_swarm() {
    let it = Instance::new();
    for path in ["/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs", "/services/x/logs"] {
        it.get(path).says("This node is not a swarm manager. Use \\\"docker swarm init\\\"");
    }
    it.docker(["node", "ls"]).code(1).complains("This node is not a swarm manager");
    it.docker(["swarm", "leave"]).code(1).complains("This node is not part of a swarm");
    it.docker(["swarm", "init"]).code(1).complains("sampan has no swarm mode");
    it.docker(["info", "-f", "{{.Swarm.LocalNodeState}}"]).ok().is("inactive");
    it.docker(["plugin", "ls", "-q"]).ok().is("");
}

/// RFC 6455 by hand: a handshake, a masked frame to the server, plain frames from it.
fn a_web_socket_carries_an_attached_stream() {
    use std::io::{BufRead, BufReader, Read, Write};
    let it = Instance::new();
    it.sampan(["run", "-di", "--name", "c1", "busybox", "sh", "-c", "read x; echo got $x; echo bad >&2"])
        .ok();
    let mut socket = std::os::unix::net::UnixStream::connect(it.socket()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let request = "GET /v1.41/containers/c1/attach/ws?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: x\r\n\
                   Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(request.as_bytes()).unwrap();
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
    }
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    let mask = [1u8, 2, 3, 4];
    let text: Vec<u8> = b"hi\n".iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m).collect();
    socket.write_all(&[&[0x82, 0x80 | 3][..], &mask, &text].concat()).unwrap();
    let mut said = Vec::new();
    loop {
        let mut header = [0u8; 2];
        reader.read_exact(&mut header).unwrap();
        let mut payload = vec![0u8; usize::from(header[1])];
        reader.read_exact(&mut payload).unwrap();
        match header[0] & 0x0f {
            8 => break,
            _ => said.extend(payload),
        }
    }
    let mut lines: Vec<_> = std::str::from_utf8(&said).unwrap().lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["bad", "got hi"]);
}
