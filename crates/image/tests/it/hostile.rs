//! Bytes that nobody chose: no panic, and nothing outside the root.

use std::path::Path;

use proptest::prelude::*;
use sampan_image::Expected;
use sampan_image::tar::{Kind, Member, Mtime, Reader, Writer};

use crate::support::TestStore;

fn name() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just("..".to_owned()),
        Just(".".to_owned()),
        Just(String::new()),
        Just(".wh.a".to_owned()),
        Just(".wh..wh..opq".to_owned()),
        Just("victim".to_owned()),
        "[abc]".prop_map(|s| s)
    ];
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/").into_bytes())
}

fn member() -> impl Strategy<Value = Member> {
    let kind = prop_oneof![
        Just(Kind::File { size: 3, pieces: None }),
        Just(Kind::Directory),
        name().prop_map(|target| Kind::Symlink { target }),
        Just(Kind::Symlink { target: b"/proc/self/root/tmp".to_vec() }),
        name().prop_map(|target| Kind::HardLink { target }),
        Just(Kind::Fifo),
        Just(Kind::CharDevice { major: 0, minor: 0 }),
    ];
    (name(), kind, 0u32..0o10000).prop_map(|(path, kind, mode)| Member {
        path,
        kind,
        mode,
        uid: 1,
        gid: 1,
        mtime: Mtime::default(),
        xattrs: Vec::new(),
    })
}

fn archive(members: &[Member]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for member in members {
        writer.append(member, &mut &b"abc"[..]).unwrap();
    }
    writer.finish().unwrap()
}

/// Reads a whole archive, to its end or its first error.
fn drain(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    while let Ok(Some(member)) = reader.next_member() {
        // Never more than the archive has: sizes are believed only as far as bytes come.
        let mut content = Vec::new();
        let _ = std::io::Read::read_to_end(&mut reader, &mut content);
        assert!(content.len() as u64 <= member.stored_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        drain(&bytes);
    }

    #[test]
    fn damaged_archives_are_read_or_refused(
        members in prop::collection::vec(member(), 1..6),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        fix_sums in any::<bool>(),
    ) {
        let mut bytes = archive(&members);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if fix_sums {
            for block in bytes.chunks_mut(512) {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        drain(&bytes);
    }
}

#[test]
fn any_text_means_an_image_or_none() {
    let test = TestStore::new();
    let image = test.import("a", "f file = 1");
    let mut runner =
        proptest::test_runner::TestRunner::new(ProptestConfig { cases: 300, ..ProptestConfig::default() });
    let text = prop_oneof![
        "[a-z0-9A-Z:/@.\\[\\]_é -]{0,30}",
        "(sha256:)?[0-9a-f]{0,70}",
        (0..80usize).prop_map(move |n| image.id.as_str().chars().take(n).collect())
    ];
    runner
        .run(&text, |text| {
            let _ = test.resolve(&text);
            Ok(())
        })
        .unwrap();
}

#[test]
fn no_layer_leaves_its_root() {
    let test = TestStore::new();
    let victim = test.dir.path().join("victim");
    std::fs::create_dir(&victim).unwrap();
    std::fs::write(victim.join("kept"), "untouched").unwrap();
    let before = outside(test.dir.path());
    let mut runner =
        proptest::test_runner::TestRunner::new(ProptestConfig { cases: 150, ..ProptestConfig::default() });
    runner
        .run(&prop::collection::vec(prop::collection::vec(member(), 1..12), 1..3), |layers| {
            let lease = test.lease();
            let mut parent = None;
            for members in layers {
                match test.add_layer(&mut &*archive(&members), parent.as_ref(), &Expected::default(), &lease)
                {
                    Ok(layer) => parent = Some(layer.chain_id),
                    Err(_) => break,
                }
            }
            // What was accepted can be mounted, and what was not has left nothing.
            let view = test.view(parent.as_ref(), &lease).unwrap();
            drop(view);
            prop_assert_eq!(&outside(test.dir.path()), &before);
            drop(lease);
            test.gc().unwrap();
            prop_assert_eq!(test.files(), Vec::<String>::new());
            Ok(())
        })
        .unwrap();
}

/// Everything in the test's directory but the store.
fn outside(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() != "root" {
            found.push(format!("{} {:?}", path.display(), std::fs::read_dir(&path).map(Iterator::count)));
        }
    }
    found.push(std::fs::read_to_string(dir.join("victim/kept")).unwrap());
    found.sort();
    found
}
