//! `configure` sets up the system in a root: what an installation guide does in the chroot, as one stage.
//!
//! All that was asked for is checked against the root before anything is written. Each file is written atomically and only
//! where it differs, so that the next run completes one that was killed, and a run after that changes nothing. Programs of
//! the root run in it: its own locale-gen, useradd, systemctl.
//!
//! Two things are done without being asked, since an image without them is insecure: root is locked where root had no
//! password, and there is no machine id in it.

mod accounts;
mod args;
mod clock;
mod console;
mod first_boot;
mod fstab;
mod growth;
mod home;
mod host_name;
mod item;
mod keys;
mod locale;
mod login;
mod machine_id;
mod mirror;
mod network;
mod os_release;
mod record;
mod records;
mod repositories;
mod resolver;
mod secret;
mod sudo;
mod text;
mod tree;
mod trees;
mod units;

use accounts::Accounts;
use args::Args;
use first_boot::FirstBootKeyring;
use fstab::Fstab;
use growth::Growth;
use item::{Item, Site};
use locale::Locales;
use machine_id::MachineId;
use mirror::Mirrors;
use network::Network;
use os_release::OsRelease;
use pacman::lock::{self, Purpose};
use repositories::Repositories;
use resolver::Resolver;
use rootfs::{Inside, Place, Root};
use serde::{Deserialize, Serialize};
use stage::members::{Login, TreeFile};
use stage::{Code, Common, Context, Document, Failure, Kind, Stage};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};
use sudo::{NoPasswd, Sudo};
use text::unique;
use tree::Tree;
use trees::Trees;
use units::{DefaultTarget, Disabled, Masked, Units};

/// The result of the work inside.
#[derive(Debug, Deserialize, Serialize)]
struct Done {
    /// Paths by item.
    changed: BTreeMap<String, Vec<String>>,
    /// Whether root has a password.
    root: Option<String>,
    /// Who can log in.
    login: Login,
    /// What trees brought, as it is now.
    tree: Vec<TreeFile>,
    /// Mount points of what will grow on a larger disk.
    grows: Vec<String>,
    warnings: Vec<String>,
    seconds: f64,
}

impl Stage for Args {
    const KIND: Kind = Kind::Make;

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, context: &Context, document: &mut Document) -> Result<(), Failure> {
        self.check_units()?;
        let accounts = Accounts::of(self)?;
        let mut configured = record::configured(document, self, &accounts);
        let keyring = self.first_boot_keyring.then(|| FirstBootKeyring::of(document)).transpose()?;
        let repositories = self.repositories.then(|| Repositories::of(document)).transpose()?;
        let mut inside = Inside::of(document)?;
        self.timeout.watch(context, &mut inside);
        let salt = configured.hostname.as_deref().unwrap_or_default();
        let find =
            || Fstab::find((self.layout.as_deref(), self.board.as_deref()), context, document, inside.root(), salt);
        let fstab = self.fstab.then(find).transpose()?;
        let (mut planned, mut growing) = (Vec::new(), None);
        if let Some(fstab) = &fstab {
            growing.clone_from(&fstab.growing);
            configured.fstab = fstab.mount_points();
            planned.clone_from(&fstab.planned);
        }
        if let Some(keyring) = &keyring {
            configured.first_boot_keyring.clone_from(&keyring.0);
        }
        let before: Vec<TreeFile> = document.get().unwrap_or_default();
        let trees = Rc::new(Trees::read(&self.tree, before, &accounts, inside.mounts())?);
        if let Some(repositories) = &repositories {
            configured.repositories = repositories.names();
        }
        let resolver = self.resolver(&configured.resolv_conf, &trees, inside.root());
        if let Some(resolver) = &resolver {
            configured.resolv_conf = resolver.words();
        }
        let network = Network::read(&self.network)?;
        text::merge(&mut configured.network, &network.names);
        let mut items = self.items(accounts, &trees, fstab, network, keyring, repositories);
        items.extend(resolver.map(|item| -> Named { ("resolv_conf", Box::new(item)) }));
        let _lock = lock::take(inside.root(), context, Purpose::Download)?;
        let done = work(context, &inside, &items, &trees)?;
        // An image without a disk's file systems is a container's, where nobody logs in.
        if !configured.fstab.is_empty() {
            login::tell(&done.login, context);
            configured.login = Some(done.login);
        }
        context.waited(Duration::try_from_secs_f64(done.seconds).unwrap_or_default());
        for warning in &done.warnings {
            context.warn(warning);
        }
        if !planned.is_empty() {
            for file_system in planned.iter_mut().filter(|f| done.grows.contains(&f.at)) {
                file_system.grows = growing.as_ref().map(|growing| growing.kind.clone());
            }
            document.write(&planned);
        }
        let count: usize = done.changed.values().map(Vec::len).sum();
        configured.root = done.root.or(configured.root);
        configured.changed = record::changed(done.changed);
        document.write(&configured);
        if !done.tree.is_empty() {
            document.write(&done.tree);
        }
        context.note(match count {
            0 => "nothing to change".to_owned(),
            1 => "1 file changed".to_owned(),
            n => format!("{n} files changed"),
        });
        Ok(())
    }
}

impl Args {
    /// Refuses a unit that is to be two things at once.
    fn check_units(&self) -> Result<(), Failure> {
        let lists = [("--enable", &self.enable), ("--disable", &self.disable), ("--mask", &self.mask)];
        for (one, other) in [(0, 1), (0, 2)] {
            let ((one, list), (other, others)) = (lists[one], lists[other]);
            if let Some(unit) = list.iter().find(|unit| others.contains(unit)) {
                return Err(Failure::new(Code::Usage, format!("the unit '{unit}' is given to {one} and to {other}")));
            }
        }
        Ok(())
    }

    /// Returns how names are resolved: as asked for, else by systemd-resolved where that is enabled now, and neither an earlier
    /// run nor a tree nor the root itself has name servers.
    fn resolver(&self, before: &[String], trees: &Trees, root: &Root) -> Option<Resolver> {
        let is_enabled = self.enable.iter().any(|unit| unit == resolver::UNIT);
        let is_free = || before.is_empty() && !trees.have(resolver::AT) && !resolver::has_servers(root);
        self.resolv_conf.clone().or_else(|| (is_enabled && is_free()).then_some(Resolver::Resolved))
    }

    /// Returns what is configured, in this order: what others depend on comes first.
    fn items(
        &self,
        accounts: Accounts,
        trees: &Rc<Trees>,
        fstab: Option<Fstab>,
        network: Network,
        keyring: Option<FirstBootKeyring>,
        repositories: Option<Repositories>,
    ) -> Vec<Named> {
        fn named(name: &'static str, item: impl Item + 'static) -> Named {
            (name, Box::new(item))
        }
        let list = |values: &[String]| Some(unique(values)).filter(|list| !list.is_empty());
        let (hostname, timezone, keymap) = (&self.hostname, &self.timezone, &self.keymap);
        let made = accounts.users.iter().filter(|(_, account)| account.make).map(|(name, _)| name.clone());
        let groups = accounts.groups.keys().map(|group| format!("%{group}"));
        let coming = made.chain(groups).collect();
        let items = [
            // Programs that make users read it.
            timezone.clone().map(|item| named("timezone", item)),
            Some(named("users", accounts)),
            (!self.tree.is_empty()).then(|| named("tree", Rc::clone(trees))),
            Some(named("machine_id", MachineId)),
            hostname.clone().map(|item| named("hostname", item)),
            list(&self.locale).map(|list| named("locales", Locales(list))),
            keymap.clone().map(|item| named("keymap", item)),
            self.sudo.then(|| named("sudo", Sudo)),
            list(&self.nopasswd).map(|names| named("nopasswd", NoPasswd { names, coming })),
            list(&self.disable).map(|list| named("disabled", Disabled(list))),
            list(&self.enable).map(|names| named("units", Units { names, global: false })),
            list(&self.enable_global).map(|names| named("global_units", Units { names, global: true })),
            list(&self.mask).map(|list| named("masked", Masked(list))),
            self.default_target.clone().map(|target| named("default_target", DefaultTarget(target))),
            Some(self.os_release.clone())
                .filter(|list| !list.is_empty())
                .map(|list| named("os_release", OsRelease(list))),
            fstab.as_ref().map(|fstab| named("growth", Growth(fstab.growing.clone()))),
            fstab.map(|item| named("fstab", item)),
            list(&self.mirror).map(|list| named("mirrors", Mirrors(list))),
            repositories.map(|item| named("repositories", item)),
            (!network.names.is_empty()).then(|| named("network", network)),
            keyring.map(|item| named("first_boot_keyring", item)),
        ];
        items.into_iter().flatten().collect()
    }
}

/// An item with its name in the document.
type Named = (&'static str, Box<dyn Item>);

/// Enters the root, makes all checks, and then applies the items.
fn work(context: &Context, inside: &Inside, items: &[Named], trees: &Trees) -> Result<Done, Failure> {
    let host_path = inside.root().path().to_owned();
    let quiet = context.quiet;
    inside.call(Place::Root, &trees.descriptors(), move || {
        let begin = Instant::now();
        let mut site = Site::of(Tree::open(Path::new("/"), &host_path)?, quiet);
        (site.coming, site.laid) = (trees.paths(), trees.before.clone());
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
        Ok(Done {
            tree: trees::record_edited(&site, &changed)?,
            changed,
            login: login::look(&site.tree)?,
            root: accounts::root(&site.tree)?,
            grows: site.grows,
            warnings: site.warnings,
            seconds: begin.elapsed().as_secs_f64(),
        })
    })
}

fn main() -> ExitCode {
    rootfs::seal_descriptors();
    stage::main::<Args>()
}
