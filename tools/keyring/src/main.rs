//! `keyring` builds pacman's keyring in the root, so that the signature of the first package is already checked.
//!
//! The keys come from a mirror, which proves nothing: trust comes from the fingerprints that are pinned in the distribution's
//! preset or given with `--trust`. The host's gpg builds the keyring, and the root needs no program yet: the root's own
//! pacman-key would take ten times as long, emulated a hundred times.

mod build;
mod home;
mod in_root;
mod listing;
mod source;
mod strip;
mod trust;

use build::Built;
use clap::Parser;
use distro::Preset;
use home::{KeyringFiles, Place, Which};
use pacman::Timeout;
use pacman::gpg::Gpg;
use pacman::lock::{self, Purpose};
use rootfs::{Inside, Root};
use source::Fetched;
use stage::members::{self, Config, Keyring};
use stage::{Code, Common, Context, Document, Failure, Kind, Stage, quote};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use strip::Strip;
use trust::{Pins, Ring, RingFiles};

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
        conflicts_with_all = ["populate", "package", "trust", "extend", "in_root"]
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

/// What to build.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// Its title in messages.
    title: String,
    /// The names of the rings.
    names: Vec<String>,
    packages: Vec<String>,
    pins: Pins,
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
        let plan = self.plan(document)?;
        plan.pins.need_some(&plan.title)?;
        let gpg = Gpg::find()?;
        let mut inside = Inside::of(document)?;
        self.timeout.watch(context, &mut inside);
        // Held from the first read to the last rename: an unfinished keyring that is found is that of a killed run.
        let _lock = lock::take(inside.root(), context, Purpose::Download)?;
        let session = Session { context, document, inside: &inside, gpg: &gpg, offline: self.offline };
        let (mut files, fetched) = self.rings(session, &plan)?;
        files.extend(fetched.iter().flat_map(|fetched| fetched.files.clone()));
        let made = trust::decide(files, &plan.pins).and_then(|ring| {
            let built = self.make(session, &ring, fetched.as_ref())?;
            Ok((ring, built))
        });
        let (ring, built) = made.inspect_err(|failure| {
            // Packages that were in the cache before stay there, and those that nobody checked, for want of gpg.
            let stays = self.offline || failure.code == Code::NotFound;
            if let Some(fetched) = fetched.as_ref().filter(|_| !stays) {
                fetched.remove(context);
            }
        })?;
        record(document, inside.root(), &ring, &built);
        let trusted = pacman::count(ring.trusted.len() - built.unusable.len(), "key");
        context.note(format_args!(
            "{}: {trusted} trusted, {} valid, {} disabled",
            plan.title, built.summary.valid, built.summary.disabled
        ));
        Ok(())
    }

    /// Decides what to build, from the command line and the document. Changes nothing.
    fn plan(&self, document: &Document) -> Result<Plan, Failure> {
        let preset = document.distro().map(Preset::load).transpose();
        let preset = preset.map_err(|failure| Failure { code: Code::Failed, ..failure })?;
        let keyring = preset.as_ref().map(|preset| preset.keyring.clone());
        let keyring = keyring.unwrap_or_default();
        let or = |given: &Vec<String>, default| if given.is_empty() { default } else { given.clone() };
        let names = or(&self.populate, keyring.populate);
        if names.is_empty() {
            let message = match &preset {
                Some(preset) => format!("{} has no keyring", preset.title),
                None => "the document names no distribution, so no keyring".to_owned(),
            };
            return Err(Failure::new(Code::Usage, message)
                .hint("say which: --populate NAME --package NAME --trust FINGERPRINT"));
        }
        let pinned = keyring.trusted.into_iter().map(|pin| pin.fingerprint);
        Ok(Plan {
            title: preset.map_or_else(|| names.join(", "), |p| p.title),
            names,
            packages: or(&self.package, keyring.packages),
            pins: Pins { preset: pinned.collect(), asked: self.trust.clone() },
        })
    }

    /// Builds the keyring of a ring. It replaces the present one when the packages that the ring is from have been checked by it.
    fn make(&self, session: Session<'_>, ring: &Ring, fetched: Option<&Fetched>) -> Result<Built, Failure> {
        let Session { context, document, inside, .. } = session;
        if self.extend {
            refuse_after_loose(document)?;
        }
        let root = inside.root();
        let gpgdir = gpgdir(document, root)?;
        let (in_root, beside) = (Place::in_root(root)?, Place::beside_root(&gpgdir)?);
        let build = || {
            let built = build::build(session, ring, self.extend)?;
            let mut own = in_root.secret_keys(Which::New)?;
            own.insert(built.own.clone());
            // Those of before, too: we may be killed before the root's keyring is replaced.
            own.extend(beside.known_own_keys()?);
            let public = in_root.read_public(Which::New)?;
            beside.write_new(&KeyringFiles::beside_root(public, &own, &built.extended))?;
            if let Some(fetched) = fetched {
                let mut inside = Inside::of(document)?.with_gpgdir(beside.path(Which::New));
                self.timeout.watch(context, &mut inside);
                let inside = &inside;
                fetched.verify(Session { inside, ..session })?;
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

    /// Reads the rings in the root, and downloads the others.
    fn rings(&self, session: Session<'_>, plan: &Plan) -> Result<(Vec<RingFiles>, Option<Fetched>), Failure> {
        let mut rings = Vec::new();
        let mut missing = Vec::new();
        for name in &plan.names {
            match source::read_installed(session.inside.root(), name)? {
                Some(files) => rings.push(files),
                None => missing.push(name.clone()),
            }
        }
        let Some(first) = missing.first() else {
            return Ok((rings, None));
        };
        if self.in_root {
            return Err(Failure::new(Code::NotFound, format!("the root has no ring '{first}' for its pacman-key"))
                .hint("install its keyring package first: leave --in-root out, or strap --loose it"));
        }
        if plan.packages.is_empty() {
            let message = format!("the root has no ring '{first}', and no package is known that has it");
            return Err(Failure::new(Code::Usage, message).hint("name the package with --package NAME"));
        }
        let fetched = source::download(session, plan.packages.clone(), missing)?;
        Ok((rings, Some(fetched)))
    }
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
fn record(document: &mut Document, root: &Root, ring: &Ring, built: &Built) {
    document.write(&Keyring {
        dir: root.path().join(pacman::gpg::AT),
        populated: ring.keys.iter().map(|(name, _)| name.clone()).collect(),
        trusted: ring.usable(&built.unusable).into_iter().cloned().collect(),
        extended: built.extended.clone(),
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
