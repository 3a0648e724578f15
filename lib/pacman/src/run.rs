//! Running pacman: where, with whose eyes on its output, and what an exit status other than 0 means.

use crate::diagnosis::gpg;
use crate::english::{OutputEvent, Trouble};
use crate::output::{self, Reader, Show};
use crate::{error_text, preflight, signature_report};
use package::name;
use package::pacman_log::{self, Event};
use rootfs::session::Output;
use rootfs::{Ended, Inside, Job, Place, Root};
use stage::{Code, Context, Doing, Failure};
use std::ffi::OsString;
use std::path::PathBuf;

/// The pacman to run, and with which configuration.
#[derive(Clone, Debug)]
pub struct Pacman {
    /// The program.
    pub program: PathBuf,
    /// The pacman.conf(5).
    pub config: PathBuf,
    /// Whether it verifies, by the home of [`Inside::gpgdir`]. What it refuses is then examined by the same home, to say what
    /// is wrong, and removed.
    pub verifies: bool,
    /// Whether it may ask no server: all that it needs must be in the cache.
    pub offline: bool,
}

/// What is done while pacman runs, in a thread of its own. It is not done where pacman says nothing.
pub(crate) type Beside<'a> = &'a (dyn Fn() + Sync);

/// The questions that `--noconfirm` answers with yes and that we answer with no, as `--ask` has them (bits of
/// `alpm_question_type_t`, the same in pacman 5 to 7): whether a file that is corrupted is removed from the cache, where we
/// want to look at it first, and whether a key that is missing is fetched from a keyserver. No key gets into a keyring but
/// those that `keyring` put there.
const ASK: &str = "72"; // ALPM_QUESTION_CORRUPTED_PKG 8, ALPM_QUESTION_IMPORT_KEY 64

impl Pacman {
    /// Runs it, as [`Pacman::run`] says, and once; `beside` is done while it runs.
    ///
    /// # Errors
    ///
    /// When pacman fails: what its output said, and why.
    pub(crate) fn once(
        &self,
        context: &Context,
        inside: &Inside,
        what: &str,
        args: &[&str],
        targets: &[String],
        beside: Beside<'_>,
    ) -> Result<Vec<OutputEvent>, (Vec<OutputEvent>, Failure)> {
        let mut list: Vec<OsString> = args.iter().map(OsString::from).collect();
        // Bars are for a person who waits for a download; lines keep the order of what failed and why.
        let show = Show::on_stderr(context.quiet);
        let has_bar = args
            .first()
            .is_some_and(|operation| !operation.starts_with("-D"));
        if has_bar && (what != DOWNLOAD || show != Show::Raw) {
            list.push("--noprogressbar".into());
        }
        let mut reader = Reader::new(show);
        // A program with two threads makes no namespaces, so the second one begins when pacman runs, and ends before anything
        // else is run.
        let ended = std::thread::scope(|scope| {
            let mut thread = None;
            let ended = self.start(context, inside, list, targets, &mut |bytes| {
                thread.get_or_insert_with(|| scope.spawn(beside));
                reader.take(bytes);
            });
            match thread.map(std::thread::ScopedJoinHandle::join) {
                Some(Err(panic)) => std::panic::resume_unwind(panic),
                _ => ended,
            }
        });
        let marks = reader.finish(ended != Ok(Ended::Exited(0)));
        let doing = format_args!("running pacman to {what}");
        let failure = match ended {
            Ok(Ended::Exited(0)) => return Ok(marks),
            Ok(ended) => {
                let hook = ended_by_hook(inside.root(), &marks);
                let failure =
                    error_text::explain(&marks, ended, hook.as_deref()).while_doing(doing);
                let asked = (args, targets);
                signature_report::explain(self, context, inside, asked, &marks, failure)
            }
            Err(failure) if failure.code == Code::Hung => failure.while_doing(doing),
            Err(failure) => failure,
        };
        Err((marks, failure))
    }

    /// Asks pacman what a run with `args` and `targets` would install, and from where: the order of the repositories, what
    /// satisfies a dependency and what replaces what is pacman's to decide. It downloads nothing.
    ///
    /// # Errors
    ///
    /// When it cannot be run. Of one that fails there is nothing.
    pub fn preview(
        &self,
        context: &Context,
        inside: &Inside,
        args: &[&str],
        targets: &[String],
    ) -> Result<Vec<Planned>, Failure> {
        let (operation, rest) = args.split_first().unwrap_or((&"-S", &[]));
        let mut list: Vec<OsString> =
            vec![format!("{}p", operation.replace(['y', 'w'], "")).into()];
        list.extend(rest.iter().map(OsString::from));
        list.extend(["--print-format", PLANNED].map(OsString::from));
        let mut text = Vec::new();
        self.start(context, inside, list, targets, &mut |bytes| {
            text.extend_from_slice(bytes);
        })?;
        let text = String::from_utf8_lossy(&text);
        let lines = text.lines().map(output::without_escapes);
        Ok(lines.filter_map(|line| planned(&line)).collect())
    }

    /// Starts it and waits for its end; `sink` gets what it prints.
    fn start(
        &self,
        context: &Context,
        inside: &Inside,
        mut args: Vec<OsString>,
        targets: &[String],
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<Ended, Failure> {
        // Whatever the configuration says: gpg runs what the configuration in its home names, and the root's own home is
        // the root's to write.
        if let Some(home) = inside.gpgdir() {
            args.extend(["--gpgdir".into(), home.into()]);
        }
        preflight::check(inside.root())?;
        args.extend(["--ask", ASK, "--config"].map(OsString::from));
        args.extend([self.config.clone().into(), "--".into()]);
        args.extend(targets.iter().map(OsString::from));
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
        let (ended, time) = inside.run(&job, Some(output))?;
        context.waited(time);
        Ok(ended)
    }
}

/// Returns the hook that ended the transaction: the last that the log names. What is in the output a hook may have printed.
fn ended_by_hook(root: &Root, marks: &[OutputEvent]) -> Option<String> {
    const LOG: (&str, u64) = ("var/log/pacman.log", 64 << 20);
    let by_hook = |mark: &OutputEvent| {
        matches!(
            mark,
            OutputEvent::Error(Trouble::Hook | Trouble::HookUnready, _)
        )
    };
    if !marks.iter().any(by_hook) {
        return None;
    }
    // Without a log the message has no name.
    let log = root.read(LOG.0, LOG.1).ok()?;
    let names = pacman_log::events(&log).filter_map(|event| match event {
        Event::RunningHook { name } => Some(name),
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
}

/// How pacman is to print a [`Planned`] (pacman(8), `--print-format`): what pacman 6.0 knows, which has `%l`, the location, and
/// no word for the file name alone. The first word tells such a line from what pacman says besides.
const PLANNED: &str = "strapline-plan %r %n %v %l";

fn planned(line: &str) -> Option<Planned> {
    let mut words = line.split(' ');
    let mut next = |good: fn(&str) -> bool| words.next().filter(|word| good(word));
    next(|word| word == "strapline-plan")?;
    let (repo, name) = (next(name::is_name)?, next(name::is_name)?);
    let version = next(name::is_version)?;
    let (_, file) = next(|_| true)?.rsplit_once('/')?;
    let planned = Planned {
        repo: repo.to_owned(),
        name: name.to_owned(),
        version: version.to_owned(),
        file: file.to_owned(),
    };
    (words.next().is_none() && name::is_filename(file)).then_some(planned)
}

/// What [`Pacman::run`] calls a run that only downloads.
pub const DOWNLOAD: &str = "download";

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
            let expected = Planned {
                repo: "core".into(),
                name: "x".into(),
                version: "1:2-1".into(),
                file: file.into(),
            };
            let line = format!("strapline-plan core x 1:2-1 {location}");
            assert_eq!(planned(&line), good.then_some(expected), "{line}");
        }
        for line in [
            "",
            "warning: x-1-1 is up to date -- skipping",
            "core x 1-1 /x",
            "strapline-plan core ../x 1-1 /x",
            "strapline-plan core x 1/1 /x",
            "strapline-plan core x 1-1",
        ] {
            assert_eq!(planned(line), None, "{line}");
        }
    }
}
