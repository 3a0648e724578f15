//! What is different in two receipts: of what was built, from what, and verified how. Not when, where, and how long it took.

use super::{Known, Section, line, packages, render};
use serde_json::{Map, Value};
use stage::Document;
use stage::members::{Arch, Distro, Keyring, Pacman, TreeFile};
use std::collections::{BTreeMap, BTreeSet};

/// Returns what is different, and nothing where nothing is.
pub(crate) fn diff(one: &Document, other: &Document) -> String {
    let section = |title: &str, lines: Vec<(String, String)>| Section { title: title.to_owned(), lines };
    let sections = [
        section("root", root(one, other)),
        section("trust", trust(one, other)),
        section("packages", of_packages(one, other)),
        section("tree", of_trees(one, other)),
        section("configured", configured(one, other)),
    ];
    render(&sections.into_iter().filter(|section| !section.lines.is_empty()).collect::<Vec<_>>())
}

/// Returns a line where two values are not the same.
fn changed(name: &str, one: Option<impl ToString>, other: Option<impl ToString>) -> Option<(String, String)> {
    let text = |value: Option<String>| value.unwrap_or_else(|| "nothing".to_owned());
    let (one, other) = (text(one.map(|v| v.to_string())), text(other.map(|v| v.to_string())));
    (one != other).then(|| line(name, format!("{one} -> {other}")))
}

fn root(one: &Document, other: &Document) -> Vec<(String, String)> {
    let distro = |document: &Document| document.get::<Distro>().map(|distro| distro.0);
    let arch = |document: &Document| document.get::<Arch>().map(|arch| arch.0);
    let lines = [changed("distribution", distro(one), distro(other)), changed("architecture", arch(one), arch(other))];
    lines.into_iter().flatten().collect()
}

fn trust(one: &Document, other: &Document) -> Vec<(String, String)> {
    let both = (one.get::<Pacman>(), other.get::<Pacman>());
    let pacman = |of: fn(Pacman) -> String| (both.0.clone().map(of), both.1.clone().map(of));
    let mut lines = Vec::new();
    for (name, (one, other)) in [
        ("pacman", pacman(|pacman| pacman.version)),
        ("its sha256", pacman(|pacman| pacman.sha256)),
        ("its trust", pacman(|pacman| pacman.trust)),
    ] {
        lines.extend(changed(name, one, other));
    }
    let loose = |document: &Document| document.get::<stage::members::Strap>().is_some_and(|strap| strap.loose);
    lines.extend(changed("verified", Some(!loose(one)), Some(!loose(other))));
    let both = (one.get::<Keyring>().unwrap_or_default(), other.get::<Keyring>().unwrap_or_default());
    for (name, one, other) in [
        ("keyring", both.0.populated, both.1.populated),
        ("pinned key", both.0.trusted, both.1.trusted),
        ("also trusted", both.0.extended, both.1.extended),
    ] {
        let (one, other): (BTreeSet<String>, BTreeSet<String>) =
            (one.into_iter().collect(), other.into_iter().collect());
        lines.extend(one.difference(&other).map(|key| line(&format!("- {name}"), key)));
        lines.extend(other.difference(&one).map(|key| line(&format!("+ {name}"), key)));
    }
    lines
}

fn of_packages(one: &Document, other: &Document) -> Vec<(String, String)> {
    let by_name = |document| -> BTreeMap<String, Known> {
        packages(document).into_iter().map(|known| (known.package.name.clone(), known)).collect()
    };
    both(
        &by_name(one),
        &by_name(other),
        |known| known.package.version.clone(),
        |name, one, other| {
            let (is, was) = (&other.package, &one.package);
            let yes = |verified: bool| if verified { "verified" } else { "not verified" };
            let mut parts = Vec::new();
            let mut part = |what: &str, one: Option<String>, other: Option<String>| {
                parts.extend(changed(what, one, other).map(|(what, how)| format!("{what}{how}")));
            };
            part("", Some(was.version.clone()), Some(is.version.clone()));
            if was.version == is.version {
                part("another archive: sha256 ", was.sha256.clone(), is.sha256.clone());
            }
            part("repository ", was.repo.clone(), is.repo.clone());
            part("reason ", was.reason.clone(), is.reason.clone());
            part("", Some(yes(was.verified).to_owned()), Some(yes(is.verified).to_owned()));
            // Only verify knows the key.
            if one.key.is_some() && other.key.is_some() {
                part("signed by ", one.key.clone(), other.key.clone());
            }
            (!parts.is_empty()).then(|| line(name, parts.join(", ")))
        },
    )
}

fn of_trees(one: &Document, other: &Document) -> Vec<(String, String)> {
    let by_path = |document: &Document| -> BTreeMap<String, TreeFile> {
        let files: Vec<TreeFile> = document.get().unwrap_or_default();
        files.into_iter().map(|file| (format!("/{}", file.path), file)).collect()
    };
    let mode = |file: &TreeFile| file.mode.clone();
    both(
        &by_path(one),
        &by_path(other),
        |file| file.kind.clone(),
        |path, one, other| {
            let owner = |file: &TreeFile| Some(format!("{}:{}", file.uid, file.gid));
            let parts = [
                changed("type ", Some(&one.kind), Some(&other.kind)),
                changed("mode ", mode(one), mode(other)),
                changed("owner ", owner(one), owner(other)),
                changed("sha256 ", one.sha256.as_ref(), other.sha256.as_ref()),
                changed("target ", one.target.as_ref(), other.target.as_ref()),
            ];
            let parts: Vec<String> = parts.into_iter().flatten().map(|(what, how)| format!("{what}{how}")).collect();
            (!parts.is_empty()).then(|| line(path, parts.join(", ")))
        },
    )
}

fn configured(one: &Document, other: &Document) -> Vec<(String, String)> {
    let members = |document: &Document| -> BTreeMap<String, Value> {
        let all: Map<String, Value> =
            document.value("configured").and_then(Value::as_object).cloned().unwrap_or_default();
        all.into_iter().filter(|(name, _)| name != "changed").collect()
    };
    both(&members(one), &members(other), Value::to_string, |name, one, other| changed(name, Some(one), Some(other)))
}

/// Compares what two maps have: what only one has gets a line with a sign, and what both have one of `compare`'s.
fn both<T>(
    one: &BTreeMap<String, T>,
    other: &BTreeMap<String, T>,
    show: impl Fn(&T) -> String,
    compare: impl Fn(&str, &T, &T) -> Option<(String, String)>,
) -> Vec<(String, String)> {
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let of = |name: &String| match (one.get(name), other.get(name)) {
        (Some(one), Some(other)) => compare(name, one, other),
        (Some(one), None) => Some(line(&format!("- {name}"), show(one))),
        (None, other) => other.map(|other| line(&format!("+ {name}"), show(other))),
    };
    names.into_iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document(members: Value) -> Document {
        let mut all = json!({"strapline": 1, "root": "/r", "arch": "x86_64",
            "steps": [{"tool": "strap", "started": 1.0}]});
        all.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        Document::parse(all.to_string().as_bytes(), "x").unwrap()
    }

    fn package(name: &str, version: &str, sha256: &str) -> Value {
        json!({"name": name, "version": version, "arch": "any", "repo": "core", "sha256": sha256, "reason": "explicit", "verified": true})
    }

    #[test]
    fn all_that_is_different_and_nothing_else() {
        let file = |path: &str, mode: &str| json!({"path": path, "type": "file", "mode": mode, "uid": 0, "gid": 0, "sha256": "1", "from": "t", "tool": "configure"});
        let mut loose = package("d", "1", "1");
        loose["verified"] = json!(false);
        let one = document(json!({
            "packages": [package("a", "1", "1"), package("b", "1", "1"), package("c", "1", "1"), package("d", "1", "1")],
            "tree": [file("etc/x", "0644"), file("etc/y", "0644")],
            "keyring": {"dir": "/k", "populated": ["arch"], "trusted": ["A", "B"]},
            "configured": {"hostname": "a", "changed": {"hostname": ["/etc/hostname"]}}}));
        let other = document(json!({"root": "/elsewhere", "arch": "aarch64",
            "packages": [package("a", "2", "9"), package("b", "1", "2"), loose, package("e", "1", "1")],
            "tree": [file("etc/x", "4644")],
            "keyring": {"dir": "/l", "populated": ["arch"], "trusted": ["A", "C"]},
            "configured": {"hostname": "b", "timezone": "UTC", "changed": {}}}));
        let text = diff(&one, &other);
        let squeezed: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            squeezed,
            [
                "root",
                "architecture x86_64 -> aarch64",
                "trust",
                "- pinned key B",
                "+ pinned key C",
                "packages",
                "a 1 -> 2",
                "b another archive: sha256 1 -> 2",
                "- c 1",
                "d verified -> not verified",
                "+ e 1",
                "tree",
                "/etc/x mode 0644 -> 4644",
                "- /etc/y file",
                "configured",
                "hostname \"a\" -> \"b\"",
                "+ timezone \"UTC\"",
            ]
        );
        assert_eq!(diff(&one, &one), "");
        assert_eq!(diff(&document(json!({})), &document(json!({"root": "/other"}))), "");
    }
}
