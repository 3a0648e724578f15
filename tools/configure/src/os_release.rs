//! `--os-release`: which image this is, in os-release(5).
//!
//! There is no directory of additions for it. What os-release(5) has for this is a file in etc in the place of the link to the
//! distribution's own, so that is written: all that the distribution says, and ours. It is recorded as a file of a tree is, since a
//! package has the link.

use crate::item::{Item, Site, not_found};
use crate::text::with_variable;
use crate::tree::ROOT;
use rootfs::tree::own_file;
use stage::{Code, Doing, Failure};

const AT: &str = "etc/os-release";

/// Where the distribution's own is.
const VENDOR: &str = "usr/lib/os-release";

const MODE: u32 = 0o644;

/// The variables that are an image's and not the distribution's.
const KEYS: [&str; 4] = ["IMAGE_ID", "IMAGE_VERSION", "VARIANT", "VARIANT_ID"];

const DOING: &str = "setting variables of os-release";

/// Variables, and their values.
pub(crate) struct OsRelease(pub(crate) Vec<(String, String)>);

impl OsRelease {
    fn text(&self, site: &Site) -> Result<String, Failure> {
        let found = site.tree.read_linked(AT).or_else(|| site.tree.read_linked(VENDOR));
        let path = site.tree.quote(VENDOR);
        let bytes = found.ok_or_else(|| not_found(format!("{DOING}: no {path}")))?;
        let text = String::from_utf8(bytes).doing(Code::Failed, || format!("reading {}", site.tree.quote(AT)))?;
        Ok(self.0.iter().fold(text, |text, (key, value)| with_variable(&text, key, &quoted(value))))
    }
}

impl Item for OsRelease {
    fn check(&self, site: &Site) -> Result<(), Failure> {
        self.text(site).map(drop)
    }

    fn apply(&self, site: &mut Site) -> Result<(), Failure> {
        let text = self.text(site)?;
        let is_link = site.tree.link_target(AT).is_some();
        if is_link || site.tree.read(AT)?.as_deref() != Some(text.as_bytes()) {
            site.tree.replace(AT, text.as_bytes(), MODE, ROOT)?;
            site.tree.mark_changed(AT);
        }
        let mode = site.tree.attributes(AT)?.map_or(MODE, |(mode, _)| mode);
        site.laid.retain(|file| file.path != AT);
        site.laid.push(own_file(AT, text.as_bytes(), mode, "--os-release", "configure"));
        site.laid.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(())
    }
}

/// Parses `KEY=VALUE`.
pub(crate) fn parse(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("not of the form KEY=VALUE")?;
    if !KEYS.contains(&key) {
        return Err(
            "only IMAGE_ID, IMAGE_VERSION, VARIANT and VARIANT_ID are an image's; the others are the distribution's"
                .into(),
        );
    }
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    if key != "VARIANT" && !value.chars().all(fine) {
        return Err(format!("{key} has lower-case letters, digits, '.', '_' and '-' (os-release(5))"));
    }
    if value.is_empty() || value.chars().any(char::is_control) {
        return Err("the value is empty, or has a control character".into());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Returns a value as a shell reads it.
fn quoted(value: &str) -> String {
    if value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return value.to_owned();
    }
    let escape = |c: char| if "\"\\$`".contains(c) { format!("\\{c}") } else { c.to_string() };
    format!("\"{}\"", value.chars().map(escape).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_os_release() {
        assert_eq!(parse("IMAGE_VERSION=1.2-3").unwrap(), ("IMAGE_VERSION".into(), "1.2-3".into()));
        for bad in ["IMAGE_ID=A", "IMAGE_ID=a b", "VARIANT=", "VARIANT=a\nb", "PRETTY_NAME=x", "VARIANT"] {
            parse(bad).unwrap_err();
        }
        assert_eq!(quoted("1.2"), "1.2");
        assert_eq!(quoted("My \"$x\""), "\"My \\\"\\$x\\\"\"");
    }
}
