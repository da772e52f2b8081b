//! What is done again, and what is not.

use std::time::Instant;

use sampan_build::BuildOptions;

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
