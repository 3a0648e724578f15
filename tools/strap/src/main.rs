//! `strap` installs packages into the root: pacman downloads, then pacman commits.
//!
//! Two runs of pacman and not one: a pacman that still holds its downloads open when it runs scriptlets can hang for
//! ever (7.x with curl 8.20 and later), and what is downloaded once need not be again.
//!
//! pacman exits 0 when every scriptlet failed. So what it prints and what it logs is read, and a scriptlet or hook that
//! failed, or never ran, is a failure of ours, with the package's name.

mod judge;
mod locked;
mod phase;
mod torn;

use clap::Parser;
use locked::{Locked, Workshop};
use pacman::diagnosis::archive::Cache;
use pacman::diagnosis::gpg::Kept;
use pacman::lock::{self, Purpose};
use pacman::{Mark, Pacman, Patience, records};
use phase::Phase;
use rootfs::{Inside, Root};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use stage::members::{Config, Package};
use stage::{Code, Common, Context, Document, Doing, Failure, Kind, Stage, quote};
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Install packages into a root with pacman, and say honestly how it went
#[derive(Debug, Parser)]
#[command(
    version,
    help_expected = true,
    after_help = "Example:\n  ... | keyring | strap base archlinuxarm-keyring | strap nano openssh | reap | unmount"
)]
struct Strap {
    /// The packages or groups to install
    #[arg(value_name = "PKG", required_unless_present = "locked")]
    packages: Vec<String>,

    /// Install just what FILE says, the document of a finished root, or nothing
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["packages", "loose", "no_refresh"]
    )]
    locked: Option<PathBuf>,

    /// Verify nothing: use the loose configuration, as the seed procedure does for its base
    #[arg(long)]
    loose: bool,

    /// Stop when everything is in the package cache
    #[arg(long)]
    download_only: bool,

    /// Use the repository databases that the root has
    #[arg(long)]
    no_refresh: bool,

    /// Ask no server: take the databases and packages from the cache
    #[arg(long)]
    offline: bool,

    /// Do not fail when a scriptlet of PKG fails, or the hook of that name
    #[arg(long, value_name = "PKG")]
    allow_failed_scriptlet: Vec<String>,

    #[command(flatten)]
    patience: Patience,

    #[command(flatten)]
    common: Common,
}

/// What is to be done, checked.
#[derive(Debug)]
struct Plan {
    inside: Inside,
    pacman: Pacman,
    /// Where packages are kept.
    cache: PathBuf,
    /// What is to be installed, where a lock says it.
    lock: Option<Vec<Locked>>,
}

impl Stage for Strap {
    const KIND: Kind = Kind::Make;

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, context: &Context, document: &mut Document) -> Result<(), Failure> {
        let mut plan = self.plan(document)?;
        self.patience.watch(context, &mut plan.inside);
        let lock = lock::take(plan.inside.root(), context, Purpose::Install)?;
        let unfinished = judge::unfinished(plan.inside.root(), lock.stale)?;
        let result = match &plan.lock {
            Some(locked) => self.apply_lock(context, &plan, locked, unfinished),
            None => self.apply(context, &plan, unfinished),
        };
        drop(lock);
        if self.loose && !self.download_only {
            document.record("strap", &stage::members::Strap { loose: true });
        }
        // Also after a failure: what is installed is installed.
        let recorded = self.record(&plan, document);
        result.and(recorded)
    }
}

impl Strap {
    /// Decides what to run, and checks all that can be checked before anything is touched.
    fn plan(&self, document: &Document) -> Result<Plan, Failure> {
        for name in &self.packages {
            check_name(name)?;
        }
        let program: stage::members::Pacman = document.need("pacman", "fetch-pacman")?;
        let config: Config = document.need("config", "mkconf")?;
        let inside = Inside::of(document)?;
        let lock = match &self.locked {
            Some(path) => Some(locked::read(
                path,
                document.text("arch").unwrap_or_default(),
            )?),
            None => None,
        };
        program.check()?;
        let file = if self.loose {
            &config.loose
        } else {
            &config.strict
        };
        check_config(file)?;
        if !self.loose {
            // Without a keyring pacman fails late and with other words.
            Kept::read(&config.gpgdir())?;
        }
        Ok(Plan {
            pacman: Pacman {
                program: program.path,
                config: file.clone(),
                verifies: !self.loose,
                offline: self.offline,
            },
            inside,
            cache: config.cache,
            lock,
        })
    }

    /// Installs; and first repairs what an earlier transaction left.
    fn apply(
        &self,
        context: &Context,
        plan: &Plan,
        unfinished: Option<Vec<String>>,
    ) -> Result<(), Failure> {
        // A download changes nothing that is installed; what was torn stays as it is, to be seen by the run that repairs.
        let Some(names) = unfinished.filter(|_| !self.download_only) else {
            return self
                .transact(context, plan, false, &self.packages)
                .map(drop);
        };
        let root = plan.inside.root();
        let interrupted = judge::interrupted(root)?;
        let torn = torn::clear(root, &judge::logged(root)?, interrupted.as_deref())?;
        let mut names: BTreeSet<_> = names.into_iter().chain(torn.doubtful).collect();
        names.retain(|name| !torn.lost.contains(name));
        context.warn(format_args!(
            "an earlier transaction ended half way: {} of its packages are installed again",
            names.len() + torn.lost.len()
        ));
        let mut targets = self.packages.clone();
        targets.extend(names);
        torn::mend(root, &self.transact(context, plan, true, &targets)?)?;
        // As a dependency, it is there by now. What nobody asked for any more is installed all the same: its files, which
        // no package would own, would be in the way of the next one that asks.
        let there = torn::names(root)?;
        let lost: Vec<_> = torn
            .lost
            .into_iter()
            .filter(|name| !there.contains(name))
            .collect();
        if lost.is_empty() {
            return Ok(());
        }
        torn::mend(root, &self.transact(context, plan, true, &lost)?)
    }

    /// Installs what a lock says; and first repairs what an earlier transaction left.
    fn apply_lock(
        &self,
        context: &Context,
        plan: &Plan,
        lock: &[Locked],
        unfinished: Option<Vec<String>>,
    ) -> Result<(), Failure> {
        let root = plan.inside.root();
        let mut torn: BTreeSet<String> = BTreeSet::new();
        let again = unfinished.is_some() && !self.download_only;
        if again {
            let interrupted = judge::interrupted(root)?;
            let found = torn::clear(root, &judge::logged(root)?, interrupted.as_deref())?;
            torn.extend(unfinished.into_iter().flatten().chain(found.doubtful));
            context.warn("an earlier transaction ended half way: its packages are installed again");
        }
        let mut wanted = locked::missing(lock, &records::packages(root)?)?;
        let is_torn = |one: &&Locked| torn.contains(&one.package.name);
        let repaired: Vec<_> = lock.iter().filter(is_torn).collect();
        wanted.extend(
            repaired
                .into_iter()
                .filter(|one| !wanted.contains(one))
                .collect::<Vec<_>>(),
        );
        if !wanted.is_empty() {
            let workshop = Workshop::make(root, &plan.pacman.config, &plan.cache, &wanted)?;
            let result = self.install_locked(context, plan, &workshop, &wanted, again);
            // The first failure is the one to report; what stays is removed by the next run.
            let cleared = workshop.clear();
            result.and(cleared)?;
        }
        if self.download_only {
            return Ok(());
        }
        self.set_reasons(context, plan, lock)
    }

    fn install_locked(
        &self,
        context: &Context,
        plan: &Plan,
        workshop: &Workshop,
        wanted: &[&Locked],
        again: bool,
    ) -> Result<(), Failure> {
        let (inside, cache) = (&plan.inside, &plan.cache);
        locked::fetch(context, &plan.pacman, inside, workshop, cache, wanted)?;
        if self.download_only {
            return Ok(());
        }
        let (pacman, files) = workshop.installing(&plan.pacman, cache, wanted);
        let mut args = vec!["-U", "--noconfirm", "--asdeps"];
        if again {
            args.extend(["--overwrite", "*"]);
        }
        let before = judge::log_length(inside.root())?;
        let marks = pacman.run(context, inside, "install", &args, &files)?;
        whole(inside.root(), &marks)?;
        if again {
            torn::mend(inside.root(), &marks)?;
        }
        self.judge(context, judge::problems(inside.root(), before, &marks)?)
    }

    /// Marks the packages that somebody asked for, where that is not done: to pacman all files are alike.
    fn set_reasons(&self, context: &Context, plan: &Plan, lock: &[Locked]) -> Result<(), Failure> {
        let explicit = locked::explicit(lock);
        let installed = records::packages(plan.inside.root())?;
        let unmarked = installed.into_iter().filter(|package| {
            explicit.contains(&package.name) && package.reason.as_deref() == Some("dependency")
        });
        let names: Vec<String> = unmarked.map(|package| package.name).collect();
        if names.is_empty() {
            return Ok(());
        }
        let args = ["-D", "--asexplicit", "--quiet"];
        let what = "mark what was asked for";
        plan.pacman
            .run(context, &plan.inside, what, &args, &names)
            .map(drop)
    }

    /// One transaction: downloads, commits, and judges. `again` is for repairs.
    fn transact(
        &self,
        context: &Context,
        plan: &Plan,
        again: bool,
        targets: &[String],
    ) -> Result<Vec<Mark>, Failure> {
        let refresh = !self.no_refresh;
        let phase = |download| Phase {
            download,
            refresh,
            again,
        };
        let (pacman, inside) = (&plan.pacman, &plan.inside);
        let args = phase(true).arguments();
        let marks = pacman.download(context, inside, &plan.cache, &args, targets)?;
        if self.download_only {
            return Ok(marks);
        }
        let before = judge::log_length(plan.inside.root())?;
        // Where pacman itself says that it failed, that is the failure, whatever its scriptlets did.
        let args = phase(false).arguments();
        let marks = pacman.run(context, inside, "install", &args, targets)?;
        whole(inside.root(), &marks)?;
        let problems = judge::problems(plan.inside.root(), before, &marks)?;
        self.judge(context, problems)?;
        Ok(marks)
    }

    /// Turns scriptlets and hooks that failed into a failure, but for those that the user allowed.
    fn judge(&self, context: &Context, problems: Vec<judge::Problem>) -> Result<(), Failure> {
        let (allowed, failed): (Vec<_>, Vec<_>) = problems
            .into_iter()
            .partition(|p| self.allow_failed_scriptlet.iter().any(|name| p.is_of(name)));
        for problem in allowed {
            context.warn(format_args!("{problem} (allowed)"));
        }
        let Some(first) = failed.first() else {
            return Ok(());
        };
        for problem in failed.iter().skip(1) {
            context.warn(problem);
        }
        let more = match failed.len() - 1 {
            0 => String::new(),
            n => format!(" (and {n} more)"),
        };
        Err(Failure::new(Code::ChildFailed, format!("{first}{more}")).hint(first.hint()))
    }

    fn record(&self, plan: &Plan, document: &mut Document) -> Result<(), Failure> {
        let mut packages = records::packages(plan.inside.root())?;
        match &plan.lock {
            Some(lock) => locked::complete(&mut packages, lock),
            None => signatures(&mut packages, &plan.cache)?,
        }
        if !packages.is_empty() {
            let known = ["repo", "file", "sha256", "pgpsig", "reason"];
            document.forget_in_each("packages", &known);
            document.record("packages", &packages);
        }
        Ok(())
    }
}

/// Fails where pacman left out files, and has the next run install what this one did.
fn whole(root: &Root, marks: &[Mark]) -> Result<(), Failure> {
    match judge::not_extracted(marks) {
        Some(failure) => lock::mark_torn(root).and(Err(failure)),
        None => Ok(()),
    }
}

/// Completes what is recorded of verified packages with the signatures beside their archives: not every repository has them
/// in its database. One that is not there is not recorded; a lock does without.
fn signatures(packages: &mut [Package], path: &Path) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => {
            return Err(e).doing(Code::Os, || {
                format!("opening the package cache {}", quote(path))
            });
        }
    };
    let cache = Cache {
        directory: directory.as_fd(),
        path,
    };
    let lacks = |package: &&mut Package| package.verified && package.pgpsig.is_none();
    for package in packages.iter_mut().filter(lacks) {
        if let Some(file) = &package.file {
            let bytes = cache.signature(file)?;
            package.pgpsig = bytes.map(|bytes| package::db::encode_signature(&bytes));
        }
    }
    Ok(())
}

/// Refuses what pacman would take for an option, and what cannot be the name of a package or group.
fn check_name(name: &str) -> Result<(), Failure> {
    let good = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"@._+-/=<>:~".contains(&b));
    if name.is_empty() || name.starts_with('-') || !good {
        return Err(Failure::new(
            Code::Usage,
            format!("installing {}: that is no name of a package", quote(name)),
        ));
    }
    Ok(())
}

fn check_config(file: &Path) -> Result<(), Failure> {
    if !file.is_file() {
        return Err(Failure::new(
            Code::NotFound,
            format!(
                "looking for the configuration {}: there is no such file",
                quote(file)
            ),
        )
        .hint("write it again with mkconf"));
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
        for bad in ["", "-Syu", "--root=/", "a b", "a\nb", "$(id)"] {
            assert_eq!(check_name(bad).unwrap_err().code, Code::Usage, "{bad}");
        }
    }
}
