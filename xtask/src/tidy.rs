//! Holds the workspace against ARCHITECTURE.md: each crate is in its table, and uses only crates of layers below.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Crates that never name tokio: async is for the network.
const SYNC: [&str; 13] = [
    "base",
    "kernel",
    "oci",
    "docker-api",
    "template",
    "compose",
    "rpc",
    "runtime",
    "shim",
    "image",
    "registry",
    "net",
    "build",
];

pub(crate) fn run() -> Result<()> {
    let problems = problems()?;
    if problems.is_empty() {
        return Ok(());
    }
    bail!("ARCHITECTURE.md and the workspace differ:\n{}", problems.join("\n"));
}

fn problems() -> Result<Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text =
        std::fs::read_to_string(root.join("ARCHITECTURE.md")).context("cannot read ARCHITECTURE.md")?;
    let layers = layers(&text);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(&root)
        .output()
        .context("cannot run cargo metadata")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cannot read cargo metadata")?;
    let mut problems = Vec::new();
    let mut seen = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = short(package["name"].as_str().unwrap_or_default());
        seen.push(name.to_owned());
        let Some(layer) = layers.get(name) else {
            problems.push(format!("crate {name} is not in the table"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or_default();
            let dev = dependency["kind"] == "dev";
            if used == "tokio" && SYNC.contains(&name) && !dev {
                problems.push(format!("crate {name} names tokio"));
            }
            if used.starts_with("sampan-") && !dev {
                match layers.get(short(used)) {
                    // Layer 0 and 1 hold plain types, which may build on one another in one direction.
                    Some(below) if below < layer || (*layer <= 1 && below <= layer) => {}
                    _ => problems
                        .push(format!("crate {name} (layer {layer}) uses {used}, which is not below it")),
                }
            }
        }
    }
    problems.extend(
        layers.keys().filter(|name| !seen.contains(name)).map(|name| format!("there is no crate {name}")),
    );
    Ok(problems)
}

fn short(package: &str) -> &str {
    package.strip_prefix("sampan-").unwrap_or(package)
}

/// The rows `| layer | crate | … |` of the table.
fn layers(text: &str) -> BTreeMap<String, u32> {
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        let layer = cells.next()?.parse().ok()?;
        Some((cells.next()?.to_owned(), layer))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn architecture_md_is_true() {
        let problems = super::problems().unwrap();
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }
}
