//! Our client beside Docker's: what both print.

use sampan_testkit::{Command, Instance};

use crate::docker::NEW_DOCKER;
use crate::sampan_docker::peer;

crate::cases! {
    lists_and_formats_are_dockers [Dockerd, NewDocker],
    our_daemon_looks_the_same_to_both [NewDocker],
    formats_are_go_templates,
}

/// Times go on between two questions.
fn without_times(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        // `3 seconds ago`, `Less than a second ago`, `About a minute ago`.
        while let Some(at) = words.iter().position(|w| w.starts_with("ago") || w.starts_with("second")) {
            let from =
                (0..at).rev().find(|i| words[*i].ends_with(['"', ')']) || words[*i].contains([':', '(']));
            words.drain(from.map_or(0, |f| f + 1)..=at);
        }
        out += &(words.join(" ") + "\n");
    }
    out
}

#[track_caller]
fn same(docker: &dyn Fn(&[&str]) -> Command, sampan: &dyn Fn(&[&str]) -> Command, arguments: &[&str]) {
    let (theirs, ours) = (docker(arguments).run(), sampan(arguments).run());
    assert_eq!(theirs.code, ours.code, "{arguments:?}: {theirs} {ours}");
    assert_eq!(without_times(&theirs.stdout), without_times(&ours.stdout), "{arguments:?}");
}

const LISTS: &[&[&str]] = &[
    &["ps"],
    &["ps", "-a"],
    &["ps", "-a", "--no-trunc"],
    &["ps", "-aq"],
    &["ps", "-l", "-q"],
    &[
        "ps",
        "-a",
        "-f",
        "status=exited",
        "--format",
        "{{.Names}} {{.State}} {{.Image}} {{.Ports}} {{.Labels}}",
    ],
    &[
        "ps",
        "-a",
        "--format",
        "table {{.Names}}\t{{.Label \"a\"}}\t{{upper .Image}}\t{{.Mounts}}\t{{.Networks}}",
    ],
    &[
        "ps",
        "-a",
        "--format",
        "{{range $i, $n := split .Names \"\"}}{{$n}}.{{end}}{{with .Label \"a\"}}{{.}}{{else}}-{{end}}",
    ],
    &["images"],
    &["images", "--digests"],
    &["images", "-q", "--no-trunc"],
    &["images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}} {{.VirtualSize}}"],
    &["network", "ls"],
    &["network", "ls", "--no-trunc", "-q"],
    &["network", "ls", "--format", "json"],
    &["network", "inspect", "n1"],
    &["volume", "ls"],
    &["volume", "ls", "--format", "json"],
    &["volume", "inspect", "v1"],
    &["inspect", "c1"],
    &["inspect", "busybox", "n1", "v1", "nobody"],
    &["inspect", "--type", "image", "c1"],
    &["inspect", "--size", "--format", "{{.SizeRw}} {{.SizeRootFs}}", "c1"],
    &[
        "inspect",
        "-f",
        "{{.State.Status}} {{.Config.Env}} {{json .Config.Labels}} {{.HostConfig.RestartPolicy.Name}}",
        "c1",
        "c2",
    ],
    &[
        "inspect",
        "-f",
        "{{range $p, $b := .NetworkSettings.Ports}}{{$p}}{{range $b}}>{{.HostPort}}{{end}} {{end}}",
        "c1",
    ],
    &[
        "inspect",
        "-f",
        "{{index .Config.Labels \"a\"}} {{.Config.Labels.none}} {{len .Mounts}} {{.HostConfig.PidsLimit}}",
        "c1",
    ],
    &[
        "inspect",
        "-f",
        "{{printf \"%s-%d\" .Name .State.ExitCode | upper}}{{if and .State.Running (ne .Name \"x\")}}!{{end}}",
        "c1",
    ],
    &["inspect", "-f", "{{.NoSuchField}}", "c2"],
    &["history", "--format", "{{.ID}} {{.Comment}} {{.Size}}", "busybox"],
    &["port", "c1"],
    &["port", "c1", "80/tcp"],
    &["port", "c1", "81"],
    &["diff", "c2"],
    &["system", "df"],
    &["version", "--format", "{{.Server.Version}} {{.Server.APIVersion}} {{.Server.Os}}"],
    &["info", "--format", "{{.ServerVersion}} {{.NCPU}} {{.ID}} {{json .Plugins}}"],
    &["events", "--since", "1h", "--until", "0s", "--filter", "container=c2"],
    &[
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        "type=volume",
        "--format",
        "{{.Type}} {{.Action}} {{.Actor.ID}}",
    ],
    &["logs", "c2"],
    &["logs", "--tail", "1", "-t", "c2"],
    &["wait", "c2"],
    &["top", "c1", "-o", "pid,comm"],
    &["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "c1"],
    &["cp", "c1:/etc/passwd", "-"],
    &["rm", "nobody"],
    &["network", "rm", "nobody"],
    &["ps", "--filter", "color=red"],
    &["ps", "--no-such-flag"],
];

fn lists_and_formats_are_dockers() {
    let peer = peer();
    let (docker, sampan) = (|a: &[&str]| peer.docker(a), |a: &[&str]| peer.sampan(a));
    sampan(&["network", "create", "--label", "l=1", "n1"]).run().ok();
    sampan(&["volume", "create", "--label", "k=v", "v1"]).run().ok();
    let flags = [
        "run",
        "-d",
        "--name",
        "c1",
        "--network",
        "n1",
        "-l",
        "a=1",
        "-l",
        "b=2",
        "-v",
        "v1:/v",
        "-p",
        "127.0.0.1::80",
    ];
    let more = ["--restart", "on-failure:3", "busybox", "sleep", "1000"];
    sampan(&[&flags[..], &more[..]].concat()).run().ok();
    sampan(&[
        "run",
        "--name",
        "c2",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "echo one; echo two; touch /new; exit 3",
    ])
    .run()
    .code(3);
    for arguments in LISTS {
        same(&docker, &sampan, arguments);
    }
}

fn our_daemon_looks_the_same_to_both() {
    let it = Instance::new();
    it.sampan([
        "run",
        "-d",
        "--name",
        "c1",
        "-l",
        "a=1",
        "-v",
        "/v",
        "-p",
        "127.0.0.1::80",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    it.sampan(["run", "--name", "c2", "busybox", "sh", "-c", "echo one; touch /new; exit 3"]).code(3);
    let docker = |a: &[&str]| it.docker_at(NEW_DOCKER, a);
    let sampan = |a: &[&str]| it.sampan_command(a);
    for arguments in [
        &["ps", "-a"][..],
        &[
            "ps",
            "-a",
            "--format",
            "{{.Names}} {{.State}} {{.Ports}} {{.Labels}} {{.LocalVolumes}} {{.Networks}}",
        ],
        &["images"],
        &["network", "ls"],
        &["volume", "ls"],
        &["inspect", "c1", "c2"],
        &["inspect", "-f", "{{.State.Status}} {{.Config.Image}} {{json .HostConfig.PortBindings}}", "c1"],
        &["port", "c1"],
        &["diff", "c2"],
        &["logs", "c2"],
        &["history", "busybox", "--format", "{{.Size}} {{.Comment}}"],
    ] {
        same(&docker, &sampan, arguments);
    }
}

fn formats_are_go_templates() {
    let it = Instance::new();
    it.sampan(["run", "-d", "--name", "c1", "-l", "tier=web", "busybox", "sleep", "1000"]).ok();
    it.sampan(["ps", "--format", "{{.Names}}:{{.Label \"tier\"}}"]).ok().is("c1:web");
    it.sampan(["ps", "--output", "json"]).ok().says("\"Names\":\"c1\"");
    it.sampan(["images", "--output", "json"]).ok().says("\"Repository\":\"busybox\"");
    it.sampan(["network", "ls", "--output", "json"]).ok().says("\"Name\":\"bridge\"");
    it.sampan(["inspect", "c1", "-f", "{{range .Args}}{{.}}{{end}} {{.State.Running}}"]).ok().is("1000 true");
    it.sampan(["info", "-f", "{{.ContainersRunning}}"]).ok().is("1");
    it.sampan(["version", "-f", "{{.Client.Version}}"]).ok();
    it.sampan(["top", "c1", "--output", "json"]).code(1);
    it.sampan(["top", "--output", "json", "c1"]).ok().says("Titles");
    it.sampan(["ps", "--format", "{{.Nonsense}}"]).code(1).complains("Nonsense");
    it.sampan(["ps", "--format", "{{.ID"]).code(1).complains("unclosed action");
    // A format that is kept.
    let config = it.scratch().join("docker-config");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("config.json"), r#"{"psFormat": "kept {{.Names}}"}"#).unwrap();
    it.sampan(["ps"]).ok().is("kept c1");
    it.sampan(["ps", "--format", "{{.Names}}"]).ok().is("c1");
}
