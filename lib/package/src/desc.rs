//! The entry of a package in a repository's databases, made of its archive: what repo-add(8) of pacman 7 writes with
//! `--include-sigs`, to the byte.

use crate::{Error, Result, archive, pkginfo};
use std::io::Read;

const DOING: &str = "reading package archive: member '.PKGINFO'";

/// The longest `.PKGINFO` that is read.
const LIMIT: u64 = 1 << 20;

/// The fields of a `desc` (alpm-repo-desc(5)) in the order of repo-add, each with the key of `.PKGINFO` that has its values.
/// Those without a key are about the file.
const FIELDS: [(&str, &str); 22] = [
    ("FILENAME", ""),
    ("NAME", "pkgname"),
    ("BASE", "pkgbase"),
    ("VERSION", "pkgver"),
    ("DESC", "pkgdesc"),
    ("GROUPS", "group"),
    ("CSIZE", ""),
    ("ISIZE", "size"),
    ("SHA256SUM", ""),
    ("PGPSIG", ""),
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
const SINGLE: [&str; 9] = ["NAME", "BASE", "VERSION", "DESC", "ISIZE", "URL", "ARCH", "BUILDDATE", "PACKAGER"];

/// A package archive, as a database describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Fields and their values, a line each.
    fields: Vec<(&'static str, String)>,
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

    /// Reads it from an archive, and with it the package's `files` in a database: the names of all that it installs.
    ///
    /// # Errors
    ///
    /// As [`Described::of_archive`].
    pub fn with_files(archive: impl Read) -> Result<(Self, String)> {
        let (text, members) = archive::list(archive, ".PKGINFO", LIMIT)?;
        let mut names: Vec<String> = members.iter().filter(|name| !name.starts_with(b".")).map(|n| shown(n)).collect();
        names.sort_unstable();
        names.dedup();
        let files = names.iter().fold("%FILES%\n".to_owned(), |text, name| text + name + "\n");
        Ok((Self::parse(&text)?, files))
    }

    fn parse(info: &[u8]) -> Result<Self> {
        let pkginfo::PkgInfo { name, version, .. } = pkginfo::parse(info)?;
        let info = String::from_utf8_lossy(info);
        if info.lines().any(|line| line.chars().any(|c| c.is_control() && c != '\t')) {
            return Err(Error::malformed(DOING, "a control character"));
        }
        let pairs = info.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "));
        let pairs: Vec<_> = pairs.map(|(key, value)| (key.trim(), one_spaced(value))).collect();
        let mut fields = Vec::new();
        for (field, key) in FIELDS {
            let of_key = pairs.iter().filter(|(is, value)| *is == key && !value.is_empty());
            let mut values: Vec<&str> = of_key.map(|(_, value)| value.as_str()).collect();
            if SINGLE.contains(&field) {
                values.drain(..values.len().saturating_sub(1));
            }
            if !values.is_empty() {
                fields.push((field, values.join("\n")));
            }
        }
        Ok(Self { name, version, fields })
    }

    /// Returns its `desc` in a database.
    #[must_use]
    pub fn desc(&self, file: &File<'_>) -> String {
        let mut text = String::new();
        for (field, _) in FIELDS {
            let value = match field {
                "FILENAME" => Some(file.name.to_owned()),
                "CSIZE" => Some(file.size.to_string()),
                "SHA256SUM" => Some(file.sha256.to_owned()),
                "PGPSIG" => file.signature.map(str::to_owned),
                _ => self.fields.iter().find(|(is, _)| *is == field).map(|(_, value)| value.clone()),
            };
            if let Some(value) = value {
                text.extend(["%", field, "%\n", &value, "\n\n"]);
            }
        }
        text
    }
}

/// Returns a value of `.PKGINFO` with one space where there is white space, as repo-add has it.
fn one_spaced(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the name of a member as bsdtar(1) lists it: a backslash and what cannot be printed are escaped, so that it is one
/// line.
fn shown(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text += "\\\\",
                '\n' => text += "\\n",
                '\t' => text += "\\t",
                '\r' => text += "\\r",
                c if c.is_control() => text.extend(c.to_string().bytes().map(|byte| format!("\\{byte:03o}"))),
                c => text.push(c),
            }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\{byte:03o}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_what_the_archive_says() {
        let info = b"# makepkg\npkgname = a\npkgbase = base\npkgver = 1-1\npkgdesc = one\npkgdesc = A \t thing \nsize = 7\narch = any\n\
                     depend = b>=2\ndepend = c\nprovides = d=1\nbackup = etc/x\n\n";
        let entry = Described::parse(info).unwrap();
        assert_eq!((&*entry.name, &*entry.version), ("a", "1-1"));
        let file = File { name: "a-1-1-any.pkg.tar", size: 9, sha256: "00", signature: Some("Zg==") };
        assert_eq!(
            entry.desc(&file),
            "%FILENAME%\na-1-1-any.pkg.tar\n\n%NAME%\na\n\n%BASE%\nbase\n\n%VERSION%\n1-1\n\n%DESC%\nA thing\n\n\
             %CSIZE%\n9\n\n%ISIZE%\n7\n\n%SHA256SUM%\n00\n\n%PGPSIG%\nZg==\n\n%ARCH%\nany\n\n%PROVIDES%\nd=1\n\n\
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

    #[test]
    fn files_are_listed_as_bsdtar_does() {
        let names: [(&[u8], &str); 5] = [
            (b"usr/bin/", "usr/bin/"),
            ("caf\u{e9}".as_bytes(), "caf\u{e9}"),
            (b"a\\x2db", "a\\\\x2db"),
            (b"a\nb\x1b", "a\\nb\\033"),
            (b"\xff", "\\377"),
        ];
        for (name, line) in names {
            assert_eq!(shown(name), line);
        }
    }
}
