//! Progress of work that may take over a second: a bar on a terminal, lines of JSON for front ends (`--progress json`), nothing
//! elsewhere. Nothing else draws.
//!
//! All stages of a pipe share one terminal. A bar is one line and leaves the cursor at its beginning, so that a message of any
//! of them takes its place and erases the rest of it ([`message::pass`]); the bar is then drawn again below. What is killed
//! leaves a bar that the next line overwrites.

use crate::message;
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// A bar, if stderr is a terminal
    #[default]
    Auto,
    /// No progress
    Never,
    /// Lines of JSON on stderr
    Json,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    Nothing,
    Bar,
    Json,
}

impl Show {
    /// Returns what the options say, and what stderr can do. Who asks for JSON gets it with `--quiet`, too.
    pub(crate) fn of(when: When, quiet: bool) -> Self {
        match when {
            When::Json => Self::Json,
            When::Auto if !quiet && can_erase() => Self::Bar,
            When::Auto | When::Never => Self::Nothing,
        }
    }
}

/// Returns whether stderr is a terminal that can erase a line.
pub(crate) fn can_erase() -> bool {
    let is_dumb = || std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    std::io::stderr().is_terminal() && !is_dumb()
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Repository databases.
    Databases,
    /// Hooks of pacman's.
    Hooks,
    /// Packages.
    Packages,
    /// Steps of the work.
    Steps,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Databases => "databases",
            Self::Hooks => "hooks",
            Self::Packages => "packages",
            Self::Steps => "steps",
        }
    }

    /// Returns what a bar looks like. In 80 columns there is room for all of the first; what is worked on comes last and may be cut.
    fn template(self, has_total: bool) -> &'static str {
        match (self, has_total) {
            (Self::Bytes, true) => "{prefix} [{bar:12}] {bytes}/{total_bytes} {bytes_per_sec} {eta} left {msg}",
            (Self::Bytes, false) => "{prefix} {bytes} {bytes_per_sec} {msg}",
            (_, true) => "{prefix} [{bar:20}] {pos}/{len} {msg}",
            (_, false) => "{prefix} {msg}",
        }
    }
}

/// How far a phase of the work is. It ends when the last copy goes.
#[derive(Clone, Debug)]
pub struct Progress(Option<Arc<Phase>>);

#[derive(Debug)]
struct Phase {
    tool: &'static str,
    name: &'static str,
    unit: Unit,
    bar: ProgressBar,
    /// When the last line of JSON was written, where these are.
    json: Option<Mutex<Instant>>,
    ended: AtomicBool,
}

/// How often at most a line of JSON is written, and a bar drawn, in a second.
const RATE: u8 = 10;

/// How much is shown of what is worked on, in characters.
const ITEM: usize = 200;

impl Progress {
    /// Returns one that nobody sees.
    #[must_use]
    pub fn hidden() -> Self {
        Self(None)
    }

    pub(crate) fn begin(show: Show, tool: &'static str, name: &'static str, unit: Unit, total: Option<u64>) -> Self {
        let (target, json) = match show {
            Show::Nothing => return Self(None),
            Show::Bar => (ProgressDrawTarget::term_like_with_hz(Box::<Line>::default(), RATE), None),
            Show::Json => (ProgressDrawTarget::hidden(), Some(Mutex::new(Instant::now()))),
        };
        let bar = ProgressBar::with_draw_target(total, target);
        if let Ok(style) = ProgressStyle::with_template(unit.template(total.is_some())) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(format!("{tool}: {name}"));
        let phase = Phase { tool, name, unit, bar, json, ended: AtomicBool::default() };
        phase.tell(true, false);
        Self(Some(Arc::new(phase)))
    }

    fn update(&self, update: impl FnOnce(&ProgressBar)) {
        if let Some(phase) = self.0.as_ref().filter(|phase| !phase.ended.load(Ordering::Relaxed)) {
            update(&phase.bar);
            phase.tell(false, false);
        }
    }

    /// Adds what is done.
    pub fn advance(&self, more: u64) {
        self.update(|bar| bar.inc(more));
    }

    /// Sets how much is done.
    pub fn set(&self, done: u64) {
        self.update(|bar| bar.set_position(done));
    }

    /// Sets what is worked on.
    pub fn item(&self, item: &str) {
        self.update(|bar| {
            let item: String = item.chars().take(ITEM).collect();
            bar.set_message(message::escape(&item));
        });
    }

    /// Ends it, whoever has a copy.
    pub fn end(&self) {
        if let Some(phase) = &self.0 {
            phase.end();
        }
    }
}

impl Phase {
    /// Shows how far it is: at its beginning and its end in any case (`must`), else not too often.
    fn tell(&self, must: bool, end: bool) {
        let Some(last) = &self.json else {
            // What is counted draws itself.
            if must {
                self.bar.force_draw();
            }
            return;
        };
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if !must && last.elapsed() < Duration::from_secs(1) / u32::from(RATE) {
            return;
        }
        *last = Instant::now();
        write(&format!("{}\n", self.json(end)));
    }

    fn end(&self) {
        if !self.ended.swap(true, Ordering::Relaxed) {
            self.tell(true, true);
            self.bar.finish_and_clear();
        }
    }

    fn json(&self, end: bool) -> serde_json::Value {
        let (done, total) = (self.bar.position(), self.bar.length());
        let mut line = serde_json::json!({
            "tool": self.tool,
            "phase": self.name,
            "done": total.map_or(done, |total| done.min(total)),
            "total": total,
            "unit": self.unit.name(),
        });
        let item = self.bar.message();
        if !item.is_empty() {
            line["item"] = item.into();
        }
        if end {
            line["end"] = true.into();
        }
        line
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        self.end();
    }
}

/// Writes to stderr at once. A terminal that is gone, or takes nothing, is not an error.
pub(crate) fn write(text: &str) {
    drop(std::io::stderr().lock().write_all(text.as_bytes()));
}

/// The line of the terminal that a bar is drawn on. It is cut to the width of the terminal, and is one whatever that is.
#[derive(Debug, Default)]
struct Line(Mutex<String>);

/// The width that indicatif is told, so that it breaks no line.
const WIDEST: u16 = 1024;

impl Line {
    fn text(&self) -> std::sync::MutexGuard<'_, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TermLike for Line {
    fn width(&self) -> u16 {
        WIDEST
    }

    fn move_cursor_up(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn write_line(&self, text: &str) -> std::io::Result<()> {
        self.write_str(text)
    }

    fn write_str(&self, text: &str) -> std::io::Result<()> {
        self.text().push_str(text);
        Ok(())
    }

    fn clear_line(&self) -> std::io::Result<()> {
        self.text().clear();
        Ok(())
    }

    fn flush(&self) -> std::io::Result<()> {
        let text = std::mem::take(&mut *self.text());
        if in_foreground() {
            write(&format!("{}\x1b[K\r", cut(text.trim_end(), columns())));
        }
        Ok(())
    }
}

/// Returns how wide the terminal is; 80 columns where it does not know, as a serial line.
fn columns() -> usize {
    match rustix::termios::tcgetwinsize(rustix::stdio::stderr()) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        _ => 80,
    }
}

/// Returns the beginning of a line that leaves the last column free, where some terminals break it. What is not ASCII may
/// take two columns.
fn cut(text: &str, columns: usize) -> &str {
    let mut width = 0;
    let beyond = text.char_indices().find(|(_, c)| {
        width += if c.is_ascii() { 1 } else { 2 };
        width >= columns
    });
    beyond.map_or(text, |(at, _)| &text[..at])
}

/// Returns whether the terminal is ours to draw on: not that of a background job, whose user types at a prompt. What is in
/// namespaces of its own cannot tell.
fn in_foreground() -> bool {
    match rustix::termios::tcgetpgrp(rustix::stdio::stderr()) {
        Ok(group) => group == rustix::process::getpgrp(),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_to_the_terminal() {
        for (text, columns, expected) in [
            ("abc", 80, "abc"),
            ("abc", 4, "abc"),
            ("abc", 3, "ab"),
            ("abc", 1, ""),
            ("abc", 0, ""),
            ("a\u{4e2d}\u{6587}", 4, "a\u{4e2d}"),
            ("a\u{4e2d}", 3, "a"),
        ] {
            assert_eq!(cut(text, columns), expected, "{text} in {columns}");
        }
    }

    #[test]
    fn a_line_of_json_has_all_of_a_phase() {
        let begin = |total| Progress::begin(Show::Json, "strap", "installing", Unit::Packages, total);
        let line = |progress: &Progress, end| progress.0.as_ref().unwrap().json(end).to_string();
        let progress = begin(Some(2));
        progress.advance(1);
        progress.item("a\u{1b}");
        let text = r#"{"tool":"strap","phase":"installing","done":1,"total":2,"unit":"packages","item":"a\\u{1b}"}"#;
        assert_eq!(line(&progress, false), text);
        progress.set(5);
        assert!(line(&progress, true).contains(r#""done":2,"total":2,"#));
        let progress = begin(None);
        progress.set(5);
        let text = r#"{"tool":"strap","phase":"installing","done":5,"total":null,"unit":"packages","end":true}"#;
        assert_eq!(line(&progress, true), text);
    }

    #[test]
    fn who_asks_for_nothing_gets_nothing() {
        assert_eq!(Show::of(When::Never, false), Show::Nothing);
        assert_eq!(Show::of(When::Auto, true), Show::Nothing);
        assert_eq!(Show::of(When::Json, true), Show::Json);
        assert!(Progress::begin(Show::Nothing, "x", "y", Unit::Bytes, None).0.is_none());
    }
}
