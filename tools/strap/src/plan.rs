//! What is to be done: the command line, and what the document says, checked.

use crate::initramfs::Initramfs;
use crate::local::{self, Target};
use crate::locked::{self, Locked};
use crate::mask;
use crate::vouched::Vouched;
use clap::Parser;
use pacman::Timeout;
use pacman::conf::Conf;
use pacman::gpg::{Gpg, StoredKeyring};
use rootfs::Inside;
use stage::members::Config;
use stage::{Code, Common, Document, Doing, Failure, members, quote};
use std::path::{Path, PathBuf};

/// Install packages into a root with pacman, and check the result
#[derive(Debug, Parser)]
#[command(
    version,
    help_expected = true,
    after_help = "Example:\n  ... | keyring | strap base archlinuxarm-keyring | strap nano openssh | reap | unmount"
)]
pub(crate) struct Strap {
    /// Packages, groups, or package files (a path or URL) to install; none: upgrade what is installed
    #[arg(value_name = "PKG")]
    pub(crate) packages: Vec<String>,

    /// Install what FILE lists, too: names and package files, and comments after '#'
    #[arg(long, value_name = "FILE", conflicts_with = "locked")]
    pub(crate) packages_from: Vec<PathBuf>,

    /// Install the package file FILE, which is not signed
    #[arg(long, value_name = "FILE", conflicts_with = "locked")]
    pub(crate) unsigned: Vec<String>,

    /// Install exactly the packages of FILE, the document of a finished root
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["packages", "loose", "no_refresh"]
    )]
    pub(crate) locked: Option<PathBuf>,

    /// Remove the installed package PKG, after all else
    #[arg(long, value_name = "PKG", conflicts_with_all = ["locked", "download_only"])]
    pub(crate) remove: Vec<String>,

    /// Let what is installed replace the package PKG, which conflicts with it
    #[arg(long, value_name = "PKG", conflicts_with = "locked")]
    pub(crate) replace: Vec<String>,

    /// Overwrite files that conflict and match GLOB
    #[arg(long, value_name = "GLOB", conflicts_with = "locked")]
    pub(crate) overwrite: Vec<String>,

    /// Do not upgrade the package PKG
    #[arg(long, value_name = "PKG", conflicts_with = "locked")]
    pub(crate) ignore: Vec<String>,

    /// Take the package NAME of this version for installed
    #[arg(long, value_name = "NAME=VERSION", conflicts_with = "locked")]
    pub(crate) assume_installed: Vec<String>,

    /// Install the packages as dependencies
    #[arg(long, conflicts_with = "locked")]
    pub(crate) asdeps: bool,

    /// Verify no signatures: use the loose configuration
    #[arg(long)]
    pub(crate) loose: bool,

    /// Download packages into the cache and stop
    #[arg(long)]
    pub(crate) download_only: bool,

    /// Show what would be done, and do nothing
    #[arg(long = "plan", conflicts_with_all = ["locked", "download_only"])]
    pub(crate) plan_only: bool,

    /// Use the repository databases in the root, and upgrade nothing else
    #[arg(long)]
    pub(crate) no_refresh: bool,

    /// Contact no server: use the databases and packages in the cache
    #[arg(long)]
    pub(crate) offline: bool,

    /// Include all drivers in the initramfs, or let its maker decide by the
    /// devices of this machine
    #[arg(long, value_name = "any|host", hide_possible_values = true, default_value = "any")]
    pub(crate) initramfs: Initramfs,

    /// Do not fail when a scriptlet of PKG fails, or the hook of that name
    #[arg(long, value_name = "PKG")]
    pub(crate) allow_failed_scriptlet: Vec<String>,

    /// Do not run the hook NAME of a package
    #[arg(long, value_name = "NAME", value_parser = mask::hook_name, conflicts_with = "download_only")]
    pub(crate) mask_hook: Vec<String>,

    #[command(flatten)]
    pub(crate) timeout: Timeout,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// The longest list of packages that is read, in bytes.
const LIST: u64 = 1 << 20;

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
    /// The packages and groups of the command line.
    pub(crate) names: Vec<String>,
    /// Its package files.
    pub(crate) files: Vec<Target>,
    /// The packages of the lock, where there is one.
    pub(crate) lock: Option<Vec<Locked>>,
    /// Whose packages may come from which repository; none where nothing is verified.
    pub(crate) vouched: Option<Vouched>,
}

impl Strap {
    /// Decides what to run, and checks all that can be checked before anything is touched.
    pub(crate) fn plan(&self, document: &Document) -> Result<Plan, Failure> {
        let mut targets = self.packages.clone();
        for path in &self.packages_from {
            targets.extend(listed(path)?);
        }
        let (files, names): (Vec<String>, Vec<String>) = targets.into_iter().partition(|target| local::is_file(target));
        names.iter().chain(&self.assume_installed).try_for_each(|name| check_name(name, "installing"))?;
        self.ignore.iter().try_for_each(|name| check_name(name, "ignoring"))?;
        self.remove.iter().chain(&self.replace).try_for_each(|name| check_name(name, "removing"))?;
        let has_targets = !(names.is_empty() && files.is_empty() && self.unsigned.is_empty());
        if self.no_refresh && !has_targets && self.remove.is_empty() {
            return Err(Failure::new(Code::Usage, "--no-refresh upgrades only what is named, and no package is"));
        }
        let files = files.iter().map(|file| Target::parse(file, true));
        let files: Vec<Target> =
            files.chain(self.unsigned.iter().map(|file| Target::parse(file, false))).collect::<Result<_, _>>()?;
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
            names,
            files,
            lock,
            vouched,
        })
    }
}

/// Reads a list of packages: words, and comments after `#`.
fn listed(path: &Path) -> Result<Vec<String>, Failure> {
    let doing = || format!("reading the list {}", quote(path));
    let text =
        stage::file::open(path).and_then(|file| stage::file::read_to_limit(file, LIST)).doing(Code::Usage, doing)?;
    let text = String::from_utf8(text).doing(Code::Usage, doing)?;
    let words = text.lines().flat_map(|line| line.split('#').next().unwrap_or_default().split_whitespace());
    let words: Vec<String> = words.map(str::to_owned).collect();
    if words.is_empty() {
        return Err(Failure::new(Code::Usage, format!("{}: it names no package", doing())));
    }
    Ok(words)
}

/// Refuses what pacman would take for an option, and what cannot be the name of a package or group.
fn check_name(name: &str, doing: &str) -> Result<(), Failure> {
    let good = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"@._+-/=<>:~".contains(&b));
    let refuse = |why: &str| Failure::new(Code::Usage, format!("{doing} {}: {why}", quote(name)));
    if name.is_empty() || name.starts_with('-') || !good {
        return Err(refuse("invalid package name"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_pacman_would_misread_are_refused() {
        for good in ["base", "core/bash", "lib32-gcc-libs", "gtk2+extra", "foo=1:2.0-1", "r8168~x"] {
            assert!(check_name(good, "installing").is_ok(), "{good}");
        }
        for bad in ["", "-Syu", "--root=/", "a b", "a\nb", "$(id)"] {
            assert_eq!(check_name(bad, "installing").unwrap_err().code, Code::Usage, "{bad}");
        }
    }
}
