//! A second of local time, as it stands in the access log.

/// Months as Apache httpd writes them: English wherever it runs (`apr_month_snames`).
const MONTHS: [&[u8; 3]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

const DAY: i64 = 24 * 60 * 60;

/// A second, written out in each form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    second: i64,
    apache: [u8; 26],
    date: [u8; 19],
    zone: [u8; 6],
}

impl Stamp {
    /// The second `second`, counted from 1970 in UTC, where clocks are `offset` seconds ahead of it.
    ///
    /// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
    pub fn new(second: i64, offset: i32) -> Stamp {
        let local = second.saturating_add(offset.into());
        // Days since 1 March of year 0: a leap day is the last of its year then.
        let days = local.div_euclid(DAY) + 719_468;
        let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * march_month + 2) / 5 + 1;
        let month = (march_month + 2) % 12;
        let year = year_of_era + era * 400 + i64::from(month < 2);
        let time = local.rem_euclid(DAY);
        let (hour, minute, of_minute) = (time / 3600, time / 60 % 60, time % 60);
        let (sign, ahead) = (
            if offset < 0 { b'-' } else { b'+' },
            i64::from(offset.abs()),
        );
        let (zone_hour, zone_minute) = (ahead / 3600 % 100, ahead / 60 % 60);

        let mut apache = *b"00/Mon/0000:00:00:00 +0000";
        digits(&mut apache[0..2], day);
        if let Some(name) = usize::try_from(month)
            .ok()
            .and_then(|month| MONTHS.get(month))
        {
            apache[3..6].copy_from_slice(&name[..]);
        }
        digits(&mut apache[7..11], year);
        digits(&mut apache[12..14], hour);
        digits(&mut apache[15..17], minute);
        digits(&mut apache[18..20], of_minute);
        apache[21] = sign;
        digits(&mut apache[22..24], zone_hour);
        digits(&mut apache[24..26], zone_minute);

        let mut date = *b"0000-00-00T00:00:00";
        digits(&mut date[0..4], year);
        digits(&mut date[5..7], month + 1);
        digits(&mut date[8..10], day);
        date[11..19].copy_from_slice(&apache[12..20]);

        let mut zone = *b"+00:00";
        zone[0] = sign;
        digits(&mut zone[1..3], zone_hour);
        digits(&mut zone[4..6], zone_minute);
        Stamp {
            second,
            apache,
            date,
            zone,
        }
    }

    /// The second it is, counted from 1970 in UTC.
    pub fn second(&self) -> i64 {
        self.second
    }

    /// `10/Oct/2000:13:55:36 -0700`.
    pub(super) fn apache(&self) -> &[u8] {
        &self.apache
    }

    /// `2000-10-10T13:55:36`.
    pub(super) fn date(&self) -> &[u8] {
        &self.date
    }

    /// `-07:00`.
    pub(super) fn zone(&self) -> &[u8] {
        &self.zone
    }
}

/// The last digits of `number`, as many as there is room for.
fn digits(room: &mut [u8], number: i64) {
    let mut rest = number.unsigned_abs();
    for place in room.iter_mut().rev() {
        *place = b'0' + u8::try_from(rest % 10).expect("a digit is below 10");
        rest /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The dates are those of `date -u -d @SECOND`, moved by hand.
    #[test]
    fn a_second_is_written_as_a_local_date_and_time() {
        for (second, offset, apache, date) in [
            (
                0,
                0,
                "01/Jan/1970:00:00:00 +0000",
                "1970-01-01T00:00:00+00:00",
            ),
            (
                -1,
                0,
                "31/Dec/1969:23:59:59 +0000",
                "1969-12-31T23:59:59+00:00",
            ),
            (
                971_211_336,
                -7 * 3600,
                "10/Oct/2000:13:55:36 -0700",
                "2000-10-10T13:55:36-07:00",
            ),
            (
                951_782_400,
                0,
                "29/Feb/2000:00:00:00 +0000",
                "2000-02-29T00:00:00+00:00",
            ),
            (
                951_868_800,
                0,
                "01/Mar/2000:00:00:00 +0000",
                "2000-03-01T00:00:00+00:00",
            ),
            (
                4_107_542_400,
                0,
                "01/Mar/2100:00:00:00 +0000",
                "2100-03-01T00:00:00+00:00",
            ),
            (
                4_107_542_399,
                0,
                "28/Feb/2100:23:59:59 +0000",
                "2100-02-28T23:59:59+00:00",
            ),
            (
                1_798_761_599,
                0,
                "31/Dec/2026:23:59:59 +0000",
                "2026-12-31T23:59:59+00:00",
            ),
            (
                1_798_761_599,
                20_700,
                "01/Jan/2027:05:44:59 +0545",
                "2027-01-01T05:44:59+05:45",
            ),
            (
                1_798_761_599,
                -12_600,
                "31/Dec/2026:20:29:59 -0330",
                "2026-12-31T20:29:59-03:30",
            ),
        ] {
            let stamp = Stamp::new(second, offset);
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            assert_eq!(text(stamp.apache()), apache);
            assert_eq!(text(stamp.date()) + &text(stamp.zone()), date);
            assert_eq!(stamp.second(), second);
        }
    }

    /// Against the calendar of another crate, day by day.
    #[test]
    fn every_day_of_two_centuries_is_the_right_one() {
        use std::time::{Duration, UNIX_EPOCH};
        for day in 0_u32..2 * 36_525 {
            let second = u64::from(day) * 86_400 + u64::from(day) * 7919 % 86_400;
            // `Thu, 01 Jan 1970 00:00:00 GMT`
            let theirs = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            let words: Vec<_> = theirs.split(' ').collect();
            let expected = format!("{}/{}/{}:{} +0000", words[1], words[2], words[3], words[4]);
            let stamp = Stamp::new(second.try_into().unwrap(), 0);
            assert_eq!(stamp.apache(), expected.as_bytes());
        }
    }
}
