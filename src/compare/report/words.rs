//! Figures of a report as people read them: three digits, the unit that suits, a ratio with what it lies within.

use crate::compare::stats::{Interval, Spread};
use crate::quantity::{grouped, whole};

/// Three digits that count: `0.042`, `8.17`, `27.4`, `610`, `12,345`.
pub(super) fn digits(value: f64) -> String {
    match value.abs() {
        size if !size.is_finite() => "?".to_owned(),
        0.0 => "0".to_owned(),
        size if size < 0.0005 => "<0.001".to_owned(),
        size if size < 0.9995 => format!("{value:.3}"),
        size if size < 9.995 => format!("{value:.2}"),
        size if size < 99.95 => format!("{value:.1}"),
        _ => grouped(whole(value.round())),
    }
}

/// Microseconds in the unit that suits: `87.2 µs`, `1.20 ms`, `3.00 s`.
pub(super) fn time(us: f64) -> String {
    match us {
        us if us >= 999_500.0 => format!("{} s", digits(us / 1e6)),
        us if us >= 999.5 => format!("{} ms", digits(us / 1e3)),
        us => format!("{} µs", digits(us)),
    }
}

/// Bytes: `512 B`, `4.00 KiB`, `9.30 MiB`.
pub(super) fn bytes(count: u64) -> String {
    let count = float(count);
    match count {
        count if count >= 1024.0 * 1024.0 * 1023.5 => {
            format!("{} GiB", digits(count / 1024.0 / 1024.0 / 1024.0))
        }
        count if count >= 1024.0 * 1023.5 => format!("{} MiB", digits(count / 1024.0 / 1024.0)),
        count if count >= 1024.0 => format!("{} KiB", digits(count / 1024.0)),
        count => format!("{} B", digits(count)),
    }
}

/// `3.12 x`.
pub(super) fn times(ratio: f64) -> String {
    format!("{} x", plain_ratio(ratio))
}

/// `[2.90-3.30]`, what a ratio lies within.
pub(super) fn within(interval: &Interval) -> String {
    format!(
        "[{}-{}]",
        plain_ratio(interval.low),
        plain_ratio(interval.high)
    )
}

fn plain_ratio(ratio: f64) -> String {
    match ratio {
        ratio if !ratio.is_finite() || ratio >= 9_999.5 => ">9,999".to_owned(),
        ratio if ratio >= 9.995 => digits(ratio),
        ratio if ratio < 0.005 => "0.00".to_owned(),
        ratio => format!("{ratio:.2}"),
    }
}

/// `26.9-28.4`: the least and the most of all rounds.
pub(super) fn range(spread: &Spread, show: impl Fn(f64) -> String) -> String {
    format!("{}-{}", show(spread.low), show(spread.high))
}

/// A part of one in percent: `4 %`, `0.3 %`.
pub(super) fn percent(part: f64) -> String {
    let hundred = part * 100.0;
    match hundred {
        0.0 => "0 %".to_owned(),
        small if small < 0.01 => "<0.01 %".to_owned(),
        small if small < 0.995 => format!("{small:.2} %"),
        small if small < 9.95 => format!("{small:.1} %"),
        large => format!("{} %", grouped(whole(large.round()))),
    }
}

/// `one, two and three`.
pub(super) fn listed(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [before @ .., last] => format!("{} and {last}", before.join(", ")),
    }
}

/// Counts as numbers to reckon with.
#[expect(
    clippy::cast_precision_loss,
    reason = "2^52 are more than anybody counts"
)]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

/// The same for the length of a list.
pub(super) fn length(count: usize) -> f64 {
    float(count as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_count() {
        for (value, text) in [
            (0.0, "0"),
            (0.0001, "<0.001"),
            (0.0421, "0.042"),
            (0.9996, "1.00"),
            (8.166, "8.17"),
            (27.44, "27.4"),
            (99.96, "100"),
            (12_345.4, "12,345"),
            (f64::NAN, "?"),
        ] {
            assert_eq!(digits(value), text);
        }
    }

    #[test]
    fn units_suit() {
        for (us, text) in [
            (87.2, "87.2 µs"),
            (999.7, "1.00 ms"),
            (1200.0, "1.20 ms"),
            (3e6, "3.00 s"),
        ] {
            assert_eq!(time(us), text);
        }
        for (count, text) in [(512, "512 B"), (4096, "4.00 KiB"), (9_751_756, "9.30 MiB")] {
            assert_eq!(bytes(count), text);
        }
        for (part, text) in [
            (0.0, "0 %"),
            (0.00001, "<0.01 %"),
            (0.0034, "0.34 %"),
            (0.042, "4.2 %"),
            (1.0, "100 %"),
        ] {
            assert_eq!(percent(part), text);
        }
        assert_eq!(times(3.124), "3.12 x");
        assert_eq!(times(32.22), "32.2 x");
    }

    #[test]
    fn a_list_ends_with_and() {
        let parts = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        for (count, text) in [(0, ""), (1, "a"), (2, "a and b"), (3, "a, b and c")] {
            assert_eq!(listed(&parts[..count]), text);
        }
    }
}
