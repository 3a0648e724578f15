//! The host's distribution, from os-release(5), and the command that installs something on it.
//!
//! The release matters and not only the name: Debian's emulator is `qemu-user-static` up to Debian 12 and Ubuntu 24.04, and
//! `qemu-user` after that, with a package of its own for its registration.

use crate::kernel::version;
use rootfs::Arch;

/// Something that a check may miss on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A static QEMU user-mode emulator of an architecture.
    Emulator(Arch),
    /// What registers the emulator with the host.
    Registration(Arch),
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
    Suse,
    Arch,
    Alpine,
    Void,
    Gentoo,
    Nix,
    Other,
}

/// What to do for each [`Need`], by [`Family`]: seen on Debian, Ubuntu and Arch; of the others it is what the sources of their packages
/// say (2026-11). `SUDO ` is empty for root, `QEMU` is QEMU's name of the architecture.
#[rustfmt::skip]
const INSTALL: [[&str; 5]; 10] = [
    ["SUDO apt-get install qemu-user-static", "SUDO apt-get install qemu-user-static", "SUDO apt-get install uidmap",
     "SUDO apt-get install gnupg", "SUDO apt-get install --reinstall libc-bin"],
    ["SUDO apt-get install qemu-user qemu-user-binfmt", "SUDO apt-get install qemu-user qemu-user-binfmt", "SUDO apt-get install uidmap",
     "SUDO apt-get install gnupg", "SUDO apt-get install --reinstall libc-bin"],
    ["SUDO dnf install qemu-user-static", "SUDO dnf install qemu-user-static", "SUDO dnf install shadow-utils",
     "SUDO dnf install gnupg2", "SUDO dnf install glibc-common"],
    ["SUDO zypper install qemu-linux-user", "SUDO zypper install qemu-linux-user && SUDO systemctl restart systemd-binfmt",
     "SUDO zypper install shadow", "SUDO zypper install gpg2", "SUDO zypper install glibc-locale-base"],
    ["SUDO pacman -S qemu-user-static", "SUDO pacman -S qemu-user-static-binfmt", "SUDO pacman -S shadow",
     "SUDO pacman -S gnupg", "SUDO pacman -S glibc"],
    ["SUDO apk add qemu-QEMU", "SUDO apk add qemu-QEMU qemu-openrc && SUDO rc-service qemu-binfmt start",
     "SUDO apk add shadow-uidmap", "SUDO apk add gnupg", LOCALE],
    ["SUDO xbps-install -S qemu-user-static", "SUDO xbps-install -S qemu-user-static binfmt-support && SUDO ln -s /etc/sv/binfmt-support /var/service/",
     "SUDO xbps-install -S shadow", "SUDO xbps-install -S gnupg", LOCALE],
    ["SUDO env USE=static-user QEMU_USER_TARGETS=QEMU emerge --ask app-emulation/qemu", "SUDO rc-service qemu-binfmt start",
     "SUDO emerge --ask sys-apps/shadow", "SUDO emerge --ask app-crypt/gnupg", LOCALE],
    ["nix-shell -p pkgsStatic.qemu-user",
     "set boot.binfmt.emulatedSystems and boot.binfmt.preferStaticEmulators in configuration.nix, and run nixos-rebuild switch",
     "set security.shadow.enable in configuration.nix, and run nixos-rebuild switch", "nix-shell -p gnupg",
     "set i18n.supportedLocales in configuration.nix, and run nixos-rebuild switch"],
    ["install with this distribution's package manager: QEMU's statically linked user-mode emulators",
     "install with this distribution's package manager: the package that registers QEMU's user-mode emulators with binfmt_misc",
     "install with this distribution's package manager: newuidmap and newgidmap (shadow), set-uid root",
     "install with this distribution's package manager: GnuPG, with gpg and gpg-agent", LOCALE],
];

/// Makes the locale where no package is known to bring it.
const LOCALE: &str = "SUDO localedef -i POSIX -f UTF-8 C.UTF-8";

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
                    "suse" | "opensuse" => Some(Family::Suse),
                    "arch" | "archlinux" | "archarm" | "manjaro" => Some(Family::Arch),
                    "alpine" | "postmarketos" => Some(Family::Alpine),
                    "void" => Some(Family::Void),
                    "gentoo" => Some(Family::Gentoo),
                    "nixos" => Some(Family::Nix),
                    _ => None,
                })
                .unwrap_or(Family::Other),
        };
        let sudo = if root { "" } else { "sudo " };
        Self { family, sudo }
    }

    /// Returns the command that installs what is missing, or a sentence where none is known.
    pub(crate) fn install(&self, need: Need) -> String {
        let [emulator, registration, uidmap, gpg, locale] = INSTALL[self.family as usize];
        let (text, qemu) = match need {
            Need::Emulator(arch) => (emulator, arch.qemu),
            Need::Registration(arch) => (registration, arch.qemu),
            Need::Uidmap => (uidmap, ""),
            Need::Gpg => (gpg, ""),
            Need::Locale => (locale, ""),
        };
        text.replace("SUDO ", self.sudo).replace("-QEMU", &format!("-{qemu}")).replace("=QEMU", &format!("={qemu}"))
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
        let aarch64 = Arch::named("aarch64").unwrap();
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
            (
                "ID=rocky\nID_LIKE=\"rhel centos fedora\"\n",
                "sudo dnf install qemu-user-static",
                "sudo dnf install shadow-utils",
            ),
            (
                "ID=\"opensuse-tumbleweed\"\nID_LIKE=\"opensuse suse\"\n",
                "sudo zypper install qemu-linux-user",
                "sudo zypper install shadow",
            ),
            (
                "ID=devuan\nID_LIKE=debian\nVERSION_CODENAME=excalibur\n",
                "sudo apt-get install qemu-user qemu-user-binfmt",
                "sudo apt-get install uidmap",
            ),
            ("ID=alpine\nVERSION_ID=3.22.1\n", "sudo apk add qemu-aarch64", "sudo apk add shadow-uidmap"),
            ("ID=\"void\"\n", "sudo xbps-install -S qemu-user-static", "sudo xbps-install -S shadow"),
            (
                "ID=gentoo\n",
                "sudo env USE=static-user QEMU_USER_TARGETS=aarch64 emerge --ask app-emulation/qemu",
                "sudo emerge --ask sys-apps/shadow",
            ),
            (
                "ID=nixos\n",
                "nix-shell -p pkgsStatic.qemu-user",
                "set security.shadow.enable in configuration.nix, and run nixos-rebuild switch",
            ),
            ("ID=endeavouros\nID_LIKE=arch\n", "sudo pacman -S qemu-user-static", "sudo pacman -S shadow"),
            (
                "",
                "install with this distribution's package manager: QEMU's statically linked user-mode emulators",
                "install with this distribution's package manager: newuidmap and newgidmap (shadow), set-uid root",
            ),
        ] {
            let release = Release::parse(text, false);
            assert_eq!(release.install(Need::Emulator(aarch64)), emulator, "{text}");
            assert_eq!(release.install(Need::Uidmap), uidmap, "{text}");
        }
        let arch = Release::parse("ID=arch\n", true);
        assert_eq!(arch.install(Need::Registration(aarch64)), "pacman -S qemu-user-static-binfmt");
        assert_eq!(arch.install(Need::Gpg), "pacman -S gnupg");
    }

    #[test]
    fn an_invalid_file_is_an_unknown_release() {
        for text in ["\n", "=\n", "ID\n", "ID=\n", "VERSION_ID=x.y\nID=debian"] {
            Release::parse(text, false);
        }
        assert_eq!(Release::parse("ID=slackware\n", false).family, Family::Other);
    }
}
