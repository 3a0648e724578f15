//! `enter` runs a command inside the root, with the plan mounted around it.
//!
//! In a pipe it is a stage like the others: the command has no input, and its output goes to stderr. With `--state`, or with
//! the root's directory before the command, it runs alone: the command has the terminal and the caller's input and output, and
//! its exit status is ours, as with chroot(1) and env(1).

use clap::Parser;
use rootfs::session::environment;
use rootfs::user::{self, User};
use rootfs::{Ended, Inside, Job, Mount, Place, attach, plan};
use rustix::fs::{FileType, OFlags};
use stage::run::{usage_failure, write_out};
use stage::{Code, Common, Context, Document, Doing, Failure, Kind, Stage, message, quote, signal};
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// Run a command inside a root, with the mount plan around it
#[derive(Debug, Parser)]
#[command(
    version,
    help_expected = true,
    override_usage = "enter [OPTIONS] DIR [COMMAND]...\n       enter [OPTIONS] --state FILE [COMMAND]...\n       ... | enter [OPTIONS] [COMMAND]... | ...",
    after_help = "Example:\n  enter ./target pacman -Qk\n  enter --state root.json pacman -Qk\n  ... | strap base | enter -- locale-gen | unmount"
)]
struct Enter {
    /// Bind SRC of the host at AT, which must exist, for this command only
    #[arg(long, value_name = "SRC:AT")]
    bind: Vec<String>,

    /// Run the command as this user of the root, by name or number
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    #[command(flatten)]
    common: Common,

    /// The command and its arguments [default: the user's shell]. Without a document the root's directory goes before it:
    /// a path with a '/', or any name where stdin is a terminal
    #[arg(value_name = "COMMAND", trailing_var_arg = true, value_hint = clap::ValueHint::DirPath)]
    command: Vec<OsString>,
}

/// chroot(1)'s exit status for a failure that is not the command's.
const OWN_FAILURE: u8 = 125;

impl Stage for Enter {
    const KIND: Kind = Kind::Make;

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, context: &Context, document: &mut Document) -> Result<(), Failure> {
        let (ended, what) = self.enter(context, Inside::of(document)?, &self.command, false)?;
        let (code, why) = match ended {
            Ended::Exited(0) => return Ok(()),
            Ended::NotRun(e) => (Code::NotFound, e.to_string()),
            ended => (Code::ChildFailed, ended.words()),
        };
        let message = format!("running {what} in the root: {why}");
        Err(Failure::new(code, message))
    }
}

impl Enter {
    /// Runs the command, and returns how it ended, and its name for a message.
    fn enter(
        &self,
        context: &Context,
        mut inside: Inside,
        command: &[OsString],
        terminal: bool,
    ) -> Result<(Ended, String), Failure> {
        if inside.is_chroot() && !self.bind.is_empty() {
            return Err(Failure::new(Code::Usage, "binding for --bind: in mode chroot nothing is mounted")
                .hint("copy it into the root"));
        }
        for text in &self.bind {
            let mount = bind(&inside, text)?;
            inside.also_mount(mount);
        }
        if let Some(mount) = name_servers(context, &inside) {
            inside.also_mount(mount);
        }
        let find = |name| user::find(inside.root(), name);
        let user = self.user.as_deref().map(find).transpose()?;
        let shell = user.as_ref().map_or("/bin/bash", |u| u.shell.as_str());
        let mut words = command.to_owned();
        if words.is_empty() {
            words.push(shell.into());
        }
        let program = words.remove(0);
        let what = quote(&program);
        let job = Job {
            program: &program,
            args: words,
            env: self.environment(user.as_ref()),
            place: Place::Root,
            user: user.map(|u| (u.uid, u.gid, u.groups)),
            terminal,
        };
        let (ended, time) = inside.run(&job, None)?;
        context.waited(time);
        Ok((ended, what))
    }

    /// Runs the command in the root of a document, or of a directory, with our terminal.
    fn enter_alone(&self, context: &Context) -> Result<(Ended, String), Failure> {
        if let Some(directory) = self.directory() {
            stage::run::refuse_set_uid()?;
            return self.enter(context, Inside::of_directory(directory)?, &self.command[1..], true);
        }
        let document = stage::run::read_state(&self.common)?;
        if let Some(tool) = document.failed_tool() {
            context.warn(format_args!("the document records that {tool} failed"));
        }
        self.enter(context, Inside::of(&document)?, &self.command, true)
    }

    /// Returns the root's directory where it is the first word. In a pipe a name without '/' is a command.
    fn directory(&self) -> Option<&Path> {
        if self.common.state.is_some() || self.common.new {
            return None;
        }
        let first = Path::new(self.command.first()?);
        let is_path = first.as_os_str().as_encoded_bytes().contains(&b'/');
        let no_document = stage::run::no_document_comes();
        // Without a document, a path that is mistyped is one all the same.
        let is_meant = if first.is_dir() { is_path || no_document } else { is_path && no_document };
        is_meant.then_some(first)
    }

    fn environment(&self, user: Option<&User>) -> Vec<(OsString, OsString)> {
        let mut env = environment();
        env.retain(|(key, _)| key != "LC_ALL" && (key != "HOME" || user.is_none()));
        // systemctl(1) would take a root without a running systemd for a system that failed to boot.
        let mut more = vec![("LANG", "C.UTF-8"), ("SYSTEMD_OFFLINE", "1")];
        if let Some(User { name, home, shell, .. }) = user {
            more.extend(
                [("HOME", home), ("USER", name), ("LOGNAME", name), ("SHELL", shell)].map(|(k, v)| (k, v.as_str())),
            );
        }
        env.extend(more.into_iter().map(|(k, v)| (k.into(), v.into())));
        env
    }
}

/// Parses `SRC:AT`. AT must exist: it is not made, so that the root stays as it is.
fn bind(inside: &Inside, text: &str) -> Result<Mount, Failure> {
    let mount = plan::bind(text)?;
    let root = inside.root();
    if !attach::is_on_our_own(&mount.at) {
        let found = root.open_below(&mount.at, OFlags::PATH);
        let doing = || format!("binding '{text}' at {}", quote(root.path().join(&mount.at)));
        found.doing(Code::NotFound, doing)?;
    }
    Ok(mount)
}

/// Returns the mount of the host's resolv.conf(5) over that of the root, as arch-chroot(8) does it. The root's may be a link to
/// a file that is made at boot; it must exist, since the root stays as it is.
fn name_servers(context: &Context, inside: &Inside) -> Option<Mount> {
    let permitted = match inside.is_chroot() {
        true => Err("in mode chroot nothing is mounted, and the root has its own resolv.conf".to_owned()),
        false => Ok(()),
    };
    match permitted.and_then(|()| host_resolv_conf()).and_then(|source| check_resolv_conf(inside).map(|()| source)) {
        Ok(source) => Some(Mount { source: Some(source), ..Mount::new(SERVERS, "bind", &["ro", attach::ON_A_LINK]) }),
        Err(why) => {
            context.note(format_args!("the command has no name servers of the host: {why}"));
            None
        }
    }
}

const SERVERS: &str = "etc/resolv.conf";

/// Returns the path of the host's file, or why there is none.
fn host_resolv_conf() -> Result<String, String> {
    let path = Path::new("/").join(SERVERS);
    let file = path.canonicalize();
    let file = file.map_err(|e| format!("opening {}: {e}", quote(&path)))?;
    let text = file.to_str().filter(|_| file.is_file());
    text.map(str::to_owned).ok_or_else(|| format!("{} is not a file", quote(&path)))
}

/// Fails where the root has no file or link to mount over.
fn check_resolv_conf(inside: &Inside) -> Result<(), String> {
    let root = inside.root();
    let path = quote(root.path().join(SERVERS));
    let stat = root
        .open_below(SERVERS, OFlags::PATH | OFlags::NOFOLLOW)
        .and_then(rustix::fs::fstat)
        .map_err(|e| format!("looking for {path} of the root, to mount over: {e}"))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::Symlink => Ok(()),
        _ => Err(format!("{path} is neither a file nor a link")),
    }
}

/// Runs with the caller's terminal: no document is written, and the exit status is the command's.
fn run_alone(parsed: Result<Enter, clap::Error>) -> ExitCode {
    let quiet = parsed.as_ref().is_ok_and(|args| args.common.quiet);
    let context = Context::new("enter", quiet);
    if let Err(e) = signal::catch_for_terminal() {
        context.warn(format_args!("catching signals: {e}"));
    }
    let ran = match parsed {
        Ok(args) => args.enter_alone(&context),
        Err(e) if e.use_stderr() => Err(usage_failure("enter", &e)),
        Err(help) => {
            let written = write_out(help.render().to_string().as_bytes());
            return written.map_or(ExitCode::from(OWN_FAILURE), |()| ExitCode::SUCCESS);
        }
    };
    match ran {
        Ok((ended, what)) => {
            if let Ended::NotRun(e) = ended {
                message::line("enter", format_args!("running {what} in the root: {e}"));
            }
            ExitCode::from(ended.status())
        }
        Err(failure) => {
            context.report(&failure);
            ExitCode::from(OWN_FAILURE)
        }
    }
}

fn main() -> ExitCode {
    rootfs::seal_descriptors();
    stage::complete::answer::<Enter>();
    let parsed = Enter::try_parse();
    // After the command's name, '--state' is the command's own. In an invalid command line the first word decides.
    let alone = match &parsed {
        Ok(args) => args.common.state.is_some() || args.directory().is_some(),
        Err(_) => std::env::args_os()
            .skip(1)
            .take_while(|a| a != "--")
            .any(|a| a == "--state" || a.as_encoded_bytes().starts_with(b"--state=")),
    };
    match alone {
        true => run_alone(parsed),
        false => stage::main::<Enter>(),
    }
}
