//! `strap` installs packages into the root, in one line: resolve, download, install, check, record.
//!
//! pacman runs twice, to download and to install: a pacman that still holds its downloads open when it runs scriptlets can hang
//! for ever (7.x with curl 8.20 and later), and what is downloaded once need not be downloaded again.
//!
//! pacman exits 0 when every scriptlet failed. So what it prints and what it logs is read, and a scriptlet or hook that
//! failed, or never ran, is a failure of ours, with the package's name.

mod files;
mod interrupted;
mod locked;
mod receipt;
mod scriptlets;
mod transaction;

use clap::Parser;
use interrupted::InterruptedTransaction;
use locked::{Locked, LockedRepository};
use pacman::conf::Conf;
use pacman::diagnosis::gpg::{Gpg, Kept};
use pacman::lock::{self, Purpose};
use pacman::{Pacman, Timeout, records};
use receipt::Receipt;
use rootfs::Inside;
use stage::members::Config;
use stage::{Code, Common, Context, Document, Failure, Kind, Stage, members, quote};
use std::path::PathBuf;
use std::process::ExitCode;
use transaction::{Installer, Targets};

/// Install packages into a root with pacman, and check the result
#[derive(Debug, Parser)]
#[command(
    version,
    help_expected = true,
    after_help = "Example:\n  ... | keyring | strap base archlinuxarm-keyring | strap nano openssh | reap | unmount"
)]
struct Strap {
    /// Packages or groups to install
    #[arg(value_name = "PKG", required_unless_present = "locked")]
    packages: Vec<String>,

    /// Install exactly the packages of FILE, the document of a finished root
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["packages", "loose", "no_refresh"]
    )]
    locked: Option<PathBuf>,

    /// Verify no signatures: use the loose configuration
    #[arg(long)]
    loose: bool,

    /// Download packages into the cache and stop
    #[arg(long)]
    download_only: bool,

    /// Use the repository databases in the root, and upgrade nothing else
    #[arg(long)]
    no_refresh: bool,

    /// Contact no server: use the databases and packages in the cache
    #[arg(long)]
    offline: bool,

    /// Do not fail when a scriptlet of PKG fails, or the hook of that name
    #[arg(long, value_name = "PKG")]
    allow_failed_scriptlet: Vec<String>,

    #[command(flatten)]
    timeout: Timeout,

    #[command(flatten)]
    common: Common,
}

/// What is needed to install, checked.
#[derive(Debug)]
struct Plan {
    inside: Inside,
    /// How the root's files are checked: with nothing mounted over what pacman put there.
    bare: Inside,
    program: PathBuf,
    /// The configuration that is used.
    config: PathBuf,
    conf: Conf,
    cache: PathBuf,
    /// The packages of the lock, where there is one.
    lock: Option<Vec<Locked>>,
}

impl Stage for Strap {
    const KIND: Kind = Kind::Make;

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, context: &Context, document: &mut Document) -> Result<(), Failure> {
        let mut plan = self.plan(document)?;
        self.timeout.watch(context, &mut plan.inside);
        let mut installer = Installer {
            options: self,
            plan: &plan,
            pacman: Pacman {
                context,
                inside: &plan.inside,
                program: &plan.program,
                config: plan.config.clone(),
                repos: plan.conf.repos.clone(),
                cache: &plan.cache,
                verifies: !self.loose,
                offline: self.offline,
            },
            receipt: Receipt::of(document)?,
        };
        let lock = lock::take(plan.inside.root(), context, Purpose::Install)?;
        let result = self.install(&mut installer, lock.stale);
        if self.loose && !self.download_only {
            document.record("strap", &members::Strap { loose: true });
        }
        // Also after a failure: what is installed is installed.
        let recorded = installer.receipt.record(plan.inside.root(), document);
        drop(lock);
        result.and(recorded)
    }
}

impl Strap {
    /// Decides what to run, and checks all that can be checked before anything is touched.
    fn plan(&self, document: &Document) -> Result<Plan, Failure> {
        for name in &self.packages {
            check_name(name)?;
        }
        let program: members::Pacman = document.need("pacman", "fetch-pacman")?;
        let config: Config = document.need("config", "mkconf")?;
        let inside = Inside::of(document)?;
        let arch = document.text("arch").unwrap_or_default();
        let lock = self.locked.as_ref().map(|path| locked::read(path, arch));
        let lock = lock.transpose()?;
        program.check()?;
        let gpgdir = config.gpgdir();
        let file = match self.loose {
            true => config.loose,
            false => config.strict,
        };
        let conf = Conf::read(&file).map_err(|failure| match failure.code {
            Code::NotFound => failure.hint("write it again with mkconf"),
            _ => failure,
        })?;
        if !self.loose {
            // Without a keyring or a gpg pacman fails late and with other words.
            Kept::read(&gpgdir)?;
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
        })
    }

    /// Installs the targets, and with them again what an earlier transaction left incomplete. `stale` says that a pacman was
    /// killed.
    fn install(&self, installer: &mut Installer<'_>, stale: bool) -> Result<(), Failure> {
        let (plan, context) = (installer.plan, installer.pacman.context);
        let root = plan.inside.root();
        // A download changes nothing that is installed: what is incomplete is left to the run that repairs it.
        let interrupted = match self.download_only {
            true => None,
            false => interrupted::find(root, stale)?,
        };
        // A record that is removed takes the reason along.
        let asked = installer.receipt.explicit(root)?;
        let repair = interrupted.is_some();
        let InterruptedTransaction { lost, incomplete } = match interrupted {
            Some(logged) => interrupted::clear(&plan.bare, logged)?,
            None => InterruptedTransaction::default(),
        };
        if repair {
            context.warn(format_args!(
                "an earlier transaction was interrupted: {} of its packages are installed again",
                incomplete.len() + lost.len()
            ));
        }
        let targets = match &plan.lock {
            Some(lock) => {
                let (installed, _) = installer.receipt.packages(root)?;
                let wanted = locked::missing(lock, &installed, &incomplete)?;
                Targets::Locked(LockedRepository::new(&installer.pacman, wanted)?)
            }
            None => Targets::Names(self.packages.iter().chain(&incomplete).cloned().collect()),
        };
        installer.transact(&targets, repair)?;
        if self.download_only {
            return Ok(());
        }
        if let Some(lock) = &plan.lock {
            // To pacman all files are alike.
            return installer.mark_explicit(locked::explicit(lock), &[]);
        }
        // A dependency is there by now. What nobody asked for any more is installed all the same: its files, which no package
        // would own, would conflict with the next package that has them.
        let (installed, _) = records::installed(root)?;
        let is_there = |name: &&String| installed.iter().any(|one| one.package.name == **name);
        let absent: Vec<_> = lost
            .iter()
            .filter(|name| !is_there(name))
            .cloned()
            .collect();
        installer.transact(&Targets::Dependencies(absent), true)?;
        let explicit = lost.intersection(&asked).cloned().collect();
        installer.mark_explicit(explicit, &self.packages)
    }
}

/// Refuses what pacman would take for an option, and what cannot be the name of a package or group.
fn check_name(name: &str) -> Result<(), Failure> {
    let good = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"@._+-/=<>:~".contains(&b));
    let refuse =
        |why: &str| Failure::new(Code::Usage, format!("installing {}: {why}", quote(name)));
    if name.is_empty() || name.starts_with('-') || !good {
        return Err(refuse("invalid package name"));
    }
    // To pacman the first part of a path is a repository.
    if name.starts_with(['.', '/']) || name.contains(".pkg.tar") {
        return Err(refuse("this is a file, and packages come from repositories").hint(
            "make it a repository: repo-add DIR/NAME.db.tar.gz FILE, and mkconf --repo NAME=file://DIR",
        ));
    }
    Ok(())
}

fn main() -> ExitCode {
    rootfs::seal_descriptors();
    stage::main::<Strap>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_pacman_would_misread_are_refused() {
        for good in [
            "base",
            "core/bash",
            "lib32-gcc-libs",
            "gtk2+extra",
            "foo=1:2.0-1",
            "r8168~x",
        ] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        let files = [
            "./a",
            "../a/b",
            "/a",
            "a-1-1-any.pkg.tar.zst",
            "a/b.pkg.tar",
        ];
        for bad in ["", "-Syu", "--root=/", "a b", "a\nb", "$(id)"]
            .into_iter()
            .chain(files)
        {
            assert_eq!(check_name(bad).unwrap_err().code, Code::Usage, "{bad}");
        }
    }
}
