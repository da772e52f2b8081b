//! `sampan image analyze` and `sampan image squash`: what an image's bytes are, and fewer layers.

mod page;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use sampan_docker_api::IdAnswer;
use sampan_docker_api::store::Analysis;
use sampan_docker_api::units::human_size;

use super::image::split_tag;
use super::say;
use crate::client::{Client, query};
use crate::table;

/// `sampan image analyze`
#[derive(Args)]
pub(crate) struct Analyze {
    /// How to print
    #[arg(short, long, value_parser = ["table", "json"], default_value = "table")]
    output: String,
    /// Also write a page with a map of the layers
    #[arg(long, value_name = "FILE")]
    html: Option<String>,
    /// How many files each list shows
    #[arg(long, default_value_t = 10)]
    top: usize,
    /// Name or id
    image: String,
}

/// `sampan image squash`
#[derive(Args)]
pub(crate) struct Squash {
    /// Name the new image
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "REPOSITORY[:TAG]")]
    tag: String,
    /// Keep the layers of this image, the base
    #[arg(long, value_name = "IMAGE", conflicts_with = "keep")]
    from: Option<String>,
    /// Keep the first N layers
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// Name or id
    image: String,
}

pub(crate) async fn squash(client: &Client, command: Squash) -> Result<ExitCode> {
    let (repository, tag) = split_tag(&command.tag);
    let keep = command.keep.map(|k| k.to_string()).unwrap_or_default();
    let parameters = query(&[
        ("image", &command.image),
        ("keep", &keep),
        ("from", command.from.as_deref().unwrap_or_default()),
        ("repo", repository),
        ("tag", tag),
    ]);
    let made: IdAnswer = client.post_json(&format!("/sampan/squash{parameters}"), &()).await?;
    say(made.id)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn analyze(client: &Client, command: Analyze) -> Result<ExitCode> {
    let path = format!("/sampan/analyze{}", query(&[("image", &command.image)]));
    let analysis: Analysis = client.get(&path).await?;
    if let Some(file) = &command.html {
        std::fs::write(file, page::of(&analysis)?).with_context(|| format!("cannot write `{file}`"))?;
    }
    if command.output == "json" {
        say(serde_json::to_string(&analysis)?)?;
    } else {
        print(&analysis, command.top)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A path or an instruction from an image, which can hold anything, for a terminal.
fn shown(text: &str, width: usize) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if clean.chars().count() <= width {
        return clean;
    }
    clean.chars().take(width.saturating_sub(1)).collect::<String>() + "…"
}

/// A bar of a tenth of the width a step, filled by eighths.
fn bar(part: u64, whole: u64) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = (part * 80).checked_div(whole).unwrap_or(0);
    let mut text = "█".repeat(usize::try_from(eighths / 8).unwrap_or(0));
    if !eighths.is_multiple_of(8) {
        text.push(EIGHTHS[usize::try_from(eighths % 8).unwrap_or(0)]);
    }
    text
}

fn print(analysis: &Analysis, top: usize) -> Result<()> {
    let width = if std::io::stdout().is_terminal() { 60 } else { 200 };
    let name = analysis.names.first().unwrap_or(&analysis.id);
    say(format_args!(
        "{name}: {} in {} layers ({} stored), {} files visible; efficiency {:.1} %, {} wasted\n",
        human_size(analysis.size),
        analysis.layers.len(),
        human_size(analysis.stored),
        analysis.visible_files,
        analysis.efficiency * 100.0,
        human_size(analysis.wasted_bytes),
    ))?;
    let rows: Vec<Vec<String>> = analysis
        .layers
        .iter()
        .map(|l| {
            vec![
                l.number.to_string(),
                human_size(l.size),
                bar(l.size, analysis.size),
                l.files.to_string(),
                format!("+{} ~{} -{}", l.added, l.modified, l.deleted),
                if l.wasted_bytes > 0 { human_size(l.wasted_bytes) } else { String::new() },
                shown(&l.created_by, width),
            ]
        })
        .collect();
    table::print(&["LAYER", "SIZE", "", "FILES", "CHANGES", "WASTED", "CREATED BY"], &rows)?;
    let section = |title: &str, header: &[&str], rows: Vec<Vec<String>>, all: usize| -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        say(format_args!("\n{title}"))?;
        table::print(header, &rows)?;
        if all > rows.len() {
            say(format_args!("… {} more", all - rows.len()))?;
        }
        Ok(())
    };
    let wasted = analysis.wasted.iter().take(top).map(|w| {
        let how = format!("{} by layer {}", w.how, w.hidden_by);
        vec![human_size(w.bytes), w.layer.to_string(), how, shown(&w.path, width)]
    });
    section(
        "Wasted: a later layer hides it, and it is sent all the same",
        &["SIZE", "LAYER", "HIDDEN", "PATH"],
        wasted.collect(),
        analysis.wasted.len(),
    )?;
    let left = analysis.leftovers.iter().take(top).map(|l| {
        let kind = l.kind.replace('-', " ");
        vec![human_size(l.bytes), l.layer.to_string(), kind, l.files.to_string(), shown(&l.example, width)]
    });
    section(
        "Left behind",
        &["SIZE", "LAYER", "WHAT", "FILES", "SUCH AS"],
        left.collect(),
        analysis.leftovers.len(),
    )?;
    let copies = analysis.duplicates.iter().take(top).map(|d| {
        let more = d.bytes * (d.count.saturating_sub(1) as u64);
        vec![human_size(more), d.count.to_string(), shown(&d.paths.join(", "), width)]
    });
    section(
        &format!("Duplicates: {} in copies", human_size(analysis.duplicate_bytes)),
        &["SIZE", "COPIES", "PATHS"],
        copies.collect(),
        analysis.duplicates.len(),
    )?;
    let shared = analysis.shared.iter().take(top).map(|s| {
        let what = if s.is_base { "the base" } else { "same base" };
        vec![human_size(s.bytes), s.layers.to_string(), what.to_owned(), s.image.clone()]
    });
    section("Shared with", &["SIZE", "LAYERS", "", "IMAGE"], shared.collect(), analysis.shared.len())?;
    if !analysis.advice.is_empty() {
        say("\nAdvice")?;
        let mut out = std::io::stdout().lock();
        for advice in &analysis.advice {
            writeln!(out, "  {:>8}  {}", human_size(advice.saves), shown(&advice.text, 600))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_image_says_can_not_steer_the_terminal() {
        assert_eq!(shown("a\u{1b}[2Jb\n", 100), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(shown("abcdef", 4), "abc…");
    }

    #[test]
    fn bars_fill() {
        assert_eq!((bar(0, 10).as_str(), bar(10, 10).as_str()), ("", "██████████"));
        assert_eq!((bar(5, 0).as_str(), bar(1, 16).as_str()), ("", "▋"));
    }
}
