//! `images` and `history`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use sampan_docker_api::image::{HistoryRow, ImageSummary};
use sampan_docker_api::units::{human_size, human_size_digits};
use sampan_template::Value;

use crate::client::{Client, encode, query};
use crate::commands::container::filters;
use crate::commands::{ago, say, short};
use crate::listing::{Format, go_time_of, shortened};

/// `sampan images`
#[derive(Args)]
pub(crate) struct List {
    /// Also images that are only parents of others
    #[arg(short, long)]
    all: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Also the digests by which they were pulled or pushed
    #[arg(long)]
    digests: bool,
    /// Filter: reference=…, dangling=…, label=…, before=…, since=…, until=…
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// How to print: table, json, or a Go template
    #[arg(
        long,
        visible_alias = "output",
        default_value = "",
        hide_default_value = true,
        value_name = "FORMAT"
    )]
    format: String,
    /// Only images of this name
    #[arg(default_value = "", hide_default_value = true)]
    name: String,
}

const TABLE: &str = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
const TABLE_WITH_DIGESTS: &str =
    "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";

/// The headings of images.
pub(crate) const HEADINGS: [(&str, &str); 11] = [
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];

pub(crate) async fn list(client: &Client, command: List) -> Result<ExitCode> {
    let given = crate::settings::format("imagesFormat", &command.format, command.quiet);
    let format = Format::parse(&given, if command.digests { TABLE_WITH_DIGESTS } else { TABLE })?;
    let mut wanted = command.filter.clone();
    if !command.name.is_empty() {
        wanted.push(format!("reference={}", command.name));
    }
    let on = |yes: bool| if yes { "1" } else { "" };
    let parameters = query(&[("all", on(command.all)), ("filters", &filters(&wanted)?)]);
    let images: Vec<ImageSummary> = client.get(&format!("/images/json{parameters}")).await?;
    if command.quiet {
        for image in &images {
            say(if command.no_trunc { &image.id } else { short(&image.id) })?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let digests = command.digests || format.names("Digest");
    let rows: Vec<Value> =
        images.iter().flat_map(|image| rows(image, command.no_trunc, digests, false)).collect();
    format.print(&HEADINGS, &rows)?;
    Ok(ExitCode::SUCCESS)
}

/// All that a list can show of an image, a row a name; what was counted only `counted`.
pub(crate) fn rows(image: &ImageSummary, whole: bool, with_digests: bool, counted: bool) -> Vec<Value> {
    let digests: Vec<(&str, &str)> = image
        .repo_digests
        .iter()
        .flatten()
        .filter(|d| *d != "<none>@<none>")
        .filter_map(|d| d.split_once('@'))
        .collect();
    let mut names: Vec<(&str, &str)> = image
        .repo_tags
        .iter()
        .flatten()
        .filter(|name| *name != "<none>:<none>")
        .map(|name| name.rsplit_once(':').unwrap_or((name, "<none>")))
        .collect();
    if names.is_empty() {
        // Pulled by digest: it has a repository and no tag.
        names.extend(digests.iter().map(|(repository, _)| (*repository, "<none>")));
        names.dedup();
    }
    if names.is_empty() {
        names.push(("<none>", "<none>"));
    }
    let bytes = |n: i64| u64::try_from(n).unwrap_or(0);
    let if_counted =
        |n: i64, text: String| Value::from(if counted && n >= 0 { text } else { "N/A".to_owned() });
    let (size, shared) = (bytes(image.size), bytes(image.shared_size));
    let row = |(repository, tag): (&str, &str)| {
        let digest = digests.iter().find(|(r, _)| *r == repository && with_digests);
        Value::record([
            ("Containers", if_counted(image.containers, image.containers.to_string())),
            ("CreatedAt", Value::from(go_time_of(image.created))),
            ("CreatedSince", Value::from(if image.created > 0 { ago(image.created) } else { "N/A".into() })),
            ("Digest", Value::from(digest.map_or(if counted { "" } else { "<none>" }, |(_, digest)| digest))),
            ("ID", Value::from(if whole { image.id.as_str() } else { short(&image.id) })),
            ("Repository", Value::from(repository)),
            ("SharedSize", if_counted(image.shared_size, human_size_digits(shared, 4))),
            ("Size", Value::from(human_size(size))),
            ("Tag", Value::from(tag)),
            ("UniqueSize", if_counted(image.shared_size, human_size_digits(size.saturating_sub(shared), 4))),
            ("VirtualSize", Value::from(human_size_digits(size, 4))),
        ])
    };
    names.into_iter().map(row).collect()
}

/// `sampan history`
#[derive(Args)]
pub(crate) struct History {
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Sizes and times for people: true or false
    #[arg(short = 'H', long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    human: bool,
    /// How to print: table, json, or a Go template
    #[arg(
        long,
        visible_alias = "output",
        default_value = "",
        hide_default_value = true,
        value_name = "FORMAT"
    )]
    format: String,
    /// Kept for scripts: there is one platform to each image
    #[arg(long, hide = true, default_value = "")]
    platform: String,
    /// Name or id
    image: String,
}

const HISTORY: &str = "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
const HISTORY_AS_IS: &str = "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";

pub(crate) async fn history(client: &Client, command: History) -> Result<ExitCode> {
    let format = Format::parse(&command.format, if command.human { HISTORY } else { HISTORY_AS_IS })?;
    let rows: Vec<HistoryRow> = client.get(&format!("/images/{}/history", encode(&command.image))).await?;
    let id = |r: &HistoryRow| -> String {
        if r.id == "<missing>" || command.no_trunc { r.id.clone() } else { short(&r.id).to_owned() }
    };
    if command.quiet {
        for row in &rows {
            say(id(row))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let row = |r: &HistoryRow| {
        let by = r.created_by.replace('\t', " ");
        let by = if command.no_trunc { by } else { shortened(&by, 45) };
        let size = u64::try_from(r.size).unwrap_or(0);
        let size = if command.human { human_size(size) } else { size.to_string() };
        let at = jiff::Timestamp::from_second(r.created).map(|t| t.to_string()).unwrap_or_default();
        Value::record([
            ("Comment", Value::from(r.comment.as_str())),
            ("CreatedAt", Value::from(at.as_str())),
            ("CreatedBy", Value::from(by)),
            ("CreatedSince", Value::from(if command.human { ago(r.created) } else { at })),
            ("ID", Value::from(id(r))),
            ("Size", Value::from(size)),
        ])
    };
    let rows: Vec<Value> = rows.iter().map(row).collect();
    let headings = [
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ];
    format.print(&headings, &rows)?;
    Ok(ExitCode::SUCCESS)
}
