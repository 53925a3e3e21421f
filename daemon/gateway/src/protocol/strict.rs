//! JSON from clients, read so that there is one meaning only. Go's decoder, which dlv uses, finds
//! fields whatever their case and takes the last of equal names; a request that it could read in
//! another way than we do is refused.

use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::collections::HashSet;
use std::fmt;

/// Reads one JSON object. The error's text quotes no value.
///
/// # Errors
/// When this is no JSON object, or one with two names that Go takes for the same field, or with a
/// name that is not ASCII (Go folds a few of those to ASCII letters).
pub(crate) fn object(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice(bytes) {
        Ok(Strict(Value::Object(fields))) => Ok(fields),
        Ok(_) => Err("it is no JSON object".to_owned()),
        Err(error) if error.is_data() => Err(error.to_string()),
        Err(error) => Err(format!("it is no JSON (column {})", error.column())),
    }
}

/// A field as Go's decoder finds it.
pub(crate) fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    match fields.get(name) {
        Some(value) => Some(value),
        None => fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v),
    }
}

/// A field with text, `None` where it is absent, null or empty: what Go makes of all three.
///
/// # Errors
/// When it is something else than text.
pub(crate) fn text<'a>(
    fields: &'a Map<String, Value>,
    name: &str,
) -> Result<Option<&'a str>, String> {
    match field(fields, name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("`{name}` must be text")),
    }
}

/// Whether a flag is set.
///
/// # Errors
/// When it is no flag.
pub(crate) fn flag(fields: &Map<String, Value>, name: &str) -> Result<bool, String> {
    match field(fields, name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(set)) => Ok(*set),
        Some(_) => Err(format!("`{name}` must be true or false")),
    }
}

/// The objects of a list; none where it is absent.
///
/// # Errors
/// When it is no list, or has other things in it.
pub(crate) fn objects<'a>(
    fields: &'a Map<String, Value>,
    name: &str,
) -> Result<Vec<&'a Map<String, Value>>, String> {
    match field(fields, name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => list
            .iter()
            .map(|item| item.as_object().ok_or_else(|| format!("`{name}` must hold objects")))
            .collect(),
        Some(_) => Err(format!("`{name}` must be a list")),
    }
}

struct Strict(Value);

impl<'de> de::Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = access.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        let mut folded = HashSet::new();
        while let Some((name, Strict(value))) = access.next_entry::<String, Strict>()? {
            if !name.is_ascii() {
                return Err(de::Error::custom("a field's name is not ASCII"));
            }
            if !folded.insert(name.to_ascii_lowercase()) {
                return Err(de::Error::custom("two fields have the same name"));
            }
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_fields_that_go_takes_for_one_are_refused() {
        for text in [
            r#"{"method":"a","method":"b"}"#,
            r#"{"method":"a","Method":"b"}"#,
            r#"{"a":[{"Expr":"x","expr":"y"}]}"#,
            // The long s, which Go folds to s.
            "{\"param\u{17f}\":1}",
            // The Kelvin sign, escaped.
            r#"{"\u212aind":1}"#,
        ] {
            assert!(object(text.as_bytes()).is_err(), "{text}");
        }
        let fields = object(br#"{"Method":"a"}"#).unwrap();
        assert_eq!(text(&fields, "method"), Ok(Some("a")));
    }

    #[test]
    fn what_is_not_json_is_told_without_quoting_it() {
        for text in ["", "{", "[]", "1", "{\"a\":SECRET}", "{\"a\":\"\\ud800\"}", "{\"a\":1}SECRET"]
        {
            let error = object(text.as_bytes()).unwrap_err();
            assert!(!error.contains("SECRET"), "{error}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(500), "]".repeat(500));
        assert!(object(deep.as_bytes()).is_err());
        assert!(object(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn numbers_keep_their_value() {
        let fields = object(br#"{"id":18446744073709551615,"n":-3,"f":1.5}"#).unwrap();
        assert_eq!(fields["id"], 18_446_744_073_709_551_615_u64);
        assert_eq!((&fields["n"], &fields["f"]), (&(-3).into(), &1.5.into()));
    }
}
