//! Dates and times as text.

/// The seconds of a day.
pub const DAY: u64 = 86_400;

/// Returns the day of a time in seconds since 1970, in UTC: `2026-11-22`.
#[must_use]
pub fn day(seconds: u64) -> String {
    // Years that begin in March have the leap day at their end. Howard Hinnant, chrono-Compatible Low-Level Date
    // Algorithms, civil_from_days.
    let days = seconds / DAY + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", era * 400 + year + next)
}

/// Returns a time in seconds since 1970 as RFC 3339 has it: `2026-11-22T10:08:18Z`.
#[must_use]
pub fn time(seconds: u64) -> String {
    let of_day = seconds % DAY;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{}T{hour:02}:{minute:02}:{second:02}Z", day(seconds))
}

#[cfg(test)]
mod tests {
    use super::{day, time};

    #[test]
    fn times() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (1_750_000_000, "2025-06-15T15:06:40Z"),
        ] {
            assert_eq!(time(seconds), text);
        }
    }

    #[test]
    fn days() {
        for (seconds, text) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_580_558_400, "2020-02-01"),
            (1_735_689_599, "2024-12-31"),
            (1_795_305_600, "2026-11-22"),
            (1_795_388_194, "2026-11-22"),
            (4_102_444_799, "2099-12-31"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(day(seconds), text);
        }
    }
}
