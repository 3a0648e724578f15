//! `keyring` builds pacman's keyring in the root, so that the signature of the first package is already checked.
//!
//! The keys come from a mirror, which proves nothing: trust comes from the fingerprints that are pinned in the distribution's
//! preset or given with `--trust`. The host's gpg builds the keyring, and the root needs no program yet: the root's own
//! pacman-key would take ten times as long, emulated a hundred times.

mod build;
mod home;
mod in_root;
mod key_file;
mod listing;
mod plan;
mod source;
mod strip;
mod trust;

use build::Built;
use clap::Parser;
use home::{KeyringFiles, Place, Which};
use key_file::KeyFile;
use pacman::Timeout;
use pacman::gpg::Gpg;
use pacman::lock::{self, Purpose};
use plan::{Plan, Wanted};
use rootfs::{Inside, Root};
use source::Fetched;
use stage::members::{self, Config, Keyring};
use stage::{Code, Common, Context, Document, Failure, Kind, Stage, quote};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use strip::Strip;
use trust::{Decided, Pins, Ring, RingFiles};

/// Build the root's pacman keyring from pinned trust
///
/// The keys come from the keyring package in the root, or else from the one that pacman downloads; trust comes from the
/// fingerprints that are pinned in the distribution's preset.
#[derive(Debug, Parser)]
#[command(name = "keyring", version, help_expected = true, max_term_width = 80)]
#[command(
    after_help = "Example:\n  mkroot target --arch aarch64 --distro archlinuxarm | fetch-pacman | mkconf \\\n    | keyring | strap base"
)]
struct Args {
    /// Populate from the ring NAME [default: the distribution's]
    #[arg(long, value_name = "NAME", value_parser = name)]
    populate: Vec<String>,

    /// Extract the rings from package NAME [default: the distribution's]
    #[arg(long, value_name = "NAME", value_parser = name)]
    package: Vec<String>,

    /// Trust this key too: sign it locally, with marginal owner trust
    #[arg(long, value_name = "FINGERPRINT", value_parser = fingerprint)]
    trust: Vec<String>,

    /// Trust the public key in FILE, for the repositories of 'mkconf --repo'
    #[arg(long, value_name = "FILE", conflicts_with = "in_root")]
    key: Vec<PathBuf>,

    /// Add the keys and the trust of the root's present keyring
    ///
    /// By default a keyring that this pipeline did not build is set aside and gives no trust. Keys that are valid only by it
    /// are named, and 'verify' reports them.
    #[arg(long, conflicts_with = "in_root")]
    extend: bool,

    /// Run the root's own pacman-key inside the root
    #[arg(long)]
    in_root: bool,

    /// Remove the keys, for an image
    ///
    /// An image never contains the keyring's own secret key. A machine makes its own at first boot, see 'configure
    /// --first-boot-keyring'; a container has no first boot, and may keep the public keys.
    #[arg(
        long,
        value_name = "WHAT",
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "all",
        conflicts_with_all = ["populate", "package", "trust", "key", "extend", "in_root"]
    )]
    strip: Option<Strip>,

    /// Use the databases and packages in the cache, without the network
    #[arg(long)]
    offline: bool,

    #[command(flatten)]
    timeout: Timeout,

    #[command(flatten)]
    common: Common,
}

/// What every step of a run works with.
#[derive(Clone, Copy, Debug)]
struct Session<'a> {
    context: &'a Context,
    document: &'a Document,
    inside: &'a Inside,
    gpg: &'a Gpg,
    /// Whether the network must not be used.
    offline: bool,
}

/// The rings that were read, and where from.
#[derive(Debug)]
struct Rings {
    files: Vec<RingFiles>,
    fetched: Option<Fetched>,
}

impl Stage for Args {
    const KIND: Kind = Kind::Make;

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, context: &Context, document: &mut Document) -> Result<(), Failure> {
        match self.strip {
            Some(strip) => strip_keyring(strip, context, document),
            None => self.build(context, document),
        }
    }
}

/// Removes the keyring that this run has made.
fn remove_keyring(context: &Context, document: &Document) {
    let removed = Root::of(document).and_then(|root| {
        // Another run that uses it by now keeps it.
        let _lock = lock::take(&root, context, Purpose::Download)?;
        Place::beside_root(&gpgdir(document, &root)?)?.remove_present()?;
        Place::in_root(&root)?.remove_present()
    });
    if let Err(failure) = removed {
        context.report(&failure);
    }
}

impl Args {
    /// Builds the keyring.
    fn build(&self, context: &Context, document: &mut Document) -> Result<(), Failure> {
        let mut plan = plan::plan(self, document)?;
        let gpg = Gpg::find()?;
        let mut inside = Inside::of(document)?;
        self.timeout.watch(context, &mut inside);
        // Held from the first read to the last rename: an unfinished keyring that is found is that of a killed run.
        let _lock = lock::take(inside.root(), context, Purpose::Download)?;
        let session = Session { context, document, inside: &inside, gpg: &gpg, offline: self.offline };
        let own = key_file::read(session, &self.key)?;
        let mut rings: Vec<Rings> =
            plan.publishers.iter().map(|wanted| self.rings(session, wanted)).collect::<Result<_, _>>()?;
        if !own.is_empty() {
            let preset = own.iter().map(|key| key.fingerprint.clone()).collect();
            let pins = Pins { preset, asked: self.trust.clone() };
            plan.publishers.push(Wanted { pins, ..Wanted::default() });
            rings.push(Rings { files: own.iter().map(KeyFile::ring).collect(), fetched: None });
        }
        let made = decide(&plan, &mut rings).and_then(|decided| {
            let built = self.make(session, &plan, &decided, &rings)?;
            Ok((decided.all, built))
        });
        let (ring, built) = made.inspect_err(|failure| {
            // Packages that were in the cache before stay there, and those that nobody checked, for want of gpg.
            let stays = self.offline || failure.code == Code::NotFound;
            for fetched in rings.iter().filter_map(|rings| rings.fetched.as_ref()).filter(|_| !stays) {
                fetched.remove(context);
            }
        })?;
        record(document, inside.root(), &plan, &ring, &built, &own);
        let trusted = pacman::count(ring.trusted.len() - built.unusable.len(), "key");
        context.note(format_args!(
            "{}: {trusted} trusted, {} valid, {} disabled",
            plan.title, built.summary.valid, built.summary.disabled
        ));
        Ok(())
    }

    /// Builds the keyring of a ring. It replaces the present one when the packages that the ring is from have been checked by it.
    fn make(&self, session: Session<'_>, plan: &Plan, decided: &Decided, rings: &[Rings]) -> Result<Built, Failure> {
        let ring = &decided.all;
        let Session { context, document, inside, .. } = session;
        if self.extend {
            refuse_after_loose(document)?;
        }
        let root = inside.root();
        let gpgdir = gpgdir(document, root)?;
        let (in_root, beside) = (Place::in_root(root)?, Place::beside_root(&gpgdir)?);
        let build = || {
            let built = build::build(session, decided, self.extend)?;
            let mut own = in_root.secret_keys(Which::New)?;
            own.insert(built.own.clone());
            // Those of before, too: we may be killed before the root's keyring is replaced.
            own.extend(beside.known_own_keys()?);
            let public = in_root.read_public(Which::New)?;
            beside.write_new(&KeyringFiles::beside_root(public, &own, &built.extended))?;
            let publishers = publishers(plan, &built);
            for fetched in rings.iter().filter_map(|rings| rings.fetched.as_ref()) {
                let mut inside = Inside::of(document)?.with_gpgdir(beside.path(Which::New));
                self.timeout.watch(context, &mut inside);
                let inside = &inside;
                fetched.verify(Session { inside, ..session }, &publishers)?;
            }
            Ok((built, own))
        };
        let (built, own) = build().inspect_err(|_| {
            // The next run removes what stays.
            drop(in_root.remove_unfinished().and(beside.remove_unfinished()));
        })?;
        let had_files = in_root.has_files()?;
        self.keep_foreign(context, &in_root, &beside, &own)?;
        beside.replace()?;
        if !had_files {
            let document = document.clone();
            context.on_undo(move |context| remove_keyring(context, &document));
        }
        if !self.in_root {
            in_root.replace()?;
            return Ok(built);
        }
        in_root.remove_unfinished()?;
        in_root.remove_present()?;
        in_root::build(context, inside, ring)?;
        let (summary, key) = build::check_foreign(session, ring, &gpgdir)?;
        let mut own = own;
        own.insert(key);
        own.extend(in_root.secret_keys(Which::Present).unwrap_or_default());
        let public = beside.read_public(Which::Present)?;
        beside.write_new(&KeyringFiles::beside_root(public, &own, &[]))?;
        beside.replace()?;
        Ok(Built { summary, ..built })
    }

    /// Sets the root's keyring aside where this pipeline did not build it, and reports changes to one that it built.
    fn keep_foreign(
        &self,
        context: &Context,
        in_root: &Place,
        beside: &Place,
        own: &BTreeSet<String>,
    ) -> Result<(), Failure> {
        // The secret keys of a keyring that is not ours may be unreadable.
        let secret = in_root.secret_keys(Which::Present).unwrap_or_default();
        if secret.is_disjoint(own) {
            if in_root.has_files()? {
                let to = in_root.set_aside()?;
                context.warn(format_args!(
                    "the root's keyring was not built by this pipeline: it gives no trust, and is kept as {}",
                    quote(&to)
                ));
            }
            return Ok(());
        }
        let present = |place: &Place| place.read_public(Which::Present);
        if !self.extend && present(in_root)? != present(beside)? {
            context.note("the root's keyring was changed since it was built: the new one does not contain the changes");
        }
        Ok(())
    }

    /// Reads a publisher's rings in the root, and downloads the others.
    fn rings(&self, session: Session<'_>, wanted: &Wanted) -> Result<Rings, Failure> {
        let mut files = Vec::new();
        let mut missing = Vec::new();
        for name in &wanted.rings {
            match source::read_installed(session.inside.root(), name)? {
                Some(ring) => files.push(ring),
                None => missing.push(name.clone()),
            }
        }
        let Some(first) = missing.first() else {
            return Ok(Rings { files, fetched: None });
        };
        if self.in_root {
            return Err(Failure::new(Code::NotFound, format!("the root has no ring '{first}' for its pacman-key"))
                .hint("install its keyring package first: leave --in-root out, or strap --loose it"));
        }
        if wanted.packages.is_empty() {
            let message = format!("the root has no ring '{first}', and no package is known that has it");
            return Err(Failure::new(Code::Usage, message).hint("name the package with --package NAME"));
        }
        let fetched = source::download(session, wanted, missing)?;
        files.extend(fetched.files.clone());
        Ok(Rings { files, fetched: Some(fetched) })
    }
}

/// Decides what the keyring is built from: for each publisher its rings, by its own pins.
fn decide(plan: &Plan, rings: &mut [Rings]) -> Result<Decided, Failure> {
    let mut each = Vec::new();
    for (wanted, rings) in plan.publishers.iter().zip(rings) {
        let decided = trust::decide(std::mem::take(&mut rings.files), &wanted.pins);
        let of_one = |failure: Failure| failure.while_doing(format!("building the keyring of '{}'", wanted.title()));
        each.push(if plan.publishers.len() == 1 { decided } else { decided.map_err(of_one) }?);
    }
    let titles: Vec<String> = plan.publishers.iter().map(Wanted::title).collect();
    let asked = plan.publishers.first().map(|wanted| wanted.pins.asked.clone()).unwrap_or_default();
    Ok(Decided { all: Ring::join(&each, &titles)?, each, titles, asked })
}

/// Returns what the document has of the publishers: nothing where there is one.
fn publishers(plan: &Plan, built: &Built) -> Vec<members::Publisher> {
    let pairs = plan.publishers.iter().zip(&built.publishers);
    let publisher = |(wanted, keys): (&Wanted, &Vec<String>)| members::Publisher {
        name: wanted.name.clone(),
        keys: keys.clone(),
        vouches_for: wanted.vouches_for.clone(),
    };
    pairs.map(publisher).collect()
}

/// Returns the GnuPG home beside the root: where the document's configuration says, or where mkconf would say.
fn gpgdir(document: &Document, root: &Root) -> Result<PathBuf, Failure> {
    let config: Option<Config> = document.get();
    Ok(match config {
        Some(config) => config.gpgdir(),
        None => stage::document::beside(root.path()).join("gnupg"),
    })
}

/// Refuses to extend a keyring to which packages that nobody verified could have written.
fn refuse_after_loose(document: &Document) -> Result<(), Failure> {
    let strap: Option<members::Strap> = document.get();
    if !strap.is_some_and(|strap| strap.loose) {
        return Ok(());
    }
    Err(Failure::new(
        Code::NotVerified,
        "extending the root's keyring: packages were installed without verification ('strap --loose'), and could have \
         changed it",
    )
    .hint("leave --extend out: the keyring is then built from the pins alone"))
}

/// Records the keyring in the document.
fn record(document: &mut Document, root: &Root, plan: &Plan, ring: &Ring, built: &Built, own: &[KeyFile]) {
    document.write(&Keyring {
        dir: root.path().join(pacman::gpg::AT),
        populated: plan.publishers.iter().flat_map(|wanted| wanted.rings.clone()).collect(),
        trusted: ring.usable(&built.unusable).into_iter().cloned().collect(),
        extended: built.extended.clone(),
        publishers: publishers(plan, built),
        own: own.iter().map(KeyFile::record).collect(),
        stripped: None,
    });
}

/// Strips the keyring. Nothing runs for it, but only the user whose root it is may work on it.
fn strip_keyring(strip: Strip, context: &Context, document: &mut Document) -> Result<(), Failure> {
    let inside = Inside::of(document)?;
    let _lock = lock::take(inside.root(), context, Purpose::Download)?;
    let changed = strip.apply(inside.root())?;
    strip.record(document, inside.root());
    context.note(match (changed, strip) {
        (false, _) => "there is nothing to remove from the keyring",
        (true, Strip::All) => "removed all keys from the keyring: pacman-key makes a new one",
        (true, Strip::Secret) => "removed the secret key from the keyring",
    });
    Ok(())
}

fn name(value: &str) -> Result<String, String> {
    if package::name::is_name(value) { Ok(value.to_owned()) } else { Err("invalid name".to_owned()) }
}

fn fingerprint(value: &str) -> Result<String, String> {
    let value = value.replace(' ', "").to_ascii_uppercase();
    distro::check::fingerprint(&value).map(|()| value)
}

fn main() -> ExitCode {
    rootfs::seal_descriptors();
    stage::main::<Args>()
}
