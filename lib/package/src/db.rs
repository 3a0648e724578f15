//! Repository databases: `REPO.db`, a compressed tar of `NAME-VERSION/desc`.
//!
//! alpm-repo-desc(5) describes the file; repo-add(8) writes it, libalpm's be_sync.c reads it.
//! Databases are usually not signed, so an entry is only what a mirror says: where a package would be, and which hash and
//! signature to compare it with.
//!
//! Like libalpm this ignores unknown keys and does without optional ones: the unsigned packages of a private repository have
//! no `%PGPSIG%`, old databases no `%SHA256SUM%`.

use crate::error::printable;
use crate::relations::Relations;
use crate::sections::{self, checked};
use crate::{Error, Result, digest, name, tape, version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::HashSet;
use std::fmt;
use std::io::Read;
use std::ops::ControlFlow;
use tar::EntryType;

const DOING: &str = "reading repository database";

/// The keys that are read, each with one value.
const KEYS: [&[u8]; 7] = [b"NAME", b"VERSION", b"FILENAME", b"CSIZE", b"BUILDDATE", b"SHA256SUM", b"PGPSIG"];

/// How much memory a value takes besides its text, roughly.
const OVERHEAD: u64 = 48;

/// One package, as a repository describes it. All values have been checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// `%NAME%`
    pub name: String,
    /// `%VERSION%`, with epoch and release.
    pub version: String,
    /// `%FILENAME%`: one path component, relative to the database.
    pub filename: String,
    /// `%CSIZE%`: the size of the package file.
    pub csize: Option<u64>,
    /// `%BUILDDATE%`, in seconds since 1970.
    pub built: Option<u64>,
    /// `%SHA256SUM%` of the package file, in lower case.
    pub sha256: Option<String>,
    /// `%PGPSIG%`: the detached signature in Base64. It is `FILENAME.sig`, byte for byte.
    pub pgpsig: Option<String>,
    /// What it is to others.
    pub relations: Relations,
}

impl Entry {
    /// Returns the detached signature, if there is one: the bytes of `FILENAME.sig`.
    #[must_use]
    pub fn signature(&self) -> Option<Vec<u8>> {
        decode_signature(self.pgpsig.as_deref()?)
    }
}

/// The limits above which a database is refused.
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
    /// How many bytes of memory for the entries, roughly.
    pub kept: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 200_000, desc: 1 << 20, total: 1 << 30, kept: 512 << 20 }
    }
}

fn check_limit(what: &str, is: u64, limit: u64) -> Result<()> {
    if is > limit { Err(Error::too_large(DOING, what, limit)) } else { Ok(()) }
}

/// The content of a database.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Database {
    /// The packages, in the database's order.
    pub entries: Vec<Entry>,
    /// The entries that were left out as invalid.
    pub odd: Vec<Odd>,
}

/// An entry that was left out: pacman (6.0 to 7.1) goes on without it too, and fails only where it is asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Odd {
    /// Its directory, which is `NAME-VERSION` to pacman.
    pub directory: String,
    /// Why.
    pub reason: String,
}

impl Odd {
    /// Returns whether pacman would know it as the package `name`: by its directory.
    #[must_use]
    pub fn is_of(&self, name: &str) -> bool {
        let mut parts = self.directory.rsplitn(3, '-');
        parts.nth(2) == Some(name)
    }
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (directory, reason) = (printable(&self.directory), printable(&self.reason));
        write!(f, "entry '{directory}': {reason}")
    }
}

/// Returns the directory of a package in a database.
#[must_use]
pub fn directory(name: &str, version: &str) -> String {
    format!("{name}-{version}")
}

/// Reads a database.
///
/// # Errors
///
/// As [`read_some`].
pub fn read(input: impl Read, limits: Limits) -> Result<Database> {
    read_some(input, limits, |_| true)
}

/// Reads the entries of a database whose directory, `NAME-VERSION`, is wanted.
///
/// Members other than `NAME-VERSION/desc` (file lists, the `depends` of before pacman 4.2) are skipped. An entry that lacks
/// what every entry has, or has what none may have, is left out of the packages and named in [`Database::odd`].
///
/// # Errors
///
/// When reading fails, or the database itself is cut off, malformed or over a limit.
pub fn read_some(input: impl Read, limits: Limits, wanted: impl Fn(&[u8]) -> bool) -> Result<Database> {
    let mut database = Database::default();
    let mut count = 0;
    let mut seen = HashSet::new();
    let mut kept = 0;
    tape::walk(DOING, input, limits.total, |head, data| {
        let refuse = |why: &str| Error::malformed(DOING, format!("member '{}': {why}", head.shown()));
        let mut parts = head.path.split(|b| *b == b'/');
        if parts.clone().any(|part| part == b"..") || head.path.starts_with(b"/") {
            return Err(refuse("a path that leads out of the database"));
        }
        let (Some(directory), Some(b"desc"), None) = (parts.next(), parts.next(), parts.next()) else {
            return Ok(ControlFlow::Continue(()));
        };
        if head.kind != EntryType::Regular || head.sparse {
            return Err(refuse("not a regular file"));
        }
        count += 1;
        check_limit("entries", count, limits.entries)?;
        if !wanted(directory) {
            return Ok(ControlFlow::Continue(()));
        }
        let doing = format!("{DOING}: member '{}'", head.shown());
        let text = tape::read_body(&doing, "bytes", data, head.size, limits.desc)?;
        let entry = parse(&text).and_then(|entry| {
            // As libalpm: pacman looks an entry up by this directory.
            if directory != self::directory(&entry.name, &entry.version).as_bytes() {
                return Err("%NAME% and %VERSION% differ from its directory".to_owned());
            }
            match seen.insert(directory.to_vec()) {
                true => Ok(entry),
                false => Err("another entry has this path".to_owned()),
            }
        });
        match entry {
            Ok(entry) => {
                kept += weight(&entry);
                database.entries.push(entry);
            }
            Err(reason) => {
                let directory = String::from_utf8_lossy(directory).into_owned();
                kept += (directory.len() + reason.len()) as u64 + OVERHEAD;
                database.odd.push(Odd { directory, reason });
            }
        }
        check_limit("bytes of entries", kept, limits.kept)?;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(database)
}

/// Returns the newest entry of exactly that name. Of two that are equally new the first counts.
#[must_use]
pub fn newest<'a>(entries: &'a [Entry], name: &str) -> Option<&'a Entry> {
    entries
        .iter()
        .filter(|entry| entry.name == name)
        .reduce(|best, entry| if version::vercmp(&entry.version, &best.version).is_gt() { entry } else { best })
}

/// Returns how much memory an entry takes, roughly.
fn weight(entry: &Entry) -> u64 {
    let maybe = [&entry.sha256, &entry.pgpsig].into_iter().flatten();
    let all = [&entry.name, &entry.version, &entry.filename].into_iter().chain(maybe).chain(entry.relations.all());
    all.map(|text| text.len() as u64 + OVERHEAD).sum()
}

/// Parses the text of a `desc`.
fn parse(text: &[u8]) -> std::result::Result<Entry, String> {
    let mut entry = Entry::default();
    let mut keys = HashSet::new();
    sections::read(text, &KEYS, |key, value| {
        let checked = |good: fn(&str) -> bool| checked(key, value, good);
        if !KEYS.contains(&key) {
            entry.relations.take(key, value);
            return Ok(());
        }
        if !keys.insert(key) {
            return Err(format!("%{}% twice", String::from_utf8_lossy(key)));
        }
        match key {
            b"NAME" => entry.name = checked(name::is_name)?,
            b"VERSION" => entry.version = checked(name::is_version)?,
            b"FILENAME" => entry.filename = checked(name::is_filename)?,
            b"CSIZE" => {
                entry.csize = checked(|t| tape::number::<u64>(t.as_bytes()).is_some()).map(|_| tape::number(value))?
            }
            b"BUILDDATE" => entry.built = tape::number(value),
            b"SHA256SUM" => entry.sha256 = Some(checked(digest::is_sha256)?.to_ascii_lowercase()),
            _ => entry.pgpsig = Some(checked(|text| decode_signature(text).is_some())?),
        }
        Ok(())
    })?;
    sections::required(&[("NAME", &entry.name), ("VERSION", &entry.version), ("FILENAME", &entry.filename)])?;
    Ok(entry)
}

/// Decodes a detached signature of `%PGPSIG%`: Base64 on one line, as `base64 -w0` writes it for repo-add. An empty one is
/// invalid.
#[must_use]
pub fn decode_signature(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok().filter(|bytes| !bytes.is_empty())
}

/// Encodes a detached signature for `%PGPSIG%`.
#[must_use]
pub fn encode_signature(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decompress::Format;
    use crate::tests::{FORMATS, Tape, compress};
    use std::process::Command;

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn desc(name: &str, version: &str, more: &str) -> String {
        format!(
            "%FILENAME%\n{name}-{version}-any.pkg.tar.xz\n\n%NAME%\n{name}\n\n\
             %VERSION%\n{version}\n\n{more}"
        )
    }

    fn one(text: impl AsRef<[u8]>) -> Database {
        let tar = Tape::new().file("x-1-1/desc", text).done();
        read(&tar[..], Limits::default()).unwrap()
    }

    fn database() -> Vec<u8> {
        let bash = format!(
            "%BASE%\nbash\n\n%DESC%\nThe shell\n\n%CSIZE%\n1854\n\n%ISIZE%\n9000\n\n\
             %BUILDDATE%\n1700000000\n\n%MD5SUM%\n0\n\n%SHA256SUM%\n{}\n\n%PGPSIG%\niQEzBAAB+/8=\n\n%ARCH%\naarch64\n\n\
             %DEPENDS%\nreadline>=7\nglibc\n\n%PROVIDES%\nsh\n\n%NEWKEY%\nsome\nthing\n",
            HASH.to_uppercase()
        );
        Tape::new()
            .member(EntryType::Directory, "bash-5.2.15-2/", 0, b"")
            .file("bash-5.2.15-2/desc", desc("bash", "5.2.15-2", &bash))
            .file("bash-5.2.15-2/files", "%FILES%\nusr/\n")
            .file("./x-1-1/desc", desc("x", "1-1", ""))
            .done()
    }

    #[test]
    fn every_format() {
        for format in FORMATS {
            let db = compress(format, &database());
            let entries = read(&db[..], Limits::default()).unwrap().entries;
            let [bash, x] = &entries[..] else { panic!("{entries:?}") };
            let expected = Entry {
                name: "bash".into(),
                version: "5.2.15-2".into(),
                filename: "bash-5.2.15-2-any.pkg.tar.xz".into(),
                csize: Some(1854),
                built: Some(1_700_000_000),
                sha256: Some(HASH.into()),
                pgpsig: Some("iQEzBAAB+/8=".into()),
                relations: Relations { provides: vec!["sh".into()], ..Relations::default() },
            };
            assert_eq!(*bash, expected);
            // What repo-add writes for an unsigned package.
            assert_eq!((x.name.as_str(), &x.pgpsig, &x.sha256), ("x", &None, &None));
        }
    }

    #[test]
    fn signatures() {
        let signature = |text: &str| {
            let pgpsig = Some(text.to_owned());
            let entry = Entry { pgpsig, ..Entry::default() };
            entry.signature()
        };
        // From RFC 4648.
        let table: [(&str, &[u8]); 4] = [("Zg==", b"f"), ("Zm8=", b"fo"), ("Zm9v", b"foo"), ("Zm9vYmFy", b"foobar")];
        for (text, bytes) in table {
            assert_eq!(signature(text).as_deref(), Some(bytes), "{text}");
        }
        assert_eq!(signature("iQEz+/8="), Some(vec![0x89, 1, 0x33, 0xfb, 0xff]));
        for bad in ["", "=", "====", "Z", "Zg", "Zg=", "Z===", "Zg==\n", "Z g=", "Z=g=", "Zm9é"] {
            assert_eq!(signature(bad), None, "{bad}");
        }
        assert_eq!(Entry::default().signature(), None);
    }

    #[test]
    fn an_empty_database() {
        let db = compress(Format::Gzip, &Tape::new().done());
        assert_eq!(read(&db[..], Limits::default()).unwrap(), Database::default());
        let error = read(&b""[..], Limits::default()).unwrap_err();
        assert!(error.to_string().ends_with("it is empty"));
    }

    #[test]
    fn an_invalid_entry_is_left_out_with_its_reason() {
        let x = |more: &str| desc("x", "1-1", more);
        let replace = |a: &str, b: &str| x("").replace(a, b);
        let file = "x-1-1-any.pkg.tar.xz";
        let table = [
            (String::new(), "no %NAME%"),
            (x("").replace('\n', "\r\n"), "no %NAME%"),
            (replace("%NAME%", "%NOME%"), "no %NAME%"),
            (replace("%VERSION%", "%V%"), "no %VERSION%"),
            (replace("%FILENAME%", "%F%"), "no %FILENAME%"),
            (replace(file, ""), "no %FILENAME%"),
            (replace(file, "../../etc/passwd"), ": '../../etc/passwd'"),
            (replace(file, "/etc/passwd"), ": '/etc/passwd'"),
            (replace(file, "a/b"), ": 'a/b'"),
            (replace(file, ".."), ": '..'"),
            (replace(file, ".hidden"), ": '.hidden'"),
            (replace(file, "-o"), ": '-o'"),
            (replace(file, "a\u{1b}[2J"), ": 'a\\u{1b}[2J'"),
            (replace("%NAME%\nx", "%NAME%\n-x"), "invalid %NAME%: '-x'"),
            (replace("%NAME%\nx", "%NAME%\nx y"), "invalid %NAME%: 'x y'"),
            (replace("%VERSION%\n1-1", "%VERSION%\n1/1"), "invalid %VERSION%: '1/1'"),
            (replace("%NAME%\nx", "%NAME%\ny"), "its directory"),
            (replace("%VERSION%\n1-1", "%VERSION%\n2-1"), "differ from its directory"),
            (x("%SHA256SUM%\nabc\n"), "invalid %SHA256SUM%: 'abc'"),
            (x("%PGPSIG%\na b\n"), "invalid %PGPSIG%: 'a b'"),
            (x("%PGPSIG%\niQEzB\n"), "invalid %PGPSIG%: 'iQEzB'"),
            (x("%CSIZE%\n-1\n"), "invalid %CSIZE%: '-1'"),
            (x("%CSIZE%\n99999999999999999999\n"), "%CSIZE%: '9"),
            (x("%NAME%\nx\n"), "%NAME% twice"),
        ];
        for (text, reason) in table {
            let tar = Tape::new()
                .file("a-1-1/desc", desc("a", "1-1", ""))
                .file("x-1-1/desc", &text)
                .file("z-.1\u{e9}-1/desc", desc("z", ".1\u{e9}-1", ""))
                .done();
            let database = read(&tar[..], Limits::default()).unwrap();
            let names: Vec<_> = database.entries.iter().map(|e| &*e.name).collect();
            assert_eq!(names, ["a", "z"], "{text}");
            let [odd] = &database.odd[..] else { panic!("{:?}", database.odd) };
            let shown = odd.to_string();
            assert!(shown.starts_with("entry 'x-1-1': "), "{shown}");
            assert!(shown.contains(reason), "{shown} should say {reason}");
            assert!(odd.is_of("x") && !odd.is_of("x-1") && !odd.is_of("a"));
        }
    }

    #[test]
    fn not_utf8() {
        let mut text = desc("x", "1-1", "%DESC%\n").into_bytes();
        text.extend(b"caf\xe9\n\n%DEPENDS%\na\xff\n");
        assert_eq!(one(text).entries.len(), 1);
        let text = desc("x", "1-1", "").into_bytes();
        for at in 0..text.len() {
            let mut bad = text.clone();
            bad[at] = 0xff;
            for entry in one(bad).entries {
                assert_eq!((&*entry.name, &*entry.version), ("x", "1-1"));
                assert!(entry.filename.is_ascii());
            }
        }
    }

    #[test]
    fn values_that_look_like_keys() {
        let text = desc("x", "1-1", "%DESC%\n%SHA256SUM%\nabc\n\n%CSIZE%\n7\n");
        let entry = &one(text).entries[0];
        assert_eq!((&entry.sha256, entry.csize), (&None, Some(7)));
        let text = desc("x", "1-1", "%DEPENDS%\n%PGPSIG%\nb\n");
        assert_eq!(one(text).entries[0].pgpsig, None);
    }

    #[test]
    fn refused_members() {
        let good = desc("x", "1-1", "");
        let table = [
            (Tape::new().file("../desc", &good), "leads out"),
            (Tape::new().file("x-1-1/../desc", &good), "leads out"),
            (Tape::new().file("/x-1-1/desc", &good), "leads out"),
            (Tape::new().member(EntryType::Symlink, "x-1-1/desc", 0, b""), "not a regular file"),
        ];
        let twice = Tape::new().file("x-1-1/desc", &good).file("./x-1-1/desc", &good);
        let database = read(&twice.done()[..], Limits::default()).unwrap();
        assert_eq!((database.entries.len(), database.odd.len()), (1, 1));
        for (tape, reason) in table {
            let e = read(&tape.done()[..], Limits::default()).unwrap_err();
            assert!(e.to_string().contains(reason), "{e} should say {reason}");
        }
    }

    #[test]
    fn limits() {
        let db = compress(Format::Gzip, &database());
        let all = Limits::default();
        let table = [
            (Limits { entries: 1, ..all }, "more than 1 entries"),
            (Limits { desc: 80, ..all }, "'bash-5.2.15-2/desc': more than 80 bytes"),
            (Limits { total: 2048, ..all }, "more than 2048 bytes decompressed"),
            (Limits { kept: 400, ..all }, "more than 400 bytes of entries"),
        ];
        for (limits, reason) in table {
            let e = read(&db[..], limits).unwrap_err().to_string();
            assert!(e.ends_with(reason), "{e} should say {reason}");
        }
    }

    #[test]
    fn bombs() {
        // Small when compressed, and large when decompressed: a file, what follows the end.
        let limits = Limits { total: 1 << 20, kept: 1 << 20, ..Limits::default() };
        let zeros = vec![0; 2 << 20];
        let file = Tape::new().file("x-1-1/files", &zeros).done();
        let mut after = Tape::new().done();
        after.extend(&zeros);
        for tar in [file, after] {
            let db = compress(Format::Gzip, &tar);
            assert!(db.len() < 100_000);
            let e = read(&db[..], limits).unwrap_err();
            assert!(e.to_string().contains("more than"), "{e}");
        }
    }

    #[test]
    fn cut_off_anywhere() {
        for format in FORMATS {
            let db = compress(format, &database());
            let whole = read(&db[..], Limits::default()).unwrap();
            for end in 0..db.len() {
                if let Ok(entries) = read(&db[..end], Limits::default()) {
                    assert_eq!(entries, whole, "{format:?} cut off at {end}");
                    // Half of the end marker can go.
                    assert!(format == Format::Tar && end >= db.len() - 512);
                }
            }
        }
    }

    #[test]
    fn altered_anywhere() {
        for format in FORMATS {
            let db = compress(format, &database());
            let whole = read(&db[..], Limits::default()).unwrap();
            for at in 0..db.len() {
                let mut altered = db.clone();
                altered[at] ^= 1 << (at % 8);
                let result = read(&altered[..], Limits::default());
                // Only these two have a checksum of what is in them.
                if let (Ok(entries), Format::Gzip | Format::Xz) = (result, format) {
                    assert_eq!(entries, whole, "{format:?} altered at {at}");
                }
            }
        }
    }

    #[test]
    fn the_newest() {
        let entry =
            |name: &str, version: &str| Entry { name: name.into(), version: version.into(), ..Entry::default() };
        let entries = [
            entry("pacman-static", "7.0.0-9"),
            entry("pacman-static", "7.0.0-10"),
            entry("pacman-static", "7.0.0.r6-1"),
            entry("pacman-static-git", "9-1"),
            entry("pacman", "8-1"),
        ];
        let newest = |name| newest(&entries, name).map(|e| e.version.as_str());
        assert_eq!(newest("pacman-static"), Some("7.0.0.r6-1"));
        assert_eq!(newest("pacman"), Some("8-1"));
        assert_eq!(newest("pac"), None);
    }

    /// Runs a program of pacman's, which must be there.
    fn run(program: &str, directory: &std::path::Path, args: &[&str]) {
        let out =
            Command::new(program).args(args).current_dir(directory).env("LC_ALL", "C").output().unwrap_or_else(|e| {
                panic!(
                    "this test reads what pacman's {program} writes, which cannot be run: {e}: \
                     install pacman (on Debian pacman-package-manager and makepkg) and bsdtar \
                     (libarchive-tools)"
                )
            });
        assert!(out.status.success(), "{program}: {out:?}");
    }

    #[test]
    fn what_repo_add_writes() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path();
        let info = "pkgname = hello\npkgbase = hello-base\npkgver = 1:2.0-3\npkgdesc = h\n\
                    arch = any\nbuilddate = 1700000000\nsize = 12\ndepend = glibc>=2\nprovides = hi\ngroup = g\n";
        std::fs::write(directory.join(".PKGINFO"), info).unwrap();
        std::fs::write(directory.join("file"), "data").unwrap();
        let package = "hello-1:2.0-3-any.pkg.tar.xz";
        run("bsdtar", directory, &["-cJf", &format!("./{package}"), ".PKGINFO", "file"]);
        let bytes = std::fs::read(directory.join(package)).unwrap();
        for suffix in ["gz", "xz", "zst"] {
            let db = format!("./r.db.tar.{suffix}");
            run("repo-add", directory, &["-q", &db, &format!("./{package}")]);
            let file = std::fs::File::open(directory.join("r.db")).unwrap();
            std::fs::remove_file(directory.join("r.db")).unwrap();
            let entries = read(file, Limits::default()).unwrap().entries;
            let expected = Entry {
                name: "hello".into(),
                version: "1:2.0-3".into(),
                filename: package.into(),
                csize: Some(bytes.len() as u64),
                built: Some(1_700_000_000),
                sha256: Some(digest::sha256_hex(&bytes)),
                relations: Relations { provides: vec!["hi".into()], ..Relations::default() },
                ..Entry::default()
            };
            assert_eq!(entries, [expected]);
        }
        // And the package itself, as bsdtar writes one.
        let found = crate::archive::extract_members(&bytes[..], &["file"], 100).unwrap();
        assert_eq!(found["file"], b"data");
    }
}
