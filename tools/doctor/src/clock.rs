//! The clock: signatures have times, and to a clock that is behind, every one of them was made in the future.

use crate::finding::Finding;
use stage::date::{DAY, day};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// 2025-01-01: no copy of this program is older.
const PLAUSIBLE: Duration = Duration::from_secs(1_735_689_600);

/// How far the program's file may be ahead: it may come from a machine in another time zone.
const SLACK: Duration = Duration::from_secs(86_400);

/// Returns when this program's file was made, where that can be known.
pub(crate) fn built() -> Option<SystemTime> {
    std::env::current_exe()
        .and_then(|path| path.metadata())
        .and_then(|data| data.modified())
        .ok()
}

/// Judges the time that it is.
pub(crate) fn clock(
    now: SystemTime,
    built: Option<SystemTime>,
    systemd: bool,
    sudo: &str,
) -> Finding {
    const NAME: &str = "clock";
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let found = date(since);
    let reason = if since < PLAUSIBLE {
        "it is before 2025"
    } else if built.is_some_and(|built| now + SLACK < built) {
        "it is before the day this program was made"
    } else {
        return Finding::ok(NAME, found);
    };
    let fix = if systemd {
        format!("{sudo}timedatectl set-ntp true")
    } else {
        format!("{sudo}date --utc --set 'YYYY-MM-DD HH:MM', or start an NTP client")
    };
    Finding::fail(NAME, format!("{found}: {reason}"))
        .why(
            "keys and signatures made later than now do not verify, nor do certificates of servers",
        )
        .fix(fix)
}

/// Returns a time as `2026-11-22 21:59 UTC`.
fn date(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let rest = seconds % DAY;
    format!(
        "{} {:02}:{:02} UTC",
        day(seconds),
        rest / 3600,
        rest / 60 % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Status;

    #[test]
    fn dates_are_the_calendars() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59 UTC"),
            (4_102_444_800, "2100-01-01 00:00 UTC"),
        ] {
            assert_eq!(date(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_clock_that_is_behind_fails() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let built = Some(at(1_795_000_000));
        assert_eq!(clock(at(1_795_000_000), built, true, "").status, Status::Ok);
        assert_eq!(clock(at(1_794_950_000), built, true, "").status, Status::Ok);
        let finding = clock(at(1_700_000_000), None, true, "sudo ");
        assert_eq!(finding.status, Status::Fail);
        assert_eq!(finding.found, "2023-11-14 22:13 UTC: it is before 2025");
        assert_eq!(finding.fix.unwrap(), "sudo timedatectl set-ntp true");
        let finding = clock(at(1_780_000_000), built, false, "");
        assert_eq!(finding.status, Status::Fail);
        assert!(finding.fix.unwrap().starts_with("date --utc --set"));
    }
}
