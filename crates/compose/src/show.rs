//! The model as YAML that can be read again.

use serde_json::Value;

use crate::model::Project;

/// The project as YAML.
///
/// # Errors
/// If it can't be written, which no project that was read can be.
pub fn yaml(project: &Project) -> Result<String, serde_json::Error> {
    Ok(yaml_of(&escaped(serde_json::to_value(project)?)))
}

/// The project as JSON.
///
/// # Errors
/// As [`yaml`].
pub fn json(project: &Project) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&escaped(serde_json::to_value(project)?))
}

/// A dollar sign would begin a variable when it is read again.
fn escaped(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace('$', "$$")),
        Value::Array(items) => Value::Array(items.into_iter().map(escaped).collect()),
        Value::Object(fields) => Value::Object(fields.into_iter().map(|(k, v)| (k, escaped(v))).collect()),
        value => value,
    }
}

/// Any JSON as YAML.
pub fn yaml_of(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => write_map(&mut out, fields, 0),
        Value::Array(items) if !items.is_empty() => write_list(&mut out, items, 0),
        value => {
            out += &scalar(value);
            out.push('\n');
        }
    }
    out
}

fn write_map(out: &mut String, fields: &serde_json::Map<String, Value>, indent: usize) {
    for (key, value) in fields {
        *out += &" ".repeat(indent);
        *out += &quoted(key);
        out.push(':');
        write_value(out, value, indent);
    }
}

fn write_list(out: &mut String, items: &[Value], indent: usize) {
    for item in items {
        *out += &" ".repeat(indent);
        out.push('-');
        match item {
            Value::Object(fields) if !fields.is_empty() => {
                let mut inner = String::new();
                write_map(&mut inner, fields, indent + 2);
                out.push(' ');
                *out += inner.trim_start();
            }
            item => write_value(out, item, indent),
        }
    }
}

fn write_value(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            out.push('\n');
            write_map(out, fields, indent + 2);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            write_list(out, items, indent + 2);
        }
        value => {
            out.push(' ');
            *out += &scalar(value);
            out.push('\n');
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        value => value.to_string(),
    }
}

/// Text as YAML: in quotes where any reader could take it for something else.
fn quoted(text: &str) -> String {
    let first = text.chars().next();
    let plain = first.is_some_and(|c| c.is_ascii_alphabetic() || matches!(c, '/' | '_'))
        && text.chars().all(|c| c.is_alphanumeric() || "/_.-+@$(){}=,; ".contains(c))
        && !text.ends_with(' ')
        && !text.contains("  ")
        && crate::yaml::switch(text).is_none()
        && !matches!(text, "null" | "Null" | "NULL" | "true" | "false")
        && text.parse::<f64>().is_err();
    if plain {
        return text.to_owned();
    }
    // JSON's quotes are YAML's, too.
    serde_json::Value::from(text).to_string()
}
