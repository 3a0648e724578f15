//! The clock: a signature or certificate that was made after the current time does not verify.

use crate::finding::Finding;
use stage::date::{DAY, time};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// 2025-01-01: no copy of this program is older.
const PLAUSIBLE: Duration = Duration::from_secs(1_735_689_600);

/// How far the program's file may be ahead: it may come from a machine in another time zone.
const SLACK: Duration = Duration::from_secs(DAY);

/// Returns when this program's file was made, where that can be known.
pub(crate) fn built() -> Option<SystemTime> {
    std::env::current_exe().ok()?.metadata().and_then(|data| data.modified()).ok()
}

pub(crate) fn clock(now: SystemTime, built: Option<SystemTime>, systemd: bool, sudo: &str) -> Finding {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let found = time(since.as_secs());
    let reason = if since < PLAUSIBLE {
        "it is before 2025"
    } else if built.is_some_and(|built| now + SLACK < built) {
        "it is before the day this program was made"
    } else {
        return Finding::ok(found);
    };
    let command = match systemd {
        true => "timedatectl set-ntp true",
        false => "date --utc --set 'YYYY-MM-DD HH:MM', or start an NTP client",
    };
    Finding::fail(format!("{found}: {reason}"))
        .why("keys and signatures made later than now do not verify, nor do certificates of servers")
        .fix(format!("{sudo}{command}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Status;

    #[test]
    fn a_clock_that_is_behind_fails() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let built = Some(at(1_795_000_000));
        assert_eq!(clock(at(1_795_000_000), built, true, "").status, Status::Ok);
        assert_eq!(clock(at(1_794_950_000), built, true, "").status, Status::Ok);
        let finding = clock(at(1_700_000_000), None, true, "sudo ");
        assert_eq!(finding.status, Status::Fail);
        assert_eq!(finding.found, "2023-11-14T22:13:20Z: it is before 2025");
        assert_eq!(finding.fix.unwrap(), "sudo timedatectl set-ntp true");
        let finding = clock(at(1_780_000_000), built, false, "");
        assert_eq!(finding.status, Status::Fail);
        assert!(finding.fix.unwrap().starts_with("date --utc --set"));
    }
}
