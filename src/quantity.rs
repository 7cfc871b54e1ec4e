//! Numbers as people read them: in groups of three, with their noun, times in the unit that suits.

use std::time::Duration;

/// `1234567` as `1,234,567`.
pub fn grouped(number: impl Into<u64>) -> String {
    let digits = number.into().to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1,234 requests`, `1 request`.
pub fn counted(count: impl Into<u64>, noun: &str) -> String {
    let count = count.into();
    let ending = match (count, noun.ends_with("ss")) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{} {noun}{ending}", grouped(count))
}

/// A number without its fraction; what is no number, or below zero, is 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` takes what is out of range for the nearest number in range, which is meant"
)]
pub fn whole(number: f64) -> u64 {
    number as u64
}

/// So many a second, without the unit: `1,234`, `46`, and below ten with one decimal, `0.9`.
pub fn rate(per_second: f64) -> String {
    if per_second == 0.0 || per_second >= 9.95 {
        grouped(whole(per_second.round()))
    } else if per_second < 0.05 {
        "less than 0.1".to_owned()
    } else {
        format!("{per_second:.1}")
    }
}

/// The same for a limit, which is rounded down: 462.8 is not yet reached at 462.
pub fn limit(per_second: f64) -> String {
    if per_second >= 10.0 {
        grouped(whole(per_second))
    } else {
        format!("{:.1}", (per_second * 10.0 + 1e-9).floor() / 10.0)
    }
}

/// A time in one unit, rounded down: `50 ms`, `1.5 s`, `46 s`, `11 min`, `3 h`, `2 days`.
pub fn span(time: Duration) -> String {
    let (millis, seconds) = (time.as_millis(), time.as_secs());
    match seconds {
        0 => format!("{millis} ms"),
        1..10 if time.subsec_millis() >= 100 => {
            format!("{seconds}.{} s", time.subsec_millis() / 100)
        }
        1..600 => format!("{seconds} s"),
        600..7200 if seconds != 3600 => format!("{} min", seconds / 60),
        600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", grouped(seconds / 86_400)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_stand_in_threes() {
        for (number, text) in [
            (0_u64, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn one_has_no_ending() {
        assert_eq!(counted(1_u32, "port"), "1 port");
        assert_eq!(counted(2_u32, "address"), "2 addresses");
        assert_eq!(counted(28_232_u32, "port"), "28,232 ports");
        assert_eq!(counted(0_u32, "port"), "0 ports");
    }

    #[test]
    fn rates_are_rounded_and_limits_rounded_down() {
        for (number, as_rate, as_limit) in [
            (0.0, "0", "0.0"),
            (0.01, "less than 0.1", "0.0"),
            (0.96, "1.0", "0.9"),
            (9.96, "10", "9.9"),
            (462.8, "463", "462"),
            (28_232.0, "28,232", "28,232"),
            (0.3, "0.3", "0.3"),
        ] {
            assert_eq!(rate(number), as_rate, "{number}");
            assert_eq!(limit(number), as_limit, "{number}");
        }
    }

    #[test]
    fn a_time_has_one_unit() {
        for (millis, text) in [
            (0, "0 ms"),
            (50, "50 ms"),
            (1000, "1 s"),
            (1550, "1.5 s"),
            (46_280, "46 s"),
            (240_000, "240 s"),
            (660_000, "11 min"),
            (3_600_000, "1 h"),
            (5_400_000, "90 min"),
            (3 * 3_600_000, "3 h"),
            (48 * 3_600_000, "2 days"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }
}
