//! Builds: the build crate's steps run in this engine's runtime and network.

use crate::error::{EngineError, Result};
use crate::images::ImageProcess;

/// Applies Dockerfile instructions to an image's configuration.
pub(crate) fn apply_changes(_config: &mut ImageProcess, changes: &[String]) -> Result<()> {
    match changes.first() {
        None => Ok(()),
        Some(change) => Err(EngineError::Unsupported(format!("--change is not supported: {change}"))),
    }
}
