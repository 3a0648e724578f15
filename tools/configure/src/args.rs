//! The command line. Each value is checked as far as that is possible without the root.

use crate::clock::TimeZone;
use crate::console::KeyMap;
use crate::host_name::HostName;
use crate::resolver::Resolver;
use crate::text::merge;
use crate::{locale, mirror, os_release, units};
use clap::Parser;
use pacman::Timeout;
use stage::Common;
use std::path::PathBuf;

/// Configure the system in a root: host name, locales, time zone, users, units, fstab
///
/// Everything is checked against the root before anything is written. In any case root is locked where root has no
/// password, and the machine id is left for the first boot.
#[derive(Debug, Parser)]
#[command(name = "configure", version, help_expected = true, max_term_width = 80)]
#[command(
    after_help = "Example:\n  ... | strap base openssh sudo \\\n    | configure --hostname alarm --locale en_US.UTF-8 --timezone Europe/Berlin \\\n        --user ann:wheel --ssh-key ann:id_ed25519.pub --sudo --enable sshd"
)]
pub(crate) struct Args {
    /// Set the host name, in hostname and hosts
    #[arg(long, value_name = "NAME", value_parser = HostName::parse)]
    pub(crate) hostname: Option<HostName>,

    /// Generate this locale; the first one is LANG
    #[arg(long, value_name = "LOCALE", value_parser = locale::parse)]
    pub(crate) locale: Vec<String>,

    /// Set the time zone, as Europe/Berlin
    #[arg(long, value_name = "ZONE", value_parser = TimeZone::parse)]
    pub(crate) timezone: Option<TimeZone>,

    /// Set the console's keymap
    #[arg(long, value_name = "KEYMAP", value_parser = KeyMap::parse)]
    pub(crate) keymap: Option<KeyMap>,

    /// Create or update user NAME, a member of these groups
    #[arg(long, value_name = "NAME[:GROUP,...]", value_parser = parse_user)]
    pub(crate) user: Vec<(String, Vec<String>)>,

    /// Create group NAME
    #[arg(long, value_name = "NAME[:GID]", value_parser = parse_group)]
    pub(crate) group: Vec<(String, Option<u32>)>,

    /// Set NAME's shell
    #[arg(long, value_name = "NAME:PATH", value_parser = parse_shell)]
    pub(crate) shell: Vec<(String, String)>,

    /// Read NAME's password from FILE
    #[arg(long, value_name = "NAME:FILE", value_parser = parse_file)]
    pub(crate) password_file: Vec<(String, PathBuf)>,

    /// Read the hash of NAME's password, as of crypt(5), from FILE
    #[arg(long, value_name = "NAME:FILE", value_parser = parse_file)]
    pub(crate) password_hash_file: Vec<(String, PathBuf)>,

    /// Add the public keys in FILE to NAME's authorized_keys
    #[arg(long, value_name = "NAME:FILE", value_parser = parse_file)]
    pub(crate) ssh_key: Vec<(String, PathBuf)>,

    /// Lay the files in DIR over the root
    #[arg(long, value_name = "DIR")]
    pub(crate) tree: Vec<PathBuf>,

    /// Allow sudo to members of wheel
    #[arg(long)]
    pub(crate) sudo: bool,

    /// Let USER, or a %GROUP, use sudo without a password
    #[arg(long, value_name = "USER|%GROUP", value_parser = parse_sudoer)]
    pub(crate) nopasswd: Vec<String>,

    /// Start this unit at boot
    #[arg(long, value_name = "UNIT", value_parser = units::parse)]
    pub(crate) enable: Vec<String>,

    /// Do not start this unit at boot
    #[arg(long, value_name = "UNIT", value_parser = units::parse)]
    pub(crate) disable: Vec<String>,

    /// Let nothing start this unit
    #[arg(long, value_name = "UNIT", value_parser = units::parse)]
    pub(crate) mask: Vec<String>,

    /// Start this unit for each user who logs in
    #[arg(long, value_name = "UNIT", value_parser = units::parse)]
    pub(crate) enable_global: Vec<String>,

    /// Boot to this target, as multi-user.target
    #[arg(long, value_name = "TARGET", value_parser = units::parse_target)]
    pub(crate) default_target: Option<String>,

    /// Set a variable of os-release: IMAGE_ID, IMAGE_VERSION, VARIANT or VARIANT_ID
    #[arg(long, value_name = "KEY=VALUE", value_parser = os_release::parse)]
    pub(crate) os_release: Vec<(String, String)>,

    /// Write fstab, for the plan's devices or the disk that mkdisk makes
    #[arg(long)]
    pub(crate) fstab: bool,

    /// The disk's layout, as for mkdisk [default: mkdisk's]
    #[arg(long, value_name = "FILE", requires = "fstab")]
    pub(crate) layout: Option<PathBuf>,

    /// The disk's board, as for mkdisk
    #[arg(long, value_name = "NAME|FILE", requires = "fstab", conflicts_with = "layout")]
    pub(crate) board: Option<String>,

    /// Set the root's own mirror, a URL with $repo and $arch
    #[arg(long, value_name = "URL", value_parser = mirror::parse)]
    pub(crate) mirror: Vec<String>,

    /// Add the repositories that the root was built from to its pacman.conf
    #[arg(long)]
    pub(crate) repositories: bool,

    /// Link resolv.conf to systemd-resolved's, or name servers
    #[arg(long, value_name = "resolved|ADDRESS,...", value_parser = Resolver::parse)]
    pub(crate) resolv_conf: Option<Resolver>,

    /// Configure wired interfaces by DHCP, or copy a file of networkd or iwd
    #[arg(long, value_name = "dhcp|FILE")]
    pub(crate) network: Vec<PathBuf>,

    /// Make the machine's pacman keyring when it boots first
    #[arg(long)]
    pub(crate) first_boot_keyring: bool,

    #[command(flatten)]
    pub(crate) timeout: Timeout,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// Parses `NAME[:GROUP,...]`.
fn parse_user(text: &str) -> Result<(String, Vec<String>), String> {
    let (name, groups) = text.split_once(':').unwrap_or((text, ""));
    check_name(name)?;
    let mut list = Vec::new();
    for group in groups.split(',').filter(|_| !groups.is_empty()) {
        // Groups of packages may have names that useradd(8) refuses.
        let bad = |c: char| c.is_control() || c == ':';
        if group.is_empty() || group.starts_with('-') || group.contains(bad) {
            return Err(format!("invalid name of a group: '{group}'"));
        }
        merge(&mut list, &[group.to_owned()]);
    }
    Ok((name.to_owned(), list))
}

/// Parses `NAME[:GID]`.
fn parse_group(text: &str) -> Result<(String, Option<u32>), String> {
    let (name, gid) = text.split_once(':').map_or((text, None), |(name, gid)| (name, Some(gid)));
    check_name(name)?;
    let number = |gid: &str| gid.parse().ok().filter(|gid| (1..=65_533).contains(gid));
    match gid.map(|gid| number(gid).ok_or(gid)).transpose() {
        Ok(gid) => Ok((name.to_owned(), gid)),
        Err(gid) => Err(format!("'{gid}' is not an id between 1 and 65533")),
    }
}

/// Parses the name of a user, or that of a group after a percent sign.
fn parse_sudoer(text: &str) -> Result<String, String> {
    check_name(text.strip_prefix('%').unwrap_or(text))?;
    Ok(text.to_owned())
}

/// Parses `NAME:PATH` of a shell.
fn parse_shell(text: &str) -> Result<(String, String), String> {
    let (name, shell) = parse_pair(text)?;
    stage::document::plain_absolute(shell)?;
    Ok((name, shell.to_owned()))
}

/// Parses `NAME:FILE`.
fn parse_file(text: &str) -> Result<(String, PathBuf), String> {
    parse_pair(text).map(|(name, file)| (name, file.into()))
}

fn parse_pair(text: &str) -> Result<(String, &str), String> {
    let pair = text.split_once(':').filter(|(_, value)| !value.is_empty());
    let (name, value) = pair.ok_or("not of the form NAME:VALUE")?;
    check_name(name)?;
    Ok((name.to_owned(), value))
}

/// Checks a name by the rules of useradd(8).
fn check_name(name: &str) -> Result<(), String> {
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if !begins || !name.bytes().all(fine) {
        return Err("a name has lower-case letters, digits, '_' and '-', and begins with a letter or '_'".into());
    }
    match name.len() {
        0..=32 => Ok(()),
        _ => Err("the name is longer than 32 bytes".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_value_is_a_usage_error_that_names_the_option() {
        for (option, value, why) in [
            ("--hostname", "a_b", "only letters"),
            ("--timezone", "../etc/passwd", "AREA/PLACE"),
            ("--keymap", "a/b", "only letters"),
            ("--locale", "a b", "LANGUAGE_COUNTRY.CHARSET"),
            ("--user", "Ann", "lower-case"),
            ("--user", "ann:a,,b", "invalid name of a group: ''"),
            ("--shell", "ann", "not of the form NAME:VALUE"),
            ("--shell", "ann:bash", "the path is not absolute"),
            ("--ssh-key", ":x", "lower-case"),
            ("--enable", "../x", "only letters"),
            ("--mask", "a/b", "only letters"),
            ("--default-target", "sshd.service", "not a target"),
            ("--nopasswd", "%", "lower-case"),
            ("--nopasswd", "ALL", "lower-case"),
            ("--group", "a:0", "'0' is not an id"),
            ("--group", "a:x", "'x' is not an id"),
            ("--os-release", "ID=x", "only IMAGE_ID"),
            ("--os-release", "VARIANT", "not of the form KEY=VALUE"),
            ("--mirror", "https://m.example.org/", "no $repo in it"),
            ("--resolv-conf", "x", "neither 'resolved' nor"),
        ] {
            let error = Args::try_parse_from(["configure", option, value]).unwrap_err();
            let text = error.to_string();
            let begin = format!("error: invalid value '{value}' for '{option} <");
            assert!(text.starts_with(&begin) && text.contains(why), "{text}");
        }
    }

    #[test]
    fn names_by_the_rules_of_useradd() {
        for good in ["ann", "_x", "a-b_c9", &"a".repeat(32)] {
            check_name(good).unwrap();
        }
        for bad in ["", "Ann", "9a", "-a", "a b", "a:b", "a/b", "ann\n", "änn", &"a".repeat(33)] {
            check_name(bad).unwrap_err();
        }
    }
}
