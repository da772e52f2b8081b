//! The same Dockerfiles by Docker's classic builder: trees, configurations and histories side by side. On request, with a
//! daemon of one's own: `DOCKER_HOST=unix:///… cargo test -p sampan-build --test it docker -- --ignored`.

use std::io::Write;
use std::process::{Command, Stdio};

use sampan_build::BuildOptions;
use sampan_image::Image;

use crate::support::{FileSpec, Test, tar};

const FILES: &[FileSpec<'_>] = &[
    ("a", "a"),
    ("b@755", "b"),
    ("d/", ""),
    ("d/x@755", "x"),
    ("d/sub/@700", ""),
    ("d/sub/y", "y"),
    ("l", "-> a"),
    ("d/l", "-> x"),
    ("s p", "space"),
    ("e/", ""),
    ("z.md", "z"),
];

/// Each on top of `FROM busybox`, unless it has its own.
const CASES: &[&str] = &[
    "ENV A=1",
    "ENV A=1 B=\"2 3\" C=4\\ 5\nENV A=${A}x D=${B} E=${none:-def} F=${A:+alt}\nENV old  form  x",
    "ENV P=/usr/lib Q='single $P' R=\"double $P\" S=\\$P",
    "LABEL a=b c=\"d e\" \"f g\"=h\nLABEL x y z",
    "WORKDIR /a\nWORKDIR b\nWORKDIR ../c\nRUN pwd > p",
    "WORKDIR /tmp",
    "EXPOSE 80 443/tcp 53/udp 7000-7002",
    "ENV P=81\nEXPOSE $P",
    "USER web\nRUN id -u > /tmp/u",
    "USER 12:34",
    "VOLUME /data\nVOLUME [\"/x\", \"/y\"]",
    "CMD echo hi",
    "CMD [\"echo\", \"hi \\\"q\\\"\"]",
    "ENTRYPOINT [\"x\"]\nCMD [\"y\"]",
    "CMD [\"y\"]\nENTRYPOINT x y",
    "ENTRYPOINT [\"x\"]",
    "SHELL [\"/bin/sh\", \"-ec\"]\nRUN true\nCMD z",
    "STOPSIGNAL SIGUSR1\nSTOPSIGNAL 9",
    "HEALTHCHECK --interval=5m --timeout=1.5s --retries=3 --start-period=90s CMD test -f /x",
    "HEALTHCHECK CMD [\"a\", \"b\"]\nHEALTHCHECK NONE",
    "HEALTHCHECK --retries=10 CMD x",
    "MAINTAINER me <me@example.org>\nRUN touch /m",
    "ONBUILD RUN echo x\nONBUILD COPY a /b",
    "ARG A=1\nARG B\nRUN echo $A$B > /o\nENV A=2\nRUN echo $A > /o2",
    "ARG A=1\nENV E=$A\nLABEL l=$A-${E}\nCOPY $A /x",
    "COPY a /x",
    "COPY a /x/",
    "COPY a b /x/",
    "COPY a .",
    "WORKDIR /w\nCOPY a .\nCOPY b ./c\nCOPY d e/",
    "COPY d /x",
    "COPY d/ /x/",
    "COPY d /tmp",
    "COPY d a /x/",
    "COPY d/* /x/",
    "COPY d/sub/y /x/y/z/",
    "COPY [ab] /x/",
    "COPY ? /x/",
    "COPY e /x",
    "COPY l /x",
    "COPY l /x/",
    "COPY [\"s p\", \"/t u\"]",
    "COPY --chown=web a /x",
    "COPY --chown=web:staff d /x",
    "COPY --chown=5:6 a /new/dir/",
    "COPY --chown=7 a b /x/",
    "COPY . /all/",
    "COPY . .",
    "COPY a /etc/passwd",
    "COPY a /link/",
    "COPY a /link/new/x",
    "ADD a /x",
    "ADD in.tar /x/",
    "ADD in.tar /x",
    "ADD d/ /x",
    "RUN rm -r /home && mkdir /home && echo 1 > /home/f",
    "RUN rm /etc/group\nRUN ln /bin/sh /bin/other\nRUN ln -s /nowhere /dangling && chmod 4755 /bin/other",
    "RUN [\"touch\", \"/with space\"]",
    "RUN echo a \\\n  # comment\n  && echo b > /f",
    "RUN true\nRUN true && true",
    "FROM busybox AS one\nRUN echo 1 > /one && chown 5:6 /one\nFROM busybox\nCOPY --from=one --chown=0:0 /one /two\nCOPY --from=0 --chown=1:1 /etc/group /g/",
    "FROM scratch\nCOPY a /\nENV X=1",
    "FROM busybox AS base\nENV A=base\nCMD [\"c\"]\nFROM base\nENV B=$A\nENTRYPOINT [\"e\"]",
    "ARG T=busybox\nFROM $T\nARG T\nENV T2=$T",
    "ENV a=b\\ c d=\"e\\\"f\" g='h i' j=k\"l m\"n o=\"\"",
    "ENV PATH=/x:$PATH\nENV PATH /y:$PATH",
    "ENV A=1 \\\n  B=2 \\\n\n  # comment\n  C=3",
    "LABEL multi.line=\"a \\\nb\" second=1",
    "LABEL a='b\"c' \"d\"=$e f=${g:-h}",
    "COPY \"a\" \"/x\"",
    "COPY 's p' /x",
    "COPY s\\ p /x",
    "ENV N=a\nCOPY $N ${none:-b} /x/\nADD ${N} /y",
    "VOLUME $none/x \"/a b\"",
    "RUN   echo   spaced    >   /o",
    "RUN echo 'a\tb' > /o # not a comment",
    "CMD [ \"a\", 'b' ]",
    "CMD [\"a\", \"b\"",
    "CMD []",
    "ENTRYPOINT []\nCMD []",
    "CMD [\"x\"]\nENTRYPOINT []",
    "RUN []",
    "EXPOSE 80/TCP 0080",
    "EXPOSE 8080:80",
    "EXPOSE 80 80/tcp 80/udp",
    "EXPOSE 7000-6000",
    "env a=b\nrun true\nCmd x",
    "FROM busybox:latest\nFROM busybox AS B\nRUN touch /b\nFROM B\nRUN touch /c",
    "ARG X=1\nFROM busybox\nRUN echo x$X > /o",
    "ARG X=1\nFROM busybox\nARG X=2\nARG Y=$X\nRUN echo x$X$Y > /o",
    "ARG A=\"b c\" \nRUN echo $A > /o\nARG A=d\nRUN echo $A > /p",
    "ARG A\nENV A=${A:-x}\nRUN echo $A > /o",
    "COPY --from=busybox bin/busybox /bb\nCOPY --from=busybox /etc /etc2\nCOPY --from=busybox /etc/pass* /p/",
    "ADD . /x/\nADD d /x\nADD e /x/e2",
    "ADD in.tar d a /x/",
    "WORKDIR /w\nADD in.tar .",
    "COPY a /x/../y\nCOPY b ../z\nCOPY b ./",
    "COPY a/ /x",
    "COPY ./a /x\nCOPY /b /y\nCOPY ./d/../a /z",
    "COPY d/l /x",
    "COPY d /link",
    "COPY d/x /link",
    "RUN mkdir /r && ln -s /r /r2\nCOPY a /r2/\nCOPY d /r2/n\nCOPY a /r2",
    "RUN ln -s nowhere /dang\nCOPY a /dang",
    "COPY a /etc",
    "COPY a /bin/sh/x",
    "COPY e /etc/passwd/",
    "COPY *.md a* /x/",
    "COPY *.none a /x/",
    "COPY d/*/y /x",
    "COPY [\"a\"]",
    "COPY [\"a\", \"b\", \"/x/\"]",
    "STOPSIGNAL SIGRTMIN+3",
    "STOPSIGNAL term",
    "HEALTHCHECK --retries=-1 CMD a",
    "HEALTHCHECK NONE x",
    "HEALTHCHECK FOO",
    "SHELL [\"/bin/sh\"]\nRUN x\nCMD y",
    "SHELL /bin/sh -c",
    "ONBUILD ENV A=1\nONBUILD RUN a && b",
    "ONBUILD ONBUILD RUN x",
    "MAINTAINER",
    "LABEL",
    "LABEL a",
    "ENV =x",
    "WORKDIR",
    "COPY --foo a /x",
    "COPY --chown= a /x",
    "FROM busybox AS a\nFROM busybox AS a",
    "FROM busybox x y",
    "ARG X=1",
    "\n\n\n# c\n  RUN touch /indented\n\tENV a=b\n",
    // Errors: both must refuse.
    "COPY nothing /x",
    "COPY a b /x",
    "COPY ../x /y",
    "COPY d /etc/passwd",
    "RUN false",
    "EXPOSE x",
    "COPY --chown=nobody1 a /x",
    "STOPSIGNAL no",
    "ENV x",
    "FOO",
    "WORKDIR /etc/passwd/x",
    "VOLUME [\"\"]",
    "FROM busybox AS 1x",
    "ONBUILD FROM x",
    "HEALTHCHECK --interval=1x CMD a",
    "COPY --from=9 a /b",
    "USER",
    "ARG",
    "LABEL x",
];

/// Where we follow BuildKit, or answer better; not compared.
const DIFFERENT: &[(&str, &str)] = &[
    ("ENV U=12 W=/w/d\nUSER $U\nWORKDIR $W/e\nWORKDIR \"f g\"", "BuildKit: a work directory is its user's"),
    ("USER web\nWORKDIR /nw\nUSER root", "the same"),
    ("RUN echo \"$HOME\" '$X' \\$Y `echo z` > /o", "HOME is the runner's business"),
    (
        "COPY --from=busybox /link /l\nCOPY --from=busybox --chown=web /tmp /t2",
        "BuildKit: a new directory has the mode of its source",
    ),
    (
        "FROM busybox AS s\nRUN mkdir -p /o/p && ln -s p /o/q && touch /o/p/f && chmod 700 /o && chown 3:4 /o/p/f\nFROM busybox\nCOPY --from=s --chown=0 /o /o\nCOPY --from=s --chown=0 /o/q /q\nCOPY --from=s --chown=0 /o/* /r/",
        "the same",
    ),
    ("ADD --chown=web in.tar /x/", "BuildKit: the directory made for an archive has the owner"),
    ("HEALTHCHECK --interval=0s --timeout=100ms CMD a b", "0 is the default, as in BuildKit"),
];

#[test]
#[ignore = "needs DOCKER_HOST, a daemon of one's own"]
fn builds_are_dockers() {
    assert!(std::env::var_os("DOCKER_HOST").is_some());
    let test = Test::new();
    let base = test.store().resolve("busybox").unwrap();
    let mut rootfs = Vec::new();
    {
        let lease = test.store().lease();
        let view = test.store().view(base.chain_id(), &lease).unwrap();
        test.store().export(view.rootfs(), None, &mut rootfs).unwrap();
    }
    docker(&["import", "-", "busybox"], &rootfs).unwrap();
    let mut different = 0;
    for case in CASES {
        let dockerfile = if case.contains("FROM ") && !case.starts_with("ONBUILD") {
            (*case).to_owned()
        } else {
            format!("FROM busybox\n{case}")
        };
        let inner = String::from_utf8(tar(&[("i/", ""), ("i/f", "inner"), ("g", "top")], 5)).unwrap();
        let mut files = vec![("Dockerfile", dockerfile.as_str()), ("in.tar", inner.as_str())];
        files.extend(FILES);
        let context = tar(&files, 1_700_000_000);
        let theirs = docker(&["build", "--network=none", "--no-cache", "-q", "-t", "theirs", "-"], &context)
            .map(|_| {
                let saved = docker(&["save", "theirs"], b"").unwrap();
                test.store().load(&mut &*saved, None).unwrap().remove(0)
            });
        let indexed =
            sampan_build::Context::from_tar(&mut &*context, &test.dir.path().join("spool")).unwrap();
        let ours = test.build_with(&indexed, &BuildOptions { no_cache: true, ..Default::default() }).0;
        let shown = |image: &Image| format!("{}{}", describe(image), test.files(image));
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => {
                let (ours, theirs) = (shown(&ours.image), shown(&theirs));
                if ours != theirs {
                    different += 1;
                    println!("=== {case}");
                    for line in theirs.lines().filter(|l| !ours.lines().any(|o| o == *l)) {
                        println!("  docker {line}");
                    }
                    for line in ours.lines().filter(|l| !theirs.lines().any(|o| o == *l)) {
                        println!("  sampan {line}");
                    }
                }
            }
            (Err(_), Err(_)) => {}
            (Ok(_), Err(e)) => {
                different += 1;
                println!("=== {case}\n  docker fails: {e}");
            }
            (Err(e), Ok(_)) => {
                different += 1;
                println!("=== {case}\n  sampan fails: {}", sampan_base::chain(&e));
            }
        }
    }
    println!("{} cases, {different} differ; {} differ on purpose", CASES.len(), DIFFERENT.len());
    assert_eq!(different, 0);
}

/// Configuration and history, without times and hashes.
fn describe(image: &Image) -> String {
    let mut config = image.config.config.clone();
    config.other.clear();
    let mut out = serde_json::to_string_pretty(&config).unwrap() + "\n";
    for step in image
        .config
        .history
        .iter()
        .filter(|h| !h.comment.starts_with("Imported"))
        .filter(|h| !h.created_by.is_empty())
    {
        let mut by = step.created_by.clone();
        // Docker 20.10 forgets the blank after the owner.
        if let Some(at) = by.find("--chown=") {
            by = by
                .replace("file:", " file:")
                .replace("dir:", " dir:")
                .replace("multi:", " multi:")
                .replace("  ", " ");
            by.insert(at, ' ');
        }
        for kind in ["file:", "dir:", "multi:"] {
            if let Some(at) = by.find(kind) {
                by.replace_range(at + kind.len()..at + kind.len() + 64, "…");
            }
        }
        out.push_str(&format!("{} {by} author={}\n", if step.empty_layer { "-" } else { "*" }, step.author));
    }
    out
}

fn docker(args: &[&str], input: &[u8]) -> Result<Vec<u8>, String> {
    let mut child = Command::new("docker")
        .args(args)
        .env("DOCKER_BUILDKIT", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A daemon that refuses early closes the pipe; its answer says why.
    let _ = child.stdin.take().unwrap().write_all(input);
    let out = child.wait_with_output().unwrap();
    let last = || String::from_utf8_lossy(&out.stderr).lines().last().unwrap_or("").to_owned();
    if out.status.success() { Ok(out.stdout) } else { Err(last()) }
}
