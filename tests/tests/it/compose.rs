//! `sampan compose` on our daemon, and beside docker-compose on Debian's dockerd.

use std::path::{Path, PathBuf};

use sampan_testkit::{Command, Instance, Output, Pty, executable, wait_until};

use crate::sampan_docker::{compare, peer};

crate::cases! {
    services_come_in_order_and_go,
    what_changed_is_replaced_and_nothing_else,
    attached_output_ends_as_was_asked,
    control_c_stops_all,
    run_exec_and_copies,
    builds_profiles_and_variables,
    volumes_configs_and_secrets,
    networks_names_and_addresses,
    what_a_dependency_can_do_wrong,
    what_is_wrong_is_said_with_its_line,
    lists_and_plans,
    docker_compose_sees_what_we_made_and_the_reverse [Dockerd, NewDocker, DockerCompose],
    files_mean_what_docker_compose_says [Dockerd, NewDocker, DockerCompose],
}

/// A project's directory.
struct Project<'i> {
    it: &'i Instance,
    directory: PathBuf,
}

impl<'i> Project<'i> {
    fn new(it: &'i Instance, file: &str) -> Project<'i> {
        let directory = it.scratch().join("proj");
        std::fs::create_dir_all(&directory).unwrap();
        let project = Project { it, directory };
        project.write("compose.yaml", file);
        project
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn command(&self, line: &[&str]) -> Command {
        self.it.sampan_command([&["compose"], line].concat()).directory(&self.directory)
    }

    fn run(&self, line: &[&str]) -> Output {
        self.command(line).run()
    }

    /// Each container with its state, in the order of their names.
    fn states(&self) -> String {
        let listed = self.run(&["ps", "-a", "--format", "{{.Name}} {{.State}} {{.ExitCode}}"]).ok();
        let mut lines: Vec<&str> = listed.stdout.lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    }

    fn id(&self, name: &str) -> String {
        self.it.sampan(["inspect", "-f", "{{.Id}}", name]).ok().text().to_owned()
    }
}

impl Drop for Project<'_> {
    fn drop(&mut self) {
        self.run(&["down", "-v", "-t", "0", "--remove-orphans"]);
    }
}

/// A process that ends when it is asked to.
const WAITS: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

fn services_come_in_order_and_go() {
    let it = Instance::new();
    let file = format!(
        r#"
services:
  db:
    image: busybox
    command: sh -c "sleep 0.3; touch /tmp/ok; {WAITS}"
    healthcheck: {{test: test -e /tmp/ok, interval: 200ms, retries: 50}}
    volumes: ["data:/data"]
  init:
    image: busybox
    command: sh -c 'sleep 0.2; echo init >>/data/log'
    volumes: ["data:/data"]
    depends_on: [db]
  web:
    image: busybox
    command: sh -c "echo web >>/data/log; {WAITS}"
    volumes: ["data:/data"]
    depends_on:
      db: {{condition: service_healthy}}
      init: {{condition: service_completed_successfully}}
    scale: 2
volumes: {{data: }}
"#
    );
    let p = Project::new(&it, &file);
    p.run(&["up", "-d", "--wait"]).ok().complains("Container proj-db-1  Healthy");
    assert_eq!(
        p.states(),
        "proj-db-1 running 0\nproj-init-1 exited 0\nproj-web-1 running 0\nproj-web-2 running 0"
    );
    p.run(&["exec", "-T", "db", "head", "-n1", "/data/log"]).ok().is("init");
    // Who asks by labels finds them.
    let by_label = [
        "ps",
        "-q",
        "--filter",
        "label=com.docker.compose.project=proj",
        "--filter",
        "label=com.docker.compose.service=web",
    ];
    assert_eq!(it.sampan(by_label).ok().stdout.lines().count(), 2);
    it.sampan([
        "network",
        "inspect",
        "-f",
        "{{index .Labels \"com.docker.compose.network\"}}",
        "proj_default",
    ])
    .ok()
    .is("default");
    it.sampan(["volume", "inspect", "-f", "{{index .Labels \"com.docker.compose.volume\"}}", "proj_data"])
        .ok()
        .is("data");
    p.run(&["stop", "-t", "5"]).ok();
    assert_eq!(p.states().matches("exited 0").count(), 4, "{}", p.states());
    p.run(&["start"]).ok();
    assert_eq!(p.states().matches("running").count(), 3, "{}", p.states());
    p.run(&["restart", "-t", "0", "web"]).ok();
    p.run(&["pause", "web"]).ok();
    p.run(&["ps", "--status", "paused", "-q"]).ok();
    assert_eq!(p.run(&["ps", "--status", "paused", "-q"]).stdout.lines().count(), 2);
    p.run(&["unpause"]).ok();
    p.run(&["kill", "-s", "KILL", "web"]).ok();
    p.run(&["rm", "-f", "web"]).ok();
    assert_eq!(p.states(), "proj-db-1 running 0\nproj-init-1 exited 0");
    p.run(&["down", "-v", "-t", "5"])
        .ok()
        .complains("Network proj_default  Removed")
        .complains("Volume proj_data  Removed");
    it.sampan(["ps", "-aq"]).ok().is("");
    it.sampan(["volume", "ls", "-q"]).ok().is("");
    drop(p);
    it.assert_idle();
}

fn what_changed_is_replaced_and_nothing_else() {
    let it = Instance::new();
    let file = format!(
        "services:\n  a:\n    image: busybox\n    command: sh -c \"{WAITS}\"\n    environment: {{V: '${{V:-1}}'}}\n    volumes: [/anon]\n  b:\n    image: busybox\n    command: sh -c \"{WAITS}\"\n"
    );
    let p = Project::new(&it, &file);
    p.run(&["up", "-d"]).ok();
    let (a, b) = (p.id("proj-a-1"), p.id("proj-b-1"));
    p.run(&["exec", "-T", "a", "touch", "/anon/kept"]).ok();
    p.run(&["up", "-d"]).ok();
    assert_eq!((p.id("proj-a-1"), p.id("proj-b-1")), (a.clone(), b.clone()));
    p.command(&["--dry-run", "up"])
        .env("V", "2")
        .run()
        .ok()
        .says("recreate proj-a-1: its configuration is another")
        .says("keep proj-b-1");
    p.command(&["up", "-d", "--no-recreate"]).env("V", "2").run().ok();
    assert_eq!(p.id("proj-a-1"), a);
    p.command(&["up", "-d"]).env("V", "2").run().ok().complains("Container proj-a-1  Recreated");
    assert_eq!((p.id("proj-a-1") == a, p.id("proj-b-1") == b), (false, true));
    // Anonymous volumes go on, unless they are not to.
    p.run(&["exec", "-T", "a", "test", "-e", "/anon/kept"]).ok();
    p.command(&["up", "-d", "-V", "--force-recreate", "a"]).env("V", "2").run().ok();
    p.run(&["exec", "-T", "a", "test", "-e", "/anon/kept"]).code(1);
    p.run(&["up", "-d", "--scale", "b=3"]).ok();
    assert_eq!(p.states().matches("-b-").count(), 3);
    p.run(&["scale", "b=1"]).ok();
    assert_eq!(p.id("proj-b-1"), b);
    assert_eq!(p.states().matches("-b-").count(), 1);
    p.write("compose.yaml", "services: {a: {image: busybox, command: sleep 1000}}");
    p.run(&["up", "-d", "--no-recreate"]).ok().complains("Found orphan containers ([proj-b-1])");
    p.run(&["up", "-d", "-t", "0", "--remove-orphans"]).ok().complains("Container proj-b-1  Removed");
    assert_eq!(p.states(), "proj-a-1 running 0");
}

fn attached_output_ends_as_was_asked() {
    let it = Instance::new();
    let file = "services:\n  long:\n    image: busybox\n    command: sh -c \"echo starts; echo oops >&2; trap 'echo ends; exit 0' TERM; while :; do sleep 0.1; done\"\n  short:\n    image: busybox\n    command: sh -c 'sleep 0.5; echo short; exit 7'\n    depends_on: [long]\n";
    let p = Project::new(&it, file);
    let run = p.run(&["up", "--abort-on-container-exit"]).code(7);
    let run = run
        .says("long-1   | starts")
        .says("long-1   | oops")
        .says("short-1  | short")
        .says("long-1   | ends");
    assert!(!run.stdout.contains('\u{1b}') && run.stderr.contains("short-1 exited with code 7"), "{run}");
    p.run(&["up", "--exit-code-from", "long"]).code(0);
    p.run(&["up", "--no-log-prefix", "--no-attach", "long", "--exit-code-from", "short"]).code(7).is("short");
    p.run(&["logs", "--no-log-prefix", "short"]).ok().says("short");
    p.run(&["logs", "--tail", "1", "long"]).ok().is("long-1  | ends");
    // All end by themselves.
    p.write("compose.yaml", "services: {one: {image: busybox, command: echo done}}");
    p.run(&["up", "--remove-orphans"]).ok().says("one-1  | done");
    let coloured = p.run(&["--ansi", "always", "up"]).ok();
    assert!(coloured.stdout.contains("\u{1b}[36mone-1  |\u{1b}[0m done"), "{coloured}");
}

fn control_c_stops_all() {
    let it = Instance::new();
    let p = Project::new(
        &it,
        &format!("services: {{a: {{image: busybox, command: [sh, -c, \"echo ready; {WAITS}\"]}}}}"),
    );
    let host = format!("unix://{}", it.socket().display());
    let file = p.directory.join("compose.yaml").display().to_string();
    let pty =
        Pty::run(&executable("sampan"), &["compose", "-f", &file, "up"], &[("SAMPAN_HOST", &host)], 30, 120);
    pty.wait_for("ready");
    pty.type_in("\x03");
    pty.wait_for("Gracefully stopping");
    assert_eq!(pty.wait().0, 130);
    assert_eq!(p.states(), "proj-a-1 exited 0");
}

fn run_exec_and_copies() {
    let it = Instance::new();
    let file = format!(
        "services:\n  db: {{image: busybox, command: [sh, -c, \"{WAITS}\"]}}\n  app:\n    image: busybox\n    entrypoint: [echo, entry]\n    command: [cmd]\n    environment: {{A: '1'}}\n    depends_on: [db]\n    ports: ['80']\n"
    );
    let p = Project::new(&it, &file);
    p.run(&["run", "--rm", "-T", "app"]).ok().is("entry cmd");
    p.run(&["run", "--rm", "-T", "app", "other", "words"]).ok().is("entry other words");
    p.run(&[
        "run",
        "--rm",
        "-T",
        "--no-deps",
        "--entrypoint",
        "sh",
        "-e",
        "A=2",
        "-e",
        "B=3",
        "-w",
        "/tmp",
        "app",
        "-c",
        "echo $A $B; pwd; exit 4",
    ])
    .code(4)
    .is("2 3\n/tmp");
    p.command(&["run", "--rm", "-T", "--entrypoint", "cat", "app"]).input("through").run().ok().is("through");
    assert_eq!(p.states(), "proj-db-1 running 0");
    p.run(&["run", "-d", "--name", "kept", "--entrypoint", "sleep", "app", "1000"]).ok().is("kept");
    let labels =
        it.sampan(["inspect", "-f", "{{index .Config.Labels \"com.docker.compose.oneoff\"}}", "kept"]);
    labels.ok().is("True");
    assert_eq!(p.states(), "proj-db-1 running 0");
    p.command(&["exec", "-T", "db", "cat"]).input("fed").run().ok().is("fed");
    p.run(&["exec", "-T", "-e", "X=1", "-u", "web", "db", "sh", "-c", "echo $X $(id -un); exit 3"])
        .code(3)
        .is("1 web");
    p.run(&["exec", "-T", "app", "true"]).code(1).complains("not running");
    p.write("here", "content");
    p.run(&["cp", "here", "db:/tmp/there"]).ok();
    p.run(&["exec", "-T", "db", "cat", "/tmp/there"]).ok().is("content");
    p.run(&["cp", "db:/tmp/there", "back"]).ok();
    assert_eq!(std::fs::read_to_string(p.directory.join("back")).unwrap(), "content");
    p.run(&["top", "db"]).ok().says("proj-db-1");
    p.run(&["down", "-t", "0"]).ok();
    it.sampan(["ps", "-aq"]).ok().is("");
}

fn builds_profiles_and_variables() {
    let it = Instance::new();
    let file = r#"
services:
  app:
    build: {context: ./ctx, args: {WORD: "${WORD:-default}"}, labels: [l=1]}
    command: cat /word
  inline:
    build: {context: ., dockerfile_inline: "FROM busybox\nRUN echo inline >/word\n"}
    command: cat /word
    profiles: [extra]
  env:
    image: "${IMAGE:?which image}"
    command: sh -c 'echo $$FROM_FILE $$OWN $$HOSTED'
    env_file: [vars.env]
    environment: {OWN: "${WORD}", HOSTED: }
"#;
    let p = Project::new(&it, file);
    p.write("ctx/Dockerfile", "FROM busybox\nARG WORD\nRUN echo built $WORD >/word\n");
    p.write("vars.env", "FROM_FILE=\"from ${WORD}\"\n");
    p.run(&["up"]).code(1).complains("IMAGE is missing a value: which image").complains("compose.yaml:11");
    p.write(".env", "IMAGE=busybox\nWORD=dot\n");
    let up = p.command(&["up"]).env("HOSTED", "here").run().ok();
    let up = up.says("app-1  | built dot").says("env-1  | from dot dot here");
    assert!(!up.stdout.contains("inline"), "{up}");
    it.sampan([
        "image",
        "ls",
        "--format",
        "{{.Repository}}",
        "--filter",
        "label=com.docker.compose.project=proj",
    ])
    .ok()
    .says("proj-app");
    // It is there: not built again, unless asked.
    p.write("ctx/Dockerfile", "FROM busybox\nRUN echo again >/word\n");
    p.run(&["up"]).ok().says("built dot");
    p.run(&["up", "--build", "app"]).ok().says("again");
    p.run(&["--profile", "extra", "up", "inline"]).ok().says("inline-1  | inline");
    p.run(&["build", "--build-arg", "X=1", "app"]).ok();
    p.run(&["images", "--format", "{{.ContainerName}} {{.Repository}}"]).ok().says("proj-app-1 proj-app");
    p.run(&["down", "--rmi", "local"]).ok();
    // What later builds took the name of is nobody's.
    it.sampan(["image", "ls", "--filter", "dangling=false", "--format", "{{.Repository}}"])
        .ok()
        .is("busybox");
}

fn volumes_configs_and_secrets() {
    let it = Instance::new();
    let file = r#"
services:
  a:
    image: busybox
    command: sh -c 'cat /run/secrets/file /run/secrets/variable /conf /etc/place; ls -l /etc/place | cut -c1-10; cat /data/f /src/f; df -k /small | tail -1 | cut -c1-5; touch /src/no'
    secrets: [file, variable]
    configs: [conf, {source: conf2, target: /etc/place, mode: 0400, uid: "33"}]
    volumes:
      - data:/data
      - ./src:/src:ro
      - {type: tmpfs, target: /small, tmpfs: {size: 1m}}
    tmpfs: /run2:size=1m
secrets: {file: {file: ./secret}, variable: {environment: SECRET}}
configs: {conf: {content: "conf ${WORD}\n"}, conf2: {file: ./conf2}}
volumes:
  data: {external: true, name: theirs}
"#;
    let p = Project::new(&it, file);
    p.write("secret", "from file\n");
    p.write("conf2", "second\n");
    p.write("src/f", "from here\n");
    let up = |p: &Project<'_>| {
        p.command(&["up", "--no-log-prefix", "--force-recreate", "--exit-code-from", "a"])
            .env("SECRET", "from variable\n")
            .env("WORD", "w")
            .run()
    };
    up(&p).code(1).complains("sampan volume create theirs");
    it.sampan(["volume", "create", "theirs"]).ok();
    it.sampan(["run", "--rm", "-v", "theirs:/d", "busybox", "sh", "-c", "echo kept >/d/f"]).ok();
    let mut said = up(&p).code(1);
    for line in ["from file", "from variable", "conf w", "second", "kept", "from here", "tmpfs"] {
        said = said.says(line);
    }
    said.says("Read-only file system");
    p.run(&["down", "-v"]).ok();
    it.sampan(["volume", "ls", "-q"]).ok().is("theirs");
}

fn networks_names_and_addresses() {
    let it = Instance::new();
    let file = format!(
        r#"
services:
  a:
    image: busybox
    command: [sh, -c, "{WAITS}"]
    hostname: ahost
    networks: {{front: {{ipv4_address: 10.202.33.77, aliases: [www]}}, back: }}
    ports: ["127.0.0.1::8080"]
  b:
    image: busybox
    command: [sh, -c, "{WAITS}"]
    networks: [front]
    links: ["a:linked"]
    extra_hosts: ["other:1.2.3.4"]
  c:
    image: busybox
    command: [sh, -c, "{WAITS}"]
    network_mode: service:a
networks:
  front: {{ipam: {{config: [{{subnet: 10.202.33.0/24, gateway: 10.202.33.1}}]}}, labels: {{own: "1"}}}}
  back: {{internal: true}}
"#
    );
    let p = Project::new(&it, &file);
    p.run(&["up", "-d"]).ok();
    for name in ["a", "www", "proj-a-1", "linked"] {
        p.run(&["exec", "-T", "b", "ping", "-c1", "-W5", name]).ok().says("10.202.33.77");
    }
    p.run(&["exec", "-T", "b", "grep", "1.2.3.4", "/etc/hosts"]).ok().says("other");
    p.run(&["exec", "-T", "c", "ip", "addr"]).ok().says("10.202.33.77");
    let networks = it.sampan([
        "inspect",
        "-f",
        "{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}",
        "proj-a-1",
    ]);
    networks.ok().is("proj_back proj_front");
    it.sampan(["network", "inspect", "-f", "{{.Internal}}", "proj_back"]).ok().is("true");
    p.run(&["port", "a", "8080"]).ok().says("127.0.0.1:");
    p.run(&["port", "b", "8080"]).code(1).complains("no port 8080/tcp");
    // Replaced, it is there by its names again, and who lives in its network goes along.
    // While another lives in its network namespace, our engine keeps a removed container's address.
    p.run(&["rm", "-s", "-f", "c"]).ok();
    p.run(&["up", "-d", "-t", "0", "--force-recreate", "a"]).ok();
    p.run(&["up", "-d", "-t", "0"]).ok();
    p.run(&["exec", "-T", "b", "ping", "-c1", "-W5", "www"]).ok();
    p.run(&["down", "-t", "0"]).ok();
    it.sampan(["network", "ls", "-q", "--filter", "type=custom"]).ok().is("");
}

fn what_a_dependency_can_do_wrong() {
    let it = Instance::new();
    let with = |dependency: &str, condition: &str| {
        format!(
            "services:\n  dep: {{image: busybox, {dependency}}}\n  app: {{image: busybox, command: echo runs, depends_on: {{dep: {{condition: {condition}}}}}}}\n"
        )
    };
    let p = Project::new(&it, &with("command: sh -c 'exit 3'", "service_completed_successfully"));
    p.run(&["up", "-d"]).code(1).complains("didn't complete successfully: exit 3");
    p.write(
        "compose.yaml",
        &with(
            "command: sleep 1000, healthcheck: {test: 'false', interval: 100ms, retries: 1}",
            "service_healthy",
        ),
    );
    p.run(&["up", "-d", "-t", "0"]).code(1).complains("is unhealthy");
    p.write("compose.yaml", &with("command: sleep 1000", "service_healthy"));
    p.run(&["up", "-d", "-t", "0"]).code(1).complains("has no healthcheck configured");
    p.write("compose.yaml", &with("command: 'no-such-program'", "service_started"));
    p.run(&["up", "-d", "-t", "0"]).code(1).complains("executable file not found");
    assert!(p.states().contains("proj-app-1 created"), "{}", p.states());
    p.write("compose.yaml", "services: {a: {image: 'nowhere.invalid/none:1'}}");
    p.run(&["up", "-d", "--pull", "never", "--remove-orphans"]).code(1).complains("sampan compose pull a");
}

fn what_is_wrong_is_said_with_its_line() {
    let it = Instance::new();
    let p = Project::new(&it, "services:\n  a:\n    imge: x\n");
    p.run(&["config"])
        .code(1)
        .complains("compose.yaml:3: services.a: unknown field `imge`: did you mean `image`?");
    p.run(&["-f", "none.yaml", "up"]).code(1).complains("none.yaml");
    p.run(&["dwn"]).code(1).complains("down");
    p.write("compose.yaml", "services: {a: {image: busybox, command: sleep 1000}}");
    p.run(&["up", "-d", "b"]).code(1).complains("no such service: b");
    p.run(&["stop", "b"]).code(1).complains("no such service: b");
    p.run(&["exec", "-T", "a", "true"]).code(1).complains("sampan compose up -d a");
    it.sampan_command(["compose", "ps"])
        .directory(Path::new("/"))
        .run()
        .code(1)
        .complains("no configuration file provided");
}

fn lists_and_plans() {
    let it = Instance::new();
    let p = Project::new(
        &it,
        "services:\n  a: {image: busybox, command: sleep 1000, ports: ['127.0.0.1::80']}\n  b: {image: busybox, command: 'true', depends_on: [a]}\n",
    );
    p.run(&["--dry-run", "up"]).ok().is("a:\n  create 1\nb, after a runs:\n  create 1");
    p.run(&["create"]).ok();
    assert_eq!(p.states(), "proj-a-1 created 0\nproj-b-1 created 0");
    p.run(&["up", "-d"]).ok();
    p.run(&["wait", "b"]).code(0);
    p.run(&["ps"]).ok().says("NAME").says("SERVICE").says("proj-a-1").says("sleep 1000");
    p.run(&["ps", "--services"]).ok().is("a");
    let json = p.run(&["ps", "--format", "json"]).ok();
    let row: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(
        (row["Service"].as_str(), row["Publishers"][0]["TargetPort"].as_i64()),
        (Some("a"), Some(80)),
        "{row}"
    );
    p.run(&["config", "--services"]).ok().is("a\nb");
    p.run(&["config", "--format", "json"]).ok().says("\"target\": 80");
    it.sampan(["compose", "ls"]).ok().says("proj").says("running(1)");
    p.run(&["ls", "--output", "json", "-a"]).ok().says("\"Name\":\"proj\"");
    // By its name alone, from elsewhere.
    let elsewhere = |line: &[&str]| {
        it.sampan_command([&["compose", "-p", "proj"], line].concat()).directory(Path::new("/")).run()
    };
    elsewhere(&["ps", "-q"]).ok();
    elsewhere(&["logs", "b"]).ok();
    elsewhere(&["down", "-t", "0"]).ok();
    it.sampan(["ps", "-aq"]).ok().is("");
}

/// What docker-compose 1.29 and we understand alike.
const BOTH: &str = r#"
version: "3.8"
services:
  web:
    image: busybox
    command: sh -c 'echo web; trap "exit 0" TERM; while :; do sleep 0.1; done'
    environment: {A: "1", B: "x y"}
    labels: [l=1]
    volumes: ["data:/data", "./src:/src:ro"]
    networks: {front: {aliases: [www]}}
    ports: ["127.0.0.1::80"]
    ulimits: {nofile: {soft: 1000, hard: 2000}}
    cap_add: [NET_ADMIN]
    sysctls: {net.ipv4.ip_forward: "1"}
    dns: 1.1.1.1
    extra_hosts: ["a:1.2.3.4"]
    stop_grace_period: 5s
    stop_signal: SIGTERM
    restart: on-failure:2
    init: true
    read_only: true
    tmpfs: [/run]
    working_dir: /tmp
    user: "33"
    shm_size: 1m
    healthcheck: {test: ["CMD", "true"], interval: 1m30s, timeout: 5s, retries: 3, start_period: 1s}
    logging: {driver: json-file, options: {max-size: 1m}}
  db:
    image: busybox
    entrypoint: ["sh", "-c"]
    command: ["echo db; sleep 1000"]
    networks: [front]
    hostname: dbhost
    stdin_open: true
    tty: true
volumes: {data: {labels: {v: "1"}}}
networks: {front: {driver_opts: {com.docker.network.driver.mtu: "1400"}}}
"#;

struct Both {
    peer: sampan_testkit::Dockerd,
    directory: PathBuf,
}

impl Both {
    fn new() -> Both {
        let peer = peer();
        let directory = peer.scratch().join("proj");
        std::fs::create_dir_all(directory.join("src")).unwrap();
        std::fs::write(directory.join("docker-compose.yml"), BOTH).unwrap();
        Both { peer, directory }
    }

    fn ours(&self, line: &[&str]) -> Output {
        self.peer.sampan([&["compose"], line].concat()).directory(&self.directory).run()
    }

    fn theirs(&self, line: &[&str]) -> Output {
        self.peer.client(Path::new("/usr/bin/docker-compose"), line).directory(&self.directory).run()
    }

    fn inspect(&self, name: &str) -> serde_json::Value {
        let all: serde_json::Value =
            serde_json::from_str(&self.peer.docker(["inspect", name]).run().ok().stdout).unwrap();
        all[0].clone()
    }
}

fn docker_compose_sees_what_we_made_and_the_reverse() {
    let both = Both::new();
    both.ours(&["up", "-d"]).ok();
    let seen = both.theirs(&["ps"]).ok();
    seen.says("proj-web-1").says("proj-db-1").says("Up");
    both.theirs(&["logs", "web"]).ok().says("web");
    both.theirs(&["exec", "-T", "web", "echo", "inside"]).ok().is("inside");
    both.theirs(&["stop", "-t", "0", "db"]).ok();
    assert_eq!(both.inspect("proj-db-1")["State"]["Running"], false);
    both.theirs(&["down", "-v", "-t", "0"]).ok();
    both.peer.docker(["ps", "-aq"]).run().ok().is("");
    both.peer.docker(["network", "ls", "-q", "--filter", "type=custom"]).run().ok().is("");
    // The other way round.
    both.theirs(&["up", "-d"]).ok();
    both.ours(&["ps"]).ok().says("proj_web_1").says("proj_db_1");
    both.ours(&["exec", "-T", "web", "echo", "inside"]).ok().is("inside");
    both.ours(&["logs", "web"]).ok().says("web-1  | web");
    both.ours(&["restart", "-t", "0", "web"]).ok();
    both.ours(&["down", "-v", "-t", "0"]).ok();
    both.peer.docker(["ps", "-aq"]).run().ok().is("");
    both.peer.docker(["volume", "ls", "-q"]).run().ok().is("");
}

fn files_mean_what_docker_compose_says() {
    let both = Both::new();
    both.theirs(&["up", "--no-start"]).ok();
    let (their_web, their_db) = (both.inspect("proj_web_1"), both.inspect("proj_db_1"));
    let their_network = both.inspect("proj_front");
    both.theirs(&["down", "-v"]).ok();
    both.ours(&["create"]).ok();
    let (our_web, our_db) = (both.inspect("proj-web-1"), both.inspect("proj-db-1"));
    assert_eq!(their_network["Options"], both.inspect("proj_front")["Options"]);
    for (theirs, ours) in [(&their_web, &our_web), (&their_db, &our_db)] {
        for field in [
            "Cmd",
            "Entrypoint",
            "User",
            "WorkingDir",
            "Tty",
            "OpenStdin",
            "ExposedPorts",
            "Healthcheck",
            "StopSignal",
            "StopTimeout",
        ] {
            assert_eq!(theirs["Config"][field], ours["Config"][field], "{field}");
        }
        let env = |c: &serde_json::Value| {
            let list = c["Config"]["Env"].as_array().cloned().unwrap_or_default();
            list.iter().map(|v| v.as_str().unwrap().to_owned()).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(env(theirs), env(ours));
        for field in [
            "Ulimits",
            "Sysctls",
            "Dns",
            "ExtraHosts",
            "RestartPolicy",
            "Init",
            "ReadonlyRootfs",
            "Tmpfs",
            "ShmSize",
            "LogConfig",
            "NetworkMode",
            "CapAdd",
        ] {
            let mut different = Vec::new();
            compare(field, &theirs["HostConfig"][field], &ours["HostConfig"][field], &mut different);
            assert!(different.is_empty(), "{different:?}");
        }
        let mounts = |c: &serde_json::Value| {
            let list = c["Mounts"].as_array().cloned().unwrap_or_default();
            let one = |m: &serde_json::Value| {
                format!("{} {} {} {}", m["Type"], m["Source"], m["Destination"], m["RW"])
            };
            list.iter().map(one).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(mounts(theirs), mounts(ours));
        for label in [
            "com.docker.compose.project",
            "com.docker.compose.service",
            "com.docker.compose.container-number",
            "com.docker.compose.oneoff",
            "com.docker.compose.project.working_dir",
        ] {
            assert_eq!(theirs["Config"]["Labels"][label], ours["Config"]["Labels"][label], "{label}");
        }
    }
    both.ours(&["up", "-d"]).ok();
    let aliases =
        both.inspect("proj-web-1")["NetworkSettings"]["Networks"]["proj_front"]["Aliases"].to_string();
    assert!(aliases.contains("\"www\"") && aliases.contains("\"web\""), "{aliases}");
    wait_until("it has said so", || both.ours(&["logs", "--no-log-prefix", "db"]).stdout.contains("db"));
    both.ours(&["down", "-v", "-t", "0"]).ok();
}
