//! `commit` and `export`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use http::Method;
use sampan_docker_api::IdAnswer;
use std::io::IsTerminal;

use crate::client::{Client, encode, full, query};
use crate::commands::run::container_path;
use crate::commands::say;

/// `sampan commit`
#[derive(Args)]
pub(crate) struct Commit {
    /// Who made it
    #[arg(short, long, default_value = "", hide_default_value = true)]
    author: String,
    /// A message for its history
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// A Dockerfile instruction to apply
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Freeze the container meanwhile
    #[arg(short, long, default_value = "true", value_name = "BOOL", action = clap::ArgAction::Set,
        num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pause: bool,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    name: String,
    /// The image's name
    #[arg(default_value = "", hide_default_value = true, value_name = "REPOSITORY[:TAG]")]
    image: String,
}

pub(crate) async fn commit(client: &Client, command: Commit) -> Result<ExitCode> {
    let (repository, tag) = crate::commands::image::split_tag(&command.image);
    let mut parameters = query(&[
        ("container", &command.name),
        ("repo", repository),
        ("tag", tag),
        ("comment", &command.message),
        ("author", &command.author),
        ("pause", if command.pause { "1" } else { "0" }),
    ]);
    for change in &command.change {
        parameters += &format!("&changes={}", encode(change));
    }
    let answer: IdAnswer = client.post_json(&format!("/commit{parameters}"), &serde_json::json!({})).await?;
    say(answer.id)?;
    Ok(ExitCode::SUCCESS)
}

/// `sampan export`
#[derive(Args)]
pub(crate) struct Export {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<String>,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    name: String,
}

pub(crate) async fn export(client: &Client, command: Export) -> Result<ExitCode> {
    if command.output.is_none() && std::io::stdout().is_terminal() {
        bail!("cowardly refusing to write to a terminal: use `-o FILE` or redirect");
    }
    let path = container_path(&command.name, "export");
    let answer = client.request(Method::GET, &path, full(""), "application/json").await?;
    crate::commands::image::archive::write_archive(answer, command.output.as_deref()).await
}
