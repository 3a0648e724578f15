//! `verify` checks what is installed: each package's archive against the keyring, its files against what that archive
//! says of them, and that pacman's last transaction is whole.
//!
//! It is how to go back and verify what went in before there was a keyring, and how to see that a root is still what was
//! installed. It changes nothing in the root; what it finds is in the document, package by package.

mod acl;
mod check;
mod files;
mod installed;
mod names;
mod report;
mod tmpfiles;
mod transaction;

use check::{Found, Task};
use clap::Parser;
use files::Rules;
use installed::{Installed, Subject};
use pacman::conf::Conf;
use pacman::conf::NoExtract;
use pacman::diagnosis::gpg::{Gpg, Kept};
use pacman::run::DOWNLOAD;
use pacman::{Pacman, Patience, lock, turn};
use report::Beside;
use rootfs::{Inside, Place};
use stage::members::{self, Config, Keyring, Package};
use stage::{Cause, Code, Common, Context, Document, Failure, Kind, Stage};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use transaction::Last;

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

/// What came of fetching archives.
#[derive(Debug, Default)]
struct Fetched {
    /// How many packages it was done for.
    count: usize,
    /// Why it was given up.
    failure: Option<Failure>,
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
        let (last, log) = match transaction::last(root) {
            Ok(last) => (last, None),
            Err(failure) => (Last::Unknown, Some(failure)),
        };
        let mut fetched = Fetched::default();
        if plan.gpg.is_some() {
            fetched = self.fetch(context, document, &plan, &mut installed)?;
        }
        self.rules(&mut plan)?;
        let found = self.check(context, document, &plan, &installed)?;
        let Installed { subjects, torn } = installed;
        report::record(document, &subjects, &found.packages, last, fetched.count);
        let beside = Beside {
            torn: &torn,
            last,
            fetch: fetched.failure,
            log,
        };
        let mut strangers = found.strangers.iter().map(|what| {
            let message = format!("checking the keyring: {what}");
            Failure::new(Code::NotVerified, message).hint(
                "'keyring' builds one from the pins alone; if that key is to be trusted, name it with --trust",
            )
        });
        let judged = report::judge(&subjects, &found.packages, beside, now())
            .or_else(|| strangers.next().map(|first| (first, Vec::new())));
        for stranger in strangers {
            context.warn(stranger.message);
        }
        match judged {
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
    /// Has pacman fetch again what is not in the cache and what a repository still offers.
    ///
    /// pacman ends at the first file that a server does not have. So what is left is then asked for in two halves, and
    /// those again, until the packages that nobody has are alone and all others are there. What else goes wrong, such as a
    /// network that is down, would go wrong for each of them, and ends it.
    ///
    /// # Errors
    ///
    /// When pacman cannot be run, or a signal came.
    fn fetch(
        &self,
        context: &Context,
        document: &Document,
        plan: &Plan,
        installed: &mut Installed,
    ) -> Result<Fetched, Failure> {
        let cache = &plan.config.cache;
        installed::find_archives(&mut installed.subjects, cache)?;
        let wanted = targets(&installed.subjects);
        let mut fetched = Fetched::default();
        if wanted.is_empty() || self.offline {
            return Ok(fetched);
        }
        let program: members::Pacman = document.need("pacman", "fetch-pacman")?;
        program.check()?;
        let pacman = Pacman {
            program: program.path,
            config: plan.config.strict.clone(),
            // What it refuses is checked here, and is to stay where it is until then.
            verifies: false,
            offline: false,
        };
        let args = ["-Sw", "--noconfirm", "-dd"];
        let turn = turn::take(context, cache)?;
        let mut sets = vec![wanted.clone()];
        while let Some(set) = sets.pop() {
            let ran = pacman.run(context, &plan.inside, DOWNLOAD, &args, &set);
            let Err(failure) = ran else { continue };
            match failure.code {
                Code::Interrupted | Code::Permission | Code::Os => return Err(failure),
                Code::NotVerified | Code::NotFound => {}
                _ if failure.cause == Some(Cause::NotOnServer) => {}
                _ => {
                    fetched.failure = Some(failure);
                    break;
                }
            }
            installed::find_archives(&mut installed.subjects, cache)?;
            let mut left = targets(&installed.subjects);
            left.retain(|target| set.contains(target));
            if set.len() > 1 && !left.is_empty() {
                let second = left.split_off(left.len() / 2);
                sets.extend([second, left].into_iter().filter(|half| !half.is_empty()));
            }
        }
        drop(turn);
        installed::find_archives(&mut installed.subjects, cache)?;
        let left = targets(&installed.subjects);
        fetched.count = wanted.len() - left.len();
        Ok(fetched)
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
            // Early: gpg would say it of every package.
            Kept::read(&config.gpgdir()).map_err(|failure| match failure.code {
                Code::NotVerified => {
                    failure.hint("put 'keyring' before 'verify', or give --no-signatures")
                }
                _ => failure,
            })?;
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
        match stage::file::read_text(&plan.config.strict) {
            Ok(text) => plan.rules.noextract = NoExtract::of(&text),
            // Without it, pacman would have no patterns either.
            Err(failure) if failure.code == Code::NotFound => {}
            Err(failure) => return Err(failure),
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
        let gpgdir = plan.config.gpgdir();
        let task = Task {
            document,
            subjects: &installed.subjects,
            cache: &plan.config.cache,
            gpg: plan.gpg.as_ref(),
            rules: (!self.no_files).then_some(&plan.rules),
            gpgdir: &gpgdir,
        };
        let found = plan.bare.call(Place::Host, &[], || check::work(task))?;
        context.waited(Duration::try_from_secs_f64(found.seconds).unwrap_or_default());
        for (subject, checked) in installed.subjects.iter().zip(&found.packages) {
            if let Some(why) = &checked.unknown {
                context.warn(format_args!("'{}': {why}", subject.name));
            }
        }
        Ok(found)
    }
}

/// Names the packages that have no archive or no signature in the cache, and that a repository offers, as pacman takes it.
fn targets(subjects: &[Subject]) -> Vec<String> {
    let lacks = |subject: &&Subject| {
        let signed = subject.signature || subject.offered_signature.is_some();
        subject.archive.is_none() || !signed
    };
    let lacking = subjects.iter().filter(lacks);
    lacking
        .filter_map(|s| Some(format!("{}/{}", s.offered.as_ref()?.0, s.name)))
        .collect()
}

/// Adds the command to the hint where a newer keyring package helps and the document says which that is.
fn with_command(failure: Failure, keyring: Option<&Keyring>) -> Failure {
    let keyrings = keyring.map(|keyring| keyring.populated.as_slice());
    match (&failure.hint, failure.cause, keyrings) {
        (Some(hint), Some(Cause::OldKeyring), Some([name])) => {
            let hint = format!("{hint} ('strap {name}-keyring')");
            failure.hint(hint)
        }
        _ => failure,
    }
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
