//! `--plan`: what a transaction would do. Nothing is changed: pacman works by a copy of the root's databases.

use crate::local::LocalRepository;
use crate::transaction::{Installer, Targets};
use package::version::vercmp;
use pacman::operation::Action;
use pacman::private::PrivateDatabases;
use pacman::removals::removals;
use pacman::{Operation, Pacman, count, records};
use stage::members::{Planned, PlannedPackage};
use stage::{Code, Context, Failure, quote};
use std::cmp::Ordering;
use std::path::Path;

/// Finds out what a transaction would do, and shows it.
///
/// # Errors
///
/// When it could not be done.
pub(crate) fn plan(
    installer: &Installer<'_>,
    local: &LocalRepository<'_>,
    targets: &Targets<'_>,
) -> Result<Planned, Failure> {
    let private = PrivateDatabases::make(&installer.pacman, &local.databases)?;
    let planned = resolve(installer, &private, targets).and_then(|planned| remove(installer, &private, planned));
    let cleared = private.clear();
    let planned = planned?;
    cleared?;
    show(installer.pacman.context, &planned);
    Ok(planned)
}

/// Adds what is to be removed after that. Whether something depends on it pacman says.
fn remove(installer: &Installer<'_>, private: &PrivateDatabases, mut planned: Planned) -> Result<Planned, Failure> {
    let remove = &installer.options.remove;
    if remove.is_empty() {
        return Ok(planned);
    }
    let (installed, _) = records::installed(installer.plan.inside.root())?;
    let is_there = |name: &String| {
        let mut coming = planned.packages.iter().map(|one| &one.name);
        coming.any(|one| one == name) || installed.iter().any(|one| one.package.name == *name)
    };
    if let Some(name) = remove.iter().find(|name| !is_there(name)) {
        let why = format!("planning to remove {}: it is not installed", quote(name));
        return Err(Failure::new(Code::NotFound, why));
    }
    private.install(&planned.packages, &planned.removed)?;
    private.pacman(&installer.pacman).resolve(Operation { action: Action::Remove, ..Operation::default() }, remove)?;
    planned.removed.extend(remove.iter().cloned());
    Ok(planned)
}

fn resolve(installer: &Installer<'_>, private: &PrivateDatabases, targets: &Targets<'_>) -> Result<Planned, Failure> {
    let Targets::Names(names) = targets else { return Ok(Planned::default()) };
    let options = installer.options;
    if names.is_empty() && !options.remove.is_empty() {
        return Ok(Planned::default());
    }
    let pacman: Pacman<'_> = private.pacman(&installer.pacman);
    if !options.no_refresh && !options.offline {
        pacman.download_databases()?;
    }
    let operation = installer.operation(targets, false);
    let planned = pacman.resolve(operation, names)?;
    let (installed, _) = records::installed(pacman.inside.root())?;
    let removals = removals(&private.offered(&pacman.repos)?, &planned, &installed, operation.upgrade);
    installer.check_removals(&removals)?;
    let removed = removals.into_iter().map(|removal| removal.name).collect();
    let mut all = Planned { removed, ..Planned::default() };
    for mut one in planned {
        // A file that is given by its path is copied, and none is in the cache yet.
        if installer.receipt.files.get(&one.file).is_some_and(|origin| Path::new(origin).is_absolute()) {
            one.download = 0;
        }
        let before = installed.iter().find(|installed| installed.package.name == one.name);
        all.download += one.download;
        all.packages.push(PlannedPackage {
            installed: before.map(|before| before.package.version.clone()),
            name: one.name,
            version: one.version,
            repo: one.repo,
            file: one.file,
            download: one.download,
        });
    }
    Ok(all)
}

/// Shows a line for each package, and one for all.
fn show(context: &Context, planned: &Planned) {
    for PlannedPackage { name, version, installed, repo, download, .. } in &planned.packages {
        let (does, from) = match installed {
            None => ("install", String::new()),
            Some(before) => match vercmp(before, version) {
                Ordering::Less => ("upgrade", format!("{before} -> ")),
                Ordering::Equal => ("reinstall", String::new()),
                Ordering::Greater => ("downgrade", format!("{before} -> ")),
            },
        };
        context.note(format_args!("{does} {repo}/{name} {from}{version}, {} to download", size(*download)));
    }
    for name in &planned.removed {
        context.note(format_args!("remove {name}"));
    }
    context.note(format_args!(
        "{}, {} removed, {} to download",
        count(planned.packages.len(), "package"),
        planned.removed.len(),
        size(planned.download)
    ));
}

/// Returns a size for people.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB")]
        {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size(u64::MAX), "16777216.0 TiB");
    }
}
