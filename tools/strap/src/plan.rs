//! What is to be done: the command line, and what the document says, checked.

use crate::locked::{self, Locked};
use crate::vouched::Vouched;
use clap::Parser;
use pacman::Timeout;
use pacman::conf::Conf;
use pacman::gpg::{Gpg, StoredKeyring};
use rootfs::Inside;
use stage::members::Config;
use stage::{Code, Common, Document, Failure, members, quote};
use std::path::PathBuf;

/// Install packages into a root with pacman, and check the result
#[derive(Debug, Parser)]
#[command(
    version,
    help_expected = true,
    after_help = "Example:\n  ... | keyring | strap base archlinuxarm-keyring | strap nano openssh | reap | unmount"
)]
pub(crate) struct Strap {
    /// Packages or groups to install
    #[arg(value_name = "PKG", required_unless_present = "locked")]
    pub(crate) packages: Vec<String>,

    /// Install exactly the packages of FILE, the document of a finished root
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["packages", "loose", "no_refresh"]
    )]
    pub(crate) locked: Option<PathBuf>,

    /// Verify no signatures: use the loose configuration
    #[arg(long)]
    pub(crate) loose: bool,

    /// Download packages into the cache and stop
    #[arg(long)]
    pub(crate) download_only: bool,

    /// Use the repository databases in the root, and upgrade nothing else
    #[arg(long)]
    pub(crate) no_refresh: bool,

    /// Contact no server: use the databases and packages in the cache
    #[arg(long)]
    pub(crate) offline: bool,

    /// Do not fail when a scriptlet of PKG fails, or the hook of that name
    #[arg(long, value_name = "PKG")]
    pub(crate) allow_failed_scriptlet: Vec<String>,

    #[command(flatten)]
    pub(crate) timeout: Timeout,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// What is needed to install, checked.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) inside: Inside,
    /// How the root's files are checked: with nothing mounted over what pacman put there.
    pub(crate) bare: Inside,
    pub(crate) program: PathBuf,
    /// The configuration that is used.
    pub(crate) config: PathBuf,
    pub(crate) conf: Conf,
    pub(crate) cache: PathBuf,
    /// The packages of the lock, where there is one.
    pub(crate) lock: Option<Vec<Locked>>,
    /// Whose packages may come from which repository; none where nothing is verified.
    pub(crate) vouched: Option<Vouched>,
}

impl Strap {
    /// Decides what to run, and checks all that can be checked before anything is touched.
    pub(crate) fn plan(&self, document: &Document) -> Result<Plan, Failure> {
        for name in &self.packages {
            check_name(name)?;
        }
        let program: members::Pacman = document.need()?;
        let config: Config = document.need()?;
        let inside = Inside::of(document)?;
        let arch = document.arch().unwrap_or_default();
        let lock = self.locked.as_ref().map(|path| locked::read(path, arch));
        let lock = lock.transpose()?;
        program.check()?;
        let gpgdir = config.gpgdir();
        let vouched = (!self.loose).then(|| Vouched::of(document, &config)).transpose()?;
        let file = if self.loose { config.loose } else { config.strict };
        let again = |f: Failure| if f.code == Code::NotFound { f.hint("write it again with mkconf") } else { f };
        let conf = Conf::read(&file).map_err(again)?;
        if !self.loose {
            // Without a keyring or a gpg pacman fails late and with other words.
            StoredKeyring::read(&gpgdir)?;
            Gpg::find()?;
        }
        Ok(Plan {
            bare: Inside::of(document)?.bare(),
            inside,
            program: program.path,
            config: file,
            conf,
            cache: config.cache,
            lock,
            vouched,
        })
    }
}

/// Refuses what pacman would take for an option, and what cannot be the name of a package or group.
fn check_name(name: &str) -> Result<(), Failure> {
    let good = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"@._+-/=<>:~".contains(&b));
    let refuse = |why: &str| Failure::new(Code::Usage, format!("installing {}: {why}", quote(name)));
    if name.is_empty() || name.starts_with('-') || !good {
        return Err(refuse("invalid package name"));
    }
    // To pacman the first part of a path is a repository.
    if name.starts_with(['.', '/']) || name.contains(".pkg.tar") {
        return Err(refuse("this is a file, and packages come from repositories")
            .hint("make it a repository: repo-add DIR/NAME.db.tar.gz FILE, and mkconf --repo NAME=file://DIR"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_pacman_would_misread_are_refused() {
        for good in ["base", "core/bash", "lib32-gcc-libs", "gtk2+extra", "foo=1:2.0-1", "r8168~x"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        let files = ["./a", "../a/b", "/a", "a-1-1-any.pkg.tar.zst", "a/b.pkg.tar"];
        for bad in ["", "-Syu", "--root=/", "a b", "a\nb", "$(id)"].into_iter().chain(files) {
            assert_eq!(check_name(bad).unwrap_err().code, Code::Usage, "{bad}");
        }
    }
}
