//! A repository's database as texts: the tar that [`db`](crate::db) reads.

use crate::db::Limits;
use crate::{Result, tape};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::ControlFlow;
use tar::EntryType;

/// Returns the tar of these files, by their paths such as `NAME-VERSION/desc`. It has no date.
///
/// # Errors
///
/// When a path cannot be that of a tar.
pub fn of(files: impl IntoIterator<Item = (String, String)>) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        tar.append_data(&mut header, path, text.as_bytes())?;
    }
    tar.into_inner()
}

/// Returns the text of each `desc` of a database, by the name of its directory. They are not checked: a package that
/// [`db::read`](crate::db::read) refuses may be among them.
///
/// # Errors
///
/// When it is no tar, or longer than a database may be.
pub fn descs(input: impl Read) -> Result<BTreeMap<String, Vec<u8>>> {
    const DOING: &str = "reading repository database";
    let limits = Limits::default();
    let mut descs = BTreeMap::new();
    tape::walk(DOING, input, limits.total, |head, data| {
        let path = std::str::from_utf8(&head.path).ok().and_then(|path| path.strip_suffix("/desc"));
        if let (Some(directory), EntryType::Regular) = (path, head.kind) {
            let text = tape::read_body(DOING, "bytes in one desc", data, head.size, limits.desc)?;
            descs.insert(directory.to_owned(), text);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(descs)
}

/// [`of`], compressed: `NAME.db.tar.zst` of repo-add(8).
///
/// # Errors
///
/// As [`of`].
pub fn compressed(files: impl IntoIterator<Item = (String, String)>) -> io::Result<Vec<u8>> {
    zstd::encode_all(&of(files)?[..], 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db;

    #[test]
    fn what_is_written_is_read() {
        let long = "a".repeat(150);
        let desc = format!("%FILENAME%\n{long}-1-1-any.pkg.tar\n\n%NAME%\n{long}\n\n%VERSION%\n1-1\n\n");
        let files = || [(format!("{long}-1-1/desc"), desc.clone())];
        let bytes = compressed(files()).unwrap();
        assert_eq!(db::read(&bytes[..], db::Limits::default()).unwrap().entries[0].name, long);
        assert_eq!(bytes, compressed(files()).unwrap());
        let descs = descs(&bytes[..]).unwrap();
        assert_eq!(descs.into_iter().collect::<Vec<_>>(), [(format!("{long}-1-1"), desc.into_bytes())]);
    }
}
