//! A report's file, read.

use super::{Report, SCHEMA};

/// Why a file cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is not JSON at all, or a key has a value of the wrong kind.
    #[error("it is not a report of `warmline compare --json`: {0}")]
    Json(#[from] serde_json::Error),
    /// It is JSON of something else.
    #[error("it is not a report of `warmline compare --json`: it has no `schema` and no `arms`")]
    Other,
    /// A later version wrote it.
    #[error(
        "its schema is {0}, and this version of warmline knows {SCHEMA}: read it with the version that wrote it, or a later one"
    )]
    Newer(u32),
    /// Nothing was compared.
    #[error("it has no arms: there is nothing to show")]
    Empty,
}

/// Reads a report's text. Keys that are not known are passed over.
///
/// # Errors
/// When it is none, or a later version's.
pub fn read(text: &str) -> Result<Report, Unreadable> {
    let value: serde_json::Value = serde_json::from_str(text)?;
    let schema = value.get("schema").and_then(serde_json::Value::as_u64);
    let Some(schema) = schema.filter(|_| value.get("arms").is_some()) else {
        return Err(Unreadable::Other);
    };
    let schema = u32::try_from(schema).unwrap_or(u32::MAX);
    if schema > SCHEMA {
        return Err(Unreadable::Newer(schema));
    }
    let report: Report = serde_json::from_value(value)?;
    if report.arms.is_empty() {
        return Err(Unreadable::Empty);
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_report_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "it is not a report of `warmline compare --json`: EOF"),
            ("[1]", "it has no `schema` and no `arms`"),
            (r#"{"schema":1}"#, "it has no `schema` and no `arms`"),
            (r#"{"schema":2,"arms":[]}"#, "its schema is 2, and"),
            (r#"{"schema":1,"arms":[]}"#, "it has no arms"),
            (r#"{"schema":1,"arms":7}"#, "invalid type"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn unknown_keys_are_passed_over_and_missing_ones_unknown() {
        let report = read(r#"{"schema":1,"later":[],"arms":[{"name":"a","x":1}]}"#).unwrap();
        assert_eq!(report.arms[0].name, "a");
        assert_eq!(report.arms[0].exhausted_at, None);
    }
}
