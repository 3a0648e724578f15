//! Running pacman: where, with whose eyes on its output, and what an exit status other than 0 means.

use crate::english::log::{self, Event};
use crate::english::{OutputEvent, Trouble};
use crate::gpg;
use crate::operation::{self, Action, Operation};
use crate::output::{self, Reader};
use crate::{error_text, preflight, records};
use package::name;
use rootfs::session::Output;
use rootfs::{Ended, Inside, Job, Place, Root};
use stage::{Code, Context, Doing, Failure, message};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The pacman to run, where, and with which configuration.
#[derive(Clone, Debug)]
pub struct Pacman<'a> {
    /// The tool that runs it.
    pub context: &'a Context,
    /// The root that it works on.
    pub inside: &'a Inside,
    /// The program.
    pub program: &'a Path,
    /// The pacman.conf(5).
    pub config: PathBuf,
    /// A directory of hooks (alpm-hooks(5)), beside those of the configuration.
    pub hook_dir: Option<PathBuf>,
    /// The repositories of the configuration, in order.
    pub repos: Vec<String>,
    /// The package cache of the configuration.
    pub cache: &'a Path,
    /// Whether it verifies, with the keyring of [`Inside::gpgdir`]. What it refuses is then checked with the same keyring, to say
    /// what is wrong, and removed.
    pub verifies: bool,
    /// Whether it may ask no server: all that it needs must be in the cache.
    pub offline: bool,
}

/// What pacman's output said, or that and why it failed.
pub(crate) type Ran = Result<Vec<OutputEvent>, (Vec<OutputEvent>, Failure)>;

/// What is done while pacman runs, in a thread of its own, which starts with pacman's first output.
pub(crate) type Beside<'a> = &'a (dyn Fn() + Sync);

impl Pacman<'_> {
    /// Runs it; `beside` is done while it runs. A failure has pacman's words.
    pub(crate) fn execute(&self, operation: Operation<'_>, targets: &[String], beside: Beside<'_>) -> Ran {
        let mut args = operation.arguments();
        // Its bars say how far a download is. In all else lines keep the order of what failed and why.
        let bars = operation.action == Action::Download && self.context.shows_progress();
        let plain = !bars && operation.action != Action::MarkExplicit;
        args.extend(plain.then(|| "--noprogressbar".to_owned()));
        let mut reader = Reader::new(self.context, self.repos.len());
        // A program with two threads makes no namespaces, so the second one begins when pacman runs, and ends before anything
        // else is run.
        let ended = std::thread::scope(|scope| {
            let mut thread = None;
            let ended = self.start(operation.ask(), args, targets, &mut |bytes| {
                thread.get_or_insert_with(|| scope.spawn(beside));
                reader.take(bytes);
            });
            match thread.map(std::thread::ScopedJoinHandle::join) {
                Some(Err(panic)) => std::panic::resume_unwind(panic),
                _ => ended,
            }
        });
        let events = reader.finish(ended != Ok(Ended::Exited(0)));
        let doing = format_args!("running pacman to {}", operation.purpose());
        let failure = match ended {
            Ok(Ended::Exited(0)) => return Ok(events),
            Ok(ended) => {
                let hook = failed_hook(self.inside.root(), &events);
                error_text::failure(&events, ended, hook.as_deref()).while_doing(doing)
            }
            Err(failure) if failure.code == Code::Hung => failure.while_doing(doing),
            Err(failure) => failure,
        };
        Err((events, failure))
    }

    /// Asks pacman what an operation would install, and from where: the order of the repositories, what satisfies a dependency
    /// and what replaces what is pacman's to decide. It downloads nothing.
    ///
    /// # Errors
    ///
    /// When it cannot be run. If it fails, nothing is returned.
    pub fn preview(&self, operation: Operation<'_>, targets: &[String]) -> Result<Vec<Planned>, Failure> {
        let (text, _) = self.print(operation, targets)?;
        Ok(plan_lines(&text).iter().filter_map(|line| planned(line)).collect())
    }

    /// [`Pacman::preview`], of what must be possible.
    ///
    /// # Errors
    ///
    /// When it cannot be run, or pacman cannot do it: with its words.
    pub fn resolve(&self, operation: Operation<'_>, targets: &[String]) -> Result<Vec<Planned>, Failure> {
        let (text, ended) = self.print(operation, targets)?;
        if ended != Ended::Exited(0) {
            let mut reader = Reader::silent();
            reader.take(&text);
            let failure = error_text::failure(&reader.finish(false), ended, None);
            return Err(failure.while_doing(format_args!("running pacman to {}", operation.purpose())));
        }
        Ok(plan_lines(&text).iter().filter_map(|line| planned(line)).collect())
    }

    /// Asks pacman as [`Pacman::preview`] does, and leaves nothing out.
    ///
    /// # Errors
    ///
    /// [`Code::NotVerified`] where it fails, or would install what cannot be told: a database may have odd entries.
    pub fn preview_all(&self, operation: Operation<'_>, targets: &[String]) -> Result<Vec<Planned>, Failure> {
        let unknown = |why: String| {
            let message = format!("asking pacman what it would install: {why}");
            Failure::new(Code::NotVerified, message).hint("try another mirror: mkconf --server URL")
        };
        let (text, ended) = self.print(operation, targets)?;
        if ended != Ended::Exited(0) {
            return Err(unknown("it fails".to_owned()));
        }
        let read = |line: &String| {
            planned(line).ok_or_else(|| unknown(format!("its answer '{}' is odd", message::escape(line))))
        };
        plan_lines(&text).iter().map(read).collect()
    }

    /// Has pacman print what an operation would install; returns that, and how it ended.
    fn print(&self, operation: Operation<'_>, targets: &[String]) -> Result<(Vec<u8>, Ended), Failure> {
        let mut text = Vec::new();
        let ended = self.start(operation.ask(), operation.print_arguments(), targets, &mut |bytes| {
            text.extend_from_slice(bytes);
        })?;
        Ok((text, ended))
    }

    /// Starts it and waits for its end; `sink` gets what it prints.
    pub(crate) fn start(
        &self,
        ask: u32,
        args: Vec<String>,
        targets: &[String],
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<Ended, Failure> {
        preflight::check(self.inside.root())?;
        let mut args: Vec<OsString> = args.into_iter().map(OsString::from).collect();
        args.extend(operation::common(ask, &self.config, self.inside.gpgdir(), self.hook_dir.as_deref(), targets));
        let job = Job {
            program: self.program.as_os_str(),
            args,
            env: gpg::environment(),
            place: Place::Host,
            user: None,
            terminal: false,
        };
        let (from, into) = output::terminal().doing(Code::Os, || "making a terminal for pacman")?;
        let output = Output { sink, from, into };
        let (ended, time) = self.inside.run(&job, Some(output))?;
        self.context.waited(time);
        Ok(ended)
    }
}

/// Returns the hook that ended the transaction: the last that the log names. The output may be a hook's.
fn failed_hook(root: &Root, events: &[OutputEvent]) -> Option<String> {
    let by_hook = |event: &OutputEvent| matches!(event, OutputEvent::Error(Trouble::Hook | Trouble::HookUnready, _));
    if !events.iter().any(by_hook) {
        return None;
    }
    // Without a log the message has no name.
    let log = records::log(root).ok()?;
    let names = log::events(&log).filter_map(|event| match event {
        Event::RunningHook(name) => Some(name),
        _ => None,
    });
    names.last()
}

/// A package that pacman would install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The repository that pacman takes it from.
    pub repo: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The file name of its archive.
    pub file: String,
    /// How much of it is to be downloaded, in bytes, where pacman was asked.
    pub download: u64,
}

/// Returns the lines of a plan in what pacman printed.
fn plan_lines(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    text.lines().map(output::without_escapes).filter(|line| line.starts_with("strapline-plan")).collect()
}

/// Reads a line of [`Operation::print_arguments`].
fn planned(line: &str) -> Option<Planned> {
    let mut words = line.split(' ');
    let mut next = |good: fn(&str) -> bool| words.next().filter(|word| good(word));
    next(|word| word == "strapline-plan")?;
    let (repo, name) = (next(name::is_name)?, next(name::is_name)?);
    let version = next(name::is_version)?;
    let (_, file) = next(|_| true)?.rsplit_once('/')?;
    let download = next(|_| true)?.parse().ok()?;
    let [repo, name, version, file] = [repo, name, version, file].map(str::to_owned);
    let planned = Planned { repo, name, version, file, download };
    (words.next().is_none() && name::is_filename(&planned.file)).then_some(planned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_told_from_what_else_pacman_says() {
        let file = "x-1:2-1-any.pkg.tar.zst";
        for (location, good) in [
            (format!("http://h/core/os/{file}"), true),
            (format!("file:///cache/{file}"), true),
            (file.to_owned(), false),
            (format!("/a {file}"), false),
            ("/".to_owned(), false),
        ] {
            let [repo, name, version] = ["core", "x", "1:2-1"].map(str::to_owned);
            let expected = Planned { repo, name, version, file: file.into(), download: 7 };
            let line = format!("strapline-plan core x 1:2-1 {location} 7");
            assert_eq!(planned(&line), good.then_some(expected), "{line}");
        }
        for line in [
            "",
            "warning: x-1-1 is up to date -- skipping",
            "core x 1-1 /x",
            "strapline-plan core ../x 1-1 /x 7",
            "strapline-plan core x 1/1 /x 7",
            "strapline-plan core x 1-1 /x",
            "strapline-plan core x 1-1 /x y",
        ] {
            assert_eq!(planned(line), None, "{line}");
        }
    }
}
