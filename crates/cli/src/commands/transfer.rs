//! How a pull or a push is shown: a bar a layer on a terminal, plain lines elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal;

use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use sampan_docker_api::build::Progress;

use super::{say, tell};

/// Shows the lines of one transfer.
pub(crate) enum Transfer {
    /// Nothing is wanted.
    Quiet,
    /// What happens, a line each; how far it is, is left out.
    Plain {
        /// On standard error, because the output is a container's.
        beside: bool,
    },
    /// Bars.
    Bars(Bars),
}

/// The bars on a terminal, by the layers' ids.
pub(crate) struct Bars {
    all: MultiProgress,
    layers: HashMap<String, ProgressBar>,
}

impl Transfer {
    pub(crate) fn new(quiet: bool) -> Transfer {
        if quiet {
            Transfer::Quiet
        } else if std::io::stderr().is_terminal() && std::io::stdout().is_terminal() {
            Transfer::Bars(Bars { all: MultiProgress::new(), layers: HashMap::new() })
        } else {
            Transfer::Plain { beside: false }
        }
    }

    /// Leaves standard output to others.
    pub(crate) fn beside_output() -> Transfer {
        match Transfer::new(false) {
            Transfer::Plain { .. } => Transfer::Plain { beside: true },
            other => other,
        }
    }

    /// Shows one line.
    pub(crate) fn line(&mut self, line: &Progress) -> Result<()> {
        let Some(status) = line.status.as_deref() else { return Ok(()) };
        let detail = line.progress_detail.unwrap_or_default();
        match (self, line.id.as_deref()) {
            (Transfer::Quiet, _) => Ok(()),
            (Transfer::Plain { .. }, _) if detail.total > 0 => Ok(()),
            (Transfer::Plain { beside }, id) => {
                let id = id.map(|id| format!("{id}: ")).unwrap_or_default();
                if *beside {
                    tell(format_args!("{id}{status}"));
                    return Ok(());
                }
                say(format_args!("{id}{status}"))
            }
            // A line with a detail, even an empty one, is a layer's.
            (Transfer::Bars(bars), Some(id)) if line.progress_detail.is_some() => {
                bars.layer(id, status, detail.current, detail.total);
                Ok(())
            }
            (Transfer::Bars(bars), id) => {
                let id = id.map(|id| format!("{id}: ")).unwrap_or_default();
                Ok(bars.all.println(format!("{id}{status}"))?)
            }
        }
    }
}

impl Bars {
    fn layer(&mut self, id: &str, status: &str, current: u64, total: u64) {
        let bar = self.layers.entry(id.to_owned()).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::no_length());
            bar.set_prefix(id.to_owned());
            bar
        });
        let template = if total > 0 {
            bar.set_length(total);
            bar.set_position(current);
            "{prefix}: {msg:12} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec}"
        } else {
            "{prefix}: {msg}"
        };
        // The templates are ours and good; without a style the bar would still move.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(status.to_owned());
        if matches!(status, "Pull complete" | "Already exists" | "Pushed" | "Layer already exists")
            || status.starts_with("Mounted from")
        {
            bar.abandon();
        }
    }
}
