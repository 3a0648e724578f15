//! What several unit tests work on.

use pacman::english::log::{self, Event};
use stage::members::Package;

/// The log of a transaction that has not completed, with two scriptlets that could not start.
pub(crate) const LOG: &str = "\
[2026-11-22T10:00:00+0000] [ALPM] transaction started
[2026-11-22T10:00:00+0000] [ALPM] installed glibc (2.36-1)
[2026-11-22T10:00:00+0000] [ALPM-SCRIPTLET] call to execv failed (No such file or directory)
[2026-11-22T10:00:01+0000] [ALPM] installed bash (5.2-1)
[2026-11-22T10:00:01+0000] [ALPM-SCRIPTLET] call to execv failed (Exec format error)
[2026-11-22T10:00:01+0000] [ALPM] installed nano (7-1)
";

/// Returns the events of a log.
pub(crate) fn events(log: &str) -> Vec<Event> {
    log::events(log.as_bytes()).collect()
}

/// Returns a package, with nothing known about its archive.
pub(crate) fn package(name: &str, version: &str) -> Package {
    let [name, version, arch] = [name, version, "any"].map(str::to_owned);
    Package { name, version, arch, verified: true, ..Package::default() }
}
