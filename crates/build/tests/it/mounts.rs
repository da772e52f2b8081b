//! `RUN --mount`: what commands see, and that nothing of it stays.

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};

use sampan_build::{
    BuildOptions, Context, Digests, ExitStatus, NamedContext, RunStep, RunnerError, Secret, StepMount,
    StepRunner, Stream,
};

use crate::support::Test;

#[test]
fn binds_show_files_and_keep_nothing() {
    let test = Test::new();
    let dockerfile = "\
FROM busybox AS other
RUN mkdir -p /deep/er && echo other > /deep/er/f && ln -s er /deep/link
FROM busybox
RUN --mount=target=/ctx cat /ctx/a /ctx/d/b > /out1; echo no > /ctx/a || echo refused >> /out1
RUN --mount=source=d/b,target=/one/file cat /one/file > /out2
RUN --mount=from=other,source=/deep/link,target=/o cat /o/f > /out3
RUN --mount=from=other,target=/o,rw echo new > /o/deep/er/f && cat /o/deep/er/f > /out4
RUN --mount=from=other,target=/o cat /o/deep/er/f > /out5
RUN --mount=type=tmpfs,target=/tmp/t,size=1m echo t > /tmp/t/x && cat /tmp/t/x > /out6
RUN --mount=from=busybox,source=/etc,target=/link/etc cat /link/etc/group > /tmp/x; rm /tmp/x; ls /tmp > /out7";
    let files = [("a", "a\n"), ("d/", ""), ("d/b", "b\n"), (".dockerignore", "hidden"), ("hidden", "h")];
    let (image, _) = test.build(dockerfile, &files);
    // Neither mount points nor what was written below them is in the image.
    assert_eq!(
        test.files(&image),
        "out1 644 0:0 a|b|refused|\nout2 644 0:0 b|\nout3 644 0:0 other|\nout4 644 0:0 new|\nout5 644 0:0 other|\nout6 644 0:0 t|\nout7 644 0:0 etc|\n"
    );
    // What is mounted counts: another file, another layer; what is not mounted does not.
    let ran = |files: &[(&str, &str)]| {
        let before = test.runner.ran.lock().unwrap().len();
        test.build("FROM busybox\nRUN --mount=source=d,target=/d cat /d/b", files);
        test.runner.ran.lock().unwrap().len() - before
    };
    assert_eq!(ran(&files), 1);
    assert_eq!(ran(&files), 0);
    assert_eq!(ran(&[("a", "other"), ("d/", ""), ("d/b", "b\n")]), 0);
    assert_eq!(ran(&[("d/", ""), ("d/b", "changed")]), 1);
    let error = test.fails("FROM busybox\nRUN --mount=source=../x,target=/d true", &[]);
    assert!(error.contains("Dockerfile:2: RUN --mount failed: file not found"), "{error}");
    let error = test.fails("FROM busybox\nRUN --mount=from=busybox,source=/none,target=/d true", &[]);
    assert!(error.contains("file not found in the stage or image: /none"), "{error}");
}

#[test]
fn a_cache_stays_for_later_builds_and_can_be_removed() {
    let mut test = Test::new();
    let count = |test: &Test, n: usize| {
        let dockerfile = format!(
            "FROM busybox\nRUN --mount=type=cache,id=c,target=/c,uid=33,mode=0700 echo {n} >> /c/log; ls -l -d /c > /mode; cat /c/log > /log"
        );
        let (image, _) = test.build(&dockerfile, &[]);
        test.files(&image)
    };
    assert!(count(&test, 1).contains("log 644 0:0 1|"));
    test.restart();
    assert!(count(&test, 2).contains("log 644 0:0 1|2|"));
    let listing = count(&test, 3);
    assert!(listing.contains("mode 644 0:0 drwx------    2 web"), "{listing}");
    let solver = test.solver.as_ref().unwrap();
    let kept = solver.persistent_mounts().unwrap();
    assert_eq!(kept.iter().map(|m| (m.id.as_str(), m.uses, m.in_use)).collect::<Vec<_>>(), [("c", 3, false)]);
    solver.remove_persistent(&|_| true).unwrap();
    assert!(count(&test, 4).contains("log 644 0:0 4|"));
    // One that starts with what a stage has.
    let (image, _) = test.build(
        "FROM busybox AS s\nRUN mkdir /s && echo start > /s/f\nFROM busybox\nRUN --mount=type=cache,id=n,from=s,source=/s,target=/c cat /c/f > /f",
        &[],
    );
    assert!(test.files(&image).contains("f 644 0:0 start|"));
}

#[test]
fn secrets_are_seen_and_never_kept() {
    let test = Test::new();
    let secret = "kxq7-secret-0451";
    let dockerfile = "\
FROM busybox
RUN --mount=type=secret,id=token ls -l /run/secrets/token > /mode && wc -c /run/secrets/token
RUN --mount=type=secret,id=token,env=TOKEN [ -n \"$TOKEN\" ] && [ ! -e /run/secrets/token ]
RUN --mount=type=secret,id=token,target=/etc/token,mode=0440,uid=33 ls -l /etc/token >> /mode
RUN --mount=type=secret,id=none [ ! -e /run/secrets/none ]
RUN --mount=type=secret,id=token cat /run/secrets/token";
    let build = |secret: &str| {
        let secrets = [("token".to_owned(), Secret(secret.as_bytes().to_vec()))].into();
        let options = BuildOptions { secrets, ..Default::default() };
        assert!(!format!("{options:?}").contains("kxq7"));
        let (result, log) = test.build_with(&test.context(dockerfile, &[]), &options);
        (result.map_err(|e| sampan_base::chain(&e)).unwrap(), log)
    };
    let (built, log) = build(secret);
    let files = test.files(&built.image);
    assert!(files.contains("-r--------") && files.contains("-r--r-----    1 web"), "{files}");
    assert!(!files.contains("run/ ") && !files.contains("token 4"), "no mount point: {files}");
    // Not even a command that prints it brings it to the log.
    assert!(!log.output.contains("kxq7"), "{}", log.output);
    assert!(!serde_json::to_string(&built.image.config).unwrap().contains("kxq7"));
    let everything = std::process::Command::new("grep")
        .args(["-r", "-l", "-a", "kxq7-secret-0451"])
        .arg(test.dir.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&everything.stdout), "");
    // Another value makes no other image.
    let (again, log) = build("another");
    assert_eq!((again.image.id, log.cached), (built.image.id, 5));
    let error = test.fails("FROM busybox\nRUN --mount=type=secret,id=none,required true", &[]);
    assert!(error.contains("Dockerfile:2: the secret `none` is required"), "{error}");
}

/// A command that would ask the agent.
struct AsksTheAgent;

impl StepRunner for AsksTheAgent {
    fn run(&self, step: &RunStep<'_>, _: &mut dyn FnMut(Stream, &[u8])) -> Result<ExitStatus, RunnerError> {
        let [StepMount::Bind { source, target, .. }] = &step.mounts[..] else { panic!("{:?}", step.mounts) };
        assert!(step.env.contains(&format!("SSH_AUTH_SOCK={target}")), "{:?}", step.env);
        let about = std::fs::metadata(source).unwrap();
        assert_eq!((about.mode() & 0o777, about.gid()), (0o640, 44));
        let mut stream = UnixStream::connect(source).unwrap();
        stream.write_all(b"who").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "keys");
        Ok(ExitStatus { code: 0 })
    }
}

#[test]
fn an_ssh_agent_is_reached() {
    let test = Test::new();
    let socket = test.dir.path().join("agent");
    let listener = UnixListener::bind(&socket).unwrap();
    let agent = std::thread::spawn(move || {
        // The first connection only tries whether somebody is there.
        drop(listener.accept().unwrap());
        let (mut stream, _) = listener.accept().unwrap();
        let mut question = [0; 3];
        stream.read_exact(&mut question).unwrap();
        stream.write_all(b"keys").unwrap();
    });
    let options = BuildOptions { ssh: [("default".to_owned(), socket)].into(), ..Default::default() };
    let solver = test.solver.as_ref().unwrap();
    let context = test.context("FROM busybox\nRUN --mount=type=ssh,mode=0640,gid=44 true", &[]);
    solver.build(&context, &options, &AsksTheAgent, &|_| {}).unwrap();
    agent.join().unwrap();
    let error = test.fails("FROM busybox\nRUN --mount=type=ssh,required true", &[]);
    assert!(error.contains("the SSH agent `default` is required"), "{error}");
}

#[test]
fn contexts_with_names_win_over_stages_and_images() {
    let test = Test::new();
    let extra = test.dir.path().join("extra");
    std::fs::create_dir(&extra).unwrap();
    std::fs::write(extra.join("f"), "extra\n").unwrap();
    let files = || {
        NamedContext::Files(
            Context::from_directory(&extra, "", std::sync::Arc::<Digests>::default()).unwrap(),
        )
    };
    let contexts = [
        ("more".to_owned(), files()),
        ("stage".to_owned(), files()),
        ("alpine".to_owned(), NamedContext::Image("busybox".to_owned())),
    ];
    let options = BuildOptions { contexts: contexts.into(), ..Default::default() };
    let dockerfile = "FROM scratch AS stage\nCOPY a /\nFROM alpine\nCOPY --from=more f /f1\nCOPY --from=stage f /f2\nRUN --mount=from=more,target=/m cat /m/f > /f3";
    let (result, _) = test.build_with(&test.context(dockerfile, &[("a", "a")]), &options);
    let image = result.map_err(|e| sampan_base::chain(&e)).unwrap().image;
    assert_eq!(test.files(&image), "f1 644 0:0 extra|\nf2 644 0:0 extra|\nf3 644 0:0 extra|\n");
}

#[test]
fn what_a_dockerfile_cannot_allow_itself() {
    let test = Test::new();
    let error = test.fails("FROM busybox\nRUN --security=insecure true", &[]);
    assert!(error.contains("security.insecure is not allowed: build with `--allow"), "{error}");
    let options = BuildOptions { allow_host_network: false, ..Default::default() };
    let context = test.context("FROM busybox\nRUN --network=host true", &[]);
    let error = sampan_base::chain(&test.build_with(&context, &options).0.unwrap_err());
    assert!(error.contains("network.host is not allowed"), "{error}");
}
