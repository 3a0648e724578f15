//! Handlers for programs of a foreign architecture (binfmt_misc, Documentation/admin-guide/binfmt-misc.rst).
//!
//! Since Linux 6.7 every user namespace can have its own table. So a handler is registered in ours, and the host's table is
//! not changed. Older kernels need a handler of the host with flag `F`: without it, the kernel looks for the interpreter
//! inside the root, where it is not.

use crate::Arch;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
pub use stage::members::Binfmt;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The directories of emulators, behind those of `PATH`, which may lack them.
const PLACES: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/bin"];

/// Returns the statically linked user-mode emulator for `arch`, if this host has one. Debian 12's is called
/// `qemu-ARCH-static`; from Debian 13 on `qemu-ARCH` itself is static.
#[must_use]
pub fn find_interpreter(arch: Arch) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // The document names it, and is read in other directories, too.
    let in_path: Vec<_> = std::env::split_paths(&path).filter(|place| place.is_absolute()).collect();
    let places = in_path.into_iter().chain(PLACES.map(PathBuf::from));
    places
        .flat_map(|place| ["-static", ""].map(|end| place.join(format!("qemu-{}{end}", arch.qemu))))
        .find(|path| is_static(path))
}

/// Returns whether a file is an ELF program without an interpreter: a dynamic one would look for its loader and libraries
/// inside the root.
pub(crate) fn is_static(path: &Path) -> bool {
    let mut head = vec![0; 4096];
    let read = stage::file::open(path).and_then(|mut file| {
        let may_run = file.metadata()?.mode() & 0o111 != 0;
        Ok(if may_run { file.read(&mut head)? } else { 0 })
    });
    read.is_ok_and(|n| static_elf(&head[..n]) == Some(true))
}

/// Returns whether a 64-bit or 32-bit little-endian ELF program has no `PT_INTERP`; `None` if a file does not begin as one.
fn static_elf(head: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let half = |at: usize| Some(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
    if head.get(..4)? != b"\x7fELF" || *head.get(5)? != 1 {
        return None;
    }
    let (start, size, count) = match *head.get(4)? {
        2 => (word(32)? as usize, half(54)?, half(56)?),
        _ => (word(28)? as usize, half(42)?, half(44)?),
    };
    let kind = |i: u16| word(start + usize::from(i) * usize::from(size));
    let kinds: Vec<u32> = (0..count).map(kind).collect::<Option<_>>()?;
    Some(!kinds.contains(&PT_INTERP))
}

/// Returns the text for `register` for programs of `arch`, as of QEMU's own `qemu-binfmt-conf.sh`: the magic is the ELF header
/// up to `e_machine`; the mask ignores `EI_OSABI` and accepts executables and shared objects.
fn registration(arch: Arch, interpreter: &Path, flags: &str) -> String {
    let [low, high] = arch.elf.to_le_bytes();
    let mut magic = [0; 20];
    magic[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', arch.class, 1, 1]);
    magic[16..].copy_from_slice(&[2, 0, low, high]);
    let mut mask = [0xff; 20];
    (mask[7], mask[16]) = (0, 0xfe);
    let hex = |bytes: [u8; 20]| bytes.map(|b| format!("\\x{b:02x}")).concat();
    format!(":qemu-{}:M::{}:{}:{}:{flags}", arch.qemu, hex(magic), hex(mask), interpreter.display())
}

/// Registers a handler in a private table of our user namespace. The table exists as long as the descriptor that is returned:
/// its mount is attached nowhere, so nothing has to be unmounted.
///
/// # Errors
///
/// The system call's; `EPERM` on kernels before 6.7, `ENODEV` where the kernel has no binfmt_misc.
pub(crate) fn register(arch: Arch, interpreter: &Path, flags: &str) -> Result<OwnedFd, Errno> {
    let context = fsopen("binfmt_misc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let table = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let file = openat(&table, "register", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, registration(arch, interpreter, flags).as_bytes())?;
    Ok(table)
}

/// A handler of the host's own table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handler {
    /// Its name.
    pub name: String,
    /// Its emulator.
    pub interpreter: PathBuf,
    /// Its flags.
    pub flags: String,
}

/// Where the host's table is mounted.
pub const TABLE: &str = "/proc/sys/fs/binfmt_misc";

/// Returns the host's enabled handler for programs of `arch`.
#[must_use]
pub fn host_handler(arch: Arch) -> Option<Handler> {
    let [low, high] = arch.elf.to_le_bytes();
    let magic = format!("7f454c46{:02x}0101", arch.class);
    let machine = format!("0200{low:02x}{high:02x}");
    fs::read_dir(TABLE).ok()?.flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let handler = parse_handler(&name, &fs::read_to_string(entry.path()).ok()?)?;
        (handler.1.starts_with(&magic) && handler.1.ends_with(&machine)).then_some(handler.0)
    })
}

/// Parses a handler's file; returns the handler with its magic, if it is enabled.
fn parse_handler(name: &str, text: &str) -> Option<(Handler, String)> {
    let field = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)).map(str::trim);
    (text.lines().next()? == "enabled").then_some(())?;
    Some((
        Handler {
            name: name.to_owned(),
            interpreter: field("interpreter ")?.into(),
            flags: field("flags:").unwrap_or_default().to_owned(),
        },
        field("magic ")?.to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registration_is_qemus_own() {
        let arch = Arch::named("aarch64").unwrap();
        assert_eq!(
            registration(arch, Path::new("/usr/bin/qemu-aarch64-static"), "OCPF"),
            ":qemu-aarch64:M::\\x7f\\x45\\x4c\\x46\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\
             \\xb7\\x00:\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\
             \\xff:/usr/bin/qemu-aarch64-static:OCPF"
        );
    }

    #[test]
    fn a_handler_is_read_as_the_kernel_says_it() {
        let text = "enabled\ninterpreter /usr/bin/qemu\nflags: POF\noffset 0\nmagic 7f45\nmask ff\n";
        let (handler, magic) = parse_handler("qemu-x", text).unwrap();
        assert_eq!((handler.flags.as_str(), magic.as_str()), ("POF", "7f45"));
        assert_eq!(parse_handler("x", &text.replace("enabled", "disabled")), None);
    }

    #[test]
    fn a_static_program_has_no_interpreter() {
        let me = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(static_elf(&me[..4096]), Some(false), "a test program is linked dynamically");
        let probe = crate::probe::program(Arch::named("aarch64").unwrap()).unwrap();
        assert_eq!(static_elf(&probe), Some(true));
        for n in 0..64 {
            static_elf(&me[..n]);
        }
        assert_eq!(static_elf(b"#!/bin/sh\n"), None);
    }
}
