//! `--enable`: units of systemd that are to start, enabled by the root's own systemctl.
//!
//! systemctl succeeds where a unit has nothing to enable, and then nothing starts. So what it says of each unit is asked
//! before.

use crate::step::{Site, Step};
use crate::tree::Tree;
use stage::{Code, Failure};
use std::collections::BTreeSet;

/// Where units are, those of the administrator first (systemd.unit(5)).
const DIRECTORIES: [&str; 3] = [
    OWN,
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
];

/// Where enabling makes links.
const OWN: &str = "etc/systemd/system";

/// The types of units (systemd.unit(5)).
const TYPES: [&str; 11] = [
    "service",
    "socket",
    "device",
    "mount",
    "automount",
    "swap",
    "target",
    "path",
    "timer",
    "slice",
    "scope",
];

#[derive(Debug)]
pub(crate) struct Units(pub(crate) Vec<String>);

impl Step for Units {
    fn name(&self) -> &'static str {
        "units"
    }

    fn check(&self, site: &Site) -> Result<(), Failure> {
        if !site.tree.has_program("systemctl") {
            return Err(
                Failure::new(Code::NotFound, "enabling units: the root has no systemctl")
                    .hint("strap systemd first"),
            );
        }
        for unit in &self.0 {
            if !is_there(&site.tree, unit) {
                return Err(Failure::new(
                    Code::NotFound,
                    format!(
                        "looking for the unit '{unit}': {} has none",
                        site.tree.quote(DIRECTORIES[2])
                    ),
                )
                .hint("strap the package that brings it first"));
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
            return Err(Failure::new(
                Code::Failed,
                format!("enabling the unit '{unit}': {why}"),
            ));
        }
        Ok(())
    }

    fn apply(&self, site: &Site) -> Result<(), Failure> {
        let mut missing = Vec::new();
        for unit in &self.0 {
            if !is_enabled(&site.tree, unit, &state(site, unit)?) {
                missing.push(unit.as_str());
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let before = links(&site.tree);
        let mut args = vec!["enable", "--no-reload", "--"];
        args.extend(missing);
        site.programs
            .run("systemctl", &args, None, "enabling units")?;
        for link in links(&site.tree).difference(&before) {
            site.tree.note(link);
        }
        Ok(())
    }
}

/// Returns a unit's whole name: systemctl too takes one without a type for a service.
///
/// # Errors
///
/// Why it is none.
pub(crate) fn full_name(name: &str) -> Result<String, String> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b":_.@\\-".contains(&b);
    if name.is_empty() || name.starts_with(['-', '.', '@']) || !name.bytes().all(fine) {
        return Err("it has more than letters, digits and ':-_.\\@'".into());
    }
    let typed = name
        .rsplit_once('.')
        .is_some_and(|(_, kind)| TYPES.contains(&kind));
    let name = if typed {
        name.to_owned()
    } else {
        format!("{name}.service")
    };
    if name.len() > 255 {
        return Err("it is longer than 255 bytes".into());
    }
    Ok(name)
}

/// Returns whether a unit, or the template that it is an instance of, is in the root.
fn is_there(tree: &Tree, unit: &str) -> bool {
    let mut names = vec![unit.to_owned()];
    if let (Some((prefix, _)), Some((_, kind))) = (unit.split_once('@'), unit.rsplit_once('.')) {
        names.push(format!("{prefix}@.{kind}"));
    }
    names.iter().any(|name| {
        DIRECTORIES
            .iter()
            .any(|directory| tree.is_there(&format!("{directory}/{name}")))
    })
}

/// Returns what systemctl says of a unit: `enabled`, `disabled`, `static` …
fn state(site: &Site, unit: &str) -> Result<String, Failure> {
    let doing = format!("asking for the state of the unit '{unit}'");
    let args = ["is-enabled", "--", unit];
    let (text, _) = site.programs.ask("systemctl", &args, None, &doing)?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// Returns whether that state means that the unit starts at boot. A name that a unit has beside its own is made by enabling
/// that unit, unless a package brings it.
fn is_enabled(tree: &Tree, unit: &str, state: &str) -> bool {
    state == "enabled" || state == "alias" && tree.is_there(&format!("{OWN}/{unit}"))
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
    fn names_are_whole_and_cannot_be_paths_or_options() {
        assert_eq!(full_name("sshd").unwrap(), "sshd.service");
        assert_eq!(full_name("fstrim.timer").unwrap(), "fstrim.timer");
        assert_eq!(full_name("getty@tty2").unwrap(), "getty@tty2.service");
        assert_eq!(full_name("dbus-org.x").unwrap(), "dbus-org.x.service");
        for bad in [
            "",
            "-f",
            "../x",
            "a b",
            "/etc/x.service",
            "a\n",
            "@x",
            &"a".repeat(250),
        ] {
            full_name(bad).unwrap_err();
        }
    }

    #[test]
    fn an_instance_is_there_where_its_template_is() {
        let (_guard, tree) = tree(&[("usr/lib/systemd/system/getty@.service", "")]);
        assert!(is_there(&tree, "getty@tty2.service"));
        assert!(is_there(&tree, "getty@.service"));
        assert!(!is_there(&tree, "getty.service"));
        assert!(!is_there(&tree, "getty@tty2.socket"));
    }
}
