//! A layer's largest directories and files, as a treemap shows them.

use std::collections::BTreeMap;

use serde::Serialize;

/// A directory or file with the bytes of all that is in it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Node {
    /// Its name; of the root it is empty.
    pub name: String,
    /// Bytes of the files in it.
    pub bytes: u64,
    /// How many of these a later layer hides.
    pub wasted: u64,
    /// Files in it.
    pub files: u64,
    /// What is in it, the largest first; small ones are summed up as `…`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Node>,
}

/// How deep the tree goes, and how many children a directory shows: a page of a few hundred kilobytes at most.
const MAX_DEPTH: usize = 6;
const MAX_CHILDREN: usize = 24;
/// What is smaller than this share of its layer is not shown by itself.
const SMALLEST_SHARE: u64 = 500;

#[derive(Default)]
struct Growing {
    bytes: u64,
    wasted: u64,
    files: u64,
    children: BTreeMap<Vec<u8>, Growing>,
}

/// The tree of files, each with its path, its bytes and whether it is hidden.
pub(super) fn of<'a>(files: impl Iterator<Item = (&'a [u8], u64, bool)>) -> Node {
    let mut root = Growing::default();
    for (path, bytes, hidden) in files {
        let mut at = &mut root;
        let mut parts = path.split(|b| *b == b'/');
        for depth in 0..=MAX_DEPTH {
            at.bytes += bytes;
            at.files += 1;
            at.wasted += if hidden { bytes } else { 0 };
            match parts.next().filter(|_| depth < MAX_DEPTH) {
                Some(part) => at = at.children.entry(part.to_vec()).or_default(),
                None => break,
            }
        }
    }
    let smallest = root.bytes / SMALLEST_SHARE;
    shown(String::new(), root, smallest)
}

fn shown(name: String, growing: Growing, smallest: u64) -> Node {
    let Growing { bytes, wasted, files, children } = growing;
    let mut sorted: Vec<(Vec<u8>, Growing)> = children.into_iter().collect();
    sorted.sort_by(|a, b| b.1.bytes.cmp(&a.1.bytes).then_with(|| a.0.cmp(&b.0)));
    let mut rest = Node { name: "…".to_owned(), ..Node::default() };
    let mut children: Vec<Node> = Vec::new();
    for (name, child) in sorted {
        if children.len() < MAX_CHILDREN && child.bytes > smallest {
            children.push(shown(String::from_utf8_lossy(&name).into_owned(), child, smallest));
        } else {
            rest.bytes += child.bytes;
            rest.wasted += child.wasted;
            rest.files += child.files;
        }
    }
    if rest.bytes > 0 && !children.is_empty() {
        children.push(rest);
    }
    Node { name, bytes, wasted, files, children }
}
