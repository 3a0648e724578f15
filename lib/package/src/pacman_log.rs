//! What pacman did, from its log: `var/log/pacman.log`.
//!
//! pacman's exit status is 0 when every scriptlet failed, so the log is the only witness. A line is
//! `[TIME] [WHO] TEXT`; libalpm writes as `ALPM`, what scriptlets and hooks print goes in as
//! `ALPM-SCRIPTLET`, line by line, and the program writes as `PACMAN`. Packages choose what their
//! scriptlets print, so the texts can hold terminal escapes and anything else; escape them before
//! they are shown.

/// The most bytes of a line that are kept.
const LINE: usize = 4096;

/// What a line of the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// `[PACMAN] Running '…'`: a run of pacman begins.
    Command {
        /// The command line, without its quotes.
        line: String,
    },
    /// Packages are about to be changed.
    TransactionStarted,
    /// All packages have been changed; hooks may follow.
    TransactionCompleted,
    /// Not all packages have been changed.
    TransactionFailed,
    /// A signal ended the transaction.
    TransactionInterrupted,
    /// A package was installed.
    Installed {
        /// Its name.
        name: String,
        /// Its version.
        version: String,
    },
    /// A package was replaced by a newer version.
    Upgraded {
        /// Its name.
        name: String,
        /// The version that was installed.
        from: String,
        /// The version that is installed.
        to: String,
    },
    /// A package was replaced by an older version.
    Downgraded {
        /// Its name.
        name: String,
        /// The version that was installed.
        from: String,
        /// The version that is installed.
        to: String,
    },
    /// A package was replaced by the same version.
    Reinstalled {
        /// Its name.
        name: String,
        /// Its version.
        version: String,
    },
    /// A package was removed.
    Removed {
        /// Its name.
        name: String,
        /// Its version.
        version: String,
    },
    /// A hook runs; what it prints follows as [`Event::ScriptletOutput`].
    RunningHook {
        /// Its file name, such as `20-systemd-sysusers.hook`.
        name: String,
    },
    /// A scriptlet or hook printed this, or libalpm in its place (`call to execv failed (…)`).
    ScriptletOutput {
        /// The line.
        line: String,
    },
    /// libalpm warns.
    Warning {
        /// Of what.
        message: String,
    },
    /// libalpm failed at something.
    Error {
        /// At what.
        message: String,
    },
    /// Anything else, also lines that have another form.
    Other,
}

/// Returns what each line of a log says, in order. Empty lines are left out.
pub fn events(log: &[u8]) -> impl Iterator<Item = Event> + '_ {
    log.split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(event)
}

/// Returns what one line says. What is not UTF-8 is replaced; a long line is cut off.
#[must_use]
pub fn event(line: &[u8]) -> Event {
    let line = String::from_utf8_lossy(&line[..line.len().min(LINE)]);
    parse(line.trim_end_matches(['\r', '\n'])).unwrap_or(Event::Other)
}

fn parse(line: &str) -> Option<Event> {
    let (_time, rest) = line.strip_prefix('[')?.split_once("] [")?;
    let (who, text) = rest.split_once(']')?;
    let text = text.strip_prefix(' ').unwrap_or(text);
    match who {
        "ALPM" => alpm(text),
        "ALPM-SCRIPTLET" => Some(Event::ScriptletOutput { line: text.into() }),
        "PACMAN" => {
            let line = text.strip_prefix("Running '")?.strip_suffix('\'')?.into();
            Some(Event::Command { line })
        }
        _ => None,
    }
}

fn alpm(text: &str) -> Option<Event> {
    match text {
        "transaction started" => return Some(Event::TransactionStarted),
        "transaction completed" => return Some(Event::TransactionCompleted),
        "transaction failed" => return Some(Event::TransactionFailed),
        "transaction interrupted" => return Some(Event::TransactionInterrupted),
        _ => {}
    }
    let (verb, rest) = text.split_once(' ')?;
    match verb {
        "running" => {
            let name = rest.strip_prefix('\'')?.strip_suffix("'...")?.into();
            return Some(Event::RunningHook { name });
        }
        "warning:" => {
            let message = rest.into();
            return Some(Event::Warning { message });
        }
        "error:" => {
            let message = rest.into();
            return Some(Event::Error { message });
        }
        _ => {}
    }
    let (name, version) = rest.split_once(" (")?;
    let (name, version) = (name.to_owned(), version.strip_suffix(')')?.to_owned());
    let change = || {
        let (from, to) = version.split_once(" -> ")?;
        Some((from.to_owned(), to.to_owned()))
    };
    match verb {
        "installed" => Some(Event::Installed { name, version }),
        "reinstalled" => Some(Event::Reinstalled { name, version }),
        "removed" => Some(Event::Removed { name, version }),
        "upgraded" => change().map(|(from, to)| Event::Upgraded { name, from, to }),
        "downgraded" => change().map(|(from, to)| Event::Downgraded { name, from, to }),
        _ => None,
    }
}
