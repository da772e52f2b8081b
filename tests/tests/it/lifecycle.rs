//! Verbs and listings of containers beyond the everyday ones, and what a daemon makes of broken records.

use std::io::{Read, Write};

use sampan_testkit::{Command, Instance, wait_until};

use crate::mounts::post;

crate::cases! {
    listings_are_filtered_in_every_way [Docker, Curl],
    inspect_and_listings_tell_sizes [Docker, Curl],
    top_has_the_columns_of_ps [Docker],
    prune_takes_what_is_old_and_labelled [Docker],
    waits_end_when_they_should [Docker],
    verbs_are_refused_in_dockers_words [Docker, Curl],
    an_exec_survives_the_daemon_and_keeps_its_code [Docker, Curl],
    execs_have_users_directories_and_environments [Docker],
    a_missing_layer_is_one_containers_trouble [Docker],
    commit_keeps_what_was_changed [Docker],
    whoever_starts_an_exec_says_how_its_stream_is_framed [Docker, Curl],
    a_link_is_removed [Docker, Curl],
}

fn listings_are_filtered_in_every_way() {
    let it = Instance::new();
    let run = |name: &str, more: &[&str]| {
        let all: Vec<&str> = [&["run", "-d", "--name", name], more, &["busybox", "sleep", "1000"]].concat();
        it.docker(all).ok();
    };
    run("one", &["-l", "k=v", "--expose", "8080", "-v", "vol:/data"]);
    run("two", &["-p", "127.0.0.1::9090", "--network", "bridge"]);
    it.docker(["run", "--name", "three", "--network", "none", "busybox", "sh", "-c", "exit 5"]).code(5);
    it.docker(["create", "--name", "four", "--network", "host", "busybox", "true"]).ok();
    let list = |filter: &str| {
        let text =
            it.docker(["ps", "-a", "--format", "{{.Names}}", "--filter", filter]).ok().text().to_owned();
        let mut names: Vec<&str> = text.lines().collect();
        names.sort_unstable();
        names.join(" ")
    };
    let host_port = it.docker(["port", "two", "9090"]).ok().text().rsplit(':').next().unwrap().to_owned();
    let published = format!("publish={host_port}");
    for (filter, expected) in [
        ("name=o", "four one two"),
        ("name=^/?one$", "one"),
        ("label=k=v", "one"),
        ("status=exited", "three"),
        ("status=created", "four"),
        ("exited=5", "three"),
        ("exited=0", ""),
        ("expose=8080", "one"),
        ("expose=8000-9000/tcp", "one"),
        (published.as_str(), "two"),
        ("publish=9090", ""),
        ("volume=vol", "one"),
        ("volume=/data", "one"),
        ("network=bridge", "one two"),
        ("network=none", "three"),
        ("network=host", "four"),
        ("ancestor=busybox", "four one three two"),
        ("before=two", "one"),
        ("since=two", "four three"),
        ("is-task=true", ""),
        ("is-task=false", "four one three two"),
        ("isolation=default", "four one three two"),
        ("health=none", "four one three two"),
    ] {
        assert_eq!(list(filter), expected, "{filter}");
    }
    it.docker(["ps", "-n", "1", "--format", "{{.Names}}"]).ok().is("four");
    for (filters, words) in [
        (r#"{"status":["x"]}"#, "invalid filter"),
        (r#"{"health":["x"]}"#, "Unrecognised filter value for health: x"),
        (r#"{"before":["nobody"]}"#, "o such container"),
        (r#"{"what":["x"]}"#, "invalid filter"),
    ] {
        let encoded = filters
            .replace('{', "%7B")
            .replace('}', "%7D")
            .replace('"', "%22")
            .replace('[', "%5B")
            .replace(']', "%5D");
        it.get(&format!("/containers/json?filters={encoded}")).says(words);
    }
}

fn inspect_and_listings_tell_sizes() {
    let it = Instance::new();
    it.docker(["run", "--name", "c1", "busybox", "sh", "-c", "head -c 100000 /dev/zero > /f"]).ok();
    let told = it.get("/containers/c1/json?size=1").ok().json();
    assert!(
        told["SizeRw"].as_i64().unwrap() >= 100_000 && told["SizeRootFs"].as_i64() > told["SizeRw"].as_i64()
    );
    assert!(it.get("/containers/c1/json").ok().json()["SizeRw"].is_null());
    let listed = it.get("/containers/json?all=1&size=1").ok().json();
    assert!(listed[0]["SizeRw"].as_i64().unwrap() >= 100_000);
}

fn top_has_the_columns_of_ps() {
    let it = Instance::new();
    it.docker(["run", "-d", "--name", "c1", "busybox", "sh", "-c", "sleep 54321; true"]).ok();
    it.docker(["top", "c1"]).ok().says("UID").says("sleep 54321");
    if Command::new("ps").args(["--version"]).run().code == 0 {
        let told = it.docker(["top", "c1", "-o", "pid,args"]).ok();
        assert_eq!(
            told.stdout.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(),
            ["PID", "COMMAND"]
        );
        assert!(told.stdout.contains("sleep 54321") && told.stdout.lines().count() == 3, "{told}");
        it.docker(["top", "c1", "aux"]).ok().says("%CPU");
        it.docker(["top", "c1", "-o", "args"]).code(1).complains("Couldn't find PID field in ps output");
    }
    it.docker(["create", "--name", "c2", "busybox", "true"]).ok();
    it.docker(["top", "c2"]).code(1).complains("is not running");
}

fn prune_takes_what_is_old_and_labelled() {
    let it = Instance::new();
    it.docker(["run", "--name", "c1", "-l", "a=b", "busybox", "true"]).ok();
    it.docker(["run", "--name", "c2", "busybox", "true"]).ok();
    it.docker(["run", "-d", "--name", "c3", "busybox", "sleep", "1000"]).ok();
    let names = || it.docker(["ps", "-a", "--format", "{{.Names}}"]).ok().text().replace('\n', " ");
    it.docker(["container", "prune", "-f", "--filter", "until=24h"]).ok();
    assert_eq!(names(), "c3 c2 c1");
    it.docker(["container", "prune", "-f", "--filter", "label=a"]).ok();
    assert_eq!(names(), "c3 c2");
    it.docker(["container", "prune", "-f"]).ok();
    assert_eq!(names(), "c3");
}

fn waits_end_when_they_should() {
    let it = Instance::new();
    it.docker(["create", "--name", "c1", "busybox", "sh", "-c", "exit 3"]).ok();
    assert_eq!(post(&it, "/containers/c1/wait", "").ok().json()["StatusCode"], 0);
    let wait = |condition: &str| {
        let mut stream = std::os::unix::net::UnixStream::connect(it.socket()).unwrap();
        stream.set_read_timeout(Some(sampan_testkit::DEADLINE)).unwrap();
        write!(stream, "POST /containers/c1/wait?condition={condition} HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
        // The headers come before the end does.
        let mut head = [0; 15];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        stream
    };
    let (mut next, mut removed) = (wait("next-exit"), wait("removed"));
    let told = |stream: &mut std::os::unix::net::UnixStream| {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    it.docker(["start", "c1"]).ok();
    assert!(told(&mut next).contains("\"StatusCode\":3"));
    it.docker(["rm", "c1"]).ok();
    assert!(told(&mut removed).contains("\"StatusCode\":3"));
    post(&it, "/containers/nobody/wait", "").says("No such container: nobody");
}

fn verbs_are_refused_in_dockers_words() {
    let it = Instance::new();
    it.docker(["run", "-d", "--name", "c1", "busybox", "sleep", "1000"]).ok();
    it.docker(["create", "--name", "c2", "busybox", "true"]).ok();
    for (path, words) in [
        ("/containers/c2/kill", "Cannot kill container: c2: Container "),
        ("/containers/c1/kill?signal=x", "signal: x"),
        ("/containers/c1/rename", "Neither old nor new names may be empty"),
        ("/containers/c1/rename?name=c1", "Renaming a container with the same name as its current name"),
        ("/containers/c1/rename?name=c2", "is already in use by container"),
        ("/containers/c1/unpause", "is not paused"),
        ("/containers/c2/pause", "is not running"),
        ("/containers/c2/exec", "is not running"),
        ("/containers/c1/exec", "No exec command specified"),
        ("/containers/c2/resize?h=1&w=1", "is not running"),
    ] {
        post(&it, path, "{}").says(words);
    }
    it.docker(["pause", "c1"]).ok();
    it.docker(["exec", "c1", "true"]).code(1).complains("is paused, unpause the container before exec");
    it.docker(["start", "c1"]).code(1).complains("cannot start a paused container, try unpause instead");
    it.docker(["rm", "c1"]).code(1).complains("You cannot remove a paused container");
    it.docker(["unpause", "c1"]).ok();
    it.docker(["rm", "c1"]).code(1).complains("You cannot remove a running container");
}

fn an_exec_survives_the_daemon_and_keeps_its_code() {
    let it = Instance::new();
    it.docker(["run", "-d", "--name", "c1", "busybox", "sleep", "1000"]).ok();
    let exec = |script: &str| {
        let body = format!(r#"{{"Cmd":["sh","-c","{script}"]}}"#);
        let id = post(&it, "/containers/c1/exec", &body).ok().json()["Id"].as_str().unwrap().to_owned();
        post(&it, &format!("/exec/{id}/start"), r#"{"Detach":true}"#).ok();
        id
    };
    let (runs, ends) = (exec("while ! test -e /go; do sleep 0.1; done; exit 6"), exec("sleep 0.5; exit 7"));
    it.kill_9();
    it.start();
    let told = it.get(&format!("/exec/{runs}/json")).ok().json();
    assert_eq!(
        (told["Running"].as_bool(), told["ProcessConfig"]["entrypoint"].as_str()),
        (Some(true), Some("sh"))
    );
    assert!(it.inspect("c1", "/ExecIDs").as_array().unwrap().iter().any(|id| id == runs.as_str()));
    let code = |id: &str| it.get(&format!("/exec/{id}/json")).ok().json()["ExitCode"].as_i64();
    wait_until("the end is known", || code(&ends) == Some(7));
    it.docker(["exec", "c1", "touch", "/go"]).ok();
    wait_until("the end is known", || code(&runs) == Some(6));
}

fn execs_have_users_directories_and_environments() {
    let it = Instance::new();
    it.docker(["run", "-d", "--name", "c1", "-e", "A=1", "busybox", "sleep", "1000"]).ok();
    let script = "id -u; pwd; echo $A $B; exit 4";
    it.docker(["exec", "-u", "web", "-w", "/var/www", "-e", "B=2", "c1", "sh", "-c", script])
        .code(4)
        .is("33\n/var/www\n1 2");
    it.docker(["exec", "c1", "no-such-program"]).code(126);
    it.docker(["exec", "--privileged", "c1", "grep", "CapEff", "/proc/self/status"]).ok().says("ffff");
    it.docker(["exec", "-u", "nobody-there", "c1", "true"]).code(126);
    it.docker(["exec", "-t", "c1", "tty"]).ok().says("/dev/pts/");
    it.docker(["exec", "-d", "c1", "touch", "/made"]).ok();
    wait_until("it has run", || it.docker(["exec", "c1", "ls", "/made"]).code == 0);
}

fn a_missing_layer_is_one_containers_trouble() {
    let it = Instance::new();
    it.docker(["run", "--name", "broken", "busybox", "true"]).ok();
    it.docker(["run", "--name", "whole", "busybox", "true"]).ok();
    let upper = it.inspect("broken", "/GraphDriver/Data/UpperDir");
    it.terminate();
    let directory = std::path::Path::new(upper.as_str().unwrap()).parent().unwrap().to_owned();
    std::fs::remove_dir_all(&directory).unwrap();
    it.start();
    it.docker(["start", "-a", "whole"]).ok();
    it.docker(["start", "broken"]).code(1).complains("file system");
    it.docker(["ps", "-a", "-s", "--format", "{{.Names}}"]).ok().says("broken").says("whole");
    it.docker(["cp", "broken:/etc/passwd", "-"]).code(1);
    it.docker(["rm", "broken"]).ok();
    it.docker(["rm", "whole"]).ok();
}

fn commit_keeps_what_was_changed() {
    let it = Instance::new();
    it.docker([
        "run",
        "-d",
        "--name",
        "c1",
        "--tmpfs",
        "/mem",
        "-v",
        "vol:/vol",
        "busybox",
        "sh",
        "-c",
        "echo 1 > /kept; echo 2 > /mem/x; echo 3 > /vol/x; sleep 1000",
    ])
    .ok();
    wait_until("it has written", || it.docker(["exec", "c1", "cat", "/vol/x"]).code == 0);
    it.docker(["commit", "--pause", "-c", "ENV A=b", "-c", "CMD [\"cat\", \"/kept\"]", "c1", "made"]).ok();
    assert_eq!(it.inspect("c1", "/State/Status"), "running");
    it.docker(["run", "--rm", "made"]).ok().is("1");
    it.docker(["run", "--rm", "made", "sh", "-c", "echo $A; ls /mem /vol"]).ok().says("b");
}

fn whoever_starts_an_exec_says_how_its_stream_is_framed() {
    let it = Instance::new();
    it.docker(["run", "-d", "--name", "c1", "busybox", "sleep", "1000"]).ok();
    let said = |tty: bool, start_tty: bool| {
        let body = format!(r#"{{"Cmd":["echo","said"],"Tty":{tty},"AttachStdout":true}}"#);
        let id = post(&it, "/containers/c1/exec", &body).ok().json()["Id"].as_str().unwrap().to_owned();
        let start = format!(r#"{{"Detach":false,"Tty":{start_tty}}}"#);
        post(&it, &format!("/exec/{id}/start"), &start).ok().stdout
    };
    assert_eq!(said(false, false), "\u{1}\0\0\0\0\0\0\u{5}said\n");
    assert_eq!(said(true, true), "said\r\n");
    assert_eq!(said(true, false), "\u{1}\0\0\0\0\0\0\u{6}said\r\n");
    assert_eq!(said(false, true), "said\n");
}

fn a_link_is_removed() {
    let it = Instance::new();
    it.docker(["run", "-d", "--name", "db", "busybox", "sleep", "1000"]).ok();
    it.docker(["create", "--name", "web", "--link", "db:data", "busybox", "cat", "/etc/hosts"]).ok();
    let remove = || {
        Command::new("curl")
            .args(["-sS", "-X", "DELETE", "--unix-socket", it.socket().to_str().unwrap()])
            .args(["http://d/containers/web/data?link=1"])
            .run()
    };
    remove().ok().is("");
    remove().ok().says("No such container");
    let hosts = it.docker(["start", "-a", "web"]).ok();
    assert!(!hosts.stdout.contains("data"), "{hosts}");
}
