//! `--enable`, `--disable`, `--mask`, `--enable-global` and `--default-target`: units of systemd, by the root's own systemctl.
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
pub(crate) const OWN: &str = "etc/systemd/system";

/// The types of units (systemd.unit(5)).
const TYPES: &str = "service socket device mount automount swap target path timer slice scope";

/// Where units of users' managers are, likewise.
const USER_DIRECTORIES: [&str; 3] = [USER_OWN, "usr/local/lib/systemd/user", "usr/lib/systemd/user"];
const USER_OWN: &str = "etc/systemd/user";

/// Units that are enabled, at boot or for every user.
pub(crate) struct Units {
    pub(crate) names: Vec<String>,
    /// Whether they are units of users' managers.
    pub(crate) global: bool,
}

impl Units {
    /// Where such units are, and where enabling makes links.
    fn directories(&self) -> &'static [&'static str; 3] {
        if self.global { &USER_DIRECTORIES } else { &DIRECTORIES }
    }

    fn scope(&self) -> &'static [&'static str] {
        if self.global { &["--global"] } else { &[] }
    }
}

impl Item for Units {
    fn check(&self, site: &Site) -> Result<(), Failure> {
        let (directories, scope) = (self.directories(), self.scope());
        for unit in &self.names {
            if check_exists(site, unit, directories)? == Exists::Coming {
                continue;
            }
            let state = state(site, unit, scope)?;
            let why = match state.as_str() {
                "disabled" | "indirect" | "linked" => continue,
                state if is_enabled(&site.tree, unit, state, directories[0]) => continue,
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
        let own = self.directories()[0];
        let mut wanted = Vec::new();
        for unit in &self.names {
            if !is_enabled(&site.tree, unit, &state(site, unit, self.scope())?, own) {
                wanted.push(unit.as_str());
            }
        }
        run(site, own, &[self.scope(), &["enable"]].concat(), &wanted, "enabling units")?;
        for unit in wanted {
            // A unit that a tree brought could not be asked before.
            if !is_enabled(&site.tree, unit, &state(site, unit, self.scope())?, own) {
                let why = format!("enabling the unit '{unit}': it has nothing to enable");
                return Err(Failure::new(Code::Failed, why));
            }
        }
        Ok(())
    }
}

/// Units that are disabled.
pub(crate) struct Disabled(pub(crate) Vec<String>);

impl Item for Disabled {
    fn check(&self, site: &Site) -> Result<(), Failure> {
        self.0.iter().try_for_each(|unit| check_exists(site, unit, &DIRECTORIES).map(drop))
    }

    fn apply(&self, site: &mut Site) -> Result<(), Failure> {
        run(site, OWN, &["disable"], &self.0.iter().map(String::as_str).collect::<Vec<_>>(), "disabling units")?;
        for unit in &self.0 {
            let state = state(site, unit, &[])?;
            // By a link of a package, which systemctl leaves.
            if state.starts_with("enabled") {
                let why =
                    format!("disabling the unit '{unit}': systemctl calls it '{state}': it is started all the same");
                return Err(Failure::new(Code::Failed, why).hint(format!("give --mask {unit}")));
            }
        }
        Ok(())
    }
}

/// Units that are masked: a link to /dev/null in the place of a unit, as systemd.unit(5) has it.
pub(crate) struct Masked(pub(crate) Vec<String>);

const NULL: &str = "/dev/null";

/// Returns whether a unit is masked.
pub(crate) fn is_masked(tree: &Tree, unit: &str) -> bool {
    tree.link_target(&format!("{OWN}/{unit}")).as_deref() == Some(NULL)
}

impl Item for Masked {
    fn check(&self, site: &Site) -> Result<(), Failure> {
        for unit in &self.0 {
            if is_masked(&site.tree, unit) {
                continue;
            }
            let path = format!("{OWN}/{unit}");
            check_exists(site, unit, &DIRECTORIES)?;
            let is_link = site.tree.link_target(&path).is_some();
            if site.coming.contains(&path) || site.tree.exists(&path) && !is_link {
                let path = site.tree.quote(&path);
                return Err(Failure::new(Code::Failed, format!("masking the unit '{unit}': {path} is a unit itself"))
                    .hint("remove that file, or leave the unit disabled"));
            }
        }
        Ok(())
    }

    fn apply(&self, site: &mut Site) -> Result<(), Failure> {
        for unit in &self.0 {
            site.tree.link(&format!("{OWN}/{unit}"), NULL)?;
        }
        Ok(())
    }
}

/// The target that is booted to.
pub(crate) struct DefaultTarget(pub(crate) String);

impl Item for DefaultTarget {
    fn check(&self, site: &Site) -> Result<(), Failure> {
        check_exists(site, &self.0, &DIRECTORIES).map(drop)
    }

    fn apply(&self, site: &mut Site) -> Result<(), Failure> {
        run(site, OWN, &["set-default"], &[&self.0], "setting the default target")
    }
}

/// Runs systemctl, which changes links in `own`, on units, unless there are none; records what it changes.
fn run(site: &mut Site, own: &str, verb: &[&str], units: &[&str], doing: &str) -> Result<(), Failure> {
    if units.is_empty() {
        return Ok(());
    }
    let before = links(&site.tree, own);
    site.run("systemctl", &[verb, &["--no-reload", "--"], units].concat(), None, doing)?;
    let after = links(&site.tree, own);
    for (link, _) in after.symmetric_difference(&before) {
        site.tree.mark_changed(link);
    }
    Ok(())
}

/// Whether a unit is in the root, or a tree brings it.
#[derive(PartialEq, Eq)]
enum Exists {
    Now,
    Coming,
}

fn check_exists(site: &Site, unit: &str, directories: &[&str; 3]) -> Result<Exists, Failure> {
    site.need("systemctl", "systemd", "configuring units")?;
    let names = names(unit);
    if names.iter().any(|name| directories.iter().any(|at| site.coming.contains(&format!("{at}/{name}")))) {
        return Ok(Exists::Coming);
    }
    if exists(&site.tree, unit, directories) {
        return Ok(Exists::Now);
    }
    let directory = site.tree.quote(directories[2]);
    let message = format!("looking for the unit '{unit}': {directory} has none");
    Err(not_found(message).hint("install the package that brings it first"))
}

/// Parses the name of a target.
pub(crate) fn parse_target(name: &str) -> Result<String, String> {
    let target = if name.contains('.') { name.to_owned() } else { format!("{name}.target") };
    match parse(&target)? {
        name if name.ends_with(".target") => Ok(name),
        _ => Err("it is not a target".into()),
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

/// Returns the name of a unit, and that of the template that it is an instance of.
fn names(unit: &str) -> Vec<String> {
    let mut names = vec![unit.to_owned()];
    if let (Some((prefix, _)), Some((_, kind))) = (unit.split_once('@'), unit.rsplit_once('.')) {
        names.push(format!("{prefix}@.{kind}"));
    }
    names
}

/// Returns whether a unit, or the template that it is an instance of, is in the root.
fn exists(tree: &Tree, unit: &str, directories: &[&str; 3]) -> bool {
    let in_root = |name: &String| {
        let mut paths = directories.iter().map(|at| format!("{at}/{name}"));
        paths.any(|path| tree.exists(&path))
    };
    names(unit).iter().any(in_root)
}

/// Returns what systemctl reports of a unit: `enabled`, `disabled`, `static` …
fn state(site: &Site, unit: &str, scope: &[&str]) -> Result<String, Failure> {
    let doing = format!("reading the state of the unit '{unit}'");
    let text = site.ask("systemctl", &[scope, &["is-enabled", "--", unit]].concat(), &doing)?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// Returns whether that state means that the unit starts at boot. An alias is made by enabling its unit, unless a package
/// brings it.
fn is_enabled(tree: &Tree, unit: &str, state: &str, own: &str) -> bool {
    state == "enabled" || state == "alias" && tree.exists(&format!("{own}/{unit}"))
}

/// Returns what is below the directory of the administrator's units, two levels deep, as links are no deeper, and where each
/// link leads.
fn links(tree: &Tree, own: &str) -> BTreeSet<(String, Option<String>)> {
    let mut found = BTreeSet::new();
    for (name, directory) in tree.names(own) {
        let path = format!("{own}/{name}");
        let below = if directory { tree.names(&path) } else { Vec::new() };
        let below: Vec<String> = below.into_iter().map(|(name, _)| format!("{path}/{name}")).collect();
        let paths = if directory { below } else { vec![path] };
        found.extend(paths.into_iter().map(|path| (path.clone(), tree.link_target(&path))));
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
    fn a_target_is_a_target() {
        assert_eq!(parse_target("graphical").unwrap(), "graphical.target");
        assert_eq!(parse_target("multi-user.target").unwrap(), "multi-user.target");
        for bad in ["", "sshd.service", "../x.target", "-x"] {
            parse_target(bad).unwrap_err();
        }
    }

    #[test]
    fn an_instance_exists_where_its_template_does() {
        let (_guard, tree) = tree(&[("usr/lib/systemd/system/getty@.service", "")]);
        for (unit, is) in [
            ("getty@tty2.service", true),
            ("getty@.service", true),
            ("getty.service", false),
            ("getty@tty2.socket", false),
        ] {
            assert_eq!(exists(&tree, unit, &DIRECTORIES), is, "{unit}");
        }
        assert!(!exists(&tree, "getty@.service", &USER_DIRECTORIES));
    }
}
