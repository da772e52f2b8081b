//! What client libraries (docker-py and others) send and expect, where it differs from what Docker's command line does.

use sampan_testkit::Instance;
use serde_json::Value;

use crate::mounts::post;

crate::cases! {
    requests_are_read_as_go_reads_them [Curl],
    what_the_image_says_is_in_the_containers_configuration [Docker, Curl],
    an_image_of_a_container_says_what_the_container_said [Docker, Curl],
    a_commit_may_bring_a_configuration [Docker, Curl],
    a_container_that_ends_meanwhile_is_committed_all_the_same [Docker, Curl],
    builds_have_several_further_hosts [Curl],
    what_a_command_says_at_once_is_in_its_log_at_once [Curl],
    events_of_images_are_dockers [Docker, Curl],
}

/// Posts to the container's route.
fn verb(it: &Instance, name: &str, verb: &str) {
    post(it, &format!("/containers/{name}/{verb}"), "").ok();
}

fn requests_are_read_as_go_reads_them() {
    let it = Instance::new();
    // Names in any case, and null for what is not said.
    let body = r#"{"image":"busybox","CMD":["sleep","1000"],"labels":{"a":"1","A":"2"},"Volumes":null,"hostConfig":{"networkmode":"none","Binds":null,"LogConfig":{"type":"json-file","config":null}}}"#;
    post(&it, "/containers/create?name=first&name=second", body).ok();
    assert_eq!(it.inspect("first", "/Config/Labels").to_string(), r#"{"A":"2","a":"1"}"#);
    assert_eq!(it.inspect("first", "/HostConfig/NetworkMode"), "none");
    verb(&it, "first", "start");
    let exec = r#"{"cmd":["cat"],"attachStdout":true,"detachKeys":"ctrl-x"}"#;
    let id = post(&it, "/containers/first/exec", exec).ok().json()["Id"].as_str().unwrap().to_owned();
    let shown = it.get(&format!("/exec/{id}/json")).ok().json();
    assert_eq!((&shown["DetachKeys"], &shown["OpenStdout"]), (&"ctrl-x".into(), &true.into()), "{shown}");
    post(&it, "/containers/create", r#"{"Image":"busybox","Cmd":{"a":1}}"#).ok().says("invalid JSON");
}

/// All events until now, which ends with this second.
fn events(it: &Instance) -> Vec<Value> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let told = it.get(&format!("/events?since=0&until={}", now + 1)).ok().stdout;
    told.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const DOCKERFILE: &str = "FROM busybox\nENV PATH=/bin A=1 B=2\nWORKDIR /tmp\nUSER 1000\nENTRYPOINT [\"echo\"]\nCMD [\"hello\"]\nSTOPSIGNAL SIGINT\nEXPOSE 80\nLABEL l=image\n";

fn build(it: &Instance, name: &str) {
    std::fs::write(it.scratch().join("Dockerfile"), DOCKERFILE).unwrap();
    it.sampan(["build", "-q", "-t", name, it.scratch().to_str().unwrap()]).ok();
}

fn what_the_image_says_is_in_the_containers_configuration() {
    let it = Instance::new();
    build(&it, "made");
    it.docker(["create", "--name", "plain", "made"]).ok();
    let config = |name: &str, key: &str| it.inspect(name, &format!("/Config/{key}")).to_string();
    assert_eq!(config("plain", "Env"), r#"["PATH=/bin","A=1","B=2"]"#);
    assert_eq!(config("plain", "WorkingDir"), r#""/tmp""#);
    assert_eq!(config("plain", "User"), r#""1000""#);
    assert_eq!(config("plain", "Entrypoint"), r#"["echo"]"#);
    assert_eq!(config("plain", "Cmd"), r#"["hello"]"#);
    assert_eq!(config("plain", "StopSignal"), r#""SIGINT""#);
    it.docker(["create", "--name", "own", "-e", "B=3", "-w", "/", "-u", "0", "made", "x"]).ok();
    assert_eq!(config("own", "Env"), r#"["B=3","PATH=/bin","A=1"]"#);
    assert_eq!(config("own", "WorkingDir"), r#""/""#);
    assert_eq!(config("own", "User"), r#""0""#);
    assert_eq!(config("own", "Cmd"), r#"["x"]"#);
    it.docker(["start", "-a", "own"]).ok().is("x");
    // Another entrypoint has no use for the image's arguments, and `Foo` alone says that there is no such variable.
    let body = r#"{"Image":"made","Entrypoint":["env"],"Env":["A"]}"#;
    post(&it, "/containers/create?name=entry", body).ok();
    assert_eq!(config("entry", "Cmd"), "null");
    assert_eq!(config("entry", "Env"), r#"["A","PATH=/bin","B=2"]"#);
    let said = it.docker(["start", "-a", "entry"]).ok();
    assert!(said.stdout.contains("B=2\n") && !said.stdout.contains("A="), "{said}");
    // None at all: the image's is dropped.
    let body = r#"{"Image":"made","Entrypoint":[""],"Cmd":["pwd"]}"#;
    post(&it, "/containers/create?name=none", body).ok();
    assert_eq!(config("none", "Entrypoint"), "null");
    it.docker(["start", "-a", "none"]).ok().is("/tmp");
}

fn an_image_of_a_container_says_what_the_container_said() {
    let it = Instance::new();
    build(&it, "base");
    it.docker([
        "run",
        "--name",
        "c1",
        "-e",
        "B=3",
        "--entrypoint",
        "env",
        "-l",
        "l=own",
        "-h",
        "host",
        "base",
    ])
    .ok();
    let commit = ["commit", "-m", "note", "-c", "EXPOSE 8000", "-c", "ENV D=5", "c1", "made:1"];
    let id = it.docker(commit).ok().text().to_owned();
    let said = it.docker(["run", "--rm", "made:1"]).ok().stdout;
    assert!(["A=1\n", "B=3\n", "D=5\n"].iter().all(|line| said.contains(line)), "{said}");
    let image = it.docker(["inspect", "made:1"]).ok().json()[0].clone();
    let container = it.docker(["inspect", "c1"]).ok().json()[0].clone();
    assert_eq!(image["Container"], container["Id"]);
    assert_eq!(image["ContainerConfig"]["Image"], "base");
    assert_eq!(image["ContainerConfig"]["Entrypoint"].to_string(), r#"["env"]"#);
    assert_eq!(image["Parent"], it.inspect("base", "/Id"));
    assert_eq!(image["Config"]["Labels"]["l"], "own");
    assert_eq!(image["Config"]["Hostname"], "host");
    assert_eq!(image["Config"]["ExposedPorts"].to_string(), r#"{"80/tcp":{},"8000/tcp":{}}"#);
    assert_eq!(image["Comment"], "note");
    let events = events(&it);
    let event = &events.iter().find(|event| event["Action"] == "commit").unwrap()["Actor"]["Attributes"];
    let told = (&event["comment"], &event["imageRef"], &event["imageID"]);
    assert_eq!(told, (&"note".into(), &"made:1".into(), &id.into()), "{event}");
}

fn a_commit_may_bring_a_configuration() {
    let it = Instance::new();
    it.docker(["run", "--name", "c1", "-e", "A=1", "busybox", "touch", "/kept"]).ok();
    let body = r#"{"Cmd":["ls","/kept"],"Env":["B=2"],"Labels":{"x":"y"},"User":null}"#;
    post(&it, "/commit?container=c1&repo=made&changes=ENV%20C=3&changes=LABEL%20z=1", body).ok();
    assert_eq!(it.inspect("made", "/Config/Env").to_string(), r#"["B=2","C=3","A=1"]"#);
    assert_eq!(it.inspect("made", "/Config/Labels").to_string(), r#"{"x":"y","z":"1"}"#);
    it.docker(["run", "--rm", "made"]).ok().is("/kept");
    // What can't be applied makes no image.
    post(&it, "/commit?container=c1&repo=other&changes=RUN%20x", "{}").ok().says("message");
    it.docker(["inspect", "other"]).code(1);
}

fn a_container_that_ends_meanwhile_is_committed_all_the_same() {
    let it = Instance::new();
    for n in 0..8 {
        post(&it, &format!("/containers/create?name=c{n}"), r#"{"Image":"busybox","Cmd":["touch","/x"]}"#)
            .ok();
        verb(&it, &format!("c{n}"), "start");
        let made = post(&it, &format!("/commit?container=c{n}"), "{}").ok().json();
        assert!(made["Id"].as_str().is_some_and(|id| id.starts_with("sha256:")), "{made}");
    }
}

fn builds_have_several_further_hosts() {
    let it = Instance::new();
    let directory = it.scratch().join("context");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("Dockerfile"), "FROM busybox\nRUN cp /etc/hosts /hosts-file\n").unwrap();
    let tar = it.scratch().join("context.tar");
    sampan_testkit::Command::new("tar")
        .args(["-cf", tar.to_str().unwrap(), "-C", directory.to_str().unwrap(), "."])
        .run()
        .ok();
    sampan_testkit::Command::new("curl")
        .args([
            "-sS",
            "--unix-socket",
            it.socket().to_str().unwrap(),
            "-H",
            "Content-Type: application/x-tar",
        ])
        .args(["--data-binary", &format!("@{}", tar.display())])
        .args(["http://d/build?t=made&extrahosts=one.test:127.0.0.2&extrahosts=two.test:127.0.0.3"])
        .run()
        .ok()
        .says("Successfully tagged made:latest");
    let hosts = it.sampan(["run", "--rm", "made", "cat", "/hosts-file"]).ok();
    assert!(hosts.stdout.contains("127.0.0.2\tone.test\n127.0.0.3\ttwo.test\n"), "{hosts}");
}

fn events_of_images_are_dockers() {
    let it = Instance::new();
    let saved = it.scratch().join("saved.tar");
    let saved = saved.to_str().unwrap();
    it.docker(["create", "--name", "c1", "busybox", "true"]).ok();
    it.docker(["commit", "-c", "LABEL l=v", "c1", "made:1"]).ok();
    it.docker(["tag", "made:1", "made:2"]).ok();
    it.docker(["save", "-o", saved, "made:2"]).ok();
    it.docker(["rmi", "made:2", "made:1"]).ok();
    it.docker(["load", "-i", saved]).ok();
    it.docker(["rm", "c1"]).ok();
    it.docker(["container", "prune", "-f"]).ok();
    it.docker(["volume", "prune", "-f"]).ok();
    it.docker(["image", "prune", "-af"]).ok();
    // Ids and sizes differ from run to run.
    let plain = |mut event: Value| {
        for value in event["Actor"]["Attributes"].as_object_mut().unwrap().values_mut() {
            let text = value.as_str().unwrap();
            if text.starts_with("sha256:") {
                *value = "ID".into();
            } else if text.len() > 4 && text.bytes().all(|b| b.is_ascii_digit()) {
                *value = "BYTES".into();
            }
        }
        let word = |key: &str| event[key].as_str().unwrap().to_owned();
        format!("{} {} {}", word("Type"), word("Action"), event["Actor"]["Attributes"])
    };
    // What came before is the image's import.
    let lines: Vec<String> =
        events(&it).into_iter().skip_while(|event| event["Action"] != "commit").map(plain).collect();
    let expected = [
        r#"container commit {"comment":"","image":"busybox","imageID":"ID","imageRef":"made:1","name":"c1"}"#,
        r#"image tag {"l":"v","name":"made:2"}"#,
        r#"image save {"l":"v","name":"ID"}"#,
        r#"image untag {"l":"v","name":"ID"}"#,
        r#"image untag {"l":"v","name":"ID"}"#,
        r#"image delete {"name":"ID"}"#,
        r#"image load {"l":"v","name":"ID"}"#,
        r#"container destroy {"image":"busybox","name":"c1"}"#,
        r#"container prune {"reclaimed":"0"}"#,
        r#"volume prune {"reclaimed":"0"}"#,
        r#"image untag {"l":"v","name":"ID"}"#,
        r#"image delete {"name":"ID"}"#,
        r#"image untag {"name":"ID"}"#,
        r#"image delete {"name":"ID"}"#,
        r#"image prune {"reclaimed":"BYTES"}"#,
    ];
    assert_eq!(lines, expected);
}

fn what_a_command_says_at_once_is_in_its_log_at_once() {
    let it = Instance::new();
    for n in 0..8 {
        let body = r#"{"Image":"busybox","Cmd":["sh","-c","echo one; echo two"],"Tty":true}"#;
        post(&it, &format!("/containers/create?name=c{n}"), body).ok();
        verb(&it, &format!("c{n}"), "start");
        it.get(&format!("/containers/c{n}/logs?stdout=1")).ok().says("one\r\ntwo\r\n");
    }
}
