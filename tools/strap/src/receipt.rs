//! What the document says of the installed packages: each with the archive that it was installed from.
//!
//! The local database says what is installed, [`Origin`] from which archive this run installed it, and the document from which
//! archive an earlier run did. What is unknown is left out: that a repository offers the same name and version now proves
//! nothing.

use pacman::english::log::Event;
use pacman::records::{self, Installed};
use pacman::{Origin, Planned};
use rootfs::Root;
use stage::members::{Base, Package, Step, Strap};
use stage::message::without_password;
use stage::{Document, Failure};
use std::collections::{BTreeMap, BTreeSet};

/// What is known of where packages come from.
#[derive(Debug, Default)]
pub(crate) struct Receipt {
    /// What earlier runs recorded.
    earlier: BTreeMap<String, Package>,
    /// When the last of them had ended, in seconds since 1970.
    end: Option<f64>,
    /// Whether the root began with an archive of which nobody knows who made it: what its records say proves nothing.
    unproven: bool,
    /// What this run installed: version and origin, where that is known.
    done: BTreeMap<String, (String, Option<Origin>)>,
    /// Where the package files of the command line, by their names, are from.
    pub(crate) files: BTreeMap<String, String>,
    /// What runs removed.
    removed: BTreeSet<String>,
}

impl Receipt {
    /// Reads what earlier runs recorded.
    ///
    /// # Errors
    ///
    /// When a member of the document is invalid.
    pub(crate) fn of(document: &Document) -> Result<Self, Failure> {
        let packages: Vec<Package> = document.get().unwrap_or_default();
        let steps: Vec<Step> = document.get().unwrap_or_default();
        let straps = steps.iter().filter(|step| step.tool == "strap");
        Ok(Self {
            earlier: packages.into_iter().map(|p| (p.name.clone(), p)).collect(),
            end: straps.map(|s| s.started + s.seconds).reduce(f64::max),
            unproven: document.get::<Base>().is_some_and(|base| base.checked == Base::NOTHING),
            done: BTreeMap::new(),
            files: BTreeMap::new(),
            removed: document.get().map(|strap: Strap| strap.removed.into_iter().collect()).unwrap_or_default(),
        })
    }

    /// Adds what a transaction installed, as the log has it, and where its packages came from.
    pub(crate) fn add(&mut self, installed: BTreeMap<String, String>, origins: &[Origin]) {
        // Of two that are alike, the first counts.
        let origins = origins.iter().rev().map(|origin| ((&origin.planned.name, &origin.planned.version), origin));
        let origins: BTreeMap<_, _> = origins.collect();
        for (name, version) in installed {
            let origin = origins.get(&(&name, &version)).copied().cloned();
            self.done.insert(name, (version, origin));
        }
    }

    /// Adds what a transaction removed, as the log has it.
    pub(crate) fn add_removed(&mut self, events: &[Event]) {
        for event in events {
            if let Event::Removed(name) = event {
                self.removed.insert(name.clone());
            }
        }
    }

    /// Returns the explicitly installed packages, by the local database or an earlier run.
    ///
    /// # Errors
    ///
    /// When the local database cannot be read.
    pub(crate) fn explicit(&self, root: &Root) -> Result<BTreeSet<String>, Failure> {
        let (installed, _) = records::installed(root)?;
        let there = installed.into_iter().map(|one| one.package);
        let all = there.chain(self.earlier.values().cloned());
        let asked = all.filter(|package| package.reason.as_deref() == Some("explicit"));
        Ok(asked.map(|package| package.name).collect())
    }

    /// Returns what is installed, each package with what is known of its archive; and the failure of a record that cannot be
    /// parsed.
    ///
    /// # Errors
    ///
    /// When the local database cannot be read.
    pub(crate) fn packages(&self, root: &Root) -> Result<(Vec<Package>, Option<Failure>), Failure> {
        let (installed, odd) = records::installed(root)?;
        let packages = installed.into_iter().map(|one| self.complete(one));
        Ok((packages.collect(), odd))
    }

    /// Records what is installed in the document.
    ///
    /// # Errors
    ///
    /// When the local database cannot be read, or a record cannot be parsed: the others are recorded all the same.
    pub(crate) fn record(&self, root: &Root, document: &mut Document) -> Result<(), Failure> {
        let (packages, odd) = self.packages(root)?;
        let there: BTreeSet<&String> = packages.iter().map(|package| &package.name).collect();
        let removed: Vec<String> = self.removed.iter().filter(|name| !there.contains(name)).cloned().collect();
        let before: Strap = document.get().unwrap_or_default();
        if removed != before.removed {
            document.write(&Strap { removed, ..before });
        }
        if packages.is_empty() {
            document.remove::<Vec<Package>>();
        } else {
            document.write(&packages);
        }
        odd.map_or(Ok(()), Err)
    }

    fn complete(&self, installed: Installed) -> Package {
        let Installed { mut package, time, repo, .. } = installed;
        match self.done.get(&package.name) {
            Some((version, Some(origin))) if *version == package.version => {
                let Planned { repo, file, .. } = origin.planned.clone();
                package.origin = self.files.get(&file).filter(|_| Package::is_own(&repo)).cloned();
                package.repo = Some(repo);
                package.file = Some(file);
                package.sha256.clone_from(&origin.sha256);
                let beside = origin.beside.as_ref().filter(|_| package.verified);
                package.pgpsig = origin.offered.as_ref().or(beside).cloned();
            }
            Some(_) => {}
            None => {
                let is_known = |known: &Package| known.version == package.version && known.verified;
                package.verified &= !self.unproven || self.earlier.get(&package.name).is_some_and(is_known);
                // What was installed again since may be from another archive.
                let since = |time: u64| self.end.is_some_and(|end| time as f64 > end);
                if let Some(known) = self.earlier.get(&package.name)
                    && known.version == package.version
                    && !time.is_some_and(since)
                {
                    package.repo.clone_from(&known.repo);
                    package.origin.clone_from(&known.origin);
                    package.file.clone_from(&known.file);
                    package.sha256.clone_from(&known.sha256);
                    package.pgpsig.clone_from(&known.pgpsig);
                }
            }
        }
        // Where pacman writes down the repository too, the two must agree.
        if let Some(is) = repo
            && package.repo.as_ref().is_some_and(|known| *known != is)
        {
            (package.file, package.sha256, package.pgpsig, package.origin) = (None, None, None, None);
            package.repo = Some(is);
        }
        package.origin = package.origin.map(|origin| without_password(&origin));
        package
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::package;
    use package::relations::Relations;
    use serde_json::json;

    fn installed_package(name: &str, time: u64) -> Installed {
        Installed {
            package: package(name, "1-1"),
            record: format!("{name}-1-1"),
            time: Some(time),
            repo: None,
            relations: Relations::default(),
        }
    }

    fn receipt() -> Receipt {
        let package = |name: &str, version: &str| {
            json!({"name": name, "version": version, "arch": "any", "repo": "old", "file": "f", "sha256": "00",
                   "verified": true})
        };
        let document = json!({"strapline": 1, "packages": [package("a", "1-1"), package("b", "2-1")],
            "steps": [{"tool": "strap", "version": "0", "started": 100.5, "seconds": 2.0, "child_seconds": 0.0},
                      {"tool": "verify", "version": "0", "started": 900.0, "seconds": 2.0, "child_seconds": 0.0}]});
        let document = Document::parse(document.to_string().as_bytes(), "a test").unwrap();
        Receipt::of(&document).unwrap()
    }

    fn origin(name: &str, version: &str) -> Origin {
        Origin {
            planned: Planned {
                repo: "new".into(),
                name: name.into(),
                version: version.into(),
                file: "g".into(),
                download: 0,
            },
            sha256: Some("11".into()),
            offered: None,
            beside: Some("Zg==".into()),
        }
    }

    #[test]
    fn an_unchanged_package_keeps_its_record() {
        let receipt = receipt();
        for (name, time, repo) in [
            ("a", 102, Some("old")),
            // Installed again after the last run, by somebody else.
            ("a", 103, None),
            // Another version, and one that no run knows.
            ("b", 102, None),
            ("c", 102, None),
        ] {
            let package = receipt.complete(installed_package(name, time));
            assert_eq!(package.repo.as_deref(), repo, "{name} {time}");
            assert_eq!(package.sha256.is_some(), repo.is_some());
        }
    }

    #[test]
    fn what_this_run_installed_has_its_own_origin() {
        let mut receipt = receipt();
        let versions = |list: &[(&str, &str)]| {
            let pair = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
            list.iter().map(pair).collect()
        };
        receipt.add(versions(&[("a", "1-1")]), &[origin("a", "2-1")]);
        let package = receipt.complete(installed_package("a", 102));
        assert_eq!((package.repo, package.sha256), (None, None));
        receipt.add(versions(&[("a", "1-1")]), &[origin("a", "1-1")]);
        let package = receipt.complete(installed_package("a", 102));
        assert_eq!((package.repo.as_deref(), package.sha256.as_deref()), (Some("new"), Some("11")));
        assert_eq!(package.pgpsig.as_deref(), Some("Zg=="));
        // A signature that lies beside an archive says nothing where pacman checked none.
        let mut loose = installed_package("a", 102);
        loose.package.verified = false;
        assert_eq!(receipt.complete(loose).pgpsig, None);
        let mut other = installed_package("a", 102);
        other.repo = Some("third".into());
        let package = receipt.complete(other);
        assert_eq!((package.repo.as_deref(), package.sha256), (Some("third"), None));
    }
}
