//! `cargo xtask codegen [--check]`: Rust from `crates/rpc/proto`, committed in `crates/rpc/src/generated`.
//!
//! protox and prost-build cost tens of seconds to compile, so they are here and not in a build script; the
//! output is committed, and `--check` (and the test below) tell when it is stale.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Writes the generated files, or with `check` only compares them.
pub(crate) fn run(check: bool) -> Result<()> {
    let rpc = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/rpc");
    let (proto, generated) = (rpc.join("proto"), rpc.join("src/generated"));
    let wanted = generate(&proto)?;
    let present = read_all(&generated)?;
    let stale: Vec<&String> =
        wanted.keys().chain(present.keys()).filter(|name| wanted.get(*name) != present.get(*name)).collect();
    if stale.is_empty() {
        return Ok(());
    }
    if check {
        bail!("generated files are stale: {stale:?}: run `cargo xtask codegen`");
    }
    for name in present.keys().filter(|name| !wanted.contains_key(*name)) {
        std::fs::remove_file(generated.join(name)).with_context(|| format!("cannot remove `{name}`"))?;
    }
    std::fs::create_dir_all(&generated)?;
    for (name, text) in &wanted {
        std::fs::write(generated.join(name), text).with_context(|| format!("cannot write `{name}`"))?;
    }
    Ok(())
}

/// File name to content, for every package in `proto`.
fn generate(proto: &Path) -> Result<BTreeMap<String, String>> {
    let mut sources: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(proto).with_context(|| format!("cannot list `{}`", proto.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "proto") {
            sources.push(path);
        }
    }
    sources.sort();
    let descriptors = protox::compile(&sources, [proto]).context("cannot compile the .proto files")?;
    let out = std::env::temp_dir().join(format!("sampan-codegen-{}", std::process::id()));
    std::fs::create_dir_all(&out)?;
    let written = prost_build::Config::new()
        .out_dir(&out)
        .include_file("mod.rs")
        .enable_type_names()
        .btree_map(["."])
        .compile_fds(descriptors)
        .context("cannot generate Rust");
    let files = written.and_then(|()| read_all(&out));
    std::fs::remove_dir_all(&out)?;
    files
}

/// File name to content, for every file in `directory`; empty if it does not exist.
fn read_all(directory: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    if !directory.exists() {
        return Ok(files);
    }
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        files
            .insert(entry.file_name().to_string_lossy().into_owned(), std::fs::read_to_string(entry.path())?);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_code_is_what_the_protos_give() {
        super::run(true).unwrap();
    }
}
