//! Files in the package cache that an earlier run left and that pacman cannot continue.
//!
//! An archive that is shorter than the database says and is truncated was written to a full disk: pacman 6.0.2 renames it to its
//! final name all the same, and refuses it later for its signature. One that is complete is another build, and may be a lock's.
//!
//! pacman appends to `FILE.part`, by the length of that alone. To one that is as long as the archive (pacman was killed before it
//! renamed it) or longer (another file of that name) there is nothing to append: the server says 416, pacman takes that for
//! success and then misses the file ("wrong or NULL argument passed", 6.0.2), in every later run too.

use package::db::Entry;
use package::decompress;
use rustix::fs::{AtFlags, CWD, statat, unlinkat};
use stage::signal;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Returns whether the cache has a download that pacman would continue. `there` are the names in it.
pub(crate) fn has_parts(there: &BTreeSet<OsString>) -> bool {
    there.iter().any(|name| name.as_encoded_bytes().ends_with(b".part"))
}

/// Removes them, as far as they are packages that the repositories offer; returns their names. `there` are the names in the cache.
pub(crate) fn remove(cache: &Path, there: &BTreeSet<OsString>, offered: &[(String, Entry)]) -> Vec<String> {
    let size = |name: &str| {
        if !there.contains(OsStr::new(name)) {
            return None;
        }
        let stat = statat(CWD, cache.join(name), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        u64::try_from(stat.st_size).ok()
    };
    let mut removed = Vec::new();
    for (_, entry) in offered {
        let Some(complete) = entry.csize else {
            continue;
        };
        let archive = entry.filename.clone();
        let part = format!("{archive}.part");
        let has_all = size(&part).is_some_and(|size| size >= complete);
        let is_short = size(&archive).is_some_and(|size| size < complete);
        let found = [has_all.then_some(part), (is_short && is_truncated(&cache.join(&archive))).then_some(archive)];
        // What cannot be removed is met by pacman, which says so.
        removed.extend(
            found.into_iter().flatten().filter(|name| unlinkat(CWD, cache.join(name), AtFlags::empty()).is_ok()),
        );
    }
    removed
}

/// Returns whether an archive is truncated, or is none. What cannot be read is for pacman to say.
fn is_truncated(path: &Path) -> bool {
    let Ok(file) = stage::file::open(path) else {
        return false;
    };
    match decompress::reader(file) {
        // What a signal cut short says nothing of the archive.
        Ok(mut reader) => std::io::copy(&mut reader, &mut std::io::sink()).is_err() && !signal::interrupted(),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_what_has_no_more_to_come_goes() {
        let dir = tempfile::tempdir().unwrap();
        let offered = ["whole", "longer", "half", "none", "unknown"].map(|name| {
            let csize = (name != "unknown").then_some(10);
            let entry = Entry { filename: name.to_owned(), csize, ..Entry::default() };
            ("core".to_owned(), entry)
        });
        for (name, size) in [("whole", 10), ("longer", 11), ("half", 5), ("unknown", 10)] {
            fs::write(dir.path().join(format!("{name}.part")), vec![0; size]).unwrap();
        }
        for (name, size) in [("none", 10), ("longer", 3)] {
            fs::write(dir.path().join(name), vec![0; size]).unwrap();
        }
        let there: BTreeSet<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!((has_parts(&there), has_parts(&BTreeSet::from(["none".into()]))), (true, false));
        assert_eq!(remove(dir.path(), &BTreeSet::new(), &offered), [""; 0]);
        assert_eq!(remove(dir.path(), &there, &offered), ["whole.part", "longer.part", "longer"]);
        assert_eq!(remove(dir.path(), &there, &offered), [""; 0]);
        let left = |name: &str| dir.path().join(name).exists();
        assert!(left("none") && left("half.part") && left("unknown.part"));
    }
}
