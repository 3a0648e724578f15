//! `strap` installs packages into the root: pacman downloads, then pacman commits.
//!
//! Two runs of pacman and not one: a pacman that still holds its downloads open when it runs scriptlets can hang for
//! ever (7.x with curl 8.20 and later), and what is downloaded once need not be again.
//!
//! pacman exits 0 when every scriptlet failed. So what it prints and what it logs is read, and a scriptlet or hook that
//! failed, or never ran, is a failure of ours, with the package's name.

mod count;
mod interrupted;
mod judge;
mod locked;
mod phase;
mod receipt;

use clap::Parser;
use locked::{Locked, LockedRepository};
use pacman::conf::NoExtract;
use pacman::diagnosis::gpg::{Gpg, Kept};
use pacman::lock::{self, Purpose};
use pacman::{Origin, OutputEvent, Pacman, Planned, Timeout, records};
use phase::{Again, Phase};
use receipt::Receipt;
use rootfs::Inside;
use stage::members::{Config, Package};
use stage::{Code, Common, Context, Document, Failure, Kind, Stage, quote};
use std::collections::{BTreeMap, BTreeSet};
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
    timeout: Timeout,

    #[command(flatten)]
    common: Common,
}

/// What is to be done, checked.
#[derive(Debug)]
struct Plan {
    inside: Inside,
    /// How the root is looked at: with nothing mounted over what pacman put there.
    bare: Inside,
    pacman: Pacman,
    /// Where packages are kept.
    cache: PathBuf,
    /// What pacman is told to leave out.
    left_out: NoExtract,
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
        let mut receipt = Receipt::of(document)?;
        self.timeout.watch(context, &mut plan.inside);
        let lock = lock::take(plan.inside.root(), context, Purpose::Install)?;
        let unfinished = judge::unfinished(plan.inside.root(), lock.stale)?;
        let result = match &plan.lock {
            Some(locked) => self.apply_lock(context, &plan, &mut receipt, locked, unfinished),
            None => self.apply(context, &plan, &mut receipt, unfinished),
        };
        if self.loose && !self.download_only {
            document.record("strap", &stage::members::Strap { loose: true });
        }
        // Also after a failure: what is installed is installed.
        let recorded = record(&plan, &receipt, document);
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
            // Without a keyring or a gpg pacman fails late and with other words.
            Kept::read(&config.gpgdir())?;
            Gpg::find()?;
        }
        let left_out = NoExtract::of(&stage::file::read_text(file)?);
        Ok(Plan {
            bare: Inside::of(document)?.bare(),
            left_out,
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
        receipt: &mut Receipt,
        unfinished: Option<Vec<String>>,
    ) -> Result<(), Failure> {
        // A download changes nothing that is installed; what was torn stays as it is, to be seen by the run that repairs.
        match unfinished.filter(|_| !self.download_only) {
            Some(names) => self.repair(context, plan, receipt, names)?,
            None => drop(self.transact(context, plan, receipt, Again::No, &self.packages)?),
        }
        if self.download_only {
            return Ok(());
        }
        self.mark_explicit(context, plan)
    }

    /// Installs, and first of all what an earlier transaction left half way.
    fn repair(
        &self,
        context: &Context,
        plan: &Plan,
        receipt: &mut Receipt,
        names: Vec<String>,
    ) -> Result<(), Failure> {
        let root = plan.inside.root();
        // A record that is removed takes the reason along.
        let asked = receipt.explicit(root)?;
        let interrupted = judge::interrupted(root)?;
        let torn = interrupted::clear(root, &judge::logged(root, 0)?, interrupted.as_deref())?;
        let mut names: BTreeSet<_> = names.into_iter().chain(torn.doubtful).collect();
        names.retain(|name| !torn.lost.contains(name));
        context.warn(format_args!(
            "an earlier transaction ended half way: {} of its packages are installed again",
            names.len() + torn.lost.len()
        ));
        let mut targets = self.packages.clone();
        targets.extend(names);
        let again = Again::Repair;
        let marks = self.transact(context, plan, receipt, again, &targets)?;
        interrupted::mend(root, &marks)?;
        // As a dependency, it is there by now. What nobody asked for any more is installed all the same: its files, which
        // no package would own, would be in the way of the next one that asks.
        let there = interrupted::names(root)?;
        let lost: Vec<_> = torn.lost.difference(&there).cloned().collect();
        if !lost.is_empty() {
            let again = Again::Dependencies;
            let marks = self.transact(context, plan, receipt, again, &lost)?;
            interrupted::mend(root, &marks)?;
        }
        let asked: Vec<_> = torn.lost.intersection(&asked).cloned().collect();
        mark(context, plan, &dependencies(plan, &asked)?)
    }

    /// Installs what a lock says; and first repairs what an earlier transaction left.
    fn apply_lock(
        &self,
        context: &Context,
        plan: &Plan,
        receipt: &mut Receipt,
        lock: &[Locked],
        unfinished: Option<Vec<String>>,
    ) -> Result<(), Failure> {
        let root = plan.inside.root();
        let mut torn: BTreeSet<String> = BTreeSet::new();
        let again = unfinished.is_some() && !self.download_only;
        if again {
            let interrupted = judge::interrupted(root)?;
            let found = interrupted::clear(root, &judge::logged(root, 0)?, interrupted.as_deref())?;
            torn.extend(unfinished.into_iter().flatten().chain(found.doubtful));
            context.warn("an earlier transaction ended half way: its packages are installed again");
        }
        let mut wanted = locked::missing(lock, &receipt.packages(root)?.0)?;
        let is_torn = |one: &&Locked| torn.contains(&one.package.name);
        let repaired: Vec<_> = lock.iter().filter(is_torn).collect();
        wanted.extend(
            repaired
                .into_iter()
                .filter(|one| !wanted.contains(one))
                .collect::<Vec<_>>(),
        );
        if !wanted.is_empty() {
            let workshop = LockedRepository::make(root, &plan.pacman.config, &plan.cache, &wanted)?;
            let result = self.install_locked(context, plan, receipt, &workshop, &wanted, again);
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
        receipt: &mut Receipt,
        workshop: &LockedRepository,
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
        let what = locked::planned(wanted);
        let (origins, marks) =
            self.commit(context, plan, receipt, &pacman, (&args, &files), what)?;
        locked::prove(wanted, &origins)?;
        if again {
            interrupted::mend(inside.root(), &marks)?;
        }
        Ok(())
    }

    /// Marks the packages of a lock that somebody asked for: to pacman all files are alike.
    fn set_reasons(&self, context: &Context, plan: &Plan, lock: &[Locked]) -> Result<(), Failure> {
        let explicit = locked::explicit(lock);
        mark(context, plan, &dependencies(plan, &explicit)?)
    }

    /// Marks what was asked for and was there before, as a dependency: `--needed` leaves such a package as it is.
    fn mark_explicit(&self, context: &Context, plan: &Plan) -> Result<(), Failure> {
        let (installed, _) = records::installed(plan.inside.root())?;
        let has = |reason: &str, name: &str| {
            let is = |p: &Package| p.reason.as_deref() == Some(reason);
            let mut packages = installed.iter().map(|one| &one.package);
            packages.any(|p| is(p) && (p.name == name || name.is_empty()))
        };
        let is_explicit = |target: &String| {
            let (_, name) = target.rsplit_once('/').unwrap_or(("", target));
            has("explicit", name)
        };
        if !has("dependency", "") || self.packages.iter().all(is_explicit) {
            return Ok(());
        }
        // A group, what something provides, or a package with a version: pacman says which packages these are.
        let args = ["-S", "--noconfirm", "-dd"];
        let asked = plan
            .pacman
            .preview(context, &plan.inside, &args, &self.packages)?;
        let names: Vec<String> = asked.into_iter().map(|planned| planned.name).collect();
        mark(context, plan, &dependencies(plan, &names)?)
    }

    /// One transaction: downloads, commits, and judges.
    fn transact(
        &self,
        context: &Context,
        plan: &Plan,
        receipt: &mut Receipt,
        again: Again,
        targets: &[String],
    ) -> Result<Vec<OutputEvent>, Failure> {
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
        let args = phase(false).arguments();
        let planned = pacman.preview(context, inside, &args, targets)?;
        let (_, marks) = self.commit(context, plan, receipt, pacman, (&args, targets), planned)?;
        Ok(marks)
    }

    /// Has pacman install what is in the cache, writes down what it installed, and judges.
    fn commit(
        &self,
        context: &Context,
        plan: &Plan,
        receipt: &mut Receipt,
        pacman: &Pacman,
        (args, targets): (&[&str], &[String]),
        planned: Vec<Planned>,
    ) -> Result<(Vec<Origin>, Vec<OutputEvent>), Failure> {
        let root = plan.inside.root();
        let before = judge::log_length(root)?;
        let (origins, ran) =
            pacman.install(context, &plan.inside, &plan.cache, args, targets, planned);
        // Of a transaction that failed too: what it installed by then is installed.
        let installed = judge::logged(root, before)?;
        receipt.add(installed.clone(), &origins);
        // Where pacman itself says that it failed, that is the failure, whatever its scriptlets did.
        let marks = ran?;
        if let Err(failure) = ensure_extracted(context, plan, &marks, &installed) {
            // The next run installs what this one did.
            lock::mark_torn(root)?;
            return Err(failure);
        }
        let problems = judge::problems(root, before, &marks)?;
        self.judge(context, problems)?;
        Ok((origins, marks))
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
}

/// Writes down what is installed.
fn record(plan: &Plan, receipt: &Receipt, document: &mut Document) -> Result<(), Failure> {
    let (packages, odd) = receipt.packages(plan.inside.root())?;
    if !packages.is_empty() {
        let known = ["repo", "file", "sha256", "pgpsig", "reason"];
        document.forget_in_each("packages", &known);
        document.record("packages", &packages);
    }
    odd.map_or(Ok(()), Err)
}

/// Returns those of `names` that are installed as dependencies.
fn dependencies(plan: &Plan, names: &[String]) -> Result<Vec<String>, Failure> {
    let (installed, _) = records::installed(plan.inside.root())?;
    let packages = installed.into_iter().map(|one| one.package);
    let found = packages
        .filter(|p| names.contains(&p.name) && p.reason.as_deref() == Some("dependency"))
        .map(|package| package.name);
    Ok(found.collect())
}

/// Has pacman mark packages as asked for.
fn mark(context: &Context, plan: &Plan, names: &[String]) -> Result<(), Failure> {
    if names.is_empty() {
        return Ok(());
    }
    let args = ["-D", "--asexplicit", "--quiet"];
    let what = "mark what was asked for";
    plan.pacman
        .run(context, &plan.inside, what, &args, names)
        .map(drop)
}

/// Fails where files of what was installed are not there: pacman calls that a warning, or says nothing.
fn ensure_extracted(
    context: &Context,
    plan: &Plan,
    marks: &[OutputEvent],
    installed: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    if let Some(failure) = judge::not_extracted(marks) {
        return Err(failure);
    }
    let (there, _) = records::installed(plan.inside.root())?;
    let packages: Vec<(String, String)> = there
        .into_iter()
        .filter(|one| installed.contains_key(&one.package.name))
        .map(|one| (one.record, one.package.name))
        .collect();
    if packages.is_empty() {
        return Ok(());
    }
    let mounts = plan.inside.mounts();
    count::check(context, &plan.bare, mounts, &plan.left_out, &packages)
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
    // To pacman the first part of a path is a repository.
    if name.starts_with(['.', '/']) || name.contains(".pkg.tar") {
        return Err(Failure::new(
            Code::Usage,
            format!("installing {}: that is a file, and packages come from repositories", quote(name)),
        )
        .hint("make it a repository: repo-add DIR/NAME.db.tar.gz FILE, and mkconf --repo NAME=file://DIR"));
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
