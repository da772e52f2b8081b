//! Which namespaces a container has of its own, and whose it shares.

use serde::{Deserialize, Serialize};

/// Which user namespace a container is in.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case", from = "StoredUserns")]
pub enum UsernsMode {
    /// As the daemon has it: its own if the daemon maps containers, else the host's.
    #[default]
    Default,
    /// The host's.
    Host,
    /// Its own.
    Private,
}

/// As it is stored; in records of before there was more than one choice, whether it is the host's.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredUserns {
    Host(bool),
    Word(UsernsWord),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum UsernsWord {
    Default,
    Host,
    Private,
}

impl From<StoredUserns> for UsernsMode {
    fn from(stored: StoredUserns) -> UsernsMode {
        match stored {
            StoredUserns::Host(true) | StoredUserns::Word(UsernsWord::Host) => UsernsMode::Host,
            StoredUserns::Host(false) | StoredUserns::Word(UsernsWord::Default) => UsernsMode::Default,
            StoredUserns::Word(UsernsWord::Private) => UsernsMode::Private,
        }
    }
}

/// A namespace other than the network's.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceMode {
    /// One of its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// Another container's, by id.
    Container(String),
}

/// An IPC namespace and its /dev/shm.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "lowercase")]
pub enum IpcMode {
    /// One of its own.
    #[default]
    Private,
    /// One of its own that other containers may join.
    Shareable,
    /// One of its own, without /dev/shm.
    None,
    /// The host's.
    Host,
    /// Another container's, by id.
    Container(String),
}
