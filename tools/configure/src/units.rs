//! `--enable`: units of systemd, enabled by the root's own systemctl.
//!
//! systemctl succeeds where a unit has nothing to enable, and then nothing starts. So the state of each unit is checked
//! first.

use crate::item::{Item, Site, not_found};
use crate::tree::Tree;
use stage::{Code, Failure};
use std::collections::BTreeSet;

/// Where units are, those of the administrator first (systemd.unit(5)).
const DIRECTORIES: [&str; 3] = [OWN, "usr/local/lib/systemd/system", "usr/lib/systemd/system"];

/// Where enabling makes links.
const OWN: &str = "etc/systemd/system";

/// The types of units (systemd.unit(5)).
const TYPES: &str = "service socket device mount automount swap target path timer slice scope";

pub(crate) struct Units(pub(crate) Vec<String>);

impl Item for Units {
    fn check(&self, site: &Site) -> Result<(), Failure> {
        site.need("systemctl", "systemd", "enabling units")?;
        for unit in &self.0 {
            if !exists(&site.tree, unit) {
                let directory = site.tree.quote(DIRECTORIES[2]);
                let message = format!("looking for the unit '{unit}': {directory} has none");
                return Err(not_found(message).hint("install the package that brings it first"));
            }
            let state = state(site, unit)?;
            let why = match state.as_str() {
                "disabled" | "indirect" | "linked" => continue,
                state if is_enabled(&site.tree, unit, state) => continue,
                "alias" => "it is another name of a unit: enable that",
                "static" => "it has nothing to enable: others start it",
                "masked" | "masked-runtime" => "it is masked",
                "generated" | "transient" => "it is made at boot",
                "" => "systemctl does not say whether it is enabled",
                other => other,
            };
            return Err(Failure::new(Code::Failed, format!("enabling the unit '{unit}': {why}")));
        }
        Ok(())
    }

    fn apply(&self, site: &mut Site) -> Result<(), Failure> {
        let mut args = vec!["enable", "--no-reload", "--"];
        let options = args.len();
        for unit in &self.0 {
            if !is_enabled(&site.tree, unit, &state(site, unit)?) {
                args.push(unit);
            }
        }
        if args.len() > options {
            let before = links(&site.tree);
            site.run("systemctl", &args, None, "enabling units")?;
            for link in links(&site.tree).difference(&before) {
                site.tree.mark_changed(link);
            }
        }
        Ok(())
    }
}

/// Parses the name of a unit, and returns its full name: as for systemctl, one without a type is a service.
pub(crate) fn parse(name: &str) -> Result<String, String> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b":_.@\\-".contains(&b);
    if name.is_empty() || name.starts_with(['-', '.', '@']) || !name.bytes().all(fine) {
        return Err("only letters, digits and ':-_.\\@' are allowed".into());
    }
    let kind = name.rsplit_once('.').map_or("", |(_, kind)| kind);
    let name = match TYPES.split(' ').any(|known| known == kind) {
        true => name.to_owned(),
        false => format!("{name}.service"),
    };
    match name.len() {
        0..=255 => Ok(name),
        _ => Err("longer than 255 bytes".into()),
    }
}

/// Returns whether a unit, or the template that it is an instance of, is in the root.
fn exists(tree: &Tree, unit: &str) -> bool {
    let mut names = vec![unit.to_owned()];
    if let (Some((prefix, _)), Some((_, kind))) = (unit.split_once('@'), unit.rsplit_once('.')) {
        names.push(format!("{prefix}@.{kind}"));
    }
    let in_root = |name: &String| {
        let mut paths = DIRECTORIES.iter().map(|at| format!("{at}/{name}"));
        paths.any(|path| tree.exists(&path))
    };
    names.iter().any(in_root)
}

/// Returns what systemctl reports of a unit: `enabled`, `disabled`, `static` …
fn state(site: &Site, unit: &str) -> Result<String, Failure> {
    let doing = format!("reading the state of the unit '{unit}'");
    let text = site.ask("systemctl", &["is-enabled", "--", unit], &doing)?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// Returns whether that state means that the unit starts at boot. An alias is made by enabling its unit, unless a package
/// brings it.
fn is_enabled(tree: &Tree, unit: &str, state: &str) -> bool {
    state == "enabled" || state == "alias" && tree.exists(&format!("{OWN}/{unit}"))
}

/// Returns what is below the directory of the administrator's units, two levels deep: links are no deeper.
fn links(tree: &Tree) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (name, directory) in tree.names(OWN) {
        let path = format!("{OWN}/{name}");
        if directory {
            let below = tree.names(&path).into_iter();
            found.extend(below.map(|(name, _)| format!("{path}/{name}")));
        } else {
            found.insert(path);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tests::tree;

    #[test]
    fn names_get_their_type_and_cannot_be_paths_or_options() {
        assert_eq!(parse("sshd").unwrap(), "sshd.service");
        assert_eq!(parse("fstrim.timer").unwrap(), "fstrim.timer");
        assert_eq!(parse("getty@tty2").unwrap(), "getty@tty2.service");
        assert_eq!(parse("dbus-org.x").unwrap(), "dbus-org.x.service");
        for bad in ["", "-f", "../x", "a b", "/etc/x.service", "a\n", "@x", &"a".repeat(250)] {
            parse(bad).unwrap_err();
        }
    }

    #[test]
    fn an_instance_exists_where_its_template_does() {
        let (_guard, tree) = tree(&[("usr/lib/systemd/system/getty@.service", "")]);
        assert!(exists(&tree, "getty@tty2.service"));
        assert!(exists(&tree, "getty@.service"));
        assert!(!exists(&tree, "getty.service"));
        assert!(!exists(&tree, "getty@tty2.socket"));
    }
}
