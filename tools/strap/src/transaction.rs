//! One transaction: download, resolve, install, check.

use crate::download::Download;
use crate::initramfs;
use crate::local::{Local, LocalRepository};
use crate::locked::LockedRepository;
use crate::plan::{Plan, Strap};
use crate::receipt::Receipt;
use crate::{files, interrupted, scriptlets};
use pacman::english::log::{self, Event};
use pacman::operation::{Action, Choices, Refresh};
use pacman::removals::{Removal, removals};
use pacman::{Operation, OutputEvent, Pacman, Transaction, records};
use stage::members::{Package, Planned};
use stage::{Code, Failure, quote};
use std::collections::BTreeSet;

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
    /// The package files of the command line, in the cache.
    pub(crate) files: Vec<String>,
    /// Whether what is installed in this version is installed again.
    pub(crate) reinstall: bool,
    /// What would be done, where that is all that is asked.
    pub(crate) planned: Option<Planned>,
}

impl<'a> Installer<'a> {
    /// Makes the package files of the command line packages of repositories.
    ///
    /// # Errors
    ///
    /// As [`LocalRepository::add`].
    pub(crate) fn add_files(&mut self, local: &mut LocalRepository<'a>) -> Result<(), Failure> {
        self.pacman = local.add(&self.pacman, &self.plan.files)?;
        let (installed, _) = self.receipt.packages(self.plan.inside.root())?;
        for Local { package, sha256, file, origin, .. } in &local.packages {
            self.files.push(file.clone());
            self.receipt.files.insert(file.clone(), origin.clone());
            // One that was built again under the same version.
            let is_there = |there: &&Package| (&there.name, &there.version) == (&package.name, &package.version);
            let there = installed.iter().find(is_there);
            self.reinstall |= there.is_some_and(|there| there.sha256.as_ref() != Some(sha256));
        }
        Ok(())
    }

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
        let pacman = self.pacman.clone();
        let operation = self.operation(targets, repair);
        let refresh = if self.options.no_refresh { Refresh::No } else { Refresh::Newer };
        let download = Download {
            pacman: &pacman,
            operation: Operation { action: Action::Download, refresh, ..operation },
            before: pacman.cached().without(&self.files),
        };
        // What is only downloaded is verified here, or never.
        if self.options.download_only {
            match targets {
                Targets::Locked(repository) => repository.download(true)?,
                Targets::Names(names) | Targets::Dependencies(names) => download.verified(names)?,
            }
            let Some(vouched) = self.plan.vouched.as_ref().filter(|vouched| !vouched.is_empty()) else {
                return Ok(());
            };
            return vouched.check(&match targets {
                Targets::Locked(repository) => repository.transaction(repair),
                Targets::Names(names) | Targets::Dependencies(names) => {
                    let planned = download.preview(names)?;
                    Transaction { pacman: pacman.clone(), operation, targets: names.clone(), planned }
                }
            });
        }
        let mut transaction = match targets {
            Targets::Locked(repository) => {
                repository.download(false)?;
                repository.transaction(repair)
            }
            Targets::Names(names) | Targets::Dependencies(names) => Transaction {
                pacman: pacman.clone(),
                operation,
                targets: names.clone(),
                planned: download.unverified(names)?,
            },
        };
        transaction.pacman.hook_dir = initramfs::hooks(self.plan, self.options.initramfs, &transaction.planned)?;
        // pacman has one answer for all that conflict: what is not to go is found out before.
        if let (Targets::Names(names), false) = (targets, self.options.replace.is_empty()) {
            let planned = pacman.resolve(operation, names)?;
            let root = self.plan.inside.root();
            let offered = records::offered(root, &pacman.repos)?.entries;
            let (installed, _) = records::installed(root)?;
            self.check_removals(&removals(&offered, &planned, &installed, operation.upgrade))?;
        }
        let since = records::log(self.plan.inside.root())?.len();
        let mut result = self.install(targets, &transaction);
        if let Err(failure) = &result
            && !self.has_begun(since)?
        {
            // It refused a package, maybe one that lay in the cache before.
            result = match targets {
                Targets::Locked(repository) => result.map_err(|failure| repository.explain(failure)),
                Targets::Names(names) | Targets::Dependencies(names) if download.helps_again(failure) => {
                    download.verified(names)?;
                    self.install(targets, &Transaction { planned: download.preview(names)?, ..transaction })
                }
                _ => result,
            };
        }
        let output = result?;
        if repair {
            interrupted::restore_configuration(self.plan.inside.root(), &output)?;
        }
        Ok(())
    }

    /// Returns what pacman is to do with these targets.
    pub(crate) fn operation(&self, targets: &Targets<'_>, repair: bool) -> Operation<'a> {
        let Strap { overwrite, ignore, assume_installed, replace, .. } = self.options;
        Operation {
            upgrade: !self.options.no_refresh,
            needed: !repair && !self.reinstall,
            overwrite: repair,
            asdeps: self.options.asdeps || matches!(targets, Targets::Dependencies(_)),
            choices: Choices { overwrite, ignore, assume_installed, replace },
            ..Operation::default()
        }
    }

    /// Refuses to remove a package that conflicts and of which nobody spoke.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] with its name.
    pub(crate) fn check_removals(&self, removals: &[Removal]) -> Result<(), Failure> {
        let stays = |removal: &&Removal| removal.conflicts && !self.options.replace.contains(&removal.name);
        let Some(Removal { name, by, .. }) = removals.iter().find(stays) else {
            return Ok(());
        };
        let (name, by) = (quote(name), quote(by));
        Err(Failure::new(Code::Failed, format!("installing {by}: it conflicts with {name}, which is installed"))
            .hint(format!("leave it out; or let it replace that: --replace {name}")))
    }

    /// Has pacman remove packages.
    ///
    /// # Errors
    ///
    /// When pacman fails, or a scriptlet or hook does.
    pub(crate) fn remove(&mut self, names: &[String]) -> Result<(), Failure> {
        if names.is_empty() {
            return Ok(());
        }
        let root = self.plan.inside.root();
        let since = records::log(root)?.len();
        // Programs that make an initramfs do so also when a file of theirs is removed.
        let hook_dir = initramfs::hooks(self.plan, self.options.initramfs, &[])?;
        let pacman = Pacman { hook_dir, ..self.pacman.clone() };
        let ran = pacman.run(Operation { action: Action::Remove, ..Operation::default() }, names);
        let log = records::log(root)?;
        let events: Vec<_> = log::events(log.get(since..).unwrap_or_default()).collect();
        self.receipt.add_removed(&events);
        scriptlets::check(self.pacman.context, root, &ran?, &events, &self.options.allow_failed_scriptlet)
    }

    /// Returns whether pacman began a transaction, by what it logged after `since` bytes of its log.
    fn has_begun(&self, since: usize) -> Result<bool, Failure> {
        let log = records::log(self.plan.inside.root())?;
        let mut events = log::events(log.get(since..).unwrap_or_default());
        Ok(events.any(|event| event == Event::TransactionStarted))
    }

    /// Has pacman install what is in the cache, adds that to the receipt, and checks it.
    fn install(&mut self, targets: &Targets<'_>, transaction: &Transaction<'_>) -> Result<Vec<OutputEvent>, Failure> {
        if let Some(vouched) = &self.plan.vouched {
            vouched.check(transaction)?;
        }
        let root = self.plan.inside.root();
        let before = records::log(root)?.len();
        let (origins, ran) = transaction.install();
        // Of a transaction that failed too: what it installed by then is installed.
        let log = records::log(root)?;
        let events: Vec<_> = log::events(log.get(before..).unwrap_or_default()).collect();
        let installed = interrupted::installed(&events);
        self.receipt.add_removed(&events);
        self.receipt.add(installed.clone(), &origins);
        // Where pacman itself says that it failed, that is the failure, whatever its scriptlets did.
        let output = ran?;
        let context = self.pacman.context;
        files::ensure_extracted(context, self.plan, &output, &installed)?;
        let allowed = &self.options.allow_failed_scriptlet;
        scriptlets::check(context, root, &output, &events, allowed)
            .map_err(|failure| if self.plan.inside.is_chroot() { without_proc(failure) } else { failure })?;
        if let Targets::Locked(repository) = targets {
            repository.check(&origins)?;
            repository.record_comparison()?;
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
        let explicit: BTreeSet<&str> = explicit.iter().map(|package| package.name.as_str()).collect();
        let is_explicit = |target: &String| target.rsplit('/').next().is_some_and(|name| explicit.contains(name));
        if !dependencies.is_empty() && !targets.iter().all(is_explicit) {
            // A group, what something provides, or a package with a version: pacman says which packages these are.
            let operation = Operation { nodeps: true, ..Operation::default() };
            let planned = self.pacman.preview(operation, targets)?;
            names.extend(planned.into_iter().map(|planned| planned.name));
        }
        let names: BTreeSet<String> = names.into_iter().collect();
        dependencies.retain(|package| names.contains(&package.name));
        if dependencies.is_empty() {
            return Ok(());
        }
        let operation = Operation { action: Action::MarkExplicit, ..Operation::default() };
        let names: Vec<String> = dependencies.into_iter().map(|package| package.name).collect();
        self.pacman.run(operation, &names).map(drop)
    }
}

/// Adds to the hint what mode `chroot` lacks.
fn without_proc(failure: Failure) -> Failure {
    let hint = failure.hint.clone().unwrap_or_default();
    failure.hint(format!(
        "{hint}; in mode chroot there is no /proc, without which systemd-tmpfiles(8) does nothing until the first boot"
    ))
}
