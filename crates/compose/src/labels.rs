//! What tells a project's things apart, as Docker's compose writes it, so that each tool sees the others' things.

use sha2::{Digest, Sha256};

use crate::model::{Project, Service};

/// The project.
pub const PROJECT: &str = "com.docker.compose.project";
/// The service.
pub const SERVICE: &str = "com.docker.compose.service";
/// Which of a service's containers, from 1.
pub const NUMBER: &str = "com.docker.compose.container-number";
/// `True` for containers of `run`.
pub const ONE_OFF: &str = "com.docker.compose.oneoff";
/// What a container was made from.
pub const CONFIG_HASH: &str = "com.docker.compose.config-hash";
/// Where relative paths begin.
pub const WORKING_DIR: &str = "com.docker.compose.project.working_dir";
/// The files.
pub const CONFIG_FILES: &str = "com.docker.compose.project.config_files";
/// The files of variables.
pub const ENVIRONMENT_FILES: &str = "com.docker.compose.project.environment_file";
/// What it depends on: `SERVICE:CONDITION:RESTART`, parted by commas.
pub const DEPENDS_ON: &str = "com.docker.compose.depends_on";
/// The image's id.
pub const IMAGE: &str = "com.docker.compose.image";
/// A container of `run`: its own word.
pub const SLUG: &str = "com.docker.compose.slug";
/// The compose that made it.
pub const VERSION: &str = "com.docker.compose.version";
/// The network's key.
pub const NETWORK: &str = "com.docker.compose.network";
/// The volume's key.
pub const VOLUME: &str = "com.docker.compose.volume";

/// A hash of all that a service's containers are made from: another hash, another container. What does not change a
/// container (how its image is built, how many there are, what comes first) is left out.
pub fn config_hash(project: &Project, service: &Service) -> String {
    let mut kept = service.clone();
    kept.build = None;
    kept.pull_policy = String::new();
    kept.scale = None;
    kept.depends_on.clear();
    kept.profiles.clear();
    kept.attach = None;
    kept.develop = None;
    kept.env_file.clear();
    kept.label_file.clear();
    if let Some(deploy) = &mut kept.deploy {
        deploy.replicas = None;
    }
    let mut hasher = Sha256::new();
    // What a service is cannot fail to be written: it was read from text.
    hasher.update(serde_json::to_vec(&kept).unwrap_or_default());
    for (mounts, objects) in [(&service.configs, &project.configs), (&service.secrets, &project.secrets)] {
        for mount in mounts {
            if let Some(object) = objects.get(&mount.source) {
                hasher.update(serde_json::to_vec(object).unwrap_or_default());
            }
        }
    }
    let digest: [u8; 32] = hasher.finalize().into();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
