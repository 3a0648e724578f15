//! Which installed packages a transaction removes, because others conflict with them or replace them.
//!
//! pacman says so only when it is about to do it: to print what it would do it looks for no conflicts. And it has one answer for
//! all that conflict (`--ask`). So this finds them as libalpm does (conflict.c, `_alpm_outerconflicts`, and sync.c,
//! `check_replacers`).

use crate::records::Installed;
use crate::run::Planned;
use package::db::Entry;
use package::relations::is_meant;

/// An installed package that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Its name.
    pub name: String,
    /// The package that is installed.
    pub by: String,
    /// Whether the two conflict; else the one replaces the other, as its repository says.
    pub conflicts: bool,
}

/// Returns what goes when `planned` is installed. `offered` are the packages of the repositories. Only where it `upgrades`
/// are packages replaced.
#[must_use]
pub fn removals(
    offered: &[(String, Entry)],
    planned: &[Planned],
    installed: &[Installed],
    upgrades: bool,
) -> Vec<Removal> {
    let entries = planned.iter().filter_map(|one| {
        let is_of = |(repo, entry): &&(String, Entry)| {
            (repo, &entry.name, &entry.version) == (&one.repo, &one.name, &one.version)
        };
        offered.iter().find(is_of).map(|(_, entry)| entry)
    });
    let entries: Vec<&Entry> = entries.collect();
    let is_planned = |one: &&Installed| planned.iter().any(|planned| planned.name == one.package.name);
    let goes = |one: &Installed| {
        let (name, version, own) = (&one.package.name, &one.package.version, &one.relations);
        let replaces = |entry: &&&Entry| {
            let mut replaced = entry.relations.replaces.iter();
            upgrades && replaced.any(|means| is_meant(means, name, version, &[]))
        };
        let conflicts = |entry: &&&Entry| {
            let mut excluded = entry.relations.conflicts.iter();
            let mut excludes = own.conflicts.iter();
            excluded.any(|means| is_meant(means, name, version, &own.provides))
                || excludes.any(|means| is_meant(means, &entry.name, &entry.version, &entry.relations.provides))
        };
        let by = entries.iter().find(replaces).map(|entry| (entry, false));
        let by = by.or_else(|| entries.iter().find(conflicts).map(|entry| (entry, true)));
        by.map(|(entry, conflicts)| Removal { name: name.clone(), by: entry.name.clone(), conflicts })
    };
    installed.iter().filter(|one| !is_planned(one)).filter_map(goes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use package::relations::Relations;
    use stage::members::Package;

    fn list(words: &str) -> Vec<String> {
        words.split_whitespace().map(str::to_owned).collect()
    }

    fn offer(name: &str, provides: &str, conflicts: &str, replaces: &str) -> (String, Entry) {
        let relations = Relations { provides: list(provides), conflicts: list(conflicts), replaces: list(replaces) };
        let entry = Entry { name: name.into(), version: "1-1".into(), relations, ..Entry::default() };
        ("core".into(), entry)
    }

    fn there(name: &str, provides: &str, conflicts: &str) -> Installed {
        Installed {
            package: Package { name: name.into(), version: "1-1".into(), ..Package::default() },
            record: format!("{name}-1-1"),
            time: None,
            repo: None,
            relations: Relations { provides: list(provides), conflicts: list(conflicts), replaces: Vec::new() },
        }
    }

    #[test]
    fn what_conflicts_and_what_is_replaced_goes() {
        let offered = [
            offer("nft", "tables", "tables", ""),
            offer("newer", "", "older", "older"),
            offer("plain", "thing=2", "", ""),
            offer("unplanned", "", "calm", ""),
        ];
        let installed = [
            there("tables", "", ""),
            there("older", "", ""),
            there("like", "tables", ""),
            there("fights", "", "thing>1"),
            there("content", "", "thing<1"),
            there("calm", "", ""),
            there("plain", "", ""),
        ];
        let planned = ["nft", "newer", "plain"].map(|name| Planned {
            repo: "core".into(),
            name: name.into(),
            version: "1-1".into(),
            file: String::new(),
            download: 0,
        });
        let found = |upgrades| -> Vec<(String, String, bool)> {
            let found = removals(&offered, &planned, &installed, upgrades).into_iter();
            found.map(|one| (one.name, one.by, one.conflicts)).collect()
        };
        let expected = |conflicts| {
            [("tables", "nft", true), ("older", "newer", conflicts), ("like", "nft", true), ("fights", "plain", true)]
                .map(|(name, by, conflicts)| (name.to_owned(), by.to_owned(), conflicts))
        };
        assert_eq!(found(true), expected(false));
        assert_eq!(found(false), expected(true));
    }
}
