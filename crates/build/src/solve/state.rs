//! The state of a stage between two steps.

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
    /// Declared in this stage, the last one of a name counts.
    pub(super) args: Vec<(String, Option<String>)>,
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

    pub(super) fn lookup(&self) -> impl Fn(&str) -> Option<String> + '_ {
        |name| config::env(&self.image.config, name).map(str::to_owned).or_else(|| self.arg(name).cloned())
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
