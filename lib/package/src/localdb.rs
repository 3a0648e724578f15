//! Installed packages: the texts in `var/lib/pacman/local/NAME-VERSION/`.
//!
//! libalpm's be_local.c writes and reads them. Opening the files is left to the caller, who knows how to stay inside the
//! root.

use crate::relations::Relations;
use crate::sections::{self, checked};
use crate::{Error, Result, name};

const DOING: &str = "reading local database";

/// The keys with one value.
const SINGLE: [&[u8]; 7] = [b"NAME", b"VERSION", b"ARCH", b"BUILDDATE", b"INSTALLDATE", b"REASON", b"INSTALLED_DB"];

/// Why a package is installed: `%REASON%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reason {
    /// A user asked for it.
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
    /// `%ARCH%`
    pub arch: Option<String>,
    /// `%BUILDDATE%`, in seconds since 1970.
    pub built: Option<u64>,
    /// `%VALIDATION%`: how the package was checked when it was installed, of `none`, `md5`, `sha256` and `pgp`.
    pub validation: Vec<String>,
    /// `%INSTALLDATE%`, in seconds since 1970.
    pub install_date: Option<u64>,
    /// `%SIZE%`: the size of its files in bytes, as its maker says.
    pub size: Option<u64>,
    /// `%REASON%`
    pub reason: Reason,
    /// `%INSTALLED_DB%`: the repository that it was installed from. No pacman up to 7.1 writes it.
    pub repo: Option<String>,
    /// What it is to others.
    pub relations: Relations,
}

/// Parses a `desc`.
///
/// # Errors
///
/// When it has no valid name or version.
pub fn desc(text: &[u8]) -> Result<Installed> {
    let mut installed = Installed::default();
    let read = sections::read(text, &SINGLE, |key, value| {
        let text = String::from_utf8_lossy(value);
        match key {
            b"NAME" => installed.name = checked(key, value, name::is_name)?,
            b"VERSION" => installed.version = checked(key, value, name::is_version)?,
            b"ARCH" => installed.arch = Some(checked(key, value, name::is_arch)?),
            b"BUILDDATE" => installed.built = text.parse().ok(),
            b"VALIDATION" => installed.validation.push(text.into_owned()),
            b"INSTALLDATE" => installed.install_date = text.parse().ok(),
            b"SIZE" => installed.size = text.parse().ok(),
            b"INSTALLED_DB" => installed.repo = Some(text.into_owned()),
            b"REASON" if text == "1" => installed.reason = Reason::Dependency,
            _ => _ = installed.relations.take(key, value),
        }
        Ok(())
    });
    let required = [("NAME", &installed.name), ("VERSION", &installed.version)];
    read.and_then(|()| sections::required(&required)).map_err(|reason| Error::malformed(DOING, reason))?;
    Ok(installed)
}

/// Parses a `desc`: what the package requires (`%DEPENDS%`), each a name and perhaps a version.
#[must_use]
pub fn depends(text: &[u8]) -> Vec<String> {
    texts(text, b"DEPENDS")
}

/// Parses a `desc`: what the package is as well (`%PROVIDES%`), likewise.
#[must_use]
pub fn provides(text: &[u8]) -> Vec<String> {
    texts(text, b"PROVIDES")
}

fn texts(text: &[u8], key: &[u8]) -> Vec<String> {
    list(text, key).into_iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}

/// Parses a `files`: the paths below the root, directories with a slash at their end.
#[must_use]
pub fn paths(text: &[u8]) -> Vec<&[u8]> {
    list(text, b"FILES")
}

/// Parses a `files`: the configuration files, which pacman does not overwrite (`%BACKUP%`).
#[must_use]
pub fn backup(text: &[u8]) -> Vec<String> {
    let entries = list(text, b"BACKUP").into_iter().map(String::from_utf8_lossy);
    let path = |entry: std::borrow::Cow<'_, str>| Some(entry.split_once('\t')?.0.to_owned());
    entries.filter_map(path).collect()
}

fn list<'a>(text: &'a [u8], key: &[u8]) -> Vec<&'a [u8]> {
    let mut list = Vec::new();
    let Ok(()) = sections::read(text, &[], |is, value| {
        list.extend((is == key).then_some(value));
        Ok::<_, std::convert::Infallible>(())
    });
    list
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
        assert_eq!(depends(BASH), ["readline", "glibc"]);
        assert_eq!(provides(BASH), [""; 0]);
        let expected = Installed {
            name: "bash".into(),
            version: "5.2.15-2".into(),
            arch: Some("aarch64".into()),
            built: Some(1_670_000_000),
            validation: vec!["sha256".into(), "pgp".into()],
            install_date: Some(1_700_000_000),
            size: Some(9000),
            reason: Reason::Dependency,
            ..Installed::default()
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
            (b"%NAME%\n../x\n", "invalid %NAME%: '../x'"),
            (b"%NAME%\n\xff\n", "invalid %NAME%: '\u{fffd}'"),
            (b"%NAME%\nx\n\n%VERSION%\n1/2\n", "invalid %VERSION%: '1/2'"),
        ] {
            let e = desc(text).unwrap_err().to_string();
            assert_eq!(e, format!("reading local database: {reason}"));
        }
    }

    #[test]
    fn cut_off_never_panics() {
        for end in 0..BASH.len() {
            let _result = desc(&BASH[..end]);
            let _paths = paths(&BASH[..end]);
        }
    }

    #[test]
    fn a_list_of_files() {
        let text = b"%FILES%\netc/\netc/bash.bashrc\ncaf\xe9\n\n%BACKUP%\netc/bash.bashrc\tabc\n";
        assert_eq!(paths(text), [&b"etc/"[..], b"etc/bash.bashrc", b"caf\xe9"]);
        assert_eq!(backup(text), ["etc/bash.bashrc"]);
        assert!(paths(b"").is_empty());
        assert!(paths(b"%FILES%").is_empty());
        assert!(paths(b"\n\n%BACKUP%\nx\n").is_empty());
    }
}
