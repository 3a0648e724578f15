//! `--timezone`: localtime(5).

use crate::item::{Item, Site, lacks, not_found};
use stage::Failure;

const AT: &str = "etc/localtime";
const ZONES: &str = "usr/share/zoneinfo";

/// What a compiled zone begins with (tzfile(5)): beside zones there are lists and tables.
const MAGIC: &[u8] = b"TZif";

#[derive(Clone, Debug)]
pub(crate) struct TimeZone(pub(crate) String);

impl TimeZone {
    /// Parses the name of a time zone, which is a path below the zones.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        let fine = |b: u8| b.is_ascii_alphanumeric() || b"/_+-".contains(&b);
        if name.split('/').any(str::is_empty) || !name.bytes().all(fine) {
            return Err("not of the form AREA/PLACE".into());
        }
        Ok(Self(name.to_owned()))
    }
}

impl Item for TimeZone {
    fn check(&self, site: &Site) -> Result<(), Failure> {
        let path = format!("{ZONES}/{}", self.0);
        let zone = site.tree.read_linked(&path).unwrap_or_default();
        if zone.starts_with(MAGIC) {
            return Ok(());
        }
        let path = site.tree.quote(&path);
        let message = format!("looking for the time zone '{}': no zone at {path}", self.0);
        Err(match site.tree.stat(ZONES) {
            None => lacks(message, "tzdata"),
            Some(_) => {
                not_found(message).hint("a zone has a name as Europe/Berlin: 'timedatectl list-timezones' lists them")
            }
        })
    }

    fn apply(&self, site: &mut Site) -> Result<(), Failure> {
        // An absolute link is as good (localtime(5)).
        if site.tree.link_target(AT) == Some(format!("/{ZONES}/{}", self.0)) {
            return Ok(());
        }
        site.tree.link(AT, &format!("../{ZONES}/{}", self.0))
    }
}
