//! JSON, written: what a program reads of our reports and of the access log.
//!
//! What other proxies say is read with `serde_json`. Written with it, members would lose their order, or
//! each report need types of its own, for what is one `match` and the escaping of a string.

use std::fmt::{self, Write as _};

/// A value. Members of objects stay in their order.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// Unknown, or unlimited.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Whole(u64),
    /// What is no number in JSON, an infinite one among it, becomes `null`.
    Number(f64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Json>),
    /// An object.
    Object(Vec<(&'static str, Json)>),
}

impl From<bool> for Json {
    fn from(value: bool) -> Json {
        Json::Bool(value)
    }
}

impl From<u64> for Json {
    fn from(number: u64) -> Json {
        Json::Whole(number)
    }
}

impl From<u32> for Json {
    fn from(number: u32) -> Json {
        Json::Whole(number.into())
    }
}

impl From<f64> for Json {
    fn from(number: f64) -> Json {
        Json::Number(number)
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Json {
        Json::Text(text.to_owned())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Json {
        Json::Text(text)
    }
}

impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Json {
        value.map_or(Json::Null, Into::into)
    }
}

/// On one line, without blanks.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Number(number) if number.is_finite() => write!(f, "{number}"),
            Json::Null | Json::Number(_) => f.write_str("null"),
            Json::Bool(value) => write!(f, "{value}"),
            Json::Whole(number) => write!(f, "{number}"),
            Json::Text(text) => quoted(f, text),
            Json::List(values) => {
                f.write_char('[')?;
                for (at, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if at > 0 { "," } else { "" })?;
                }
                f.write_char(']')
            }
            Json::Object(members) => {
                f.write_char('{')?;
                for (at, (name, value)) in members.iter().enumerate() {
                    f.write_str(if at > 0 { "," } else { "" })?;
                    quoted(f, name)?;
                    write!(f, ":{value}")?;
                }
                f.write_char('}')
            }
        }
    }
}

fn quoted(out: &mut impl fmt::Write, text: &str) -> fmt::Result {
    out.write_char('"')?;
    escape(out, text)?;
    out.write_char('"')
}

/// Writes `text` as it stands between a string's quotes.
///
/// RFC 8259 §7: quotes, backslashes and what is below a blank must be escaped, nothing else.
///
/// # Errors
/// Those of `out`.
pub fn escape(out: &mut impl fmt::Write, text: &str) -> fmt::Result {
    let mut written = 0;
    for (at, byte) in text.bytes().enumerate() {
        // None of these is a part of a longer character.
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.write_str(&text[written..at])?;
        match byte {
            b'"' => out.write_str("\\\"")?,
            b'\\' => out.write_str("\\\\")?,
            _ => write!(out, "\\u{byte:04x}")?,
        }
        written = at + 1;
    }
    out.write_str(&text[written..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_kind_of_value_is_written() {
        let value = Json::Object(vec![
            ("nothing", Json::from(None::<u64>)),
            ("yes", true.into()),
            ("count", 18_446_744_073_709_551_615_u64.into()),
            ("rate", 0.5.into()),
            ("large", 1e21.into()),
            ("none", f64::INFINITY.into()),
            ("text", "a \"b\" \\ \n é".into()),
            ("list", Json::List(vec![1_u32.into(), 2_u32.into()])),
            ("empty", Json::Object(vec![])),
        ]);
        assert_eq!(
            value.to_string(),
            r#"{"nothing":null,"yes":true,"count":18446744073709551615,"rate":0.5,"large":1000000000000000000000,"none":null,"text":"a \"b\" \\ \u000a é","list":[1,2],"empty":{}}"#
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_back(text in any::<String>(), number in any::<f64>()) {
            let written = Json::List(vec![text.clone().into(), number.into()]).to_string();
            let read: serde_json::Value = serde_json::from_str(&written).unwrap();
            prop_assert_eq!(read[0].as_str(), Some(text.as_str()));
            if number.is_finite() {
                let back = read[1].as_f64().unwrap();
                // serde_json reads numbers to within the last bit unless asked for more.
                prop_assert!((back - number).abs() <= number.abs() * 1e-15, "{} {}", back, number);
            }
        }
    }
}
