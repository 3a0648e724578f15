//! `doctor` checks whether this host can run a pipeline for a target, and prints the command that fixes each problem.
//!
//! It is not a stage: it reads no document, and prints for people, or with `--json` for a script that decides before a
//! pipeline starts. What can be tried is tried, in namespaces that end with the trial; the host is never changed. A check is
//! a function of facts that were collected before, so that it can be tested with hosts that nobody has at hand.

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
use confinement::{Confinement, apparmor, namespaces, no_new_privs, seccomp};
use emulator::Means;
use finding::{Finding, Status};
use ids::{Helper, User};
use place::Place;
use programs::Program;
use release::Release;
use rootfs::{Arch, idmap};
use stage::run::{usage_failure, write_out};
use stage::{Code, Context, Doing, Failure, signal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;
use trial::{Trials, Tried};

/// Check what this host can do for a target, and how to fix what it cannot
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
    /// The architecture of the root, as pacman names it [default: this host's]
    #[arg(long, value_name = "ARCH", add = stage::complete::names(rootfs::arch::names))]
    arch: Option<String>,

    /// The directory of the root, which need not exist [default: the current]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,

    /// Print one JSON object, not a table
    #[arg(long)]
    json: bool,

    /// Leave out of the table what is ok
    #[arg(short, long)]
    quiet: bool,
}

impl Args {
    /// Makes every check, and returns whether nothing that is needed fails.
    fn run(&self, context: &Context) -> Result<bool, Failure> {
        let host = Arch::host()?;
        let target = self.arch.as_deref().map_or(Ok(host), Arch::named)?;
        let findings = examine(host, target, &Place::read(self.root.as_deref())?);
        signal::check()?;
        print(&match self.json {
            true => finding::json(target.name, &findings),
            false => finding::table(&findings, self.quiet),
        })?;
        let failed: Vec<_> = findings.iter().filter(|f| f.status == Status::Fail).map(|f| f.check).collect();
        if !failed.is_empty() {
            let message = format!(
                "checking this host for {}: {} of {} checks failed: {}",
                target.name,
                failed.len(),
                findings.len(),
                failed.join(", ")
            );
            context.report(&Failure::new(Code::Failed, message));
        }
        Ok(failed.is_empty())
    }
}

/// Makes every check, in an order in which a failed one may explain those after it.
fn examine(host: Arch, target: Arch, place: &Place) -> Vec<Finding> {
    let uid = rustix::process::geteuid().as_raw();
    let root = uid == 0;
    let uname = rustix::system::uname();
    let version = uname.release().to_string_lossy();
    let release = &Release::read(root);
    let sudo = release.sudo;
    let confinement = &Confinement::read(root);
    // Root of a namespace with too few ids can still try the rest.
    let (idmap, trial_ids) = if root {
        (idmap::check_root().map(|()| None), Ok(None))
    } else {
        let idmap = idmap::of_user(uid, rustix::process::getegid().as_raw()).map(Some);
        (idmap.clone(), idmap)
    };
    let means = &Means::read(target, host, kernel::version(&version));
    let helpers = Helper::find();
    // What is missing is a finding of its own, with this distribution's command.
    let trials = &match trial_ids {
        Ok(_) if !root && helpers.iter().any(|helper| helper.found.is_none()) => {
            Trials::none("it needs newuidmap and newgidmap first")
        }
        _ => Trials::run(host, target, means.interpreter.as_deref(), &trial_ids),
    };
    let works = trials.native == Tried::Worked;
    let [gpg, agent, pacman] = ["gpg", "gpg-agent", "pacman"].map(Program::find);
    // What cannot be tried is no finding: fetch-pacman --use reports it.
    let locale = |p: &Program| pacman::locale::reads_all_names(&p.path, None).ok()?;
    let names = pacman.as_ref().and_then(locale);
    let foreign = |check: fn(&Means, &Trials, &Release) -> Finding| match means.native {
        true => Finding::ok(format!("not needed: {} is native here", target.name)),
        false => check(means, trials, release),
    };
    let (now, built, systemd) = (SystemTime::now(), clock::built(), means.systemd);
    [
        ("kernel", kernel::kernel(&version, !means.native, works)),
        ("namespaces", namespaces(trials, confinement, release)),
        ("apparmor", apparmor(works, confinement, release)),
        ("seccomp", seccomp(works, confinement)),
        ("no-new-privs", no_new_privs(confinement)),
        ("subuid", ids::subuid(&idmap, &User::read(uid), release)),
        ("newuidmap", ids::newuidmap(root, &helpers, release)),
        ("emulator", foreign(emulator::emulator)),
        ("private-binfmt", foreign(emulator::private_binfmt)),
        ("host-binfmt", foreign(emulator::host_binfmt)),
        ("gpg", programs::gpg(gpg.as_ref(), release)),
        ("gpg-agent", programs::agent(agent.as_ref(), release)),
        ("pacman", programs::pacman(pacman.as_ref(), names, release)),
        ("mkfs", programs::mkfs(|kind| kind.find().is_some())),
        ("directory", place::directory(place, sudo)),
        ("filesystem", place::filesystem(place)),
        ("mount-options", place::mount_options(place, sudo)),
        ("space", place::space(place)),
        ("inodes", place::inodes(place)),
        ("clock", clock::clock(now, built, systemd, sudo)),
    ]
    .map(|(check, finding)| Finding { check, ..finding })
    .into()
}

fn print(text: &str) -> Result<(), Failure> {
    write_out(text.as_bytes()).doing(Code::Output, || "writing on stdout")
}

fn main() -> ExitCode {
    rootfs::seal_descriptors();
    stage::complete::answer::<Args>();
    let context = Context::new("doctor", false);
    if let Err(e) = signal::catch() {
        context.warn(format_args!("catching signals: {e}"));
    }
    let result = stage::run::refuse_set_uid().and_then(|()| match Args::try_parse() {
        Ok(args) => args.run(&context),
        Err(error) if error.use_stderr() => Err(usage_failure("doctor", &error)),
        Err(help) => print(&help.render().to_string()).map(|()| true),
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
