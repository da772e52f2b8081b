//! The engine itself: version, info, events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The answer to `GET /version`.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct Version {
    /// The product.
    pub platform: Platform,
    /// Its parts.
    pub components: Vec<Component>,
    /// The engine's version.
    pub version: String,
    /// The newest API it speaks.
    pub api_version: String,
    /// The oldest API it speaks.
    #[serde(rename = "MinAPIVersion")]
    pub min_api_version: String,
    /// The commit it was built from.
    pub git_commit: String,
    /// The language it was built with (the field's name is Docker's).
    pub go_version: String,
    /// `linux`.
    pub os: String,
    /// `amd64`, ….
    pub arch: String,
    /// The kernel.
    pub kernel_version: String,
    /// RFC 3339.
    pub build_time: String,
}

/// The product.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct Platform {
    /// Its name.
    pub name: String,
}

/// A part of the product.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct Component {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// More about it.
    pub details: BTreeMap<String, String>,
}

/// An event of `GET /events`, a JSON line each.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(default)]
pub struct Event {
    /// For old clients: the action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// For old clients: the actor's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// For old clients: the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// `container`, `image`, `network`, `volume`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// `start`, `die`, ….
    #[serde(rename = "Action")]
    pub action: String,
    /// What it happened to.
    #[serde(rename = "Actor")]
    pub actor: Actor,
    /// `local`.
    pub scope: String,
    /// Seconds since 1970.
    pub time: i64,
    /// Nanoseconds since 1970.
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

/// What an event happened to.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
#[serde(default)]
pub struct Actor {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: String,
    /// More about it.
    #[serde(rename = "Attributes")]
    pub attributes: BTreeMap<String, String>,
}

/// The body of `POST /auth`, and what `X-Registry-Auth` holds in base64.
#[derive(Serialize, Deserialize, Clone, Default)]
#[serde(default)]
pub struct AuthRequest {
    /// The user's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// The user's password.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub password: String,
    /// The registry.
    #[serde(rename = "serveraddress", skip_serializing_if = "String::is_empty")]
    pub server_address: String,
    /// What stands for name and password since a login.
    #[serde(rename = "identitytoken", skip_serializing_if = "String::is_empty")]
    pub identity_token: String,
    /// A token for requests.
    #[serde(rename = "registrytoken", skip_serializing_if = "String::is_empty")]
    pub registry_token: String,
}

/// The answer to `POST /auth`.
#[derive(Serialize, Deserialize, Clone, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct AuthAnswer {
    /// For people.
    pub status: String,
    /// What stands for name and password from now on, if not empty.
    pub identity_token: String,
}
