//! `verify` checks what is installed: each package's archive against the keyring, its files against that archive, and that
//! pacman's last transaction is complete.
//!
//! It verifies what was installed before there was a keyring, and whether a root is still what was installed. It changes
//! nothing in the root; the result is in the document, package by package.

mod acl;
mod boot;
mod check;
mod files;
mod installed;
mod names;
mod report;
mod tmpfiles;
mod transaction;
mod unowned;

use check::Found;
use clap::Parser;
use files::Rules;
use image::boot::Bus;
use installed::Subject;
use pacman::conf::Conf;
use pacman::gpg::{Gpg, StoredKeyring};
use pacman::operation::Refresh;
use pacman::publishers::Vouchers;
use pacman::{Operation, Pacman, Timeout, cache_lock, count, lock};
use report::Beside;
use rootfs::{Inside, Place};
use stage::members::{self, Base, Config, Disk, Keyring, Mode, Package, TreeFile};
use stage::{Cause, Code, Common, Context, Document, Failure, Kind, Stage};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use transaction::Last;

/// Check what is installed in a root: signatures, files and the last transaction
///
/// The archive of every package is checked against the root's keyring, and every installed file against that archive.
#[derive(Debug, Parser)]
#[command(name = "verify", version, help_expected = true, max_term_width = 80)]
#[command(after_help = "Example:\n  ... | strap --loose base archlinuxarm-keyring | keyring | verify | strap nano")]
struct Verify {
    /// Do not check the signatures of archives
    #[arg(long)]
    no_signatures: bool,

    /// Do not compare the installed files
    #[arg(long)]
    no_files: bool,

    /// Check that the images that mkdisk has made of the root can boot
    #[arg(long)]
    boot: bool,

    /// With --boot: have the drivers of a disk at each BUS, too
    #[arg(long = "for", value_name = "BUS", value_delimiter = ',', requires = "boot")]
    buses: Vec<Bus>,

    /// Use no network: do not fetch archives that are not in the cache
    #[arg(long)]
    offline: bool,

    #[command(flatten)]
    timeout: Timeout,

    #[command(flatten)]
    common: Common,
}

/// What is done, checked.
#[derive(Debug)]
struct Plan {
    /// How pacman enters the root, to fetch archives.
    inside: Inside,
    /// How the checks enter it: with nothing mounted over the root.
    bare: Inside,
    /// What files are compared by, where they are.
    rules: Option<Rules>,
    /// What trees brought.
    tree: Vec<TreeFile>,
    /// Whether the root began with an archive.
    has_base: bool,
    config: Config,
    /// The repositories of the configuration, in order.
    repos: Vec<String>,
    gpg: Option<Gpg>,
    /// Whose packages may come from which repository.
    vouchers: Vouchers,
    /// The root's keyring, as `keyring` recorded it.
    keyring: Option<Keyring>,
    _lock: OwnedFd,
}

/// The result of fetching archives.
#[derive(Debug, Default)]
struct Fetched {
    /// How many packages got one.
    count: usize,
    /// Why it was aborted.
    failure: Option<Failure>,
}

impl Stage for Verify {
    const KIND: Kind = Kind::Make;

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, context: &Context, document: &mut Document) -> Result<(), Failure> {
        let mut plan = self.plan(document)?;
        self.timeout.watch(context, &mut plan.inside);
        let root = plan.inside.root();
        let recorded: Vec<Package> = document.get().unwrap_or_default();
        let (mut subjects, torn) = installed::read(root, &recorded)?;
        for subject in &mut subjects {
            let repo = subject.recorded.as_ref().and_then(|package| package.repo.as_ref());
            subject.of_unsigned = plan.config.repositories.iter().any(|own| own.unsigned && Some(&own.name) == repo);
        }
        let last = transaction::last(root);
        let log = last.as_ref().err().cloned();
        let last = last.unwrap_or(Last::Unknown);
        let mut fetched = Fetched::default();
        if plan.gpg.is_some() {
            fetched = self.fetch(context, document, &plan, &mut subjects)?;
        }
        let found = plan.bare.call(Place::Host, &[], || check::work(context, document, &plan, &subjects))?;
        context.waited(Duration::try_from_secs_f64(found.seconds).unwrap_or_default());
        for (subject, checked) in subjects.iter().zip(&found.packages) {
            if let Some(why) = &checked.unknown {
                context.warn(format_args!("'{}': {why}", subject.known.name));
            }
        }
        let tree = found.tree.as_ref();
        report::record(document, &subjects, &found.packages, last, fetched.count, found.unowned.clone());
        report::record_tree(document, &plan.tree, tree);
        let boots = match self.boot {
            true => boot::check(document, &plan.bare, &self.buses)?,
            false => Vec::new(),
        };
        boot::record(document, &boots, &self.buses);
        let beside = Beside { torn: &torn, last, fetch: fetched.failure, log, tree };
        let mut strangers = found.strangers.iter().map(|what| {
            let message = format!("checking the keyring: {what}");
            Failure::new(Code::NotVerified, message)
                .hint("'keyring' builds one from the pins alone; if that key is to be trusted, name it with --trust")
        });
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let failure = report::failure(&subjects, &found.packages, beside, now)
            .or_else(|| strangers.next().map(|first| (first, Vec::new())));
        for stranger in strangers {
            context.warn(stranger.message);
        }
        let mut not_booting = boot::failures(&boots);
        let failure = failure.or_else(|| not_booting.next().map(|first| (first, Vec::new())));
        for failure in not_booting {
            context.warn(failure.message);
        }
        match failure {
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
    /// Lets pacman fetch archives that are not in the cache and that a repository still offers.
    ///
    /// pacman ends at the first file that a server does not have. So the rest is then fetched in two halves, and those
    /// again, until only the packages that no server has are missing. Any other failure, such as a network that is down,
    /// would be the same for each of them, and ends it.
    ///
    /// # Errors
    ///
    /// When the cache or a database cannot be read, pacman cannot be run, or a signal came.
    fn fetch(
        &self,
        context: &Context,
        document: &Document,
        plan: &Plan,
        subjects: &mut [Subject],
    ) -> Result<Fetched, Failure> {
        let cache = &plan.config.cache;
        installed::find_sources(context, plan.inside.root(), &plan.repos, cache, subjects)?;
        let wanted = targets(subjects);
        let mut fetched = Fetched::default();
        if wanted.is_empty() || self.offline {
            return Ok(fetched);
        }
        let program: members::Pacman = document.need()?;
        program.check()?;
        let pacman = Pacman {
            context,
            inside: &plan.inside,
            program: &program.path,
            repos: plan.repos.clone(),
            config: plan.config.strict.clone(),
            hook_dir: None,
            cache,
            // What it refuses is checked here, and is to stay where it is until then.
            verifies: false,
            offline: false,
        };
        let operation = Operation::download_targets(Refresh::No);
        let turn = cache_lock::take(context, cache)?;
        let mut sets = vec![wanted.clone()];
        while let Some(set) = sets.pop() {
            let ran = pacman.run(operation, &set);
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
            installed::find_archives(subjects, cache)?;
            let asked: BTreeSet<&String> = set.iter().collect();
            let mut left = targets(subjects);
            left.retain(|target| asked.contains(target));
            if set.len() > 1 && !left.is_empty() {
                let second = left.split_off(left.len() / 2);
                sets.extend([second, left].into_iter().filter(|half| !half.is_empty()));
            }
        }
        drop(turn);
        installed::find_archives(subjects, cache)?;
        let left = targets(subjects);
        fetched.count = wanted.len() - left.len();
        Ok(fetched)
    }

    /// Decides what to do, and checks what can be checked before.
    fn plan(&self, document: &Document) -> Result<Plan, Failure> {
        if self.no_signatures && self.no_files && !self.boot {
            return Err(Failure::new(Code::Usage, "--no-signatures and --no-files leave nothing to verify"));
        }
        if self.boot {
            document.need::<Vec<Disk>>()?;
        }
        let config: Config = document.need()?;
        let inside = Inside::of(document)?;
        let conf = Conf::read(&config.strict)?;
        let live = document.get() == Some(Mode::Host);
        let tree: Vec<TreeFile> = document.get().unwrap_or_default();
        let rules = (!self.no_files).then(|| Rules::of(inside.mounts(), live, conf.noextract).without(&tree));
        let bare = Inside::of(document)?.bare();
        let keyring: Option<Keyring> = document.get();
        let mut vouchers = Vouchers::default();
        let gpg = if self.no_signatures {
            None
        } else {
            // Early: gpg would report it for every package.
            let hint = "put 'keyring' before 'verify', or give --no-signatures";
            StoredKeyring::read(&config.gpgdir())
                .map_err(|f| if f.code == Code::NotVerified { f.hint(hint) } else { f })?;
            vouchers = Vouchers::of(&config, keyring.as_ref())?;
            Some(Gpg::find()?)
        };
        Ok(Plan {
            _lock: lock::share(inside.root())?,
            inside,
            bare,
            rules,
            tree,
            has_base: document.get::<Base>().is_some(),
            config,
            repos: conf.repos,
            gpg,
            vouchers,
            keyring,
        })
    }
}

/// Returns pacman's targets for the packages without an archive or signature in the cache that a repository offers.
fn targets(subjects: &[Subject]) -> Vec<String> {
    let lacks = |subject: &&Subject| {
        let signed = subject.signature || subject.offered_signature.is_some();
        !subject.is_file() && (subject.archive.is_none() || !signed)
    };
    let lacking = subjects.iter().filter(lacks);
    lacking.filter_map(|s| Some(format!("{}/{}", s.offered.as_ref()?.0, s.known.name))).collect()
}

/// Adds the command to the hint where a newer keyring package helps and the document names it.
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
    let verify: Option<members::Verify> = document.get();
    let (signatures, files, verify_tree) = verify.map_or((None, None, None), |v| (v.signatures, v.files, v.tree));
    let mut parts = vec![count(subjects.len(), "package")];
    if let Some(valid) = signatures.as_ref().and_then(|s| s.get("valid")) {
        parts.push(format!("{valid} validly signed"));
    }
    if let Some(intact) = files.as_ref().and_then(|f| f.get("intact")) {
        parts.push(format!("{intact} intact"));
    }
    if let Some(tree) = verify_tree {
        parts.push(format!("{} of trees intact", count(tree.intact, "file")));
    }
    if let Some(unowned) = found.unowned.as_ref().filter(|unowned| unowned.count > 0) {
        parts.push(format!("{} of no package", count(unowned.count, "file")));
    }
    let files = found.packages.iter().filter_map(|c| c.files.as_ref());
    parts.extend(boot::summary(document));
    match files.map(|f| f.configuration.len()).sum() {
        0 => {}
        n => parts.push(count(n, "changed configuration")),
    }
    context.note(parts.join(", "));
}

fn main() -> ExitCode {
    rootfs::seal_descriptors();
    stage::main::<Verify>()
}
