//! The `filters` parameter of listings: `{"status":["running"]}`, or in the older form `{"status":{"running":true}}`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::error::{Answer, ApiError};

/// Values by key.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Reads the parameter; keys other than `known` are refused, since a filter that is not applied lists too much.
    pub(crate) fn parse(text: Option<&str>, known: &[&str]) -> Answer<Filters> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Values {
            List(Vec<String>),
            Set(BTreeMap<String, bool>),
        }
        let text = match text {
            None | Some("") => return Ok(Filters::default()),
            Some(text) => text,
        };
        let parsed: BTreeMap<String, Values> =
            serde_json::from_str(text).map_err(|e| ApiError::invalid(format!("invalid filters: {e}")))?;
        let mut filters = BTreeMap::new();
        for (key, values) in parsed {
            if !known.contains(&key.as_str()) {
                return Err(ApiError::invalid(format!("invalid filter '{key}'")));
            }
            filters.insert(
                key,
                match values {
                    Values::List(list) => list,
                    Values::Set(set) => {
                        set.into_iter().filter(|(_, on)| *on).map(|(value, _)| value).collect()
                    }
                },
            );
        }
        Ok(Filters(filters))
    }

    /// The first value of a key that means one thing.
    pub(crate) fn one(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.first().map(String::as_str)
    }

    /// Whether the key is absent or `matches` one of its values.
    pub(crate) fn any(&self, key: &str, matches: impl Fn(&str) -> bool) -> bool {
        self.0.get(key).is_none_or(|values| values.iter().any(|v| matches(v)))
    }

    /// Whether the key is absent or `matches` all of its values.
    pub(crate) fn all(&self, key: &str, matches: impl Fn(&str) -> bool) -> bool {
        self.0.get(key).is_none_or(|values| values.iter().all(|v| matches(v)))
    }

    /// Whether labels have every wanted `name` or `name=value`, and none of those that `label!` names.
    pub(crate) fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |wanted: &str| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|v| v == value),
            None => labels.contains_key(wanted),
        };
        self.all("label", has) && self.all("label!", |unwanted| !has(unwanted))
    }

    /// The values of a key.
    pub(crate) fn values(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether the key was given.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_read_the_same() {
        let known = ["status", "label"];
        let list = Filters::parse(Some(r#"{"status":["a","b"]}"#), &known).unwrap();
        let set = Filters::parse(Some(r#"{"status":{"a":true,"b":true,"c":false}}"#), &known).unwrap();
        assert_eq!(list, set);
        assert!(list.any("status", |v| v == "b") && !list.any("status", |v| v == "c"));
        assert!(list.any("label", |_| false), "an absent key filters nothing");
        assert!(Filters::parse(Some(r#"{"x":["1"]}"#), &known).is_err());
        assert!(Filters::parse(Some("nonsense"), &known).is_err());
        let labelled = Filters::parse(Some(r#"{"label":["a","b=1"]}"#), &known).unwrap();
        let labels =
            |b: &str| BTreeMap::from([("a".to_owned(), "x".to_owned()), ("b".to_owned(), b.to_owned())]);
        assert!(labelled.labels(&labels("1")) && !labelled.labels(&labels("2")));
    }
}
