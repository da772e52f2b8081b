//! Docker's config.json, with and without helpers.

use std::os::unix::fs::PermissionsExt;

use sampan_registry::docker_config::DockerConfig;
use sampan_registry::{Credentials, Secret};
use serde_json::{Value, json};

super::cases! {
    credentials_are_kept_for_their_owner_only_beside_what_others_keep
    entries_of_many_forms_are_read
    helpers_keep_credentials_instead
    a_damaged_file_is_told_without_its_content
}

fn credentials_are_kept_for_their_owner_only_beside_what_others_keep() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/config.json");
    let mut config = DockerConfig::read(&path).unwrap();
    assert_eq!(config.credentials("r.example").unwrap(), Credentials::Anonymous);
    let me = Credentials::password("me", "a:b");
    assert_eq!(config.store("r.example", &me).unwrap(), None);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut text: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(text["auths"]["r.example"]["auth"], "bWU6YTpi");
    text["psFormat"] = json!("table");
    text["auths"]["other"] = json!({"auth": "x"});
    std::fs::write(&path, text.to_string()).unwrap();
    let mut config = DockerConfig::read(&path).unwrap();
    assert_eq!(config.credentials("r.example").unwrap(), me);
    let token = Credentials::Identity(Secret::new("t"));
    config.store("docker.io", &token).unwrap();
    assert!(config.erase("r.example").unwrap());
    assert!(!config.erase("r.example").unwrap());
    let text: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(text["psFormat"], "table");
    assert_eq!(text["auths"]["other"]["auth"], "x");
    assert_eq!(text["auths"]["https://index.docker.io/v1/"]["identitytoken"], "t");
    assert_eq!(DockerConfig::read(&path).unwrap().credentials("docker.io").unwrap(), token);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary is left");
}

fn entries_of_many_forms_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    let text = json!({"auths": {
        "https://a.example/v1/": {"auth": "bWU6YTpi"},
        "b.example": {"username": "me", "password": "p"},
        "c.example": {"registrytoken": "t"},
        "d.example": {"auth": "!"},
        "e.example": {},
    }});
    std::fs::write(&path, text.to_string()).unwrap();
    let config = DockerConfig::read(&path).unwrap();
    let check = |registry: &str, expected| assert_eq!(config.credentials(registry).unwrap(), expected);
    check("a.example", Credentials::password("me", "a:b"));
    check("b.example", Credentials::password("me", "p"));
    check("c.example", Credentials::Bearer(Secret::new("t")));
    for nobody in ["d.example", "e.example", "f.example"] {
        check(nobody, Credentials::Anonymous);
    }
}

/// Keeps what it is given in files beside it, as the protocol has it.
const HELPER: &str = r#"#!/bin/sh
d=$(dirname "$0")/kept; mkdir -p "$d"; in=$(cat)
case "$1" in
store) echo "$in" > "$d/$(echo "$in" | sed 's/.*"ServerURL":"\([^"]*\)".*/\1/' | tr / _)" ;;
get) cat "$d/$(echo "$in" | tr / _)" 2>/dev/null || { echo credentials not found in native keychain; exit 1; } ;;
erase) rm -f "$d/$(echo "$in" | tr / _)" ;;
esac
"#;

fn helpers_keep_credentials_instead() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("docker-credential-sampantest");
    std::fs::write(&program, HELPER).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    // Helpers are found by PATH, and other tests run beside this one: so another process does it.
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
    if std::env::var_os("SAMPAN_TEST_HELPER").is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "docker_config::helpers_keep_credentials_instead"])
            .env("PATH", path)
            .env("SAMPAN_TEST_HELPER", directory.path())
            .output()
            .unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
        return;
    }
    let file = directory.path().join("config.json");
    let text = json!({"credsStore": "sampantest", "credHelpers": {"bad.example": "../evil", "none.example": "nosuch"}});
    std::fs::write(&file, text.to_string()).unwrap();
    let mut config = DockerConfig::read(&file).unwrap();
    assert_eq!(config.credentials("r.example").unwrap(), Credentials::Anonymous);
    for kept in [Credentials::password("me", "p\"q"), Credentials::Identity(Secret::new("t"))] {
        assert_eq!(config.store("r.example", &kept).unwrap().as_deref(), Some("sampantest"));
        assert_eq!(DockerConfig::read(&file).unwrap().credentials("r.example").unwrap(), kept);
    }
    let text: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(text["auths"], json!({"r.example": {}}));
    assert!(config.erase("r.example").unwrap());
    assert_eq!(config.credentials("r.example").unwrap(), Credentials::Anonymous);
    for (registry, expected) in [("bad.example", "its name is not one"), ("none.example", "No such file")] {
        let error = config.credentials(registry).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

fn a_damaged_file_is_told_without_its_content() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    std::fs::write(&path, r#"{"auths": {"x": {"auth": "c2VjcmV0" "#).unwrap();
    let error = DockerConfig::read(&path).unwrap_err().to_string();
    assert!(error.contains("config.json") && !error.contains("c2VjcmV0"), "{error}");
}
