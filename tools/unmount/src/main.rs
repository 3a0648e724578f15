//! `unmount` unmounts what is mounted at or below a root, and proves that nothing is left. `--remove` deletes the root then.
//!
//! By default each tool mounts in its own namespace, and `unmount` has nothing to do. There is work after `mkroot --host`,
//! and after mounts of the user.
//!
//! A document has the mounts of its pipeline: these are unmounted, with all that was mounted on them; other mounts stay, and
//! are reported. From a directory alone, all mounts there are unmounted. After each round the list of mounts is read again,
//! so stacked mounts, propagation and interrupted earlier runs make no difference. Nothing is unmounted while another tool
//! works on the root.

mod busy;
mod place;
mod remove;

use clap::Parser;
use place::MountPoint;
use rootfs::mountinfo::{self, Mount};
use rootfs::{live, occupants, stand_in};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use stage::members::{Host, Identity, Unmount as Record};
use stage::{Code, Common, Context, Document, Doing, Failure, Kind, Stage, Unit, quote};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Unmount what is mounted at or below the root, and delete the root
///
/// With a document, what its mkroot --host mounted, and what is mounted on that; with DIR alone, everything. The deepest mount goes first. It stops at the first mount that is in use and reports what uses it; run it again to continue.
#[derive(Debug, Parser)]
#[command(
    version,
    help_expected = true,
    max_term_width = 80,
    after_help = "Example:\n  mkroot target --host | fetch-pacman | mkconf | keyring | strap base \\\n    | reap | unmount > receipt.json"
)]
struct Unmount {
    /// The root; by default that of the document
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Detach mounts that are in use; they stay mounted, hidden, until their last user ends
    #[arg(long)]
    lazy: bool,

    /// Only print what would be unmounted
    #[arg(long)]
    dry_run: bool,

    /// Then delete the root, and ROOT.strapline beside it; fails where anything is mounted or uses it
    #[arg(long, conflicts_with_all = ["lazy", "dry_run"])]
    remove: bool,

    #[command(flatten)]
    common: Common,
}

/// File systems without data on a disk: nothing is lost when one is detached.
const WITHOUT_DATA: [&str; 5] = ["tmpfs", "proc", "sysfs", "devpts", "devtmpfs"];

/// How many more tries there are than mounts: a program may mount as fast as we unmount.
const SPARE_TRIES: usize = 16;

/// How often the list of mounts is read: each round unmounts all of them.
const ROUNDS: usize = 16;

/// How many mounts of others a message names.
const NAMED: usize = 5;

/// How often, and after which time, a mount is tried again that is busy without a known user.
const UNSEEN_TRIES: usize = 25;
const UNSEEN_WAIT: Duration = Duration::from_millis(20);

/// Which mounts to unmount.
#[derive(Clone, Copy, Debug)]
enum Scope<'a> {
    /// All: there is a directory, and no pipeline.
    All,
    /// Those that this document claims, and what is mounted on them.
    Claimed(&'a Document),
}

impl Scope<'_> {
    /// Returns the mounts to unmount, in an order in which that is possible, and the others.
    fn split<'m>(self, mounts: &'m [Mount], root: &Path) -> Result<(Vec<&'m Mount>, Vec<&'m Mount>), Failure> {
        let all = mountinfo::below(mounts, root);
        let Self::Claimed(document) = self else {
            return Ok((all, Vec::new()));
        };
        let ours = mountinfo::with_descendants(mounts, &live::claimed(document)?);
        Ok(all.into_iter().partition(|mount| ours.contains(&mount.id)))
    }
}

impl Stage for Unmount {
    const KIND: Kind = Kind::Undo;

    fn common(&self) -> &Common {
        &self.common
    }

    fn can_start(&self) -> bool {
        self.dir.is_some()
    }

    fn run(&self, context: &Context, document: &mut Document) -> Result<(), Failure> {
        let Some(opened) = occupants::subject(&current(document), self.dir.as_deref())? else {
            context.note("no root was made: there is nothing to do");
            return Ok(());
        };
        let root = opened.path().to_owned();
        // Our working directory may keep a mount busy.
        std::env::set_current_dir("/").doing(Code::Os, || "leaving the working directory")?;
        let before = document.clone();
        // If a tool failed before there was a root, nothing of this pipeline is mounted.
        let scope = match before.root().is_none() && !before.failed_making() {
            true => Scope::All,
            false => Scope::Claimed(&before),
        };
        if self.remove {
            remove::check(&opened)?;
            // Of a pipeline, mkroot --host made the mount.
            if matches!(scope, Scope::All) {
                remove::refuse_mount_point(&root)?;
            }
        }
        if self.dry_run {
            drop(opened);
            return preview(context, scope, &root, document);
        }
        let lock = opened.lock_exclusive()?;
        stand_in::remove_left(&opened)?;
        let id = opened.id()?;
        // This keeps a mount busy; the lock does not.
        drop(opened);
        let mut record = resumed(document);
        let mut result = self.unmount_all(context, scope, &root, &mut record);
        if self.remove && result.is_ok() {
            let progress = context.progress("deleting", Unit::Steps, None);
            result = remove::remove(&root, id, &before);
            drop(progress);
            record.removed = result.is_ok();
        }
        drop(lock);
        let looked = mountinfo::read().and_then(|now| {
            let (left, others) = scope.split(&now, &root)?;
            Ok((below(&left, &root), below(&others, &root)))
        });
        match looked {
            // For the next run.
            Ok((left, others)) => (record.left, record.others) = (Some(left), others),
            Err(failure) => result = result.and(Err(failure)),
        }
        // The root itself may be the mount point of the file system that it is on.
        record.others.retain(|at| !at.is_empty());
        if !record.others.is_empty() {
            warn_of_others(context, &root, &record.others);
        }
        document.write(&record);
        result?;
        document.remove::<Host>();
        if record.removed {
            context.note(format_args!("deleted {}", quote(&root)));
        }
        Ok(())
    }
}

impl Unmount {
    /// Unmounts one mount after the other, until the kernel lists none.
    fn unmount_all(
        &self,
        context: &Context,
        scope: Scope<'_>,
        root: &Path,
        record: &mut Record,
    ) -> Result<(), Failure> {
        let before = record.unmounted.iter().flatten().count();
        let mut rounds = 0;
        let mut tries = None;
        let what = loop {
            let mounts = mountinfo::read()?;
            let (list, others) = scope.split(&mounts, root)?;
            let Some(&first) = list.first() else {
                break match others[..] {
                    [] => "nothing",
                    _ => "nothing of this pipeline",
                };
            };
            let left: &mut usize = tries.get_or_insert(list.len() + SPARE_TRIES);
            let mut was_there = false;
            for mount in list {
                if *left == 0 {
                    return Err(endless(mount, was_there));
                }
                *left -= 1;
                was_there |= self.unmount(context, root, mount, record)?;
            }
            rounds += 1;
            if rounds == ROUNDS {
                return Err(endless(first, was_there));
            }
        };
        let place = format!("at or below {}", quote(root));
        match record.unmounted.iter().flatten().count() - before {
            0 => context.note(format_args!("{what} is mounted {place}")),
            1 => context.note(format_args!("unmounted 1 mount {place}")),
            n => context.note(format_args!("unmounted {n} mounts {place}")),
        }
        Ok(())
    }

    /// Unmounts one mount, on which nothing is mounted. Returns whether it was there: since the list was read, another mount
    /// may have come over it, or it may have been unmounted.
    fn unmount(&self, context: &Context, root: &Path, mount: &Mount, record: &mut Record) -> Result<bool, Failure> {
        let doing = || format!("unmounting {}", quote(&mount.target));
        let place = match MountPoint::of(root, mount).map_err(|f| f.while_doing(doing()))? {
            Some(place) if place.is(mount) => place,
            _ => return Ok(false),
        };
        let mut result = place.unmount(UnmountFlags::empty());
        let detach = self.lazy && result == Err(Errno::BUSY);
        if detach {
            result = place.unmount(UnmountFlags::DETACH);
        } else if result == Err(Errno::BUSY) {
            result = try_again(root, mount, &place)?;
        }
        match result {
            Ok(()) => {
                let at = relative(&mount.target, root);
                if detach {
                    warn_of_detached(context, mount);
                    record.detached.push(at.clone());
                }
                record.unmounted.get_or_insert_default().push(at);
                Ok(true)
            }
            Err(Errno::INVAL | Errno::NOENT) if !place.is(mount) => Ok(false),
            Err(e @ (Errno::PERM | Errno::ACCESS)) => {
                let hint = format!("run it as root: sudo unmount {}", root.display());
                Err(Failure::system(Code::Permission, doing(), e).hint(hint))
            }
            Err(e @ Errno::INVAL) => Err(Failure::system(Code::Os, doing(), e)
                .hint("in a user namespace only what was mounted in it can be unmounted")),
            Err(e) => Err(e).doing(Code::Os, doing),
        }
    }
}

/// Tries a mount again that is in use, as long as no user is found: the kernel closes a file some time after its last user
/// has ended, and that of a loop device after the device, and nothing tells when. Returns the result of the last try, unless
/// the mount is still in use.
fn try_again(root: &Path, mount: &Mount, place: &MountPoint) -> Result<Result<(), Errno>, Failure> {
    let mut tries = 0;
    loop {
        let why = busy::why(mount, place)?;
        match place.unmount(UnmountFlags::empty()) {
            Err(Errno::BUSY) if why.is_some() || tries == UNSEEN_TRIES => {
                return Err(busy::failure(root, mount, why));
            }
            Err(Errno::BUSY) => {}
            result => return Ok(result),
        }
        tries += 1;
        std::thread::sleep(UNSEEN_WAIT);
    }
}

/// Returns the failure of a root whose mounts do not come to an end.
fn endless(mount: &Mount, was_there: bool) -> Failure {
    let doing = format!("unmounting {}", quote(&mount.target));
    match was_there {
        true => {
            Failure::new(Code::Busy, format!("{doing}: it is mounted again")).hint("end the program that mounts it")
        }
        false => Failure::new(Code::Busy, format!("{doing}: another mount hides it")),
    }
}

/// Returns the document as it is valid now: if an earlier run has unmounted what was mounted at the root itself, the path of
/// the root leads to another directory than before.
fn current(document: &Document) -> Document {
    let mut current = document.clone();
    let record = document.get::<Record>().unwrap_or_default();
    let mut unmounted = record.unmounted.iter().flatten();
    if unmounted.any(String::is_empty) {
        current.remove::<Identity>();
    }
    current
}

/// Prints what would be unmounted.
fn preview(context: &Context, scope: Scope<'_>, root: &Path, document: &mut Document) -> Result<(), Failure> {
    let mounts = mountinfo::read()?;
    let (list, _) = scope.split(&mounts, root)?;
    for mount in &list {
        context.note(format_args!("would unmount {}", quote(&mount.target)));
    }
    if list.is_empty() {
        context.note(format_args!("nothing is mounted at or below {}", quote(root)));
    }
    document.write(&Record { would_unmount: Some(below(&list, root)), ..document.get().unwrap_or_default() });
    Ok(())
}

/// Reports the mounts that stay because they are not of this pipeline.
fn warn_of_others(context: &Context, root: &Path, others: &[String]) {
    let mut names: Vec<_> = others.iter().take(NAMED).map(|at| quote(root.join(at))).collect();
    if others.len() > NAMED {
        names.push(format!("{} more", others.len() - NAMED));
    }
    context.warn(format_args!(
        "not mounted by this pipeline, and left: {}; 'unmount --new {}' takes all down",
        names.join(", "),
        root.display()
    ));
}

fn warn_of_detached(context: &Context, mount: &Mount) {
    let target = quote(&mount.target);
    if WITHOUT_DATA.contains(&mount.fstype.as_str()) {
        context.warn(format_args!("{target} is detached; it stays until its last user ends"));
    } else {
        context.warn(format_args!(
            "{target} is detached; data may still be in flight to its {} until its last user ends",
            mount.fstype
        ));
    }
}

/// Returns the places of mounts, below the root.
fn below(mounts: &[&Mount], root: &Path) -> Vec<String> {
    mounts.iter().map(|m| relative(&m.target, root)).collect()
}

fn relative(target: &Path, root: &Path) -> String {
    let below = target.strip_prefix(root).unwrap_or(target);
    below.to_string_lossy().into_owned()
}

/// Begins a record: after a run that stopped half way, this one continues its lists.
fn resumed(document: &Document) -> Record {
    let before = document.get::<Record>().unwrap_or_default();
    let mut record = Record { unmounted: Some(Vec::new()), ..Record::default() };
    if before.left.is_some_and(|left| !left.is_empty()) {
        record.unmounted = Some(before.unmounted.unwrap_or_default());
        record.detached = before.detached;
    }
    record
}

fn main() -> ExitCode {
    stage::main::<Unmount>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Document {
        Document::parse(text.as_bytes(), "stdin").unwrap()
    }

    #[test]
    fn a_run_that_goes_on_keeps_what_the_one_before_it_did() {
        let mut document =
            parse(r#"{"strapline":1,"unmount":{"unmounted":["proc"],"left":["dev"],"org.x":1,"would_unmount":[]}}"#);
        let mut record = resumed(&document);
        record.unmounted.as_mut().unwrap().push("dev".into());
        record.left = Some(Vec::new());
        document.write(&record);
        assert_eq!(
            document.line(),
            "{\"strapline\":1,\"unmount\":{\"unmounted\":[\"proc\",\"dev\"],\"left\":[],\"org.x\":1}}\n"
        );
        // All was down: the next run is a new one.
        assert_eq!(resumed(&document).unmounted, Some(Vec::new()));
    }

    #[test]
    fn the_identity_of_a_mount_ends_with_it() {
        let text = r#"{"strapline":1,"root_id":{"dev":1,"ino":2},"unmount":{"unmounted":["proc"AT]}}"#;
        let still = parse(&text.replace("AT", ""));
        assert!(current(&still).get::<Identity>().is_some());
        let gone = parse(&text.replace("AT", ",\"\""));
        assert!(current(&gone).get::<Identity>().is_none());
    }
}
