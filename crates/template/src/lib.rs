//! Go's text templates over plain values, as `--format` takes them.
//!
//! A [`Template`] is parsed once and rendered for as many [`Value`]s as there are:
//!
//! ```
//! use sampan_template::{Template, Value};
//! let value: Value = serde_json::from_str(r#"{"Names": ["web", "www"], "State": {"Running": true}}"#).unwrap();
//! let template = Template::parse(r#"{{if .State.Running}}{{join .Names ", "}}{{end}}"#).unwrap();
//! assert_eq!(template.render(&value).unwrap(), "web, www");
//! ```
//!
//! What is there: fields, variables, pipelines, `if`, `else`, `with`, `range`, `break`, `continue`, comments, trimmed
//! spaces, Go's functions (`and or not len index slice print printf println eq ne lt le gt ge html js urlquery`) and Docker's
//! (`json join split title lower upper pad truncate`). What is not: `define`, `template`, `block`, `call`.
//!
//! * [`value`]: what templates are rendered with, and how Go prints it.
//! * `syntax`: text to tree. `render`: tree and value to text. `functions`: what templates may call.

mod functions;
mod render;
mod syntax;
pub mod value;

pub use value::Value;

/// A template that is well formed.
#[derive(Debug)]
pub struct Template {
    nodes: Vec<syntax::Node>,
}

/// Why a template can't be read or rendered.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("template: :{line}: {what}")]
pub struct TemplateError {
    line: usize,
    what: String,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// If it is not well formed, with the line where it is not.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        Ok(Template { nodes: syntax::parse(text)? })
    }

    /// The text that it gives for a value.
    ///
    /// # Errors
    /// If it names a field that there is not, or asks a function for what it can't do.
    pub fn render(&self, value: &Value) -> Result<String, TemplateError> {
        render::render(&self.nodes, value, false)
    }

    /// The heading of a table whose rows it gives, for a value whose fields are headings: what would only change how
    /// a value is shown (`upper`, `truncate`, …) leaves headings alone.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_heading(&self, value: &Value) -> Result<String, TemplateError> {
        render::render(&self.nodes, value, true)
    }

    /// Whether it names this field of its value anywhere.
    pub fn names(&self, field: &str) -> bool {
        self.nodes.iter().any(|node| node.names(field))
    }
}
