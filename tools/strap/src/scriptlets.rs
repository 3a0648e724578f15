//! What pacman's exit status does not say: which scriptlets and hooks failed, or never ran.
//!
//! pacman's output says that a command failed, after it has named the package or hook; what scriptlets print is in between, and
//! may look the same. pacman's log tells the two apart: it names each package and hook, and marks each line that a scriptlet
//! printed. Both come from the root, so they are text and nothing more.

use package::localdb;
use pacman::english::log::{Before, Event};
use pacman::english::{self, NotStarted};
use pacman::output::reads_as;
use pacman::records::{self, LOCAL};
use pacman::{OutputEvent, and_more};
use rootfs::Root;
use stage::{Code, Context, Failure, message};
use std::collections::BTreeMap;
use std::fmt::{self, Display};

/// The longest list of files that is read.
const LIMIT: u64 = 64 << 20;

/// A scriptlet or hook that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    /// The package or hook, if it is known.
    owner: Option<Owner>,
    /// Why, in the words of pacman or the kernel.
    why: String,
    /// Why it could not even be started, where that is so.
    not_started: Option<NotStarted>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    is_hook: bool,
    name: String,
}

impl Problem {
    /// Returns whether this is the scriptlet of package `name`, or the hook `name`.
    fn is_of(&self, name: &str) -> bool {
        self.owner.as_ref().is_some_and(|owner| {
            let short = owner.name.strip_suffix(".hook").filter(|_| owner.is_hook);
            owner.name == name || short == Some(name)
        })
    }

    /// Returns what to do about it.
    fn hint(&self) -> String {
        match (&self.owner, self.not_started) {
            (_, Some(NotStarted::WrongFormat)) => {
                "this host cannot run the root's programs: 'doctor' says what is missing".to_owned()
            }
            (Some(Owner { name, .. }), _) => {
                format!("see what it printed above; if that does not matter, give --allow-failed-scriptlet {name}")
            }
            (None, _) => "see what pacman printed above".to_owned(),
        }
    }
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = match &self.owner {
            Some(owner) if owner.is_hook => format!("the hook '{}'", message::escape(&owner.name)),
            Some(owner) => format!("the scriptlet of '{}'", message::escape(&owner.name)),
            None => "a scriptlet or hook".to_owned(),
        };
        write!(f, "running {whose}: {}", message::escape(&self.why))
    }
}

/// Fails where a scriptlet or hook failed that is not `allowed`; of those that are, and of further failures, it warns.
///
/// # Errors
///
/// [`Code::ChildFailed`] with the first; when the database of installed packages cannot be read.
pub(crate) fn check(
    context: &Context,
    root: &Root,
    output: &[OutputEvent],
    events: &[Event],
    allowed: &[String],
) -> Result<(), Failure> {
    let mut failed = failed(output, events);
    if !failed.is_empty() {
        let shell = shell_package(root)?;
        failed.retain(|problem| !is_before_shell(problem, events, shell.as_deref()));
    }
    let (allowed, failed): (Vec<_>, Vec<_>) =
        failed.into_iter().partition(|problem| allowed.iter().any(|name| problem.is_of(name)));
    for problem in allowed {
        context.warn(format_args!("{problem} (allowed)"));
    }
    let Some((first, rest)) = failed.split_first() else {
        return Ok(());
    };
    for problem in rest {
        context.warn(problem);
    }
    let message = format!("{first}{}", and_more(rest.len()));
    Err(Failure::new(Code::ChildFailed, message).hint(first.hint()))
}

/// What pacman prints when it begins with a package or hook. A hook's number is in the output and its file in the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Begin {
    Package(String),
    Hook(u32),
}

impl Begin {
    fn of(event: &OutputEvent) -> Option<Self> {
        match event {
            OutputEvent::Package(name) => Some(Self::Package(name.clone())),
            OutputEvent::Hook(number, _) => Some(Self::Hook(*number)),
            _ => None,
        }
    }
}

/// How often each was printed.
#[derive(Default)]
struct Printed(BTreeMap<Begin, usize>);

impl Printed {
    /// Counts one more, and returns how many of it there are now.
    fn count(&mut self, begin: &Begin) -> usize {
        let count = self.0.entry(begin.clone()).or_default();
        *count += 1;
        *count
    }
}

/// The part of the log that is about one package or hook.
struct Section {
    owner: Owner,
    begin: Begin,
    /// Which of the lines of the output that read as `begin` is pacman's own: before it there are those that scriptlets
    /// printed earlier, and pacman's own for other hooks of the same number.
    nth: usize,
    /// How many lines that read as a failed command scriptlets printed from the line in the log on to that of the next.
    forged: usize,
    /// What libalpm, or a scriptlet that imitates it, printed of a command that could not be started.
    not_started: Option<(NotStarted, String)>,
}

/// Splits the log into the sections of packages and hooks, in order. Also returns how many lines that read as a failed command
/// scriptlets printed before the first.
///
/// pacman prints that it begins with a package, runs pre_install, logs the package, and runs post_install; it logs a hook,
/// prints it, and runs it. So only what its own pre_install printed can be logged before the package and printed after pacman's
/// line for it; and all of these lines are in the log.
fn sections(events: &[Event]) -> (Vec<Section>, usize) {
    let mut sections: Vec<Section> = Vec::new();
    let mut printed = Printed::default();
    let (mut hooks, mut early) = (0, 0);
    for event in events {
        let (is_hook, name, begin) = match event {
            Event::Installed { name, .. } => (false, name, Begin::Package(name.clone())),
            Event::RunningHook(name) => {
                hooks += 1;
                (true, name, Begin::Hook(hooks))
            }
            // The hooks before are counted by themselves.
            Event::TransactionStarted => {
                hooks = 0;
                continue;
            }
            Event::ScriptletOutput(line) => {
                let read = reads_as(line);
                for begin in read.iter().filter_map(Begin::of) {
                    printed.count(&begin);
                }
                let failed = |event: &&OutputEvent| matches!(event, OutputEvent::CommandFailed(_));
                let forged = read.iter().filter(failed).count();
                match sections.last_mut() {
                    Some(section) => {
                        section.forged += forged;
                        let why = english::not_started(line).map(|why| (why, line.clone()));
                        section.not_started = why.or(section.not_started.take());
                    }
                    None => early += forged,
                }
                continue;
            }
            _ => continue,
        };
        let nth = printed.count(&begin);
        let name = name.clone();
        sections.push(Section { owner: Owner { is_hook, name }, begin, nth, forged: 0, not_started: None });
    }
    (sections, early)
}

/// Reads the output: a failed command belongs to the package or hook that pacman named last.
fn failed(output: &[OutputEvent], events: &[Event]) -> Vec<Problem> {
    let (sections, early) = sections(events);
    // The failures in each section, and before the first.
    let mut said: Vec<Vec<&String>> = vec![Vec::new(); sections.len() + 1];
    let places: BTreeMap<_, _> = sections.iter().enumerate().map(|(n, one)| ((&one.begin, one.nth), n + 1)).collect();
    let mut seen = Printed::default();
    let mut now = 0;
    for event in output {
        if let OutputEvent::CommandFailed(why) = event {
            said[now].push(why);
        }
        let Some(begin) = Begin::of(event) else {
            continue;
        };
        let place = places.get(&(&begin, seen.count(&begin)));
        now = place.map_or(now, |place| now.max(*place));
    }
    let mut found = Vec::new();
    let mut forged = early;
    for (n, said) in said.iter().enumerate() {
        let section = n.checked_sub(1).map(|n| &sections[n]);
        forged += section.map_or(0, |section| section.forged);
        // What pre_install of the next one printed is in its section.
        let printed = forged.min(said.len());
        forged -= printed;
        let Some(why) = said[printed..].first() else {
            continue;
        };
        let not_started = section.and_then(|section| section.not_started.clone());
        // The log knows why a command could not be started; the output only that it failed.
        let (reason, why) = match not_started {
            Some((reason, line)) => (Some(reason), line),
            None => (None, (*why).clone()),
        };
        found.push(Problem { owner: section.map(|section| section.owner.clone()), why, not_started: reason });
    }
    found
}

/// A scriptlet that runs before the root has a shell cannot run, on Arch neither, and its package is made for that
/// (`filesystem`, `glibc`). The log shows it: its package was installed before the one with the shell, which was not there. If a
/// killed pacman had installed the first already, it is reinstalled.
fn is_before_shell(problem: &Problem, events: &[Event], shell: Option<&str>) -> bool {
    let position = |of: Option<&str>, again: bool| {
        events.iter().position(|event| match event {
            Event::Installed { name, before, .. } => {
                let is_now = *before == Before::Absent || again && *before == Before::Same;
                is_now && Some(name.as_str()) == of
            }
            _ => false,
        })
    };
    let owner = problem.owner.as_ref().filter(|owner| !owner.is_hook);
    let owner = position(owner.map(|owner| owner.name.as_str()), true);
    let is_before = owner.zip(position(shell, false)).is_some_and(|(owner, shell)| owner < shell);
    is_before && problem.not_started == Some(NotStarted::NoFile)
}

/// Returns the package that owns the shell that scriptlets run in.
fn shell_package(root: &Root) -> Result<Option<String>, Failure> {
    let (installed, _) = records::installed(root)?;
    let owners = |shell: &str| {
        installed.iter().find(|one| {
            let list = root.read(&format!("{LOCAL}/{}/files", one.record), LIMIT);
            list.is_ok_and(|text| localdb::paths(&text).contains(&shell.as_bytes()))
        })
    };
    let owner = owners("usr/bin/bash").or_else(|| owners("usr/bin/sh"));
    Ok(owner.map(|owner| owner.package.name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{LOG, events};

    /// What pacman prints and logs, as `output` and `log`, and the packages that are said to have failed.
    fn owners(output: &str, log: &str) -> Vec<String> {
        let log: String = log.split('\n').map(|l| format!("[x] [{l}\n")).collect();
        let found = failed(&reads_as(output), &events(&log));
        found.iter().map(ToString::to_string).collect()
    }

    const FAILED: &str = "command failed to execute correctly";

    #[test]
    fn a_command_that_did_not_start_is_of_the_package_before() {
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
            owner: Some(Owner { is_hook: false, name: name.into() }),
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
        let output = format!("installing a...\ninstalling b...\ninstalling b...\nerror: {FAILED}\n");
        assert_eq!(owners(&output, log), vec![b.clone()]);
        // It prints what pacman says of one that failed: with status 0 none did; with another it did, once.
        let log = format!("ALPM] installed a (1)\nALPM-SCRIPTLET] error: {FAILED}\nALPM] installed b (1)");
        let output = format!("installing a...\nerror: {FAILED}\ninstalling b...\n");
        assert_eq!(owners(&output, &log), [""; 0]);
        let output = format!("installing a...\nerror: {FAILED}\nerror: {FAILED}\ninstalling b...\n");
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
        let own =
            format!("installing a...\n{forged}\ninstalling b...\r\n:: Running post-transaction hooks...\n(1/1) Hook\n");
        let end = "installing b...\n:: Running post-transaction hooks...\n(1/1) Hook\n";
        let output = format!("{own}error: {FAILED}\n{end}");
        assert_eq!(owners(&output, &log), [a]);
        let hook = format!("running the hook '1.hook': {FAILED}");
        assert_eq!(owners(&format!("{own}{end}error: {FAILED}\n"), &log), [hook]);
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
    fn a_scriptlet_before_the_shell_is_excused() {
        let problem = |owner: &str, why: &str| Problem {
            owner: Some(Owner { is_hook: false, name: owner.into() }),
            why: why.into(),
            not_started: english::not_started(why),
        };
        let none = "call to execv failed (No such file or directory)";
        let events = events(LOG);
        assert!(is_before_shell(&problem("glibc", none), &events, Some("bash")));
        assert!(!is_before_shell(&problem("nano", none), &events, Some("bash")));
        assert!(!is_before_shell(&problem("glibc", "call to execv failed (Exec format error)"), &events, Some("bash")));
        assert!(!is_before_shell(&problem("glibc", none), &events, None));
        // What a killed pacman had installed is installed again, before there is a shell, or beside one that was there.
        let again = |log: &str| self::events(&log.replace("installed glibc", "reinstalled glibc"));
        let glibc = problem("glibc", none);
        assert!(is_before_shell(&glibc, &again(LOG), Some("bash")));
        let both = again(&LOG.replace("installed bash", "reinstalled bash"));
        assert!(!is_before_shell(&glibc, &both, Some("bash")));
        assert!(!is_before_shell(&problem("other", none), &events, Some("bash")));
    }

    #[test]
    fn a_failed_hook_is_named_by_its_file() {
        let log = events("[x] [ALPM] running '20-a.hook'...\n[x] [ALPM] running '30-b.hook'...\n");
        let output = [
            OutputEvent::Package("bash".into()),
            OutputEvent::Hook(1, "Doing A...".into()),
            OutputEvent::Hook(2, "Doing B...".into()),
            OutputEvent::CommandFailed("command failed to execute correctly".into()),
        ];
        let found = failed(&output, &log);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].to_string(), "running the hook '30-b.hook': command failed to execute correctly");
        assert!(found[0].is_of("30-b"));
    }
}
