//! Layers that become one.

use sampan_base::Class;
use sampan_image::{Image, Layer};
use sampan_oci::image::{History, ImageConfig};

use crate::support::{TestStore, tar, tree};

fn image(test: &TestStore, listings: &[&str]) -> Image {
    let lease = test.lease();
    let mut layers: Vec<Layer> = Vec::new();
    let mut config = ImageConfig::for_host();
    for listing in listings {
        let parent = layers.last().map(|l| l.chain_id.clone());
        layers
            .push(test.add_layer(&mut &*tar(listing), parent.as_ref(), &Default::default(), &lease).unwrap());
        config.history.push(History { created_by: format!("step {}", layers.len()), ..History::default() });
    }
    config.history.push(History { created_by: "CMD".into(), empty_layer: true, ..History::default() });
    test.create_image(config, &layers, &["a:1".parse().unwrap()]).unwrap()
}

fn contents(test: &TestStore, image: &Image) -> String {
    let lease = test.lease();
    tree(test.view(image.chain_id(), &lease).unwrap().rootfs())
}

const LISTINGS: [&str; 4] = [
    "base dir 750 1:2\nbase/kept file = k\nbase/gone file = g\nbase/changed file = old\nd dir\nd/x file = x\nl link 777 = base",
    "big file = 0123456789\na file 4755 3:4 = a + user.k=v\nb hard = a\ne dir 2770 5:6\ne/f file = f\nbase/.wh.gone file =",
    ".wh.big file =\nbase/changed file = new\nb2 hard = base/kept\n.wh.d file =\nd dir\nd/y file = y\ne/.wh.f file =\ne/g file = g",
    "e dir 2771 5:6\ne/.wh..wh..opq file =\ne/h file = h @ 1500000000.5\nfifo fifo 600\nnull char 666 = 1:3\n.wh.l file =",
];

#[test]
fn what_is_squashed_looks_the_same_and_has_one_layer() {
    let test = TestStore::new();
    let whole = image(&test, &LISTINGS);
    let expected = contents(&test, &whole);
    for keep in 0..=4 {
        let squashed = test.squash(&whole, keep).unwrap();
        assert_eq!(squashed.layers.len(), (keep + 1).min(4), "{keep}");
        assert_eq!(contents(&test, &squashed), expected, "{keep}");
        assert_eq!(squashed.layers[..keep.min(3)], whole.layers[..keep.min(3)]);
        if keep < 3 {
            // The large file that was deleted again is gone.
            assert!(keep == 2 || squashed.size < whole.size, "{keep}");
            assert!(squashed.names.is_empty());
            let empty: Vec<bool> = squashed.config.history.iter().map(|h| h.empty_layer).collect();
            let steps: Vec<bool> = (0..4).map(|i| i >= keep).chain([true, false]).collect();
            assert_eq!(empty, steps, "{keep}");
            let last = &squashed.config.history[5].comment;
            assert!(last.contains(whole.id.as_str()), "{last}");
        } else {
            assert_eq!(squashed, whole, "nothing to merge");
        }
    }
    assert_eq!(test.squash(&whole, 5).unwrap_err().class(), Class::Invalid);
}

#[test]
fn a_squashed_layer_has_the_marks_that_its_base_needs_and_no_others() {
    let test = TestStore::new();
    let whole = image(&test, &LISTINGS);
    let squashed = test.squash(&whole, 1).unwrap();
    let mut blob = std::fs::File::open(test.blob_path(&squashed.layers[1].blob)).unwrap();
    let mut reader = sampan_image::tar::Reader::new(&mut blob);
    let mut marks = Vec::new();
    while let Some(member) = reader.next_member().unwrap() {
        let path = String::from_utf8(member.path).unwrap();
        if path.contains(".wh.") {
            marks.push(path);
        }
    }
    assert_eq!(marks, ["base/.wh.gone", "d/.wh..wh..opq", ".wh.l"]);
}

#[test]
fn layers_that_undo_each_other_leave_none() {
    let test = TestStore::new();
    let whole = image(&test, &["a file = a", "b file = b", ".wh.b file ="]);
    let squashed = test.squash(&whole, 1).unwrap();
    assert_eq!(squashed.layers, whole.layers[..1]);
    assert!(squashed.config.history.last().unwrap().empty_layer);
}
