//! Architectures: pacman's word, the kernel's, ELF's and QEMU's for the same thing.

use stage::{Code, Failure};

/// An architecture that an Arch-family distribution has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arch {
    /// pacman's word (`Architecture` of pacman.conf(5)).
    pub name: &'static str,
    /// What uname(2) says there.
    pub machine: &'static str,
    /// QEMU's word: its user-mode emulator is `qemu-WORD`.
    pub qemu: &'static str,
    /// ELF class: 1 for 32 bits, 2 for 64 (elf(5), `EI_CLASS`).
    pub class: u8,
    /// ELF machine (elf(5), `e_machine`). All of these are little-endian.
    pub elf: u16,
}

/// Every architecture that we know.
pub const ALL: &[Arch] = &[
    arch("x86_64", "x86_64", "x86_64", 2, 62),
    arch("x86_64_v3", "x86_64", "x86_64", 2, 62),
    arch("aarch64", "aarch64", "aarch64", 2, 183),
    arch("armv7h", "armv7l", "arm", 1, 40),
    arch("armv6h", "armv6l", "arm", 1, 40),
    arch("i686", "i686", "i386", 1, 3),
    arch("pentium4", "i686", "i386", 1, 3),
    arch("i486", "i486", "i386", 1, 3),
    arch("riscv64", "riscv64", "riscv64", 2, 243),
    arch("loong64", "loongarch64", "loongarch64", 2, 258),
];

const fn arch(
    name: &'static str,
    machine: &'static str,
    qemu: &'static str,
    class: u8,
    elf: u16,
) -> Arch {
    Arch {
        name,
        machine,
        qemu,
        class,
        elf,
    }
}

impl Arch {
    /// Returns the architecture that pacman calls `name`.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] with the names that there are.
    pub fn named(name: &str) -> Result<Self, Failure> {
        ALL.iter().find(|a| a.name == name).copied().ok_or_else(|| {
            let names: Vec<_> = ALL.iter().map(|a| a.name).collect();
            Failure::new(
                Code::Usage,
                format!("unknown architecture '{}'", stage::message::escape(name)),
            )
            .hint(format!("one of {}", names.join(", ")))
        })
    }

    /// Returns the architecture of this host: that of its kernel, as uname(2) says.
    ///
    /// # Errors
    ///
    /// [`Code::Failed`] on a machine that no Arch-family distribution is for.
    pub fn host() -> Result<Self, Failure> {
        let name = rustix::system::uname();
        let machine = name.machine().to_string_lossy();
        ALL.iter()
            .find(|a| a.machine == machine)
            .copied()
            .ok_or_else(|| {
                Failure::new(
                    Code::Failed,
                    format!("finding this host's architecture: pacman has no word for '{machine}'"),
                )
            })
    }

    /// Returns whether a kernel of architecture `host` runs programs of this one without an emulator. Whether a 64-bit
    /// ARM processor runs 32-bit code depends on the processor, so that is not taken for granted.
    #[must_use]
    pub fn is_native_on(self, host: Self) -> bool {
        self.elf == host.elf || (host.elf == 62 && self.elf == 3)
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
    }

    #[test]
    fn thirty_two_bit_x86_is_native_on_sixty_four() {
        let named = |n| Arch::named(n).unwrap();
        assert!(named("i686").is_native_on(named("x86_64")));
        assert!(!named("x86_64").is_native_on(named("i686")));
        assert!(!named("armv7h").is_native_on(named("aarch64")));
        assert!(named("armv6h").is_native_on(named("armv7h")));
    }
}
