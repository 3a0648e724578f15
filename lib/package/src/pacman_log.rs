//! What pacman did, from its log: `var/log/pacman.log`.
//!
//! pacman's exit status is 0 when every scriptlet failed, so only the log tells. A line is
//! `[TIME] [WHO] TEXT`; libalpm writes as `ALPM`, and what scriptlets and hooks print is logged as
//! `ALPM-SCRIPTLET`, line by line. Packages choose what their scriptlets print, so the texts can
//! have terminal escapes; escape them before they are printed.

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
    /// A scriptlet or hook printed this, as it is, or libalpm in its place (`call to execv failed (…)`).
    ScriptletOutput {
        /// The line.
        line: String,
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
    parse(line.trim_end_matches('\n')).unwrap_or(Event::Other)
}

fn parse(line: &str) -> Option<Event> {
    let (_time, rest) = line.strip_prefix('[')?.split_once("] [")?;
    let (who, text) = rest.split_once(']')?;
    let text = text.strip_prefix(' ').unwrap_or(text);
    match who {
        "ALPM" => alpm(text),
        "ALPM-SCRIPTLET" => Some(Event::ScriptletOutput { line: text.into() }),
        _ => None,
    }
}

fn alpm(text: &str) -> Option<Event> {
    match text {
        "transaction started" => return Some(Event::TransactionStarted),
        "transaction completed" => return Some(Event::TransactionCompleted),
        _ => {}
    }
    let (verb, rest) = text.split_once(' ')?;
    if verb == "running" {
        let name = rest.strip_prefix('\'')?.strip_suffix("'...")?.into();
        return Some(Event::RunningHook { name });
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

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> (String, String) {
        (name.into(), version.into())
    }

    #[test]
    fn a_transaction() {
        let log = b"\
[2026-11-22T10:00:00+0000] [PACMAN] Running 'pacman -r /srv/root -Sy base'\n\
[2026-11-22T10:00:00+0000] [PACMAN] synchronizing package lists\n\
[2026-11-22T10:00:01+0000] [ALPM] transaction started\n\
[2026-11-22T10:00:01+0000] [ALPM] installed bash (5.2.15-2)\n\
[2026-11-22T10:00:01+0000] [ALPM-SCRIPTLET] call to execv failed (Exec format error)\n\
[2026-11-22T10:00:01+0000] [ALPM] upgraded zlib (1:1.3-1 -> 1:1.3.1-1)\n\
[2026-11-22T10:00:01+0000] [ALPM] downgraded zlib (1:1.3.1-1 -> 1:1.3-1)\n\
[2026-11-22T10:00:01+0000] [ALPM] reinstalled iana-etc (20240305-1)\n\
[2026-11-22T10:00:01+0000] [ALPM] removed gcc-libs (13.2-1)\n\
[2026-11-22T10:00:01+0000] [ALPM] warning: /etc/passwd installed as /etc/passwd.pacnew\n\
[2026-11-22T10:00:01+0000] [ALPM] error: could not extract usr/bin/x (No space left on device)\n\
[2026-11-22T10:00:02+0000] [ALPM] transaction completed\n\
[2026-11-22T10:00:02+0000] [ALPM] running '20-systemd-sysusers.hook'...\n\
[2026-11-22T10:00:02+0000] [ALPM-SCRIPTLET] Creating group 'sys' with GID 3.\n";
        let (name, version) = package("bash", "5.2.15-2");
        let installed = Event::Installed { name, version };
        let (name, version) = package("iana-etc", "20240305-1");
        let reinstalled = Event::Reinstalled { name, version };
        let (name, version) = package("gcc-libs", "13.2-1");
        let removed = Event::Removed { name, version };
        let expected = [
            Event::Other,
            Event::Other,
            Event::TransactionStarted,
            installed,
            Event::ScriptletOutput {
                line: "call to execv failed (Exec format error)".into(),
            },
            Event::Upgraded {
                name: "zlib".into(),
                from: "1:1.3-1".into(),
                to: "1:1.3.1-1".into(),
            },
            Event::Downgraded {
                name: "zlib".into(),
                from: "1:1.3.1-1".into(),
                to: "1:1.3-1".into(),
            },
            reinstalled,
            removed,
            Event::Other,
            Event::Other,
            Event::TransactionCompleted,
            Event::RunningHook {
                name: "20-systemd-sysusers.hook".into(),
            },
            Event::ScriptletOutput {
                line: "Creating group 'sys' with GID 3.".into(),
            },
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
            "[x] [PACMAN] Running x",
            "transaction completed",
            " [x] [ALPM] transaction completed",
        ] {
            assert_eq!(event(line.as_bytes()), Event::Other, "{line}");
        }
    }

    #[test]
    fn a_scriptlet_cannot_speak_for_libalpm() {
        for text in [
            "[x] [ALPM] transaction completed",
            "] [ALPM] transaction completed",
            "transaction completed",
            "",
        ] {
            let line = format!("[2026-11-22T10:00:00+0000] [ALPM-SCRIPTLET] {text}");
            let expected = Event::ScriptletOutput { line: text.into() };
            assert_eq!(event(line.as_bytes()), expected);
        }
    }

    #[test]
    fn hostile_output() {
        let text = |bytes: &[u8]| {
            let line = [b"[t] [ALPM-SCRIPTLET] ", bytes].concat();
            match event(&line) {
                Event::ScriptletOutput { line } => line,
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
