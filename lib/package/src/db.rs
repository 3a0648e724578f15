//! Repository databases: `REPO.db`, a compressed tar of `NAME-VERSION/desc`.
//!
//! alpm-repo-desc(5) describes the file; repo-add(8) writes it, libalpm's be_sync.c reads it.
//! Databases are usually not signed, so all that can be said of an entry is what a mirror says:
//! where a package would be, and which hash and signature to hold it against.
//!
//! Like libalpm this ignores keys it does not know and does without those it can do without: the
//! unsigned packages of a private repository have no `%PGPSIG%`, old databases no `%SHA256SUM%`.

use crate::sections::{self, Arity};
use crate::{Error, Result, digest, name, tape, version};
use std::collections::HashSet;
use std::io::Read;
use std::ops::ControlFlow;
use tar::EntryType;

const DOING: &str = "reading repository database";

/// How much of memory a value takes besides its text, roughly.
const OVERHEAD: u64 = 48;

/// One package, as a repository describes it.
///
/// Names, versions, architectures and file names have been checked against their alphabets
/// ([`crate::name`]); the other texts are as they came, with what is not UTF-8 replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// `%NAME%`
    pub name: String,
    /// `%VERSION%`, with epoch and release.
    pub version: String,
    /// `%FILENAME%`: one path component, relative to the database.
    pub filename: String,
    /// `%BASE%`
    pub base: Option<String>,
    /// `%ARCH%`
    pub arch: Option<String>,
    /// `%CSIZE%`: the size of the package file.
    pub csize: Option<u64>,
    /// `%ISIZE%`: the size of what is installed.
    pub isize: Option<u64>,
    /// `%SHA256SUM%` of the package file, in lower case.
    pub sha256: Option<String>,
    /// `%PGPSIG%`: the detached signature in Base64. It is `FILENAME.sig`, byte for byte.
    pub pgpsig: Option<String>,
    /// `%DEPENDS%`
    pub depends: Vec<String>,
    /// `%PROVIDES%`
    pub provides: Vec<String>,
    /// `%GROUPS%`
    pub groups: Vec<String>,
}

/// How much a database may have before it is refused.
///
/// The largest in use (Arch's extra) has about 15,000 entries and 32 MB; with file lists
/// (`extra.files`) it comes near the gibibyte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many entries.
    pub entries: u64,
    /// How many bytes in one `desc`.
    pub desc: u64,
    /// How many bytes when decompressed.
    pub total: u64,
    /// How many bytes of memory for the entries, roughly. A list of empty words takes many times
    /// the memory that its text has.
    pub kept: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 200_000,
            desc: 1 << 20,
            total: 1 << 30,
            kept: 512 << 20,
        }
    }
}

impl Limits {
    fn check(what: &'static str, is: u64, limit: u64) -> Result<()> {
        if is <= limit {
            return Ok(());
        }
        Err(Error::TooLarge {
            doing: DOING.into(),
            what,
            limit,
        })
    }
}

/// Reads a database, in its order.
///
/// Members other than `NAME-VERSION/desc` (file lists, the `depends` of before pacman 4.2) are skipped.
///
/// # Errors
///
/// When reading fails, the database is cut off, malformed or over a limit, or an entry lacks what
/// every entry has or has what none may have. The error names the entry.
pub fn read(input: impl Read, limits: Limits) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut seen = HashSet::new();
    let mut kept = 0;
    tape::walk(DOING, input, limits.total, |head, data| {
        let refuse = |why: &str| {
            let reason = format!("member '{}': {why}", head.shown());
            Error::malformed(DOING, reason)
        };
        let mut parts = head.path.split(|b| *b == b'/');
        if parts.clone().any(|part| part == b"..") || head.path.starts_with(b"/") {
            return Err(refuse("a path that leads out of the database"));
        }
        let (Some(directory), Some(b"desc"), None) = (parts.next(), parts.next(), parts.next())
        else {
            return Ok(ControlFlow::Continue(()));
        };
        if head.kind != EntryType::Regular || head.sparse {
            return Err(refuse("not a regular file"));
        }
        Limits::check("entries", entries.len() as u64 + 1, limits.entries)?;
        let doing = format!("{DOING}: member '{}'", head.shown());
        let text = tape::body(&doing, "bytes", data, head.size, limits.desc)?;
        let entry = parse(&text).map_err(|why| refuse(&why))?;
        // As libalpm: pacman looks an entry up by this directory.
        if directory != format!("{}-{}", entry.name, entry.version).as_bytes() {
            return Err(refuse("%NAME% and %VERSION% are not its directory's"));
        }
        if !seen.insert(directory.to_vec()) {
            return Err(refuse("a second one of this path"));
        }
        kept += weight(&entry);
        Limits::check("bytes of entries", kept, limits.kept)?;
        entries.push(entry);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(entries)
}

/// Returns the newest entry of exactly that name. Of two that are equally new the first counts.
#[must_use]
pub fn newest<'a>(entries: &'a [Entry], name: &str) -> Option<&'a Entry> {
    entries
        .iter()
        .filter(|entry| entry.name == name)
        .reduce(|best, entry| {
            if version::vercmp(&entry.version, &best.version).is_gt() {
                entry
            } else {
                best
            }
        })
}

/// Returns how much memory an entry takes, roughly.
fn weight(entry: &Entry) -> u64 {
    let one = [&entry.name, &entry.version, &entry.filename];
    let maybe = [&entry.base, &entry.arch, &entry.sha256, &entry.pgpsig];
    let lists = [&entry.depends, &entry.provides, &entry.groups];
    one.into_iter()
        .chain(maybe.into_iter().flatten())
        .chain(lists.into_iter().flatten())
        .map(|text| text.len() as u64 + OVERHEAD)
        .sum()
}

/// Parses the text of a `desc`.
fn parse(text: &[u8]) -> std::result::Result<Entry, String> {
    let mut entry = Entry::default();
    let mut keys = HashSet::new();
    sections::read(text, arity, |key, value| {
        let lossy = || String::from_utf8_lossy(value).into_owned();
        let text = std::str::from_utf8(value).unwrap_or_default();
        let checked = |good: bool| {
            let bad = || {
                let key = String::from_utf8_lossy(key);
                format!("%{key}%: '{}' is refused", lossy())
            };
            if good {
                Ok(text.to_owned())
            } else {
                Err(bad())
            }
        };
        let number = || {
            let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let number = text.parse().ok().filter(|_| good);
            checked(number.is_some()).map(|_| number)
        };
        if arity(key) == Some(Arity::One) && !keys.insert(key) {
            return Err(format!("%{}% twice", String::from_utf8_lossy(key)));
        }
        match key {
            b"NAME" => entry.name = checked(name::is_name(text))?,
            b"VERSION" => entry.version = checked(name::is_version(text))?,
            b"FILENAME" => entry.filename = checked(name::is_filename(text))?,
            b"BASE" => entry.base = Some(checked(name::is_name(text))?),
            b"ARCH" => entry.arch = Some(checked(name::is_arch(text))?),
            b"CSIZE" => entry.csize = number()?,
            b"ISIZE" => entry.isize = number()?,
            b"SHA256SUM" => {
                let hash = checked(digest::is_sha256(text))?;
                entry.sha256 = Some(hash.to_ascii_lowercase());
            }
            b"PGPSIG" => entry.pgpsig = Some(checked(is_base64(text))?),
            b"DEPENDS" => entry.depends.push(lossy()),
            b"PROVIDES" => entry.provides.push(lossy()),
            b"GROUPS" => entry.groups.push(lossy()),
            _ => {}
        }
        Ok(())
    })?;
    for (key, value) in [
        ("NAME", &entry.name),
        ("VERSION", &entry.version),
        ("FILENAME", &entry.filename),
    ] {
        if value.is_empty() {
            return Err(format!("no %{key}%"));
        }
    }
    Ok(entry)
}

fn arity(key: &[u8]) -> Option<Arity> {
    match key {
        b"NAME" | b"VERSION" | b"FILENAME" | b"BASE" | b"ARCH" | b"CSIZE" | b"ISIZE"
        | b"SHA256SUM" | b"PGPSIG" => Some(Arity::One),
        b"DEPENDS" | b"PROVIDES" | b"GROUPS" => Some(Arity::List),
        _ => None,
    }
}

fn is_base64(text: &str) -> bool {
    let letters = text.trim_end_matches('=');
    !letters.is_empty()
        && text.len() - letters.len() <= 2
        && letters
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+/".contains(&b))
}
