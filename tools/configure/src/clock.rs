//! `--timezone`: localtime(5).

use crate::step::{Site, Step};
use stage::{Code, Failure};

const AT: &str = "etc/localtime";
const ZONES: &str = "usr/share/zoneinfo";

/// What a compiled zone begins with (tzfile(5)): beside zones there are lists and tables.
const MAGIC: &[u8] = b"TZif";

#[derive(Debug)]
pub(crate) struct TimeZone(pub(crate) String);

impl Step for TimeZone {
    fn name(&self) -> &'static str {
        "timezone"
    }

    fn check(&self, site: &Site) -> Result<(), Failure> {
        let path = format!("{ZONES}/{}", self.0);
        let zone = site.tree.look(&path).unwrap_or_default();
        if zone.starts_with(MAGIC) {
            return Ok(());
        }
        let failure = Failure::new(
            Code::NotFound,
            format!(
                "looking for the time zone '{}': {} is none",
                self.0,
                site.tree.quote(&path)
            ),
        );
        Err(if site.tree.stat(ZONES).is_some() {
            failure
                .hint("zones are called as Europe/Berlin: 'timedatectl list-timezones' lists them")
        } else {
            failure.hint("strap tzdata first")
        })
    }

    fn apply(&self, site: &Site) -> Result<(), Failure> {
        let relative = format!("../{ZONES}/{}", self.0);
        // Absolute is as good (localtime(5)).
        if site.tree.target(AT).as_deref() == Some(&format!("/{ZONES}/{}", self.0)) {
            return Ok(());
        }
        site.tree.link(AT, &relative)
    }
}

/// Checks that a text can be the name of a time zone, which is a path below the zones.
///
/// # Errors
///
/// Why it is none.
pub(crate) fn check(name: &str) -> Result<(), String> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"/_+-".contains(&b);
    let parts = name.split('/').all(|part| !part.is_empty());
    if !parts || !name.bytes().all(fine) {
        return Err("it is not of the form AREA/PLACE".into());
    }
    Ok(())
}
