//! `SOURCE_DATE_EPOCH`: the date of an image that is to come out the same each time.

use stage::{Code, Failure};
use std::ffi::OsStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// The variable's name.
pub const VARIABLE: &str = "SOURCE_DATE_EPOCH";

/// The last date that every format of an image holds, in seconds since 1970: FAT's directory entries end with 2107. ext4's
/// inodes of 256 bytes (2446) and tar (2242) go further.
pub const LAST: u64 = 4_354_819_199;

/// Returns the date of the environment, in seconds since 1970; `None` where it is not set.
///
/// # Errors
///
/// [`Code::Usage`] where it is not a number, or later than [`LAST`].
pub fn of_environment() -> Result<Option<u64>, Failure> {
    std::env::var_os(VARIABLE).map(|text| parse(&text)).transpose()
}

/// Returns the time of this host, in seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn parse(text: &OsStr) -> Result<u64, Failure> {
    let number = text.to_str().filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
    number.and_then(|t| t.parse().ok()).filter(|n| *n <= LAST).ok_or_else(|| {
        let text = text.to_string_lossy();
        Failure::new(Code::Usage, format!("reading {VARIABLE}: '{text}' is not a number of seconds since 1970"))
            .hint(format!("{VARIABLE}=$(git log -1 --format=%ct), or unset it"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_of_seconds_are_dates() {
        assert_eq!(parse(OsStr::new("1700000000")).unwrap(), 1_700_000_000);
        assert_eq!(parse(OsStr::new("0")).unwrap(), 0);
        for bad in ["", "-1", "+1", "yesterday", "1e9", "4354819200", "99999999999999999999"] {
            assert_eq!(parse(OsStr::new(bad)).unwrap_err().code, Code::Usage, "{bad}");
        }
    }
}
