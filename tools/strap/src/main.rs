//! `strap` installs packages into the root, in one line: resolve, download, install, check, record.
//!
//! pacman runs twice, to download and to install: a pacman that still holds its downloads open when it runs scriptlets can hang
//! for ever (7.x with curl 8.20 and later), and what is downloaded once need not be downloaded again. The one that installs
//! verifies the packages. Where the cache has all of them, only databases are downloaded.
//!
//! pacman exits 0 when every scriptlet failed. So what it prints and what it logs is read, and a scriptlet or hook that
//! failed, or never ran, is a failure of ours, with the package's name.

mod database;
mod download;
mod files;
mod initramfs;
mod interrupted;
mod local;
mod locked;
mod mask;
mod plan;
mod preview;
mod receipt;
mod scriptlets;
#[cfg(test)]
mod tests;
mod transaction;
mod tree;
mod vouched;

use interrupted::{InterruptedTransaction, Logged};
use local::{Local, LocalRepository};
use locked::LockedRepository;
use mask::Masks;
use pacman::lock::{self, Purpose};
use pacman::{Pacman, records};
use plan::Strap;
use receipt::Receipt;
use stage::{Code, Common, Context, Document, Failure, Kind, Stage, members, quote};
use std::collections::BTreeSet;
use std::process::ExitCode;
use transaction::{Installer, Targets};

impl Stage for Strap {
    const KIND: Kind = Kind::Make;

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, context: &Context, document: &mut Document) -> Result<(), Failure> {
        let mut plan = self.plan(document)?;
        self.locked.as_ref().map_or(Ok(()), |lock| tree::compare_with_lock(context, document, lock))?;
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
                hook_dir: None,
                cache: &plan.cache,
                verifies: !self.loose,
                offline: self.offline,
            },
            receipt: Receipt::of(document)?,
            files: Vec::new(),
            reinstall: false,
            planned: None,
        };
        let lock = lock::take(plan.inside.root(), context, Purpose::Install)?;
        let masks = Masks::new(&installer.pacman, &self.mask_hook)?;
        let mut local = LocalRepository::new(&installer.pacman, self.plan_only)?;
        installer.pacman.config = masks.make(installer.pacman.config)?;
        let result = self.install(&mut installer, &mut local, lock.stale);
        let result = result.map_err(|failure| tree::explain(failure, document));
        let cleared = local.clear().and(masks.clear());
        if result.is_ok() && !self.plan_only {
            masks.check(context, &plan);
        }
        match &installer.planned {
            Some(planned) => document.write(planned),
            None => document.remove::<members::Planned>(),
        }
        if !self.download_only && !self.plan_only {
            self.record(document);
        }
        // Also after a failure: what is installed is installed.
        let recorded = installer.receipt.record(plan.inside.root(), document);
        drop(lock);
        result.and(recorded).and(cleared)
    }
}

impl Strap {
    /// Records how packages were installed.
    fn record(&self, document: &mut Document) {
        let mut strap: members::Strap = document.get().unwrap_or_default();
        strap.loose |= self.loose;
        strap.masked_hooks.extend(self.mask_hook.iter().cloned());
        strap.masked_hooks.sort();
        strap.masked_hooks.dedup();
        if self.loose || !self.mask_hook.is_empty() {
            document.write(&strap);
        }
    }

    /// Installs the targets, and with them again what an earlier transaction left incomplete. `stale` says that a pacman was
    /// killed.
    fn install<'a>(
        &self,
        installer: &mut Installer<'a>,
        local: &mut LocalRepository<'a>,
        stale: bool,
    ) -> Result<(), Failure> {
        let (plan, context) = (installer.plan, installer.pacman.context);
        let root = plan.inside.root();
        // A download changes nothing that is installed: what is incomplete is left to the run that repairs it.
        let interrupted = if self.download_only || self.plan_only { None } else { interrupted::find(root, stale)? };
        // A record that is removed takes the reason along.
        let asked = installer.receipt.explicit(root)?;
        let repair = interrupted.is_some();
        installer.add_files(local)?;
        if let (Some(logged), None) = (&interrupted, &plan.lock) {
            refuse_without_source(installer, local, logged, stale)?;
        }
        let again = interrupted.map(|logged| interrupted::clear(&plan.bare, logged)).transpose()?;
        let InterruptedTransaction { lost, incomplete } = again.unwrap_or_default();
        if repair {
            context.warn(format_args!(
                "an earlier transaction was interrupted: {} of its packages are installed again",
                incomplete.len() + lost.len()
            ));
        }
        let asked_for: Vec<String> =
            plan.names.iter().cloned().chain(local.packages.iter().map(Local::target)).collect();
        let targets = match &plan.lock {
            Some(lock) => {
                let (installed, _) = installer.receipt.packages(root)?;
                let wanted = locked::missing(lock, &installed, &incomplete)?;
                let origins = wanted.iter().filter_map(|one| Some((one.planned.file.clone(), one.origin.clone()?)));
                installer.receipt.files.extend(origins);
                Targets::Locked(LockedRepository::new(&installer.pacman, wanted)?)
            }
            None => Targets::Names(asked_for.iter().chain(&incomplete).cloned().collect()),
        };
        if self.plan_only {
            installer.planned = Some(preview::plan(installer, local, &targets)?);
            return Ok(());
        }
        // Who only has something removed has nothing upgraded.
        let is_idle = matches!(&targets, Targets::Names(names) if names.is_empty()) && !self.remove.is_empty();
        if !is_idle {
            installer.transact(&targets, repair)?;
        }
        if self.download_only {
            return Ok(());
        }
        if let Some(lock) = &plan.lock {
            // To pacman all files are alike.
            return installer.mark_explicit(locked::explicit(lock), &[]);
        }
        // A dependency is there by now. What nobody asked for any more is installed all the same: its files, which no package
        // would own, would conflict with the next package that has them.
        if !lost.is_empty() {
            let (installed, _) = records::installed(root)?;
            let there: BTreeSet<&String> = installed.iter().map(|one| &one.package.name).collect();
            let absent: Vec<_> = lost.iter().filter(|name| !there.contains(name)).cloned().collect();
            installer.transact(&Targets::Dependencies(absent), true)?;
        }
        let explicit = lost.intersection(&asked).cloned().collect();
        installer.mark_explicit(explicit, if self.asdeps { &[] } else { &asked_for })?;
        installer.remove(&self.remove)
    }
}

/// Fails where an interrupted transaction installed a package file that this run is not given: the repair would install an older
/// package of a repository in its place, or nothing.
fn refuse_without_source(
    installer: &Installer<'_>,
    local: &LocalRepository<'_>,
    logged: &Logged,
    stale: bool,
) -> Result<(), Failure> {
    let root = installer.plan.inside.root();
    let offers = records::offered(root, &installer.pacman.repos)?.entries;
    let given: Vec<&str> = local.packages.iter().map(|local| local.package.name.as_str()).collect();
    let absent = logged.without_source(&given, &offers);
    // Without databases nothing can be said.
    let Some(name) = absent.first().filter(|_| !offers.is_empty()) else {
        return Ok(());
    };
    if stale {
        lock::mark_incomplete(root)?;
    }
    let why = format!(
        "repairing an interrupted transaction: no repository has the package {}, which it installed{}",
        quote(name),
        pacman::and_more(absent.len() - 1)
    );
    Err(Failure::new(Code::Failed, why).hint("give its file again, with the other names: strap FILE NAME..."))
}

fn main() -> ExitCode {
    rootfs::seal_descriptors();
    stage::main::<Strap>()
}
