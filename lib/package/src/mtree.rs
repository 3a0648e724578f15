//! `.MTREE`, makepkg's list of the files of a package: the format is mtree(5), as bsdtar writes it.
//!
//! libalpm keeps it unchanged beside the record of an installed package. A line is a path and `key=value` words; `/set` has
//! defaults for the lines after it. Special bytes are `\ooo`. No kept crate reads it with a limit on memory.

/// The longest text that is read, and the most entries. Arch's longest has some 100,000 lines and 20 MB.
const TEXT: u64 = 256 << 20;
const ENTRIES: usize = 2_000_000;

/// How much memory the entries may take besides their fixed part, in bytes. A `/set` of one long word is repeated in each
/// entry after it.
const KEPT: usize = 256 << 20;

/// The type of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    #[default]
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, a fifo or a socket: only its kind is compared.
    Other,
}

/// One file of a package. What the text leaves out is not compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its path below the root.
    pub path: Vec<u8>,
    /// Its type.
    pub kind: Kind,
    /// Its permissions.
    pub mode: Option<u32>,
    /// Its owner.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
    /// Its size in bytes.
    pub size: Option<u64>,
    /// SHA-256 of its content, in lower-case hex.
    pub sha256: Option<String>,
    /// Where a symbolic link leads.
    pub link: Option<Vec<u8>>,
}

/// Reads a compressed `.MTREE`.
///
/// # Errors
///
/// The reason, where it is invalid or cut off.
pub fn read(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    let reader = crate::decompress::reader(bytes).map_err(|e| e.to_string())?;
    let text = stage::file::read_to_limit(reader, TEXT).map_err(|e| match e.kind() {
        std::io::ErrorKind::FileTooLarge => format!("it {e}"),
        _ => e.to_string(),
    })?;
    parse(&text)
}

/// Parses the text of an `.MTREE`.
///
/// # Errors
///
/// The number of the invalid line, and the reason.
pub fn parse(text: &[u8]) -> Result<Vec<Entry>, String> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut kept = 0;
    let mut defaults = Entry { kind: Kind::Other, ..Entry::default() };
    if !text.starts_with(b"#mtree") {
        return Err("it does not begin with '#mtree'".into());
    }
    for (number, line) in text.split(|b| *b == b'\n').enumerate() {
        let bad = |why: String| format!("line {}: {why}", number + 1);
        let mut words = line.split(|b| matches!(b, b' ' | b'\t' | b'\r')).filter(|w| !w.is_empty());
        let Some(first) = words.next().filter(|w| !w.starts_with(b"#")) else {
            continue;
        };
        if matches!(first, b"/set" | b"/unset") {
            words.try_for_each(|word| defaults.set(word)).map_err(bad)?;
            continue;
        }
        let mut entry = Entry { path: parse_path(first).map_err(bad)?, ..defaults.clone() };
        words.try_for_each(|word| entry.set(word)).map_err(bad)?;
        kept += entry.path.len() + entry.link.as_ref().map_or(0, Vec::len);
        kept += entry.sha256.as_ref().map_or(0, String::len);
        if entries.len() >= ENTRIES || kept > KEPT {
            return Err(bad("too many entries".into()));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn parse_path(path: &[u8]) -> Result<Vec<u8>, String> {
    let path = unescape(path);
    let below = path.strip_prefix(b"./").ok_or("a path that does not begin with './'")?;
    let plain = |part: &[u8]| !part.is_empty() && part != b"." && part != b"..";
    if !below.split(|b| *b == b'/').all(plain) || below.contains(&0) {
        return Err("a path that leads out of the package".into());
    }
    Ok(below.to_vec())
}

impl Entry {
    /// Sets what a word `KEY=VALUE` has, and removes it for a word without a value. Unknown keys are skipped.
    fn set(&mut self, word: &[u8]) -> Result<(), String> {
        let (key, value) = match word.iter().position(|b| *b == b'=') {
            Some(at) => (&word[..at], Some(&word[at + 1..])),
            None => (word, None),
        };
        let text = || value.map(String::from_utf8_lossy);
        match key {
            b"type" => {
                self.kind = match value {
                    Some(b"file") => Kind::File,
                    Some(b"dir") => Kind::Directory,
                    Some(b"link") => Kind::Link,
                    _ => Kind::Other,
                }
            }
            b"mode" => self.mode = number(key, value, 8)?,
            b"uid" => self.uid = number(key, value, 10)?,
            b"gid" => self.gid = number(key, value, 10)?,
            b"size" => self.size = number(key, value, 10)?,
            b"sha256digest" | b"sha256" => self.sha256 = text().map(|t| t.to_ascii_lowercase()),
            b"link" => self.link = value.map(unescape),
            _ => {}
        }
        Ok(())
    }
}

/// Parses a value that may be missing.
fn number<T: TryFrom<u64>>(key: &[u8], value: Option<&[u8]>, radix: u32) -> Result<Option<T>, String> {
    let Some(value) = value else { return Ok(None) };
    let [key, text] = [key, value].map(String::from_utf8_lossy);
    let number = u64::from_str_radix(&text, radix);
    let number = number.map_err(|_| format!("{key}: '{text}' is not a number"))?;
    let number = T::try_from(number).map_err(|_| format!("{key}: it is too large"))?;
    Ok(Some(number))
}

/// Returns a word without its escapes.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, after @ ..] = rest {
        let (byte, after) = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), after)
            }
            _ => (*first, after),
        };
        out.push(byte);
        rest = after;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const TEXT: &[u8] = b"#mtree\n\
        /set type=file uid=0 gid=0 mode=644\n\
        ./.PKGINFO time=1700000000.0 size=540 md5digest=e9 sha256digest=4A48\n\
        ./etc time=1700000000.0 mode=755 type=dir\n\
        ./a\\040b\\134 uid=7 size=0 sha256digest=00\n\
        ./usr/lib/x time=1.0 mode=777 type=link link=../\\303\\251\n\
        /unset uid\n\
        \n\
        ./dev/null type=char mode=666\n";

    #[test]
    fn entries_and_what_is_set_for_them() {
        let entries = parse(TEXT).unwrap();
        let base = Entry { mode: Some(0o644), uid: Some(0), gid: Some(0), ..Entry::default() };
        let expected = [
            Entry { path: b".PKGINFO".to_vec(), size: Some(540), sha256: Some("4a48".into()), ..base.clone() },
            Entry { path: b"etc".to_vec(), kind: Kind::Directory, mode: Some(0o755), ..base.clone() },
            Entry { path: b"a b\\".to_vec(), uid: Some(7), size: Some(0), sha256: Some("00".into()), ..base.clone() },
            Entry {
                path: b"usr/lib/x".to_vec(),
                kind: Kind::Link,
                mode: Some(0o777),
                link: Some("../é".as_bytes().to_vec()),
                ..base.clone()
            },
            Entry { path: b"dev/null".to_vec(), kind: Kind::Other, mode: Some(0o666), uid: None, ..base },
        ];
        assert_eq!(entries, expected);
    }

    #[test]
    fn what_is_no_mtree_is_refused() {
        for (text, reason) in [
            (&b""[..], "it does not begin with '#mtree'"),
            (b"#mtree\nx", "line 2: a path that does not begin with './'"),
            (b"#mtree\n./a/../../b", "line 2: a path that leads out"),
            (b"#mtree\n.//a", "line 2: a path that leads out"),
            (b"#mtree\n./a\\000b", "line 2: a path that leads out"),
            (b"#mtree\n./a mode=9", "line 2: mode: '9' is not a number"),
            (b"#mtree\n./a uid=4294967296", "line 2: uid: it is too large"),
            (b"#mtree\n./a size=-1", "line 2: size: '-1' is not a number"),
        ] {
            let why = parse(text).unwrap_err();
            assert!(why.starts_with(reason), "{why}");
        }
        assert!(read(b"").is_err());
        assert!(read(b"#mtree\n").is_err());
    }

    #[test]
    fn what_is_set_for_all_costs_once() {
        // Each line would take as long as all that was set, and each entry as much memory as the longest word of it.
        let mut text = b"#mtree\n/set".to_vec();
        for n in 0..200_000 {
            text.extend(format!(" k{n}=v").into_bytes());
        }
        text.extend(b"\n./a".repeat(200_000));
        let begin = std::time::Instant::now();
        assert_eq!(parse(&text).unwrap().len(), 200_000);
        assert!(begin.elapsed().as_secs() < 60, "{:?}", begin.elapsed());
        let mut text = b"#mtree\n/set link=".to_vec();
        text.extend(vec![b'x'; 1 << 20]);
        text.extend(b"\n./a".repeat(1000));
        assert_eq!(parse(&text).unwrap_err(), "line 258: too many entries");
    }

    #[test]
    fn cut_off_and_altered_never_panics() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(TEXT).unwrap();
        let bytes = gzip.finish().unwrap();
        assert_eq!(read(&bytes).unwrap(), parse(TEXT).unwrap());
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).is_err(), "cut off at {end}");
        }
        for end in 0..TEXT.len() {
            drop(parse(&TEXT[..end]));
        }
        assert_eq!(unescape(b"\\777\\04\\"), b"\\777\\04\\");
    }
}
