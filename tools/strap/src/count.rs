//! Whether what pacman says that it installed is there: the file lists of the packages compared with the root.
//!
//! pacman's exit status and words are no proof. Where the host lacks the locale C.UTF-8, a pacman that is linked to glibc stops
//! extracting a package at the first name that is not ASCII, says nothing and exits 0; and libarchive calls a file that it
//! could not make a warning.
//!
//! Which absence is a failure: that of every file, link and directory that the local database lists for a package of the
//! transaction as it is when all is over. So what a later package of the same transaction took over or replaced is not
//! missed, as the list is then that one's. Not missed is also what `NoExtract` names, and what lies where something was
//! mounted while pacman ran (`run`, `tmp`, `dev`): that went with the mount.
//!
//! What a scriptlet or hook removed is missed, like what was never written. Nothing that it leaves behind tells the two
//! apart, pacman's own `-Qk` says the same of both, and in a pipeline that is to prove what it made the second one is the
//! worse to overlook. Who has such a hook says so with `NoExtract`, where the next upgrade also finds it.

use package::localdb;
use pacman::conf::NoExtract;
use pacman::records::LOCAL;
use rootfs::plan::Owner;
use rootfs::root::open_within;
use rootfs::{Inside, Mount, Place, Root};
use rustix::fs::{AtFlags, OFlags, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use stage::{Code, Context, Doing, Failure, message, quote};
use std::os::fd::{AsFd, OwnedFd};

/// The longest list that is read, in bytes.
const LIMIT: u64 = 256 << 20;

/// What is not there of a package.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
struct Missing {
    package: String,
    /// How many files, links and directories it has.
    of: usize,
    /// The paths below the root that are not there.
    paths: Vec<String>,
}

/// Compares packages, given as their records in the local database and their names, with the root that `bare` enters.
/// `mounts` is the plan that pacman ran with.
///
/// # Errors
///
/// [`Code::Failed`] where something is missing, [`Code::Os`] where that cannot be found out.
pub(crate) fn check(
    context: &Context,
    bare: &Inside,
    mounts: &[Mount],
    patterns: &NoExtract,
    packages: &[(String, String)],
) -> Result<(), Failure> {
    let covered: Vec<&str> = mounts
        .iter()
        .filter(|mount| mount.owner() != Owner::Root)
        .map(|mount| mount.at.as_str())
        .collect();
    // Inside, as an ordinary user has directories there that only root of the root may look into.
    let all: Vec<Missing> = bare.call(Place::Host, &[], || {
        let root = Root::open(bare.root().path())?;
        let mut all = Vec::new();
        for (record, package) in packages {
            let missing = missing(&root, record, package, &covered, patterns)?;
            all.extend((!missing.paths.is_empty()).then_some(missing));
        }
        Ok(all)
    })?;
    let Some((first, rest)) = all.split_first() else {
        return Ok(());
    };
    for missing in rest {
        context.warn(shown(missing));
    }
    let more = match rest.len() {
        0 => String::new(),
        n => format!(" (and {n} more packages lack files)"),
    };
    Err(Failure::new(Code::Failed, format!("{}{more}", shown(first))).hint(
        "'doctor' says whether the host lacks a locale or room; the next strap installs it again; what a hook removes on \
         purpose is named with mkconf --set NoExtract=PATH",
    ))
}

fn shown(missing: &Missing) -> String {
    let first = missing.paths.first().map_or("", String::as_str);
    format!(
        "installing '{}': {} of its {} files are not there, such as '{}'",
        message::escape(&missing.package),
        missing.paths.len(),
        missing.of,
        message::escape(first)
    )
}

/// Finds what is not there of one package.
fn missing(
    root: &Root,
    record: &str,
    package: &str,
    covered: &[&str],
    patterns: &NoExtract,
) -> Result<Missing, Failure> {
    let list = format!("{LOCAL}/{record}/files");
    let text = root.read(&list, LIMIT).doing(Code::Os, || {
        format!("reading {}", quote(root.path().join(&list)))
    })?;
    let files = localdb::paths(&text);
    let mut missing = Missing {
        package: package.to_owned(),
        of: files.len(),
        paths: Vec::new(),
    };
    // The list is sorted, so one directory is opened once for all that is in it.
    let mut directory: Option<(&[u8], Result<OwnedFd, Errno>)> = None;
    for file in files {
        let path = file.strip_suffix(b"/").unwrap_or(file);
        if is_covered(path, covered) || patterns.has(file) {
            continue;
        }
        let (parent, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b"."[..], path),
        };
        if directory.as_ref().is_none_or(|(of, _)| *of != parent) {
            // A package may have `lib/x` where the root has a link `lib`: it is followed, and leads no further than the root.
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            directory = Some((parent, open_within(root.as_fd(), parent, flags)));
        }
        let found = match &directory {
            Some((_, Ok(parent))) => statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map(drop),
            Some((_, Err(e))) => Err(*e),
            None => Ok(()),
        };
        match found {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                missing
                    .paths
                    .push(String::from_utf8_lossy(file).into_owned());
            }
            Err(e) => {
                let path = String::from_utf8_lossy(path);
                return Err(e).doing(Code::Os, || {
                    format!("looking for {}", quote(root.path().join(&*path)))
                });
            }
        }
    }
    Ok(missing)
}

/// Returns whether a path is at or below one of `covered`: there something is mounted while pacman runs that is not the root's.
fn is_covered(path: &[u8], covered: &[&str]) -> bool {
    let covers = |at: &&str| {
        let rest = path.strip_prefix(at.as_bytes());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    covered.iter().any(covers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_is_not_there_is_named_and_nothing_is_followed_out_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let path = top.join("root");
        let record = path.join(LOCAL).join("x-1-1");
        fs::create_dir_all(&record).unwrap();
        fs::create_dir_all(path.join("usr/lib/x")).unwrap();
        fs::create_dir_all(top.join("outside")).unwrap();
        fs::write(top.join("outside/theirs"), "").unwrap();
        fs::write(path.join("usr/lib/x/b"), "").unwrap();
        std::os::unix::fs::symlink("usr/lib", path.join("lib")).unwrap();
        std::os::unix::fs::symlink(top.join("outside"), path.join("usr/out")).unwrap();
        std::os::unix::fs::symlink("/nowhere", path.join("usr/dangling")).unwrap();
        fs::write(
            record.join("files"),
            "%FILES%\nlib/x/b\nrun/x/\nrun/x/socket\nusr/\nusr/dangling\nusr/lib/x/\nusr/lib/x/a\nusr/lib/x/b\n\
             usr/lib/x/caf\u{e9}\nusr/lib/y/\nusr/lib/y/a\nusr/out/theirs\nusr/share/man/x\n\n%BACKUP%\netc/z\t0\n",
        )
        .unwrap();
        let root = Root::open(&path).unwrap();
        let patterns = NoExtract::of("NoExtract = usr/share/man/*\n");
        let found = missing(&root, "x-1-1", "x", &["run", "dev/pts"], &patterns).unwrap();
        assert_eq!(
            found.paths,
            [
                "usr/lib/x/a",
                "usr/lib/x/caf\u{e9}",
                "usr/lib/y/",
                "usr/lib/y/a",
                "usr/out/theirs"
            ]
        );
        assert_eq!(
            shown(&found),
            "installing 'x': 5 of its 13 files are not there, such as 'usr/lib/x/a'"
        );
    }
}
