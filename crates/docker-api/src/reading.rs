//! Requests as Go reads them: the case of members' names does not matter, and `null` says nothing.
//!
//! Clients rely on it: docker-py asks for an exec's `detachKeys`, where the reference has `DetachKeys`.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Visitor};
use serde_json::{Error, Map, Value};

/// Reads JSON; nothing, or `null`, is the default.
///
/// # Errors
/// If it is no JSON, or not of this type.
pub fn from_slice<T: DeserializeOwned + Default>(bytes: &[u8]) -> Result<T, Error> {
    if bytes.is_empty() {
        return Ok(T::default());
    }
    let value: Option<Value> = serde_json::from_slice(bytes)?;
    value.map_or_else(|| Ok(T::default()), from_value)
}

/// As [`from_slice`], of what is parsed already.
///
/// # Errors
/// If it is not of this type.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    T::deserialize(AsGo(value))
}

/// A value that is read as Go reads it.
struct AsGo(Value);

impl IntoDeserializer<'_, Error> for AsGo {
    type Deserializer = AsGo;

    fn into_deserializer(self) -> AsGo {
        self
    }
}

/// What `members` have for `fields`: by the very name, or else by one that differs in case. Others stay as they are.
fn named(members: Map<String, Value>, fields: &[&'static str]) -> Vec<(String, Value)> {
    let said: Vec<(String, Value)> = members.into_iter().filter(|(_, value)| !value.is_null()).collect();
    let mut named: Vec<(String, Value)> = Vec::with_capacity(said.len());
    let (exact, others): (Vec<_>, Vec<_>) = said.into_iter().partition(|(k, _)| fields.contains(&k.as_str()));
    named.extend(exact);
    for (key, value) in others {
        let field = fields.iter().find(|field| field.eq_ignore_ascii_case(&key));
        let key = field.map_or(key, |field| (*field).to_owned());
        if !named.iter().any(|(known, _)| *known == key) {
            named.push((key, value));
        }
    }
    named
}

/// Scalars: of `null`, the kind's zero.
macro_rules! scalars {
    ($($method:ident($visit:ident, $zero:expr))*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            if self.0.is_null() { visitor.$visit($zero) } else { self.0.$method(visitor) }
        })*
    };
}

impl<'de> Deserializer<'de> for AsGo {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(AsGo))),
            Value::Object(members) => {
                visitor.visit_map(MapDeserializer::new(members.into_iter().map(|(k, v)| (k, AsGo(v)))))
            }
            scalar => scalar.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let members = match self.0 {
            Value::Object(members) => named(members, fields),
            Value::Null => Vec::new(),
            // Derived code would take a list for the members in their order.
            _ => return Err(Error::custom("expected an object")),
        };
        visitor.visit_map(MapDeserializer::new(members.into_iter().map(|(k, v)| (k, AsGo(v)))))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => AsGo(Value::Object(Map::new())).deserialize_any(visitor),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => AsGo(Value::Array(Vec::new())).deserialize_any(visitor),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    scalars! {
        deserialize_bool(visit_bool, false)
        deserialize_i8(visit_i8, 0) deserialize_i16(visit_i16, 0) deserialize_i32(visit_i32, 0) deserialize_i64(visit_i64, 0)
        deserialize_u8(visit_u8, 0) deserialize_u16(visit_u16, 0) deserialize_u32(visit_u32, 0) deserialize_u64(visit_u64, 0)
        deserialize_f32(visit_f32, 0.0) deserialize_f64(visit_f64, 0.0)
        deserialize_str(visit_str, "") deserialize_string(visit_str, "")
    }

    serde::forward_to_deserialize_any! {
        char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;
    use crate::container::CreateRequest;
    use crate::exec::ExecCreate;

    fn read<T: DeserializeOwned + Default>(text: &str) -> T {
        from_slice(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_case_of_names_does_not_matter() {
        let exec: ExecCreate = read(r#"{"cmd":["sh"],"detachKeys":"ctrl-p","TTY":true}"#);
        assert_eq!((exec.cmd, exec.tty), (vec!["sh".to_owned()], true));
        assert_eq!(exec.detach_keys, "ctrl-p");
        let create: CreateRequest =
            read(r#"{"image":"x","labels":{"Cmd":"1","cmd":"2"},"hostconfig":{"autoREMOVE":true}}"#);
        assert_eq!(create.config.image, "x");
        let labels = create.config.labels.unwrap();
        assert_eq!((labels["Cmd"].as_str(), labels["cmd"].as_str()), ("1", "2"));
        assert!(create.host_config.unwrap().auto_remove);
        // The very name counts for more.
        let both: ExecCreate = read(r#"{"CMD":["a"],"Cmd":["b"],"cmd":["c"]}"#);
        assert_eq!(both.cmd, ["b"]);
    }

    #[test]
    fn null_says_nothing() {
        #[derive(Deserialize, Default, Debug, PartialEq)]
        #[serde(default)]
        struct Sample {
            text: String,
            map: BTreeMap<String, Sample>,
            list: Vec<i64>,
            texts: BTreeMap<String, String>,
            on: bool,
        }
        assert_eq!(read::<Sample>("null"), Sample::default());
        assert_eq!(read::<Sample>(""), Sample::default());
        let all = r#"{"text":null,"map":null,"list":null,"texts":null,"on":null,"unknown":null}"#;
        assert_eq!(read::<Sample>(all), Sample::default());
        let inside: Sample = read(r#"{"map":{"a":null},"list":[1,null],"texts":{"b":null}}"#);
        assert_eq!(inside.map["a"], Sample::default());
        assert_eq!((inside.list, inside.texts["b"].as_str()), (vec![1, 0], ""));
    }

    #[test]
    fn other_types_are_refused() {
        for text in [r#"{"Cmd":5}"#, r#"[["sh"]]"#, "5", "{", r#"{"Tty":"yes"}"#] {
            assert!(from_slice::<ExecCreate>(text.as_bytes()).is_err(), "{text}");
        }
    }
}
