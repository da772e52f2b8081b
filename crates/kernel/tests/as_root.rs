//! What only root can do. Elsewhere these tests are reported as ignored, with the reason beside their names.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute")]

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use libtest_mimic::Arguments;
use sampan_kernel::userns::{Maps, belongs, make, make_network, make_pair};
use sampan_kernel::{fs_user, netns};

fn main() {
    let mut arguments = Arguments::from_args();
    // One of them looks for children that the others may have.
    arguments.test_threads = Some(1);
    let missing = (!rustix::process::geteuid().is_root()).then_some("not root");
    let tests: [(&str, fn()); 5] = [
        ("netns::a_namespace_lives_by_its_file", a_namespace_lives_by_its_file),
        (
            "userns::namespaces_belong_to_the_user_namespace_that_they_were_made_with",
            namespaces_belong_to_the_user_namespace_that_they_were_made_with,
        ),
        ("userns::many_threads_make_some_at_once", many_threads_make_some_at_once),
        (
            "userns::a_mapping_that_the_kernel_refuses_is_an_error",
            a_mapping_that_the_kernel_refuses_is_an_error,
        ),
        (
            "fs_user::files_are_made_by_the_other_user_and_by_nobody_else",
            files_are_made_by_the_other_user_and_by_nobody_else,
        ),
    ];
    let trials = tests.map(|(name, test)| sampan_testkit::trial(name, missing, test));
    libtest_mimic::run(&arguments, trials.into()).exit();
}

fn a_namespace_lives_by_its_file() {
    let path = std::env::temp_dir().join(format!("spt-netns-{}", std::process::id()));
    netns::create(&path).unwrap();
    assert_eq!(netns::create(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    let namespace = netns::open(&path).unwrap();
    let links = || std::fs::read_to_string("/proc/thread-self/net/dev");
    let inside = netns::within(namespace.as_fd(), links).unwrap();
    assert_eq!(inside.lines().count(), 3, "{inside}"); // two of headings, and lo
    let bound = netns::within(namespace.as_fd(), || std::net::TcpListener::bind("127.0.0.1:0"));
    bound.unwrap();
    netns::remove(&path).unwrap();
    netns::remove(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    assert!(netns::open(&path).is_err());
    netns::remove(&path).unwrap();
}

fn maps() -> Maps {
    Maps { uids: "0 300000 1000\n1000 400000 5\n".to_owned(), gids: "0 310000 1000\n".to_owned() }
}

fn namespaces_belong_to_the_user_namespace_that_they_were_made_with() {
    let pair = make_pair(&maps()).unwrap();
    let other = make(&maps()).unwrap();
    assert!(belongs(pair.network.as_fd(), pair.user.as_fd()).unwrap());
    assert!(!belongs(pair.network.as_fd(), other.as_fd()).unwrap());
    let more = make_network(other.as_fd()).unwrap();
    assert!(belongs(more.as_fd(), other.as_fd()).unwrap());
    let links = || std::fs::read_to_string("/proc/thread-self/net/dev");
    assert_eq!(netns::within(more.as_fd(), links).unwrap().lines().count(), 3);
    // A file that is no user namespace.
    let error = make_network(pair.network.as_fd()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
}

fn many_threads_make_some_at_once() {
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    drop(make_pair(&maps()).unwrap());
                }
            });
        }
    });
    let children = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .flatten()
        .map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    assert_eq!(children.collect::<String>(), "");
}

fn a_mapping_that_the_kernel_refuses_is_an_error() {
    let overlapping = "0 300000 10\n5 300020 10\n".to_owned();
    assert!(make(&Maps { uids: overlapping.clone(), gids: overlapping }).is_err());
}

fn files_are_made_by_the_other_user_and_by_nobody_else() {
    let directory = std::env::temp_dir().join(format!("sampan-fs-user-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let file = directory.join("f");
    let made = || std::fs::write(&file, "").map(|()| std::fs::metadata(&file).unwrap());
    // The directory is root's: that it can be written to is by a capability.
    let theirs = fs_user::as_user(300_001, 300_002, made).unwrap().unwrap();
    assert_eq!((theirs.uid(), theirs.gid()), (300_001, 300_002));
    std::fs::remove_file(&file).unwrap();
    let ours = made().unwrap();
    assert_eq!((ours.uid(), ours.gid()), (0, 0));
    assert!(fs_user::as_user(u32::MAX, 0, || ()).is_err(), "-1 is no id");
    std::fs::remove_dir_all(&directory).unwrap();
}
