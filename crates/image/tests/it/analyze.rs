//! An image with known waste, and what is said of it, to the byte.

use sampan_image::analyze::{Hidden, Kind};
use sampan_image::{Analysis, Image, Layer};
use sampan_oci::image::{History, ImageConfig};

use crate::support::{TestStore, tar};

/// An image of these instructions, each with the layer that it made.
fn image(test: &TestStore, steps: &[(&str, &str)], name: &str) -> Image {
    let lease = test.lease();
    let mut layers: Vec<Layer> = Vec::new();
    let mut config = ImageConfig::for_host();
    for (created_by, listing) in steps {
        let created_by = (*created_by).to_owned();
        let empty_layer = listing.is_empty();
        config.history.push(History { created_by, empty_layer, ..History::default() });
        if !empty_layer {
            let parent = layers.last().map(|l| l.chain_id.clone());
            let added = test.add_layer(&mut &*tar(listing), parent.as_ref(), &Default::default(), &lease);
            layers.push(added.unwrap());
        }
    }
    test.create_image(config, &layers, &[name.parse().unwrap()]).unwrap()
}

const BASE: (&str, &str) =
    ("ADD rootfs.tar /", "bin dir\nbin/sh file 755 = shell\netc dir\netc/passwd file = root");

fn wasteful(test: &TestStore) -> (Image, Analysis) {
    image(test, &[BASE], "base:1");
    let bytes = |n: usize| "x".repeat(n);
    let lists = format!(
        "var dir\nvar/lib/apt/lists/pkgs file = {}\nusr/bin/gcc file 755 = {}\nusr/bin/tool file = {}\nusr/bin/tool2 hard = usr/bin/tool",
        bytes(30_000),
        "g".repeat(5_000),
        "t".repeat(700)
    );
    let copied = format!(
        "app/big file = {}\napp/data file = {}\napp/data.bak file = {}",
        "b".repeat(20_000),
        "d".repeat(4_000),
        "d".repeat(4_000)
    );
    let owned = format!("app/data file 600 5:5 = {}", "d".repeat(4_000));
    let steps = [
        BASE,
        ("ENV A=b", ""),
        ("RUN /bin/sh -c apt-get update && apt-get install gcc # buildkit", lists.as_str()),
        ("COPY . /app # buildkit", copied.as_str()),
        ("RUN /bin/sh -c rm /app/big # buildkit", "app/.wh.big file ="),
        ("RUN /bin/sh -c chown 5:5 /app/data # buildkit", owned.as_str()),
        (
            "RUN /bin/sh -c rm -r /usr/bin && mkdir /usr/bin # buildkit",
            "usr/.wh.bin file =\nusr/bin/new file = n",
        ),
        ("RUN /bin/sh -c touch /etc/passwd # buildkit", "etc/passwd file = rootroot"),
    ];
    let image = image(test, &steps, "web:1");
    let analysis = test.analyze(&image).unwrap();
    (image, analysis)
}

#[test]
fn known_waste_is_told_to_the_byte() {
    let test = TestStore::new();
    let (image, found) = wasteful(&test);
    let (base, run, copy, own) = (9, 30_000 + 5_000 + 700, 20_000 + 8_000, 4_000);
    assert_eq!(found.size, base + run + copy + own + 1 + 8);
    assert_eq!(found.size, image.size);
    // The large file, the one that changed hands, the compiler and the tool with its two names, and the old passwd.
    assert_eq!(found.wasted_bytes, 20_000 + 4_000 + 5_000 + 700 + 4);
    assert_eq!(found.visible_bytes, found.size - found.wasted_bytes);
    assert!((found.efficiency - found.visible_bytes as f64 / found.size as f64).abs() < 1e-9);
    let wasted: Vec<_> =
        found.wasted.iter().map(|w| (w.path.as_str(), w.bytes, w.layer, w.hidden_by, w.how)).collect();
    assert_eq!(
        wasted,
        [
            ("/app/big", 20_000, 3, 4, Hidden::Deleted),
            ("/usr/bin/gcc", 5_000, 2, 6, Hidden::Deleted),
            ("/app/data", 4_000, 3, 5, Hidden::Copied),
            ("/usr/bin/tool", 700, 2, 6, Hidden::Deleted),
            ("/etc/passwd", 4, 1, 7, Hidden::Overwritten),
        ]
    );
    let layers: Vec<_> =
        found.layers.iter().map(|l| (l.number, l.size, l.files, l.deleted, l.wasted_bytes)).collect();
    assert_eq!(
        layers,
        [
            (1, 9, 2, 0, 4),
            (2, 35_700, 4, 0, 5_700),
            (3, 28_000, 3, 0, 24_000),
            (4, 0, 0, 1, 0),
            (5, 4_000, 1, 0, 0),
            (6, 1, 1, 3, 0),
            (7, 8, 1, 0, 0),
        ]
    );
    assert_eq!(found.layers[1].created_by, "RUN apt-get update && apt-get install gcc");
    let duplicate = &found.duplicates[0];
    assert_eq!((duplicate.bytes, duplicate.count, found.duplicate_bytes), (4_000, 2, 4_000));
    assert_eq!(duplicate.paths, ["/app/data", "/app/data.bak"]);
    // The compiler is deleted, so that it is waste and no leftover.
    let left: Vec<_> = found.leftovers.iter().map(|l| (l.kind, l.layer, l.bytes, l.files)).collect();
    assert_eq!(left, [(Kind::AptLists, 2, 30_000, 1)]);
    assert_eq!(found.shared[0].image, "base:1");
    assert!(found.shared[0].is_base && found.shared[0].bytes == 9);
}

#[test]
fn advice_names_the_instructions_and_what_they_save() {
    let test = TestStore::new();
    let (_, found) = wasteful(&test);
    let advice: Vec<String> = found.advice.iter().map(|a| format!("{}: {}", a.saves, a.text)).collect();
    expect_test::expect![[r#"
        30000: layer 2 (`RUN apt-get update && apt-get install gcc`) leaves apt package lists: end the same RUN with `rm -rf /var/lib/apt/lists/*`, or keep them out with `--mount=type=cache,target=/var/lib/apt`
        20000: layer 4 (`RUN rm /app/big`) deletes 1 file that layer 3 (`COPY . /app`) brought: leave them out there (`.dockerignore`, `COPY --exclude`), or mount them (`RUN --mount=type=bind`)
        5700: layer 6 (`RUN rm -r /usr/bin && mkdir /usr/bin`) deletes 2 files that layer 2 (`RUN apt-get update && apt-get install gcc`) brought: join the two RUN instructions
        4000: files are there several times with the same content, such as `/app/data` and `/app/data.bak`: make links of them
        4000: layer 5 (`RUN chown 5:5 /app/data`) changes only owner, mode or time of 1 file that layer 3 (`COPY . /app`) brought: set them there (`COPY --chown`, `--chmod`)"#]]
    .assert_eq(&advice.join("\n"));
}

#[test]
fn the_tree_sums_up() {
    let test = TestStore::new();
    let (_, found) = wasteful(&test);
    for layer in &found.layers {
        fn check(node: &sampan_image::analyze::Node) {
            if !node.children.is_empty() {
                assert_eq!(node.children.iter().map(|c| c.bytes).sum::<u64>(), node.bytes, "{}", node.name);
                assert_eq!(node.children.iter().map(|c| c.wasted).sum::<u64>(), node.wasted, "{}", node.name);
                node.children.iter().for_each(check);
            }
        }
        check(&layer.tree);
        assert_eq!((layer.tree.bytes, layer.tree.wasted), (layer.size, layer.wasted_bytes));
    }
}

#[test]
fn a_base_that_is_here_already_is_advised() {
    let test = TestStore::new();
    let (libc, shell) = ("l".repeat(1_500_000), "s".repeat(600_000));
    let base = format!("lib/libc file = {libc}\nbin/sh file 755 = {shell}");
    image(&test, &[("ADD rootfs.tar /", base.as_str())], "distro:1");
    image(&test, &[("ADD x /", "x file = other")], "unlike:1");
    // The same files, put together anew: no layer is shared.
    let own = format!("lib/libc file = {libc} @ 1600000000\nbin/sh file 755 = {shell}\napp file = a");
    let image = image(&test, &[("COPY . /", own.as_str())], "own:1");
    let found = test.analyze(&image).unwrap();
    assert!(found.shared.is_empty());
    let similar = found.similar.unwrap();
    assert_eq!((similar.image.as_str(), similar.bytes), ("distro:1", 2_100_000));
    assert!(found.advice[0].text.contains("`distro:1`"), "{:?}", found.advice);
}
