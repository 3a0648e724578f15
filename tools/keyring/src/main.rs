//! `keyring` builds pacman's keyring in the root, so that the first package already is installed with its signature
//! checked.
//!
//! The keys come from a mirror that nothing vouches for, so what counts is the fingerprints that are pinned in the
//! distribution's preset or given with `--trust`. The host's gpg builds the keyring, and the root needs no program yet:
//! the root's own pacman-key would take ten times as long, emulated a hundred times.

mod build;
mod home;
mod in_root;
mod listing;
mod program;
mod source;
mod strip;
mod trust;

use build::Built;
use clap::Parser;
use distro::Preset;
use home::{Home, Place};
use pacman::Patience;
use pacman::diagnosis::gpg::Gpg;
use pacman::lock::{self, Purpose};
use rootfs::{Inside, Root};
use source::Fetched;
use stage::members::{self, Config, Keyring};
use stage::{Code, Common, Context, Document, Failure, Kind, Stage, quote};
use std::path::PathBuf;
use std::process::ExitCode;
use strip::Strip;
use trust::{Files, Pins, Ring};

/// Build the root's pacman keyring from pinned trust
///
/// The keys come from the keyring package that the root has, or else that pacman downloads; trust comes from the
/// fingerprints that are pinned in the distribution's preset.
#[derive(Debug, Parser)]
#[command(name = "keyring", version, help_expected = true, max_term_width = 80)]
#[command(
    after_help = "Example:\n  mkroot target --arch aarch64 --distro archlinuxarm | fetch-pacman | mkconf \\\n    | keyring | strap base"
)]
struct Args {
    /// Populate from the ring NAME [default: the distribution's]
    #[arg(long, value_name = "NAME")]
    populate: Vec<String>,

    /// Take the rings from package NAME [default: the distribution's]
    #[arg(long, value_name = "NAME")]
    package: Vec<String>,

    /// Trust this key too: sign it locally, and count its signatures
    #[arg(long, value_name = "FINGERPRINT")]
    trust: Vec<String>,

    /// Keep what the root's own keyring trusts, too
    ///
    /// By default a keyring that this pipeline did not build is set aside and gives no trust. Every key that is valid by it
    /// alone is named, and 'verify' reports it.
    #[arg(long, conflicts_with = "in_root")]
    extend: bool,

    /// Run the root's own pacman-key, inside
    #[arg(long)]
    in_root: bool,

    /// Take the keys out again, for an image
    ///
    /// An image never carries a keyring's own secret key. A machine makes its own at first boot, see 'configure
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

    /// Ask no server: take the databases and packages from the cache
    #[arg(long)]
    offline: bool,

    #[command(flatten)]
    patience: Patience,

    #[command(flatten)]
    common: Common,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// What is built, in words.
    of: String,
    names: Vec<String>,
    packages: Vec<String>,
    /// The fingerprints of the preset.
    pinned: Vec<String>,
    /// Those of the command line.
    asked: Vec<String>,
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
        // A tool that uses it by now keeps it.
        let _lock = lock::take(&root, context, Purpose::Download)?;
        Place::beside_root(&gpgdir(document, &root)?)?.remove()?;
        Place::in_root(&root)?.remove()
    });
    if let Err(failure) = removed {
        context.report(&failure);
    }
}

impl Args {
    /// Builds the keyring.
    fn build(&self, context: &Context, document: &mut Document) -> Result<(), Failure> {
        let plan = self.plan(document)?;
        let pins = Pins {
            preset: &plan.pinned,
            asked: &plan.asked,
        };
        pins.need_some(&plan.of)?;
        let gpg = Gpg::find()?;
        let mut inside = Inside::of(document)?;
        self.patience.watch(context, &mut inside);
        // From the first look to the last rename: what is made beside the keyring is one run's, and what is there of an
        // earlier one is a dead one's.
        let _lock = lock::take(inside.root(), context, Purpose::Download)?;
        let (mut files, fetched) = self.rings(context, document, &inside, &plan)?;
        files.extend(fetched.iter().flat_map(|fetched| fetched.files.clone()));
        let made = trust::decide(files, pins).and_then(|ring| {
            let built = self.make(context, document, &inside, &ring, &gpg, fetched.as_ref())?;
            Ok((ring, built))
        });
        let (ring, built) = made.inspect_err(|failure| {
            // What was in the cache before stays there, and what nobody looked at, for want of a gpg.
            let stays = self.offline || failure.code == Code::NotFound;
            if let Some(fetched) = fetched.as_ref().filter(|_| !stays) {
                fetched.forget(context);
            }
        })?;
        record(document, inside.root(), &ring, &built);
        let trusted = ring.trusted.len() - built.dead.len();
        context.note(format_args!(
            "{}: {} trusted, {} valid, {} disabled",
            plan.of,
            count(trusted),
            built.summary.valid,
            built.summary.disabled
        ));
        Ok(())
    }

    /// Decides what to build, from the command line and the document. Touches nothing.
    fn plan(&self, document: &Document) -> Result<Plan, Failure> {
        for name in self.populate.iter().chain(&self.package) {
            if !package::name::is_name(name) {
                return Err(Failure::new(
                    Code::Usage,
                    format!("'{name}' is not the name of a ring or a package"),
                ));
            }
        }
        let mut asked = Vec::new();
        for key in &self.trust {
            let key = key.replace(' ', "").to_ascii_uppercase();
            distro::check::fingerprint(&key)
                .map_err(|why| Failure::new(Code::Usage, format!("--trust: {why}")))?;
            asked.push(key);
        }
        let preset = match document.text("distro") {
            Some(name) => Some(Preset::load(name).map_err(unusable)?),
            None => None,
        };
        let keyring = preset
            .as_ref()
            .map(|p| p.keyring.clone())
            .unwrap_or_default();
        let or = |given: &Vec<String>, default: Vec<String>| {
            if given.is_empty() {
                default
            } else {
                given.clone()
            }
        };
        let names = or(&self.populate, keyring.populate);
        if names.is_empty() {
            return Err(Failure::new(
                Code::Usage,
                match &preset {
                    Some(preset) => format!("{} has no keyring", preset.title),
                    None => "the document names no distribution, so no keyring".to_owned(),
                },
            )
            .hint("say which: --populate NAME --package NAME --trust FINGERPRINT"));
        }
        Ok(Plan {
            of: preset.map_or_else(|| names.join(", "), |p| p.title),
            names,
            packages: or(&self.package, keyring.packages),
            pinned: keyring.trusted.into_iter().map(|p| p.fingerprint).collect(),
            asked,
        })
    }

    /// Makes the keyring of a ring, and lets it take its place when the packages that it is from have been checked by it.
    fn make(
        &self,
        context: &Context,
        document: &Document,
        inside: &Inside,
        ring: &Ring,
        gpg: &Gpg,
        fetched: Option<&Fetched>,
    ) -> Result<Built, Failure> {
        if self.extend {
            refuse_after_loose(document)?;
        }
        let root = inside.root();
        let gpgdir = gpgdir(document, root)?;
        let (in_root, beside) = (Place::in_root(root)?, Place::beside_root(&gpgdir)?);
        let build = || {
            let built = build::build(context, document, inside, ring, gpg, self.extend)?;
            let mut own = in_root.new_secret_keys()?;
            own.insert(built.own.clone());
            // Those of before, too: we may be killed before the root's keyring is replaced.
            own.extend(beside.known_own_keys()?);
            let files = in_root.read_new_public()?;
            beside.write_new(&Home::beside_root(&files, &own, &built.extended))?;
            if let Some(fetched) = fetched {
                let mut inside = Inside::of(document)?.with_gpgdir(beside.new_path());
                self.patience.watch(context, &mut inside);
                fetched.prove(context, document, &inside)?;
            }
            Ok((built, own))
        };
        let (built, mut own) = build().inspect_err(|_| {
            // What stays is removed by the next run, which needs the names.
            drop(in_root.remove_new().and(beside.remove_new()));
        })?;
        let is_ours = || !in_root.secret_keys().is_disjoint(&own);
        let was_there = in_root.is_there();
        if is_ours() && !self.extend && in_root.read_public()? != beside.read_public()? {
            context.note(
                "the root's keyring was changed since it was built: what was added to it is not in the new one",
            );
        }
        let was_empty = was_there && in_root.is_empty()?;
        if was_there && !is_ours() && !was_empty {
            let to = in_root.set_aside()?;
            context.warn(format_args!(
                "the root's keyring was not built by this pipeline: it gives no trust, and is kept as {}",
                quote(&to)
            ));
        }
        beside.replace()?;
        if !was_there || was_empty {
            let document = document.clone();
            context.on_undo(move |context| remove_keyring(context, &document));
        }
        if !self.in_root {
            in_root.replace()?;
            return Ok(built);
        }
        in_root.remove_new()?;
        in_root.remove()?;
        in_root::build(context, inside, ring)?;
        let (summary, key) = build::check_foreign(document, inside, ring, gpg, &gpgdir)?;
        own.insert(key);
        own.extend(in_root.secret_keys());
        beside.write_new(&Home::beside_root(&beside.read_public()?, &own, &[]))?;
        beside.replace()?;
        Ok(Built { summary, ..built })
    }

    /// Gets the rings: from the root where the package is installed, the others from the mirror.
    fn rings(
        &self,
        context: &Context,
        document: &Document,
        inside: &Inside,
        plan: &Plan,
    ) -> Result<(Vec<Files>, Option<Fetched>), Failure> {
        let mut rings = Vec::new();
        let mut missing = Vec::new();
        for name in &plan.names {
            match source::installed(inside.root(), name)? {
                Some(files) => rings.push(files),
                None => missing.push(name.as_str()),
            }
        }
        if missing.is_empty() {
            return Ok((rings, None));
        }
        if self.in_root {
            return Err(Failure::new(
                Code::NotFound,
                format!("the root has no ring '{}' for its pacman-key", missing[0]),
            )
            .hint("its keyring package is to be installed first: leave --in-root out, or strap --loose it"));
        }
        if plan.packages.is_empty() {
            return Err(Failure::new(
                Code::Usage,
                format!(
                    "the root has no ring '{}', and no package is known that has it",
                    missing[0]
                ),
            )
            .hint("name the package with --package NAME"));
        }
        let packages = &plan.packages;
        let fetched =
            source::download(context, document, inside, packages, &missing, self.offline)?;
        Ok((rings, Some(fetched)))
    }
}

fn unusable(error: distro::Error) -> Failure {
    let failure = Failure::new(Code::Failed, &error);
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Returns the GnuPG home beside the root: where the document's configuration says, or where mkconf would say.
fn gpgdir(document: &Document, root: &Root) -> Result<PathBuf, Failure> {
    let config: Option<Config> = document.view("config")?;
    Ok(match config {
        Some(config) => config.gpgdir(),
        None => {
            let mut beside = root.path().as_os_str().to_owned();
            beside.push(".strapline");
            PathBuf::from(beside).join("gnupg")
        }
    })
}

/// Refuses to extend a keyring to which packages that nobody verified could have written.
fn refuse_after_loose(document: &Document) -> Result<(), Failure> {
    let strap: Option<members::Strap> = document.view("strap")?;
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

fn record(document: &mut Document, root: &Root, ring: &Ring, built: &Built) {
    let is_alive = |key: &&String| built.dead.iter().all(|(dead, _)| dead != *key);
    let keyring = Keyring {
        dir: root.path().join(home::AT),
        populated: ring.keys.iter().map(|(name, _)| name.clone()).collect(),
        trusted: ring.trusted.iter().filter(is_alive).cloned().collect(),
        extended: built.extended.clone(),
        stripped: None,
    };
    let knows = ["dir", "populated", "trusted", "extended", "stripped"];
    document.record_anew("keyring", &knows, &keyring);
}

/// Takes the keys out of the keyring again. Nothing runs for it, but a root is only ever worked on by the user whose it is.
fn strip_keyring(strip: Strip, context: &Context, document: &mut Document) -> Result<(), Failure> {
    let inside = Inside::of(document)?;
    let _lock = lock::take(inside.root(), context, Purpose::Download)?;
    let changed = strip.apply(inside.root())?;
    strip.record(document, inside.root())?;
    context.note(match (changed, strip) {
        (false, _) => "there was nothing to take out of the keyring",
        (true, Strip::All) => "all keys are out of the keyring: pacman-key makes it anew",
        (true, Strip::Secret) => "the secret key is out of the keyring",
    });
    Ok(())
}

fn count(keys: usize) -> String {
    match keys {
        1 => "1 key".to_owned(),
        n => format!("{n} keys"),
    }
}

fn main() -> ExitCode {
    rootfs::seal_descriptors();
    stage::main::<Args>()
}
