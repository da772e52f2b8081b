//! What is mounted in a container besides the default mounts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A mount besides the default ones.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct MountSpec {
    /// What is mounted.
    pub source: MountSource,
    /// The absolute path inside.
    pub target: String,
    /// Not to be written.
    pub read_only: bool,
    /// The options as they were given, for showing.
    pub mode: String,
    /// `rprivate`, `rslave`, `rshared`, ….
    pub propagation: String,
    /// How it was asked for.
    #[serde(default)]
    pub form: MountForm,
}

impl MountSpec {
    /// A mount without options.
    pub fn new(source: MountSource, target: impl Into<String>) -> MountSpec {
        MountSpec {
            source,
            target: target.into(),
            read_only: false,
            mode: String::new(),
            propagation: String::new(),
            form: MountForm::Unknown,
        }
    }
}

impl MountSource {
    /// A path of the host, with what is mounted below it.
    pub fn bind(path: impl Into<PathBuf>) -> MountSource {
        MountSource::Bind {
            path: path.into(),
            recursive: true,
            create: false,
            read_only_below: ReadOnlyBelow::default(),
        }
    }

    /// A volume, filled when it is new.
    pub fn volume(name: impl Into<String>, anonymous: bool) -> MountSource {
        MountSource::Volume {
            name: name.into(),
            anonymous,
            copy_up: true,
            subpath: String::new(),
            labels: BTreeMap::new(),
            driver: None,
        }
    }
}

/// How a mount was asked for; decides how it is shown again.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "lowercase")]
pub enum MountForm {
    /// Not known: a record of an older sampan.
    #[default]
    Unknown,
    /// In the short form, `-v`: the text.
    Short(String),
    /// In the long form, `--mount`; its consistency, which has no meaning here.
    Long(String),
    /// As `--tmpfs`: the options' text.
    Tmpfs(String),
    /// As a path that gets a volume.
    Anonymous,
    /// From another container.
    From,
}

/// What is mounted.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum MountSource {
    /// A directory or file of the host.
    Bind {
        /// Absolute.
        path: PathBuf,
        /// With what is mounted below it.
        recursive: bool,
        /// Make the directory on the host if there is none.
        #[serde(default)]
        create: bool,
        /// What read-only means for mounts below it.
        #[serde(default)]
        read_only_below: ReadOnlyBelow,
    },
    /// A volume, made when missing.
    Volume {
        /// Its name.
        name: String,
        /// It was made for this container and goes with it.
        anonymous: bool,
        /// Fill it, when empty, with what the image has at the target.
        copy_up: bool,
        /// Only this path in it; empty: all of it.
        #[serde(default)]
        subpath: String,
        /// Labels of it if it is made.
        #[serde(default)]
        labels: BTreeMap<String, String>,
        /// Driver options of it if it is made.
        #[serde(default)]
        driver: Option<VolumeDriver>,
    },
    /// An image's files, read-only.
    Image {
        /// The image as it was asked for.
        image: String,
        /// Its id; empty until the container is created.
        id: String,
        /// Only this path in it; empty: all of it.
        subpath: String,
    },
    /// A file system in memory.
    Tmpfs {
        /// Mount options: `size=64m`, `mode=1777`, ….
        options: Vec<String>,
    },
}

/// What a read-only bind mount does to the mounts below it.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
pub enum ReadOnlyBelow {
    /// They are read-only, too, if the kernel can do that.
    #[default]
    IfPossible,
    /// They stay as they are.
    No,
    /// They must be.
    Force,
}

/// A volume's driver and its options.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(default)]
pub struct VolumeDriver {
    /// `local`, also when empty.
    pub name: String,
    /// `type`, `device`, `o`.
    pub options: BTreeMap<String, String>,
}

/// A container whose mounts another one gets.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(default)]
pub struct VolumesFrom {
    /// Its id or name.
    pub container: String,
    /// They are read-only there.
    pub read_only: bool,
    /// As it was asked for.
    pub given: String,
}
