//! What is installed: the texts in `var/lib/pacman/local/NAME-VERSION/`.
//!
//! libalpm's be_local.c writes and reads them. Opening the files is the caller's, who knows how to
//! stay inside the root.

use crate::sections::{self, Arity};
use crate::{Error, Result, name};

const DOING: &str = "reading local database";

/// Why a package is installed: `%REASON%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reason {
    /// Somebody asked for it.
    #[default]
    Explicit,
    /// Another package needs it.
    Dependency,
}

/// One installed package.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// `%NAME%`
    pub name: String,
    /// `%VERSION%`, with epoch and release.
    pub version: String,
    /// `%BASE%`
    pub base: Option<String>,
    /// `%ARCH%`
    pub arch: Option<String>,
    /// `%VALIDATION%`: how the package was checked when it was installed, of `none`, `md5`,
    /// `sha256` and `pgp`.
    pub validation: Vec<String>,
    /// `%INSTALLDATE%`, in seconds since the epoch.
    pub install_date: Option<u64>,
    /// `%REASON%`
    pub reason: Reason,
    /// `%INSTALLED_DB%`: the repository that it was installed from. No pacman up to 7.1 writes it.
    pub repo: Option<String>,
}

/// Parses a `desc`.
///
/// # Errors
///
/// When it has no name or version, or not a good one.
pub fn desc(text: &[u8]) -> Result<Installed> {
    let arity = |key: &[u8]| match key {
        b"NAME" | b"VERSION" | b"BASE" | b"ARCH" | b"INSTALLDATE" | b"REASON" | b"INSTALLED_DB" => {
            Some(Arity::One)
        }
        b"VALIDATION" => Some(Arity::List),
        _ => None,
    };
    let mut installed = Installed::default();
    sections::read(text, arity, |key, value| {
        let value = String::from_utf8_lossy(value);
        let checked = |good: fn(&str) -> bool| {
            if good(&value) {
                return Ok(value.clone().into_owned());
            }
            let key = String::from_utf8_lossy(key);
            let reason = format!("%{key}%: '{value}' is refused");
            Err(Error::malformed(DOING, reason))
        };
        match key {
            b"NAME" => installed.name = checked(name::is_name)?,
            b"VERSION" => installed.version = checked(name::is_version)?,
            b"BASE" => installed.base = Some(checked(name::is_name)?),
            b"ARCH" => installed.arch = Some(checked(name::is_arch)?),
            b"VALIDATION" => installed.validation.push(value.into_owned()),
            b"INSTALLDATE" => installed.install_date = value.parse().ok(),
            b"INSTALLED_DB" => installed.repo = Some(value.into_owned()),
            b"REASON" if value == "1" => installed.reason = Reason::Dependency,
            _ => {}
        }
        Ok(())
    })?;
    for (key, value) in [("NAME", &installed.name), ("VERSION", &installed.version)] {
        if value.is_empty() {
            return Err(Error::malformed(DOING, format!("no %{key}%")));
        }
    }
    Ok(installed)
}

/// Parses a `files`: the paths below the root, directories with a slash at their end.
///
/// What is not UTF-8 is replaced, so such a path can be shown but not opened: [`paths`] has the bytes.
#[must_use]
pub fn files(text: &[u8]) -> Vec<String> {
    let lossy = |path: &&[u8]| String::from_utf8_lossy(path).into_owned();
    paths(text).iter().map(lossy).collect()
}

/// [`files`], as the bytes that they are.
#[must_use]
pub fn paths(text: &[u8]) -> Vec<&[u8]> {
    let mut paths = Vec::new();
    let arity = |key: &[u8]| (key == b"FILES").then_some(Arity::List);
    let done: std::result::Result<(), std::convert::Infallible> =
        sections::read(text, arity, |_, path| {
            paths.push(path);
            Ok(())
        });
    match done {
        Ok(()) => paths,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What pacman 6.0.2 wrote, shortened.
    const BASH: &[u8] = b"%NAME%\nbash\n\n%VERSION%\n5.2.15-2\n\n%BASE%\nbash\n\n\
        %DESC%\nThe GNU Bourne Again shell\n\n%URL%\nhttps://www.gnu.org/software/bash/\n\n\
        %ARCH%\naarch64\n\n%BUILDDATE%\n1670000000\n\n%INSTALLDATE%\n1700000000\n\n\
        %PACKAGER%\nSome One <some@one>\n\n%SIZE%\n9000\n\n%REASON%\n1\n\n%GROUPS%\nbase\n\n\
        %LICENSE%\nGPL\n\n%VALIDATION%\nsha256\npgp\n\n%DEPENDS%\nreadline\nglibc\n\n";

    #[test]
    fn a_desc() {
        let expected = Installed {
            name: "bash".into(),
            version: "5.2.15-2".into(),
            base: Some("bash".into()),
            arch: Some("aarch64".into()),
            validation: vec!["sha256".into(), "pgp".into()],
            install_date: Some(1_700_000_000),
            reason: Reason::Dependency,
            repo: None,
        };
        assert_eq!(desc(BASH).unwrap(), expected);
        let short = desc(b"%NAME%\nx\n%VERSION%\n1-1").unwrap();
        assert_eq!((&*short.name, &*short.version), ("x", "1-1"));
        assert_eq!(short.reason, Reason::Explicit);
        assert!(short.validation.is_empty());
    }

    #[test]
    fn refused() {
        for (text, reason) in [
            (&b""[..], "no %NAME%"),
            (b"%NAME%\nx\n", "no %VERSION%"),
            (b"%NAME%\n../x\n", "%NAME%: '../x' is refused"),
            (b"%NAME%\n\xff\n", "%NAME%: '\u{fffd}' is refused"),
            (
                b"%NAME%\nx\n\n%VERSION%\n1/2\n",
                "%VERSION%: '1/2' is refused",
            ),
        ] {
            let e = desc(text).unwrap_err().to_string();
            assert_eq!(e, format!("reading local database: {reason}"));
        }
    }

    #[test]
    fn cut_off_never_panics() {
        for end in 0..BASH.len() {
            let _result = desc(&BASH[..end]);
            let _paths = files(&BASH[..end]);
        }
    }

    #[test]
    fn a_list_of_files() {
        let text = b"%FILES%\netc/\netc/bash.bashrc\ncaf\xe9\n\n%BACKUP%\netc/bash.bashrc\tabc\n";
        assert_eq!(files(text), ["etc/", "etc/bash.bashrc", "caf\u{fffd}"]);
        assert!(files(b"").is_empty());
        assert!(files(b"%FILES%").is_empty());
        assert!(files(b"\n\n%BACKUP%\nx\n").is_empty());
    }
}
