//! `--set`: a line of `[options]`, as this pacman takes it.

use crate::render::{Version, known};
use distro::check;
use stage::message::meant;
use stage::{Code, Failure};

/// `--set KEY=VALUE`, or `--set KEY` for a switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) key: String,
    pub(crate) value: Option<String>,
}

/// What an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    /// Nothing: it is there or not.
    Nothing,
    /// One value: the last line counts.
    Value,
    /// Words: the lines add up.
    Words,
}

use Takes::{Nothing, Value, Words};

/// The first pacman that this program is for.
const FIRST: Version = Version(6, 0);
/// The newest one whose options are known.
const NEWEST: Version = Version(7, 1);

/// What `--set` takes, beside what `options.conf` has, and the first pacman that knows it. `tests/tests/pacmans.rs` asks
/// pacman-conf(8) of each version.
const KEYS: [(&str, Takes, Version); 19] = [
    ("Color", Nothing, FIRST),
    ("CleanMethod", Words, FIRST),
    ("DisableDownloadTimeout", Nothing, FIRST),
    ("DisableSandbox", Nothing, Version(7, 0)),
    ("DisableSandboxFilesystem", Nothing, Version(7, 1)),
    ("DisableSandboxSyscalls", Nothing, Version(7, 1)),
    ("HoldPkg", Words, FIRST),
    ("ILoveCandy", Nothing, FIRST),
    ("IgnoreGroup", Words, FIRST),
    ("IgnorePkg", Words, FIRST),
    ("LocalFileSigLevel", Value, FIRST),
    ("NoExtract", Words, FIRST),
    ("NoProgressBar", Nothing, FIRST),
    ("NoUpgrade", Words, FIRST),
    ("ParallelDownloads", Value, FIRST),
    ("RemoteFileSigLevel", Value, FIRST),
    ("SigLevel", Value, FIRST),
    ("UseSyslog", Nothing, FIRST),
    ("VerbosePkgLists", Nothing, FIRST),
];

impl Setting {
    /// Reads `KEY=VALUE` or `KEY`, and refuses what this pacman does not know, and what the document or the other tools rely on.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`].
    pub(crate) fn parse(text: &str, version: Option<Version>) -> Result<Self, Failure> {
        let wrong = |what| Failure::new(Code::Usage, format!("reading --set: {what}"));
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key.trim(), Some(value.trim_matches(' '))),
            None => (text.trim(), None),
        };
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric()) {
            let key = key.escape_default();
            let what = format!("'{key}' is not the name of an option of pacman.conf");
            return Err(wrong(what).hint("write --set KEY=VALUE, as in --set IgnorePkg=linux"));
        }
        let refused = known().find(|known| known.key == key);
        if let Some((why, hint)) = refused.and_then(|known| known.refused) {
            return Err(wrong(format!("{key} cannot be set: {why}")).hint(hint));
        }
        check_key(key, value, version)?;
        let of_value = |what| wrong(format!("the value of {key}: {what}"));
        if let Some(value) = value {
            check::text(value).map_err(of_value)?;
        }
        // Both apply to packages that come from a network.
        if matches!(key, "SigLevel" | "RemoteFileSigLevel") {
            check::strict_siglevel(None, value.unwrap_or_default()).map_err(|what| {
                of_value(what)
                    .hint("for one repository alone there is --repo NAME=URL,siglevel=WORDS; for all, strap --loose")
            })?;
        }
        Ok(Self { key: key.to_owned(), value: value.map(str::to_owned) })
    }

    /// Returns whether several lines of it add up.
    pub(crate) fn adds_up(&self) -> bool {
        KEYS.iter().any(|(key, takes, _)| *key == self.key && *takes == Words)
    }
}

/// Refuses what this pacman would ignore with a warning.
fn check_key(key: &str, value: Option<&str>, version: Option<Version>) -> Result<(), Failure> {
    let wrong = |what: String| Failure::new(Code::Usage, format!("reading --set: {what}"));
    let other = [("XferCommand", Value, FIRST)];
    let Some((_, takes, since)) = KEYS.iter().chain(&other).find(|(name, ..)| *name == key) else {
        if version.is_some_and(|version| version > NEWEST) {
            return Ok(());
        }
        let names = || KEYS.iter().chain(&other).map(|(name, ..)| *name);
        let hint = format!("{}there are {}", meant(key, &[], names()), names().collect::<Vec<_>>().join(", "));
        return Err(wrong(format!("pacman has no option '{key}'")).hint(hint));
    };
    if let Some(is) = version.filter(|version| version < since) {
        let what = format!("{key} is of pacman {}.{}, and this is {}.{}", since.0, since.1, is.0, is.1);
        return Err(wrong(what).hint("leave it out, or fetch a newer pacman"));
    }
    match (takes, value) {
        (Nothing, Some(_)) => {
            Err(wrong(format!("{key} is a switch, and takes no value")).hint(format!("write --set {key}")))
        }
        (Value | Words, None | Some("")) => {
            Err(wrong(format!("{key} needs a value")).hint(format!("write --set {key}=VALUE")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_the_contract_is_refused() {
        for text in [
            "RootDir=/",
            "DownloadUser=alpm",
            "DownloadUser=",
            "CheckSpace",
            "CacheDir=/x",
            "Include=/etc/pacman.conf",
            "SigLevel=Never",
            "SigLevel",
            "SigLevel = DatabaseOptional",
            "RemoteFileSigLevel=Optional",
            "Color=\nSigLevel = Never",
            "Color\nSigLevel=Never",
            "IgnorePkg=",
            "=x",
            "[core]=x",
        ] {
            assert!(Setting::parse(text, None).is_err(), "{text}");
        }
    }

    #[test]
    fn an_option_that_this_pacman_does_not_know() {
        for (text, version, message, hint) in [
            (
                "IgnorPkg=x",
                Version(7, 1),
                "pacman has no option 'IgnorPkg'",
                "did you mean 'IgnorePkg'? there are Color, ",
            ),
            ("TotalDownload", Version(6, 0), "pacman has no option 'TotalDownload'", ""),
            ("DisableSandbox", Version(6, 0), "DisableSandbox is of pacman 7.0, and this is 6.0", "leave it out"),
            (
                "DisableSandboxSyscalls",
                Version(7, 0),
                "DisableSandboxSyscalls is of pacman 7.1, and this is 7.0",
                "leave",
            ),
            ("Color=always", Version(7, 1), "Color is a switch, and takes no value", "write --set Color"),
            ("NoExtract", Version(7, 1), "NoExtract needs a value", "write --set NoExtract=VALUE"),
        ] {
            let failure = Setting::parse(text, Some(version)).unwrap_err();
            assert_eq!(failure.message, format!("reading --set: {message}"));
            assert!(failure.hint.unwrap().starts_with(hint), "{text}");
        }
        assert!(Setting::parse("OfTomorrow=x", Some(Version(8, 0))).is_ok());
        assert!(Setting::parse("DisableSandbox", None).is_ok());
    }
}
