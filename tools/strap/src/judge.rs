//! What pacman's exit status does not say: which scriptlets and hooks failed, or never ran.
//!
//! Two witnesses. pacman's output says that a command failed, after it has named the package or hook; what scriptlets print
//! stands in between, and may look the same. pacman's log tells the two apart: it names each package and hook, and each line
//! that a scriptlet printed is marked as one. Both are a root's content, so they are text and no more.

use package::localdb;
use package::pacman_log::{self, Event};
use pacman::OutputEvent;
use pacman::english::{self, NotStarted};
use pacman::output::reads_as;
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
    /// Why it could not even be started, where that is so.
    not_started: Option<NotStarted>,
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
        if self.not_started == Some(NotStarted::WrongFormat) {
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
pub(crate) fn not_extracted(marks: &[OutputEvent]) -> Option<Failure> {
    let mut package = None;
    let mut left_out = Vec::new();
    for mark in marks {
        match mark {
            OutputEvent::Package(name) => package = Some(name),
            OutputEvent::NotExtracted(file, why) => left_out.push((package, file, why)),
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
    marks: &[OutputEvent],
) -> Result<Vec<Problem>, Failure> {
    let log = read_log(root)?;
    let events: Vec<_> = pacman_log::events(log.get(before..).unwrap_or_default()).collect();
    let mut found = failed(marks, &events);
    if !found.is_empty() {
        let shell = shell_package(root)?;
        found.retain(|p| !is_before_shell(p, &events, shell.as_deref()));
    }
    Ok(found)
}

/// What pacman prints when it begins with a package or hook. A hook's number stands in the output and its file in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Begin {
    Package(String),
    Hook(u32),
}

impl Begin {
    fn of(mark: &OutputEvent) -> Option<Self> {
        match mark {
            OutputEvent::Package(name) => Some(Self::Package(name.clone())),
            OutputEvent::Hook(number, _) => Some(Self::Hook(*number)),
            _ => None,
        }
    }
}

/// A package or hook that the log has.
struct CacheLock {
    owner: Owner,
    begin: Begin,
    /// Which of the lines of the output that read as `begin` is pacman's own: before it there are those that scriptlets
    /// printed before the log has this one, and pacman's for others of the same number.
    nth: usize,
    /// How many lines that read as a failed command scriptlets printed from the line in the log on to that of the next.
    forged: usize,
    /// What libalpm, or a scriptlet in its name, said of a command that could not be started.
    not_started: Option<(NotStarted, String)>,
}

/// Reads the log for who had their turn, in order.
///
/// pacman prints that it begins with a package, runs pre_install, logs the package, and runs post_install; it logs a hook,
/// prints it, and runs it. So what scriptlets printed before the log has the package or hook cannot stand behind pacman's
/// own line for it but for what its own pre_install printed, and all of these lines are in the log.
fn turns(events: &[Event]) -> (Vec<CacheLock>, usize) {
    let mut turns: Vec<CacheLock> = Vec::new();
    let mut printed: Vec<Begin> = Vec::new();
    let (mut hooks, mut early) = (0, 0);
    for event in events {
        let owner = match event {
            Event::Installed { name, .. }
            | Event::Reinstalled { name, .. }
            | Event::Upgraded { name, .. }
            | Event::Downgraded { name, .. } => Owner::Package(name.clone()),
            Event::RunningHook { name } => Owner::Hook(name.clone()),
            // The hooks before are counted by themselves.
            Event::TransactionStarted => {
                hooks = 0;
                continue;
            }
            Event::ScriptletOutput { line } => {
                let marks = reads_as(line);
                printed.extend(marks.iter().filter_map(Begin::of));
                let failed = |mark: &&OutputEvent| matches!(mark, OutputEvent::CommandFailed(_));
                let forged = marks.iter().filter(failed).count();
                match turns.last_mut() {
                    Some(turn) => {
                        turn.forged += forged;
                        let why = english::not_started(line).map(|why| (why, line.clone()));
                        turn.not_started = why.or(turn.not_started.take());
                    }
                    None => early += forged,
                }
                continue;
            }
            _ => continue,
        };
        let begin = match &owner {
            Owner::Package(name) => Begin::Package(name.clone()),
            _ => {
                hooks += 1;
                Begin::Hook(hooks)
            }
        };
        let nth = 1 + printed.iter().filter(|b| **b == begin).count();
        printed.push(begin.clone());
        turns.push(CacheLock {
            owner,
            begin,
            nth,
            forged: 0,
            not_started: None,
        });
    }
    (turns, early)
}

/// Reads the output: a failed command belongs to the package or hook that pacman named last.
fn failed(marks: &[OutputEvent], events: &[Event]) -> Vec<Problem> {
    let (turns, early) = turns(events);
    // The failures in the turn of each, and what comes before the first.
    let mut said: Vec<Vec<&String>> = vec![Vec::new(); turns.len() + 1];
    let mut seen: Vec<(Begin, usize)> = Vec::new();
    let mut now = 0;
    for mark in marks {
        if let OutputEvent::CommandFailed(why) = mark {
            said[now].push(why);
        }
        let Some(begin) = Begin::of(mark) else {
            continue;
        };
        let nth = match seen.iter_mut().find(|(b, _)| *b == begin) {
            Some((_, n)) => {
                *n += 1;
                *n
            }
            None => {
                seen.push((begin.clone(), 1));
                1
            }
        };
        let next = turns[now..]
            .iter()
            .position(|turn| turn.begin == begin && turn.nth == nth);
        now += next.map_or(0, |next| next + 1);
    }
    let mut found = Vec::new();
    let mut forged = early;
    for (n, said) in said.iter().enumerate() {
        let turn = n.checked_sub(1).map(|n| &turns[n]);
        forged += turn.map_or(0, |turn| turn.forged);
        // What pre_install of the next one printed stands in its turn.
        let printed = forged.min(said.len());
        forged -= printed;
        let Some(why) = said[printed..].first() else {
            continue;
        };
        let not_started = turn.and_then(|turn| turn.not_started.clone());
        found.push(Problem {
            owner: turn.map_or(Owner::Unknown, |turn| turn.owner.clone()),
            // The log knows why a command could not be started; the output only that it failed.
            why: match &not_started {
                Some((_, line)) => line.clone(),
                None => (*why).clone(),
            },
            not_started: not_started.map(|(why, _)| why),
        });
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
    owner < shell && problem.not_started == Some(NotStarted::NoFile)
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
        let left_out = |file: &str| OutputEvent::NotExtracted(file.into(), "Write failed".into());
        let mut marks = vec![
            OutputEvent::Package("glibc".into()),
            OutputEvent::Package("bash".into()),
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

    /// What pacman prints and logs, as `output` and `log`, and the packages that are said to have failed.
    fn owners(output: &str, log: &str) -> Vec<String> {
        let log: String = log.split('\n').map(|l| format!("[x] [{l}\n")).collect();
        let found = failed(&reads_as(output), &events(&log));
        found.iter().map(ToString::to_string).collect()
    }

    const FAILED: &str = "command failed to execute correctly";

    #[test]
    fn a_command_that_could_not_start_belongs_to_the_package_before_it() {
        let output = format!(
            "installing glibc...\ncall to execv failed (No such file or directory)\nerror: {FAILED}\n\
             installing bash...\ncall to execv failed (Exec format error)\nerror: {FAILED}\ninstalling nano...\n"
        );
        let found = failed(&reads_as(&output), &events(LOG));
        let expected = [
            ("glibc", NotStarted::NoFile, "No such file or directory"),
            ("bash", NotStarted::WrongFormat, "Exec format error"),
        ];
        let expected = expected.map(|(name, not_started, why)| Problem {
            owner: Owner::Package(name.into()),
            why: format!("call to execv failed ({why})"),
            not_started: Some(not_started),
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn a_scriptlet_cannot_name_another() {
        let a = format!("running the scriptlet of 'a': {FAILED}");
        let b = format!("running the scriptlet of 'b': {FAILED}");
        // It names the next one, one that came before, and itself.
        let log = "ALPM] installed z (1)\nALPM] installed a (1)\nALPM-SCRIPTLET] installing b...\n\
                   ALPM-SCRIPTLET] installing z...\nALPM] installed b (1)";
        let output = format!(
            "installing z...\ninstalling a...\ninstalling b...\ninstalling z...\nerror: {FAILED}\ninstalling b...\n"
        );
        assert_eq!(owners(&output, log), vec![a.clone()]);
        // pre_install of b prints what is to be mistaken for its own beginning, and fails: b it is.
        let log = "ALPM] installed a (1)\nALPM-SCRIPTLET] installing b...\nALPM] installed b (1)";
        let output =
            format!("installing a...\ninstalling b...\ninstalling b...\nerror: {FAILED}\n");
        assert_eq!(owners(&output, log), vec![b.clone()]);
        // It prints what pacman says of one that failed: with status 0 none did; with another it did, once.
        let log = format!(
            "ALPM] installed a (1)\nALPM-SCRIPTLET] error: {FAILED}\nALPM] installed b (1)"
        );
        let output = format!("installing a...\nerror: {FAILED}\ninstalling b...\n");
        assert_eq!(owners(&output, &log), [""; 0]);
        let output =
            format!("installing a...\nerror: {FAILED}\nerror: {FAILED}\ninstalling b...\n");
        assert_eq!(owners(&output, &log), vec![a.clone()]);
        // Its pre_install does, before pacman has logged it.
        let output = format!("installing a...\ninstalling b...\nerror: {FAILED}\n");
        assert_eq!(owners(&output, &log), [""; 0]);
        // Carriage returns and control sequences, and what looks like a hook.
        let forged = "\u{1b}[2K\rinstalling b...\u{1b}[0m";
        let log = format!(
            "ALPM] installed a (1)\nALPM-SCRIPTLET] {forged}\nALPM-SCRIPTLET] installing b...\r\n\
             ALPM-SCRIPTLET] :: Running post-transaction hooks...\nALPM-SCRIPTLET] (1/1) Hook\n\
             ALPM] installed b (1)\nALPM] transaction completed\nALPM] running '1.hook'..."
        );
        let own = format!(
            "installing a...\n{forged}\ninstalling b...\r\n:: Running post-transaction hooks...\n(1/1) Hook\n"
        );
        let end = "installing b...\n:: Running post-transaction hooks...\n(1/1) Hook\n";
        let output = format!("{own}error: {FAILED}\n{end}");
        assert_eq!(owners(&output, &log), [a]);
        let hook = format!("running the hook '1.hook': {FAILED}");
        assert_eq!(
            owners(&format!("{own}{end}error: {FAILED}\n"), &log),
            [hook]
        );
        let output = format!("{own}installing b...\nerror: {FAILED}\n(1/1) Hook\n");
        assert_eq!(owners(&output, &log), [b]);
    }

    #[test]
    fn what_a_scriptlet_says_of_another_program_is_no_failure() {
        let log = "ALPM] installed a (1)\nALPM-SCRIPTLET] call to execv failed (Exec format error)\n\
                   ALPM] installed b (1)";
        let output = "installing a...\ncall to execv failed (Exec format error)\ninstalling b...\n";
        assert_eq!(owners(output, log), [""; 0]);
    }

    #[test]
    fn only_what_comes_before_the_shell_is_excused_and_only_for_want_of_it() {
        let problem = |owner: &str, why: &str| Problem {
            owner: Owner::Package(owner.into()),
            why: why.into(),
            not_started: english::not_started(why),
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
            &problem("glibc", "call to execv failed (Exec format error)"),
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
            OutputEvent::Package("bash".into()),
            OutputEvent::Hook(1, "Doing A...".into()),
            OutputEvent::Hook(2, "Doing B...".into()),
            OutputEvent::CommandFailed("command failed to execute correctly".into()),
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
