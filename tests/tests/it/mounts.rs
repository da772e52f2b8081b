//! Mounts and volumes.

use sampan_testkit::{Command, Instance, Output, wait_until};

crate::cases! {
    a_bind_in_the_short_form_makes_its_source_and_the_long_form_does_not [Docker],
    what_was_asked_for_is_shown_again [Docker],
    volumes_of_another_container_are_shared [Docker],
    a_volume_begins_with_what_the_image_has_there [Docker],
    a_volume_with_options_is_mounted_while_it_is_used [Docker],
    a_part_of_a_volume_is_mounted [Curl],
    an_image_is_mounted [Curl],
    tmpfs_mounts_have_their_options [Docker],
    propagation_goes_both_ways_only_where_it_was_asked_for [Docker],
    what_is_below_a_read_only_bind_is_read_only_too [Docker],
    volumes_are_listed_filtered_and_pruned [Docker, Curl],
    volumes_that_make_no_sense_are_refused [Docker],
    a_read_only_root_has_its_writable_places [Docker],
}

/// Posts JSON.
pub(crate) fn post(it: &Instance, path: &str, body: &str) -> Output {
    Command::new("curl")
        .args(["-sS", "--unix-socket", it.socket().to_str().unwrap(), "-H", "Content-Type: application/json"])
        .args(["-d", body, &format!("http://d{path}")])
        .run()
}

fn a_bind_in_the_short_form_makes_its_source_and_the_long_form_does_not() {
    let it = Instance::new();
    let source = it.scratch().join("not/there");
    it.docker(["run", "--rm", "-v", &format!("{}:/x", source.display()), "busybox", "touch", "/x/f"]).ok();
    assert!(source.join("f").exists());
    let missing = it.scratch().join("missing");
    let mount = format!("type=bind,source={},target=/x", missing.display());
    it.docker(["create", "--mount", &mount, "busybox", "true"])
        .code(1)
        .complains("bind source path does not exist");
    let body = format!(
        r#"{{"Image":"busybox","Cmd":["touch","/x/f"],"HostConfig":{{"Mounts":[{{"Type":"bind","Source":"{}","Target":"/x","BindOptions":{{"CreateMountpoint":true}}}}]}}}}"#,
        missing.display()
    );
    post(&it, "/containers/create?name=c1", &body).ok();
    it.docker(["start", "-a", "c1"]).ok();
    assert!(missing.join("f").exists());
}

fn what_was_asked_for_is_shown_again() {
    let it = Instance::new();
    it.docker([
        "create",
        "--name",
        "c1",
        "-v",
        "v1:/a",
        "-v",
        "/tmp:/b:ro,rslave",
        "-v",
        "/anon",
        "--mount",
        "type=tmpfs,target=/t,tmpfs-size=1000000,tmpfs-mode=1770",
        "--mount",
        "type=volume,target=/vv",
        "--mount",
        "type=volume,source=v2,target=/v2,readonly,volume-nocopy",
        "--tmpfs",
        "/tt:size=5m",
        "busybox",
        "true",
    ])
    .ok();
    let binds = it.inspect("c1", "/HostConfig/Binds");
    let mut binds: Vec<&str> = binds.as_array().unwrap().iter().map(|b| b.as_str().unwrap()).collect();
    binds.sort_unstable();
    assert_eq!(binds, ["/tmp:/b:ro,rslave", "v1:/a"]);
    assert_eq!(it.inspect("c1", "/HostConfig/Tmpfs"), serde_json::json!({"/tt": "size=5m"}));
    let long = it.inspect("c1", "/HostConfig/Mounts");
    assert_eq!(long[0]["TmpfsOptions"], serde_json::json!({"SizeBytes": 1_000_000, "Mode": 0o1770}));
    assert_eq!((long[1]["Type"].as_str(), long[1]["Target"].as_str()), (Some("volume"), Some("/vv")));
    assert_eq!((long[2]["Source"].as_str(), long[2]["ReadOnly"].as_bool()), (Some("v2"), Some(true)));
    assert_eq!(long[2]["VolumeOptions"]["NoCopy"], true);
    let mounts = it.inspect("c1", "/Mounts");
    let at = |target: &str| {
        mounts.as_array().unwrap().iter().find(|m| m["Destination"] == target).unwrap().clone()
    };
    assert_eq!((at("/a")["Mode"].as_str(), at("/a")["Type"].as_str()), (Some("z"), Some("volume")));
    assert_eq!((at("/b")["Propagation"].as_str(), at("/b")["RW"].as_bool()), (Some("rslave"), Some(false)));
    assert_eq!((at("/t")["Type"].as_str(), at("/anon")["Driver"].as_str()), (Some("tmpfs"), Some("local")));
    assert!(mounts.as_array().unwrap().iter().all(|m| m["Destination"] != "/tt"));
}

fn volumes_of_another_container_are_shared() {
    let it = Instance::new();
    it.docker([
        "run",
        "--name",
        "c1",
        "-v",
        "/data",
        "-v",
        "named:/named",
        "busybox",
        "sh",
        "-c",
        "echo 1 > /data/f; echo 2 > /named/f",
    ])
    .ok();
    it.docker(["run", "--rm", "--volumes-from", "c1", "busybox", "cat", "/data/f", "/named/f"])
        .ok()
        .is("1\n2");
    it.docker(["run", "--name", "c2", "--volumes-from", "c1:ro", "busybox", "touch", "/data/x"])
        .code(1)
        .complains("Read-only");
    it.docker(["run", "--rm", "--volumes-from", "c1", "-v", "other:/named", "busybox", "ls", "/named"])
        .ok()
        .is("");
    assert_eq!(it.inspect("c2", "/HostConfig/VolumesFrom"), serde_json::json!(["c1:ro"]));
    it.docker(["run", "--rm", "--volumes-from", "nobody", "busybox", "true"])
        .code(125)
        .complains("No such container: nobody");
    // What another container still has stays, even if its own goes.
    it.docker(["rm", "-v", "c1"]).ok();
    it.docker(["start", "-a", "c2"]).code(1).complains("Read-only");
    it.docker(["rm", "-v", "c2"]).ok();
}

fn a_volume_begins_with_what_the_image_has_there() {
    let it = Instance::new();
    it.docker(["run", "--rm", "-v", "v1:/etc", "busybox", "cat", "/etc/group"]).ok().says("extra:x:44");
    it.docker(["run", "--rm", "-v", "v2:/etc:nocopy", "busybox", "ls", "/etc/group"]).code(1);
    // One that was made empty before is filled as well; one that has something is not.
    it.docker(["volume", "create", "v3"]).ok();
    it.docker(["run", "--rm", "-v", "v3:/etc", "busybox", "rm", "/etc/group"]).ok();
    it.docker(["run", "--rm", "-v", "v3:/etc", "busybox", "ls", "/etc/group"]).code(1);
}

fn a_volume_with_options_is_mounted_while_it_is_used() {
    let it = Instance::new();
    let mounted = |name: &str| {
        let at = it.root().join("volumes").join(name).join("_data");
        std::fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .any(|l| l.contains(at.to_str().unwrap()))
    };
    it.docker([
        "volume",
        "create",
        "-o",
        "type=tmpfs",
        "-o",
        "device=tmpfs",
        "-o",
        "o=size=3m,uid=33",
        "mem",
    ])
    .ok();
    assert!(!mounted("mem"));
    it.docker(["run", "-d", "--name", "c1", "-v", "mem:/m", "busybox", "sleep", "1000"]).ok();
    it.docker(["run", "-d", "--name", "c2", "-v", "mem:/m", "busybox", "sleep", "1000"]).ok();
    it.docker(["exec", "c1", "sh", "-c", "stat -c %u /m; df -k /m | grep -o 3072; echo x > /m/f"])
        .ok()
        .says("33\n3072");
    it.docker(["exec", "c2", "cat", "/m/f"]).ok().is("x");
    it.docker(["rm", "-f", "c1"]).ok();
    assert!(mounted("mem"));
    it.kill_9();
    it.start();
    it.docker(["exec", "c2", "cat", "/m/f"]).ok().is("x");
    it.docker(["volume", "rm", "mem"]).code(1).complains("volume is in use");
    it.docker(["rm", "-f", "c2"]).ok();
    assert!(!mounted("mem"));
    let directory = it.scratch().join("of-the-host");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("f"), "host\n").unwrap();
    it.docker([
        "volume",
        "create",
        "-o",
        "type=none",
        "-o",
        &format!("device={}", directory.display()),
        "-o",
        "o=bind,ro",
        "bound",
    ])
    .ok();
    it.docker(["run", "--rm", "-v", "bound:/b", "busybox", "sh", "-c", "cat /b/f; touch /b/x"])
        .code(1)
        .says("host")
        .complains("Read-only");
    wait_until("it is unmounted", || !mounted("bound"));
    assert!(directory.join("f").exists());
    it.docker(["volume", "create", "-o", "type=ext4", "-o", "device=/dev/nothing", "bad"]).ok();
    it.docker(["run", "--rm", "-v", "bad:/b", "busybox", "true"])
        .code(125)
        .complains("failed to mount local volume");
    let told = it.docker(["volume", "inspect", "mem"]).ok().json();
    assert_eq!(told[0]["Options"]["o"], "size=3m,uid=33");
}

fn a_part_of_a_volume_is_mounted() {
    let it = Instance::new();
    it.sampan([
        "run",
        "--rm",
        "-v",
        "v1:/v",
        "busybox",
        "sh",
        "-c",
        "mkdir -p /v/a/b; echo 1 > /v/a/b/f; ln -s /etc /v/out",
    ])
    .ok();
    let create = |name: &str, path: &str| {
        let body = format!(
            r#"{{"Image":"busybox","Cmd":["ls","-d","/x","/x/f","/x/passwd"],"HostConfig":{{"Mounts":[{{"Type":"volume","Source":"v1","Target":"/x","VolumeOptions":{{"Subpath":"{path}"}}}}]}}}}"#
        );
        post(&it, &format!("/containers/create?name={name}"), &body)
    };
    create("c1", "a/b").ok();
    it.sampan(["start", "-a", "c1"]).says("/x/f");
    create("c2", "../..").says("subpath must be a relative path within the volume");
    create("c3", "nothing").ok();
    it.sampan(["start", "c3"]).code(1).complains("nothing");
    // A link leads nowhere but inside.
    create("c4", "out").ok();
    it.sampan(["start", "c4"]).code(1);
    for name in ["c1", "c3", "c4"] {
        it.sampan(["rm", name]).ok();
    }
}

fn an_image_is_mounted() {
    let it = Instance::new();
    let body = r#"{"Image":"busybox","Cmd":["sh","-c","cat /img/etc/group; touch /img/x"],"HostConfig":{"Mounts":[{"Type":"image","Source":"busybox","Target":"/img"}]}}"#;
    post(&it, "/containers/create?name=c1", body).ok();
    it.sampan(["start", "-a", "c1"]).says("extra:x:44").complains("Read-only");
    it.restart();
    it.sampan(["start", "-a", "c1"]).says("extra:x:44");
    it.sampan(["rm", "c1"]).ok();
}

fn tmpfs_mounts_have_their_options() {
    let it = Instance::new();
    it.docker([
        "run",
        "--rm",
        "--tmpfs",
        "/t:size=4m,mode=700,exec",
        "busybox",
        "sh",
        "-c",
        "stat -c %a /t; grep ' /t ' /proc/mounts",
    ])
    .ok()
    .says("700")
    .says("size=4096k");
    let mounts = it.docker(["run", "--rm", "--tmpfs", "/t", "busybox", "grep", " /t ", "/proc/mounts"]).ok();
    for option in ["noexec", "nosuid", "nodev"] {
        assert!(mounts.stdout.contains(option), "{mounts}");
    }
    it.docker([
        "run",
        "--rm",
        "--mount",
        "type=tmpfs,target=/t,tmpfs-size=2097152,readonly",
        "busybox",
        "touch",
        "/t/x",
    ])
    .code(1)
    .complains("Read-only");
    it.docker(["run", "--rm", "--shm-size", "3m", "busybox", "df", "-k", "/dev/shm"]).ok().says("3072");
}

fn propagation_goes_both_ways_only_where_it_was_asked_for() {
    let it = Instance::new();
    let source = it.scratch().join("shared");
    std::fs::create_dir_all(source.join("inner")).unwrap();
    let mount = |arguments: &[&str]| Command::new("mount").args(arguments).run().ok();
    let path = source.to_str().unwrap();
    mount(&["--bind", path, path]);
    mount(&["--make-shared", path]);
    for (name, mode) in [("pp", "rprivate"), ("ss", "rslave"), ("hh", "rshared")] {
        it.docker([
            "run",
            "-d",
            "--name",
            name,
            "--privileged",
            "-v",
            &format!("{path}:/s:{mode}"),
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    }
    mount(&["-t", "tmpfs", "tmpfs", source.join("inner").to_str().unwrap()]);
    std::fs::write(source.join("inner/f"), "").unwrap();
    let sees = |name: &str, path: &str| it.docker(["exec", name, "ls", path]).code == 0;
    assert!(!sees("pp", "/s/inner/f") && sees("ss", "/s/inner/f") && sees("hh", "/s/inner/f"));
    it.docker(["exec", "hh", "sh", "-c", "mkdir /s/from; mount -t tmpfs tmpfs /s/from; touch /s/from/g"])
        .ok();
    assert!(source.join("from/g").exists() && sees("ss", "/s/from/g"));
    it.docker(["rm", "-f", "pp", "ss", "hh"]).ok();
    Command::new("umount").args(["-R", "-l", path]).run().ok();
}

fn what_is_below_a_read_only_bind_is_read_only_too() {
    let it = Instance::new();
    let source = it.scratch().join("top");
    std::fs::create_dir_all(source.join("inner")).unwrap();
    let inner = source.join("inner");
    Command::new("mount").args(["-t", "tmpfs", "tmpfs", inner.to_str().unwrap()]).run().ok();
    let bind = format!("{}:/s:ro", source.display());
    it.docker(["run", "--rm", "-v", &bind, "busybox", "touch", "/s/inner/x"]).code(1).complains("Read-only");
    let body = format!(
        r#"{{"Image":"busybox","Cmd":["touch","/s/inner/x"],"HostConfig":{{"Mounts":[{{"Type":"bind","Source":"{}","Target":"/s","ReadOnly":true,"BindOptions":{{"ReadOnlyNonRecursive":true}}}}]}}}}"#,
        source.display()
    );
    post(&it, "/containers/create?name=c1", &body).ok();
    it.docker(["start", "-a", "c1"]).ok();
    assert!(inner.join("x").exists());
    it.docker(["rm", "c1"]).ok();
    Command::new("umount").args([inner.to_str().unwrap()]).run().ok();
}

fn volumes_are_listed_filtered_and_pruned() {
    let it = Instance::new();
    it.docker(["volume", "create", "--label", "a=b", "v1"]).ok().is("v1");
    it.docker(["volume", "create", "v2"]).ok();
    it.docker(["create", "--name", "c1", "-v", "v2:/x", "busybox", "true"]).ok();
    let list =
        |filter: &str| it.docker(["volume", "ls", "-q", "--filter", filter]).ok().text().replace('\n', " ");
    assert_eq!((list("dangling=true"), list("dangling=false")), ("v1".to_owned(), "v2".to_owned()));
    assert_eq!(
        (list("label=a=b"), list("name=v"), list("driver=local")),
        ("v1".to_owned(), "v1 v2".to_owned(), "v1 v2".to_owned())
    );
    post(&it, "/v1.50/volumes/create", r#"{"Labels":{"x":"y"}}"#).ok();
    let prune = |query: &str| {
        post(&it, &format!("/v1.50/volumes/prune{query}"), "").ok().json()["VolumesDeleted"].clone()
    };
    assert!(prune("?filters=%7B%22label%22%3A%5B%22nope%22%5D%7D").is_null());
    assert_eq!(prune("").as_array().unwrap().len(), 1, "one without a name");
    assert_eq!(prune("?filters=%7B%22all%22%3A%5B%22true%22%5D%7D"), serde_json::json!(["v1"]));
    it.docker(["volume", "rm", "v2"]).code(1).complains("volume is in use - [");
    it.docker(["rm", "c1"]).ok();
    // Clients of old take all that is not used.
    it.docker(["volume", "prune", "-f"]).ok().says("v2");
}

fn volumes_that_make_no_sense_are_refused() {
    let it = Instance::new();
    let create = |arguments: &[&str]| it.docker(["volume", "create"].iter().chain(arguments)).code(1);
    create(&["-o", "type=tmpfs", "vx"]).complains("create vx: missing required option: \"device\"");
    create(&["-o", "foo=x", "vx"]).complains("create vx: invalid option: \"foo\"");
    create(&["-d", "nope", "vx"])
        .complains("create vx: error looking up volume plugin nope: plugin \"nope\" not found");
    create(&["a b"]).complains("includes invalid characters for a local volume name");
    it.docker(["volume", "inspect", "vx"]).code(1).complains("No such volume: vx");
    it.docker(["run", "--rm", "-v", "v:/a:what", "busybox", "true"])
        .code(125)
        .complains("invalid mode: what");
    let body = r#"{"Image":"busybox","Cmd":"true","HostConfig":{"Binds":["v:/a","w:/a/"]}}"#;
    post(&it, "/containers/create", body).says("Duplicate mount point: /a");
}

fn a_read_only_root_has_its_writable_places() {
    let it = Instance::new();
    let script = "touch /x; touch /dev/shm/y && echo shm; echo a > /etc/hosts; touch /t/z && echo tmpfs";
    let said = it.docker(["run", "--rm", "--read-only", "--tmpfs", "/t", "busybox", "sh", "-c", script]).ok();
    assert_eq!(said.text(), "shm\ntmpfs", "{said}");
    said.complains("/x: Read-only").complains("/etc/hosts: Read-only");
}
