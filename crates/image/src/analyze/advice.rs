//! What to change in the Dockerfile, from what was found.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Analysis, Hidden, Kind};

/// Something to change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Advice {
    /// Bytes that it saves.
    pub saves: u64,
    /// What to do.
    pub text: String,
}

/// What saves less is not worth a word.
const SMALLEST_BYTES: u64 = 1024;
/// Characters of an instruction that are shown.
const SHOWN: usize = 60;

pub(super) fn of(analysis: &Analysis) -> Vec<Advice> {
    let mut advice = hidden(analysis);
    advice.extend(analysis.similar.iter().map(|similar| {
        let text = format!(
            "{} has much that `{}` has, too, which is here: build `FROM` it, and its layers are shared",
            layer(analysis, 1),
            similar.image
        );
        Advice { saves: similar.bytes, text }
    }));
    advice.extend(left(analysis));
    advice.extend(duplicates(analysis));
    advice.retain(|a| a.saves >= SMALLEST_BYTES);
    advice.sort_by(|a, b| b.saves.cmp(&a.saves).then_with(|| a.text.cmp(&b.text)));
    advice
}

/// A layer as it is spoken of: its number and its instruction.
fn layer(analysis: &Analysis, number: usize) -> String {
    let text = analysis.layers.get(number - 1).map_or("", |l| l.created_by.as_str());
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.chars().count() {
        0 => format!("layer {number}"),
        n if n > SHOWN => {
            format!("layer {number} (`{}…`)", text.chars().take(SHOWN).collect::<String>())
        }
        _ => format!("layer {number} (`{text}`)"),
    }
}

fn is_run(analysis: &Analysis, number: usize) -> bool {
    analysis.layers.get(number - 1).is_some_and(|l| l.created_by.starts_with("RUN"))
}

/// Pairs of layers of which one hides what the other brought.
fn hidden(analysis: &Analysis) -> Vec<Advice> {
    let mut pairs: BTreeMap<(usize, usize, Hidden), (u64, usize)> = BTreeMap::new();
    for wasted in &analysis.wasted {
        let sum = pairs.entry((wasted.layer, wasted.hidden_by, wasted.how)).or_default();
        sum.0 += wasted.bytes;
        sum.1 += 1;
    }
    let say = |((from, by, how), (bytes, files)): ((usize, usize, Hidden), (u64, usize))| {
        let (old, new) = (layer(analysis, from), layer(analysis, by));
        let of_base = analysis.shared.iter().any(|s| s.is_base && from <= s.layers);
        let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
        let text = match how {
            _ if of_base => format!(
                "{new} hides {files} of the base image ({old}), sent all the same: look for a base without"
            ),
            Hidden::Copied => format!(
                "{new} changes only owner, mode or time of {files} that {old} brought: set them there (`COPY --chown`, `--chmod`)"
            ),
            Hidden::Deleted if is_run(analysis, from) && is_run(analysis, by) => {
                format!("{new} deletes {files} that {old} brought: join the two RUN instructions")
            }
            Hidden::Deleted if is_run(analysis, by) => format!(
                "{new} deletes {files} that {old} brought: leave them out there (`.dockerignore`, `COPY --exclude`), or mount them (`RUN --mount=type=bind`)"
            ),
            Hidden::Deleted => format!("{new} deletes {files} that {old} brought: do not bring them"),
            Hidden::Overwritten if is_run(analysis, from) && is_run(analysis, by) => {
                format!("{new} overwrites {files} that {old} wrote: join the two RUN instructions")
            }
            Hidden::Overwritten => {
                format!("{new} overwrites {files} that {old} brought: bring them once, in their last form")
            }
        };
        Advice { saves: bytes, text }
    };
    pairs.into_iter().map(say).collect()
}

fn left(analysis: &Analysis) -> Vec<Advice> {
    let mut advice = Vec::new();
    for left in &analysis.leftovers {
        let at = layer(analysis, left.layer);
        let of_base = analysis.shared.iter().any(|s| s.is_base && left.layer <= s.layers);
        let what = left.kind.title();
        let how = match left.kind {
            _ if of_base => continue,
            Kind::AptLists => {
                "end the same RUN with `rm -rf /var/lib/apt/lists/*`, or keep them out with `--mount=type=cache,target=/var/lib/apt`"
            }
            Kind::AptCache => {
                "end the same RUN with `apt-get clean`, or use `--mount=type=cache,target=/var/cache/apt`"
            }
            Kind::DnfCache => "end the same RUN with `dnf clean all`",
            Kind::ApkCache => "use `apk add --no-cache`",
            Kind::PipCache => {
                "use `pip install --no-cache-dir`, or `--mount=type=cache,target=/root/.cache/pip`"
            }
            Kind::NpmCache => {
                "end the same RUN with `npm cache clean --force`, or use `--mount=type=cache,target=/root/.npm`"
            }
            Kind::CargoCache => {
                "use `--mount=type=cache` for cargo's registry, or build in a stage of its own"
            }
            Kind::GoCache => "use `--mount=type=cache` for Go's caches, or build in a stage of its own",
            Kind::PythonBytecode => "set `PYTHONDONTWRITEBYTECODE=1`, or use `pip install --no-compile`",
            Kind::Git => "put `.git` into `.dockerignore`",
            Kind::Logs => "remove them in the same RUN",
            Kind::Temporary => "remove them in the same RUN, or use `--mount=type=tmpfs,target=/tmp`",
            Kind::BuildTools => "build in a stage of its own, and `COPY --from` only what is needed",
        };
        advice.push(Advice { saves: left.bytes, text: format!("{at} leaves {what}: {how}") });
    }
    advice
}

fn duplicates(analysis: &Analysis) -> Vec<Advice> {
    let Some(first) = analysis.duplicates.first() else { return Vec::new() };
    let text = format!(
        "files are there several times with the same content, such as `{}` and `{}`: make links of them",
        first.paths[0], first.paths[1]
    );
    vec![Advice { saves: analysis.duplicate_bytes, text }]
}
