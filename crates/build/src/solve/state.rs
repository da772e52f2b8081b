//! The state of a stage between two steps.

use std::collections::BTreeSet;

use sampan_base::{ChainId, Digest, Timestamp};
use sampan_image::{Image, Layer};
use sampan_oci::image::{History, ImageConfig};

use super::cache::key_of;
use crate::config;

/// The state of a stage between two steps.
#[derive(Clone)]
pub(super) struct State {
    pub(super) image: ImageConfig,
    pub(super) layers: Vec<Layer>,
    /// How many of the layers are the base's.
    pub(super) base_layers: usize,
    /// Declared in this stage, or in one that it starts from; the last one of a name counts.
    pub(super) args: Vec<(String, Option<String>)>,
    /// Variables of `ENV` that were set after an `ARG` of that name: whoever comes last is seen.
    pub(super) env_last: BTreeSet<String>,
    /// Whether `CMD` was given in this stage.
    pub(super) cmd_set: bool,
    /// Names everything that led here.
    pub(super) key: Digest,
    /// The image that it started from, while nothing was changed.
    pub(super) untouched: Option<Image>,
}

impl State {
    pub(super) fn chain(&self) -> Option<&ChainId> {
        self.layers.last().map(|l| &l.chain_id)
    }

    pub(super) fn chain_text(&self) -> &str {
        self.chain().map_or("scratch", |c| c.0.as_str())
    }

    pub(super) fn arg(&self, name: &str) -> Option<&String> {
        self.args.iter().rev().find(|(n, _)| n == name).and_then(|(_, value)| value.as_ref())
    }

    /// Declares an argument.
    pub(super) fn declare(&mut self, name: &str, value: Option<String>) {
        // Without a value it takes nothing away.
        if value.is_some() {
            self.env_last.remove(name);
        }
        let value = value.or_else(|| self.arg(name).cloned());
        self.args.push((name.to_owned(), value));
    }

    /// The value of an argument, unless an `ENV` that came later hides it.
    fn seen_arg(&self, name: &str) -> Option<&String> {
        self.arg(name).filter(|_| !self.env_last.contains(name))
    }

    pub(super) fn lookup(&self) -> impl Fn(&str) -> Option<String> + '_ {
        |name| {
            let arg = self.seen_arg(name).cloned();
            arg.or_else(|| config::env(&self.image.config, name).map(str::to_owned))
        }
    }

    /// The variables that a command sees: those of the image, and the arguments that have values.
    pub(super) fn environment(&self) -> Vec<String> {
        let mut seen = self.image.config.clone();
        for (name, _) in &self.args {
            if let Some(value) = self.seen_arg(name) {
                config::set_env(&mut seen, name, value);
            }
        }
        seen.env
    }

    /// The declared arguments as the history has them, `name=value`.
    pub(super) fn declared(&self) -> Vec<String> {
        let lookup = self.lookup();
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in &self.args {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names.iter().map(|name| format!("{name}={}", lookup(name).unwrap_or_default())).collect()
    }

    /// Puts a step into the history, with its layer.
    pub(super) fn record(&mut self, created: Timestamp, created_by: String, layer: Option<Layer>) {
        self.key = key_of(&[
            "state",
            self.key.as_str(),
            &created_by,
            layer.as_ref().map_or("", |l| l.chain_id.0.as_str()),
        ]);
        self.untouched = None;
        self.image.created = Some(created);
        self.image.history.push(History {
            created: Some(created),
            created_by,
            author: self.image.author.clone(),
            comment: String::new(),
            empty_layer: layer.is_none(),
        });
        self.layers.extend(layer);
    }
}
