//! `--tree`: files of the builder's own, laid over the root by [`rootfs::tree`].
//!
//! Users come before them, since files may belong to these, and the time zone before users, whose programs read it. Everything
//! else comes after them: a unit that a tree brings can be enabled, and a file that it brings can be edited.

use crate::accounts::Accounts;
use crate::item::{Item, Site};
use rootfs::tree::{Laid, Overlay, Source, record_again};
use stage::members::TreeFile;
use stage::{Code, Failure};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::rc::Rc;

pub(crate) struct Trees {
    sources: Vec<Source>,
    /// What earlier runs brought.
    pub(crate) before: Vec<TreeFile>,
    /// Users that this run makes, with a group of the same name each, and groups.
    users: BTreeSet<String>,
    groups: BTreeSet<String>,
}

impl Trees {
    /// Reads the trees, with what the document has of earlier ones.
    ///
    /// # Errors
    ///
    /// As [`Source::read`] and [`Source::check_mounts`].
    pub(crate) fn read(
        trees: &[PathBuf],
        before: Vec<TreeFile>,
        accounts: &Accounts,
        mounts: &[rootfs::Mount],
    ) -> Result<Self, Failure> {
        let sources = trees.iter().map(|path| Source::read(path)).collect::<Result<Vec<_>, _>>()?;
        sources.iter().try_for_each(|source| source.check_mounts(mounts))?;
        let made = accounts.users.iter().filter(|(_, account)| account.make);
        let users: BTreeSet<String> = made.map(|(name, _)| name.clone()).collect();
        let groups = users.iter().chain(accounts.groups.keys()).cloned().collect();
        Ok(Self { sources, before, users, groups })
    }

    /// Returns the paths that they will bring, below the root.
    pub(crate) fn paths(&self) -> BTreeSet<String> {
        self.sources.iter().flat_map(Source::paths).map(str::to_owned).collect()
    }

    /// Returns whether a tree brings a path, or brought it in an earlier run.
    pub(crate) fn have(&self, path: &str) -> bool {
        self.before.iter().any(|file| file.path == path) || self.paths().contains(path)
    }

    /// Returns the descriptors that laying them needs.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.sources.iter().map(AsFd::as_fd).collect()
    }
}

impl Item for Rc<Trees> {
    fn check(&self, site: &Site) -> Result<(), Failure> {
        let (root, host_path) = site.tree.place();
        let coming = |kind: &str, name: &str| if kind == "user" { &self.users } else { &self.groups }.contains(name);
        Overlay::of(&self.sources, &self.before, root, host_path)?.check(coming)
    }

    fn apply(&self, site: &mut Site) -> Result<(), Failure> {
        let mut laid = Laid::default();
        let (root, host_path) = site.tree.place();
        Overlay::of(&self.sources, &self.before, root, host_path)?.lay("configure", &mut laid)?;
        for path in laid.changed {
            site.tree.mark_changed(&path);
        }
        site.laid = laid.files;
        Ok(())
    }
}

/// Returns what trees brought, as it is after all items: others may have edited it.
///
/// # Errors
///
/// When a file cannot be read.
pub(crate) fn record_edited(site: &Site, changed: &BTreeMap<String, Vec<String>>) -> Result<Vec<TreeFile>, Failure> {
    let others = changed.iter().filter(|(item, _)| *item != "tree");
    let edited = others.flat_map(|(_, paths)| paths).map(|path| path.trim_start_matches('/').to_owned()).collect();
    record_again(site.tree.place().0, site.laid.clone(), &edited)
        .map_err(|(path, e)| Failure::system(Code::Os, format!("reading {}", site.tree.quote(&path)), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_have_what_earlier_runs_laid() {
        let laid = TreeFile { path: "etc/resolv.conf".into(), kind: "link".into(), ..TreeFile::default() };
        let none = BTreeSet::new();
        let trees = Trees { sources: Vec::new(), before: vec![laid], users: none.clone(), groups: none };
        assert!(trees.have("etc/resolv.conf") && !trees.have("etc/hosts"));
    }
}
