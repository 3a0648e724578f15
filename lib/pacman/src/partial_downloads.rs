//! What an earlier run left in the package cache and pacman cannot go on with.
//!
//! An archive that is shorter than the database says and ends early is one of a full disk: 6.0.2 gives it its name all the
//! same, and refuses it later for its signature. One that is whole is another build, and may be the one of a lock.
//!
//! pacman appends to `FILE.part`, by the length of that alone. One that is as long as the whole, of a pacman that was killed
//! before it renamed it, or longer, of another file of that name, has nothing to be appended: the server says 416, pacman
//! takes that for success and then misses the file ("wrong or NULL argument passed", 6.0.2), in every later run too.

use crate::conf::Conf;
use package::db::Entry;
use package::decompress;
use rustix::fs::{AtFlags, CWD, statat, unlinkat};
use stage::signal;
use std::path::Path;

/// Removes both among the packages that the repositories offer; returns their names.
pub(crate) fn remove(conf: &Conf, offered: &[(String, Entry)]) -> Vec<String> {
    let Some(cache) = &conf.cache else {
        return Vec::new();
    };
    let mut removed = Vec::new();
    for (_, entry) in offered {
        let Some(whole) = entry.csize else { continue };
        let part = format!("{}.part", entry.filename);
        let is = |name: &str, hopeless: fn(u64, u64) -> bool| {
            let stat = statat(CWD, cache.join(name), AtFlags::SYMLINK_NOFOLLOW);
            let size = stat.ok().and_then(|s| u64::try_from(s.st_size).ok());
            size.is_some_and(|size| hopeless(size, whole))
        };
        let archive = entry.filename.clone();
        let found = [
            is(&part, |size, whole| size >= whole).then_some(part),
            (is(&archive, |size, whole| size < whole) && is_cut_off(&cache.join(&archive)))
                .then_some(archive),
        ];
        let found = found.into_iter().flatten();
        // What cannot be removed is met by pacman, which says so.
        removed
            .extend(found.filter(|name| unlinkat(CWD, cache.join(name), AtFlags::empty()).is_ok()));
    }
    removed
}

/// Returns whether an archive ends before its end, or is none. What cannot be read is for pacman to say.
fn is_cut_off(path: &Path) -> bool {
    let Ok(file) = stage::file::open(path) else {
        return false;
    };
    match decompress::reader(file) {
        // What a signal cut short says nothing of the archive.
        Ok(mut reader) => {
            std::io::copy(&mut reader, &mut std::io::sink()).is_err() && !signal::interrupted()
        }
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
            let entry = Entry {
                filename: name.to_owned(),
                csize,
                ..Entry::default()
            };
            ("core".to_owned(), entry)
        });
        for (name, size) in [("whole", 10), ("longer", 11), ("half", 5), ("unknown", 10)] {
            fs::write(dir.path().join(format!("{name}.part")), vec![0; size]).unwrap();
        }
        for (name, size) in [("none", 10), ("longer", 3)] {
            fs::write(dir.path().join(name), vec![0; size]).unwrap();
        }
        let conf = Conf {
            cache: Some(dir.path().to_owned()),
            repos: Vec::new(),
        };
        assert_eq!(
            remove(&conf, &offered),
            ["whole.part", "longer.part", "longer"]
        );
        assert_eq!(remove(&conf, &offered), [""; 0]);
        let left = |name: &str| dir.path().join(name).exists();
        assert!(left("none") && left("half.part") && left("unknown.part"));
    }
}
