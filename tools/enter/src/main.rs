//! `enter` runs a command inside the root, with the plan mounted around it.
//!
//! In a pipe it is a stage like the others: the command has no input, and its output goes to stderr. With `--state` it
//! stands alone: the command has the terminal and the caller's input and output, and its exit status is ours, as
//! with chroot(1) and env(1).

use clap::Parser;
use rootfs::session::environment;
use rootfs::user::{self, User};
use rootfs::{Ended, Inside, Job, Mount, Place, attach, plan};
use rustix::fs::{FileType, OFlags};
use stage::{Code, Common, Context, Document, Doing, Failure, Kind, Stage, message, quote, signal};
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// Run a command inside a root, with the mount plan around it
#[derive(Debug, Parser)]
#[command(
    version,
    help_expected = true,
    after_help = "Example:\n  enter --state root.json pacman -Qk\n  ... | strap base | enter -- locale-gen | unmount"
)]
struct Enter {
    /// Bind SRC of the host at AT, which the root has, for this command only
    #[arg(long, value_name = "SRC:AT")]
    bind: Vec<String>,

    /// Run the command as this user of the root, by name or number
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    #[command(flatten)]
    common: Common,

    /// The command and its arguments [default: the user's shell]
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
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
        let (ended, what) = self.enter(context, document, false)?;
        match ended {
            Ended::Exited(0) => Ok(()),
            Ended::NotRun(e) => Err(Failure::new(
                Code::NotFound,
                format!("running {what} in the root: {e}"),
            )),
            ended => Err(Failure::new(
                Code::ChildFailed,
                format!("running {what} in the root: {}", ended.words()),
            )),
        }
    }
}

impl Enter {
    /// Runs the command; returns how it ended, and what it is called in a message.
    fn enter(
        &self,
        context: &Context,
        document: &Document,
        terminal: bool,
    ) -> Result<(Ended, String), Failure> {
        let mut inside = Inside::of(document)?;
        for text in &self.bind {
            let mount = bind(&inside, text)?;
            inside.also_mount(mount);
        }
        if let Some(mount) = name_servers(context, &inside) {
            inside.also_mount(mount);
        }
        let user = match &self.user {
            Some(name) => Some(user::find(inside.root(), name)?),
            None => None,
        };
        let shell = user.as_ref().map_or("/bin/bash", |u| u.shell.as_str());
        let mut words = self.command.clone();
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

    fn environment(&self, user: Option<&User>) -> Vec<(OsString, OsString)> {
        let mut env = environment();
        env.retain(|(key, _)| key != "LC_ALL");
        env.push(("LANG".into(), "C.UTF-8".into()));
        // systemctl(1) would take a root of its own without systemd for a system that failed to boot.
        env.push(("SYSTEMD_OFFLINE".into(), "1".into()));
        if let Some(user) = user {
            env.retain(|(key, _)| key != "HOME");
            for (key, value) in [
                ("HOME", &user.home),
                ("USER", &user.name),
                ("LOGNAME", &user.name),
                ("SHELL", &user.shell),
            ] {
                env.push((key.into(), value.into()));
            }
        }
        env
    }
}

/// Reads `SRC:AT`; AT must be there, since a command leaves no trace in the root but its own.
fn bind(inside: &Inside, text: &str) -> Result<Mount, Failure> {
    let mount = plan::bind(text)?;
    let place = inside.root().path().join(&mount.at);
    if !attach::is_on_our_own(&mount.at) {
        inside
            .root()
            .open_below(&mount.at, OFlags::PATH)
            .doing(Code::NotFound, || {
                format!("binding '{text}' at {}", quote(place))
            })?;
    }
    Ok(mount)
}

/// The host's name servers, for this command: as arch-chroot(8) does. They hide what the root has, a file or a link that may
/// lead to what is made at boot only; the root itself stays as it is, so there must be something to hide.
fn name_servers(context: &Context, inside: &Inside) -> Option<Mount> {
    match hosts_servers().and_then(|source| can_hide(inside).map(|()| source)) {
        Ok(source) => Some(Mount {
            source: Some(source),
            ..Mount::new(SERVERS, "bind", &["ro", attach::ON_A_LINK])
        }),
        Err(why) => {
            context.note(format_args!(
                "the command has no name servers of the host: {why}"
            ));
            None
        }
    }
}

const SERVERS: &str = "etc/resolv.conf";

/// Returns the path of the host's file, or why there is none.
fn hosts_servers() -> Result<String, String> {
    let path = Path::new("/").join(SERVERS);
    let file = path.canonicalize();
    let file = file.map_err(|e| format!("opening {}: {e}", quote(&path)))?;
    let text = file.to_str().filter(|_| file.is_file());
    text.map(str::to_owned)
        .ok_or_else(|| format!("{} is no file", quote(&path)))
}

/// Says why the root has nothing that they could hide.
fn can_hide(inside: &Inside) -> Result<(), String> {
    let path = quote(inside.root().path().join(SERVERS));
    let found = inside
        .root()
        .open_below(SERVERS, OFlags::PATH | OFlags::NOFOLLOW);
    match found
        .and_then(rustix::fs::fstat)
        .map(|stat| FileType::from_raw_mode(stat.st_mode))
    {
        Ok(FileType::RegularFile | FileType::Symlink) => Ok(()),
        Ok(_) => Err(format!("{path} is neither a file nor a link")),
        Err(e) => Err(format!("looking for {path}, which they would hide: {e}")),
    }
}

/// Runs with the caller's terminal: no document comes out, and the exit status is the command's.
fn alone() -> ExitCode {
    let own = ExitCode::from(OWN_FAILURE);
    let args = match Enter::try_parse() {
        Ok(args) => args,
        Err(e) if e.use_stderr() => {
            let text = e.render().to_string();
            let line = text.lines().next().unwrap_or_default();
            message::line("enter", line.strip_prefix("error: ").unwrap_or(line));
            message::line("enter", "hint: see 'enter --help'");
            return own;
        }
        Err(e) => {
            return match stage::run::write_out(e.render().to_string().as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => own,
            };
        }
    };
    let context = Context::new("enter", args.common.quiet);
    if let Err(e) = signal::catch_for_terminal() {
        context.warn(format_args!("catching signals: {e}"));
    }
    let ran = stage::run::read_state(&args.common).and_then(|document| {
        if let Some(tool) = document.failed_tool() {
            context.warn(format_args!("the document says that {tool} failed"));
        }
        args.enter(&context, &document, true)
    });
    match ran {
        Ok((ended, what)) => {
            if let Ended::NotRun(e) = ended {
                message::line("enter", format_args!("running {what} in the root: {e}"));
            }
            ExitCode::from(ended.status())
        }
        Err(failure) => {
            context.report(&failure);
            own
        }
    }
}

fn main() -> ExitCode {
    rootfs::seal_descriptors();
    // After the command's name, '--state' is the command's own. Where the command line is wrong, nobody knows where that
    // is, and the first look has to do.
    let stands_alone = match Enter::try_parse() {
        Ok(args) => args.common.state.is_some(),
        Err(_) => std::env::args_os()
            .skip(1)
            .take_while(|a| a != "--")
            .any(|a| a == "--state" || a.as_encoded_bytes().starts_with(b"--state=")),
    };
    if stands_alone {
        return alone();
    }
    stage::main::<Enter>()
}
