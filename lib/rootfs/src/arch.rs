//! Architectures, and their names in pacman, the kernel, ELF and QEMU.

use stage::members::Machine;
use stage::message::{escape, meant};
use stage::{Code, Document, Failure};

/// An architecture that an Arch-family distribution has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arch {
    /// pacman's name (`Architecture` of pacman.conf(5)).
    pub name: &'static str,
    /// The machine of uname(2).
    pub machine: &'static str,
    /// QEMU's name: its user-mode emulator is `qemu-NAME`.
    pub qemu: &'static str,
    /// ELF class: 1 for 32 bits, 2 for 64 (elf(5), `EI_CLASS`).
    pub class: u8,
    /// ELF machine (elf(5), `e_machine`). All of these are little-endian.
    pub elf: u16,
}

/// All known architectures.
pub const ALL: &[Arch] = &[
    Arch::of("x86_64", "x86_64", "x86_64", (2, 62)),
    Arch::of("x86_64_v3", "x86_64", "x86_64", (2, 62)),
    Arch::of("aarch64", "aarch64", "aarch64", (2, 183)),
    Arch::of("armv7h", "armv7l", "arm", (1, 40)),
    Arch::of("armv6h", "armv6l", "arm", (1, 40)),
    Arch::of("i686", "i686", "i386", (1, 3)),
    Arch::of("pentium4", "i686", "i386", (1, 3)),
    Arch::of("i486", "i686", "i386", (1, 3)),
    Arch::of("riscv64", "riscv64", "riscv64", (2, 243)),
    Arch::of("loong64", "loongarch64", "loongarch64", (2, 258)),
];

/// Returns the names of all known architectures.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|arch| arch.name)
}

/// Names of architectures in Debian, Docker and the kernel, and pacman's.
const ELSEWHERE: [(&str, &str); 8] = [
    ("amd64", "x86_64"),
    ("arm64", "aarch64"),
    ("arm", "armv7h"),
    ("armhf", "armv7h"),
    ("armv7l", "armv7h"),
    ("i386", "i686"),
    ("loongarch64", "loong64"),
    ("x86_64_v2", "x86_64"),
];

impl Arch {
    const fn of(name: &'static str, machine: &'static str, qemu: &'static str, (class, elf): (u8, u16)) -> Self {
        Self { name, machine, qemu, class, elf }
    }

    /// Returns the architecture that pacman calls `name`.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] with the known names.
    pub fn named(name: &str) -> Result<Self, Failure> {
        ALL.iter().find(|a| a.name == name).copied().ok_or_else(|| {
            let meant = meant(name, &ELSEWHERE, names());
            Failure::new(Code::Usage, format!("unknown architecture '{}'", escape(name)))
                .hint(format!("{meant}one of {}", names().collect::<Vec<_>>().join(", ")))
        })
    }

    /// Returns the architecture whose programs a machine of uname(2) runs.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] with the known machines.
    pub fn of_machine(machine: &str) -> Result<Self, Failure> {
        ALL.iter().find(|a| a.machine == machine).copied().ok_or_else(|| {
            let mut known: Vec<_> = ALL.iter().map(|a| a.machine).collect();
            known.dedup();
            Failure::new(Code::Usage, format!("unknown machine '{}'", escape(machine)))
                .hint(format!("as uname -m has it, one of {}", known.join(", ")))
        })
    }

    /// Returns that of a document: the one that it names or, where only a preset knows that, the one of its machine.
    ///
    /// # Errors
    ///
    /// [`Code::BadDocument`] where there is none, [`Code::Usage`] where it is unknown.
    pub fn of_document(document: &Document) -> Result<Self, Failure> {
        let name = document.need_arch()?;
        match document.get::<Machine>() {
            Some(machine) => Self::of_machine(&machine.0),
            None => Self::named(name),
        }
    }

    /// Returns the architecture of this host's kernel (uname(2)).
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] on a machine without an Arch-family distribution.
    pub fn host() -> Result<Self, Failure> {
        let name = rustix::system::uname();
        let machine = name.machine().to_string_lossy();
        ALL.iter().find(|a| a.machine == machine).copied().ok_or_else(|| {
            let message = format!("finding this host's architecture: pacman has no name for '{machine}'");
            Failure::new(Code::Failed, message)
        })
    }

    /// Returns whether a kernel of architecture `host` runs programs of this one without an emulator. 32-bit ARM on 64-bit
    /// is excluded: it depends on the processor.
    #[must_use]
    pub fn is_native_on(self, host: Self) -> bool {
        self.elf == host.elf || self.is_half_of(host)
    }

    /// Returns whether it is the 32-bit architecture that a kernel of architecture `host` runs beside its own.
    #[must_use]
    pub fn is_half_of(self, host: Self) -> bool {
        host.elf == 62 && self.elf == 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for a in ALL {
            assert_eq!(Arch::named(a.name).unwrap(), *a);
        }
        let failure = Arch::named("sparc\n").unwrap_err();
        assert_eq!(failure.message, "unknown architecture 'sparc\\n'");
        assert!(failure.hint.unwrap().starts_with("one of x86_64, "));
        for (other, ours) in ELSEWHERE.into_iter().chain([("aarch46", "aarch64")]) {
            let hint = Arch::named(other).unwrap_err().hint.unwrap();
            assert!(hint.starts_with(&format!("did you mean '{ours}'? one of ")), "{hint}");
        }
    }

    #[test]
    fn what_only_a_preset_knows_is_its_machines() {
        let of = |text: &str| Arch::of_document(&Document::parse(text.as_bytes(), "x").unwrap());
        assert_eq!(of(r#"{"strapline":1,"arch":"znver4","machine":"x86_64"}"#), Arch::named("x86_64"));
        assert_eq!(of(r#"{"strapline":1,"arch":"aarch64"}"#), Arch::named("aarch64"));
        assert_eq!(of(r#"{"strapline":1,"arch":"znver4"}"#).unwrap_err().message, "unknown architecture 'znver4'");
        let failure = of(r#"{"strapline":1,"arch":"znver4","machine":"sparc"}"#).unwrap_err();
        assert_eq!(failure.message, "unknown machine 'sparc'");
        assert!(failure.hint.unwrap().starts_with("as uname -m has it, one of x86_64, aarch64, "));
    }

    #[test]
    fn thirty_two_bit_x86_is_native_on_sixty_four() {
        let named = |n| Arch::named(n).unwrap();
        assert!(named("i686").is_native_on(named("x86_64")));
        assert!(named("i686").is_half_of(named("x86_64")) && !named("i686").is_half_of(named("i486")));
        assert!(!named("x86_64").is_native_on(named("i686")));
        assert!(!named("armv7h").is_native_on(named("aarch64")));
        assert!(named("armv6h").is_native_on(named("armv7h")));
    }
}
