//! The host's distribution, from os-release(5), and the command that installs something on it.
//!
//! The release matters and not only the name: Debian's emulator is `qemu-user-static` up to Debian 12 and Ubuntu 24.04, and
//! `qemu-user` after that, with a package of its own for its registration.

use crate::kernel::version;

/// Something that a check may miss on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A static QEMU user-mode emulator.
    Emulator,
    /// What registers the emulator with the host.
    Registration,
    /// `newuidmap` and `newgidmap`.
    Uidmap,
    /// `gpg` and `gpg-agent`.
    Gpg,
    /// The locale C.UTF-8.
    Locale,
}

/// How packages are named and installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// Debian 12, Ubuntu 24.04 and before.
    OldDebian,
    /// Debian 13 and later, Ubuntu after 24.04.
    Debian,
    Fedora,
    Arch,
    Other,
}

/// The command that installs each [`Need`], by [`Family`].
#[rustfmt::skip]
const INSTALL: [(&str, [&str; 5]); 5] = [
    ("apt-get install ", ["qemu-user-static", "qemu-user-static", "uidmap", "gnupg", "--reinstall libc-bin"]),
    ("apt-get install ", ["qemu-user qemu-user-binfmt", "qemu-user qemu-user-binfmt", "uidmap", "gnupg", "--reinstall libc-bin"]),
    ("dnf install ", ["qemu-user-static", "qemu-user-static", "shadow-utils", "gnupg2", "glibc-common"]),
    ("pacman -S ", ["qemu-user-static", "qemu-user-static-binfmt", "shadow", "gnupg", "glibc"]),
    ("install with this distribution's package manager: ", [
        "QEMU's statically linked user-mode emulators",
        "the package that registers QEMU's user-mode emulators with binfmt_misc",
        "newuidmap and newgidmap (shadow), set-uid root",
        "GnuPG, with gpg and gpg-agent",
        "",
    ]),
];

/// A distribution's release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Release {
    family: Family,
    /// What precedes a command that only root may run: empty for root.
    pub(crate) sudo: &'static str,
}

impl Release {
    /// Reads what this host is.
    pub(crate) fn read(root: bool) -> Self {
        let text =
            ["/etc/os-release", "/usr/lib/os-release"].iter().find_map(|path| std::fs::read_to_string(path).ok());
        Self::parse(&text.unwrap_or_default(), root)
    }

    /// Parses the text of an os-release file. `root` says that commands need no sudo.
    pub(crate) fn parse(text: &str, root: bool) -> Self {
        let field = |key: &str| {
            let mut pairs = text.lines().filter_map(|line| line.split_once('='));
            let value = pairs.find(|(name, _)| name.trim() == key);
            value.map_or("", |(_, value)| value.trim().trim_matches(['"', '\'']))
        };
        let id = field("ID");
        let (major, minor) = version(field("VERSION_ID"));
        let family = match id {
            // Testing and unstable have no number: they are newer than every release.
            "debian" if (1..13).contains(&major) => Family::OldDebian,
            "ubuntu" if major > 0 && (major, minor) <= (24, 4) => Family::OldDebian,
            "debian" | "ubuntu" => Family::Debian,
            _ => std::iter::once(id)
                .chain(field("ID_LIKE").split_whitespace())
                .find_map(|word| match word {
                    "debian" | "ubuntu" | "raspbian" => Some(derived(text)),
                    "fedora" | "rhel" | "centos" => Some(Family::Fedora),
                    "arch" | "archlinux" | "archarm" | "manjaro" => Some(Family::Arch),
                    _ => None,
                })
                .unwrap_or(Family::Other),
        };
        let sudo = if root { "" } else { "sudo " };
        Self { family, sudo }
    }

    /// Returns the command that installs what is missing, or a sentence where none is known.
    pub(crate) fn install(&self, need: Need) -> String {
        let (command, packages) = INSTALL[self.family as usize];
        let sudo = self.sudo;
        match (self.family, need) {
            (Family::Other, Need::Locale) => {
                format!("{sudo}localedef -i POSIX -f UTF-8 C.UTF-8")
            }
            (Family::Other, _) => format!("{command}{}", packages[need as usize]),
            _ => format!("{sudo}{command}{}", packages[need as usize]),
        }
    }
}

/// A derivative has versions of its own; the codename of its base says which names its packages have.
fn derived(text: &str) -> Family {
    const OLD: [&str; 7] = ["buster", "bullseye", "bookworm", "bionic", "focal", "jammy", "noble"];
    let mut names = text.lines().filter_map(|l| l.split_once("_CODENAME="));
    let old = names.any(|(_, name)| OLD.contains(&name.trim_matches(['"', '\''])));
    if old { Family::OldDebian } else { Family::Debian }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_release_gets_the_command_that_works_there() {
        for (text, emulator, uidmap) in [
            ("ID=debian\nVERSION_ID=\"12\"\n", "sudo apt-get install qemu-user-static", "sudo apt-get install uidmap"),
            (
                "ID=debian\nVERSION_ID=\"13\"\n",
                "sudo apt-get install qemu-user qemu-user-binfmt",
                "sudo apt-get install uidmap",
            ),
            (
                "PRETTY_NAME=\"Debian GNU/Linux forky/sid\"\nID=debian\n",
                "sudo apt-get install qemu-user qemu-user-binfmt",
                "sudo apt-get install uidmap",
            ),
            (
                "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"\n",
                "sudo apt-get install qemu-user-static",
                "sudo apt-get install uidmap",
            ),
            (
                "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"25.10\"\n",
                "sudo apt-get install qemu-user qemu-user-binfmt",
                "sudo apt-get install uidmap",
            ),
            (
                "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\nVERSION_ID=\"22\"\nUBUNTU_CODENAME=noble\n",
                "sudo apt-get install qemu-user-static",
                "sudo apt-get install uidmap",
            ),
            ("ID=fedora\nVERSION_ID=42\n", "sudo dnf install qemu-user-static", "sudo dnf install shadow-utils"),
            ("ID=endeavouros\nID_LIKE=arch\n", "sudo pacman -S qemu-user-static", "sudo pacman -S shadow"),
            (
                "",
                "install with this distribution's package manager: QEMU's statically linked user-mode emulators",
                "install with this distribution's package manager: newuidmap and newgidmap (shadow), set-uid root",
            ),
        ] {
            let release = Release::parse(text, false);
            assert_eq!(release.install(Need::Emulator), emulator, "{text}");
            assert_eq!(release.install(Need::Uidmap), uidmap, "{text}");
        }
        let arch = Release::parse("ID=arch\n", true);
        assert_eq!(arch.install(Need::Registration), "pacman -S qemu-user-static-binfmt");
        assert_eq!(arch.install(Need::Gpg), "pacman -S gnupg");
    }

    #[test]
    fn an_invalid_file_is_an_unknown_release() {
        for text in ["\n", "=\n", "ID\n", "ID=\n", "VERSION_ID=x.y\nID=debian"] {
            Release::parse(text, false);
        }
        assert_eq!(Release::parse("ID=void\n", false).family, Family::Other);
    }
}
