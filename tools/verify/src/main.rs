//! `verify` checks what is installed: each package's archive against the keyring, its files against what that archive
//! says of them, and that pacman's last transaction is whole.
//!
//! It is how to go back and verify what went in before there was a keyring, and how to see that a root is still what was
//! installed. It changes nothing in the root; what it finds is in the document, package by package.

mod check;
mod files;
mod installed;
mod report;
mod transaction;

use check::{Found, Task};
use clap::Parser;
use files::Rules;
use installed::{Installed, Subject};
use pacman::conf::Conf;
use pacman::diagnosis::gpg::{AT, Gpg};
use pacman::run::DOWNLOAD;
use pacman::{Pacman, Patience, lock, turn};
use rootfs::{Inside, Place, Root};
use rustix::fs::OFlags;
use stage::members::{self, Config, Keyring, Package};
use stage::{Code, Common, Context, Document, Doing, Failure, Kind, Stage, quote};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Check what is installed in a root: signatures, files and the last transaction
///
/// The archive of every package is checked against the root's keyring, and every installed file against what that
/// archive says of it.
#[derive(Debug, Parser)]
#[command(name = "verify", version, help_expected = true, max_term_width = 80)]
#[command(
    after_help = "Example:\n  ... | strap --loose base archlinuxarm-keyring | keyring | verify | strap nano"
)]
struct Verify {
    /// Do not check the signatures of archives
    #[arg(long)]
    no_signatures: bool,

    /// Do not compare the installed files
    #[arg(long)]
    no_files: bool,

    /// Ask no server: an archive that is not in the cache is not fetched again
    #[arg(long)]
    offline: bool,

    #[command(flatten)]
    patience: Patience,

    #[command(flatten)]
    common: Common,
}

/// What is to be done, checked.
#[derive(Debug)]
struct Plan {
    /// How pacman enters the root, to fetch archives.
    inside: Inside,
    /// How we do: with nothing mounted over what is to be looked at.
    bare: Inside,
    rules: Rules,
    config: Config,
    gpg: Option<Gpg>,
    /// What `keyring` wrote down of the root's keyring.
    keyring: Option<Keyring>,
    _lock: OwnedFd,
}

impl Stage for Verify {
    const KIND: Kind = Kind::Make;

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, context: &Context, document: &mut Document) -> Result<(), Failure> {
        let mut plan = self.plan(document)?;
        self.patience.watch(context, &mut plan.inside);
        let root = plan.inside.root();
        let recorded: Vec<Package> = document.view("packages")?.unwrap_or_default();
        let repos = Conf::read(&plan.config.strict)?.repos;
        let mut installed = installed::read(context, root, &recorded, &repos)?;
        let last = transaction::last(root)?;
        let mut fetched = Ok(0);
        if plan.gpg.is_some() {
            fetched = self.fetch(context, document, &plan, &mut installed)?;
        }
        self.rules(&mut plan)?;
        let found = self.check(context, document, &plan, &installed)?;
        let count = fetched.as_ref().copied().unwrap_or_default();
        let Installed { subjects, torn } = installed;
        report::record(document, &subjects, &found.packages, last, count);
        // A server that does not answer may do so later; one that has no signature may not.
        if let Err(failure) = fetched {
            if failure.code == Code::Network && !failure.message.contains(" 404") {
                return Err(failure);
            }
            context.warn(&failure.message);
        }
        match report::judge(&subjects, &found.packages, &torn, last, now()) {
            None => {
                note(context, document, &subjects, &found);
                Ok(())
            }
            Some((first, rest)) => {
                for line in rest {
                    context.warn(line);
                }
                Err(with_command(first, plan.keyring.as_ref()))
            }
        }
    }
}

impl Verify {
    /// Has pacman fetch again what is not in the cache and what a repository still offers. Returns how many packages that
    /// are, or why pacman could not.
    fn fetch(
        &self,
        context: &Context,
        document: &Document,
        plan: &Plan,
        installed: &mut Installed,
    ) -> Result<Result<usize, Failure>, Failure> {
        let cache = &plan.config.cache;
        installed::find_archives(&mut installed.subjects, cache)?;
        let lacks = |subject: &&Subject| {
            let signed = subject.signature || subject.offered_signature.is_some();
            subject.archive.is_none() || !signed
        };
        let targets: Vec<String> = installed
            .subjects
            .iter()
            .filter(lacks)
            .filter_map(|s| Some(format!("{}/{}", s.offered.as_ref()?.0, s.name)))
            .collect();
        if targets.is_empty() || self.offline {
            return Ok(Ok(0));
        }
        let program: members::Pacman = document.need("pacman", "fetch-pacman")?;
        program.check()?;
        let pacman = Pacman {
            program: program.path,
            config: plan.config.strict.clone(),
            // What it refuses is judged here, and is to stay where it is until then.
            keyring: None,
            offline: false,
        };
        let args = ["-Sw", "--noconfirm", "-dd"];
        let turn = turn::take(context, cache)?;
        let ran = pacman.run(context, &plan.inside, DOWNLOAD, &args, &targets);
        drop(turn);
        if let Err(failure) = &ran
            && matches!(
                failure.code,
                Code::Interrupted | Code::Permission | Code::Os
            )
        {
            return Err(failure.clone());
        }
        installed::find_archives(&mut installed.subjects, cache)?;
        Ok(ran.map(|_| targets.len()))
    }

    /// Decides what to do, and checks all that can be checked before.
    fn plan(&self, document: &Document) -> Result<Plan, Failure> {
        if self.no_signatures && self.no_files {
            return Err(Failure::new(
                Code::Usage,
                "--no-signatures and --no-files leave nothing to verify",
            ));
        }
        let config: Config = document.need("config", "mkconf")?;
        let inside = Inside::of(document)?;
        let rules = Rules::of(inside.mounts(), document.text("mode") == Some("host"));
        let bare = Inside::of(document)?.bare();
        let keyring = document.view("keyring")?;
        let gpg = if self.no_signatures {
            None
        } else {
            check_keyring(inside.root())?;
            Some(Gpg::find()?)
        };
        Ok(Plan {
            _lock: lock::share(inside.root())?,
            inside,
            bare,
            rules,
            config,
            gpg,
            keyring,
        })
    }

    /// Reads what else decides which files count.
    fn rules(&self, plan: &mut Plan) -> Result<(), Failure> {
        const TMPFILES: &str = "usr/lib/tmpfiles.d";
        match stage::file::read_text(&plan.config.strict) {
            Ok(text) => plan.rules.add_config(&text),
            // Without it, pacman would have no patterns either.
            Err(failure) if failure.code == Code::NotFound => {}
            Err(failure) => return Err(failure),
        }
        let root = plan.inside.root();
        for name in pacman::records::names_in(root, TMPFILES)? {
            let path = format!("{TMPFILES}/{name}");
            match root.read(&path, 1 << 20) {
                Ok(text) => plan.rules.add_tmpfiles(&text),
                Err(e) if files::is_other(e) => {}
                Err(e) => {
                    return Err(e).doing(Code::Os, || {
                        format!("reading {}", quote(root.path().join(path)))
                    });
                }
            }
        }
        Ok(())
    }

    fn check(
        &self,
        context: &Context,
        document: &Document,
        plan: &Plan,
        installed: &Installed,
    ) -> Result<Found, Failure> {
        let task = Task {
            document,
            subjects: &installed.subjects,
            cache: &plan.config.cache,
            gpg: plan.gpg.as_ref(),
            rules: (!self.no_files).then_some(&plan.rules),
            trusted: plan.keyring.as_ref().map(|k| k.trusted.as_slice()),
        };
        let bytes = plan.bare.call(Place::Host, || check::work(task))?;
        let found: Found =
            serde_json::from_slice(&bytes).doing(Code::Os, || "reading what was found inside")?;
        context.waited(Duration::try_from_secs_f64(found.seconds).unwrap_or_default());
        for warning in &found.warnings {
            context.warn(warning);
        }
        for (subject, checked) in installed.subjects.iter().zip(&found.packages) {
            if let Some(why) = &checked.unknown {
                context.warn(format_args!("'{}': {why}", subject.name));
            }
        }
        Ok(found)
    }
}

/// Names the keyring package in a hint, where the document says which it is.
fn with_command(mut failure: Failure, keyring: Option<&Keyring>) -> Failure {
    if let (Some(hint), Some([name])) = (&failure.hint, keyring.map(|k| k.populated.as_slice())) {
        let command = format!("strap that ('strap {name}-keyring')");
        failure.hint = Some(hint.replacen("strap that", &command, 1));
    }
    failure
}

/// Says early that there is no keyring: gpg would say it of every package.
fn check_keyring(root: &Root) -> Result<(), Failure> {
    for file in ["pubring.gpg", "pubring.kbx"] {
        let path = format!("{AT}/{file}");
        match root.open_below(&path, OFlags::PATH) {
            Ok(_) => return Ok(()),
            Err(e) if files::is_other(e) => {}
            Err(e) => {
                return Err(e).doing(Code::Os, || {
                    format!("opening {}", quote(root.path().join(path)))
                });
            }
        }
    }
    Err(Failure::new(
        Code::NotVerified,
        format!(
            "looking for the keyring {}: there is none, so no signature can be checked",
            quote(root.path().join(AT))
        ),
    )
    .hint("put 'keyring' before 'verify', or give --no-signatures"))
}

fn note(context: &Context, document: &Document, subjects: &[Subject], found: &Found) {
    let count = |member: &str, word: &str| {
        let verify = document.get("verify")?;
        verify.get(member)?.get(word)?.as_u64()
    };
    let mut parts = vec![match subjects.len() {
        1 => "1 package".to_owned(),
        n => format!("{n} packages"),
    }];
    if let Some(valid) = count("signatures", "valid") {
        parts.push(format!("{valid} validly signed"));
    }
    if let Some(intact) = count("files", "intact") {
        parts.push(format!("{intact} intact"));
    }
    let changed: Vec<&String> = found
        .packages
        .iter()
        .filter_map(|c| c.files.as_ref())
        .flat_map(|f| &f.configuration)
        .collect();
    match changed.len() {
        0 => {}
        1 => parts.push("1 changed configuration".to_owned()),
        n => parts.push(format!("{n} changed configurations")),
    }
    context.note(parts.join(", "));
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

fn main() -> ExitCode {
    rootfs::seal_descriptors();
    stage::main::<Verify>()
}
