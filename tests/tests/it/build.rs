//! Builds, through our client.

use std::path::{Path, PathBuf};

use sampan_testkit::{Instance, Output, wait_until};

crate::cases! {
    a_multi_stage_dockerfile_gives_the_expected_tree,
    what_has_not_changed_is_not_run_again,
    a_target_and_a_file_can_be_chosen,
    a_client_that_goes_away_cancels_its_build,
    a_build_uses_the_network_and_the_users_of_the_image,
}

const DOCKERFILE: &str = r#"# syntax is Docker's
ARG BASE=busybox
FROM ${BASE} AS builder
ARG VERSION=1
WORKDIR /src
COPY . .
RUN echo "built $VERSION" > out && \
    ls -A >listing
RUN mkdir -p /tree/sub && cp out /tree/sub/ && ln -s sub/out /tree/link && chmod 640 /tree/sub/out

FROM busybox
LABEL maintainer="nobody" purpose=test
ENV GREETING=hello NAME="the world"
COPY --from=builder /tree/ /app/
COPY --from=builder --chown=web:web /src/listing /app/listing
ADD archive.tar.gz /added/
ADD file.txt /added/file.txt
RUN addgroup -g 77 made || echo made:x:77: >>/etc/group
WORKDIR /app
WORKDIR sub
USER web
VOLUME /data
EXPOSE 80/tcp 53/udp
SHELL ["/bin/sh", "-e", "-c"]
RUN test "$(id -u)" = 33 && test "$PWD" = /app/sub && echo "$GREETING $NAME" >/tmp/who
ENTRYPOINT ["/bin/echo", "entry"]
CMD ["default", "arguments"]
"#;

fn context(it: &Instance) -> PathBuf {
    let context = it.scratch().join("context");
    std::fs::create_dir_all(context.join("src/deep")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(context.join(name), text).unwrap();
    write("Dockerfile", DOCKERFILE);
    write("file.txt", "a file\n");
    write("src/main", "main\n");
    write("src/deep/part", "part\n");
    write("ignored.log", "log\n");
    write("kept.log", "kept\n");
    write(".dockerignore", "# not these\n*.log\n!kept.log\nsrc/deep\n");
    let packed = flate(&context);
    std::fs::write(context.join("archive.tar.gz"), packed).unwrap();
    context
}

/// A compressed tar with two files in it.
fn flate(context: &Path) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in [("one", "1\n"), ("two/three", "3\n")] {
        // Some fields stay blank: readers must take that.
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    let plain = context.with_extension("plain.tar");
    std::fs::write(&plain, tar.into_inner().unwrap()).unwrap();
    let status = std::process::Command::new("gzip").arg("-nf").arg(&plain).status().unwrap();
    assert!(status.success());
    std::fs::read(plain.with_extension("tar.gz")).unwrap()
}

fn build(it: &Instance, context: &Path, more: &[&str]) -> Output {
    let arguments = ["build", "-t", "built"].iter().chain(more).copied().chain([context.to_str().unwrap()]);
    it.sampan(arguments)
}

fn cached(output: &Output) -> usize {
    output.stderr.matches(" CACHED").count()
}

fn a_multi_stage_dockerfile_gives_the_expected_tree() {
    let it = Instance::new();
    let context = context(&it);
    build(&it, &context, &["--build-arg", "VERSION=2"]).ok();
    let list = "find /app /added | sort";
    let tree = it.sampan(["run", "--rm", "-u", "0", "--entrypoint", "sh", "built", "-c", list]).ok();
    expect_test::expect![[r#"
        /added
        /added/file.txt
        /added/one
        /added/two
        /added/two/three
        /app
        /app/link
        /app/listing
        /app/sub
        /app/sub/out
    "#]]
    .assert_eq(&tree.stdout);
    it.sampan(["run", "--rm", "built"]).ok().is("entry default arguments");
    it.sampan(["run", "--rm", "built", "other"]).ok().is("entry other");
    let run = |script: &str| {
        it.sampan(["run", "--rm", "-u", "0", "--entrypoint", "sh", "built", "-c", script]).ok()
    };
    run("cat /app/sub/out /tmp/who").is("built 2\nhello the world");
    run("cat /app/listing")
        .is(".dockerignore\nDockerfile\narchive.tar.gz\nfile.txt\nkept.log\nlisting\nout\nsrc");
    run("stat -c '%a %u:%g %n' /app/sub/out /app/listing; readlink /app/link; pwd")
        .is("640 0:0 /app/sub/out\n644 33:33 /app/listing\nsub/out\n/app/sub");
    run("grep made /etc/group").is("made:x:77:");
    run("cat /added/one /added/two/three /added/file.txt").is("1\n3\na file");
    run("test -e /src || echo no source").is("no source");
    let config = it.inspect("built", "/Config");
    let shown = serde_json::json!({
        "Cmd": config["Cmd"], "Entrypoint": config["Entrypoint"], "User": config["User"], "WorkingDir": config["WorkingDir"],
        "Volumes": config["Volumes"], "ExposedPorts": config["ExposedPorts"], "Labels": config["Labels"],
    });
    expect_test::expect![[r#"{"Cmd":["default","arguments"],"Entrypoint":["/bin/echo","entry"],"ExposedPorts":{"53/udp":{},"80/tcp":{}},"Labels":{"maintainer":"nobody","purpose":"test"},"User":"web","Volumes":{"/data":{}},"WorkingDir":"/app/sub"}"#]]
    .assert_eq(&shown.to_string());
}

fn what_has_not_changed_is_not_run_again() {
    let it = Instance::new();
    let context = it.scratch().join("context");
    std::fs::create_dir(&context).unwrap();
    let write = |name: &str, text: &str| std::fs::write(context.join(name), text).unwrap();
    write("Dockerfile", "FROM busybox\nRUN echo first\nCOPY a /a\nRUN cat /a\nCOPY b /b\nRUN cat /b\n");
    write(".dockerignore", "ignored\n");
    for name in ["a", "b", "ignored"] {
        write(name, "1\n");
    }
    let first = build(&it, &context, &[]).ok();
    assert_eq!(cached(&first), 0, "{first}");
    let id = it.inspect("built", "/Id");
    assert_eq!(cached(&build(&it, &context, &[]).ok()), 5);
    assert_eq!(it.inspect("built", "/Id"), id);
    // Only content counts, not times.
    write("a", "1\n");
    write("ignored", "2\n");
    assert_eq!(cached(&build(&it, &context, &[]).ok()), 5);
    write("b", "2\n");
    let changed = build(&it, &context, &[]).ok();
    assert_eq!(cached(&changed), 3, "{changed}");
    write("b", "1\n");
    assert_eq!(cached(&build(&it, &context, &[]).ok()), 5, "what was built before is known still");
    write("a", "2\n");
    assert_eq!(cached(&build(&it, &context, &[]).ok()), 1);
    assert_eq!(cached(&build(&it, &context, &["--no-cache"]).ok()), 0);
    it.restart();
    assert_eq!(cached(&build(&it, &context, &[]).ok()), 5, "the cache outlives the daemon");
}

fn a_target_and_a_file_can_be_chosen() {
    let it = Instance::new();
    let context = it.scratch().join("context");
    std::fs::create_dir_all(context.join("docker")).unwrap();
    let text = "FROM busybox AS one\nCMD [\"echo\", \"one\"]\nFROM one AS two\nCMD [\"echo\", \"two\"]\nFROM two\nRUN false\n";
    let file = context.join("docker/Other");
    std::fs::write(&file, text).unwrap();
    for stage in ["one", "two"] {
        build(&it, &context, &["-f", file.to_str().unwrap(), "--target", stage]).ok();
        it.sampan(["run", "--rm", "built"]).ok().is(stage);
    }
    let failed = build(&it, &context, &["-f", file.to_str().unwrap()]).code(1);
    assert!(failed.stderr.contains("Other:6"), "{failed}");
    it.sampan_command(["build", "-t", "scratch", "-"]).input("FROM scratch\nCOPY --from=busybox /bin/busybox /busybox\nCMD [\"/busybox\", \"echo\", \"from scratch\"]\n").run().ok();
    it.sampan(["run", "--rm", "scratch"]).ok().is("from scratch");
}

fn a_client_that_goes_away_cancels_its_build() {
    let it = Instance::new();
    let context = it.scratch().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), "FROM busybox\nRUN echo begun; sleep 1000\n").unwrap();
    let images = it.sampan(["images", "-aq"]).ok().stdout;
    let arguments = ["build", "--progress", "json", "-t", "built", context.to_str().unwrap()];
    let client = it.sampan_command(arguments).start();
    client.wait_for_output(r#""text":"begun"#);
    client.signal(rustix::process::Signal::KILL);
    drop(client);
    wait_until("the step has been killed", || it.leftovers().is_empty());
    assert_eq!(it.sampan(["images", "-aq"]).ok().stdout, images);
    std::fs::write(context.join("Dockerfile"), "FROM busybox\nRUN echo done >/x\n").unwrap();
    build(&it, &context, &[]).ok();
}

fn a_build_uses_the_network_and_the_users_of_the_image() {
    let it = Instance::new();
    let context = it.scratch().join("context");
    std::fs::create_dir(&context).unwrap();
    let text = format!(
        "FROM busybox\nRUN ping -c 1 -W 10 {} && grep nameserver /etc/resolv.conf\nUSER 33:44\nRUN id -u && id -g\n",
        it.gateway()
    );
    std::fs::write(context.join("Dockerfile"), text).unwrap();
    let output = build(&it, &context, &["--progress=plain"]);
    let output = if output.code == 0 { output } else { build(&it, &context, &[]).ok() };
    assert!(output.stderr.contains(" 33\n") && output.stderr.contains(" 44\n"), "{output}");
    // What the step was given for its network is none of the image's.
    it.sampan(["run", "-d", "--name", "c1", "--network", "none", "built", "sleep", "1000"]).ok();
    let file = it.scratch().join("exported.tar");
    it.sampan(["export", "-o", file.to_str().unwrap(), "c1"]).ok();
    let mut archive = tar::Archive::new(std::fs::File::open(&file).unwrap());
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        if path.ends_with("etc/resolv.conf") || path.ends_with("etc/hosts") {
            assert_eq!(entry.size(), 0, "{}", path.display());
        }
    }
}
