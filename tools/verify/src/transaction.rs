//! Whether pacman's last transaction is whole. Which scriptlets failed is the business of `strap`, which saw them fail.

use pacman::english::log::{self, Event};
use pacman::records;
use rootfs::Root;
use rustix::fs::OFlags;
use stage::Failure;

/// pacman's lock, below the root.
const LOCK: &str = "var/lib/pacman/db.lck";

/// What became of the last transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    /// It was completed.
    Complete,
    /// It was begun and not completed.
    Unfinished,
    /// The log knows of none.
    Unknown,
}

impl Last {
    /// Returns the word that stands in the document.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Unfinished => "unfinished",
            Self::Unknown => "unknown",
        }
    }
}

/// Looks it up.
///
/// # Errors
///
/// When the log cannot be read.
pub(crate) fn last(root: &Root) -> Result<Last, Failure> {
    let log = records::log(root)?;
    // pacman holds its lock until the last hook has run, which is after the log says that all is complete.
    let locked = root.open_below(LOCK, OFlags::PATH | OFlags::NOFOLLOW).is_ok();
    Ok(match last_in(&log) {
        Last::Complete if locked => Last::Unfinished,
        last => last,
    })
}

fn last_in(log: &[u8]) -> Last {
    let mut last = Last::Unknown;
    for event in log::events(log) {
        match event {
            Event::TransactionStarted => last = Last::Unfinished,
            Event::TransactionCompleted => last = Last::Complete,
            _ => {}
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_transaction() {
        let line = |text: &str| format!("[2026-11-22T10:00:00+0000] [ALPM] transaction {text}\n");
        for (lines, expected) in [
            (&[][..], Last::Unknown),
            (&["started"], Last::Unfinished),
            (&["started", "completed"], Last::Complete),
            (&["started", "completed", "started"], Last::Unfinished),
            (&["started", "started", "completed"], Last::Complete),
            (&["started", "failed"], Last::Unfinished),
            (&["started", "interrupted"], Last::Unfinished),
        ] {
            let log: String = lines.iter().map(|l| line(l)).collect();
            assert_eq!(last_in(log.as_bytes()), expected, "{lines:?}");
        }
    }
}
