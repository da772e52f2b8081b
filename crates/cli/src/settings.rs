//! What people have set for all time in Docker's config.json: formats.

use sampan_registry::docker_config::default_path;
use serde_json::Value;

/// The format to use: the one that was asked for, else the one that is kept under this name.
pub(crate) fn format(name: &str, given: &str, quiet: bool) -> String {
    if !given.is_empty() || quiet {
        return given.to_owned();
    }
    // A file that is missing or broken has no formats; who logs in is told about it.
    let kept = default_path().and_then(|path| std::fs::read(path).ok());
    let kept = kept.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    kept.and_then(|kept| kept.get(name)?.as_str().map(str::to_owned)).unwrap_or_default()
}
