//! Nodes as typed values: what a field wants decides what a scalar is, and every error has its line.

use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use crate::error::ComposeError;
use crate::yaml::{Content, Node, integer, switch};

/// Reads a node as a type.
pub(crate) fn read<'de, T: Deserialize<'de>>(node: &'de Node) -> Result<T, ComposeError> {
    T::deserialize(Typed(node)).map_err(|error| error.at(&node.place))
}

struct Typed<'de>(&'de Node);

impl<'de> Typed<'de> {
    fn scalar(&self, wanted: &str) -> Result<&'de str, ComposeError> {
        match &self.0.content {
            Content::Scalar { text, .. } => Ok(text),
            Content::List(_) => Err(self.0.place.error(format!("this is a list where {wanted} is wanted"))),
            Content::Map(_) => Err(self.0.place.error(format!("this is a map where {wanted} is wanted"))),
        }
    }

    fn wrong(&self, wanted: &str, text: &str) -> ComposeError {
        self.0.place.error(format!("`{text}` is not {wanted}"))
    }
}

macro_rules! number {
    ($($method:ident $visit:ident $type:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ComposeError> {
            let text = self.scalar("a number")?;
            let number = integer(text).and_then(|n| <$type>::try_from(n).ok());
            visitor.$visit(number.ok_or_else(|| self.wrong("a number that fits here", text))?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Typed<'de> {
    type Error = ComposeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ComposeError> {
        match &self.0.content {
            Content::Scalar { .. } if self.0.is_null() => visitor.visit_unit(),
            Content::Scalar { text, plain: true } => match (text.as_str(), integer(text)) {
                ("true" | "True" | "TRUE", _) => visitor.visit_bool(true),
                ("false" | "False" | "FALSE", _) => visitor.visit_bool(false),
                (_, Some(number)) => visitor.visit_i64(number),
                (text, None) => match text.parse::<f64>() {
                    Ok(number)
                        if text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '.')) =>
                    {
                        visitor.visit_f64(number)
                    }
                    _ => visitor.visit_borrowed_str(text),
                },
            },
            Content::Scalar { text, .. } => visitor.visit_borrowed_str(text),
            Content::List(_) => self.deserialize_seq(visitor),
            Content::Map(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ComposeError> {
        let text = self.scalar("true or false")?;
        visitor.visit_bool(switch(text).ok_or_else(|| self.wrong("true or false", text))?)
    }

    number! {
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64, deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ComposeError> {
        let text = self.scalar("a number")?;
        visitor.visit_f64(text.parse().map_err(|_| self.wrong("a number", text))?)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ComposeError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ComposeError> {
        visitor.visit_borrowed_str(self.scalar("text")?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ComposeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ComposeError> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ComposeError> {
        match &self.0.content {
            Content::List(items) => visitor.visit_seq(Items(items.iter())),
            _ if self.0.is_null() => visitor.visit_seq(Items([].iter())),
            Content::Map(_) => Err(self.0.place.error("this is a map where a list is wanted")),
            Content::Scalar { text, .. } => {
                Err(self.0.place.error(format!("`{text}` is there where a list is wanted")))
            }
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ComposeError> {
        self.entries(visitor, false)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ComposeError> {
        self.entries(visitor, true)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ComposeError> {
        let deserializer: StrDeserializer<'_, ComposeError> = self.scalar("a word")?.into_deserializer();
        visitor.visit_enum(deserializer)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ComposeError> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

impl<'de> Typed<'de> {
    fn entries<V: Visitor<'de>>(self, visitor: V, fields: bool) -> Result<V::Value, ComposeError> {
        match &self.0.content {
            Content::Map(entries) => {
                visitor.visit_map(Entries { entries: entries.iter(), value: None, fields })
            }
            _ if self.0.is_null() => visitor.visit_map(Entries { entries: [].iter(), value: None, fields }),
            Content::List(_) => Err(self.0.place.error("this is a list where a map is wanted")),
            Content::Scalar { text, .. } => {
                Err(self.0.place.error(format!("`{text}` is there where a map is wanted")))
            }
        }
    }
}

struct Items<'de>(std::slice::Iter<'de, Node>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = ComposeError;

    fn next_element_seed<T: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ComposeError> {
        let Some(node) = self.0.next() else { return Ok(None) };
        seed.deserialize(Typed(node)).map(Some).map_err(|error| error.at(&node.place))
    }
}

struct Entries<'de> {
    entries: std::slice::Iter<'de, (String, Node)>,
    value: Option<(&'de str, &'de Node)>,
    /// Keys are fields: those of extensions are none of ours.
    fields: bool,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = ComposeError;

    fn next_key_seed<K: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ComposeError> {
        for (key, node) in self.entries.by_ref() {
            // A field that says nothing is as good as none.
            if self.fields && (key.starts_with("x-") || node.is_null()) {
                continue;
            }
            self.value = Some((key, node));
            let deserializer: StrDeserializer<'_, ComposeError> = key.as_str().into_deserializer();
            return seed.deserialize(deserializer).map(Some).map_err(|error| error.at(&node.place));
        }
        Ok(None)
    }

    fn next_value_seed<V: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, ComposeError> {
        let Some((key, node)) = self.value.take() else {
            return Err(ComposeError::new("a value without a key"));
        };
        seed.deserialize(Typed(node)).map_err(|error| error.at(&node.place).of(key))
    }
}
