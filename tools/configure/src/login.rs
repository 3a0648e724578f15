//! Who can log in to the machine that the root is for, and what is missing for ssh: for the document, and in plain words.
//!
//! It is read from users' files and from the units that are enabled. What sshd and networks are configured to is not judged.

use crate::accounts;
use crate::tree::Tree;
use crate::units::{self, OWN};
use stage::members::Login;
use stage::{Context, Failure};
use std::collections::BTreeSet;

const PACKAGES: &str = "usr/lib/systemd/system";

/// Servers of ssh, and the units that start one.
const SERVERS: [&str; 3] = ["sshd", "dropbear", "tinysshd"];
const SERVER_UNITS: [&str; 7] = [
    "sshd.service",
    "ssh.service",
    "sshd.socket",
    "ssh.socket",
    "dropbear.service",
    "dropbear.socket",
    "tinysshd.socket",
];

/// Units that configure a network, or what the names of their instances begin with.
const NETWORK_UNITS: [&str; 5] = ["NetworkManager.service", "connman.service", "dhcpcd.service", "dhcpcd@", "netctl@"];
const NETWORKD: &str = "systemd-networkd.service";

/// What is missing for ssh: its name in the document, and what a person is told.
const SSHD: (&str, &str) = ("sshd", "the root has no sshd ('strap openssh')");
const SSHD_UNIT: (&str, &str) = ("sshd-unit", "sshd is not enabled (--enable sshd)");
const NETWORK: (&str, &str) = ("network", "no network is configured (--network dhcp --enable systemd-networkd)");

/// Looks who can log in.
///
/// # Errors
///
/// When users' files cannot be read.
pub(crate) fn look(tree: &Tree) -> Result<Login, Failure> {
    let (console, ssh) = accounts::who_can_log_in(tree)?;
    let enabled = enabled(tree);
    let is_enabled = |wanted: &&str| enabled.iter().any(|unit| unit == wanted || is_instance(unit, wanted));
    let mut missing = Vec::new();
    if !SERVERS.iter().any(|program| tree.has_program(program)) {
        missing.push(SSHD);
    } else if !SERVER_UNITS.iter().any(is_enabled) {
        missing.push(SSHD_UNIT);
    }
    let by_networkd = is_enabled(&NETWORKD) && has_networks(tree);
    if !by_networkd && !NETWORK_UNITS.iter().any(is_enabled) {
        missing.push(NETWORK);
    }
    Ok(Login { console, ssh, missing: missing.iter().map(|(word, _)| (*word).to_owned()).collect() })
}

fn is_instance(unit: &str, template: &str) -> bool {
    template.ends_with('@') && unit.starts_with(template)
}

/// Returns the units that start at boot: those that others want by a link, and that are not masked.
fn enabled(tree: &Tree) -> BTreeSet<String> {
    let mut units = BTreeSet::new();
    for directory in [PACKAGES, OWN] {
        for (name, is_directory) in tree.names(directory) {
            if is_directory && (name.ends_with(".wants") || name.ends_with(".requires")) {
                units.extend(tree.names(&format!("{directory}/{name}")).into_iter().map(|(unit, _)| unit));
            }
        }
    }
    units.retain(|unit| !units::is_masked(tree, unit));
    units
}

/// Returns whether there is a file of systemd.network(5) that is not systemd's own, for containers and tunnels.
fn has_networks(tree: &Tree) -> bool {
    let is_one = |name: &str| name.ends_with(".network");
    let mut own = ["etc/systemd/network", "usr/local/lib/systemd/network"].into_iter().flat_map(|at| tree.names(at));
    let mut of_packages = tree.names("usr/lib/systemd/network").into_iter();
    own.any(|(name, _)| is_one(&name)) || of_packages.any(|(name, _)| is_one(&name) && !name.starts_with("80-"))
}

/// Says who cannot log in, where nobody can.
pub(crate) fn tell(login: &Login, context: &Context) {
    let of = |word: &String| [SSHD, SSHD_UNIT, NETWORK].into_iter().find(|(known, _)| known == word);
    let mut reasons: Vec<&str> = login.missing.iter().filter_map(of).map(|(_, why)| why).collect();
    if login.ssh.is_empty() {
        reasons.insert(0, "no user has a key or a password (--ssh-key)");
    }
    let reasons = reasons.join("; ");
    match (login.console.is_empty(), reasons.is_empty()) {
        (true, false) if login.ssh.is_empty() => context.warn(
            "nobody can log in: root is locked, and no user has a password or a key of ssh; give --password-file or --ssh-key",
        ),
        (true, false) => context.warn(format_args!(
            "nobody can log in: at the console, no user has a password (--password-file); over ssh: {reasons}"
        )),
        (true, true) => context.note("nobody can log in at the console: no user has a password"),
        (false, false) => context.note(format_args!("nobody can log in over ssh: {reasons}")),
        (false, true) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tests::tree;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    const PASSWD: (&str, &str) = ("etc/passwd", "root:x:0:0::/root:/bin/bash\nann:x:1:1::/home/ann:/bin/bash\n");

    fn missing(files: &[(&str, &str)], masked: &str) -> String {
        let (guard, tree) = tree(&[&[PASSWD, ("usr/bin/sshd", ""), ("etc/systemd/system/x", "")], files].concat());
        fs::set_permissions(guard.path().join("usr/bin/sshd"), fs::Permissions::from_mode(0o755)).unwrap();
        if !masked.is_empty() {
            symlink("/dev/null", guard.path().join("etc/systemd/system").join(masked)).unwrap();
        }
        look(&tree).unwrap().missing.join(" ")
    }

    #[test]
    fn ssh_needs_a_server_its_unit_and_a_network() {
        let wants = |unit: &str| format!("etc/systemd/system/multi-user.target.wants/{unit}");
        let (sshd, networkd) = (wants("sshd.service"), wants("systemd-networkd.service"));
        let manager = "usr/lib/systemd/system/multi-user.target.wants/NetworkManager.service";
        let (sshd, networkd) = ((sshd.as_str(), ""), (networkd.as_str(), ""));
        let container = ("usr/lib/systemd/network/80-container-host0.network", "");
        for (files, masked, words) in [
            (&[][..], "", "sshd-unit network"),
            (&[sshd], "", "network"),
            (&[sshd, networkd], "", "network"),
            (&[sshd, networkd, container], "", "network"),
            (&[sshd, networkd, ("etc/systemd/network/x.network", "")], "", ""),
            (&[sshd, networkd, ("etc/systemd/network/x.network", "")], "sshd.service", "sshd-unit"),
            (&[sshd, (manager, "")], "", ""),
            (&[sshd, (wants("dhcpcd@eth0.service").as_str(), "")], "", ""),
        ] {
            assert_eq!(missing(files, masked), words, "{files:?} {masked}");
        }
        let (_guard, tree) = tree(&[PASSWD]);
        assert_eq!(look(&tree).unwrap().missing, ["sshd", "network"]);
    }
}
