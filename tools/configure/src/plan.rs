//! What is to be configured: the command line and the document, checked as far as they can be without looking at anything.

use crate::fstab;
use crate::resolver::Resolver;
use crate::{Args, accounts, clock, console, host_name, locale, mirror, units};
use distro::Preset;
use rootfs::Mount;
use stage::members::Keyring;
use stage::{Code, Document, Failure};
use std::path::PathBuf;

/// What is to be configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) hostname: Option<String>,
    pub(crate) locales: Vec<String>,
    pub(crate) timezone: Option<String>,
    pub(crate) keymap: Option<String>,
    /// Users, and the groups that they are to be members of.
    pub(crate) users: Vec<(String, Vec<String>)>,
    /// User and shell.
    pub(crate) shells: Vec<(String, String)>,
    /// User and file.
    pub(crate) passwords: Vec<(String, PathBuf)>,
    /// User and file.
    pub(crate) hashes: Vec<(String, PathBuf)>,
    /// User and file.
    pub(crate) keys: Vec<(String, PathBuf)>,
    pub(crate) sudo: bool,
    /// Their whole names.
    pub(crate) units: Vec<String>,
    pub(crate) fstab: Option<fstab::Source>,
    pub(crate) mirrors: Vec<String>,
    pub(crate) resolver: Option<Resolver>,
    /// The rings that a unit populates the keyring from.
    pub(crate) first_boot_keyring: Option<Vec<String>>,
}

/// Decides what to do. Touches nothing.
///
/// # Errors
///
/// [`Code::Usage`] where a value makes no sense in any root.
pub(crate) fn plan(args: &Args, document: &Document) -> Result<Plan, Failure> {
    let mut plan = Plan {
        hostname: one("--hostname", args.hostname.as_deref(), host_name::check)?,
        timezone: one("--timezone", args.timezone.as_deref(), clock::check)?,
        keymap: one("--keymap", args.keymap.as_deref(), console::check)?,
        locales: many("--locale", &args.locale, locale::check)?,
        mirrors: many("--mirror", &args.mirror, mirror::check)?,
        passwords: files("--password-file", &args.password_file)?,
        hashes: files("--password-hash-file", &args.password_hash_file)?,
        keys: files("--ssh-key", &args.ssh_key)?,
        sudo: args.sudo,
        ..Plan::default()
    };
    for text in &args.user {
        let (name, groups) = user(text)?;
        match plan.users.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => merge(known, groups),
            None => plan.users.push((name, groups)),
        }
    }
    for text in &args.shell {
        let (name, shell) = pair("--shell", text)?;
        stage::document::plain_absolute(shell).map_err(|why| wrong("--shell", text, &why))?;
        plan.shells.push((name, shell.to_owned()));
    }
    for name in &args.enable {
        let unit = units::full_name(name).map_err(|why| wrong("--enable", name, &why))?;
        merge(&mut plan.units, vec![unit]);
    }
    once("--shell", plan.shells.iter().map(|(name, _)| name))?;
    let secrets = plan.passwords.iter().chain(&plan.hashes);
    once("--password-file", secrets.map(|(name, _)| name))?;
    if let Some(text) = &args.resolv_conf {
        let resolver = Resolver::parse(text).map_err(|why| wrong("--resolv-conf", text, &why))?;
        plan.resolver = Some(resolver);
    }
    if args.fstab {
        let mounts: Vec<Mount> = document.need()?;
        plan.fstab = Some(fstab::Source::of(args.layout.as_deref(), &mounts));
    }
    if args.first_boot_keyring {
        plan.first_boot_keyring = Some(rings(document)?);
    }
    Ok(plan)
}

fn wrong(option: &str, value: &str, why: &str) -> Failure {
    Failure::new(Code::Usage, format!("reading '{option} {value}': {why}"))
}

fn one(
    option: &str,
    value: Option<&str>,
    check: impl Fn(&str) -> Result<(), String>,
) -> Result<Option<String>, Failure> {
    let Some(value) = value else { return Ok(None) };
    check(value).map_err(|why| wrong(option, value, &why))?;
    Ok(Some(value.to_owned()))
}

fn many(
    option: &str,
    values: &[String],
    check: impl Fn(&str) -> Result<(), String>,
) -> Result<Vec<String>, Failure> {
    let mut list = Vec::new();
    for value in values {
        check(value).map_err(|why| wrong(option, value, &why))?;
        merge(&mut list, vec![value.clone()]);
    }
    Ok(list)
}

/// Adds what is not there yet, and keeps the order.
pub(crate) fn merge(list: &mut Vec<String>, more: Vec<String>) {
    for value in more {
        if !list.contains(&value) {
            list.push(value);
        }
    }
}

/// Reads `NAME[:GROUP,...]`.
fn user(text: &str) -> Result<(String, Vec<String>), Failure> {
    let (name, groups) = text.split_once(':').unwrap_or((text, ""));
    accounts::check_name(name).map_err(|why| wrong("--user", text, &why))?;
    let mut list = Vec::new();
    for group in groups.split(',').filter(|_| !groups.is_empty()) {
        // Groups of packages may have names that useradd(8) would not give: here is only said which text can be one.
        if group.is_empty()
            || group.starts_with('-')
            || group.contains(|c: char| c.is_control() || c == ':')
        {
            return Err(wrong(
                "--user",
                text,
                &format!("'{group}' is no name of a group"),
            ));
        }
        merge(&mut list, vec![group.to_owned()]);
    }
    Ok((name.to_owned(), list))
}

/// Reads `NAME:VALUE`.
fn pair<'a>(option: &str, text: &'a str) -> Result<(String, &'a str), Failure> {
    let Some((name, value)) = text.split_once(':').filter(|(_, value)| !value.is_empty()) else {
        return Err(wrong(option, text, "it is not of the form NAME:VALUE"));
    };
    accounts::check_name(name).map_err(|why| wrong(option, text, &why))?;
    Ok((name.to_owned(), value))
}

fn files(option: &str, values: &[String]) -> Result<Vec<(String, PathBuf)>, Failure> {
    let read = |text: &String| pair(option, text).map(|(name, file)| (name, PathBuf::from(file)));
    values.iter().map(read).collect()
}

/// Refuses a second value for the same user, of which nobody would know which one counts.
fn once<'a>(option: &str, names: impl Iterator<Item = &'a String>) -> Result<(), Failure> {
    let mut seen = Vec::new();
    for name in names {
        if seen.contains(&name) {
            return Err(Failure::new(
                Code::Usage,
                format!("{option}: there are two for the user '{name}'"),
            ));
        }
        seen.push(name);
    }
    Ok(())
}

/// Returns the rings that `keyring` populated, else those of the distribution.
fn rings(document: &Document) -> Result<Vec<String>, Failure> {
    let keyring: Option<Keyring> = document.get();
    let mut names = keyring.map(|k| k.populated).unwrap_or_default();
    if names.is_empty()
        && let Some(distro) = document.distro()
    {
        let preset = Preset::load(distro).map_err(|failure| Failure {
            code: Code::Failed,
            ..failure
        })?;
        names = preset.keyring.populate;
    }
    if names.is_empty() {
        return Err(Failure::new(
            Code::Usage,
            "--first-boot-keyring: the document names no distribution, and no keyring",
        )
        .hint("put 'keyring' before 'configure'"));
    }
    // They stand in a unit's command line, and the document is anybody's.
    if let Some(bad) = names
        .iter()
        .find(|name| !stage::document::is_word(name) || name.starts_with('-'))
    {
        return Err(Failure::new(
            Code::BadDocument,
            format!("reading \"keyring.populated\" of the document: '{bad}' is no name of a ring"),
        ));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn plan_of(args: &[&str], document: &str) -> Result<Plan, Failure> {
        let args = Args::try_parse_from(std::iter::once(&"configure").chain(args)).unwrap();
        plan(&args, &Document::parse(document.as_bytes(), "x").unwrap())
    }

    const EMPTY: &str = r#"{"strapline":1}"#;

    #[test]
    fn users_are_merged_and_units_get_their_whole_names() {
        let plan = plan_of(
            &[
                "--user",
                "ann:wheel,video",
                "--user",
                "ann:wheel,audio",
                "--user",
                "bob",
                "--enable",
                "sshd",
                "--enable",
                "sshd.service",
            ],
            EMPTY,
        )
        .unwrap();
        let groups = ["wheel", "video", "audio"].map(str::to_owned).to_vec();
        assert_eq!(
            plan.users,
            [("ann".to_owned(), groups), ("bob".to_owned(), vec![])]
        );
        assert_eq!(plan.units, ["sshd.service"]);
    }

    #[test]
    fn a_plan_of_nothing_is_one() {
        assert_eq!(plan_of(&[], EMPTY).unwrap(), Plan::default());
    }

    #[test]
    fn rings_are_those_of_the_keyring_then_those_of_the_distribution() {
        let of = |document: &str| {
            plan_of(&["--first-boot-keyring"], document).map(|p| p.first_boot_keyring.unwrap())
        };
        let keyring = r#"{"strapline":1,"distro":"archlinux","keyring":{"dir":"/r","populated":["x"],"trusted":[]}}"#;
        assert_eq!(of(keyring).unwrap(), ["x"]);
        assert_eq!(
            of(r#"{"strapline":1,"distro":"archlinux"}"#).unwrap(),
            ["archlinux"]
        );
        assert_eq!(of(EMPTY).unwrap_err().code, Code::Usage);
        let bad = keyring.replace("[\"x\"]", "[\"x; reboot\"]");
        assert_eq!(of(&bad).unwrap_err().code, Code::BadDocument);
    }

    #[test]
    fn what_makes_no_sense_anywhere_is_a_usage_error_that_names_it() {
        for (args, says) in [
            (
                &["--hostname", "a_b"][..],
                "reading '--hostname a_b': it has more",
            ),
            (
                &["--timezone", "../etc/passwd"],
                "reading '--timezone ../etc/passwd': ",
            ),
            (&["--keymap", "a/b"], "reading '--keymap a/b': "),
            (&["--locale", "a b"], "reading '--locale a b': "),
            (&["--user", "Ann"], "reading '--user Ann': "),
            (&["--user", "ann:a,,b"], "'' is no name of a group"),
            (&["--shell", "ann"], "not of the form NAME:VALUE"),
            (&["--shell", "ann:bash"], "the path is not absolute"),
            (
                &["--shell", "ann:/a", "--shell", "ann:/b"],
                "there are two for the user 'ann'",
            ),
            (
                &["--password-file", "a:x", "--password-hash-file", "a:y"],
                "there are two for the user 'a'",
            ),
            (&["--ssh-key", ":x"], "reading '--ssh-key :x': "),
            (&["--enable", "../x"], "reading '--enable ../x': "),
            (
                &["--mirror", "https://m.example.org/"],
                "it has no $repo in it",
            ),
            (&["--resolv-conf", "x"], "reading '--resolv-conf x': "),
        ] {
            let failure = plan_of(args, EMPTY).unwrap_err();
            assert_eq!(failure.code, Code::Usage, "{args:?}");
            assert!(failure.message.contains(says), "{failure}");
        }
    }
}
