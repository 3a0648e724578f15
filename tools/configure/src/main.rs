//! `configure` sets up the system in a root: what an installation guide does in the chroot, as one stage.
//!
//! All that was asked for is checked against the root before anything is written. Each file is written atomically and only
//! where it differs, so that the next run completes one that was killed, and a run after that changes nothing. Programs of
//! the root run in it: its own locale-gen, useradd, systemctl.
//!
//! Two things are done without being asked, since an image without them is insecure: root is locked where root had no
//! password, and there is no machine id in it.

mod accounts;
mod clock;
mod console;
mod first_boot;
mod fstab;
mod home;
mod host_name;
mod item;
mod keys;
mod locale;
mod machine_id;
mod mirror;
mod record;
mod records;
mod resolver;
mod secret;
mod sudo;
mod text;
mod tree;
mod units;

use accounts::Accounts;
use clap::Parser;
use clock::TimeZone;
use console::KeyMap;
use first_boot::FirstBootKeyring;
use fstab::Fstab;
use host_name::HostName;
use item::{Item, Site};
use locale::Locales;
use machine_id::MachineId;
use mirror::Mirrors;
use pacman::Patience;
use pacman::lock::{self, Purpose};
use record::Configured;
use resolver::Resolver;
use rootfs::{Inside, Place};
use serde::{Deserialize, Serialize};
use stage::{Code, Common, Context, Document, Doing, Failure, Kind, Stage};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use sudo::Sudo;
use text::unique;
use tree::Tree;
use units::Units;

/// Configure the system in a root: host name, locales, time zone, users, units, fstab
///
/// Everything is checked against the root before anything is written. In any case root is locked where root has no
/// password, and the machine id is left for the first boot.
#[derive(Debug, Parser)]
#[command(name = "configure", version, help_expected = true, max_term_width = 80)]
#[command(
    after_help = "Example:\n  ... | strap base openssh sudo \\\n    | configure --hostname alarm --locale en_US.UTF-8 --timezone Europe/Berlin \\\n        --user ann:wheel --ssh-key ann:id_ed25519.pub --sudo --enable sshd"
)]
struct Args {
    /// Set the host name, in hostname and hosts
    #[arg(long, value_name = "NAME", value_parser = HostName::parse)]
    hostname: Option<HostName>,

    /// Generate this locale; the first one is LANG
    #[arg(long, value_name = "LOCALE", value_parser = locale::parse)]
    locale: Vec<String>,

    /// Set the time zone, as Europe/Berlin
    #[arg(long, value_name = "ZONE", value_parser = TimeZone::parse)]
    timezone: Option<TimeZone>,

    /// Set the console's keymap
    #[arg(long, value_name = "KEYMAP", value_parser = KeyMap::parse)]
    keymap: Option<KeyMap>,

    /// Create or update user NAME, a member of these groups
    #[arg(long, value_name = "NAME[:GROUP,...]", value_parser = accounts::parse_user)]
    user: Vec<(String, Vec<String>)>,

    /// Set NAME's shell
    #[arg(long, value_name = "NAME:PATH", value_parser = accounts::parse_shell)]
    shell: Vec<(String, String)>,

    /// Read NAME's password from FILE
    #[arg(long, value_name = "NAME:FILE", value_parser = accounts::parse_file)]
    password_file: Vec<(String, PathBuf)>,

    /// Read the hash of NAME's password, as of crypt(5), from FILE
    #[arg(long, value_name = "NAME:FILE", value_parser = accounts::parse_file)]
    password_hash_file: Vec<(String, PathBuf)>,

    /// Add the public keys in FILE to NAME's authorized_keys
    #[arg(long, value_name = "NAME:FILE", value_parser = accounts::parse_file)]
    ssh_key: Vec<(String, PathBuf)>,

    /// Allow sudo to members of wheel
    #[arg(long)]
    sudo: bool,

    /// Start this unit at boot
    #[arg(long, value_name = "UNIT", value_parser = units::parse)]
    enable: Vec<String>,

    /// Write fstab, for the plan's devices or the disk that mkdisk makes
    #[arg(long)]
    fstab: bool,

    /// The disk's layout, as for mkdisk [default: mkdisk's]
    #[arg(long, value_name = "FILE", requires = "fstab")]
    layout: Option<PathBuf>,

    /// Set the root's own mirror, a URL with $repo and $arch
    #[arg(long, value_name = "URL", value_parser = mirror::parse)]
    mirror: Vec<String>,

    /// Link resolv.conf to systemd-resolved's, or name servers
    #[arg(long, value_name = "resolved|ADDRESS,...", value_parser = Resolver::parse)]
    resolv_conf: Option<Resolver>,

    /// Make the machine's pacman keyring when it boots first
    #[arg(long)]
    first_boot_keyring: bool,

    #[command(flatten)]
    patience: Patience,

    #[command(flatten)]
    common: Common,
}

/// The result of the work inside.
#[derive(Debug, Deserialize, Serialize)]
struct Done {
    /// Paths by item.
    changed: BTreeMap<String, Vec<String>>,
    /// Whether root has a password.
    root: Option<String>,
    warnings: Vec<String>,
    seconds: f64,
}

impl Stage for Args {
    const KIND: Kind = Kind::Make;

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, context: &Context, document: &mut Document) -> Result<(), Failure> {
        let accounts = Accounts::of(self)?;
        let mut configured = Configured::of(document, self, &accounts)?;
        let keyring = match self.first_boot_keyring {
            true => Some(FirstBootKeyring::of(document)?),
            false => None,
        };
        let mut inside = Inside::of(document)?;
        self.patience.watch(context, &mut inside);
        let fstab = match self.fstab {
            true => {
                let salt = configured.hostname.as_deref().unwrap_or_default();
                let layout = self.layout.as_deref();
                Some(Fstab::find(layout, context, document, inside.root(), salt)?)
            }
            false => None,
        };
        let planned = fstab.as_ref().map_or(Vec::new(), |f| f.planned.clone());
        configured.fstab = fstab.as_ref().map_or(Vec::new(), Fstab::mount_points);
        configured.first_boot_keyring = keyring.as_ref().map_or(Vec::new(), |k| k.0.clone());
        let items = self.items(accounts, fstab, keyring);
        let _lock = lock::take(inside.root(), context, Purpose::Download)?;
        let done = work(context, &inside, &items)?;
        context.waited(Duration::try_from_secs_f64(done.seconds).unwrap_or_default());
        for warning in &done.warnings {
            context.warn(warning);
        }
        if !planned.is_empty() {
            document.record("filesystems", &planned);
        }
        let count: usize = done.changed.values().map(Vec::len).sum();
        configured.root = done.root;
        configured.record(document, done.changed);
        context.note(match count {
            0 => "nothing to change".to_owned(),
            1 => "1 file changed".to_owned(),
            n => format!("{n} files changed"),
        });
        Ok(())
    }
}

impl Args {
    /// Returns what is configured, in this order: what others depend on comes first.
    fn items(
        &self,
        accounts: Accounts,
        fstab: Option<Fstab>,
        keyring: Option<FirstBootKeyring>,
    ) -> Vec<Named> {
        fn named(name: &'static str, item: impl Item + 'static) -> Named {
            (name, Box::new(item))
        }
        let list = |values: &[String]| Some(unique(values)).filter(|list| !list.is_empty());
        let (hostname, timezone, keymap) = (&self.hostname, &self.timezone, &self.keymap);
        let items = [
            Some(named("machine_id", MachineId)),
            hostname.clone().map(|item| named("hostname", item)),
            list(&self.locale).map(|list| named("locales", Locales(list))),
            timezone.clone().map(|item| named("timezone", item)),
            keymap.clone().map(|item| named("keymap", item)),
            Some(named("users", accounts)),
            self.sudo.then(|| named("sudo", Sudo)),
            list(&self.enable).map(|list| named("units", Units(list))),
            fstab.map(|item| named("fstab", item)),
            list(&self.mirror).map(|list| named("mirrors", Mirrors(list))),
            self.resolv_conf
                .clone()
                .map(|item| named("resolv_conf", item)),
            keyring.map(|item| named("first_boot_keyring", item)),
        ];
        items.into_iter().flatten().collect()
    }
}

/// An item with its name in the document.
type Named = (&'static str, Box<dyn Item>);

/// Enters the root, makes all checks, and then applies the items.
fn work(context: &Context, inside: &Inside, items: &[Named]) -> Result<Done, Failure> {
    let host_path = inside.root().path().to_owned();
    let quiet = context.quiet;
    let bytes = inside.call(Place::Root, move || {
        let begin = Instant::now();
        let mut site = Site {
            tree: Tree::open(Path::new("/"), &host_path)?,
            quiet,
            warnings: Vec::new(),
        };
        for (_, item) in items {
            item.check(&site)?;
        }
        let mut changed = BTreeMap::new();
        for (name, item) in items {
            item.apply(&mut site)?;
            let paths = site.tree.take_changed();
            if !paths.is_empty() {
                changed.insert((*name).to_owned(), paths);
            }
        }
        let done = Done {
            changed,
            root: accounts::root(&site.tree)?,
            warnings: site.warnings,
            seconds: begin.elapsed().as_secs_f64(),
        };
        serde_json::to_vec(&done).doing(Code::Os, || "returning the result from inside")
    })?;
    serde_json::from_slice(&bytes).doing(Code::Os, || "reading the result from inside")
}

fn main() -> ExitCode {
    rootfs::seal_descriptors();
    stage::main::<Args>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_value_is_a_usage_error_that_names_the_option() {
        for (option, value, why) in [
            ("--hostname", "a_b", "only letters"),
            ("--timezone", "../etc/passwd", "AREA/PLACE"),
            ("--keymap", "a/b", "only letters"),
            ("--locale", "a b", "LANGUAGE_COUNTRY.CHARSET"),
            ("--user", "Ann", "lower-case"),
            ("--user", "ann:a,,b", "invalid name of a group: ''"),
            ("--shell", "ann", "not of the form NAME:VALUE"),
            ("--shell", "ann:bash", "the path is not absolute"),
            ("--ssh-key", ":x", "lower-case"),
            ("--enable", "../x", "only letters"),
            ("--mirror", "https://m.example.org/", "no $repo in it"),
            ("--resolv-conf", "x", "neither 'resolved' nor"),
        ] {
            let error = Args::try_parse_from(["configure", option, value]).unwrap_err();
            let text = error.to_string();
            let begin = format!("error: invalid value '{value}' for '{option} <");
            assert!(text.starts_with(&begin) && text.contains(why), "{text}");
        }
    }
}
