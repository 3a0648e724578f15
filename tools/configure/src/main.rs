//! `configure` makes a root somebody's own: what an installation guide says to do in the chroot, as one stage.
//!
//! What was asked for is first checked against the root, all of it, and only then is anything written. Each file is written
//! whole and only where it differs, so that a run that was killed is mended by the next, and a run after that finds nothing
//! to do. What has to run in the root runs there: its own locale-gen, useradd, systemctl.
//!
//! Two things are done without being asked, since an image without them is a hole: root is locked where root had no
//! password, and there is no machine id in it.

mod accounts;
mod clock;
mod console;
mod first_boot;
mod fstab;
mod home;
mod host_name;
mod keys;
mod locale;
mod machine_id;
mod mirror;
mod plan;
mod program;
mod record;
mod records;
mod resolver;
mod secret;
mod step;
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
use image::layout::FileSystem;
use locale::Locales;
use machine_id::MachineId;
use mirror::Mirrors;
use pacman::Patience;
use pacman::lock::{self, Purpose};
use plan::Plan;
use program::Programs;
use record::Configured;
use rootfs::{Inside, Place};
use secret::Secret;
use serde::{Deserialize, Serialize};
use stage::{Code, Common, Context, Document, Doing, Failure, Kind, Stage, quote};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use step::{Site, Step};
use sudo::Sudo;
use tree::Tree;
use units::Units;

/// Make a root somebody's own: host name, locales, time zone, users, units, fstab
///
/// All that is asked for is checked against the root before anything is written. Root is locked where root has no
/// password, and the machine id is left for the first boot, whatever is asked for.
#[derive(Debug, Parser)]
#[command(name = "configure", version, help_expected = true, max_term_width = 80)]
#[command(
    after_help = "Example:\n  ... | strap base openssh sudo \\\n    | configure --hostname alarm --locale en_US.UTF-8 --timezone Europe/Berlin \\\n        --user ann:wheel --ssh-key ann:id_ed25519.pub --sudo --enable sshd"
)]
struct Args {
    /// The machine's name, in hostname and hosts
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,

    /// Generate this locale; the first one is LANG
    #[arg(long, value_name = "LOCALE")]
    locale: Vec<String>,

    /// The time zone, as Europe/Berlin
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,

    /// The console's keymap
    #[arg(long, value_name = "KEYMAP")]
    keymap: Option<String>,

    /// There is to be this user, a member of these groups
    #[arg(long, value_name = "NAME[:GROUP,...]")]
    user: Vec<String>,

    /// The user's shell
    #[arg(long, value_name = "NAME:PATH")]
    shell: Vec<String>,

    /// The user's password is the line of FILE
    #[arg(long, value_name = "NAME:FILE")]
    password_file: Vec<String>,

    /// The hash of the user's password, as of crypt(5), is the line of FILE
    #[arg(long, value_name = "NAME:FILE")]
    password_hash_file: Vec<String>,

    /// The user may log in by ssh with the public keys in FILE
    #[arg(long, value_name = "NAME:FILE")]
    ssh_key: Vec<String>,

    /// Members of wheel may use sudo
    #[arg(long)]
    sudo: bool,

    /// Start this unit at boot
    #[arg(long, value_name = "UNIT")]
    enable: Vec<String>,

    /// Write fstab, for the plan's devices or the disk that mkdisk makes
    #[arg(long)]
    fstab: bool,

    /// The disk's layout, as mkdisk takes it [default: mkdisk's]
    #[arg(long, value_name = "FILE", requires = "fstab")]
    layout: Option<PathBuf>,

    /// The root's own mirror, with $repo and $arch in it
    #[arg(long, value_name = "URL")]
    mirror: Vec<String>,

    /// Link resolv.conf to systemd-resolved's, or name servers
    #[arg(long, value_name = "resolved|ADDRESS,...")]
    resolv_conf: Option<String>,

    /// The machine makes its pacman keyring when it boots first
    #[arg(long)]
    first_boot_keyring: bool,

    #[command(flatten)]
    patience: Patience,

    #[command(flatten)]
    common: Common,
}

/// The most that a file of passwords or keys has, in bytes.
const LIMIT: u64 = 1 << 20;

/// What was done inside.
#[derive(Debug, Deserialize, Serialize)]
struct Done {
    /// By step.
    changed: BTreeMap<String, Vec<String>>,
    /// What root is by now.
    root: Option<String>,
    warnings: Vec<String>,
    /// How long that took.
    seconds: f64,
}

impl Stage for Args {
    const KIND: Kind = Kind::Make;

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, context: &Context, document: &mut Document) -> Result<(), Failure> {
        let plan = plan::plan(self, document)?;
        let mut configured = Configured::of(document)?;
        let mut inside = Inside::of(document)?;
        self.patience.watch(context, &mut inside);
        let fstab = match &plan.fstab {
            Some(source) => {
                let name = plan.hostname.as_ref().or(configured.hostname.as_ref());
                let salt = name.map_or("", String::as_str);
                let warn = |text: String| context.warn(text);
                Some(Fstab::find(source, document, inside.root(), salt, warn)?)
            }
            None => None,
        };
        let places = fstab.as_ref().map(Fstab::places).unwrap_or_default();
        let planned: Vec<FileSystem> = fstab
            .as_ref()
            .map(|f| f.planned.clone())
            .unwrap_or_default();
        let steps = steps(&plan, accounts(&plan)?, fstab);
        let _lock = lock::take(inside.root(), context, Purpose::Download)?;
        let done = work(context, &inside, &steps)?;
        context.waited(Duration::try_from_secs_f64(done.seconds).unwrap_or_default());
        for warning in &done.warnings {
            context.warn(warning);
        }
        if !planned.is_empty() {
            document.record("filesystems", &planned);
        }
        let count: usize = done.changed.values().map(Vec::len).sum();
        configured.add(&plan, places, done.root, done.changed);
        configured.record(document);
        context.note(match count {
            0 => "nothing was to change".to_owned(),
            1 => "1 file changed".to_owned(),
            n => format!("{n} files changed"),
        });
        Ok(())
    }
}

/// Reads the files of passwords and keys, and the date.
fn accounts(plan: &Plan) -> Result<Accounts, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs();
    let date = image::epoch::of_environment()?.unwrap_or(now);
    let mut accounts = Accounts {
        today: (date / 86_400).max(1),
        users: plan.users.clone(),
        shells: plan.shells.iter().cloned().collect(),
        ..Accounts::default()
    };
    for (name, file) in &plan.passwords {
        let secret = read(file, Secret::plain)?;
        accounts.secrets.insert(name.clone(), secret);
    }
    for (name, file) in &plan.hashes {
        let secret = read(file, Secret::hash)?;
        accounts.secrets.insert(name.clone(), secret);
    }
    for (name, file) in &plan.keys {
        let keys = read(file, keys::parse)?;
        plan::merge(accounts.keys.entry(name.clone()).or_default(), keys);
    }
    Ok(accounts)
}

fn read<T>(file: &Path, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, Failure> {
    let doing = || format!("reading {}", quote(file));
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|file| file.take(LIMIT + 1).read_to_string(&mut text))
        .doing(Code::Usage, doing)?;
    if text.len() as u64 > LIMIT {
        return Err(Failure::new(
            Code::Usage,
            format!("{}: it is longer than {LIMIT} bytes", doing()),
        ));
    }
    parse(&text).doing(Code::Usage, doing)
}

/// Returns what is to be done, in this order: what others look up comes before them.
fn steps(plan: &Plan, accounts: Accounts, fstab: Option<Fstab>) -> Vec<Box<dyn Step>> {
    let mut steps: Vec<Box<dyn Step>> = vec![Box::new(MachineId)];
    let mut add = |step: Box<dyn Step>| steps.push(step);
    let Plan {
        hostname,
        locales,
        timezone,
        keymap,
        sudo,
        units,
        mirrors,
        resolver,
        first_boot_keyring,
        ..
    } = plan.clone();
    if let Some(name) = hostname {
        add(Box::new(HostName(name)));
    }
    if !locales.is_empty() {
        add(Box::new(Locales(locales)));
    }
    if let Some(zone) = timezone {
        add(Box::new(TimeZone(zone)));
    }
    if let Some(keymap) = keymap {
        add(Box::new(KeyMap(keymap)));
    }
    add(Box::new(accounts));
    if sudo {
        add(Box::new(Sudo));
    }
    if !units.is_empty() {
        add(Box::new(Units(units)));
    }
    if let Some(fstab) = fstab {
        add(Box::new(fstab));
    }
    if !mirrors.is_empty() {
        add(Box::new(Mirrors(mirrors)));
    }
    if let Some(resolver) = resolver {
        add(Box::new(resolver));
    }
    if let Some(rings) = first_boot_keyring {
        add(Box::new(FirstBootKeyring(rings)));
    }
    steps
}

/// Goes inside and does it: first all checks, then all the rest.
fn work(context: &Context, inside: &Inside, steps: &[Box<dyn Step>]) -> Result<Done, Failure> {
    let shown = inside.root().path().to_owned();
    let quiet = context.quiet;
    inside.call(Place::Root, &[], move || {
        let begin = Instant::now();
        let site = Site {
            tree: Tree::open(Path::new("/"), &shown)?,
            programs: Programs { quiet },
            warnings: Default::default(),
        };
        for step in steps {
            step.check(&site)?;
        }
        let mut changed = BTreeMap::new();
        for step in steps {
            step.apply(&site)?;
            let paths = site.tree.take_changed();
            if !paths.is_empty() {
                changed.insert(step.name().to_owned(), paths);
            }
        }
        Ok(Done {
            changed,
            root: accounts::root(&site.tree)?,
            warnings: site.warnings.into_inner(),
            seconds: begin.elapsed().as_secs_f64(),
        })
    })
}

fn main() -> ExitCode {
    rootfs::seal_descriptors();
    stage::main::<Args>()
}
