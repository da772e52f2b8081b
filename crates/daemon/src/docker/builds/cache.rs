//! What builds left, in Docker's words.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use sampan_engine::Engine;
use sampan_engine::build_cache::{BuildCacheEntry, CacheKind, CachePrune};
use serde_json::{Value, json};

use crate::docker::error::{Answer, ApiError};
use crate::docker::filters::Filters;
use crate::docker::{Query, is_on};

/// As `/system/df` lists it.
pub(crate) async fn shown(engine: &Engine) -> Answer<Vec<Value>> {
    let mut entries = engine.build_cache().await?;
    // Steps that only set something are many and have nothing to show.
    entries.retain(|entry| entry.kind == CacheKind::Mount || entry.size > 0);
    Ok(entries.iter().map(show).collect())
}

fn show(entry: &BuildCacheEntry) -> Value {
    json!({
        "ID": entry.id, "Parents": null, "Type": kind(entry.kind), "Description": entry.text,
        "InUse": entry.in_use, "Shared": entry.shared, "Size": entry.size,
        "CreatedAt": entry.created, "LastUsedAt": entry.used, "UsageCount": entry.uses,
    })
}

fn kind(kind: CacheKind) -> &'static str {
    match kind {
        CacheKind::Step => "regular",
        CacheKind::Mount => "exec.cachemount",
    }
}

/// `POST /build/prune`
pub(crate) async fn prune(State(engine): State<Engine>, query: Query) -> Answer<Json<Value>> {
    let known = ["until", "unused-for", "id", "type"];
    let filters = Filters::parse(query.get("filters").map(String::as_str), &known)?;
    let keep = ["keep-storage", "reserved-space", "max-used-space"].iter().find_map(|key| query.get(*key));
    let invalid = |key: &str, value: &str| ApiError::invalid(format!("invalid value for {key}: {value}"));
    let keep_bytes = match keep.map(String::as_str).filter(|k| !k.is_empty()) {
        Some(text) => text.parse().map_err(|_| invalid("keep-storage", text))?,
        None => 0,
    };
    let unused_for = match filters.one("until").or(filters.one("unused-for")) {
        Some(text) => Some(duration(text).ok_or_else(|| invalid("until", text))?),
        None => None,
    };
    let kind = match filters.one("type") {
        None => None,
        Some("regular") => Some(CacheKind::Step),
        Some("exec.cachemount") => Some(CacheKind::Mount),
        Some(other) => return Err(invalid("type", other)),
    };
    let id = filters.one("id").map(str::to_owned);
    let all = is_on(query.get("all"));
    let (gone, bytes) =
        engine.build_cache_prune(CachePrune { all, unused_for, keep_bytes, id, kind }).await?;
    let ids: Vec<&str> = gone.iter().map(|entry| entry.id.as_str()).collect();
    Ok(Json(json!({"CachesDeleted": ids, "SpaceReclaimed": bytes})))
}

/// As Go writes it: `24h`, `1h30m`, `90s`.
fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit()).filter(|end| *end > 0)?;
        let value: u64 = rest[..number].parse().ok()?;
        rest = &rest[number..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return None,
        };
        total = total.checked_add(Duration::from_secs(value.checked_mul(seconds)?))?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, seconds) in [("24h", 86_400), ("1h30m", 5400), ("90s", 90), ("0s", 0)] {
            assert_eq!(duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in ["", "h", "5", "5x", "-1h", "99999999999999999999h"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }
}
