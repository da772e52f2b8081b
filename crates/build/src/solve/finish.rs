//! From the target's last state to an image: labels, one layer if asked for, names.

use sampan_base::DiffId;
use sampan_image::{Image, ImageError};

use super::cache::key_of;
use super::state::State;
use super::{Result, Solve};
use crate::config;

impl Solve<'_> {
    pub(super) fn finish(&self, mut state: State) -> Result<Image> {
        if !self.options.labels.is_empty() {
            self.add_labels(&mut state)?;
        }
        let layers: Vec<DiffId> = state.layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let image = match state.untouched.take() {
            // Nothing but FROM: it is the base image itself.
            Some(image) => {
                for name in &self.options.names {
                    self.store.tag(&image.id, name)?;
                }
                self.store.image(&image.id)?
            }
            None if self.options.squash => self.squashed(state)?,
            None => self.create(state)?,
        };
        self.export_cache(&layers)?;
        Ok(image)
    }

    fn create(&self, mut state: State) -> std::result::Result<Image, ImageError> {
        let layers: Vec<DiffId> = state.layers.iter().map(|layer| layer.diff_id.clone()).collect();
        self.add_inline_cache(&mut state.image, &layers);
        self.store.create_image(state.image, &state.layers, &self.options.names)
    }

    /// One layer of all that the build added to its base.
    fn squashed(&self, state: State) -> Result<Image> {
        let base = state.base_layers;
        let whole = self.store.create_image(state.image, &state.layers, &[])?;
        let squashed = self.store.squash(&whole, base).map_err(Box::new)?;
        for name in &self.options.names {
            self.store.tag(&squashed.id, name)?;
        }
        if squashed.id != whole.id && whole.names.is_empty() {
            self.store.remove(&whole.id)?;
        }
        Ok(self.store.image(&squashed.id)?)
    }

    /// `--label`: a step without a line in the Dockerfile.
    fn add_labels(&self, state: &mut State) -> Result<()> {
        let pairs: Vec<(String, String)> =
            self.options.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let by = format!(
            "{} #(nop)  LABEL {}",
            config::shell(&state.image.config).join(" "),
            config::pairs(&pairs)
        );
        state.image.config.labels.extend(pairs);
        let key = key_of(&["metadata", state.key.as_str(), &by]);
        let created = self.recall_time(None, &key, state, self.options.no_cache)?;
        state.record(created, by, None);
        Ok(())
    }
}
