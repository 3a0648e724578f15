//! Which distribution this host is, and what installs things on it: os-release(5), read and never run.
//!
//! Debian's emulator is the reason why the release matters and not only the name: up to Debian 12 and Ubuntu 24.04 it is
//! `qemu-user-static`, later `qemu-user`, and what registers it is a package of its own.

/// What a check may miss on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A static QEMU user-mode emulator.
    Emulator,
    /// What registers the emulator with the host.
    Registration,
    /// `newuidmap` and `newgidmap`.
    Uidmap,
    /// `gpg`.
    Gpg,
    /// `gpg-agent`.
    Agent,
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

/// A distribution's release, and whether we are root on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Release {
    family: Family,
    sudo: &'static str,
}

impl Release {
    /// Reads what this host is.
    pub(crate) fn here(root: bool) -> Self {
        let text = ["/etc/os-release", "/usr/lib/os-release"]
            .iter()
            .find_map(|path| std::fs::read_to_string(path).ok());
        Self::parse(&text.unwrap_or_default(), root)
    }

    /// Reads the text of an os-release file. `root` says that commands need no sudo.
    pub(crate) fn parse(text: &str, root: bool) -> Self {
        let field = |key: &str| {
            let value = text.lines().find_map(|line| {
                let (name, value) = line.split_once('=')?;
                (name.trim() == key).then(|| value.trim().trim_matches(['"', '\'']))
            });
            value.unwrap_or("")
        };
        let id = field("ID");
        let version = version(field("VERSION_ID"));
        let family = match id {
            // Testing and unstable have no number: they are newer than every release.
            "debian" if version.is_some_and(|v| v < (13, 0)) => Family::OldDebian,
            "ubuntu" if version.is_some_and(|v| v <= (24, 4)) => Family::OldDebian,
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
        Self {
            family,
            sudo: if root { "" } else { "sudo " },
        }
    }

    /// Returns the word before a command that only root may run: empty for root.
    pub(crate) fn sudo(&self) -> &'static str {
        self.sudo
    }

    /// Returns the command that installs what is missing, or a sentence where we know none.
    pub(crate) fn install(&self, need: Need) -> String {
        let sudo = self.sudo;
        let (command, packages) = match self.family {
            Family::OldDebian => (
                "apt-get install",
                match need {
                    Need::Emulator | Need::Registration => "qemu-user-static",
                    Need::Uidmap => "uidmap",
                    Need::Gpg | Need::Agent => "gnupg",
                    Need::Locale => "--reinstall libc-bin",
                },
            ),
            Family::Debian => (
                "apt-get install",
                match need {
                    Need::Emulator | Need::Registration => "qemu-user qemu-user-binfmt",
                    Need::Uidmap => "uidmap",
                    Need::Gpg | Need::Agent => "gnupg",
                    Need::Locale => "--reinstall libc-bin",
                },
            ),
            Family::Fedora => (
                "dnf install",
                match need {
                    Need::Emulator | Need::Registration => "qemu-user-static",
                    Need::Uidmap => "shadow-utils",
                    Need::Gpg | Need::Agent => "gnupg2",
                    Need::Locale => "glibc-common",
                },
            ),
            Family::Arch => (
                "pacman -S",
                match need {
                    Need::Emulator => "qemu-user-static",
                    Need::Registration => "qemu-user-static-binfmt",
                    Need::Uidmap => "shadow",
                    Need::Gpg | Need::Agent => "gnupg",
                    Need::Locale => "glibc",
                },
            ),
            Family::Other => {
                let what = match need {
                    Need::Emulator => "QEMU's statically linked user-mode emulators",
                    Need::Registration => {
                        "the package that registers QEMU's user-mode emulators with binfmt_misc"
                    }
                    Need::Uidmap => "newuidmap and newgidmap (shadow), set-uid root",
                    Need::Gpg | Need::Agent => "GnuPG, with gpg and gpg-agent",
                    Need::Locale => return format!("{sudo}localedef -i POSIX -f UTF-8 C.UTF-8"),
                };
                return format!("install {what}, as this distribution has it");
            }
        };
        format!("{sudo}{command} {packages}")
    }
}

/// A derivative has versions of its own; what it is made from says which names its packages have.
fn derived(text: &str) -> Family {
    let old = [
        "buster", "bullseye", "bookworm", "bionic", "focal", "jammy", "noble",
    ];
    let named = text.lines().any(|line| {
        line.split_once("_CODENAME=")
            .is_some_and(|(_, name)| old.contains(&name.trim_matches(['"', '\''])))
    });
    if named {
        Family::OldDebian
    } else {
        Family::Debian
    }
}

/// Reads `24.04` or `12`.
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_release_gets_the_command_that_works_there() {
        for (text, emulator, uidmap) in [
            (
                "ID=debian\nVERSION_ID=\"12\"\n",
                "sudo apt-get install qemu-user-static",
                "sudo apt-get install uidmap",
            ),
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
            (
                "ID=fedora\nVERSION_ID=42\n",
                "sudo dnf install qemu-user-static",
                "sudo dnf install shadow-utils",
            ),
            (
                "ID=endeavouros\nID_LIKE=arch\n",
                "sudo pacman -S qemu-user-static",
                "sudo pacman -S shadow",
            ),
            (
                "",
                "install QEMU's statically linked user-mode emulators, as this distribution has it",
                "install newuidmap and newgidmap (shadow), set-uid root, as this distribution has it",
            ),
        ] {
            let release = Release::parse(text, false);
            assert_eq!(release.install(Need::Emulator), emulator, "{text}");
            assert_eq!(release.install(Need::Uidmap), uidmap, "{text}");
        }
        let arch = Release::parse("ID=arch\n", true);
        assert_eq!(
            arch.install(Need::Registration),
            "pacman -S qemu-user-static-binfmt"
        );
        assert_eq!(arch.install(Need::Gpg), "pacman -S gnupg");
    }

    #[test]
    fn what_is_no_release_file_is_no_release() {
        for text in ["\n", "=\n", "ID\n", "ID=\n", "VERSION_ID=x.y\nID=debian"] {
            Release::parse(text, false);
        }
        assert_eq!(Release::parse("ID=void\n", false).family, Family::Other);
    }
}
