//! What `COPY` and `ADD` take of a tree: decided first, as a list; then it is named by a digest, then copied.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sampan_base::Digest;
use sampan_base::digest::Hasher;

use crate::ignore::Ignore;
use crate::pattern::{Pattern, is_pattern};
use crate::tree::{NodeKind, Tree, TreeError, inside};

/// Something to copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Item {
    /// A file, link or device; in a directory it has this name.
    File { path: PathBuf, name: PathBuf },
    /// What is in a directory: all of it, or these parts, parents first.
    Content { path: PathBuf, only: Option<Vec<Part>> },
}

/// A part of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    /// Relative to the directory.
    pub(crate) path: PathBuf,
    /// It is only there because of what is in it.
    pub(crate) implied: bool,
}

/// How sources are taken.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Taking {
    /// `--parents`: with the directories they are in.
    pub(crate) parents: bool,
    /// `--exclude`
    pub(crate) exclude: Ignore,
}

/// What `sources` mean in `tree`, in order. A pattern may mean nothing.
pub(crate) fn select(tree: &Tree<'_>, sources: &[String], taking: &Taking) -> Result<Vec<Item>, TreeError> {
    let mut items = Vec::new();
    for source in sources {
        if taking.parents {
            items.extend(with_parents(tree, source, taking)?);
            continue;
        }
        for path in tree.select(source)? {
            let name: PathBuf = path.file_name().unwrap_or_default().into();
            let resolved = tree.resolve(&path).ok_or_else(|| tree.not_found(source))?;
            if tree.node(&resolved)?.kind != NodeKind::Directory {
                if !taking.excludes(&name) {
                    items.push(Item::File { path: resolved, name });
                }
                continue;
            }
            let only = match taking.exclude.is_empty() {
                true => None,
                false => Some(parts(tree, &resolved, Path::new(""), None, taking)?),
            };
            items.push(Item::Content { path: resolved, only });
        }
    }
    Ok(items)
}

impl Taking {
    fn excludes(&self, path: &Path) -> bool {
        !self.exclude.is_empty() && self.exclude.excludes(&path.to_string_lossy())
    }
}

/// `--parents`: what is before `/./` stays behind, the rest is a pattern, in which `**` is any number of directories.
fn with_parents(tree: &Tree<'_>, source: &str, taking: &Taking) -> Result<Option<Item>, TreeError> {
    let (base, wanted) = source.split_once("/./").unwrap_or(("", source));
    let base = tree.resolve(&inside(base)).ok_or_else(|| tree.not_found(source))?;
    let wanted = inside(wanted);
    // Only there can be anything: the rest of the tree is not looked at.
    let plain = |name: &&std::ffi::OsStr| {
        !is_pattern(&name.to_string_lossy()) && !name.to_string_lossy().contains('\\')
    };
    let start: PathBuf = wanted.iter().take_while(plain).collect();
    let pattern = Pattern::for_ignore(&wanted.to_string_lossy())?;
    let everything = wanted.as_os_str().is_empty();
    let found = match tree.node(&base.join(&start)) {
        Ok(node) if node.kind == NodeKind::Directory => {
            parts(tree, &base, &start, (!everything).then_some(&pattern), taking)?
        }
        Ok(_) if start == wanted && !taking.excludes(&wanted) => ancestors(&wanted),
        _ => Vec::new(),
    };
    if found.is_empty() && start == wanted && !taking.excludes(&wanted) {
        return Err(tree.not_found(source));
    }
    Ok((!found.is_empty()).then_some(Item::Content { path: base, only: Some(found) }))
}

/// A path with the directories that it is in.
fn ancestors(path: &Path) -> Vec<Part> {
    let mut all: Vec<Part> = path
        .ancestors()
        .filter(|p| !p.as_os_str().is_empty())
        .map(|p| Part { path: p.to_owned(), implied: p != path })
        .collect();
    all.reverse();
    all
}

/// What of the directory `base` is taken, from `start` on: what the pattern fits, and all that is in it, but for what is
/// excluded.
fn parts(
    tree: &Tree<'_>,
    base: &Path,
    start: &Path,
    pattern: Option<&Pattern>,
    taking: &Taking,
) -> Result<Vec<Part>, TreeError> {
    let fits = |path: &Path| pattern.is_none_or(|p| p.matches(&path.to_string_lossy()));
    // Paths sort after the directories that they are in.
    let mut found: BTreeMap<PathBuf, bool> = BTreeMap::new();
    let mut take = |path: &Path| {
        for part in ancestors(path) {
            *found.entry(part.path).or_insert(true) &= part.implied;
        }
    };
    let wanted = start.ancestors().filter(|p| !p.as_os_str().is_empty()).any(fits);
    if !start.as_os_str().is_empty() && wanted && !taking.excludes(start) {
        take(start);
    }
    let mut next = vec![(start.to_owned(), wanted || pattern.is_none())];
    while let Some((directory, wanted)) = next.pop() {
        for name in tree.children(&base.join(&directory))? {
            let path = directory.join(&name);
            let wanted = wanted || fits(&path);
            let excluded = taking.excludes(&path);
            if wanted && !excluded {
                take(&path);
            }
            // In what is left out there may be something that is not.
            let look = !excluded || taking.exclude.takes_back();
            if look && tree.node(&base.join(&path))?.kind == NodeKind::Directory {
                next.push((path, wanted));
            }
        }
    }
    Ok(found.into_iter().map(|(path, implied)| Part { path, implied }).collect())
}

/// What all that is to be copied is, whatever its times; and what it is in history: one file, one directory, or several.
pub(crate) fn digest_of(work: &[(Tree<'_>, Vec<Item>)]) -> Result<(Digest, &'static str), TreeError> {
    let mut hasher = Hasher::new();
    let mut kinds = Vec::new();
    for (tree, items) in work {
        for item in items {
            match item {
                // A file's name counts, if it goes into a directory.
                Item::File { path, name } => tree.hash(path, name, &mut hasher)?,
                // A directory's own is not copied.
                Item::Content { path, only: None } => tree.hash(path, Path::new(""), &mut hasher)?,
                Item::Content { path, only: Some(parts) } => {
                    tree.hash_node(path, Path::new(""), &mut hasher)?;
                    for part in parts {
                        tree.hash_node(&path.join(&part.path), &part.path, &mut hasher)?;
                    }
                }
            }
            kinds.push(if matches!(item, Item::File { .. }) { "file" } else { "dir" });
        }
    }
    let kind = if kinds.len() > 1 { "multi" } else { kinds.first().copied().unwrap_or("multi") };
    Ok((hasher.finish(), kind))
}
