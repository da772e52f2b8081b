//! bundle.md: what a bundle is.

use std::fs;

use crate::harness::contains;
use crate::table::{Test, must};

pub(crate) const TESTS: &[Test] = &[
    must("without_config", "Container Format", "refuses a directory without config.json", |b| {
        b.create().ok();
        b.call(&["delete", "--force", &b.id]).ok();
        fs::remove_file(b.bundle().join("config.json")).unwrap();
        b.call(&["create", "--bundle", b.bundle().to_str().unwrap(), &b.id]).fails();
        assert!(!b.exists());
    }),
    must("broken_config", "Container Format", "refuses a config.json that is no JSON object", |b| {
        for text in ["", "[]", "{\"ociVersion\": "] {
            fs::write(b.bundle().join("config.json"), text).unwrap();
            b.call(&["create", "--bundle", b.bundle().to_str().unwrap(), &b.id]).fails();
            assert!(!b.exists(), "{text}");
        }
    }),
    must(
        "root_directory",
        "Container Format",
        "takes the root file system from where `root.path` says",
        |b| {
            fs::write(b.rootfs("marker"), "here").unwrap();
            fs::rename(b.rootfs(""), b.bundle().join("elsewhere")).unwrap();
            b.set("/root/path", "elsewhere");
            contains(&b.sh("cat /marker"), &["here"]);
        },
    ),
];
