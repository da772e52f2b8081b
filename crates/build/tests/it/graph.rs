//! Stages: what is built, at once, and once.

use sampan_build::BuildOptions;

use crate::support::Test;

/// Waits, in a container, for a file that another stage makes; a while, and not for ever.
const MEET: &str = "RUN --mount=type=cache,target=/meet i=0; touch /meet/OWN; until [ -e /meet/OTHER ]; do i=$((i+1)); [ $i -lt 400 ] || exit 9; sleep 0.05; done; echo OWN > /OWN";

fn meet(own: &str, other: &str) -> String {
    MEET.replace("OWN", own).replace("OTHER", other)
}

#[test]
fn stages_that_do_not_wait_for_each_other_run_at_once() {
    let test = Test::new();
    let dockerfile = format!(
        "FROM busybox AS one\n{}\nFROM busybox AS two\n{}\nFROM scratch\nCOPY --from=one /one /\nCOPY --from=two /two /",
        meet("one", "two"),
        meet("two", "one")
    );
    let (image, _) = test.build(&dockerfile, &[]);
    assert_eq!(test.files(&image), "one 644 0:0 one|\ntwo 644 0:0 two|\n");
}

#[test]
fn a_stage_goes_on_until_it_needs_the_other() {
    let test = Test::new();
    // The last stage's first command is what the first stage waits for, though the last one copies from the first.
    let dockerfile = format!(
        "FROM busybox AS one\n{}\nFROM busybox\n{}\nCOPY --from=one /one /",
        meet("one", "two"),
        meet("two", "one")
    );
    let (image, _) = test.build(&dockerfile, &[]);
    assert!(test.files(&image).contains("one 644"));
}

#[test]
fn a_trigger_may_need_a_stage_that_nothing_else_does() {
    let test = Test::new();
    let (result, _) = test.build_with(
        &test.context("FROM busybox\nONBUILD COPY --from=two /two /\nONBUILD RUN --mount=from=two,target=/m cat /m/one >> /two", &[]),
        &BuildOptions { names: vec!["triggers".parse().unwrap()], ..BuildOptions::default() },
    );
    result.unwrap();
    // The trigger names one of them, and that one the other.
    let stages = "FROM busybox AS one\nRUN echo 1 > /one\nFROM one AS two\nRUN echo 2 > /two\nFROM busybox AS three\nRUN false\n";
    let (image, _) = test.build(&format!("{stages}FROM triggers"), &[]);
    assert_eq!(test.files(&image), "two 644 0:0 2|1|\n");
    // Two stages may be surprised by the same one, which is built once.
    let before = test.runner.ran.lock().unwrap().len();
    let stages = stages.replace("echo", "echo again");
    let both =
        "FROM triggers AS a\nFROM triggers AS b\nFROM scratch\nCOPY --from=a /two /a\nCOPY --from=b /two /b";
    let (image, _) = test.build(&format!("{stages}{both}"), &[]);
    assert!(test.files(&image).contains("a 644 0:0 again 2|again 1|\n"), "{}", test.files(&image));
    assert_eq!(test.runner.ran.lock().unwrap().len() - before, 3);
    // What fails there fails the build.
    let error = test.fails(&format!("{}FROM triggers", stages.replace("again 2 > /two", "x && false")), &[]);
    assert!(error.contains("Dockerfile:4: the command"), "{error}");
}

#[test]
fn equal_steps_are_done_once() {
    let test = Test::new();
    let stage =
        |name: &str| format!("FROM busybox AS {name}\nRUN echo made > /made\nRUN echo {name} > /{name}\n");
    let dockerfile = format!(
        "{}{}{}FROM scratch\nCOPY --from=a /a /made /\nCOPY --from=b /b /\nCOPY --from=c /c /",
        stage("a"),
        stage("b"),
        stage("c")
    );
    for no_cache in [true, false] {
        let options = BuildOptions { no_cache, ..Default::default() };
        let before = test.runner.ran.lock().unwrap().len();
        let (result, log) = test.build_with(&test.context(&dockerfile, &[]), &options);
        assert_eq!(result.unwrap().cached, log.cached);
        let ran = test.runner.ran.lock().unwrap()[before..].join("\n");
        let times = ran.matches("echo made").count();
        assert_eq!((times, log.cached >= 2), (usize::from(no_cache), true), "{ran}");
    }
}

#[test]
fn two_builds_at_once_make_a_step_once() {
    let test = Test::new();
    let dockerfile = "FROM busybox\nRUN sleep 0.2; echo made > /made\nLABEL x=";
    std::thread::scope(|scope| {
        for i in 0..4 {
            let (test, dockerfile) = (&test, format!("{dockerfile}{i}"));
            scope.spawn(move || {
                let context = test.context(&dockerfile, &[]);
                let solver = test.solver.as_ref().unwrap();
                solver.build(&context, &BuildOptions::default(), &test.runner, &|_| {}).unwrap();
            });
        }
    });
    assert_eq!(test.runner.ran.lock().unwrap().len(), 1);
}

#[test]
fn one_failure_ends_the_others_and_is_told() {
    let test = Test::new();
    let dockerfile = "FROM busybox AS slow\nRUN touch /a\nRUN touch /b\nRUN touch /c\nFROM busybox AS bad\nRUN exit 7\nFROM scratch\nCOPY --from=slow /c /\nCOPY --from=bad /x /";
    let error = test.fails(dockerfile, &[]);
    assert!(error.contains("Dockerfile:6: ") && error.ends_with("returned a non-zero code: 7"), "{error}");
}

#[test]
fn only_what_is_needed_is_built_mounts_included() {
    let test = Test::new();
    let dockerfile = "FROM busybox AS unneeded\nRUN exit 1\nFROM busybox AS tools\nRUN echo tool > /tool\nFROM busybox\nRUN --mount=from=tools,source=/tool,target=/t cat /t > /copy";
    let (image, log) = test.build(dockerfile, &[]);
    assert_eq!(test.files(&image), "copy 644 0:0 tool|\n");
    assert!(!log.steps.iter().any(|s| s.contains("exit 1")));
}

#[test]
fn the_same_input_gives_the_same_image_at_another_time() {
    let dockerfile = "FROM busybox\nRUN mkdir /d && echo x > /d/f && ln /d/f /d/g && ln -s f /d/l && rm /bin/tee\nCOPY a /a\nWORKDIR /w\nLABEL x=y";
    let build = |files: &[(&str, &str)], epoch: &str| {
        let test = Test::new();
        let build_args = [("SOURCE_DATE_EPOCH".to_owned(), epoch.to_owned())].into();
        // Not the base: it is imported anew in each store, and says when.
        let dockerfile =
            dockerfile.replace("FROM busybox", "FROM busybox AS b\nFROM scratch\nCOPY --from=b / /");
        let options =
            BuildOptions { build_args, labels: [("l".into(), "m".into())].into(), ..Default::default() };
        let (result, log) = test.build_with(&test.context(&dockerfile, files), &options);
        assert!(log.warnings.is_empty(), "{:?}", log.warnings);
        let image = result.unwrap().image;
        assert!(image.config.history.iter().all(|h| h.created == image.config.created));
        (image.id, image.manifest)
    };
    let first = build(&[("a", "a")], "1600000000");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(build(&[("a", "a")], "1600000000"), first);
    assert_ne!(build(&[("a", "b")], "1600000000").0, first.0);
    assert_ne!(build(&[("a", "a")], "1600000001").0, first.0);
}
