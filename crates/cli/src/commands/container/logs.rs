//! `logs`.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use http::Method;
use http_body_util::BodyExt;
use sampan_docker_api::container::ContainerInspect;
use sampan_docker_api::stream::{Demultiplexer, STDERR};

use crate::client::{Client, full, query};
use crate::commands::run::container_path;

/// `sampan logs`
#[derive(Args)]
pub(crate) struct Logs {
    /// Go on while the container runs
    #[arg(short, long)]
    follow: bool,
    /// With times
    #[arg(short, long)]
    timestamps: bool,
    /// With the labels and variables that the log keeps
    #[arg(long)]
    details: bool,
    /// Only the last N lines
    #[arg(short = 'n', long, default_value = "all", value_name = "N", allow_hyphen_values = true)]
    tail: String,
    /// From then on: RFC 3339, or seconds since 1970, or 10m for ten minutes ago
    #[arg(long, default_value = "", hide_default_value = true)]
    since: String,
    /// Until then
    #[arg(long, default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    until: String,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    name: String,
}

/// A time as the API takes it, in seconds since 1970: a span such as `10m` is that long ago; a date or time without a zone is
/// UTC's.
pub(crate) fn point_in_time(text: &str) -> String {
    let time = match sampan_docker_api::written::duration(text) {
        Ok(span) => Some(jiff::Timestamp::now() - jiff::SignedDuration::from_nanos(span)),
        // Numbers are seconds already.
        Err(_) if text.parse::<f64>().is_ok() => None,
        Err(_) => {
            let civil = |text: &str| {
                let whole = if text.contains('T') { text.to_owned() } else { format!("{text}T00:00:00") };
                let time: jiff::civil::DateTime = whole.parse().ok()?;
                time.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|z| z.timestamp())
            };
            text.parse().ok().or_else(|| civil(text))
        }
    };
    match time {
        Some(time) => format!("{}.{:09}", time.as_second(), time.subsec_nanosecond()),
        None => text.to_owned(),
    }
}

pub(crate) async fn logs(client: &Client, command: Logs) -> Result<ExitCode> {
    let inspect: ContainerInspect = client.get(&container_path(&command.name, "json")).await?;
    let on = |yes: bool| if yes { "1" } else { "" };
    let parameters = query(&[
        ("stdout", "1"),
        ("stderr", "1"),
        ("follow", on(command.follow)),
        ("timestamps", on(command.timestamps)),
        ("details", on(command.details)),
        ("tail", &command.tail),
        ("since", &point_in_time(&command.since)),
        ("until", &point_in_time(&command.until)),
    ]);
    let path = container_path(&inspect.id, "logs") + &parameters;
    let mut body = client.request(Method::GET, &path, full(""), "application/json").await?.into_body();
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    let mut demultiplexer = Demultiplexer::default();
    while let Some(frame) = body.frame().await.transpose()? {
        let Ok(data) = frame.into_data() else { continue };
        let mut written = Ok(());
        if inspect.config.tty {
            written = out.write_all(&data);
        } else {
            demultiplexer.push(&data, |stream, bytes| {
                let result = if stream == STDERR { err.write_all(bytes) } else { out.write_all(bytes) };
                if result.is_err() {
                    written = result;
                }
            })?;
        }
        written.and_then(|()| out.flush())?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::point_in_time;

    #[test]
    fn times_are_seconds() {
        for (text, seconds) in [
            ("2026-11-21T19:40:26.5Z", "1795290026.500000000"),
            ("2026-11-21T20:40:26+01:00", "1795290026.000000000"),
            ("2026-11-21", "1795219200.000000000"),
            ("2026-11-21T19:40:26", "1795290026.000000000"),
            ("1795290026.5", "1795290026.5"),
            ("", ""),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(point_in_time(text), seconds, "{text}");
        }
        assert!(point_in_time("10m").parse::<f64>().is_ok());
    }
}
