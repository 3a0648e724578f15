//! pacman's output: passed on to people, and read on the way.
//!
//! pacman says on stdout which package it works on and on stderr that a command failed; only a terminal keeps the two in
//! order. So it gets one of ours (pty(7)), and what comes out of it goes to stderr.

use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{
    OptionalActions, OutputModes, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};
use std::io::Write;
use std::os::fd::OwnedFd;

/// A thing in pacman's output that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It works on this package.
    Package(String),
    /// It runs a hook, whose description this is.
    Hook(String),
    /// A scriptlet or hook failed, in pacman's words.
    CommandFailed(String),
    /// It kept this configuration file and wrote its own beside it, as `FILE.pacnew`.
    SavedBeside(String),
    /// This file in the cache is not what it should be: an absolute path.
    Corrupted(String),
    /// This file of a package is not there, or not all of it, and why: pacman calls that a warning, and goes on.
    NotExtracted(String, String),
    /// Any other error, in pacman's words.
    Error(String),
}

/// Reads pacman's output piece by piece.
#[derive(Debug, Default)]
pub struct Reader {
    line: Vec<u8>,
    in_hooks: bool,
    show: Show,
    held: String,
    marks: Vec<Mark>,
}

/// How much of pacman's output people get to see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Show {
    /// All of it as it comes: a terminal, with progress bars.
    #[default]
    Raw,
    /// All lines, without what drives a terminal: a log.
    Lines,
    /// Nothing, but for errors and warnings when it fails.
    Errors,
}

impl Show {
    /// Returns what fits the options and where stderr goes.
    pub fn on_stderr(quiet: bool) -> Self {
        use std::io::IsTerminal;
        match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Self::Errors,
            (false, true) => Self::Raw,
            (false, false) => Self::Lines,
        }
    }
}

/// The longest line that is looked at; pacman's own are far shorter.
const LINE: usize = 4096;

/// How much is remembered of what a scriptlet can say as often as it likes: marks, and bytes that are held back. A
/// transaction has a mark for each package and each hook.
const MARKS: usize = 20_000;
const HELD: usize = 1 << 20;

impl Reader {
    /// Returns a reader that passes on what is to be shown.
    pub fn new(show: Show) -> Self {
        Self {
            show,
            ..Self::default()
        }
    }

    /// Takes a piece of output.
    pub fn take(&mut self, bytes: &[u8]) {
        if self.show == Show::Raw {
            pass(bytes);
        }
        for byte in bytes {
            match byte {
                b'\n' | b'\r' => self.end_of_line(),
                byte if self.line.len() < LINE => self.line.push(*byte),
                _ => {}
            }
        }
    }

    /// Returns what was seen. Where pacman `failed`, what was held back is shown now.
    pub fn finish(mut self, failed: bool) -> Vec<Mark> {
        self.end_of_line();
        if failed {
            pass(self.held.as_bytes());
        }
        self.marks
    }

    fn end_of_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let line = without_escapes(&line);
        let wanted = match self.show {
            Show::Raw => false,
            Show::Lines => !line.is_empty(),
            Show::Errors => line.starts_with("error:") || line.starts_with("warning:"),
        };
        match self.show {
            Show::Errors if wanted && self.held.len() < HELD => {
                self.held += &format!("{line}\n");
            }
            Show::Errors => {}
            _ if wanted => pass(format!("{line}\n").as_bytes()),
            _ => {}
        }
        if line.starts_with(":: ") {
            self.in_hooks = line.contains("hooks...");
        }
        let mark = mark(&line, self.in_hooks);
        // A progress bar writes the same line many times.
        if mark.is_none() || mark.as_ref() == self.marks.last() {
            return;
        }
        match self.marks.len() {
            0..MARKS => self.marks.extend(mark),
            // What is forgotten must not be taken for what did not happen.
            MARKS => self.marks.push(Mark::CommandFailed(
                "command said more than can be remembered".to_owned(),
            )),
            _ => {}
        }
    }
}

/// Returns a line without control sequences (ECMA-48) and other control characters: pacman hides and shows the cursor,
/// and what a scriptlet prints is not ours to trust.
pub(crate) fn without_escapes(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                if chars.next() == Some('[') {
                    // Parameters end with a letter.
                    for c in chars.by_ref() {
                        if ('\u{40}'..='\u{7e}').contains(&c) {
                            break;
                        }
                    }
                }
            }
            '\t' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// Passes output on. Where stderr does not take it, nobody is there to read it.
fn pass(bytes: &[u8]) {
    std::io::stderr().lock().write_all(bytes).unwrap_or(());
}

/// Returns what a line of output (in the C locale) means, where it matters.
fn mark(line: &str, in_hooks: bool) -> Option<Mark> {
    if let Some(error) = line.strip_prefix("error: ") {
        return Some(if error.starts_with("command ") {
            Mark::CommandFailed(error.to_owned())
        } else {
            Mark::Error(error.to_owned())
        });
    }
    if let Some(rest) = line.strip_prefix("warning: warning given when extracting ") {
        return not_extracted(rest);
    }
    if let Some((file, new)) = line
        .strip_prefix("warning: ")
        .and_then(|l| l.split_once(" installed as "))
    {
        return (new.strip_suffix(".pacnew") == Some(file))
            .then(|| Mark::SavedBeside(file.to_owned()));
    }
    if let Some((file, _)) = line
        .strip_prefix(":: File ")
        .and_then(|l| l.split_once(" is corrupted ("))
    {
        return Some(Mark::Corrupted(file.to_owned()));
    }
    let counted = line.strip_prefix('(').and_then(|rest| {
        let (count, text) = rest.split_once(')')?;
        let digits = |b: u8| b.is_ascii_digit() || b == b'/' || b == b' ';
        count.bytes().all(digits).then(|| text.trim_start())
    });
    if let (Some(text), true) = (counted, in_hooks) {
        return Some(Mark::Hook(text.split("  ").next()?.trim_end().to_owned()));
    }
    let text = counted.unwrap_or(line);
    let (verb, rest) = text.split_once(' ')?;
    if !["installing", "upgrading", "reinstalling", "downgrading"].contains(&verb) {
        return None;
    }
    let name = rest.split_whitespace().next()?.trim_end_matches("...");
    Some(Mark::Package(name.to_owned()))
}

/// Returns what is meant where pacman says `FILE (REASON)` of something that it could not extract, and went on: libarchive
/// calls it no more than a warning when it cannot make a file or write all of it. Where a file system has no owners,
/// modes or attributes it says the same of those; then the file is there, and `verify` sees the rest.
fn not_extracted(text: &str) -> Option<Mark> {
    // As in libarchive's archive_write_disk_posix.c and archive_acl.c.
    const OF_METADATA: [&str; 7] = [
        "Can't set ",
        "Can't restore ",
        "Can't update ",
        "Cannot restore ",
        "Failed to set ",
        "Failed to restore ",
        "Invalid extended attribute",
    ];
    let (file, reason) = text.strip_suffix(')')?.split_once(" (")?;
    let harmless = OF_METADATA.iter().any(|begin| reason.starts_with(begin));
    (!harmless).then(|| Mark::NotExtracted(file.to_owned(), reason.to_owned()))
}

/// Makes a terminal for pacman: our side and its side. It is as wide as ours, so that progress bars fit.
///
/// # Errors
///
/// When the system has none left.
pub fn terminal() -> Result<(OwnedFd, OwnedFd), Errno> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let name = ptsname(&ours, Vec::new())?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let theirs = rustix::fs::open(name, flags, rustix::fs::Mode::empty())?;
    let mut modes = tcgetattr(&theirs)?;
    // A line ends as pacman ends it; our own terminal does the rest.
    modes.output_modes.remove(OutputModes::OPOST);
    tcsetattr(&theirs, OptionalActions::Now, &modes)?;
    if let Ok(size) = tcgetwinsize(rustix::stdio::stderr()) {
        tcsetwinsize(&theirs, size)?;
    }
    Ok((ours, theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_extracted_is_no_mere_warning() {
        for (reason, is) in [
            ("Could not chdir /r/usr", true),
            ("Write failed", true),
            ("Can't create '/r/usr/x'", true),
            ("Can't set permissions to 0644", false),
            ("Can't set user=0/group=0 for /r/x", false),
            (
                "Cannot restore extended attributes on this file system.",
                false,
            ),
        ] {
            let line = format!("warning: warning given when extracting /r/usr/x ({reason})");
            let expected = Mark::NotExtracted("/r/usr/x".into(), reason.into());
            assert_eq!(mark(&line, false), is.then_some(expected), "{reason}");
        }
    }

    #[test]
    fn what_matters_is_seen_in_order_however_it_comes() {
        let text = ":: Processing package changes...\ninstalling filesystem...\ninstalling bash...\n\
                    error: command failed to execute correctly\n\
                    ( 3/10) reinstalling glibc        [---] 0%\r( 3/10) reinstalling glibc   [###] 100%\n\
                    :: Running post-transaction hooks...\n( 1/2) Creating system user accounts...\n\
                    error: command terminated by signal 9: Killed\nwarning: x\n\
                    warning: /r/etc/hosts installed as /r/etc/hosts.pacnew\n\
                    :: File /c/a b.pkg.tar.zst is corrupted (invalid or corrupted package (PGP signature)).\n\
                    error: failed to commit transaction (download library error)\n";
        for size in [1, 7, 4096] {
            let mut reader = Reader::new(Show::Errors);
            for piece in text.as_bytes().chunks(size) {
                reader.take(piece);
            }
            let package = |n: &str| Mark::Package(n.into());
            assert_eq!(
                reader.finish(false),
                [
                    package("filesystem"),
                    package("bash"),
                    Mark::CommandFailed("command failed to execute correctly".into()),
                    package("glibc"),
                    Mark::Hook("Creating system user accounts...".into()),
                    Mark::CommandFailed("command terminated by signal 9: Killed".into()),
                    Mark::SavedBeside("/r/etc/hosts".into()),
                    Mark::Corrupted("/c/a b.pkg.tar.zst".into()),
                    Mark::Error("failed to commit transaction (download library error)".into()),
                ]
            );
        }
    }

    #[test]
    fn who_never_stops_talking_takes_no_memory_and_hides_nothing() {
        let mut reader = Reader::new(Show::Errors);
        for n in 0..2 * MARKS {
            reader.take(format!("error: {n:0100}\n").as_bytes());
        }
        reader.take(b"error: command failed to execute correctly\n");
        assert!(reader.held.len() < HELD + LINE);
        let marks = reader.finish(false);
        assert_eq!(marks.len(), MARKS + 1);
        assert!(matches!(marks.last(), Some(Mark::CommandFailed(_))));
    }

    #[test]
    fn what_drives_a_terminal_is_left_out_of_a_log() {
        assert_eq!(
            without_escapes("\u{1b}[?25hinstalling \u{1b}[1;31mx\u{7}\ty\u{1b}"),
            "installing x y"
        );
    }

    #[test]
    fn hostile_output_is_only_text() {
        let mut reader = Reader::new(Show::Errors);
        reader.take(&[0xff; 10_000]);
        reader.take(b"\n(((\n()\n( 1/2)\ninstalling\ninstalling \n:: hooks...\n(1/1)\n");
        assert_eq!(reader.finish(false), [Mark::Hook(String::new())]);
    }
}
