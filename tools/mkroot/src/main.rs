//! `mkroot` makes the skeleton of a root, chooses how the root is entered, and writes the mount plan.
//!
//! Nothing is mounted by default: the plan is data, and every later tool mounts it in namespaces of its own. `mkroot`
//! checks that it works, by running a program of the root's architecture inside.

mod base;
mod cpu;
mod existing;
mod extra;
mod host;
mod skeleton;
mod tree;

use clap::Parser;
use distro::Preset;
use existing::Existing;
use rootfs::session::choose_handler;
use rootfs::tree::Source;
use rootfs::{Arch, Binfmt, Mount, Root, binfmt, plan};
use rustix::fs::{StatVfsMountFlags, fstatvfs};
use stage::complete::names;
use stage::members::{Arch as ArchName, Distro, Host, HostMount, IdMap, Machine, Mode, Overlays, Root as RootPath};
use stage::{Code, Common, Context, Document, Doing, Failure, Kind, Stage, quote};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Make the skeleton of a root, choose how it is entered, and write the mount plan
#[derive(Debug, Parser)]
#[command(
    version,
    help_expected = true,
    after_help = "Example:\n  mkroot target --arch aarch64 --distro archlinuxarm | fetch-pacman | mkconf | keyring | strap base"
)]
struct Mkroot {
    /// The root's directory; created if its parent exists
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// The root's architecture, as pacman names it [default: the host's]
    #[arg(long, value_name = "ARCH", add = names(rootfs::arch::names))]
    arch: Option<String>,

    /// The distribution: a preset or a TOML file [default: by architecture]
    #[arg(long, value_name = "NAME", add = names(distro::Preset::names))]
    distro: Option<String>,

    /// Lay the repositories of this preset over the distribution's
    #[arg(long, value_name = "NAME|FILE.toml", add = names(distro::Preset::names))]
    overlay: Vec<String>,

    /// Run programs of a foreign architecture by FILE, or by the host's handler
    #[arg(long, value_name = "FILE|host")]
    emulator: Option<PathBuf>,

    /// Also mount the plan on the host, until 'unmount'
    #[arg(long)]
    host: bool,

    /// Enter the root by chroot(2) alone, where no namespaces can be had; see mkroot(8) for what is lost
    #[arg(long, conflicts_with_all = ["host", "bind", "device"])]
    chroot: bool,

    /// Bind SRC of the host at AT in the root
    #[arg(long, value_name = "SRC:AT")]
    bind: Vec<String>,

    /// Mount a block device at AT in the root
    #[arg(long, value_name = "DEV:AT[:FSTYPE[:OPTIONS]]")]
    device: Vec<String>,

    /// Lay the files in DIR over the root, before packages
    #[arg(long, value_name = "DIR")]
    tree: Vec<PathBuf>,

    #[command(flatten)]
    from: base::From,

    #[command(flatten)]
    common: Common,
}

/// What is lost without namespaces.
const CHROOT: &str = "mode chroot: programs of the root have no /proc and no /sys, and nothing confines them: as root they can \
     reach all of this machine or container; where all is killed at once, processes and device nodes stay until the next tool";

/// What this run did.
#[derive(Default)]
struct Done {
    directory: Option<PathBuf>,
    /// Whether this run created the directory.
    made: bool,
    points: Vec<extra::Point>,
    /// What it unpacked.
    unpacked: Option<base::Unpacked>,
    /// What was mounted at the root itself.
    mounted: Vec<HostMount>,
}

/// What to make.
struct Plan {
    root: PathBuf,
    arch: Arch,
    /// What the document calls it.
    name: String,
    distro: Option<Preset>,
    idmap: Option<IdMap>,
    mounts: Vec<Mount>,
    trees: Vec<Source>,
}

impl Stage for Mkroot {
    const KIND: Kind = Kind::Start;

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, context: &Context, document: &mut Document) -> Result<(), Failure> {
        let mut done = Done::default();
        let root = absolute(&self.dir)?;
        // What the root is for, an archive says that has been unpacked.
        if let Some(base) = self.from.plan(context, document, &root, self.chroot)? {
            done.unpacked = base.unpack(context, document)?;
            done.directory = Some(root);
        }
        let plan = self.plan(document);
        let result = plan.and_then(|plan| self.apply(context, &plan, document, &mut done));
        match result {
            Ok(()) => context.on_undo(move |context| done.undo(context)),
            Err(_) => done.undo(context),
        }
        result
    }
}

impl Done {
    fn undo(self, context: &Context) {
        let Some(path) = &self.directory else {
            return;
        };
        let undone = || {
            // Nothing is removed while another tool works on the root.
            let _lock = Root::open(path)?.lock_exclusive()?;
            host::take_down(path, &self.mounted)?;
            if let Some(unpacked) = &self.unpacked {
                return unpacked.remove();
            }
            extra::remove(&Root::open(path)?, &self.points);
            if self.made {
                // Fails unless it is empty.
                std::fs::remove_dir(path).unwrap_or(());
            }
            Ok(())
        };
        if let Err(failure) = undone() {
            context.report(&failure);
        }
    }
}

impl Mkroot {
    /// Decides what to make, from the command line, the document and the user. Changes nothing.
    fn plan(&self, document: &Document) -> Result<Plan, Failure> {
        let root = absolute(&self.dir)?;
        if let Some(other) = document.root().filter(|r| *r != root) {
            return Err(Failure::new(
                Code::Usage,
                format!("making {}: the document's root is {}", quote(&root), quote(other)),
            ));
        }
        let existing = Existing::read(&root)?;
        let found = existing.as_ref();
        let asked = self.arch.as_deref().or(document.arch());
        let arch = match asked {
            Some(name) => {
                Arch::named(name).or_else(|unknown| self.arch_of_preset(document, name).unwrap_or(Err(unknown)))?
            }
            None => found.map_or(Ok(None), |e| e.arch(&root))?.map_or_else(Arch::host, Ok)?,
        };
        found.map_or(Ok(()), |e| e.check_arch(&root, arch))?;
        let name = asked.unwrap_or(arch.name).to_owned();
        let distro = self.distro(document, &name, &root, found)?;
        let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let rootless = me.0 != 0;
        let of_root = [
            (self.host, "mounting", "--host"),
            (self.chroot, "changing the root directory", "--chroot"),
            (!self.device.is_empty(), "mounting", "--device"),
        ];
        if let Some((_, doing, flag)) = of_root.iter().find(|(given, ..)| *given && rootless) {
            return Err(Failure::new(Code::Permission, format!("{doing} for {flag}: only root can do that"))
                .hint(format!("use sudo, or leave {flag} out")));
        }
        let idmap = if rootless {
            Some(rootfs::idmap::of_user(me.0, me.1)?)
        } else {
            rootfs::idmap::check_root()?;
            None
        };
        // Last, so that dev, run and tmp do not hide them.
        let mut mounts = if self.chroot { plan::chroot() } else { plan::api(rootless) };
        let devices = self.device.iter().map(|text| extra::device(text));
        for mount in devices.chain(self.bind.iter().map(|text| plan::bind(text))) {
            mounts.push(mount?);
        }
        let trees = self.tree.iter().map(|path| Source::read(path)).collect::<Result<Vec<_>, _>>()?;
        trees.iter().try_for_each(|tree| tree.check_mounts(&mounts))?;
        Ok(Plan { root, arch, name, distro, idmap, mounts, trees })
    }

    /// Returns the architecture that a preset alone knows: the one of the machine that it names. None where the preset does not.
    fn arch_of_preset(&self, document: &Document, name: &str) -> Option<Result<Arch, Failure>> {
        let preset = self.preset(self.distro.as_deref().or(document.distro())?, document).ok()?;
        let machine = preset.arch(name).ok()?.machine.clone()?;
        Some(Arch::of_machine(&machine))
    }

    /// Loads a preset with what is laid over it.
    fn preset(&self, name: &str, document: &Document) -> Result<Preset, Failure> {
        let overlays: Overlays = document.get().filter(|_| self.overlay.is_empty()).unwrap_or_default();
        Preset::with_overlays(name, if self.overlay.is_empty() { &overlays.0 } else { &self.overlay })
    }

    /// Returns the distribution, after checking that it has the architecture.
    fn distro(
        &self,
        document: &Document,
        arch: &str,
        root: &Path,
        existing: Option<&Existing>,
    ) -> Result<Option<Preset>, Failure> {
        let asked = self.distro.as_deref().or(document.distro());
        if let (Some(existing), Some(asked)) = (existing, asked) {
            existing.check_distribution(root, asked)?;
        }
        let fits = |name: &&str| Preset::load(name).is_ok_and(|p| p.arch(arch).is_ok());
        let of_root = existing.and_then(|e| Some((e, e.distributions()?)));
        let name = match (asked, &of_root) {
            (Some(name), _) => name,
            (None, Some((existing, names))) => {
                names.iter().find(|name| fits(name)).ok_or_else(|| existing.unknown(root))?
            }
            (None, None) => match arch {
                "x86_64" => "archlinux",
                "aarch64" | "armv7h" => "archlinuxarm",
                "riscv64" => "archriscv",
                _ if self.overlay.is_empty() => return Ok(None),
                name => {
                    let message =
                        format!("laying {} over a distribution: none is known for {name}", self.overlay.join(", "));
                    return Err(Failure::new(Code::Usage, message).hint("give --distro NAME"));
                }
            },
        };
        let usage = |failure| Failure { code: Code::Usage, ..failure };
        let preset = self.preset(name, document).map_err(usage)?;
        preset.arch(arch).map_err(usage)?;
        Ok(Some(preset))
    }

    fn apply(&self, context: &Context, plan: &Plan, document: &mut Document, done: &mut Done) -> Result<(), Failure> {
        let root = open_directory(&plan.root, done)?;
        let looking = || format!("looking at {}", quote(&plan.root));
        if fstatvfs(&root).doing(Code::Os, looking)?.f_flag.contains(StatVfsMountFlags::NOEXEC) {
            let why = "its file system is mounted noexec, so scriptlets could not run";
            return Err(Failure::new(Code::Failed, format!("{}: {why}", looking()))
                .hint("choose another directory, or remount the file system with exec"));
        }
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        if skeleton::has_packages(&root) {
            existing::check_owner(&root, plan.idmap.as_ref(), owner.0)?;
        }
        skeleton::make(&root, owner, &mut done.points)?;
        extra::make_mount_points(&root, &plan.mounts, &mut done.points)?;
        let binfmt =
            choose_handler(&plan.root, plan.arch, &plan.mounts, plan.idmap.as_ref(), self.emulator.as_deref())?;
        if self.chroot {
            context.warn(CHROOT);
        }
        let needed =
            plan.distro.as_ref().and_then(|distro| distro.arch(&plan.name).ok()).map(|arch| arch.cpu.as_slice());
        if let Some(lacks) = needed.filter(|_| binfmt == Binfmt::native()).and_then(cpu::lacks) {
            let name = &plan.name;
            context.warn(format_args!(
                "this processor lacks {lacks}, which {name} needs: programs of the root may not run here"
            ));
        }
        if self.host {
            match host::mount(&root, &plan.mounts)? {
                Some(made) => {
                    done.mounted = made;
                    document.write(&host::record(&root, &plan.mounts, &done.mounted)?);
                }
                // Earlier mounts belong to this pipeline only if its document lists them.
                None if rootfs::live::claimed(document)?.is_empty() => {
                    let (quoted, path) = (quote(&plan.root), plan.root.display());
                    context.warn(format_args!(
                        "{quoted} is already mounted, but not by this pipeline, whose unmount leaves it mounted; run \
                         'unmount {path}'"
                    ));
                    document.remove::<Host>();
                }
                None => {}
            }
            if binfmt.is_private() && binfmt::host_handler(plan.arch).is_none() {
                context.warn(format_args!(
                    "the tools run programs of {} by a private binfmt_misc handler; chroot(8) needs one of the host",
                    plan.arch.name
                ));
            }
        }
        self.record(plan, &root, &binfmt, document)?;
        // One run's lock is enough for it, and the function inside takes its own.
        drop(root);
        match plan.trees.is_empty() {
            true => Ok(()),
            false => tree::lay(&plan.trees, document, &mut done.points),
        }
    }

    fn record(&self, plan: &Plan, root: &Root, binfmt: &Binfmt, document: &mut Document) -> Result<(), Failure> {
        let mode = match &plan.idmap {
            _ if self.host => Mode::Host,
            _ if self.chroot => Mode::Chroot,
            Some(_) => Mode::User,
            None => Mode::Root,
        };
        document.write(&RootPath(plan.root.clone()));
        document.write(&root.identity()?);
        document.write(&ArchName(plan.name.clone()));
        match plan.arch.name == plan.name {
            true => document.remove::<Machine>(),
            false => document.write(&Machine(plan.arch.machine.to_owned())),
        }
        if let Some(distro) = &plan.distro {
            document.write(&Distro(distro.reference().to_owned()));
            match distro.overlays() {
                [] => document.remove::<Overlays>(),
                overlays => document.write(&Overlays(overlays.to_vec())),
            }
        }
        document.write(&mode);
        match &plan.idmap {
            Some(map) => document.write(map),
            None => document.remove::<IdMap>(),
        }
        document.write(&plan.mounts);
        document.write(binfmt);
        Ok(())
    }
}

/// Creates the root's directory if it does not exist, and opens it.
fn open_directory(path: &Path, done: &mut Done) -> Result<Root, Failure> {
    let not = |why: &str| {
        let message = format!("making {}: it {why}", quote(path));
        Failure::new(Code::Failed, message).hint("choose a new or an empty directory")
    };
    let made = match std::fs::create_dir(path) {
        Ok(()) => true,
        Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => false,
        Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(not("exists and is not a directory")),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            return Err(Failure::new(Code::Permission, format!("making {}: {e}", quote(path)))
                .hint("choose a directory that you may write in, or use sudo"));
        }
        Err(e) => return Err(e).doing(Code::Os, || format!("making {}", quote(path))),
    };
    let root = Root::open(path)?.shared()?;
    done.directory = Some(path.to_owned());
    done.made = made;
    if made {
        return Ok(root);
    }
    let mut entries = std::fs::read_dir(path).doing(Code::Permission, || format!("reading {}", quote(path)))?;
    if entries.next().is_some() && !skeleton::looks_like_a_root(&root) {
        return Err(not("is not empty and not a root"));
    }
    Ok(root)
}

/// Returns the absolute path of a directory whose parent exists, with symbolic links resolved.
fn absolute(dir: &Path) -> Result<PathBuf, Failure> {
    let doing = || format!("making {}", quote(dir));
    let usage = |why: &str| Failure::new(Code::Usage, format!("{}: {why}", doing()));
    let full = dir.canonicalize().or_else(|_| {
        let name = dir.file_name().ok_or_else(|| usage("invalid name of a directory"))?;
        let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let missing =
            |e: std::io::Error| Failure::new(Code::NotFound, format!("{}: its parent {}: {e}", doing(), quote(parent)));
        let hint = || format!("make it with 'mkdir -p {}'", parent.display());
        let real = parent.canonicalize().map_err(|e| missing(e).hint(hint()))?;
        if !real.is_dir() {
            return Err(missing(ErrorKind::NotADirectory.into()));
        }
        Ok(real.join(name))
    })?;
    if full == Path::new("/") {
        return Err(usage("it is the host's own root"));
    }
    let text = full.to_str().ok_or_else(|| usage("the path is not UTF-8"))?;
    if text.chars().any(char::is_control) {
        return Err(usage("the path has a control character"));
    }
    Ok(full)
}

fn main() -> ExitCode {
    rootfs::seal_descriptors();
    stage::main::<Mkroot>()
}
