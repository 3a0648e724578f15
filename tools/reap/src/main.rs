//! `reap` ends processes that live in a root, and proves that none is left.
//!
//! A gpg-agent that pacman-key started, or a daemon of a scriptlet, keeps every mount of the root busy. By default each
//! tool takes its own away with its PID namespace, and then there is nothing to do here but to say so; the work comes
//! from `mkroot --host`, from the user's own chroot, and from tools that were run outside of the pipeline.
//!
//! Who lives in a root is said in [`rootfs::occupants`]. Everybody else is named and left alone.

mod sockets;

use clap::Parser;
use rootfs::occupants::{self, Occupant, Outcome, Scan};
use rootfs::root::RootId;
use stage::members::{Process, Reap as Record};
use stage::{Code, Common, Context, Document, Failure, Kind, Stage, quote};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// End processes that live in the root, and prove that none is left
///
/// A process lives in the root when its root directory is there, or when it is an agent of GnuPG that serves the root's
/// keyring. Who only uses a path there is named and left alone.
#[derive(Debug, Parser)]
#[command(
    version,
    help_expected = true,
    max_term_width = 80,
    after_help = "Example:\n  mkroot target --host | fetch-pacman | mkconf | keyring | strap base \\\n    | reap | unmount > receipt.json"
)]
struct Reap {
    /// The root, where there is no document; else the document's
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,

    /// How long processes may take to end on SIGTERM before they are killed; 0 kills at once
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(..=3600))]
    timeout: u64,

    /// Say what would be ended, and end nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    common: Common,
}

/// How often we look again. What starts anew this often is started by something that does not live there.
const ROUNDS: usize = 10;

/// In how many rounds processes get a SIGTERM first. What lives there after that was started by what we ended.
const POLITE_ROUNDS: usize = 2;

/// How many processes in the way get a line; the document has them all.
const LINES: usize = 20;

impl Stage for Reap {
    const KIND: Kind = Kind::Undo;

    fn common(&self) -> &Common {
        &self.common
    }

    fn can_start(&self) -> bool {
        self.dir.is_some()
    }

    fn run(&self, context: &Context, document: &mut Document) -> Result<(), Failure> {
        let Some(root) = occupants::subject(document, self.dir.as_deref())? else {
            context.note("no root was made: there is nothing to do");
            return Ok(());
        };
        if document.refused() {
            context.note(format_args!(
                "this pipeline was refused, as another works on {}: nothing is ended",
                quote(root.path())
            ));
            return Ok(());
        }
        // Until we have ended: no tool begins what we would take for left over.
        let _lock = match self.dry_run {
            true => None,
            false => Some(root.lock_alone()?),
        };
        let (path, id) = (root.path().to_owned(), root.id()?);
        let mut record = Record::default();
        let result = if self.dry_run {
            look(context, &path, id, &mut record)
        } else {
            self.reap(context, &path, id, &mut record)
                .map(|()| record.sockets = sockets::remove_stale(context, &root))
        };
        document.write(&record);
        result
    }
}

impl Reap {
    /// Ends what lives in the root until two looks in a row find nothing: what was started while we looked at others
    /// is seen by the second.
    fn reap(
        &self,
        context: &Context,
        root: &Path,
        id: RootId,
        record: &mut Record,
    ) -> Result<(), Failure> {
        let mut denied = HashSet::new();
        let mut rounds = 0;
        let mut clean = false;
        let last = loop {
            let scan = occupants::find(root, id)?;
            let living: Vec<Occupant> = scan
                .living()
                .filter(|o| !denied.contains(&(o.pid, o.start_time)))
                .cloned()
                .collect();
            if living.is_empty() {
                if clean {
                    break scan;
                }
                clean = true;
                continue;
            }
            clean = false;
            if rounds == ROUNDS {
                record_in_the_way(record, &scan);
                return Err(still_there(root, &living, "they are started anew")
                    .hint("something outside of the root starts them: end that first"));
            }
            let timeout = if rounds < POLITE_ROUNDS {
                Duration::from_secs(self.timeout)
            } else {
                Duration::ZERO
            };
            rounds += 1;
            let outcome = occupants::end(root, id, living, timeout)?;
            record_ended(record, context, root, &outcome, timeout);
            if !outcome.stuck.is_empty() {
                record_in_the_way(record, &scan);
                return Err(still_there(root, &outcome.stuck, "SIGKILL did not end them").hint(
                    "they wait in the kernel, for a disk or a server: ps -o pid,stat,wchan,args",
                ));
            }
            denied.extend(outcome.denied.iter().map(|o| (o.pid, o.start_time)));
        };
        record_in_the_way(record, &last);
        warn_of_others(context, &last);
        // Who lives there still was denied; the others of those have ended since.
        let left: Vec<Occupant> = last.living().cloned().collect();
        if !left.is_empty() {
            let names = names(&left, Some(root));
            return Err(Failure::new(
                Code::Permission,
                format!("ending {names}: Operation not permitted"),
            )
            .hint(format!("run it as root: sudo reap {}", root.display())));
        }
        if record.ended.is_empty() {
            context.note(format_args!("nothing lives in {}", quote(root)));
        }
        Ok(())
    }
}

/// Says what would be ended.
fn look(context: &Context, root: &Path, id: RootId, record: &mut Record) -> Result<(), Failure> {
    let scan = occupants::find(root, id)?;
    record_in_the_way(record, &scan);
    record.would_end = Some(scan.living().map(process).collect());
    for occupant in scan.living() {
        context.note(format_args!("would end {}", lives(occupant, root)));
    }
    if scan.living().next().is_none() {
        context.note(format_args!("nothing lives in {}", quote(root)));
    }
    warn_of_others(context, &scan);
    Ok(())
}

/// Names those that only use the root, and says how many could not be looked at.
fn warn_of_others(context: &Context, scan: &Scan) {
    for occupant in scan.in_the_way().take(LINES) {
        let why = if occupant.spared {
            "this program was started from there, and it is left alone"
        } else {
            "it does not live there and is left alone"
        };
        context.warn(format_args!("{occupant} {}; {why}", occupant.how()));
    }
    let more = scan.in_the_way().count().saturating_sub(LINES);
    if more > 0 {
        context.warn(format_args!(
            "{more} more processes use the root; they are left alone"
        ));
    }
    if scan.unreadable > 0 {
        context.note(occupants::unreadable(scan.unreadable));
    }
}

fn still_there(root: &Path, living: &[Occupant], why: &str) -> Failure {
    Failure::new(
        Code::Busy,
        format!(
            "ending what lives in {}: {}: {why}",
            quote(root),
            names(living, None)
        ),
    )
}

/// Returns a process and where it lives, as in `12 gpg-agent (user root): lives in '/srv/target'`.
fn lives(occupant: &Occupant, root: &Path) -> String {
    format!("{occupant}: lives in {}", quote(root))
}

/// Returns the first few processes, for a message.
fn names(occupants: &[Occupant], root: Option<&Path>) -> String {
    let first = occupants.iter().take(5);
    let mut names: Vec<String> = first
        .map(|o| root.map_or_else(|| o.to_string(), |root| lives(o, root)))
        .collect();
    if occupants.len() > names.len() {
        names.push(format!("{} more", occupants.len() - names.len()));
    }
    names.join(", ")
}

fn process(occupant: &Occupant) -> Process {
    Process {
        pid: occupant.pid,
        program: occupant.comm.clone(),
        user: occupant.user.clone(),
        how: None,
    }
}

fn record_ended(
    record: &mut Record,
    context: &Context,
    root: &Path,
    outcome: &Outcome,
    timeout: Duration,
) {
    let killed = match timeout.as_secs() {
        0 => String::new(),
        n => format!("; killed, since SIGTERM did not end it in {n} s"),
    };
    for (occupants, how) in [(&outcome.ended, ""), (&outcome.killed, &killed)] {
        for occupant in occupants {
            context.note(format_args!("ended {}{how}", lives(occupant, root)));
            record.ended.push(process(occupant));
        }
    }
}

fn record_in_the_way(record: &mut Record, scan: &Scan) {
    record.unreadable = Some(scan.unreadable).filter(|n| *n > 0);
    let with_use = |occupant: &Occupant| Process {
        how: Some(occupant.how()),
        ..process(occupant)
    };
    record.in_the_way = scan.in_the_way().map(with_use).collect();
}

fn main() -> ExitCode {
    stage::main::<Reap>()
}
