//! What instructions make.

use expect_test::{Expect, expect};
use sampan_build::BuildOptions;

use crate::support::{FileSpec, Test};

fn check(dockerfile: &str, files: &[FileSpec<'_>], expected: Expect) {
    let test = Test::new();
    let (image, _) = test.build(dockerfile, files);
    expected.assert_eq(&test.files(&image));
}

const APP: &[FileSpec<'_>] = &[
    ("app.py", "print"),
    ("d/", ""),
    ("d/x@755", "x"),
    ("d/sub/@700", ""),
    ("d/sub/y", "y"),
    ("l", "-> app.py"),
    ("d/l", "-> x"),
];

#[test]
fn copy_of_files_directories_and_patterns() {
    check(
        "FROM busybox\nWORKDIR /srv\nCOPY app.py .\nCOPY app.py /abs/new.py\nCOPY d /dir\nCOPY d/* /flat/\nCOPY --chown=web:staff --chmod=600 app.py /o/\n\
         COPY app.py /link/\nCOPY app.py /link\nCOPY l /follow\nCOPY [\"d/x\", \"/json x\"]\nCOPY --chown=7 d/x app.py /seven/",
        APP,
        expect![[r#"
            abs/ 755 0:0
            abs/new.py 644 0:0 print
            dir/ 755 0:0
            dir/l -> x
            dir/sub/ 700 0:0
            dir/sub/y 644 0:0 y
            dir/x 755 0:0 x
            flat/ 755 0:0
            flat/l 755 0:0 x
            flat/x 755 0:0 x
            flat/y 644 0:0 y
            follow 644 0:0 print
            json x 755 0:0 x
            o/ 755 33:50
            o/app.py 600 33:50 print
            seven/ 755 7:7
            seven/app.py 644 7:7 print
            seven/x 755 7:7 x
            srv/ 755 0:0
            srv/app.py 644 0:0 print
            tmp/app.py 644 0:0 print
        "#]],
    );
}

#[test]
fn the_whole_context_but_what_is_ignored() {
    check(
        "FROM busybox\nCOPY . /c/",
        &[
            (".dockerignore", "*.md\n!keep.md\nDockerfile\nsecret\n.dockerignore\n"),
            ("a.md", "no"),
            ("keep.md", "yes"),
            ("secret/", ""),
            ("secret/key", "no"),
            ("b", "b"),
        ],
        expect![[r#"
            c/ 755 0:0
            c/b 644 0:0 b
            c/keep.md 644 0:0 yes
        "#]],
    );
}

#[test]
fn run_sees_files_env_args_user_and_directory() {
    let test = Test::new();
    let (image, log) = test.build(
        "ARG G=global\nFROM busybox\nARG G\nARG A=1\nENV E=2 A2=$A\nUSER web\nWORKDIR /w\nRUN echo $G $A $E $A2 $(id -u) $(pwd) > out && cat out\nRUN [\"touch\", \"/tmp/$E\"]\nUSER root\nRUN rm /tmp/\\$E && mkdir /x && true",
        &[],
    );
    expect![[r#"
        w/ 755 33:44
        w/out 644 33:44 global 1 2 1 33 /w|
        x/ 755 0:0
    "#]]
    .assert_eq(&test.files(&image));
    assert_eq!(log.output, "global 1 2 1 33 /w\n");
    assert_eq!(image.config.config.working_dir, "/w");
    assert_eq!(image.config.config.user, "root");
}

#[test]
fn stages_copy_from_each_other_and_unneeded_ones_are_skipped() {
    let test = Test::new();
    let (image, log) = test.build(
        "FROM busybox AS build\nRUN mkdir /out && echo bin > /out/prog && chown 5:6 /out/prog\nFROM busybox AS unused\nRUN false\nFROM scratch\nCOPY --from=build /out /\nCOPY --from=0 /out/prog /second\nCOPY --from=busybox /etc/group /g",
        &[],
    );
    expect![[r#"
        g 644 0:0 root:x:0:|web:x:44:|staff:x:50:|
        prog 644 5:6 bin|
        second 644 5:6 bin|
    "#]]
    .assert_eq(&test.files(&image));
    assert!(log.steps.iter().all(|s| !s.contains("false")), "{:?}", log.steps);
    assert_eq!(image.layers.len(), 3);
    let options = BuildOptions { target: Some("BUILD".into()), ..Default::default() };
    let context = test.context("FROM busybox AS build\nRUN touch /b\nFROM build\nRUN false", &[]);
    let (result, _) = test.build_with(&context, &options);
    assert_eq!(test.files(&result.unwrap().image), "b 644 0:0 \n");
}

#[test]
fn add_unpacks_archives_and_only_them() {
    let inner = crate::support::tar(&[("in/", ""), ("in/f", "inner"), (".wh.x", "plain")], 1);
    let inner = String::from_utf8(inner).unwrap();
    check(
        "FROM busybox\nADD a.tar /into\nADD text.gz /t/\nADD --chown=9:9 a.tar /owned/\nCOPY a.tar /kept",
        &[("a.tar", &inner), ("text.gz", "not packed")],
        expect![[r#"
            into/ 755 0:0
            into/.wh.x 644 1000:1000 plain
            into/in/ 755 1000:1000
            into/in/f 644 1000:1000 inner
            kept 644 0:0 in/
            owned/ 755 9:9
            owned/.wh.x 644 1000:1000 plain
            owned/in/ 755 1000:1000
            owned/in/f 644 1000:1000 inner
            t/ 755 0:0
            t/text.gz 644 0:0 not packed
        "#]],
    );
}

#[test]
fn heredocs_in_run_and_copy() {
    let test = Test::new();
    let (image, log) = test.build(
        "FROM busybox\nENV X=val\nCOPY <<one <<'two' /h/\nx is $X\none\nx is $X\ntwo\nCOPY --chmod=755 <<EOF /single\n#!/bin/sh\nEOF\nRUN <<EOF\necho first\necho second > /r\nEOF\nRUN cat <<A > /a && cat <<B > /b\nin a $X\nA\nin b\nB\nRUN <<S\n#!/bin/cat\nprinted\nS",
        &[],
    );
    expect![[r#"
        a 644 0:0 in a val|
        b 644 0:0 in b|
        h/ 755 0:0
        h/one 644 0:0 x is val|
        h/two 644 0:0 x is $X|
        r 644 0:0 second|
        single 755 0:0 #!/bin/sh|
    "#]]
    .assert_eq(&test.files(&image));
    assert_eq!(log.output, "first\n#!/bin/cat\nprinted\n");
}

#[test]
fn the_configuration_and_history_are_dockers() {
    let test = Test::new();
    let (image, _) = test.build(
        "FROM busybox\nMAINTAINER me\nARG V=1\nENV NAME World\nENV A=\"b c\" D=$NAME\nLABEL x=y \"k k\"='v v'\nEXPOSE 80 53/udp\nVOLUME /data /d2\nWORKDIR /app\nRUN true\nRUN touch /f\nCOPY a /b\nSTOPSIGNAL SIGINT\nHEALTHCHECK --interval=30s --timeout=3s CMD true\nSHELL [\"/bin/sh\", \"-ec\"]\nUSER web:staff\nENTRYPOINT [\"/bin/sh\"]\nCMD echo hi\nONBUILD RUN x",
        &[("a", "a")],
    );
    let config = serde_json::to_string_pretty(&image.config.config).unwrap();
    expect![[r#"
        {
          "User": "web:staff",
          "ExposedPorts": {
            "53/udp": {},
            "80/tcp": {}
          },
          "Env": [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "NAME=World",
            "A=b c",
            "D=World"
          ],
          "Entrypoint": [
            "/bin/sh"
          ],
          "Cmd": [
            "/bin/sh",
            "-ec",
            "echo hi"
          ],
          "Healthcheck": {
            "Test": [
              "CMD-SHELL",
              "true"
            ],
            "Interval": 30000000000,
            "Timeout": 3000000000
          },
          "Volumes": {
            "/d2": {},
            "/data": {}
          },
          "WorkingDir": "/app",
          "OnBuild": [
            "RUN x"
          ],
          "Labels": {
            "k k": "v v",
            "x": "y"
          },
          "StopSignal": "SIGINT",
          "Shell": [
            "/bin/sh",
            "-ec"
          ]
        }"#]]
    .assert_eq(&config);
    let history: Vec<String> = image.config.history[1..]
        .iter()
        .map(|h| {
            let mut by = h.created_by.clone();
            if let Some(at) = by.find("file:") {
                by.replace_range(at + 5..at + 5 + 64, "…");
            }
            format!("{}{by}\n", if h.empty_layer { "  " } else { "* " })
        })
        .collect();
    expect![[r#"
          /bin/sh -c #(nop)  MAINTAINER me
          /bin/sh -c #(nop)  ARG V=1
          /bin/sh -c #(nop)  ENV NAME=World
          /bin/sh -c #(nop)  ENV A=b c D=World
          /bin/sh -c #(nop)  LABEL x=y k k=v v
          /bin/sh -c #(nop)  EXPOSE 53/udp 80
          /bin/sh -c #(nop)  VOLUME [/data /d2]
        * /bin/sh -c #(nop) WORKDIR /app
          |1 V=1 /bin/sh -c true
        * |1 V=1 /bin/sh -c touch /f
        * /bin/sh -c #(nop) COPY file:… in /b 
          /bin/sh -c #(nop)  STOPSIGNAL SIGINT
          /bin/sh -c #(nop)  HEALTHCHECK &{["CMD-SHELL" "true"] "30s" "3s" "0s" '\x00'}
          /bin/sh -ec #(nop)  SHELL [/bin/sh -ec]
          /bin/sh -ec #(nop)  USER web:staff
          /bin/sh -ec #(nop)  ENTRYPOINT ["/bin/sh"]
          /bin/sh -ec #(nop)  CMD ["/bin/sh" "-ec" "echo hi"]
          /bin/sh -ec #(nop)  ONBUILD RUN x
    "#]]
    .assert_eq(&history.concat());
    assert_eq!(image.layers.len(), 4);
    assert_eq!(image.config.author, "me");
}

#[test]
fn triggers_of_the_base_run_in_the_build_on_it() {
    let test = Test::new();
    let base =
        test.context("FROM busybox\nONBUILD COPY a /a\nONBUILD RUN echo built > /b\nONBUILD ENV T=1", &[]);
    let options = BuildOptions { names: vec!["base".parse().unwrap()], ..Default::default() };
    test.build_with(&base, &options).0.unwrap();
    let (image, log) = test.build("FROM base\nRUN touch /c", &[("a", "a")]);
    expect![[r#"
        a 644 0:0 a
        b 644 0:0 built|
        c 644 0:0 
    "#]]
    .assert_eq(&test.files(&image));
    assert!(image.config.config.on_build.is_empty());
    assert!(image.config.config.env.contains(&"T=1".to_owned()));
    assert_eq!(log.steps.len(), 5);
}

#[test]
fn arguments_labels_names_and_a_base_alone() {
    let test = Test::new();
    let context =
        test.context("ARG BASE=nothing\nFROM $BASE\nARG A=default\nARG B\nENV A=${A} B=${B:-none}", &[]);
    let options = BuildOptions {
        names: vec!["web:v1".parse().unwrap(), "web:latest".parse().unwrap()],
        build_args: [("BASE", "busybox"), ("A", "given"), ("X", "unused"), ("HTTP_PROXY", "p")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        labels: [("l".to_owned(), "m".to_owned())].into(),
        ..Default::default()
    };
    let (result, log) = test.build_with(&context, &options);
    let image = result.unwrap().image;
    assert_eq!(image.config.config.env[1..], ["A=given", "B=none"]);
    assert_eq!(image.config.config.labels["l"], "m");
    assert_eq!(log.warnings, ["One or more build-args [X] were not consumed"]);
    assert_eq!(test.store().resolve("web:v1").unwrap().id, image.id);
    assert_eq!(test.store().resolve("web").unwrap().id, image.id);
    let options = BuildOptions { names: vec!["same".parse().unwrap()], ..Default::default() };
    let (result, _) = test.build_with(&test.context("FROM busybox", &[]), &options);
    assert_eq!(result.unwrap().image.id, test.store().resolve("busybox").unwrap().id);
}

#[test]
fn copies_keep_times_and_follow_links_of_the_image_only_inside_it() {
    use std::os::unix::fs::MetadataExt;
    let test = Test::new();
    let victim = test.dir.path().join("victim");
    std::fs::create_dir(&victim).unwrap();
    let dockerfile = format!(
        "FROM busybox\nRUN ln -s {} /out && ln -s ../../../../../../etc/passwd /p\nCOPY a /out/f\nCOPY a /p",
        victim.display()
    );
    // The link leads nowhere inside: the directory can't be made over it, or it is made inside; never outside.
    let context = test.context(&dockerfile, &[("a", "a")]);
    let _ = test.build_with(&context, &BuildOptions::default());
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0);
    let (image, _) = test.build(
        "FROM busybox\nRUN ln -s ../../../etc/passwd /p\nCOPY a /p\nCOPY d /d",
        &[("a", "a"), ("d/", ""), ("d/e/", ""), ("d/x", "x")],
    );
    let lease = test.store().lease();
    let view = test.store().view(image.chain_id(), &lease).unwrap();
    let meta = |path: &str| std::fs::symlink_metadata(view.rootfs().join(path)).unwrap();
    assert_eq!(std::fs::read_to_string(view.rootfs().join("etc/passwd")).unwrap(), "a");
    assert_eq!((meta("d/e").mtime(), meta("d/x").mtime()), (1_700_000_000, 1_700_000_000));
}

#[test]
fn no_flag_leads_out_of_the_image() {
    let test = Test::new();
    let victim = test.dir.path().join("victim");
    std::fs::create_dir(&victim).unwrap();
    std::fs::write(victim.join("secret"), "secret").unwrap();
    let shown = victim.display().to_string();
    // Links of the image and of the context that lead to a directory of the host, and names that climb.
    let files = [
        ("d/", ""),
        ("d/x", "x"),
        ("out", format!("-> {shown}").leak() as &str),
        ("up", "-> ../../../../../../.."),
    ];
    for line in [
        "COPY --link d /out/",
        "COPY --parents d/x /out/",
        "COPY --parents out/./secret /y/",
        "COPY --parents out/secret /y/",
        "COPY --parents **/secret /y/",
        "COPY --parents ../../../d/./x /out/../../../",
        "COPY --exclude=x d /out",
        "COPY --exclude=!** out /y",
        "COPY --chmod=a=rwx d /out",
        "COPY up/etc/passwd /y",
        "COPY --parents up/./etc/passwd /y/",
    ] {
        let dockerfile = format!("FROM busybox\nRUN ln -s {shown} /out\n{line}");
        let (result, _) = test.build_with(&test.context(&dockerfile, &files), &BuildOptions::default());
        assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 1, "{line}");
        let Ok(built) = result else { continue };
        let files = test.files(&built.image);
        assert!(!files.contains("secret secret") && !files.contains("0:0 secret"), "{line}: {files}");
    }
}

#[test]
fn a_squashed_build_adds_one_layer_to_its_base() {
    let test = Test::new();
    let dockerfile =
        "FROM busybox\nRUN echo a > /a && echo b > /b\nRUN rm /a && rm /bin/tee\nCOPY c /\nENV X=y";
    let options = BuildOptions {
        squash: true,
        names: vec!["squashed".parse().unwrap()],
        labels: [("l".into(), "m".into())].into(),
        ..Default::default()
    };
    let (result, _) = test.build_with(&test.context(dockerfile, &[("c", "c")]), &options);
    let image = result.map_err(|e| sampan_base::chain(&e)).unwrap().image;
    let base = test.store().resolve("busybox").unwrap();
    assert_eq!(image.layers.len(), base.layers.len() + 1);
    assert_eq!(test.files(&image), "b 644 0:0 b|\nc 644 0:0 c\n");
    assert_eq!(image.config.config.labels["l"], "m");
    assert_eq!(test.store().resolve("squashed").unwrap().id, image.id);
    assert_eq!(test.store().list().unwrap().len(), 2, "what it was made of is no image");
}
