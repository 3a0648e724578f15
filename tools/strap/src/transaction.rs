//! One transaction: download, resolve, install, check.

use crate::locked::LockedRepository;
use crate::plan::{Plan, Strap};
use crate::receipt::Receipt;
use crate::{files, interrupted, scriptlets};
use pacman::english::log;
use pacman::operation::{Action, Refresh};
use pacman::{Operation, OutputEvent, Pacman, Transaction, records};
use stage::Failure;

/// What is to be installed.
#[derive(Debug)]
pub(crate) enum Targets<'a> {
    /// Packages and groups, as pacman takes them.
    Names(Vec<String>),
    /// The same, as dependencies.
    Dependencies(Vec<String>),
    /// Packages of a lock.
    Locked(LockedRepository<'a>),
}

/// Runs transactions.
#[derive(Debug)]
pub(crate) struct Installer<'a> {
    pub(crate) options: &'a Strap,
    pub(crate) plan: &'a Plan,
    pub(crate) pacman: Pacman<'a>,
    pub(crate) receipt: Receipt,
}

impl<'a> Installer<'a> {
    /// Runs a transaction; with `--download-only`, its download. `repair` has pacman install again what is installed, and
    /// overwrite files that no package owns.
    ///
    /// # Errors
    ///
    /// When pacman fails, or what it installed is incomplete.
    pub(crate) fn transact(&mut self, targets: &Targets<'a>, repair: bool) -> Result<(), Failure> {
        match targets {
            Targets::Dependencies(names) if names.is_empty() => Ok(()),
            Targets::Locked(repository) if repository.wanted.is_empty() => Ok(()),
            Targets::Locked(repository) => {
                let result = self.run(targets, repair);
                // The first failure is the one to report; what stays is removed by the next run.
                let cleared = repository.clear();
                result.and(cleared)
            }
            _ => self.run(targets, repair),
        }
    }

    fn run(&mut self, targets: &Targets<'a>, repair: bool) -> Result<(), Failure> {
        let pacman = &self.pacman;
        let operation = Operation {
            upgrade: !self.options.no_refresh,
            needed: !repair,
            overwrite: repair,
            asdeps: matches!(targets, Targets::Dependencies(_)),
            ..Operation::default()
        };
        match targets {
            Targets::Locked(repository) => repository.download()?,
            Targets::Names(names) | Targets::Dependencies(names) => {
                let refresh = if self.options.no_refresh { Refresh::No } else { Refresh::Newer };
                pacman.download(Operation { action: Action::Download, refresh, ..operation }, names)?;
            }
        }
        if self.options.download_only {
            return Ok(());
        }
        let transaction = match targets {
            Targets::Locked(repository) => repository.transaction(repair),
            Targets::Names(names) | Targets::Dependencies(names) => Transaction {
                pacman: pacman.clone(),
                operation,
                targets: names.clone(),
                planned: pacman.preview(operation, names)?,
            },
        };
        if let Some(vouched) = &self.plan.vouched {
            vouched.check(&transaction)?;
        }
        let output = self.install(targets, &transaction)?;
        if repair {
            interrupted::restore_configuration(self.plan.inside.root(), &output)?;
        }
        Ok(())
    }

    /// Has pacman install what is in the cache, adds that to the receipt, and checks it.
    fn install(&mut self, targets: &Targets<'_>, transaction: &Transaction<'_>) -> Result<Vec<OutputEvent>, Failure> {
        let root = self.plan.inside.root();
        let before = records::log(root)?.len();
        let (origins, ran) = transaction.install();
        // Of a transaction that failed too: what it installed by then is installed.
        let log = records::log(root)?;
        let events: Vec<_> = log::events(log.get(before..).unwrap_or_default()).collect();
        let installed = interrupted::installed(&events);
        self.receipt.add(installed.clone(), &origins);
        // Where pacman itself says that it failed, that is the failure, whatever its scriptlets did.
        let output = ran?;
        let context = self.pacman.context;
        files::ensure_extracted(context, self.plan, &output, &installed)?;
        let allowed = &self.options.allow_failed_scriptlet;
        scriptlets::check(context, root, &output, &events, allowed)?;
        if let Targets::Locked(repository) = targets {
            repository.check(&origins)?;
        }
        Ok(output)
    }

    /// Has pacman mark packages as explicitly installed that are installed as dependencies: `names`, and what `targets` name, as
    /// `--needed` leaves a package that was there before as it is.
    ///
    /// # Errors
    ///
    /// When pacman fails, or the local database cannot be read.
    pub(crate) fn mark_explicit(&self, mut names: Vec<String>, targets: &[String]) -> Result<(), Failure> {
        let (installed, _) = records::installed(self.plan.inside.root())?;
        let packages = installed.into_iter().map(|one| one.package);
        let (mut dependencies, explicit): (Vec<_>, Vec<_>) =
            packages.partition(|package| package.reason.as_deref() == Some("dependency"));
        let is_explicit = |target: &String| {
            let name = target.rsplit('/').next();
            explicit.iter().any(|package| Some(package.name.as_str()) == name)
        };
        if !dependencies.is_empty() && !targets.iter().all(is_explicit) {
            // A group, what something provides, or a package with a version: pacman says which packages these are.
            let operation = Operation { nodeps: true, ..Operation::default() };
            let planned = self.pacman.preview(operation, targets)?;
            names.extend(planned.into_iter().map(|planned| planned.name));
        }
        dependencies.retain(|package| names.contains(&package.name));
        if dependencies.is_empty() {
            return Ok(());
        }
        let operation = Operation { action: Action::MarkExplicit, ..Operation::default() };
        let names: Vec<String> = dependencies.into_iter().map(|package| package.name).collect();
        self.pacman.run(operation, &names).map(drop)
    }
}
