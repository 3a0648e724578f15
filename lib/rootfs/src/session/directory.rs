//! Entering a root of which there is only the directory, and how programs of an architecture are run in one.

use super::Inside;
use crate::plan::{self, Mount};
use crate::{Arch, Binfmt, IdMap, Root, arch, binfmt, idmap};
use rustix::fs::fstat;
use rustix::process::{getegid, geteuid};
use stage::{Code, Doing, Failure, quote};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// A program that every root has, the shell of scriptlets: its ELF header says what the root's architecture is.
const SHELL: &str = "usr/bin/bash";

/// How much of it says its architecture, in bytes.
const HEAD: u64 = 20;

impl Inside {
    /// Makes it from a root's directory: what `mkroot` would write into a document for it, and nothing in the root changes.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] when the directory is not a root, or no emulator runs its programs here; [`Code::Permission`] when it is another
    /// user's.
    pub fn of_directory(path: &Path) -> Result<Self, Failure> {
        let doing = || format!("entering {}", quote(path));
        let path = path.canonicalize().doing(Code::NotFound, doing)?;
        let root = Root::open(&path)?.shared()?;
        let (owner, me) = (fstat(root.as_fd()).doing(Code::Os, doing)?.st_uid, geteuid().as_raw());
        if owner != me {
            let failure = Failure::new(Code::Permission, format!("{}: it belongs to user {owner}", doing()));
            return Err(failure.hint("run this as that user"));
        }
        let arch = arch_of(&root).map_err(|f| f.while_doing(doing()))?;
        let map = if me == 0 { None } else { Some(idmap::of_user(me, getegid().as_raw())?) };
        let mounts = plan::api(map.is_some());
        let host = Arch::host()?;
        let handler = match arch.is_native_on(host) {
            // The command itself shows whether it can be run.
            true => None,
            false => Some(choose_handler(&path, arch, &mounts, map.as_ref(), None)?).filter(Binfmt::is_private),
        };
        let uname32 = arch.is_half_of(host);
        Ok(Self { uname32, ..Self::new(root, mounts, map, handler.map(|handler| (arch, handler)))? })
    }
}

/// Returns the architecture of the root's shell.
fn arch_of(root: &Root) -> Result<Arch, Failure> {
    let doing = || format!("reading {}", quote(root.path().join(SHELL)));
    let program = root.read_start(SHELL, HEAD).doing(Code::Failed, doing)?;
    let machine = program.get(18..20).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    let is = |arch: &&Arch| {
        program.starts_with(b"\x7fELF") && program.get(4) == Some(&arch.class) && machine == Some(arch.elf)
    };
    let known = arch::ALL.iter().find(is).copied();
    known.ok_or_else(|| Failure::new(Code::Failed, format!("{}: no program of an architecture that is known", doing())))
}

/// In the place of an emulator: the handler that the host has registered.
const HOSTS: &str = "host";

/// Finds how programs of the architecture are run in the root at `path`, and checks it by running one inside. `emulator` is
/// the one to use, or `host` for the host's own handler.
///
/// # Errors
///
/// [`Code::Failed`] when they cannot be run on this host, with the reason; [`Code::Usage`] where the emulator cannot be used.
pub fn choose_handler(
    path: &Path,
    arch: Arch,
    mounts: &[Mount],
    idmap: Option<&IdMap>,
    emulator: Option<&Path>,
) -> Result<Binfmt, Failure> {
    let inside =
        |handler: Option<(Arch, Binfmt)>| Inside::new(Root::open(path)?, mounts.to_owned(), idmap.cloned(), handler);
    if arch.is_native_on(Arch::host()?) {
        if let Some(file) = emulator.filter(|file| *file != Path::new(HOSTS)) {
            let why = format!("using the emulator {}: this host runs programs of {} itself", quote(file), arch.name);
            return Err(Failure::new(Code::Usage, why).hint("leave --emulator out"));
        }
        inside(None)?.probe(arch)?;
        return Ok(Binfmt::native());
    }
    let mut reason = None;
    let chroot = plan::is_chroot(mounts);
    let interpreter = match emulator {
        Some(file) if chroot && file != Path::new(HOSTS) => {
            let why =
                format!("using the emulator {}: in mode chroot there is no table of one's own for it", quote(file));
            return Err(Failure::new(Code::Usage, why).hint("leave --emulator out: the handler of the host is used"));
        }
        None if chroot => None,
        Some(name) if name == Path::new(HOSTS) => None,
        Some(file) => Some(check_emulator(file)?),
        None => binfmt::find_interpreter(arch),
    };
    if let Some(interpreter) = interpreter {
        let handler = Binfmt::private(interpreter);
        match inside(Some((arch, handler.clone())))?.probe(arch) {
            Ok(()) => return Ok(handler),
            // Do not go on with another handler.
            Err(failure) if failure.code == Code::Interrupted || emulator.is_some() => return Err(failure),
            Err(failure) => reason = Some(failure),
        }
    }
    // Before Linux 6.7 there is only the host's table. Some 64-bit processors run 32-bit ARM programs.
    match inside(None)?.probe(arch) {
        Ok(()) => Ok(match binfmt::host_handler(arch) {
            Some(handler) => {
                Binfmt { kind: "host".to_owned(), interpreter: Some(handler.interpreter), flags: Some(handler.flags) }
            }
            None => Binfmt::native(),
        }),
        Err(failure) if chroot && failure.code == Code::Failed => Err(failure.hint(format!(
            "in mode chroot the machine itself needs a handler with the flag F for {}: install qemu-user-static (Debian 12, \
             Ubuntu) or qemu-user and binfmt-support (Debian 13) on it, not in the container",
            arch.name
        ))),
        Err(failure) => Err(reason.unwrap_or_else(|| no_handler(arch, failure))),
    }
}

/// Returns the path of an emulator that the user chose.
fn check_emulator(file: &Path) -> Result<PathBuf, Failure> {
    let doing = || format!("using the emulator {}", quote(file));
    let path = file.canonicalize().doing(Code::NotFound, doing)?;
    // binfmt_misc separates fields by colons, and lines by newlines.
    if path.to_str().is_none_or(|text| text.contains([':', '\n'])) {
        return Err(Failure::new(Code::Usage, format!("{}: the kernel takes no such path", doing()))
            .hint("copy it to a path without ':'"));
    }
    if binfmt::is_static(&path) {
        return Ok(path);
    }
    Err(Failure::new(Code::Usage, format!("{}: it is not a statically linked program", doing())).hint(
        "inside the root it would not find its libraries: give a static one, or 'host' for the handler of the host",
    ))
}

/// Adds a hint to the failure of a host that cannot run the root's programs.
fn no_handler(arch: Arch, failure: Failure) -> Failure {
    if failure.code != Code::Failed || failure.hint.is_some() {
        return failure;
    }
    failure.hint(format!(
        "install an emulator: 'sudo apt-get install qemu-user-static' (Debian 12, Ubuntu), 'sudo apt-get install qemu-user' \
         (Debian 13 and later); see 'doctor --arch {}'",
        arch.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_head_of_the_shell_says_the_architecture() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        fs::create_dir_all(path.join("usr/bin")).unwrap();
        let arch = |program: &[u8]| {
            fs::write(path.join(SHELL), program).unwrap();
            arch_of(&Root::open(&path).unwrap()).map(|arch| arch.name).map_err(|failure| failure.message)
        };
        let head = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\xb7\0";
        assert_eq!(arch(&[&head[..], &[0; 4096]].concat()), Ok("aarch64"));
        assert_eq!(arch(head), Ok("aarch64"));
        for length in 0..head.len() {
            let why = arch(&head[..length]).unwrap_err();
            assert!(why.ends_with("no program of an architecture that is known"), "{length}: {why}");
        }
    }
}
