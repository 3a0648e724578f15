//! What pacman's exit status does not say: which scriptlets and hooks failed, or never ran.
//!
//! Two witnesses: pacman's output, which says that a command failed, in order with the packages; and pacman's log, which
//! says that a command could not even be started. Both are a root's content, so they are text and no more.

use package::localdb;
use package::pacman_log::{self, Event};
use pacman::Mark;
use pacman::records::{LOCAL, names_in};
use rootfs::Root;
use rustix::io::Errno;
use stage::{Code, Doing, Failure, message, quote};
use std::collections::BTreeMap;
use std::fmt::{self, Display};

/// The log, below the root.
const LOG: &str = "var/log/pacman.log";

/// The longest log that is read.
const LIMIT: u64 = 64 << 20;

/// A scriptlet or hook that did not do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Whose it is.
    owner: Owner,
    /// Why, in the words of pacman or the kernel.
    why: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Owner {
    Package(String),
    Hook(String),
    Unknown,
}

impl Problem {
    /// Returns whether this is the scriptlet of package `name`, or the hook `name`.
    pub(crate) fn is_of(&self, name: &str) -> bool {
        match &self.owner {
            Owner::Package(owner) => owner == name,
            Owner::Hook(hook) => hook == name || hook.strip_suffix(".hook") == Some(name),
            Owner::Unknown => false,
        }
    }

    /// Returns what may mend it.
    pub(crate) fn hint(&self) -> String {
        if self.why.contains("Exec format error") {
            return "this host cannot run the root's programs: 'doctor' says what is missing"
                .to_owned();
        }
        match &self.owner {
            Owner::Package(name) | Owner::Hook(name) => format!(
                "look at what it printed above; where it does not matter, give --allow-failed-scriptlet {name}"
            ),
            Owner::Unknown => "look at what pacman printed above".to_owned(),
        }
    }
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = message::escape(&self.why);
        match &self.owner {
            Owner::Package(name) => write!(
                f,
                "running the scriptlet of '{}': {why}",
                message::escape(name)
            ),
            Owner::Hook(name) => write!(f, "running the hook '{}': {why}", message::escape(name)),
            Owner::Unknown => write!(f, "running a scriptlet or hook: {why}"),
        }
    }
}

/// Returns how long the log is, in bytes: what comes after is the next transaction's.
///
/// # Errors
///
/// When it cannot be read.
pub(crate) fn log_length(root: &Root) -> Result<usize, Failure> {
    Ok(read_log(root)?.len())
}

fn read_log(root: &Root) -> Result<Vec<u8>, Failure> {
    match root.read(LOG, LIMIT) {
        Ok(text) => Ok(text),
        Err(Errno::NOENT) => Ok(Vec::new()),
        Err(e) => Err(e).doing(Code::Failed, || {
            format!("reading {}", quote(root.path().join(LOG)))
        }),
    }
}

/// Returns the failure where pacman left out a file of a package, or a part of it, and called that a warning.
pub(crate) fn not_extracted(marks: &[Mark]) -> Option<Failure> {
    let mut package = None;
    let mut left_out = Vec::new();
    for mark in marks {
        match mark {
            Mark::Package(name) => package = Some(name),
            Mark::NotExtracted(file, why) => left_out.push((package, file, why)),
            _ => {}
        }
    }
    let (package, file, why) = left_out.first()?;
    let of = package.map_or(String::new(), |name| {
        format!(" of '{}'", message::escape(name))
    });
    let more = match left_out.len() - 1 {
        0 => String::new(),
        n => format!(" (and {n} more)"),
    };
    let line = format!(
        "extracting '{}'{of}: {}{more}",
        message::escape(file),
        message::escape(why)
    );
    Some(Failure::new(Code::Failed, line).hint(
        "dmesg says what the disk answered; strap again installs the packages of this run anew",
    ))
}

/// Returns the packages that the last transaction had installed when it ended half way: their scriptlets may not have
/// run. `None` where it did not. `killed` says that pacman left its lock: it holds that until the last hook has run,
/// which is after the log says that the transaction is complete.
///
/// # Errors
///
/// When the log cannot be read.
pub(crate) fn unfinished(root: &Root, killed: bool) -> Result<Option<Vec<String>>, Failure> {
    Ok(unfinished_in(&read_log(root)?, killed))
}

/// Reads the log for a transaction that was started and not completed; returns what it had installed. Where pacman was
/// `killed`, the last one counts even if it says that it is complete.
fn unfinished_in(log: &[u8], killed: bool) -> Option<Vec<String>> {
    let mut open: Option<Vec<String>> = None;
    let mut complete = false;
    for event in pacman_log::events(log) {
        match event {
            // A transaction that comes after one that ended half way repairs it only by being completed.
            Event::TransactionStarted => {
                if complete {
                    open = None;
                }
                open.get_or_insert_default();
                complete = false;
            }
            Event::TransactionCompleted => complete = true,
            Event::Installed { name, .. }
            | Event::Reinstalled { name, .. }
            | Event::Upgraded { name, .. }
            | Event::Downgraded { name, .. } => {
                if let Some(names) = &mut open
                    && !names.contains(&name)
                {
                    names.push(name);
                }
            }
            Event::Removed { name, .. } => {
                if let Some(names) = &mut open {
                    names.retain(|n| *n != name);
                }
            }
            _ => {}
        }
    }
    open.filter(|_| killed || !complete)
}

/// Returns the package whose post_install may not have run to its end: the log ends with its installation, as libalpm
/// writes that line just before. Installing it again as it is would run its post_upgrade.
///
/// # Errors
///
/// When the log cannot be read.
pub(crate) fn interrupted(root: &Root) -> Result<Option<String>, Failure> {
    Ok(interrupted_in(&read_log(root)?))
}

fn interrupted_in(log: &[u8]) -> Option<String> {
    let mut last = None;
    for event in pacman_log::events(log) {
        match event {
            Event::Installed { name, .. } => last = Some(name),
            Event::ScriptletOutput { .. } => {}
            _ => last = None,
        }
    }
    last
}

/// Returns what is installed as the log has it from this length on: versions by name.
///
/// # Errors
///
/// When the log cannot be read.
pub(crate) fn logged(root: &Root, from: usize) -> Result<BTreeMap<String, String>, Failure> {
    let log = read_log(root)?;
    Ok(logged_in(log.get(from..).unwrap_or_default()))
}

fn logged_in(log: &[u8]) -> BTreeMap<String, String> {
    let mut installed = BTreeMap::new();
    for event in pacman_log::events(log) {
        match event {
            Event::Installed { name, version } | Event::Reinstalled { name, version } => {
                installed.insert(name, version);
            }
            Event::Upgraded { name, to, .. } | Event::Downgraded { name, to, .. } => {
                installed.insert(name, to);
            }
            Event::Removed { name, .. } => {
                installed.remove(&name);
            }
            _ => {}
        }
    }
    installed
}

/// Returns what failed in the transaction that began when the log was `before` long and printed `marks`.
///
/// # Errors
///
/// When the log or the database of installed packages cannot be read.
pub(crate) fn problems(
    root: &Root,
    before: usize,
    marks: &[Mark],
) -> Result<Vec<Problem>, Failure> {
    let log = read_log(root)?;
    let events: Vec<_> = pacman_log::events(log.get(before..).unwrap_or_default()).collect();
    let started = not_started(&events);
    let mut found = failed(marks, &events);
    // The log knows why a command could not be started; the output only that it failed.
    for (owner, why) in started {
        match found.iter_mut().find(|p| p.owner == owner) {
            Some(problem) => problem.why = why,
            None => found.push(Problem { owner, why }),
        }
    }
    if !found.is_empty() {
        let shell = shell_package(root)?;
        found.retain(|p| !is_before_shell(p, &events, shell.as_deref()));
    }
    Ok(found)
}

/// Reads the output: a failed command belongs to the package or hook that pacman named last.
fn failed(marks: &[Mark], events: &[Event]) -> Vec<Problem> {
    // The output has a hook's description, the log its file: the n-th of one is the n-th of the other.
    let hooks: Vec<_> = events
        .iter()
        .filter_map(|e| match e {
            Event::RunningHook { name } => Some(name.clone()),
            _ => None,
        })
        .collect();
    let (mut owner, mut seen) = (Owner::Unknown, 0);
    let mut found: Vec<Problem> = Vec::new();
    for mark in marks {
        match mark {
            Mark::Package(name) => owner = Owner::Package(name.clone()),
            Mark::Hook(description) => {
                owner = Owner::Hook(hooks.get(seen).unwrap_or(description).clone());
                seen += 1;
            }
            Mark::CommandFailed(why) if !found.iter().any(|p| p.owner == owner) => {
                found.push(Problem {
                    owner: owner.clone(),
                    why: why.clone(),
                })
            }
            Mark::CommandFailed(_)
            | Mark::SavedBeside(_)
            | Mark::Corrupted(_)
            | Mark::NotExtracted(..)
            | Mark::Error(_) => {}
        }
    }
    found
}

/// Reads the log for commands that could not be started.
fn not_started(events: &[Event]) -> Vec<(Owner, String)> {
    let mut owner = Owner::Unknown;
    let mut found: Vec<(Owner, String)> = Vec::new();
    for event in events {
        match event {
            Event::Installed { name, .. }
            | Event::Reinstalled { name, .. }
            | Event::Upgraded { name, .. }
            | Event::Downgraded { name, .. } => owner = Owner::Package(name.clone()),
            Event::RunningHook { name } => owner = Owner::Hook(name.clone()),
            Event::ScriptletOutput { line }
                if line.starts_with("call to execv failed")
                    && !found.iter().any(|(o, _)| *o == owner) =>
            {
                found.push((owner.clone(), line.clone()));
            }
            _ => {}
        }
    }
    found
}

/// A scriptlet that comes before there is a shell cannot run, on Arch as little as here, and its package is made for
/// that (`filesystem`, `glibc`). Known by order in the log: its package came before the one with the shell, which was
/// not there. Where a killed pacman had come as far as the one, it is installed again.
fn is_before_shell(problem: &Problem, events: &[Event], shell: Option<&str>) -> bool {
    let Owner::Package(owner) = &problem.owner else {
        return false;
    };
    let owner = events.iter().position(|e| {
        matches!(e, Event::Installed { name, .. } | Event::Reinstalled { name, .. } if name == owner)
    });
    let shell = events
        .iter()
        .position(|e| matches!(e, Event::Installed { name, .. } if Some(name.as_str()) == shell));
    let (Some(owner), Some(shell)) = (owner, shell) else {
        return false;
    };
    owner < shell && problem.why.contains("No such file or directory")
}

/// Returns the package that owns the shell that scriptlets run in.
fn shell_package(root: &Root) -> Result<Option<String>, Failure> {
    let mut second = None;
    for name in names_in(root, LOCAL)? {
        let Ok(files) = root.read(&format!("{LOCAL}/{name}/files"), LIMIT) else {
            continue;
        };
        let files = localdb::files(&files);
        let has = |path: &str| files.iter().any(|f| f == path);
        if !has("usr/bin/bash") && !has("usr/bin/sh") {
            continue;
        }
        let desc = root
            .read(&format!("{LOCAL}/{name}/desc"), LIMIT)
            .doing(Code::Failed, || format!("reading the record of '{name}'"))?;
        let owner = localdb::desc(&desc)
            .doing(Code::Failed, || format!("reading the record of '{name}'"))?;
        if has("usr/bin/bash") {
            return Ok(Some(owner.name));
        }
        second = Some(owner.name);
    }
    Ok(second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(log: &str) -> Vec<Event> {
        pacman_log::events(log.as_bytes()).collect()
    }

    const LOG: &str = "\
[2026-11-22T10:00:00+0000] [ALPM] transaction started
[2026-11-22T10:00:00+0000] [ALPM] installed glibc (2.36-1)
[2026-11-22T10:00:00+0000] [ALPM-SCRIPTLET] call to execv failed (No such file or directory)
[2026-11-22T10:00:01+0000] [ALPM] installed bash (5.2-1)
[2026-11-22T10:00:01+0000] [ALPM-SCRIPTLET] call to execv failed (Exec format error)
[2026-11-22T10:00:01+0000] [ALPM] installed nano (7-1)
";

    #[test]
    fn a_file_that_was_left_out_is_a_failure_with_its_package() {
        let left_out = |file: &str| Mark::NotExtracted(file.into(), "Write failed".into());
        let mut marks = vec![
            Mark::Package("glibc".into()),
            Mark::Package("bash".into()),
            left_out("/r/usr/bin/bash"),
        ];
        let failure = not_extracted(&marks).unwrap();
        assert_eq!(
            failure.message,
            "extracting '/r/usr/bin/bash' of 'bash': Write failed"
        );
        marks.push(left_out("/r/usr/bin/sh"));
        let failure = not_extracted(&marks).unwrap();
        assert!(failure.message.ends_with("Write failed (and 1 more)"));
        assert_eq!(not_extracted(&marks[..2]), None);
    }

    #[test]
    fn a_command_that_could_not_start_belongs_to_the_package_before_it() {
        let package = |n: &str| Owner::Package(n.into());
        assert_eq!(
            not_started(&events(LOG)),
            [
                (
                    package("glibc"),
                    "call to execv failed (No such file or directory)".into()
                ),
                (
                    package("bash"),
                    "call to execv failed (Exec format error)".into()
                )
            ]
        );
    }

    #[test]
    fn only_what_comes_before_the_shell_is_excused_and_only_for_want_of_it() {
        let problem = |owner: &str, why: &str| Problem {
            owner: Owner::Package(owner.into()),
            why: why.into(),
        };
        let none = "call to execv failed (No such file or directory)";
        let events = events(LOG);
        assert!(is_before_shell(
            &problem("glibc", none),
            &events,
            Some("bash")
        ));
        assert!(!is_before_shell(
            &problem("nano", none),
            &events,
            Some("bash")
        ));
        assert!(!is_before_shell(
            &problem("glibc", "Exec format error"),
            &events,
            Some("bash")
        ));
        assert!(!is_before_shell(&problem("glibc", none), &events, None));
        // What a killed pacman had installed is installed again, before there is a shell, or beside one that was there.
        let again = |log: &str| self::events(&log.replace("installed glibc", "reinstalled glibc"));
        let glibc = problem("glibc", none);
        assert!(is_before_shell(&glibc, &again(LOG), Some("bash")));
        let both = again(&LOG.replace("installed bash", "reinstalled bash"));
        assert!(!is_before_shell(&glibc, &both, Some("bash")));
        assert!(!is_before_shell(
            &problem("other", none),
            &events,
            Some("bash")
        ));
    }

    #[test]
    fn a_failed_hook_is_named_by_its_file() {
        let log = events("[x] [ALPM] running '20-a.hook'...\n[x] [ALPM] running '30-b.hook'...\n");
        let marks = [
            Mark::Package("bash".into()),
            Mark::Hook("Doing A...".into()),
            Mark::Hook("Doing B...".into()),
            Mark::CommandFailed("command failed to execute correctly".into()),
        ];
        let found = failed(&marks, &log);
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].to_string(),
            "running the hook '30-b.hook': command failed to execute correctly"
        );
        assert!(found[0].is_of("30-b"));
    }

    #[test]
    fn a_transaction_that_ended_half_way_is_known_until_one_is_completed() {
        let names = Some(vec!["glibc".into(), "bash".into(), "nano".into()]);
        assert_eq!(unfinished_in(LOG.as_bytes(), false), names);
        let done = format!("{LOG}[x] [ALPM] transaction completed\n");
        assert_eq!(unfinished_in(done.as_bytes(), false), None);
        assert_eq!(unfinished_in(done.as_bytes(), true), names);
        let again = format!("{done}[x] [ALPM] transaction started\n");
        assert_eq!(unfinished_in(again.as_bytes(), false), Some(vec![]));
        assert_eq!(unfinished_in(b"", true), None);
        let older = "[x] [ALPM] transaction started\n[x] [ALPM] downgraded nano (8-1 -> 7-1)\n";
        let nano = Some(vec!["nano".into()]);
        assert_eq!(unfinished_in(older.as_bytes(), false), nano);
    }

    #[test]
    fn only_the_last_one_may_have_been_interrupted_in_its_post_install() {
        let nano = Some("nano".to_owned());
        assert_eq!(interrupted_in(LOG.as_bytes()), nano);
        let words = format!("{LOG}[x] [ALPM-SCRIPTLET] working\n");
        assert_eq!(interrupted_in(words.as_bytes()), nano);
        for then in [
            "running '20-a.hook'...",
            "transaction completed",
            "upgraded vim (1-1 -> 2-1)",
        ] {
            let log = format!("{LOG}[x] [ALPM] {then}\n");
            assert_eq!(interrupted_in(log.as_bytes()), None, "{then}");
        }
        assert_eq!(interrupted_in(b""), None);
    }

    #[test]
    fn the_log_says_what_is_installed() {
        let log = "\
[x] [ALPM] installed bash (5-1)
[x] [ALPM] installed nano (7-1)
[x] [ALPM] installed vim (9-1)
[x] [ALPM] upgraded nano (7-1 -> 1:8-2)
[x] [ALPM] reinstalled bash (5-1)
[x] [ALPM] removed vim (9-1)
";
        let installed = [("bash", "5-1"), ("nano", "1:8-2")];
        let installed = installed.map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(logged_in(log.as_bytes()), BTreeMap::from(installed));
    }
}
