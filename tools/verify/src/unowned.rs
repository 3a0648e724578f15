//! What of a root that began with somebody's archive belongs to no package: nobody signed it.

use crate::files::Rules;
use pacman::gpg;
use rootfs::Root;
use rustix::fs::{Dir, FileType, OFlags};
use rustix::io::Errno;
use stage::members::Unowned;
use stage::{Code, Doing, Failure, quote, signal};
use std::collections::BTreeSet;

/// How many paths the document has.
const PATHS: usize = 100;

/// pacman's own records, which are compared in another way.
const RECORDS: &str = "var/lib/pacman";

/// Lists what is in the root and not `owned`, but for caches, logs and what else stays out of images. Of a directory without an
/// owner, what is in it is not listed.
///
/// # Errors
///
/// When a directory cannot be read.
pub(crate) fn find(root: &Root, owned: &BTreeSet<Vec<u8>>, rules: &Rules) -> Result<Unowned, Failure> {
    let transient = image::Rules::new(&[], &[], None)?;
    let mut paths = Vec::new();
    let mut left = vec![String::new()];
    while let Some(at) = left.pop() {
        signal::check()?;
        let doing = || format!("reading {}", quote(root.path().join(&at)));
        let directory = match root.open_below(&at, OFlags::RDONLY | OFlags::DIRECTORY) {
            // Gone since.
            Err(Errno::NOENT) => continue,
            directory => directory.doing(Code::Os, doing)?,
        };
        for entry in Dir::read_from(&directory).doing(Code::Os, doing)? {
            let entry = entry.doing(Code::Os, doing)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let slash = if at.is_empty() { "" } else { "/" };
            let path = [at.as_bytes(), slash.as_bytes(), name].concat();
            let text = String::from_utf8_lossy(&path).into_owned();
            let is_directory = match entry.file_type() {
                FileType::Unknown => root.open_below(&text, OFlags::PATH | OFlags::DIRECTORY).is_ok(),
                kind => kind.is_dir(),
            };
            if transient.leaves_out(&path, is_directory) || rules.skips(&text) || [RECORDS, gpg::AT].contains(&&*text) {
                continue;
            }
            match (owned.contains(&path), is_directory) {
                (true, true) => left.push(text),
                (true, false) => {}
                (false, true) => paths.push(format!("{text}/")),
                (false, false) => paths.push(text),
            }
        }
    }
    paths.sort();
    let count = paths.len();
    paths.truncate(PATHS);
    Ok(Unowned { count, paths })
}
