//! `doctor` says what this host can and cannot do for a target, and the command that mends each finding.
//!
//! It is no stage: it reads no document, and what it prints is for people, or with `--json` for a script that decides
//! before a pipeline starts. What can be tried is tried, in namespaces that end with the trial; the host is never
//! changed. Each check is a function of what was found, apart from the finding of it, so that every judgement can be
//! tested with a host that nobody has at hand.

mod clock;
mod confinement;
mod emulator;
mod finding;
mod ids;
mod kernel;
mod place;
mod programs;
mod release;
mod trial;

use clap::Parser;
use confinement::Confinement;
use emulator::Means;
use finding::{Finding, Status};
use ids::{Helper, User};
use place::Place;
use programs::Program;
use release::Release;
use rootfs::{Arch, idmap};
use stage::run::write_out;
use stage::{Code, Context, Failure, signal};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;
use trial::Trials;

/// Say what this host can and cannot do for a target, and what mends it
///
/// Checks the kernel, namespaces, ids, emulators, programs, the place of the root and the clock. What can be tried is
/// tried; the host is not changed. Exits with 69 when something that is needed fails.
#[derive(Debug, Parser)]
#[command(
    name = "doctor",
    version,
    help_expected = true,
    max_term_width = 80,
    after_help = "Example:\n  doctor --arch aarch64 --root target && make"
)]
struct Args {
    /// The architecture of the root, in pacman's words [default: this host's]
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,

    /// The directory of the root, which need not be there [default: the current]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,

    /// Print one JSON object, not a table
    #[arg(long)]
    json: bool,

    /// Leave out of the table what is as it should be
    #[arg(short, long)]
    quiet: bool,
}

impl Args {
    /// Makes every check, and says whether nothing that is needed fails.
    fn run(&self, context: &Context) -> Result<bool, Failure> {
        let host = Arch::host()?;
        let target = match &self.arch {
            Some(name) => Arch::named(name)?,
            None => host,
        };
        let findings = examine(host, target, &Place::look(self.root.as_deref())?);
        signal::check()?;
        let text = if self.json {
            finding::json(target.name, &findings)
        } else {
            finding::table(&findings, self.quiet)
        };
        print(&text)?;
        let failed: Vec<_> = findings
            .iter()
            .filter(|f| f.status == Status::Fail)
            .map(|f| f.check)
            .collect();
        if !failed.is_empty() {
            context.report(&Failure::new(
                Code::Failed,
                format!(
                    "checking this host for {}: {} of {} checks failed: {}",
                    target.name,
                    failed.len(),
                    findings.len(),
                    failed.join(", ")
                ),
            ));
        }
        Ok(failed.is_empty())
    }
}

/// Makes every check, in the order in which one is in the way of the next.
fn examine(host: Arch, target: Arch, place: &Place) -> Vec<Finding> {
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let root = uid == 0;
    let uname = rustix::system::uname();
    let kernel_release = uname.release().to_string_lossy().into_owned();
    let release = Release::here(root);
    let sudo = release.sudo();
    let confinement = Confinement::here(root);
    // Root of a namespace with too few ids can still try the rest.
    let (idmap, trial_ids) = if root {
        (idmap::check_root().map(|()| None), Ok(None))
    } else {
        let idmap = idmap::of_user(uid, gid).map(Some);
        (idmap.clone(), idmap)
    };
    let means = Means::here(target, host, kernel::version(&kernel_release));
    let trials = Trials::run(host, target, means.interpreter.as_deref(), &trial_ids);
    let works = trials.native.worked();
    let pacman = Program::find("pacman");
    // What cannot be tried is no finding: fetch-pacman --use says why.
    let names = pacman
        .as_ref()
        .and_then(|program| pacman::locale::reads_all_names(&program.path, None).ok()?);
    vec![
        kernel::kernel(&kernel_release, !means.native, works),
        confinement::namespaces(&trials.native, &confinement, &release),
        confinement::apparmor(works, &confinement, &release),
        confinement::seccomp(works, &confinement),
        confinement::no_new_privs(&confinement),
        ids::subuid(&idmap, &User::here(uid), &release),
        ids::newuidmap(root, &Helper::both(), &release),
        emulator::emulator(&means, &trials, &release),
        emulator::private_binfmt(&means, &trials, &release),
        emulator::host_binfmt(&means, &trials, &release),
        programs::gpg(Program::find("gpg").as_ref(), &release),
        programs::agent(Program::find("gpg-agent").as_ref(), &release),
        programs::pacman(pacman.as_ref(), names, &release),
        place::directory(place, sudo),
        place::filesystem(place),
        place::mount_options(place, sudo),
        place::space(place),
        place::inodes_free(place),
        clock::clock(
            SystemTime::now(),
            clock::built(),
            means.registrar.systemd,
            sudo,
        ),
    ]
}

fn print(text: &str) -> Result<(), Failure> {
    write_out(text.as_bytes()).map_err(|e| {
        let what = match e.kind() {
            ErrorKind::BrokenPipe => "writing on stdout: nobody reads it".to_owned(),
            _ => format!("writing on stdout: {e}"),
        };
        Failure::new(Code::Output, what)
    })
}

/// Parses the command line. Help and version are text to print, and all else is a failure.
fn parse() -> Result<Result<Args, String>, Failure> {
    let error = match Args::try_parse() {
        Ok(args) => return Ok(Ok(args)),
        Err(error) => error,
    };
    let text = error.render().to_string();
    if !error.use_stderr() {
        return Ok(Err(text));
    }
    let first: Vec<_> = text
        .lines()
        .take_while(|line| !line.trim().is_empty())
        .map(str::trim)
        .collect();
    let first = first.join(" ");
    let reason = first.strip_prefix("error: ").unwrap_or(&first);
    Err(Failure::new(Code::Usage, reason).hint("see 'doctor --help'"))
}

fn main() -> ExitCode {
    rootfs::seal_descriptors();
    let context = Context::new("doctor", false);
    if let Err(e) = signal::catch() {
        context.warn(format_args!("catching signals: {e}"));
    }
    let result = stage::run::refuse_set_uid()
        .and_then(|()| parse())
        .and_then(|parsed| match parsed {
            Ok(args) => args.run(&context),
            Err(help) => print(&help).map(|()| true),
        });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(Code::Failed.exit()),
        Err(failure) => {
            context.report(&failure);
            ExitCode::from(failure.code.exit())
        }
    }
}
