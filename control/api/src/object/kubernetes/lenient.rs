// SPDX-License-Identifier: Apache-2.0
//! Peers and ports of policies may be of kinds that a later Kubernetes knows and this podswitch does not. They are read as such and fail
//! closed: they allow nothing, and a denial speaks of everyone. All else is read by its known fields alone.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, IntoDeserializer, MapAccess, Visitor};

/// The field that says that there were others.
const UNKNOWN: &str = "unknown";

/// A reader that reads an object by name, and notes in its field `unknown` that there were fields of no known name.
#[derive(Debug)]
pub(super) struct Lenient<D>(pub(super) D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Lenient<D> {
    type Error = D::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(Reading { fields, visitor })
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct Reading<V> {
    fields: &'static [&'static str],
    visitor: V,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Reading<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object, its fields by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Fields {
            map,
            known: self.fields,
            said: false,
            strange: false,
            noting: false,
        })
    }
}

struct Fields<A> {
    map: A,
    known: &'static [&'static str],
    /// The object said itself whether it had unknown fields.
    said: bool,
    /// It has some, or said so.
    strange: bool,
    /// The value of the note is next.
    noting: bool,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.map.next_key::<String>()? {
            if key == UNKNOWN {
                if self.said {
                    return Err(A::Error::duplicate_field(UNKNOWN));
                }
                self.said = true;
                // What the object says of itself does not make unknown fields known.
                self.strange |= self.map.next_value::<bool>()?;
            } else if self.known.contains(&key.as_str()) {
                return seed.deserialize(key.into_deserializer()).map(Some);
            } else {
                self.map.next_value::<IgnoredAny>()?;
                self.strange = true;
            }
        }
        if !std::mem::take(&mut self.strange) {
            return Ok(None);
        }
        self.noting = true;
        seed.deserialize(UNKNOWN.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        if std::mem::take(&mut self.noting) {
            return seed.deserialize(true.into_deserializer());
        }
        self.map.next_value_seed(seed)
    }
}

/// As [`by_name!`](crate::by_name), for types that note unknown fields.
macro_rules! by_known_name {
    ($($name:ty),+ $(,)?) => {
        $(
            impl<'de> ::serde::Deserialize<'de> for $name {
                fn deserialize<D: ::serde::Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
                    <$name>::deserialize($crate::object::kubernetes::lenient::Lenient(reader))
                }
            }
        )+
        $crate::write_as_derived!($($name),+);
    };
}
pub(super) use by_known_name;

/// Reads labels, each of which comes once.
pub(super) fn labels<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    struct Labels;

    impl<'de> Visitor<'de> for Labels {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of labels")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut labels = BTreeMap::new();
            while let Some((key, value)) = map.next_entry::<String, String>()? {
                if labels.contains_key(&key) {
                    let shown: String = key.chars().take(64).collect();
                    return Err(A::Error::custom(format!("label `{shown}` comes twice")));
                }
                labels.insert(key, value);
            }
            Ok(labels)
        }
    }

    from.deserialize_map(Labels)
}
