//! What is done again, and what is not.

use std::time::Instant;

use sampan_build::{BuildOptions, CacheSource, CacheTarget};

use crate::support::{FileSpec, Test};

const DOCKERFILE: &str = "FROM busybox\nENV A=1\nRUN echo once >> /log\nWORKDIR /w\nCOPY d /d\nRUN echo twice >> /log\nLABEL x=y\nCMD [\"x\"]";
const FILES: &[FileSpec<'_>] = &[("d/", ""), ("d/x", "x"), ("other", "o")];

/// Builds, and answers the image's id, how many steps were cached, and how many commands ran.
fn build(test: &Test, dockerfile: &str, files: &[FileSpec<'_>], mtime: i64) -> (String, usize, usize) {
    let before = test.runner.ran.lock().unwrap().len();
    let (result, log) = test.build_with(&test.context_at(dockerfile, files, mtime), &BuildOptions::default());
    let result = result.unwrap();
    assert_eq!(result.cached, log.cached);
    (result.image.id.to_string(), log.cached, test.runner.ran.lock().unwrap().len() - before)
}

#[test]
fn an_unchanged_build_runs_nothing_and_gives_the_same_image() {
    let mut test = Test::new();
    let first = build(&test, DOCKERFILE, FILES, 1);
    assert_eq!((first.1, first.2), (0, 2));
    // Times do not matter, nor do files that are not copied, comments, and a restart.
    let again = build(&test, DOCKERFILE, FILES, 2);
    assert_eq!(again, (first.0.clone(), 7, 0));
    let files: Vec<FileSpec<'_>> = FILES.iter().copied().chain([("more", "m")]).collect();
    assert_eq!(build(&test, &format!("# c\n{DOCKERFILE}\n"), &files, 3), (first.0.clone(), 7, 0));
    test.restart();
    assert_eq!(build(&test, DOCKERFILE, FILES, 4), (first.0.clone(), 7, 0));
    // Without the image, the cache still holds its layers; without the cache, nothing does.
    let image = test.store().resolve(&first.0).unwrap();
    test.store().remove(&image.id).unwrap();
    assert_eq!(build(&test, DOCKERFILE, FILES, 5), (first.0.clone(), 7, 0));
    test.store().remove(&image.id).unwrap();
    test.store().forget_cache().unwrap();
    assert_eq!(build(&test, DOCKERFILE, FILES, 6).2, 2);
}

#[test]
fn what_changed_is_done_again_and_what_follows() {
    let test = Test::new();
    build(&test, DOCKERFILE, FILES, 1);
    // The content of a file that is copied: the copy and the command after it, but not the one before.
    assert_eq!(build(&test, DOCKERFILE, &[("d/", ""), ("d/x", "changed")], 1).2, 1);
    // The mode counts, too.
    assert_eq!(build(&test, DOCKERFILE, &[("d/", ""), ("d/x@755", "x")], 1).2, 1);
    // A label before a command changes nothing for it.
    assert_eq!(build(&test, &DOCKERFILE.replace("ENV A=1", "ENV A=1\nLABEL first=1"), FILES, 1).2, 0);
    // A variable does.
    assert_eq!(build(&test, &DOCKERFILE.replace("A=1", "A=2"), FILES, 1).2, 2);
    let options = BuildOptions { no_cache: true, ..Default::default() };
    let (result, log) = test.build_with(&test.context(DOCKERFILE, FILES), &options);
    assert!(result.is_ok() && log.cached == 0);
}

#[test]
fn what_is_linked_does_not_depend_on_what_is_below() {
    let test = Test::new();
    let dockerfile = |below: &str, flag: &str| {
        format!(
            "FROM busybox\nRUN echo {below} > /log\nCOPY {flag} d /d\nCOPY {flag} --from=busybox /etc/group /g"
        )
    };
    for (flag, kept) in [("--link", 2), ("", 0)] {
        let first = build(&test, &dockerfile(&format!("one{flag}"), flag), FILES, 1);
        assert_eq!(first.1, 0, "{flag}");
        let (image, cached, ran) = build(&test, &dockerfile(&format!("two{flag}"), flag), FILES, 1);
        // The command below is another, so it runs; what is linked is put on top of it as it was.
        assert_eq!((cached, ran), (kept, 1), "{flag}");
        assert_ne!(image, first.0);
        let image = test.store().resolve(&image).unwrap();
        let files = test.files(&image);
        assert!(
            files.contains("d/x 644 0:0 x\n") && files.contains(&format!("log 644 0:0 two{flag}|\n")),
            "{files}"
        );
    }
}

#[test]
fn a_failed_build_keeps_the_steps_before() {
    let test = Test::new();
    let broken = "FROM busybox\nRUN touch /slow\nRUN false";
    test.fails(broken, &[]);
    let ran = || test.runner.ran.lock().unwrap().len();
    assert_eq!(ran(), 2);
    test.build("FROM busybox\nRUN touch /slow\nRUN true", &[]);
    assert_eq!(ran(), 3);
}

#[test]
fn an_unchanged_context_of_2000_files_takes_no_time() {
    let test = Test::new();
    let names: Vec<String> = (0..2000).map(|i| format!("src/d{}/f{i}", i % 50)).collect();
    let content = "some text\n".repeat(400);
    let mut files: Vec<FileSpec<'_>> =
        vec![("Dockerfile", "FROM busybox\nCOPY . /src\nRUN ls /src > /list\nCMD [\"x\"]")];
    files.extend(names.iter().map(|n| (n.as_str(), content.as_str())));
    let tar = crate::support::tar(&files, 1);
    let spool = test.dir.path().join("spool");
    let mut times = Vec::new();
    for _ in 0..4 {
        let start = Instant::now();
        let context = sampan_build::Context::from_tar(&mut &*tar, &spool).unwrap();
        let (result, log) = test.build_with(&context, &BuildOptions::default());
        result.unwrap();
        times.push((start.elapsed(), log.cached));
    }
    println!("{times:?}");
    assert!(times[1..].iter().all(|(_, cached)| *cached == 3));
    assert_eq!(test.runner.ran.lock().unwrap().len(), 1);
    // Generous, for a loaded machine and a debug build; `make bench` has the real number.
    assert!(times[1..].iter().any(|(time, _)| time.as_millis() < 500), "{times:?}");
}

/// Builds on a new host, with the caches that it is given; answers how many commands ran.
fn build_elsewhere(
    from: &[&std::path::Path],
    to: Vec<CacheTarget>,
    dockerfile: &str,
) -> (String, usize, Vec<String>) {
    // The base is the same on all hosts.
    let dockerfile =
        dockerfile.replace("FROM busybox", "FROM busybox AS b\nFROM scratch AS base\nCOPY --from=b / /");
    let test = Test::new();
    let cache_from = from.iter().map(|d| CacheSource::Local(d.to_path_buf())).collect();
    let build_args = [("SOURCE_DATE_EPOCH".to_owned(), "1700000000".to_owned())].into();
    let options = BuildOptions { cache_from, cache_to: to, build_args, ..Default::default() };
    let (result, log) = test.build_with(&test.context(&dockerfile, FILES), &options);
    let image = result.map_err(|e| sampan_base::chain(&e)).unwrap().image;
    let ran = test.runner.ran.lock().unwrap().len();
    // Whole, wherever its layers come from.
    assert!(test.files(&image).contains("log 644 0:0 once|twice|"), "{}", test.files(&image));
    (image.id.to_string(), ran, log.warnings)
}

#[test]
fn steps_go_from_host_to_host() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let (id, ran, warnings) = build_elsewhere(&[&cache], local(&cache, false), DOCKERFILE);
    assert_eq!((ran, warnings.len()), (2, 1), "{warnings:?}");
    assert!(warnings[0].contains("there is no build cache at"), "{warnings:?}");
    assert_eq!(build_elsewhere(&[&cache], Vec::new(), DOCKERFILE), (id.clone(), 0, vec![]));
    // A step that changed is made here, those before it are not.
    let changed = DOCKERFILE.replace("echo twice", "echo  twice");
    assert_eq!(build_elsewhere(&[&cache], local(&cache, false), &changed).1, 1);
    assert_eq!(build_elsewhere(&[&cache], Vec::new(), &changed).1, 0, "what was recalled is told on");
    assert_eq!(build_elsewhere(&[&cache], Vec::new(), DOCKERFILE).1, 1, "what is of no use any more is not");
    // The layers of other stages only if asked for.
    let stages = format!(
        "FROM busybox\nFROM base AS s\nRUN echo s > /s && echo t > /t\n{}\nCOPY --from=s /s /s",
        DOCKERFILE.replace("FROM busybox", "FROM base")
    );
    for (all, ran) in [(false, 1), (true, 0)] {
        let cache = dir.path().join(format!("stages-{all}"));
        assert_eq!(build_elsewhere(&[], local(&cache, all), &stages).1, 3);
        assert_eq!(build_elsewhere(&[&cache], Vec::new(), &stages).1, ran);
    }
}

#[test]
fn a_damaged_cache_is_told_and_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let (id, ..) = build_elsewhere(&[], local(&cache, true), DOCKERFILE);
    let blobs: Vec<_> =
        std::fs::read_dir(cache.join("blobs/sha256")).unwrap().map(|e| e.unwrap().path()).collect();
    for blob in &blobs {
        let whole = std::fs::read(blob).unwrap();
        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 1;
        std::fs::write(blob, damaged).unwrap();
        let (again, _, warnings) = build_elsewhere(&[&cache], Vec::new(), DOCKERFILE);
        assert_eq!((again, warnings.is_empty()), (id.clone(), false), "{}", blob.display());
        std::fs::write(blob, whole).unwrap();
    }
    std::fs::write(cache.join("index.json"), "{").unwrap();
    let (_, ran, warnings) = build_elsewhere(&[&cache], Vec::new(), DOCKERFILE);
    assert!(ran == 2 && warnings[0].contains("cannot use the build cache"), "{warnings:?}");
}

fn local(directory: &std::path::Path, all: bool) -> Vec<CacheTarget> {
    vec![CacheTarget::Local { directory: directory.to_owned(), all }]
}
