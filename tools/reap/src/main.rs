//! `reap` ends processes that live in a root, and proves that none is left.
//!
//! A gpg-agent that pacman-key started, or a daemon of a scriptlet, keeps every mount of the root busy. By default each
//! tool ends its processes with its PID namespace, and `reap` has nothing to do. There is work after `mkroot --host`, after
//! the user's own chroot, and after programs that were run outside of the pipeline.
//!
//! [`rootfs::occupants`] defines which processes live in a root. All others are reported and not ended.

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
/// keyring. A process that only uses a path there is reported and not ended.
#[derive(Debug, Parser)]
#[command(
    version,
    help_expected = true,
    max_term_width = 80,
    after_help = "Example:\n  mkroot target --host | fetch-pacman | mkconf | keyring | strap base \\\n    | reap | unmount > receipt.json"
)]
struct Reap {
    /// The root; by default that of the document
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Kill processes that have not ended SECONDS after SIGTERM; 0: kill at once
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(..=3600))]
    timeout: u64,

    /// Only print what would be ended
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    common: Common,
}

/// How often processes are ended. If there are still some, something that does not live there restarts them.
const ROUNDS: usize = 10;

/// In how many rounds processes get a SIGTERM first. Later ones were started by processes that we have ended.
const SIGTERM_ROUNDS: usize = 2;

/// How many processes that only use the root get a line; the document has them all.
const LINES: usize = 20;

/// How many processes a failure names.
const NAMED: usize = 5;

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
        let id = root.id()?;
        let mut record = Record::default();
        let result = if self.dry_run {
            preview(context, root.path(), id, &mut record)
        } else {
            // No tool may start processes now, which would look like left over ones.
            let _lock = root.lock_exclusive()?;
            self.reap(context, root.path(), id, &mut record)
                .map(|()| record.sockets = sockets::remove_stale(context, &root))
        };
        document.write(&record);
        result
    }
}

impl Reap {
    /// Ends processes that live in the root until two scans in a row find none: the second one finds a process that was
    /// started while the first one looked at others.
    fn reap(&self, context: &Context, root: &Path, id: RootId, record: &mut Record) -> Result<(), Failure> {
        let mut denied = HashSet::new();
        let mut rounds = 0;
        let mut clean = false;
        let last = loop {
            let scan = occupants::find(root, id)?;
            let is_denied = |o: &&Occupant| denied.contains(&(o.pid, o.start_time));
            let living: Vec<_> = scan.living().filter(|o| !is_denied(o)).cloned().collect();
            if living.is_empty() {
                if clean {
                    break scan;
                }
                clean = true;
                continue;
            }
            clean = false;
            if rounds == ROUNDS {
                record_others(record, &scan);
                return Err(still_there(root, &living, "they are restarted")
                    .hint("something outside of the root starts them: end that first"));
            }
            let timeout = if rounds < SIGTERM_ROUNDS { Duration::from_secs(self.timeout) } else { Duration::ZERO };
            rounds += 1;
            let outcome = occupants::end(root, id, living, timeout)?;
            record_ended(record, context, root, &outcome, timeout);
            if !outcome.stuck.is_empty() {
                record_others(record, &scan);
                return Err(still_there(root, &outcome.stuck, "SIGKILL did not end them")
                    .hint("they wait in the kernel, for a disk or a server: ps -o pid,stat,wchan,args"));
            }
            denied.extend(outcome.denied.iter().map(|o| (o.pid, o.start_time)));
        };
        record_others(record, &last);
        warn_of_others(context, &last);
        // Those that we may not signal.
        let left: Vec<_> = last.living().collect();
        if !left.is_empty() {
            let names = occupants::shorten(left.iter().map(|o| lives(o, root)), NAMED);
            return Err(Failure::new(Code::Permission, format!("ending {names}: Operation not permitted"))
                .hint(format!("run it as root: sudo reap {}", root.display())));
        }
        if record.ended.is_empty() {
            context.note(format_args!("nothing lives in {}", quote(root)));
        }
        Ok(())
    }
}

/// Prints what would be ended.
fn preview(context: &Context, root: &Path, id: RootId, record: &mut Record) -> Result<(), Failure> {
    let scan = occupants::find(root, id)?;
    record_others(record, &scan);
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

/// Reports the processes that only use the root, and how many could not be looked at.
fn warn_of_others(context: &Context, scan: &Scan) {
    for occupant in scan.others().take(LINES) {
        let why = match occupant.spared {
            true => "this program was started from there, and it is left alone",
            false => "it does not live there and is left alone",
        };
        context.warn(format_args!("{occupant} {}; {why}", occupant.how()));
    }
    let more = scan.others().count().saturating_sub(LINES);
    if more > 0 {
        context.warn(format_args!("{more} more processes use the root; they are left alone"));
    }
    if scan.unreadable > 0 {
        context.note(occupants::unreadable(scan.unreadable));
    }
}

fn still_there(root: &Path, living: &[Occupant], why: &str) -> Failure {
    let names = occupants::shorten(living.iter().map(Occupant::to_string), NAMED);
    Failure::new(Code::Busy, format!("ending the processes that live in {}: {names}: {why}", quote(root)))
}

/// Returns a process and where it lives, as in `12 gpg-agent (user root): lives in '/srv/target'`.
fn lives(occupant: &Occupant, root: &Path) -> String {
    format!("{occupant}: lives in {}", quote(root))
}

fn process(occupant: &Occupant) -> Process {
    Process { pid: occupant.pid, program: occupant.comm.clone(), user: occupant.user.clone(), how: None }
}

fn record_ended(record: &mut Record, context: &Context, root: &Path, outcome: &Outcome, timeout: Duration) {
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

fn record_others(record: &mut Record, scan: &Scan) {
    record.unreadable = Some(scan.unreadable).filter(|n| *n > 0);
    let with_use = |occupant: &Occupant| Process { how: Some(occupant.how()), ..process(occupant) };
    record.in_the_way = scan.others().map(with_use).collect();
}

fn main() -> ExitCode {
    stage::main::<Reap>()
}
