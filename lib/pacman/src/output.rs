//! pacman's output: passed on to people, and read on the way.
//!
//! pacman prints on stdout which package it works on and on stderr that a command failed; only a terminal keeps the two in
//! order. So it gets a pty(7), and its output is passed on to stderr.

use crate::english::progress::{answered, is_after_plan, is_download_size, plan};
use crate::english::{self, OutputEvent};
use crate::phases::Phases;
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, OutputModes, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use stage::{Context, message};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

/// Reads pacman's output piece by piece.
#[derive(Debug)]
pub struct Reader<'a> {
    line: Vec<u8>,
    show: Show,
    phases: Option<Phases<'a>>,
    plan: Option<Vec<String>>,
    held: String,
    events: Vec<OutputEvent>,
}

/// How much of pacman's output people get to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Show {
    /// The lines that progress does not say: a terminal, or a front end.
    Rest,
    /// All lines, without what drives a terminal: a log.
    Lines,
    /// Nothing, but for errors and warnings when it fails.
    Errors,
}

impl Show {
    fn of(context: &Context) -> Self {
        match (context.quiet, context.shows_progress()) {
            (true, _) => Self::Errors,
            (false, true) => Self::Rest,
            (false, false) => Self::Lines,
        }
    }
}

/// The longest line that is read; pacman's own are far shorter.
const LINE: usize = 4096;

/// How many events, and how many bytes that are held back, are kept: a scriptlet can print without end. A transaction has an
/// event for each package and each hook.
const EVENTS: usize = 20_000;
const HELD: usize = 1 << 20;

/// The plan that was shown last: the transaction that installs it prints it again.
static PLAN: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl<'a> Reader<'a> {
    fn with(show: Show, phases: Option<Phases<'a>>) -> Self {
        Self { line: Vec::new(), show, phases, plan: None, held: String::new(), events: Vec::new() }
    }

    /// Returns a reader that passes on what people want to see. pacman has so many repositories.
    #[must_use]
    pub fn new(context: &'a Context, repos: usize) -> Self {
        let phases = context.shows_progress().then(|| Phases::new(context, repos));
        Self::with(Show::of(context), phases)
    }

    /// Returns a reader that shows nothing.
    pub(crate) fn silent() -> Self {
        Self::with(Show::Errors, None)
    }

    /// Takes a piece of output.
    pub fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' => self.end_of_line(true),
                // A progress bar writes the same line many times, and goes from one to another (CPL and CNL of ECMA-48).
                b'\r' => self.end_of_line(false),
                b'E' | b'F' if self.is_parameter() => self.end_of_line(false),
                byte if self.line.len() < LINE => self.line.push(*byte),
                _ => {}
            }
        }
    }

    /// Returns whether what came last begins a control sequence that lacks its last letter.
    fn is_parameter(&self) -> bool {
        let digits = self.line.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        self.line[..self.line.len() - digits].ends_with(b"\x1b[")
    }

    /// Returns the events. Where pacman `failed`, what was held back is shown now.
    pub fn finish(mut self, failed: bool) -> Vec<OutputEvent> {
        self.end_of_line(true);
        self.end_plan();
        let done = self.phases.and_then(|phases| Some((phases.context, phases.finish(failed)?)));
        if let Some((context, done)) = done {
            context.note(done);
        }
        if failed {
            self.held.lines().for_each(message::pass);
        }
        self.events
    }

    /// Reads a line; one that is overwritten, and is not the `last`, means nothing.
    fn end_of_line(&mut self, last: bool) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let line = without_escapes(&line);
        let event = english::read(&line).filter(|_| last);
        let told = self.phases.as_mut().is_some_and(|phases| phases.take(&line));
        match self.show {
            Show::Rest if told || !last => {}
            Show::Rest | Show::Lines if line.is_empty() => {}
            Show::Rest | Show::Lines => self.pass(&line),
            Show::Errors => {
                let is_reason = matches!(event, Some(OutputEvent::Reason(..)));
                let wanted = english::is_message(&line) || is_reason;
                if wanted && self.held.len() < HELD {
                    self.held += &format!("{line}\n");
                }
            }
        }
        let Some(event) = event else { return };
        match self.events.len() {
            0..EVENTS => self.events.push(event),
            // An event that is dropped must not look as if it had not happened.
            EVENTS => self.events.push(OutputEvent::CommandFailed("command printed more than can be kept".to_owned())),
            _ => {}
        }
    }

    /// Passes a line on: the plan once, and no question without its answer.
    fn pass(&mut self, line: &str) {
        if is_after_plan(line) {
            let known = self.end_plan();
            if known && is_download_size(line) {
                return;
            }
        } else if self.plan.is_none() && plan(line).is_some() {
            self.plan = Some(Vec::new());
        }
        match &mut self.plan {
            Some(plan) if plan.len() < EVENTS => plan.push(line.to_owned()),
            _ => answered(line).iter().for_each(|line| message::pass(line)),
        }
    }

    /// Shows the plan where it is complete and another one than before. Returns whether it is known.
    fn end_plan(&mut self) -> bool {
        let Some(plan) = self.plan.take() else { return false };
        let mut shown = PLAN.lock().unwrap_or_else(PoisonError::into_inner);
        let known = *shown == plan;
        if !known {
            plan.iter().for_each(|line| message::pass(line));
            *shown = plan;
        }
        known
    }
}

/// Returns what a line that a scriptlet printed reads as in pacman's output, where pacman prints it as it is: nothing of it is
/// pacman's.
#[must_use]
pub fn reads_as(line: &str) -> Vec<OutputEvent> {
    let mut reader = Reader::with(Show::Errors, None);
    reader.take(line.as_bytes());
    reader.finish(false)
}

/// Returns a line without control sequences (ECMA-48) and other control characters: pacman hides and shows the cursor,
/// and what a scriptlet prints is not trusted.
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

/// How wide pacman's terminal is at least, so that its bars have all that is read in them.
const COLUMNS: u16 = 80;

/// Makes a terminal for pacman, and returns our side and its side. It is as wide as ours, so that its lists fit.
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
    let ours_has = tcgetwinsize(rustix::stdio::stderr()).map_or(0, |size| size.ws_col);
    let size = Winsize { ws_row: 24, ws_col: ours_has.max(COLUMNS), ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&theirs, size)?;
    Ok((ours, theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let mut reader = Reader::with(Show::Errors, None);
            for piece in text.as_bytes().chunks(size) {
                reader.take(piece);
            }
            let package = |n: &str| OutputEvent::Package(n.into());
            assert_eq!(
                reader.finish(false),
                [
                    package("filesystem"),
                    package("bash"),
                    OutputEvent::CommandFailed("command failed to execute correctly".into()),
                    package("glibc"),
                    OutputEvent::Hook(1, "Creating system user accounts...".into()),
                    OutputEvent::CommandFailed("command terminated by signal 9: Killed".into()),
                    OutputEvent::SavedBeside("/r/etc/hosts".into()),
                    OutputEvent::Corrupted("/c/a b.pkg.tar.zst".into()),
                    OutputEvent::Error(
                        english::Trouble::Retrieval,
                        "failed to commit transaction (download library error)".into()
                    ),
                ]
            );
        }
    }

    #[test]
    fn a_bar_that_goes_on_in_another_line_hides_nothing() {
        for (text, event) in [
            ("aur is up to date\x1b[K\x1b[2Eerror: no E here\n", "no E here"),
            ("\x1b[1F aur 1.0 B 100%\x1b[12Eerror: F\x1b[1m[1E\n", "F[1E"),
        ] {
            let mut reader = Reader::with(Show::Errors, None);
            reader.take(text.as_bytes());
            assert_eq!(reader.finish(false), [OutputEvent::Error(english::Trouble::Other, event.into())]);
        }
    }

    #[test]
    fn endless_output_takes_no_memory_and_hides_nothing() {
        let mut reader = Reader::with(Show::Errors, None);
        for n in 0..2 * EVENTS {
            reader.take(format!("error: {n:0100}\n").as_bytes());
        }
        reader.take(b"error: command failed to execute correctly\n");
        assert!(reader.held.len() < HELD + LINE);
        let events = reader.finish(false);
        assert_eq!(events.len(), EVENTS + 1);
        assert!(matches!(events.last(), Some(OutputEvent::CommandFailed(_))));
    }

    #[test]
    fn what_drives_a_terminal_is_left_out_of_a_log() {
        assert_eq!(without_escapes("\u{1b}[?25hinstalling \u{1b}[1;31mx\u{7}\ty\u{1b}"), "installing x y");
    }

    #[test]
    fn hostile_output_is_only_text() {
        let mut reader = Reader::with(Show::Errors, None);
        reader.take(&[0xff; 10_000]);
        reader.take(b"\n(((\n()\n( 1/2)\ninstalling\ninstalling \n:: hooks...\n(1/1)\n");
        assert_eq!(reader.finish(false), [OutputEvent::Hook(1, String::new()), OutputEvent::Hook(1, String::new())]);
    }
}
