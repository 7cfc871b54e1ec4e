//! `${VAR}` and `${VAR:-default}` in a string → the string with the environment filled in.
//!
//! As in a shell, `:-` stands in for a variable that is unset or empty. `$${` is a literal `${`,
//! and a `$` before anything else is itself. What was filled in is not looked at again.

use std::ops::Range;

/// Why a string could not be filled in, and which of its bytes say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unfilled {
    pub(super) at: Range<usize>,
    pub(super) why: Why,
}

/// What was wrong between the braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The variable is not set, and no default is given.
    Unset(String),
    /// The name is empty or has other characters than letters, digits and `_`.
    BadName(String),
    /// There is no `}`.
    Open,
}

/// Fills in every variable of `text`, or says what is wrong with each that could not be.
///
/// # Errors
/// One [`Unfilled`] for each place, in order.
pub(super) fn fill(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<String, Vec<Unfilled>> {
    let mut filled = String::with_capacity(text.len());
    let mut wrong = Vec::new();
    let mut at = 0;
    while let Some(found) = text[at..].find("${").map(|offset| at + offset) {
        if text[at..found].ends_with('$') {
            filled.push_str(&text[at..found - 1]);
            filled.push_str("${");
            at = found + 2;
            continue;
        }
        filled.push_str(&text[at..found]);
        let Some(close) = text[found..].find('}').map(|offset| found + offset) else {
            wrong.push(Unfilled {
                at: found..text.len(),
                why: Why::Open,
            });
            at = text.len();
            break;
        };
        match variable(&text[found + 2..close], env) {
            Ok(value) => filled.push_str(&value),
            Err(why) => wrong.push(Unfilled {
                at: found..close + 1,
                why,
            }),
        }
        at = close + 1;
    }
    filled.push_str(&text[at..]);
    if wrong.is_empty() {
        Ok(filled)
    } else {
        Err(wrong)
    }
}

/// What stands for the inside of one pair of braces.
fn variable(inside: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, Why> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(Why::BadName(name.to_owned()));
    }
    match (env(name), default) {
        (Some(value), Some(default)) if value.is_empty() => Ok(default.to_owned()),
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(Why::Unset(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "PORT" => Some("9000".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${PORT}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_filled_in_as_in_a_shell() {
        for (text, filled) in [
            ("", ""),
            ("plain $PORT $ {PORT}", "plain $PORT $ {PORT}"),
            ("${PORT}", "9000"),
            ("a:${PORT}-${PORT}", "a:9000-9000"),
            ("${PORT:-80}", "9000"),
            ("${NONE:-80}", "80"),
            ("${NONE:-}", ""),
            ("${EMPTY}", ""),
            ("${EMPTY:-80}", "80"),
            ("${NESTED}", "${PORT}"),
            ("$${PORT}", "${PORT}"),
            ("$$${PORT}", "$${PORT}"),
            ("ü${PORT}ü", "ü9000ü"),
        ] {
            assert_eq!(fill(text, &env).as_deref(), Ok(filled), "{text}");
        }
    }

    #[test]
    fn every_variable_that_cannot_be_filled_in_is_named() {
        let unset = |name: &str| Why::Unset(name.to_owned());
        let bad = |name: &str| Why::BadName(name.to_owned());
        for (text, wrong) in [
            ("${NONE}", vec![(0..7, unset("NONE"))]),
            (
                "${A}:${PORT}:${B}",
                vec![(0..4, unset("A")), (13..17, unset("B"))],
            ),
            ("x${}", vec![(1..4, bad(""))]),
            ("${A B}", vec![(0..6, bad("A B"))]),
            ("${1A:-x}", vec![(0..8, bad("1A"))]),
            ("x${PORT", vec![(1..7, Why::Open)]),
        ] {
            let found = fill(text, &env).unwrap_err();
            let found: Vec<_> = found.into_iter().map(|one| (one.at, one.why)).collect();
            assert_eq!(found, wrong, "{text}");
        }
    }
}
