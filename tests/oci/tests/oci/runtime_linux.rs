//! runtime-linux.md: what a process of Linux finds.

use crate::harness::contains;
use crate::table::{Test, must};

pub(crate) const TESTS: &[Test] = &[
    must("descriptors", "File descriptors", "keeps only the three standard streams open by default", |b| {
        let text = b.sh("ls /proc/self/fd");
        // The fourth is that of the directory which ls reads.
        let numbers: Vec<&str> = text.split_whitespace().collect();
        assert!(numbers == ["0", "1", "2", "3"], "{numbers:?}");
    }),
    must("dev_links", "Dev symbolic links", "makes the links fd, stdin, stdout, stderr of /dev", |b| {
        let text = b.sh("for l in fd stdin stdout stderr; do readlink /dev/$l; done");
        assert_eq!(text, "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\n");
        contains(&b.sh("echo through > /dev/stdout"), &["through"]);
    }),
];
