//! How lists are printed: as a table, as JSON, or as a template says.
//!
//! A row is a record of all that a list can show, by Docker's names (`.ID`, `.Names`, …); a table is a template over it with
//! headings. So one way serves `--format table`, `--format 'table {{.ID}}\t{{.Names}}'`, `--format json` and
//! `--format '{{.ID}}'`.

use anyhow::{Context, Result};
use sampan_template::{Template, Value};

use crate::commands::say;
use crate::table;

/// How to print.
#[derive(Debug)]
pub(crate) enum Format {
    /// A table whose cells the template gives, parted by tabs.
    Table(Template),
    /// A line of JSON for each.
    Json,
    /// What the template gives for each.
    Template(Template),
}

/// Reads a template.
pub(crate) fn parse_template(text: &str) -> Result<Template> {
    // A shell's quotes hand \t and \n through as they are written.
    let text = text.replace("\\t", "\t").replace("\\n", "\n");
    Template::parse(&text).context("template parsing error")
}

impl Format {
    /// Reads `--format`; `table` is the template of the verb's own table.
    pub(crate) fn parse(format: &str, table: &str) -> Result<Format> {
        Ok(match format {
            "" | "table" => Format::Table(parse_template(table)?),
            "json" => Format::Json,
            _ => match format.strip_prefix("table ") {
                Some(rest) => Format::Table(parse_template(rest.trim_start())?),
                None => Format::Template(parse_template(format)?),
            },
        })
    }

    /// Whether a field is asked for.
    pub(crate) fn names(&self, field: &str) -> bool {
        match self {
            Format::Table(template) | Format::Template(template) => template.names(field),
            Format::Json => false,
        }
    }

    /// The rows as text; `headings` are those of the fields.
    pub(crate) fn render(&self, headings: &[(&str, &str)], rows: &[Value]) -> Result<String> {
        let failed = || "failed to execute template";
        let mut text = String::new();
        match self {
            Format::Json => {
                for row in rows {
                    text += &json_line(row)?;
                    text.push('\n');
                }
            }
            Format::Template(template) => {
                for row in rows {
                    text += &template.render(row).with_context(failed)?;
                    text.push('\n');
                }
            }
            Format::Table(template) => {
                let fields = headings.iter().map(|(field, heading)| (*field, Value::from(*heading)));
                let label = Value::method(|key| {
                    let last = key.rsplit('.').next().unwrap_or(key);
                    last.replace(['-', '_'], " ")
                });
                let heading = Value::record(fields.chain([("Label", label)]));
                let mut lines = vec![template.render_heading(&heading).with_context(failed)?];
                for row in rows {
                    lines.push(template.render(row).with_context(failed)?);
                }
                text = table::align(&lines);
            }
        }
        Ok(text)
    }

    /// Prints the rows.
    pub(crate) fn print(&self, headings: &[(&str, &str)], rows: &[Value]) -> Result<()> {
        let text = self.render(headings, rows)?;
        std::io::Write::write_all(&mut std::io::stdout().lock(), text.as_bytes())?;
        Ok(())
    }
}

/// A record as Docker's lists write it: sorted, and safe to put into HTML.
pub(crate) fn json_line(value: &Value) -> Result<String> {
    let sorted = match value {
        Value::Record(fields) => {
            let mut fields = fields.clone();
            fields.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Record(fields)
        }
        value => value.clone(),
    };
    let text = serde_json::to_string(&sorted)?;
    // These are only in texts, never around them.
    Ok(text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"))
}

/// Prints one value: as JSON, or as a template says.
pub(crate) fn print_value(format: &str, value: &Value) -> Result<()> {
    if format == "json" {
        return say(serde_json::to_string(value)?);
    }
    say(parse_template(format)?.render(value).context("template parsing error")?)
}

/// Labels as lists show them: sorted, `name=value`, parted by commas.
pub(crate) fn labels<'l>(labels: impl IntoIterator<Item = (&'l String, &'l String)>) -> String {
    let mut list: Vec<String> = labels.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
    list.sort();
    list.join(",")
}

/// The method `.Label`.
pub(crate) fn label_method(labels: std::collections::BTreeMap<String, String>) -> Value {
    Value::method(move |key| labels.get(key).cloned().unwrap_or_default())
}

/// Text of at most `width` characters; `…` stands for what is left out.
pub(crate) fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).collect::<String>() + "…"
}

/// A time as Go prints it: `2026-11-21 19:40:26.5 +0000 UTC`.
pub(crate) fn go_time(time: jiff::Timestamp) -> String {
    let text = time.to_string();
    format!("{} +0000 UTC", text.trim_end_matches('Z').replacen('T', " ", 1))
}

/// Seconds since 1970 as Go prints a time.
pub(crate) fn go_time_of(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map(go_time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Value> {
        let labels = std::collections::BTreeMap::from([("a.b-c".to_owned(), "1".to_owned())]);
        let row = |id: &str, name: &str| {
            let label = label_method(labels.clone());
            Value::record([("ID", Value::from(id)), ("Name", Value::from(name)), ("Label", label)])
        };
        vec![row("1", "a<b"), row("22", "a long name")]
    }

    #[test]
    fn one_row_many_ways() {
        let headings = [("ID", "ID"), ("Name", "NAME")];
        let show = |format: &str| {
            Format::parse(format, "{{.ID}}\t{{.Name}}").and_then(|f| f.render(&headings, &rows()))
        };
        let table = "ID        NAME\n1         a<b\n22        a long name\n";
        assert_eq!(show("").unwrap(), table);
        assert_eq!(show("table").unwrap(), table);
        assert_eq!(
            show("table {{upper .Name}}\\t{{.Label \"a.b-c\"}}").unwrap(),
            "NAME          b c\nA<B           1\nA LONG NAME   1\n"
        );
        assert_eq!(show("{{.ID}}:{{.Name}}").unwrap(), "1:a<b\n22:a long name\n");
        assert_eq!(show("json").unwrap().lines().next().unwrap(), r#"{"ID":"1","Name":"a\u003cb"}"#);
        assert!(show("{{.Nope}}").is_err() && show("{{.ID").is_err());
    }

    #[test]
    fn times_are_gos() {
        assert_eq!(go_time_of(1_795_290_026), "2026-11-21 19:40:26 +0000 UTC");
        let exact: jiff::Timestamp = "2026-11-21T19:40:25.709358106Z".parse().unwrap();
        assert_eq!(go_time(exact), "2026-11-21 19:40:25.709358106 +0000 UTC");
    }
}
