//! The main function of every stage: parse the command line, read the document to its end, work, hand the document on.
//!
//! A stage that fails still hands the document on, with an `error` in it. Tools that make something pass such a document
//! on unchanged; tools that undo something still work. So the last exit status of a pipeline is that of the first
//! failure, without `pipefail`, in plain sh and in make, and clean-up runs like a `finally`.

use crate::members::Step;
use crate::progress::{Progress, Show, Unit, When};
use crate::signal::{self, Wake};
use crate::{Code, Document, Doing, Failure, complete, document, message, quote};
use clap::error::{ContextKind, ContextValue};
use nix::sys::stat::{SFlag, fstat, major, minor};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open, openat, renameat, unlinkat};
use rustix::io::Errno;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What a stage does with a document that says that an earlier stage failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Makes something, and can start a pipeline: a terminal or `/dev/null` on stdin means a new document.
    Start,
    /// Makes something: passes such a document on unchanged.
    Make,
    /// Undoes something: still works, and a signal does not stop it.
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

    /// Show progress
    #[arg(long, value_name = "WHEN", value_enum, default_value_t, help_heading = "Every stage")]
    pub progress: When,
}

/// What takes back a part of a stage's work.
type Undo = Box<dyn FnOnce(&Context)>;

/// What [`Stage::run`] gets besides its arguments and the document.
pub struct Context {
    /// The tool's name, with which its messages begin.
    pub tool: &'static str,
    /// Whether to omit messages of success and progress.
    pub quiet: bool,
    progress: Show,
    waited: Cell<Duration>,
    undo: RefCell<Vec<Undo>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Context").field(&self.tool).finish()
    }
}

impl Context {
    /// Returns a context for `tool`.
    #[must_use]
    pub fn new(tool: &'static str, quiet: bool) -> Self {
        let progress = Show::of(When::Auto, quiet);
        Self { tool, quiet, progress, waited: Cell::default(), undo: RefCell::default() }
    }

    fn of(tool: &'static str, common: &Common) -> Self {
        Self { progress: Show::of(common.progress, common.quiet), ..Self::new(tool, common.quiet) }
    }

    /// Registers what takes back a part of the work. It is called when the document cannot be written, in the reverse order
    /// of registration.
    pub fn on_undo(&self, undo: impl FnOnce(&Self) + 'static) {
        self.undo.borrow_mut().push(Box::new(undo));
    }

    fn undo(&self) {
        for undo in self.undo.take().into_iter().rev() {
            undo(self);
        }
    }

    /// Prints a warning: the work goes on.
    pub fn warn(&self, text: impl std::fmt::Display) {
        message::line(self.tool, format_args!("warning: {text}"));
    }

    /// Prints a message of success or progress, unless `--quiet`.
    pub fn note(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            message::line(self.tool, text);
        }
    }

    /// Begins a phase of the work that may take over a second. `total` is how much there is to do, where that is known.
    #[must_use]
    pub fn progress(&self, phase: &'static str, unit: Unit, total: Option<u64>) -> Progress {
        Progress::begin(self.progress, self.tool, phase, unit, total)
    }

    /// Returns whether anybody sees progress.
    #[must_use]
    pub fn shows_progress(&self) -> bool {
        self.progress != Show::Nothing
    }

    /// Adds time that was spent waiting for the program that does the work.
    pub fn waited(&self, time: Duration) {
        self.waited.set(self.waited.get() + time);
    }

    /// Prints a failure and its hint.
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

    /// Returns whether the stage can work without a document. A stage that undoes can when it was given a directory.
    fn can_start(&self) -> bool {
        Self::KIND == Kind::Start
    }

    /// Does the work, and records it in `document`. [`Context::on_undo`] takes what undoes it.
    ///
    /// # Errors
    ///
    /// When the work is not done. What could not be undone must be in `document`.
    fn run(&self, context: &Context, document: &mut Document) -> Result<(), Failure>;
}

/// The input of a stage.
#[derive(Debug)]
enum Input {
    /// A text, and where it comes from.
    Text(Vec<u8>, String),
    /// No document, and why: a terminal, `/dev/null`, or `--new`.
    Nothing(&'static str),
}

/// Runs a stage: parses the command line, reads the document, does the work, hands the document on. A document is written
/// in any case, so that later stages know what happened.
#[must_use]
pub fn main<S: Stage>() -> ExitCode {
    complete::answer::<S>();
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
    let context = Context::of(tool, stage.common());
    let text = match read(stage.common()) {
        Ok(input) => input,
        Err(failure) => return hand_on_failure(&context, Document::new(), &failure),
    };
    let (mut document, late) = match start(&stage, &text) {
        Ok(pair) => pair,
        Err(failure) => return hand_on_failure(&context, Document::new(), &failure),
    };
    // An error in a document from a file may be of an earlier run of this tool, which is now run again.
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
    hand_on(&context, &document)
}

/// Refuses to run set-uid or set-gid (execve(2)). That would give everybody the rights of the file's owner: command lines
/// and documents name programs to run and directories to write to.
///
/// # Errors
///
/// [`Code::Permission`] where our effective ids are not our real ones.
pub fn refuse_set_uid() -> Result<(), Failure> {
    use nix::unistd::{getegid, geteuid, getgid, getuid};
    if getuid() == geteuid() && getgid() == getegid() {
        return Ok(());
    }
    Err(Failure::new(Code::Permission, "starting: this program must not be installed set-uid or set-gid")
        .hint("remove the bits with 'chmod ug-s', and use sudo where root is needed"))
}

/// Returns the tool's name, as clap has it.
fn tool_name<S: clap::Parser>() -> &'static str {
    S::command().get_name().to_owned().leak()
}

/// Runs the stage's own work, and records its step.
fn work<S: Stage>(stage: &S, context: &Context, document: &mut Document) -> Result<(), Failure> {
    let begin = Instant::now();
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
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

/// Makes a failure after a signal an interruption where it may come from the signal: an input that was cut short, or a
/// program of ours that the terminal's keys reached, too.
fn after_signals(failure: Failure, interrupted: bool) -> Failure {
    match failure.code {
        Code::Failed | Code::ChildFailed | Code::Os | Code::Network if interrupted => {
            Failure { code: Code::Interrupted, hint: None, ..failure }
        }
        _ => failure,
    }
}

/// Returns the document to work on. With it may come a failure to record after the work: a stage that undoes and has a
/// directory also works when the stage before it printed nothing, but that is not a success.
fn start<S: Stage>(stage: &S, input: &Input) -> Result<(Document, Option<Failure>), Failure> {
    match input {
        Input::Nothing(_) if stage.common().new || stage.can_start() => Ok((Document::new(), None)),
        Input::Nothing(what) => Err(Failure::new(
            Code::Usage,
            format!("stdin is {what}: expected the document of the tool before this one"),
        )
        .hint("begin with 'mkroot DIR |', or give a document with --state FILE")),
        Input::Text(text, origin) => match Document::parse(text, origin) {
            Err(failure) if S::KIND == Kind::Undo && stage.can_start() && text.iter().all(u8::is_ascii_whitespace) => {
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
/// [`Code::Usage`] when there is no such file, [`Code::BadDocument`] when it is not a document.
pub fn read_state(common: &Common) -> Result<Document, Failure> {
    read_state_or_nothing(common)?
        .ok_or_else(|| Failure::new(Code::Usage, "there is no document on stdin").hint("give one with --state FILE"))
}

/// As [`read_state`]. `None` where stdin is a terminal or `/dev/null`.
///
/// # Errors
///
/// As [`read_state`].
pub fn read_state_or_nothing(common: &Common) -> Result<Option<Document>, Failure> {
    match read(common)? {
        Input::Text(text, origin) => Document::parse(&text, &origin).map(Some),
        Input::Nothing(_) => Ok(None),
    }
}

/// Reads the document's text to its end, before anything is changed.
fn read(common: &Common) -> Result<Input, Failure> {
    refuse_set_uid()?;
    if common.new {
        return Ok(Input::Nothing("not read (--new)"));
    }
    if let Some(path) = &common.state {
        // Do not wait for the writer of a FIFO.
        let mut options = File::options();
        options.read(true).custom_flags(nix::libc::O_NONBLOCK);
        let mut file = options.open(path).doing(Code::Usage, || format!("opening the document {}", quote(path)))?;
        refuse_emptied(path, &file)?;
        let text = read_to_end(&mut file, &quote(path), Wake::OnSignal)?;
        return Ok(Input::Text(text, quote(path)));
    }
    read_stdin()
}

/// Refuses a document that is stdout, too: with `--state FILE > FILE` the shell has emptied it.
fn refuse_emptied(path: &Path, file: &File) -> Result<(), Failure> {
    let doing = || format!("reading the document {}", quote(path));
    let (input, output) = (fstat(file).doing(Code::Os, doing)?, fstat(std::io::stdout()));
    let same = output.is_ok_and(|output| (output.st_dev, output.st_ino) == (input.st_dev, input.st_ino));
    if !same || input.st_size != 0 || SFlag::from_bits_truncate(input.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Ok(());
    }
    Err(Failure::new(Code::Usage, format!("{}: it is stdout, too, and the shell has emptied it", doing()))
        .hint(format!("a copy is ROOT.strapline/{COPY}: copy it back, and write to another file")))
}

fn read_stdin() -> Result<Input, Failure> {
    let mut stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        return Ok(Input::Nothing("a terminal"));
    }
    if is_dev_null(stdin.as_fd()) {
        return Ok(Input::Nothing("/dev/null"));
    }
    Ok(Input::Text(read_to_end(&mut stdin, "stdin", Wake::Never)?, "stdin".to_owned()))
}

/// Returns whether stdin is a terminal or `/dev/null`: then there is no tool before this one.
#[must_use]
pub fn no_document_comes() -> bool {
    let stdin = std::io::stdin();
    stdin.is_terminal() || is_dev_null(stdin.as_fd())
}

fn is_dev_null(fd: BorrowedFd<'_>) -> bool {
    fstat(fd).is_ok_and(|s| {
        SFlag::from_bits_truncate(s.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR
            && (major(s.st_rdev), minor(s.st_rdev)) == (1, 3)
    })
}

/// Reads to the end. A signal stops it only where it reads a file (`wake`): on a pipe, the stage before got the signal too
/// and ends, and its document must not be lost.
fn read_to_end(from: &mut (impl Read + AsFd), origin: &str, wake: Wake) -> Result<Vec<u8>, Failure> {
    let doing = || format!("reading the document on {origin}");
    let mut text = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let ready = signal::poll_readable(&[from.as_fd()], None, wake).doing(Code::Os, doing)?;
        if wake == Wake::OnSignal {
            signal::check().map_err(|f| f.while_doing(doing()))?;
        }
        if ready != Some(vec![true]) {
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
                format!("{}: is longer than {} bytes", doing(), document::LIMIT),
            ));
        }
    }
}

/// Returns the failure of a command line that clap refuses: what it says up to the first empty line, and what may have been
/// meant.
pub fn usage_failure(tool: &str, error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim);
    let first: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    let first = first.join(" ");
    let reason = first.strip_prefix("error: ").unwrap_or(&first);
    let hint = match suggestion(error) {
        Some(meant) => format!("did you mean '{meant}'? See '{tool} --help'"),
        None => format!("see '{tool} --help'"),
    };
    Failure::new(Code::Usage, reason).hint(hint)
}

/// Returns the option or the value that is most like the wrong one.
fn suggestion(error: &clap::Error) -> Option<&str> {
    [ContextKind::SuggestedArg, ContextKind::SuggestedValue].into_iter().find_map(|kind| match error.get(kind)? {
        ContextValue::String(one) => Some(one.as_str()),
        ContextValue::Strings(several) => several.first().map(String::as_str),
        _ => None,
    })
}

/// Handles what clap calls an error: prints help and version, and hands any other on.
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
    context.report(&failure);
    // Stages that undo and come later need the document of the stages before. If the document was to come from a file,
    // stdin may be anything, and may stay open for ever.
    let elsewhere = std::env::args_os().any(|a| {
        let a = a.as_encoded_bytes();
        a == b"-n" || a == b"--new" || a.starts_with(b"--state")
    });
    // No stage comes before or after: a person mistyped.
    if std::io::stdout().is_terminal() && (elsewhere || no_document_comes()) {
        return ExitCode::from(Code::Usage.exit());
    }
    let input = if elsewhere { Ok(Input::Nothing("not asked for")) } else { read_stdin() };
    let mut document = match input {
        Ok(Input::Text(text, origin)) => Document::parse(&text, &origin).unwrap_or_default(),
        _ => Document::new(),
    };
    document.fail(tool, &failure);
    hand_on(&context, &document)
}

/// Reports a failure, and writes a document with it.
fn hand_on_failure(context: &Context, mut document: Document, failure: &Failure) -> ExitCode {
    context.report(failure);
    document.fail(context.tool, failure);
    hand_on(context, &document)
}

/// Hands a failed document on as it came.
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

/// Writes the document on stdout, and returns the exit status of its error. Undoes the work when it cannot be written.
fn hand_on(context: &Context, document: &Document) -> ExitCode {
    if let Err(e) = write_out(render(document).as_bytes()) {
        context.report(&output_failure(&e));
        context.undo();
        return ExitCode::from(Code::Output.exit());
    }
    // Of what failed there is no copy: the root may be another by now.
    let Some(exit) = document.failed() else {
        keep_copy(document).unwrap_or_else(|failure| context.warn(failure));
        return ExitCode::SUCCESS;
    };
    ExitCode::from(exit)
}

/// The name of the document's copy in the directory beside the root.
const COPY: &str = "document.json";

/// Writes the document into the directory beside its root, where there is one that only we may write to: for a user who lost
/// the document. Where the file system has no `O_TMPFILE` there is no copy.
fn keep_copy(document: &Document) -> Result<(), Failure> {
    let Some(root) = document.root() else { return Ok(()) };
    let path = document::beside(root);
    let doing = || format!("writing the document's copy {}", quote(path.join(COPY)));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match open(&path, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        directory => directory.doing(Code::Os, doing)?,
    };
    let stat = rustix::fs::fstat(&directory).doing(Code::Os, doing)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o022 != 0 {
        return Ok(());
    }
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    let mut file = match openat(&directory, ".", flags, Mode::from_raw_mode(0o600)) {
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => return Ok(()),
        file => File::from(file.doing(Code::Os, doing)?),
    };
    file.write_all(document.line().as_bytes()).doing(Code::Os, doing)?;
    // Whatever the umask.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644)).doing(Code::Os, doing)?;
    take_place(&file, &directory).doing(Code::Os, doing)
}

/// Gives a file without a name that of the copy. Another tool may do the same now: either copy will do. A run that was killed
/// may have left one beside it.
fn take_place(file: &File, directory: &OwnedFd) -> Result<(), Errno> {
    const NEW: &str = "document.json.new";
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    let link = || linkat(CWD, &from, directory, NEW, AtFlags::SYMLINK_FOLLOW);
    match link() {
        Err(Errno::EXIST) => {
            ignore(unlinkat(directory, NEW, AtFlags::empty()), Errno::NOENT)?;
            ignore(link(), Errno::EXIST)?;
        }
        result => result?,
    }
    ignore(renameat(directory, NEW, directory, COPY), Errno::NOENT)
}

fn ignore(result: Result<(), Errno>, expected: Errno) -> Result<(), Errno> {
    if result == Err(expected) { Ok(()) } else { result }
}

fn output_failure(error: &std::io::Error) -> Failure {
    Failure::new(Code::Output, format!("writing the document on stdout: {error}"))
}

/// Returns the document as text: one line, or indented for a terminal.
fn render(document: &Document) -> String {
    if std::io::stdout().is_terminal() { document.pretty() } else { document.line() }
}

/// Writes to stdout and checks the flush: without that, a full disk looks like success.
///
/// # Errors
///
/// When not all can be written.
pub fn write_out(bytes: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}
