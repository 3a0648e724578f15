//! The entry of a package in a repository's database, made of its archive: what repo-add(8) writes.

use crate::{Error, Result, archive, pkginfo};
use std::io::Read;

const DOING: &str = "reading package archive: member '.PKGINFO'";

/// The longest `.PKGINFO` that is read.
const LIMIT: u64 = 1 << 20;

/// Which field of a database (alpm-repo-desc(5)) has the values of which key of `.PKGINFO`, in the order of repo-add.
const FIELDS: [(&str, &str); 16] = [
    ("BASE", "pkgbase"),
    ("DESC", "pkgdesc"),
    ("GROUPS", "group"),
    ("ISIZE", "size"),
    ("URL", "url"),
    ("LICENSE", "license"),
    ("ARCH", "arch"),
    ("BUILDDATE", "builddate"),
    ("PACKAGER", "packager"),
    ("REPLACES", "replaces"),
    ("CONFLICTS", "conflict"),
    ("PROVIDES", "provides"),
    ("DEPENDS", "depend"),
    ("OPTDEPENDS", "optdepend"),
    ("MAKEDEPENDS", "makedepend"),
    ("CHECKDEPENDS", "checkdepend"),
];

/// The fields that have one value: libalpm reads one line of them.
const SINGLE: [&str; 7] = ["BASE", "DESC", "ISIZE", "URL", "ARCH", "BUILDDATE", "PACKAGER"];

/// A package archive, as a database describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    text: String,
}

/// What a database says of the file itself.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256, in lower-case hex.
    pub sha256: &'a str,
    /// Its detached signature, in Base64.
    pub signature: Option<&'a str>,
}

impl Described {
    /// Reads it from an archive.
    ///
    /// # Errors
    ///
    /// When the archive is malformed, or its `.PKGINFO` has no valid name or version, or a control character.
    pub fn of_archive(archive: impl Read) -> Result<Self> {
        let mut text = Vec::new();
        archive::extract_member(archive, ".PKGINFO", &mut text, LIMIT)?;
        Self::parse(&text)
    }

    fn parse(info: &[u8]) -> Result<Self> {
        let pkginfo::PkgInfo { name, version, .. } = pkginfo::parse(info)?;
        let info = String::from_utf8_lossy(info);
        if info.lines().any(|line| line.chars().any(char::is_control)) {
            return Err(Error::malformed(DOING, "a control character"));
        }
        let pairs = info.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "));
        let pairs: Vec<_> = pairs.map(|(key, value)| (key.trim(), value.trim())).collect();
        let mut text = String::new();
        for (field, key) in FIELDS {
            let mut values: Vec<&str> =
                pairs.iter().filter(|(is, value)| *is == key && !value.is_empty()).map(|(_, value)| *value).collect();
            if SINGLE.contains(&field) {
                values.drain(..values.len().saturating_sub(1));
            }
            if !values.is_empty() {
                write_field(&mut text, field, &values.join("\n"));
            }
        }
        Ok(Self { name, version, text })
    }

    /// Returns its `desc` in a database.
    #[must_use]
    pub fn desc(&self, file: &File<'_>) -> String {
        let mut text = String::new();
        write_field(&mut text, "FILENAME", file.name);
        write_field(&mut text, "NAME", &self.name);
        write_field(&mut text, "VERSION", &self.version);
        write_field(&mut text, "CSIZE", &file.size.to_string());
        write_field(&mut text, "SHA256SUM", file.sha256);
        if let Some(signature) = file.signature {
            write_field(&mut text, "PGPSIG", signature);
        }
        text + &self.text
    }
}

fn write_field(text: &mut String, field: &str, value: &str) {
    text.extend(["%", field, "%\n", value, "\n\n"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_what_the_archive_says() {
        let info = b"# makepkg\npkgname = a\npkgbase = base\npkgver = 1-1\npkgdesc = one\npkgdesc = A thing\nsize = 7\narch = any\n\
                     depend = b>=2\ndepend = c\nprovides = d=1\nbackup = etc/x\n\n";
        let entry = Described::parse(info).unwrap();
        assert_eq!((&*entry.name, &*entry.version), ("a", "1-1"));
        let file = File { name: "a-1-1-any.pkg.tar", size: 9, sha256: "00", signature: Some("Zg==") };
        assert_eq!(
            entry.desc(&file),
            "%FILENAME%\na-1-1-any.pkg.tar\n\n%NAME%\na\n\n%VERSION%\n1-1\n\n%CSIZE%\n9\n\n%SHA256SUM%\n00\n\n\
             %PGPSIG%\nZg==\n\n%BASE%\nbase\n\n%DESC%\nA thing\n\n%ISIZE%\n7\n\n%ARCH%\nany\n\n%PROVIDES%\nd=1\n\n\
             %DEPENDS%\nb>=2\nc\n\n"
        );
    }

    #[test]
    fn what_would_break_out_of_a_field_is_refused() {
        for info in
            ["pkgname = a\npkgver = 1-1\npkgdesc = x\u{b}y\n", "pkgname = a\n", "pkgname = ../a\npkgver = 1-1\n"]
        {
            assert!(Described::parse(info.as_bytes()).is_err(), "{info}");
        }
    }
}
