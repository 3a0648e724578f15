//! A terminal that a test looks at: a pty(7) as stderr, and what a person would see on it.

use crate::{Lab, Ran};
use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;

/// Runs a script with stderr on a terminal of so many columns, for which `TERM` says `term`. What the terminal got is in
/// `stderr` of what is returned, with the carriage returns that it adds.
///
/// # Panics
///
/// Where there is no terminal to be had, or what is written on it is no text.
#[must_use]
pub fn on_terminal(lab: &Lab, columns: u16, term: &str, script: &str) -> Ran {
    let (master, slave) = open(columns);
    let mut master = File::from(master);
    let mut command = lab.command("sh");
    command.args(["-c", script]).env("TERM", term).stdout(Stdio::piped()).stderr(slave);
    let child = command.spawn().expect("sh is there");
    // It has our copy of the other side.
    drop(command);
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // When nobody has its other side any more, a terminal says so by EIO.
        drop(master.read_to_end(&mut bytes));
        String::from_utf8(bytes).expect("UTF-8")
    });
    let mut ran = Ran::from(child.wait_with_output().expect("our own child"));
    ran.stderr = reader.join().expect("a reader does not panic");
    ran
}

/// Runs a script with stderr on a terminal that is gone.
///
/// # Panics
///
/// As [`on_terminal`].
#[must_use]
pub fn on_lost_terminal(lab: &Lab, script: &str) -> Ran {
    let (master, slave) = open(80);
    drop(master);
    let mut command = lab.command("sh");
    command.args(["-c", script]).env("TERM", "xterm").stderr(slave);
    Ran::from(command.output().expect("sh is there"))
}

/// Opens a terminal of so many columns: the side of who looks at it, and that of programs.
///
/// # Panics
///
/// Where there is none to be had.
#[must_use]
pub fn open(columns: u16) -> (OwnedFd, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&master).expect("ours");
    unlockpt(&master).expect("ours");
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&master, size).expect("ours");
    let name = ptsname(&master, Vec::new()).expect("it has one").into_string().expect("ASCII");
    let mut options = File::options();
    let slave =
        options.read(true).write(true).custom_flags(OFlags::NOCTTY.bits().cast_signed()).open(name).expect("ours");
    (master, slave)
}

/// Returns the lines that a person sees in the end. `text` drives the terminal by carriage returns, newlines and the erasing of
/// the rest of a line alone.
///
/// # Panics
///
/// Where it does anything else.
#[must_use]
pub fn seen(text: &str) -> Vec<String> {
    let mut lines = vec![Vec::new()];
    let mut column = 0;
    assert!(!text.contains('\x07'), "{text:?}");
    let text = text.replace("\x1b[K", "\x07");
    for c in text.chars() {
        let line: &mut Vec<char> = lines.last_mut().expect("there is one");
        match c {
            '\r' => column = 0,
            '\n' => lines.push(Vec::new()),
            '\x07' => line.truncate(column),
            c => {
                assert!(!c.is_control(), "{c:?} in {text:?}");
                line.resize(line.len().max(column + 1), ' ');
                line[column] = c;
                column += 1;
            }
        }
    }
    let lines = lines.into_iter().map(|line| line.into_iter().collect::<String>());
    lines.filter(|line| !line.is_empty()).collect()
}
