//! Why a package or a file is in a root: who asked for it, where it came from, and who signed it.
//!
//! The receipt has where packages came from. What they require, and which files they have, is in pacman's own records, in the
//! root: without that, it is not guessed.

use super::{Section, line, packages, render};
use package::localdb;
use rootfs::Root;
use rootfs::root::open_within;
use rustix::fs::{Dir, OFlags};
use serde_json::Value;
use stage::document::plain_absolute;
use stage::members::{Configured, TreeFile};
use stage::{Code, Document, Doing, Failure, quote};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

const LOCAL: &str = "var/lib/pacman/local";

/// The longest record that is read.
const LIMIT: u64 = 64 << 20;

/// How many packages that require one are named.
const NAMED: usize = 5;

/// Answers for the name of a package, or for an absolute path in the root.
///
/// # Errors
///
/// [`Code::NotFound`] where the receipt and the root have no such thing.
pub(crate) fn why(document: &Document, what: &str) -> Result<String, Failure> {
    let lines = if what.starts_with('/') { of_path(document, what)? } else { of_package(document, what)? };
    Ok(render(&[Section { title: what.to_owned(), lines }]))
}

fn of_package(document: &Document, name: &str) -> Result<Vec<(String, String)>, Failure> {
    let packages = packages(document);
    let package = packages.iter().find(|package| package.package.name == name).ok_or_else(|| {
        let message = format!("looking for {}: the receipt has no package of this name", quote(name));
        Failure::new(Code::NotFound, message).hint("a path of the root begins with '/'")
    })?;
    let key = &package.key;
    let package = &package.package;
    let mut lines = vec![line("version", format!("{} ({})", package.version, package.arch))];
    lines.push(match package.reason.as_deref() {
        Some("explicit") => line("reason", "it was asked for"),
        Some("dependency") => line("reason", "another package requires it"),
        _ => line("reason", "not in the receipt"),
    });
    match Root::of(document).and_then(|root| Records::read(&root)) {
        Ok(records) => {
            let asked = packages.iter().filter(|one| one.package.reason.as_deref() == Some("explicit"));
            let asked = asked.map(|one| one.package.name.as_str()).collect();
            lines.extend(records.requirers(name).map(|list| line("required by", list)));
            lines.extend(records.chain(&asked, name).map(|chain| line("brought by", chain.join(" > "))));
        }
        Err(failure) => lines.push(line("required by", format!("not known without the root: {}", failure.message))),
    }
    let not_known = || "not in the receipt".to_owned();
    lines.push(line("repository", package.repo.clone().unwrap_or_else(not_known)));
    lines.push(line("archive", package.file.clone().unwrap_or_else(not_known)));
    lines.push(line("sha256", package.sha256.clone().unwrap_or_else(not_known)));
    lines.push(line("verified", if package.verified { "yes" } else { "no" }));
    lines
        .push(line("signed by", key.clone().unwrap_or_else(|| "not in the receipt: 'verify' adds the key".to_owned())));
    Ok(lines)
}

fn of_path(document: &Document, path: &str) -> Result<Vec<(String, String)>, Failure> {
    plain_absolute(path).doing(Code::Usage, || format!("reading the path {}", quote(path)))?;
    let root = Root::of(document);
    let mut below = path.trim_start_matches('/').to_owned();
    let mut lines = Vec::new();
    if let Ok(root) = &root
        && let Some(real) = resolve(root, &below).filter(|real| *real != below)
    {
        lines.push(line("is", format!("/{real}")));
        below = real;
    }
    let tree: Vec<TreeFile> = document.get().unwrap_or_default();
    let laid = tree.iter().find(|file| file.path == below);
    if let Some(file) = laid {
        lines.push(line("laid by", format!("{}, from {}", file.tool, quote(&file.from))));
        let what = match (&file.target, &file.mode) {
            (Some(target), _) => format!("link to {target}"),
            (None, mode) => format!("{}, mode {}", file.kind, mode.as_deref().unwrap_or("unknown")),
        };
        lines.push(line("as", format!("{what}, owner {}:{}", file.uid, file.gid)));
        lines.extend(file.sha256.clone().map(|sha256| line("sha256", sha256)));
    }
    let configured: Configured = document.get().unwrap_or_default();
    let absolute = Value::String(format!("/{below}"));
    let has = |paths: &Value| paths.as_array().is_some_and(|paths| paths.contains(&absolute));
    let items = configured.changed.iter().filter(|(item, paths)| *item != "tree" && has(paths));
    lines.extend(items.map(|(item, _)| line("written by", format!("configure, in its last run, for {item}"))));
    match root.and_then(|root| Records::read(&root)) {
        Ok(records) => {
            let owners = records.owners(&below);
            if lines.iter().all(|(name, _)| name == "is") && owners.is_empty() {
                let why = "no package of the root has it, and neither a tree nor the last run of configure brought it";
                return Err(Failure::new(Code::NotFound, format!("looking for {}: {why}", quote(path))));
            }
            let verb = if laid.is_some() { "in place of that of" } else { "of package" };
            lines.extend(owners.into_iter().map(|owner| line(verb, owner)));
        }
        Err(failure) => lines.push(line("of package", format!("not known without the root: {}", failure.message))),
    }
    Ok(lines)
}

/// Returns where a path is in the root when the links above its last component are followed.
fn resolve(root: &Root, below: &str) -> Option<String> {
    let (parent, name) = below.rsplit_once('/')?;
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let at = |fd: &dyn AsRawFd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok();
    let top: PathBuf = at(&root.as_fd())?;
    let found = open_within(root.as_fd(), parent, flags).ok()?;
    let real = at(&found)?;
    let real = real.strip_prefix(top).ok()?.to_str()?;
    Some(if real.is_empty() { name.to_owned() } else { format!("{real}/{name}") })
}

/// pacman's records of what is installed.
#[derive(Default)]
struct Records {
    /// By name: what it requires, names only; and what it provides.
    packages: BTreeMap<String, (Vec<String>, Vec<String>)>,
    /// By name: the text of its list of files.
    files: BTreeMap<String, Vec<u8>>,
}

impl Records {
    fn read(root: &Root) -> Result<Self, Failure> {
        let doing = || format!("reading {}", quote(root.path().join(LOCAL)));
        let directory = root.open_below(LOCAL, OFlags::RDONLY | OFlags::DIRECTORY).doing(Code::NotFound, doing)?;
        let mut records = Self::default();
        for entry in Dir::read_from(&directory).doing(Code::Os, doing)? {
            let entry = entry.doing(Code::Os, doing)?;
            // Not in `ALPM_DB_VERSION`, nor in a record that a killed pacman left incomplete.
            if let Ok(record) = entry.file_name().to_str()
                && let Ok(desc) = root.read(&format!("{LOCAL}/{record}/desc"), LIMIT)
                && let Ok(known) = localdb::desc(&desc)
            {
                let names = |list: Vec<String>| list.iter().map(|text| bare(text).to_owned()).collect();
                let relations = (names(localdb::depends(&desc)), names(localdb::provides(&desc)));
                let files = root.read(&format!("{LOCAL}/{record}/files"), LIMIT).unwrap_or_default();
                records.packages.insert(known.name.clone(), relations);
                records.files.insert(known.name, files);
            }
        }
        Ok(records)
    }

    /// Returns the packages that have a path.
    fn owners(&self, below: &str) -> Vec<String> {
        let is = |path: &&[u8]| path.strip_suffix(b"/").unwrap_or(path) == below.as_bytes();
        let has = |(_, text): &(&String, &Vec<u8>)| localdb::paths(text).iter().any(is);
        self.files.iter().filter(has).map(|(name, _)| name.clone()).collect()
    }

    /// Returns the packages that require one, or what it provides.
    fn direct(&self, name: &str) -> BTreeSet<&str> {
        let provides = self.packages.get(name).map(|(_, provides)| provides.as_slice()).unwrap_or_default();
        let is = |wanted: &String| wanted == name || provides.contains(wanted);
        let requires = self.packages.iter().filter(|(_, (depends, _))| depends.iter().any(is));
        requires.map(|(name, _)| name.as_str()).collect()
    }

    /// Returns the first of them for a line, and how many more there are.
    fn requirers(&self, name: &str) -> Option<String> {
        let all: Vec<&str> = self.direct(name).into_iter().collect();
        let more = all.len().saturating_sub(NAMED);
        let shown = all[..all.len().min(NAMED)].join(", ");
        (!all.is_empty()).then(|| if more > 0 { format!("{shown} and {more} more") } else { shown })
    }

    /// Returns the shortest way from a package that was asked for to this one; nothing where it was asked for itself.
    fn chain(&self, asked: &BTreeSet<&str>, name: &str) -> Option<Vec<String>> {
        if asked.contains(name) {
            return None;
        }
        let mut left = VecDeque::from([vec![name.to_owned()]]);
        let mut seen = BTreeSet::from([name.to_owned()]);
        while let Some(chain) = left.pop_front() {
            for requirer in self.direct(&chain[0]) {
                let mut longer = vec![requirer.to_owned()];
                longer.extend(chain.iter().cloned());
                if asked.contains(requirer) {
                    return Some(longer);
                }
                if seen.insert(requirer.to_owned()) {
                    left.push_back(longer);
                }
            }
        }
        None
    }
}

/// Returns the name of a dependency, without a version.
fn bare(text: &str) -> &str {
    text.split(['<', '>', '=']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_way_from_what_was_asked_for() {
        let package = |depends: &[&str], provides: &[&str]| {
            let list = |of: &[&str]| of.iter().map(|name| (*name).to_owned()).collect();
            (list(depends), list(provides))
        };
        let packages = [
            ("base", package(&["bash", "pacman"], &[])),
            ("bash", package(&["readline", "libc.so"], &["sh"])),
            ("readline", package(&["libc.so"], &[])),
            ("pacman", package(&["sh"], &[])),
            ("glibc", package(&[], &["libc.so"])),
            ("lonely", package(&["lonely"], &[])),
        ];
        let packages = packages.into_iter().map(|(name, package)| (name.to_owned(), package)).collect();
        let records = Records { packages, ..Records::default() };
        let chain = |name: &str| records.chain(&BTreeSet::from(["base"]), name).map(|chain| chain.join(" "));
        assert_eq!(chain("glibc").as_deref(), Some("base bash glibc"));
        assert_eq!(chain("bash").as_deref(), Some("base bash"));
        assert_eq!((chain("base"), chain("lonely")), (None, None));
        assert_eq!(records.requirers("bash").as_deref(), Some("base, pacman"));
        assert_eq!(bare("libc.so=6-64"), "libc.so");
    }

    #[test]
    fn a_path_is_that_of_a_package() {
        let files = b"%FILES%\nusr/\nusr/bin/\nusr/bin/bash\n".to_vec();
        let records = Records { files: BTreeMap::from([("bash".to_owned(), files)]), ..Records::default() };
        assert_eq!(records.owners("usr/bin/bash"), ["bash"]);
        assert_eq!(records.owners("usr/bin"), ["bash"]);
        assert_eq!(records.owners("bin"), [""; 0]);
    }
}
