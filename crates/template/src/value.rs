//! What templates are rendered with, and how Go prints it.

use std::fmt::Write;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// A value. Objects keep the order of their fields.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// Nothing.
    #[default]
    Nil,
    /// Nothing, where something of a kind would be: how Go prints that.
    None(&'static str),
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Another number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// What may have any key: one that is missing has no value.
    Map(Vec<(String, Value)>),
    /// What has certain fields: asking for another is an error.
    Record(Vec<(String, Value)>),
    /// A method that answers for a key: `.Label "name"`.
    Lookup(Lookup),
}

/// A method of one argument.
#[derive(Clone)]
pub struct Lookup(std::sync::Arc<dyn Fn(&str) -> String + Send + Sync>);

impl Lookup {
    pub(crate) fn answer(&self, key: &str) -> String {
        (self.0)(key)
    }
}

impl std::fmt::Debug for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a method")
    }
}

impl PartialEq for Lookup {
    fn eq(&self, other: &Lookup) -> bool {
        std::sync::Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Value {
    /// A method that answers so.
    pub fn method(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Value {
        Value::Lookup(Lookup(std::sync::Arc::new(answer)))
    }

    /// A record of these fields.
    pub fn record<K: Into<String>>(fields: impl IntoIterator<Item = (K, Value)>) -> Value {
        Value::Record(fields.into_iter().map(|(k, v)| (k.into(), v)).collect())
    }

    /// The field or key of this name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Map(fields) | Value::Record(fields) => {
                fields.iter().find(|(key, _)| key == name).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    /// As [`Value::get`]; a field also goes by another case: Go's `ID` is JSON's `Id`.
    pub(crate) fn field(&self, name: &str) -> Option<&Value> {
        self.get(name).or_else(|| match self {
            Value::Record(fields) => {
                fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
            }
            _ => None,
        })
    }

    /// JSON says only "object" and "null": makes objects below one of these names maps, whose keys are not fields, and
    /// null below them, or below the names of lists, an empty one.
    #[must_use]
    pub fn with_maps(self, names: &[&str], lists: &[&str]) -> Value {
        let below = |name: String, value: Value| {
            let value = match value {
                Value::Record(fields) if names.contains(&name.as_str()) => Value::Map(fields),
                Value::Nil if names.contains(&name.as_str()) => Value::None("map[]"),
                Value::Nil if lists.contains(&name.as_str()) => Value::None("[]"),
                Value::Nil => Value::None("<nil>"),
                value => value,
            };
            (name, value.with_maps(names, lists))
        };
        match self {
            Value::Record(fields) => Value::Record(fields.into_iter().map(|(k, v)| below(k, v)).collect()),
            Value::Map(fields) => Value::Map(fields.into_iter().map(|(k, v)| below(k, v)).collect()),
            Value::List(items) => Value::List(items.into_iter().map(|v| v.with_maps(names, lists)).collect()),
            value => value,
        }
    }

    /// Whether `if` takes it for true.
    pub fn is_true(&self) -> bool {
        match self {
            Value::Nil | Value::None(_) => false,
            Value::Bool(yes) => *yes,
            Value::Int(number) => *number != 0,
            Value::Float(number) => *number != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::List(items) => !items.is_empty(),
            Value::Map(fields) => !fields.is_empty(),
            Value::Record(_) | Value::Lookup(_) => true,
        }
    }

    /// As Go's `%v` prints it.
    pub fn print(&self) -> String {
        let mut text = String::new();
        self.print_to(&mut text, true);
        text
    }

    fn print_to(&self, out: &mut String, outermost: bool) {
        match self {
            Value::Nil if outermost => *out += "<no value>",
            Value::Nil => *out += "<nil>",
            Value::None(text) => *out += text,
            Value::Bool(yes) => *out += if *yes { "true" } else { "false" },
            Value::Int(number) => {
                let _ = write!(out, "{number}");
            }
            Value::Float(number) => *out += &float(*number),
            Value::Text(text) => *out += text,
            Value::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(' ');
                    }
                    item.print_to(out, false);
                }
                out.push(']');
            }
            Value::Map(_) => {
                *out += "map[";
                for (index, (key, value)) in self.sorted().into_iter().enumerate() {
                    if index > 0 {
                        out.push(' ');
                    }
                    *out += key;
                    out.push(':');
                    value.print_to(out, false);
                }
                out.push(']');
            }
            Value::Record(fields) => {
                out.push('{');
                for (index, (_, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(' ');
                    }
                    value.print_to(out, false);
                }
                out.push('}');
            }
            Value::Lookup(_) => *out += "<no value>",
        }
    }

    /// The entries of an object in the order of their keys, as Go goes through maps here.
    pub(crate) fn sorted(&self) -> Vec<(&str, &Value)> {
        let mut entries: Vec<(&str, &Value)> = match self {
            Value::Map(fields) | Value::Record(fields) => {
                fields.iter().map(|(k, v)| (k.as_str(), v)).collect()
            }
            _ => Vec::new(),
        };
        entries.sort_by_key(|(key, _)| *key);
        entries
    }

    /// What Go calls its kind, for errors.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::Nil | Value::None(_) => "nil",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float64",
            Value::Text(_) => "string",
            Value::List(_) => "slice",
            Value::Map(_) => "map",
            Value::Record(_) => "struct",
            Value::Lookup(_) => "func",
        }
    }
}

/// As Go prints a float: with an exponent where it is very small or very large.
pub(crate) fn float(number: f64) -> String {
    if number == 0.0 || (1e-4..1e21).contains(&number.abs()) || !number.is_finite() {
        return match number {
            n if n.is_nan() => "NaN".to_owned(),
            n if n.is_infinite() => if n > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
            n => n.to_string(),
        };
    }
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
    format!("{digits}e{sign}{exponent:0>2}")
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl From<bool> for Value {
    fn from(yes: bool) -> Value {
        Value::Bool(yes)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Int(number.into())
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Nil | Value::None(_) | Value::Lookup(_) => s.serialize_unit(),
            Value::Bool(yes) => s.serialize_bool(*yes),
            Value::Int(number) => match (i64::try_from(*number), u64::try_from(*number)) {
                (Ok(number), _) => s.serialize_i64(number),
                (_, Ok(number)) => s.serialize_u64(number),
                _ => s.serialize_i128(*number),
            },
            Value::Float(number) => s.serialize_f64(*number),
            Value::Text(text) => s.serialize_str(text),
            Value::List(items) => items.serialize(s),
            Value::Map(fields) | Value::Record(fields) => {
                // What is a method is no field.
                let fields = fields.iter().filter(|(_, value)| !matches!(value, Value::Lookup(_)));
                let mut map = s.serialize_map(None)?;
                for (key, value) in fields {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Value, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Nil)
            }
            fn visit_bool<E>(self, yes: bool) -> Result<Value, E> {
                Ok(Value::Bool(yes))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
                Ok(Value::Int(number.into()))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
                Ok(Value::Int(number.into()))
            }
            fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
                Ok(Value::Float(number))
            }
            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Value::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Value::Record(fields))
            }
        }
        d.deserialize_any(Any)
    }
}
