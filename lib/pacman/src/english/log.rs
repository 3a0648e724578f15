//! What pacman did, from its log: `var/log/pacman.log`.
//!
//! pacman's exit status is 0 when every scriptlet failed, so the log is the only witness. A line is `[TIME] [WHO] TEXT`; libalpm
//! writes as `ALPM`, what scriptlets and hooks print is logged as `ALPM-SCRIPTLET`, line by line, and the program writes as
//! `PACMAN`. Packages choose what their scriptlets print, so the texts can hold terminal escapes and anything else; escape them
//! before they are shown.

/// The most bytes of a line that are kept.
const LINE: usize = 4096;

/// What a line of the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Packages are about to be changed.
    TransactionStarted,
    /// All packages have been changed; hooks may follow.
    TransactionCompleted,
    /// A package was installed.
    Installed {
        /// Its name.
        name: String,
        /// The version that is installed now.
        version: String,
        /// What it was before.
        before: Before,
    },
    /// A package of this name was removed.
    Removed(String),
    /// A hook runs, of this file name, such as `20-systemd-sysusers.hook`; what it prints follows as
    /// [`Event::ScriptletOutput`].
    RunningHook(String),
    /// A scriptlet or hook printed this line, as it is, or libalpm in its place (`call to execv failed (…)`).
    ScriptletOutput(String),
    /// Anything else, also lines that have another form.
    Other,
}

/// What a package was before it was installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Not installed.
    Absent,
    /// Installed, in the same version.
    Same,
    /// Installed, in another version.
    Other,
}

/// Returns what each line of a log says, in order. Empty lines are left out.
pub fn events(log: &[u8]) -> impl Iterator<Item = Event> + '_ {
    log.split(|b| *b == b'\n').filter(|line| !line.is_empty()).map(event)
}

/// Returns what one line says. What is not UTF-8 is replaced; a long line is truncated.
#[must_use]
pub fn event(line: &[u8]) -> Event {
    let line = String::from_utf8_lossy(&line[..line.len().min(LINE)]);
    parse(line.trim_end_matches('\n')).unwrap_or(Event::Other)
}

fn parse(line: &str) -> Option<Event> {
    let (_time, rest) = line.strip_prefix('[')?.split_once("] [")?;
    let (who, text) = rest.split_once(']')?;
    let text = text.strip_prefix(' ').unwrap_or(text);
    match who {
        "ALPM" => alpm(text),
        "ALPM-SCRIPTLET" => Some(Event::ScriptletOutput(text.into())),
        _ => None,
    }
}

fn alpm(text: &str) -> Option<Event> {
    let (verb, rest) = text.split_once(' ')?;
    match (verb, rest) {
        ("transaction", "started") => return Some(Event::TransactionStarted),
        ("transaction", "completed") => return Some(Event::TransactionCompleted),
        ("running", hook) => return Some(Event::RunningHook(hook.strip_prefix('\'')?.strip_suffix("'...")?.into())),
        _ => {}
    }
    let (name, version) = rest.split_once(" (")?;
    let (name, version) = (name.to_owned(), version.strip_suffix(')')?);
    let (version, before) = match verb {
        "removed" => return Some(Event::Removed(name)),
        "installed" => (version, Before::Absent),
        "reinstalled" => (version, Before::Same),
        "upgraded" | "downgraded" => (version.split_once(" -> ")?.1, Before::Other),
        _ => return None,
    };
    Some(Event::Installed { name, version: version.to_owned(), before })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(name: &str, version: &str, before: Before) -> Event {
        let (name, version) = (name.into(), version.into());
        Event::Installed { name, version, before }
    }

    #[test]
    fn a_transaction() {
        let log = b"\
[2026-11-22T10:00:00+0000] [PACMAN] Running 'pacman -r /srv/root -Sy base'\n\
[2026-11-22T10:00:01+0000] [ALPM] transaction started\n\
[2026-11-22T10:00:01+0000] [ALPM] installed bash (5.2.15-2)\n\
[2026-11-22T10:00:01+0000] [ALPM-SCRIPTLET] call to execv failed (Exec format error)\n\
[2026-11-22T10:00:01+0000] [ALPM] upgraded zlib (1:1.3-1 -> 1:1.3.1-1)\n\
[2026-11-22T10:00:01+0000] [ALPM] downgraded zlib (1:1.3.1-1 -> 1:1.3-1)\n\
[2026-11-22T10:00:01+0000] [ALPM] reinstalled iana-etc (20240305-1)\n\
[2026-11-22T10:00:01+0000] [ALPM] removed gcc-libs (13.2-1)\n\
[2026-11-22T10:00:01+0000] [ALPM] warning: /etc/passwd installed as /etc/passwd.pacnew\n\
[2026-11-22T10:00:02+0000] [ALPM] transaction completed\n\
[2026-11-22T10:00:02+0000] [ALPM] running '20-systemd-sysusers.hook'...\n\
[2014-01-19 10:00] [ALPM] transaction completed\n";
        let expected = [
            Event::Other,
            Event::TransactionStarted,
            installed("bash", "5.2.15-2", Before::Absent),
            Event::ScriptletOutput("call to execv failed (Exec format error)".into()),
            installed("zlib", "1:1.3.1-1", Before::Other),
            installed("zlib", "1:1.3-1", Before::Other),
            installed("iana-etc", "20240305-1", Before::Same),
            Event::Removed("gcc-libs".into()),
            Event::Other,
            Event::TransactionCompleted,
            Event::RunningHook("20-systemd-sysusers.hook".into()),
            // The time as pacman wrote it before 5.2.
            Event::TransactionCompleted,
        ];
        assert_eq!(events(log).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn other_lines() {
        for line in [
            "",
            "[",
            "[x",
            "[x] ",
            "[x] [",
            "[x] []",
            "[x] [ALPM]",
            "[x] [ALPM] ",
            "[x] [ALPM] installed",
            "[x] [ALPM] installed bash",
            "[x] [ALPM] installed bash (1",
            "[x] [ALPM] upgraded bash (1)",
            "[x] [ALPM] running 'x",
            "[x] [OTHER] transaction completed",
            "[x] [ALPM] transaction completed ",
            "[x] [ALPM] transaction failed",
            "[x] [ALPM] transaction interrupted",
            "[x] [PACMAN] transaction completed",
            "[x] [ALPM] transaction failed",
            "[x] [ALPM] transaction completed ",
            "transaction completed",
            " [x] [ALPM] transaction completed",
        ] {
            assert_eq!(event(line.as_bytes()), Event::Other, "{line}");
        }
    }

    #[test]
    fn a_scriptlet_cannot_speak_for_libalpm() {
        for text in ["[x] [ALPM] transaction completed", "] [ALPM] transaction completed", "transaction completed", ""]
        {
            let line = format!("[2026-11-22T10:00:00+0000] [ALPM-SCRIPTLET] {text}");
            let expected = Event::ScriptletOutput(text.into());
            assert_eq!(event(line.as_bytes()), expected);
        }
    }

    #[test]
    fn hostile_output() {
        let text = |bytes: &[u8]| {
            let line = [b"[t] [ALPM-SCRIPTLET] ", bytes].concat();
            match event(&line) {
                Event::ScriptletOutput(line) => line,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(text(b"\x1b[2Ja\xff\0"), "\u{1b}[2Ja\u{fffd}\0");
        assert_eq!(text(b"progress\r"), "progress\r");
        assert!(text(&vec![b'x'; 10 << 20]).len() < LINE);
        assert!(text(&vec![0xff; 10 << 20]).len() < 3 * LINE);
        for at in 0..40 {
            let mut line = b"[2026-11-22T10:00:00+0000] [ALPM] installed bash (5.2.15-2)".to_vec();
            line[at] = 0x80;
            let _event = event(&line);
            let _event = event(&line[..at]);
        }
    }
}
