//! The main of every stage: parse, read to the end, work, hand on.
//!
//! A stage that fails still hands the document on, with an `error` in it. Making tools let such a document pass
//! untouched; undoing tools work all the same. So the last exit status of a pipeline is the first failure's, without
//! `pipefail`, in plain sh and in make, and cleaning up runs like a `finally`.

use crate::members::Step;
use crate::{Code, Document, Doing, Failure, document, message, quote, signal};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat, major, minor};
use std::cell::Cell;
use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What a stage does with a document that says that a stage before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Makes, and can start a pipeline: a terminal or `/dev/null` on stdin means a new document.
    Start,
    /// Makes: lets such a document pass unchanged.
    Make,
    /// Undoes: works all the same, and a signal does not stop it.
    Undo,
}

/// The options that every stage has.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Common {
    /// Read the document from FILE, not from stdin
    #[arg(long, value_name = "FILE", global = true, help_heading = "Every stage")]
    pub state: Option<PathBuf>,

    /// Start a new document and read nothing
    #[arg(short, long, conflicts_with = "state", help_heading = "Every stage")]
    pub new: bool,

    /// Say nothing when all goes well
    #[arg(short, long, help_heading = "Every stage")]
    pub quiet: bool,
}

/// What a stage's work has beside its arguments and the document.
#[derive(Debug)]
pub struct Context {
    /// The tool's name, as messages begin.
    pub tool: &'static str,
    /// Whether messages of success and progress are unwanted.
    pub quiet: bool,
    waited: Cell<Duration>,
}

impl Context {
    /// Returns a context for `tool`.
    #[must_use]
    pub fn new(tool: &'static str, quiet: bool) -> Self {
        Self {
            tool,
            quiet,
            waited: Cell::default(),
        }
    }

    /// Says that something is not as it should be, though the work goes on.
    pub fn warn(&self, text: impl std::fmt::Display) {
        message::line(self.tool, format_args!("warning: {text}"));
    }

    /// Says what was done, unless `--quiet`.
    pub fn note(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            message::line(self.tool, text);
        }
    }

    /// Counts time that was spent waiting for the program that does the work.
    pub fn waited(&self, time: Duration) {
        self.waited.set(self.waited.get() + time);
    }

    /// Reports a failure: its line, and its hint where it has one.
    pub fn report(&self, failure: &Failure) {
        message::line(self.tool, &failure.message);
        if let Some(hint) = &failure.hint {
            message::line(self.tool, format_args!("hint: {hint}"));
        }
    }
}

/// A stage of a pipeline. `Self` is its command line.
pub trait Stage: clap::Parser {
    /// The stage's kind.
    const KIND: Kind;

    /// Returns the options that every stage has.
    fn common(&self) -> &Common;

    /// Returns whether the stage can work without any document. An undoing stage can when it was given a directory.
    fn can_start(&self) -> bool {
        Self::KIND == Kind::Start
    }

    /// Does the work, and records it in `document`.
    ///
    /// # Errors
    ///
    /// When the work is not done. What could not be undone must be in `document`.
    fn run(&self, context: &Context, document: &mut Document) -> Result<(), Failure>;

    /// Undoes [`Stage::run`] when its document could not be handed on.
    fn undo(&self, _context: &Context, _document: &Document) {}
}

/// What there was to read.
#[derive(Debug)]
enum Input {
    /// Text, from where.
    Text(Vec<u8>, String),
    /// Nothing to read, and why: a terminal, `/dev/null`, or `--new`.
    Nothing(&'static str),
}

/// Runs a stage: parses the command line, reads the document, does the work, hands the document on.
///
/// Whatever happens, a document is written, so that the stages after this one know.
#[must_use]
pub fn main<S: Stage>() -> ExitCode {
    let tool = tool_name::<S>();
    let caught = match S::KIND {
        Kind::Undo => signal::endure(),
        _ => signal::catch(),
    };
    if let Err(e) = caught {
        message::line(tool, format_args!("warning: catching signals: {e}"));
    }
    let stage = match S::try_parse() {
        Ok(stage) => stage,
        Err(e) => return refuse_command_line(tool, &e),
    };
    let context = Context::new(tool, stage.common().quiet);
    let text = match read(stage.common()) {
        Ok(input) => input,
        Err(failure) => return hand_on_failure(&context, Document::new(), &failure),
    };
    let (mut document, late) = match start(&stage, &text) {
        Ok(pair) => pair,
        Err(failure) => return hand_on_failure(&context, Document::new(), &failure),
    };
    // An error in a document from a file may be this tool's own, of an earlier run: running it again is the cure.
    let again = stage.common().state.is_some() && document.failed_tool().as_deref() == Some(tool);
    if let Some(exit) = document.failed()
        && S::KIND != Kind::Undo
        && !again
    {
        return pass(&context, &document, &text, exit);
    }
    if again || S::KIND == Kind::Undo {
        document.forget_failures_of(tool);
    }
    if let Some(failure) = work(&stage, &context, &mut document).err().or(late) {
        context.report(&failure);
        document.fail(tool, &failure);
    }
    hand_on(&context, &document, || stage.undo(&context, &document))
}

/// Refuses to work for another user than the one who started us. Who installs a tool set-uid or set-gid (execve(2)) gives
/// everybody the rights of its owner: command lines and documents name programs to run and directories to write to.
///
/// # Errors
///
/// [`Code::Permission`] where our effective ids are not our real ones.
pub fn refuse_set_uid() -> Result<(), Failure> {
    use nix::unistd::{getegid, geteuid, getgid, getuid};
    if getuid() == geteuid() && getgid() == getegid() {
        return Ok(());
    }
    Err(Failure::new(
        Code::Permission,
        "starting: this program is installed set-uid or set-gid, and does not work that way",
    )
    .hint("take the bits away with 'chmod ug-s', and use sudo where root is needed"))
}

/// Returns the tool's name, as clap has it.
fn tool_name<S: clap::Parser>() -> &'static str {
    // Leaked once a process: a name is wanted for as long as the process lives.
    Box::leak(S::command().get_name().to_owned().into_boxed_str())
}

/// Runs the stage's own work with the clock around it.
fn work<S: Stage>(stage: &S, context: &Context, document: &mut Document) -> Result<(), Failure> {
    let begin = Instant::now();
    let started = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let worked = signal::check().and_then(|()| stage.run(context, document));
    let result = worked.map_err(|failure| after_signals(failure, signal::interrupted()));
    document.step(&Step {
        tool: context.tool.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: started.as_secs_f64(),
        seconds: begin.elapsed().as_secs_f64(),
        child_seconds: context.waited.get().as_secs_f64(),
    });
    result
}

/// Returns a failure as one of the signal's that asked us to stop, where it may come from that: what we read was cut short,
/// and a terminal's keys reach the programs that we run, too.
fn after_signals(failure: Failure, interrupted: bool) -> Failure {
    match failure.code {
        Code::Failed | Code::ChildFailed | Code::Os | Code::Network if interrupted => Failure {
            code: Code::Interrupted,
            hint: None,
            ..failure
        },
        _ => failure,
    }
}

/// Makes the document to work on. With it comes a failure that is to be recorded after the work: an undoing stage that
/// has a directory works also when the stage before it printed nothing, but that is no success.
fn start<S: Stage>(stage: &S, input: &Input) -> Result<(Document, Option<Failure>), Failure> {
    match input {
        Input::Nothing(_) if stage.common().new || stage.can_start() => Ok((Document::new(), None)),
        Input::Nothing(what) => Err(Failure::new(
            Code::Usage,
            format!("stdin is {what}: expected the document of the tool before this one"),
        )
        .hint("begin with 'mkroot DIR |', or give a document with --state FILE")),
        Input::Text(text, origin) => match Document::parse(text, origin) {
            Err(failure)
                if S::KIND == Kind::Undo
                    && stage.can_start()
                    && text.iter().all(u8::is_ascii_whitespace) =>
            {
                let failure = failure.hint("to work from the directory alone, give --new");
                Ok((Document::new(), Some(failure)))
            }
            result => result.map(|document| (document, None)),
        },
    }
}

/// Reads the document that `--state` names, for a tool that stands alone.
///
/// # Errors
///
/// [`Code::Usage`] where there is no such file, [`Code::BadDocument`] where it is no document.
pub fn read_state(common: &Common) -> Result<Document, Failure> {
    match read(common)? {
        Input::Text(text, origin) => Document::parse(&text, &origin),
        Input::Nothing(what) => Err(Failure::new(
            Code::Usage,
            format!("stdin is {what}: expected a document"),
        )
        .hint("give one with --state FILE")),
    }
}

/// Reads the document's text to its end, before anything is touched.
fn read(common: &Common) -> Result<Input, Failure> {
    refuse_set_uid()?;
    if common.new {
        return Ok(Input::Nothing("not read (--new)"));
    }
    if let Some(path) = &common.state {
        // A FIFO that nobody opens must not keep us here.
        let mut options = File::options();
        options.read(true).custom_flags(nix::libc::O_NONBLOCK);
        let mut file = options.open(path).doing(Code::Usage, || {
            format!("opening the document {}", quote(path))
        })?;
        let text = read_to_end(&mut file, &quote(path), true)?;
        return Ok(Input::Text(text, quote(path)));
    }
    read_stdin()
}

fn read_stdin() -> Result<Input, Failure> {
    let mut stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        return Ok(Input::Nothing("a terminal"));
    }
    if is_dev_null(stdin.as_fd()) {
        return Ok(Input::Nothing("/dev/null"));
    }
    Ok(Input::Text(
        read_to_end(&mut stdin, "stdin", false)?,
        "stdin".to_owned(),
    ))
}

fn is_dev_null(fd: BorrowedFd<'_>) -> bool {
    fstat(fd).is_ok_and(|s| {
        SFlag::from_bits_truncate(s.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR
            && (major(s.st_rdev), minor(s.st_rdev)) == (1, 3)
    })
}

/// Reads to the end, whatever signals come: the stage before got them too and ends, and its document is the one that must
/// not be lost. Only of a file (`heeds`) nothing is lost where a signal ends the wait.
fn read_to_end(
    from: &mut (impl Read + AsFd),
    origin: &str,
    heeds: bool,
) -> Result<Vec<u8>, Failure> {
    let doing = || format!("reading the document on {origin}");
    let mut text = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let mut fds = vec![PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        let stop = signal::descriptor().filter(|_| heeds);
        fds.extend(stop.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e).doing(Code::Os, doing),
        }
        let ready = fds[0].any().unwrap_or(true);
        if heeds {
            signal::check().map_err(|f| f.while_doing(doing()))?;
        }
        if !ready {
            continue;
        }
        let n = match from.read(&mut buffer) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
            result => result.doing(Code::BadDocument, doing)?,
        };
        if n == 0 {
            return Ok(text);
        }
        text.extend_from_slice(&buffer[..n]);
        if text.len() as u64 > document::LIMIT {
            return Err(Failure::new(
                Code::BadDocument,
                format!("{}: it is longer than {} bytes", doing(), document::LIMIT),
            ));
        }
    }
}

/// Returns the failure of a command line that clap refuses: what it says up to the first empty line.
pub fn usage_failure(tool: &str, error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim);
    let first: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    let first = first.join(" ");
    let reason = first.strip_prefix("error: ").unwrap_or(&first);
    Failure::new(Code::Usage, reason).hint(format!("see '{tool} --help'"))
}

/// Answers a command line that clap does not take: help and version are no failure, and all else is handed on.
fn refuse_command_line(tool: &'static str, error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let text = error.render().to_string();
        return match write_out(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                message::line(tool, format_args!("writing the help on stdout: {e}"));
                ExitCode::from(Code::Output.exit())
            }
        };
    }
    let context = Context::new(tool, false);
    let failure = usage_failure(tool, error);
    // The document of the stage before must go on, so that an undoing stage after this one has it. Where the document was
    // to come from elsewhere, stdin may be anything, and stay open for ever.
    context.report(&failure);
    let elsewhere = std::env::args_os().any(|a| {
        let a = a.as_encoded_bytes();
        a == b"-n" || a == b"--new" || a.starts_with(b"--state")
    });
    let input = if elsewhere {
        Ok(Input::Nothing("not asked for"))
    } else {
        read_stdin()
    };
    let mut document = match input {
        Ok(Input::Text(text, origin)) => Document::parse(&text, &origin).unwrap_or_default(),
        _ => Document::new(),
    };
    document.fail(tool, &failure);
    hand_on(&context, &document, || ())
}

/// Reports a failure that came before the work, and hands on a document that says so.
fn hand_on_failure(context: &Context, mut document: Document, failure: &Failure) -> ExitCode {
    context.report(failure);
    document.fail(context.tool, failure);
    hand_on(context, &document, || ())
}

/// Lets a failed document pass as it came.
fn pass(context: &Context, document: &Document, input: &Input, exit: u8) -> ExitCode {
    let text = match input {
        Input::Text(text, _) if !std::io::stdout().is_terminal() => text.clone(),
        _ => render(document).into_bytes(),
    };
    match write_out(&text) {
        Ok(()) => ExitCode::from(exit),
        Err(e) => {
            context.report(&output_failure(&e));
            ExitCode::from(Code::Output.exit())
        }
    }
}

/// Writes the document on stdout, and says with the exit status what it says.
fn hand_on(context: &Context, document: &Document, undo: impl FnOnce()) -> ExitCode {
    if let Err(e) = write_out(render(document).as_bytes()) {
        context.report(&output_failure(&e));
        undo();
        return ExitCode::from(Code::Output.exit());
    }
    ExitCode::from(document.failed().unwrap_or(0))
}

fn output_failure(error: &std::io::Error) -> Failure {
    Failure::new(
        Code::Output,
        format!("writing the document on stdout: {error}"),
    )
}

/// Returns the document as it goes out: one line, or for people where stdout is a terminal.
fn render(document: &Document) -> String {
    if std::io::stdout().is_terminal() {
        document.pretty()
    } else {
        document.line()
    }
}

/// Writes to stdout with a checked flush: without it, a full disk looks like success.
///
/// # Errors
///
/// When stdout does not take it all.
pub fn write_out(bytes: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}
