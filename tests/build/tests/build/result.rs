//! What came out of a build, in lines that can be compared: the tree besides the base, the configuration, the history.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::context::MTIME;

/// The lines of a tree by their paths.
pub(crate) type Tree = BTreeMap<String, String>;

/// How many characters of a file are shown; of longer ones, a digest.
const SHOWN: usize = 200;

/// An image as `docker save` writes it.
pub(crate) struct Saved {
    files: BTreeMap<String, Vec<u8>>,
}

impl Saved {
    pub(crate) fn read(archive: impl Read) -> Saved {
        let mut files = BTreeMap::new();
        let mut links: Vec<(String, String)> = Vec::new();
        let mut tar = tar::Archive::new(archive);
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().trim_start_matches("./").to_owned();
            // Equal layers may be links to each other.
            if let Some(target) = entry.link_name().unwrap() {
                let from = std::path::Path::new(&path).parent().unwrap().join(target);
                let mut parts: Vec<&str> = Vec::new();
                for part in from.to_str().unwrap().split('/') {
                    if part == ".." {
                        parts.pop();
                    } else {
                        parts.push(part);
                    }
                }
                links.push((path, parts.join("/")));
                continue;
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            files.insert(path, bytes);
        }
        for (path, target) in links {
            let bytes = files[&target].clone();
            files.insert(path, bytes);
        }
        Saved { files }
    }

    fn manifest(&self) -> Value {
        let manifest: Value = serde_json::from_slice(&self.files["manifest.json"]).unwrap();
        manifest[0].clone()
    }

    pub(crate) fn config(&self) -> Value {
        serde_json::from_slice(&self.files[self.manifest()["Config"].as_str().unwrap()]).unwrap()
    }

    fn layers(&self) -> Vec<&[u8]> {
        let manifest = self.manifest();
        let layers = manifest["Layers"].as_array().into_iter().flatten();
        layers.map(|layer| self.files[layer.as_str().unwrap()].as_slice()).collect()
    }

    pub(crate) fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        for layer in self.layers() {
            apply(&mut tree, layer);
        }
        tree
    }
}

fn apply(tree: &mut Tree, layer: &[u8]) {
    // What this layer brings: a whiteout is about those below.
    let mut brought = Tree::new();
    let mut tar = tar::Archive::new(layer);
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let path = format!("/{}", path.trim_start_matches("./").trim_matches('/'));
        let (parent, name) = path.rsplit_once('/').unwrap();
        if name == ".wh..wh..opq" {
            remove(tree, &format!("{parent}/"), None);
            continue;
        }
        if let Some(name) = name.strip_prefix(".wh.") {
            let path = format!("{parent}/{name}");
            remove(tree, &format!("{path}/"), Some(&path));
            continue;
        }
        let line = match entry.header().entry_type() {
            tar::EntryType::Link => {
                let target = entry.link_name().unwrap().unwrap().to_string_lossy().into_owned();
                let target = format!("/{}", target.trim_start_matches("./").trim_start_matches('/'));
                let there = brought.get(&target).or_else(|| tree.get(&target));
                there.unwrap_or_else(|| panic!("{path} links to {target}")).clone()
            }
            _ => line(&mut entry),
        };
        let directory = line.starts_with("d ");
        if !directory {
            remove(tree, &format!("{path}/"), None);
        }
        brought.insert(path, line);
    }
    tree.extend(brought.into_iter().filter(|(path, _)| path != "/"));
}

fn remove(tree: &mut Tree, below: &str, itself: Option<&str>) {
    tree.retain(|path, _| !path.starts_with(below) && Some(path.as_str()) != itself);
}

/// Type, mode, owner, and what else there is; without the path.
fn line(entry: &mut tar::Entry<'_, &[u8]>) -> String {
    let mut extended: Vec<String> = Vec::new();
    for pair in entry.pax_extensions().unwrap().into_iter().flatten() {
        let pair = pair.unwrap();
        if let Some(name) = pair.key().unwrap().strip_prefix("SCHILY.xattr.") {
            extended.push(format!(" {name}={:02x?}", pair.value_bytes()));
        }
    }
    let header = entry.header();
    let mode = header.mode().unwrap() & 0o7777;
    let owner = format!("{}:{}", entry.header().uid().unwrap(), entry.header().gid().unwrap());
    // Only those of the context and of its archives say anything.
    let time = match i64::try_from(header.mtime().unwrap()).unwrap() {
        MTIME => " old",
        1_400_000_000 => " older",
        0 => " epoch",
        _ => "",
    };
    let kind = header.entry_type();
    let mut text = match kind {
        // BuildKit before 0.9 does not keep times of directories.
        tar::EntryType::Directory => format!("d {mode:o} {owner}"),
        tar::EntryType::Symlink => {
            format!("l {owner} -> {}{time}", entry.link_name().unwrap().unwrap().display())
        }
        tar::EntryType::Fifo => format!("p {mode:o} {owner}{time}"),
        tar::EntryType::Char | tar::EntryType::Block => {
            let (major, minor) = (header.device_major().unwrap(), header.device_minor().unwrap());
            format!("c {mode:o} {owner} {major:?}:{minor:?}{time}")
        }
        _ => {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let shown = match std::str::from_utf8(&content) {
                Ok(text) if text.len() <= SHOWN => format!("{text:?}"),
                _ => {
                    let digest = Sha256::digest(&content);
                    digest.iter().take(8).map(|b| format!("{b:02x}")).collect()
                }
            };
            format!("f {mode:o} {owner} {} {shown}{time}", content.len())
        }
    };
    text.extend(extended);
    text
}

/// All that is to be compared. Lines of the tree that the base has are left out.
pub(crate) fn shown(saved: &Saved, base: &Tree) -> String {
    let mut out = String::new();
    let tree = saved.tree();
    for (path, line) in &tree {
        if base.get(path) != Some(line) {
            let (kind, rest) = line.split_once(' ').unwrap();
            writeln!(out, "{kind} {path} {rest}").unwrap();
        }
    }
    for path in base.keys().filter(|path| !tree.contains_key(*path)) {
        writeln!(out, "- {path}").unwrap();
    }
    let whole = saved.config();
    config(&whole, &mut out);
    let mut tree = Tree::new();
    let mut layers = saved.layers().into_iter();
    for entry in whole["history"].as_array().into_iter().flatten() {
        // A layer that changes nothing, or none at all: that is how an image is stored, not what it is.
        let mut after = tree.clone();
        if entry["empty_layer"].as_bool() != Some(true) {
            layers.next().into_iter().for_each(|layer| apply(&mut after, layer));
        }
        if let Some(text) = history(entry) {
            writeln!(out, "history: {}{text}", if after == tree { "empty " } else { "" }).unwrap();
        }
        tree = after;
    }
    out
}

fn config(whole: &Value, out: &mut String) {
    if let Some(author) = whole["author"].as_str().filter(|a| !a.is_empty()) {
        writeln!(out, "author: {author}").unwrap();
    }
    let config = &whole["config"];
    for key in [
        "Env",
        "Cmd",
        "Entrypoint",
        "User",
        "WorkingDir",
        "Labels",
        "ExposedPorts",
        "Volumes",
        "Healthcheck",
        "OnBuild",
        "StopSignal",
        "Shell",
    ] {
        let mut value = config[key].clone();
        if let Some(labels) = value.as_object_mut() {
            labels.remove("io.buildah.version");
        }
        // The base has a few variables.
        if key == "Env" && value == serde_json::json!(["PATH=/bin", "BASE=base"]) {
            continue;
        }
        let empty = match &value {
            Value::Null => true,
            Value::String(text) => text.is_empty() || (key == "WorkingDir" && text == "/"),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if !empty {
            writeln!(out, "{key}: {value}").unwrap();
        }
    }
}

/// An entry of the history as all builders would say it: the instruction, of copies only where to, of commands what is
/// run. `None`: one that only some builders have.
fn history(entry: &Value) -> Option<String> {
    let by = entry["created_by"].as_str().unwrap_or("");
    if by == "base" {
        return None;
    }
    let by = by.strip_suffix(" # buildkit").unwrap_or(by);
    let by = by.split_once("#(nop)").map_or(by, |(_, rest)| rest).trim();
    let (keyword, rest) = by.split_once(' ').unwrap_or((by, ""));
    let text = match keyword {
        "COPY" | "ADD" => {
            let rest = rest.trim_end();
            let rest = rest.strip_suffix(" in").unwrap_or(rest);
            let to = rest.rsplit_once(" in ").or_else(|| rest.rsplit_once(' ')).map_or("", |(_, to)| to);
            format!("{keyword} {to}").trim_end().to_owned()
        }
        // BuildKit shows the ports in Go's way and a check in JSON; ARG with what was given.
        "EXPOSE" | "HEALTHCHECK" | "ARG" => keyword.to_owned(),
        // BuildKit has none of these.
        "ONBUILD" => return None,
        "RUN" => rest.to_owned(),
        _ => by.to_owned(),
    };
    Some(text.replace('\n', "\\n"))
}
