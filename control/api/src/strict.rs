// SPDX-License-Identifier: Apache-2.0
//! Reading by name alone. A derived reader of a struct takes a list for it, too: `[22, 80]` for `{"first": 22, "last": 80}`,
//! and `[]` where every field has a default. What was meant for another field would be read without a word, so every type of the
//! protocol, of the configuration and of the plugin's input that is written as an object is read through [`ByName`], see
//! [`by_name!`](crate::by_name). A key that comes twice is refused by the derived readers; [`Tree`] refuses it in what is not read as a type.

use std::fmt;

use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess,
    Visitor,
};
use serde_json::{Map, Number, Value};

use crate::object::ReadError;

/// A reader that reads an object, or fails.
#[derive(Debug)]
pub struct ByName<D>(pub D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for ByName<D> {
    type Error = D::Error;

    /// Tagged enums ask for this.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(MapOnly(visitor))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_struct(name, fields, MapOnly(visitor))
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct MapOnly<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for MapOnly<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object, its fields by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(map)
    }
}

/// A reader that reads a word, or fails. The derived reader of an enum takes `{"native": null}` for `"native"`, too.
#[derive(Debug)]
pub struct ByWord<D>(pub D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for ByWord<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let word = String::deserialize(self.0)?;
        visitor.visit_enum(word.into_deserializer())
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// Reads and writes types as objects alone. Each derives `Serialize` and `Deserialize` under `#[serde(remote = "Self")]`, which
/// makes associated functions of the derived code; this makes the traits of them. `Type::deserialize` is the derived function then:
/// read by `<Type as Deserialize>::deserialize`, or by any function that takes the trait. After `read:` come types that derive
/// `Deserialize` alone.
#[macro_export]
macro_rules! by_name {
    (read: $($name:ty),+ $(,)?) => { $crate::read_by!(ByName: $($name),+); };
    ($($name:ty),+ $(,)?) => {
        $crate::read_by!(ByName: $($name),+);
        $crate::write_as_derived!($($name),+);
    };
}

/// The same for enums that are written as one word: see [`by_name!`](crate::by_name).
#[macro_export]
macro_rules! by_word {
    (read: $($name:ty),+ $(,)?) => { $crate::read_by!(ByWord: $($name),+); };
    ($($name:ty),+ $(,)?) => {
        $crate::read_by!(ByWord: $($name),+);
        $crate::write_as_derived!($($name),+);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! read_by {
    ($reader:ident: $($name:ty),+) => {$(
        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
                <$name>::deserialize($crate::strict::$reader(reader))
            }
        }
    )+};
}

#[doc(hidden)]
#[macro_export]
macro_rules! write_as_derived {
    ($($name:ty),+) => {$(
        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, writer: S) -> Result<S::Ok, S::Error> {
                <$name>::serialize(self, writer)
            }
        }
    )+};
}

/// Reads one JSON object as a struct that borrows from the text.
///
/// # Errors
/// What is wrong and where, also when anything but white space follows.
pub(crate) fn from_str<'de, T: Deserialize<'de>>(text: &'de str) -> serde_json::Result<T> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = T::deserialize(ByName(&mut reader))?;
    reader.end()?;
    Ok(read)
}

/// Reads a type from a tree.
///
/// # Errors
/// The first field at fault, by its path, with its value.
pub fn read<T: de::DeserializeOwned>(tree: &Value) -> Result<T, ReadError> {
    serde_path_to_error::deserialize(tree).map_err(|e| ReadError::new(e, Some(tree)))
}

/// A tree in which no object has a key twice: which of the two is meant nobody can tell (RFC 8259 section 4).
#[derive(Clone, PartialEq, Debug)]
pub struct Tree(pub Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Tree, D::Error> {
        Unique.deserialize(reader).map(Tree)
    }
}

/// Reads a JSON value (RFC 8259) as a [`Tree`].
///
/// # Errors
/// What is wrong, with line and column; a key that comes twice is named.
pub fn value(text: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice(text).map(|Tree(value)| value)
}

/// Longest key that an error repeats, in characters.
const SHOWN: usize = 64;

#[derive(Clone, Copy)]
struct Unique;

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    /// An empty YAML document.
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        self.deserialize(reader)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut read = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            read.push(item);
        }
        Ok(Value::Array(read))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut read = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            if read.contains_key(&key) {
                let shown: String = key.chars().take(SHOWN).collect();
                let what = format!("key {shown:?} comes twice in one object; write it once");
                return Err(de::Error::custom(what));
            }
            read.insert(key, fields.next_value_seed(self)?);
        }
        Ok(Value::Object(read))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tree_is_read_as_ever() {
        let text =
            r#" {"a": [null, true, -1, 18446744073709551615, 1.5, "ä\u0000"], "b": {"a": {}}} "#;
        let read: Value = serde_json::from_str(text).unwrap();
        assert_eq!(value(text.as_bytes()).unwrap(), read);
    }

    #[test]
    fn a_key_that_comes_twice_is_named() {
        for text in [
            r#"{"mtu": 1, "mtu": 2}"#,
            r#"[{"a": {"mtu": 1, "b": 1, "m\u0074u": 1}}]"#,
        ] {
            let error = value(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("\"mtu\" comes twice"), "{error}");
        }
        let long = format!(r#"{{"{0}": 1, "{0}": 1}}"#, "x".repeat(5000));
        assert!(value(long.as_bytes()).unwrap_err().to_string().len() < 200);
        assert_eq!(
            value(br#"{"a": {"a": 1}}"#).unwrap(),
            json!({"a": {"a": 1}})
        );
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in ["", "{", "{} {}", "[1,]", "1e999", &"[".repeat(100_000)] {
            assert!(value(text.as_bytes()).is_err(), "{text:.20}");
        }
    }
}
