//! Whether what pacman says that it installed is there: the file lists of the packages compared with the root.
//!
//! pacman's exit status and words are no proof. Where the host lacks the locale C.UTF-8, a pacman that is linked to glibc stops
//! extracting a package at the first name that is not ASCII, says nothing and exits 0; and libarchive calls a file that it
//! could not make a warning.
//!
//! Missing is every file, link and directory that the local database lists for a package of the transaction after its end. So
//! what a later package of the same transaction took over or replaced is not missing, as the list is then that one's. Neither is
//! what `NoExtract` names, nor what is where something was mounted while pacman ran (`run`, `tmp`, `dev`): that went with the mount.
//!
//! What a scriptlet or hook removed counts as missing, like what was never written. Nothing that it leaves behind tells the two
//! apart, pacman's own `-Qk` says the same of both, and in a pipeline that is to prove what it made the second one is the
//! worse to overlook. Who has such a hook says so with `NoExtract`, where the next upgrade also finds it.

use crate::plan::Plan;
use package::localdb;
use pacman::conf::NoExtract;
use pacman::records::{self, LOCAL};
use pacman::{OutputEvent, and_more, lock};
use rootfs::plan::Owner;
use rootfs::root::Siblings;
use rootfs::{Place, Root};
use rustix::io::Errno;
use stage::{Code, Context, Doing, Failure, message, quote};
use std::collections::BTreeMap;
use std::os::fd::AsFd;

/// The longest list that is read, in bytes.
const LIMIT: u64 = 256 << 20;

/// Fails if pacman skipped files of what it installed, which it calls a warning, or says nothing about; and marks the
/// transaction for repair by the next run. `installed` are versions by name.
///
/// # Errors
///
/// [`Code::Failed`] where files are missing, [`Code::Os`] where that cannot be found out.
pub(crate) fn ensure_extracted(
    context: &Context,
    plan: &Plan,
    output: &[OutputEvent],
    installed: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    let checked = skipped(output).map_or_else(|| compare(context, plan, installed), Err);
    checked.or_else(|failure| {
        lock::mark_incomplete(plan.inside.root())?;
        Err(failure)
    })
}

/// Returns the failure where pacman skipped a file of a package, or a part of it, and called that a warning.
fn skipped(output: &[OutputEvent]) -> Option<Failure> {
    let mut of = String::new();
    let mut skipped = Vec::new();
    for event in output {
        match event {
            OutputEvent::Package(name) => of = format!(" of '{}'", message::escape(name)),
            OutputEvent::NotExtracted(file, why) => {
                let (file, why) = (message::escape(file), message::escape(why));
                skipped.push(format!("extracting '{file}'{of}: {why}"));
            }
            _ => {}
        }
    }
    let (first, rest) = skipped.split_first()?;
    let message = format!("{first}{}", and_more(rest.len()));
    let hint = "dmesg says what the disk answered; the next strap installs the packages of this run again";
    Some(Failure::new(Code::Failed, message).hint(hint))
}

/// Compares the file lists of packages with the root.
fn compare(context: &Context, plan: &Plan, installed: &BTreeMap<String, String>) -> Result<(), Failure> {
    let (mut packages, _) = records::installed(plan.inside.root())?;
    packages.retain(|one| installed.contains_key(&one.package.name));
    if packages.is_empty() {
        return Ok(());
    }
    let mounts = plan.inside.mounts().iter();
    let covered: Vec<&str> =
        mounts.filter(|mount| Owner::of(mount) != Owner::Root).map(|mount| mount.at.as_str()).collect();
    // Inside, as an ordinary user has directories there that only root of the root may search.
    let lines: Vec<String> = plan.bare.call(Place::Host, &[], || {
        let root = Root::open(plan.bare.root().path())?;
        let mut lines = Vec::new();
        for one in &packages {
            let files = missing(&root, &one.record, &covered, &plan.conf.noextract)?;
            lines.extend(files.line(&one.package.name));
        }
        Ok(lines)
    })?;
    let Some((first, rest)) = lines.split_first() else {
        return Ok(());
    };
    for line in rest {
        context.warn(line);
    }
    let more = match rest.len() {
        0 => String::new(),
        n => format!(" (and {n} more packages lack files)"),
    };
    Err(Failure::new(Code::Failed, format!("{first}{more}")).hint(
        "'doctor' says whether the host lacks a locale or space; the next strap installs it again; what a hook removes on \
         purpose is named with mkconf --set NoExtract=PATH",
    ))
}

/// The files of a package that are missing.
#[derive(Debug)]
struct Missing {
    /// How many files, links and directories the package has.
    of: usize,
    /// Their paths below the root.
    paths: Vec<String>,
}

impl Missing {
    fn line(&self, package: &str) -> Option<String> {
        let first = message::escape(self.paths.first()?);
        let (package, count, of) = (message::escape(package), self.paths.len(), self.of);
        Some(format!("installing '{package}': {count} of its {of} files are not there, such as '{first}'"))
    }
}

/// Finds the files of a package that are missing.
fn missing(root: &Root, record: &str, covered: &[&str], patterns: &NoExtract) -> Result<Missing, Failure> {
    let list = format!("{LOCAL}/{record}/files");
    let text = root.read(&list, LIMIT).doing(Code::Os, || format!("reading {}", quote(root.path().join(&list))))?;
    let files = localdb::paths(&text);
    let mut missing = Missing { of: files.len(), paths: Vec::new() };
    let mut siblings = Siblings::new(root.as_fd());
    for file in files {
        let path = file.strip_suffix(b"/").unwrap_or(file);
        if is_covered(path, covered) || patterns.has(file) {
            continue;
        }
        // A package may have `lib/x` where the root has a link `lib`: it is followed, and leads no further than the root.
        match siblings.stat(path) {
            Ok(_) => {}
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                let path = String::from_utf8_lossy(file).into_owned();
                missing.paths.push(path);
            }
            Err(e) => {
                let path = root.path().join(&*String::from_utf8_lossy(path));
                return Err(e).doing(Code::Os, || format!("looking for {}", quote(path)));
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
    fn missing_files_are_named_and_no_link_is_followed() {
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
        let found = missing(&root, "x-1-1", &["run", "dev/pts"], &patterns).unwrap();
        assert_eq!(found.paths, ["usr/lib/x/a", "usr/lib/x/caf\u{e9}", "usr/lib/y/", "usr/lib/y/a", "usr/out/theirs"]);
        assert_eq!(found.line("x").unwrap(), "installing 'x': 5 of its 13 files are not there, such as 'usr/lib/x/a'");
    }

    #[test]
    fn a_file_that_was_left_out_is_a_failure_with_its_package() {
        let left_out = |file: &str| OutputEvent::NotExtracted(file.into(), "Write failed".into());
        let mut output = vec![
            OutputEvent::Package("glibc".into()),
            OutputEvent::Package("bash".into()),
            left_out("/r/usr/bin/bash"),
        ];
        let failure = skipped(&output).unwrap();
        assert_eq!(failure.message, "extracting '/r/usr/bin/bash' of 'bash': Write failed");
        output.push(left_out("/r/usr/bin/sh"));
        let failure = skipped(&output).unwrap();
        assert!(failure.message.ends_with("Write failed (and 1 more)"));
        assert_eq!(skipped(&output[..2]), None);
    }
}
