"""What goes into the mirror: Debian packages bundled as Arch would name them, and the packages
that have no Debian package behind them. Data first; the few functions stand below it.
"""
import ctypes
import hashlib
import io
import os
import re
import signal
import subprocess
import tarfile
from pathlib import Path

from mirrorlib import Package

HERE = Path(__file__).resolve().parent

# ---------------------------------------------------------------- the distributions

# One row for each architecture: whose mirror it looks like, and what differs between them. Debian 12 has no riscv64: that is
# of the first suite that has.
ALARM = {"name": "archlinuxarm", "title": "Arch Linux ARM", "os_id": "archarm", "repos": ("core", "extra", "alarm", "aur"),
         "initramfs": "mkinitcpio"}
ARCH = {"name": "archlinux", "title": "Arch Linux", "os_id": "arch", "repos": ("core", "extra"), "kernel": "linux",
        "initramfs": "initramfs"}
DISTROS = {
    "aarch64": {**ALARM, "deb_arch": "arm64", "kernel": "linux-aarch64", "image": "Image"},
    "x86_64": {**ARCH, "deb_arch": "amd64", "image": "vmlinuz-linux"},
    "armv7h": {**ALARM, "deb_arch": "armhf", "kernel": "linux-armv7", "image": "zImage"},
    "riscv64": {**ARCH, "title": "Arch Linux RISC-V", "deb_arch": "riscv64", "image": "vmlinuz-linux", "suite": "trixie"},
    "i686": {**ARCH, "name": "archlinux32", "title": "Arch Linux 32", "os_id": "arch32", "deb_arch": "i386",
             "image": "vmlinuz-linux"},
}
KEYRING_VERSION = "20240419"
KERNEL_VERSION = "6.2.10"

# ---------------------------------------------------------------- what goes in

# pacman package -> the Debian packages merged into it.  Debian packages not named here keep
# their own name.  A name that a suite lacks is skipped (bookworm / trixie differ).
BUNDLES = {
    "glibc": ["libc6", "libc-bin", "libc-l10n", "locales"],
    "gcc-libs": ["libgcc-s1", "libstdc++6", "gcc-12-base", "gcc-14-base"],
    "gnupg": ["gnupg", "gpg", "gpg-agent", "gpgconf", "gpgsm", "gpgv", "dirmngr", "gnupg-utils",
              "gpg-wks-client", "gpg-wks-server", "gnupg-l10n"],
    "pinentry": ["pinentry-curses"],
    "pacman": ["pacman-package-manager", "makepkg"],
    "shadow": ["passwd", "login", "login.defs"],
    "procps-ng": ["procps", "libproc2-0"],
    "util-linux": ["util-linux", "util-linux-extra", "mount", "bsdutils", "bsdextrautils"],
    "util-linux-libs": ["libblkid1", "libmount1", "libsmartcols1", "libuuid1", "libfdisk1"],
    "systemd": ["systemd", "libsystemd-shared", "libnss-systemd", "udev", "systemd-boot-efi"],
    "systemd-libs": ["libsystemd0", "libudev1"],
    "openssh": ["openssh-server", "openssh-client", "openssh-sftp-server"],
    "vim": ["vim-tiny", "vim-common"],
    "openssl": ["openssl", "libssl3", "libssl3t64", "openssl-provider-legacy"],
    "curl": ["curl", "libcurl4", "libcurl4t64"],
    "ncurses": ["ncurses-base", "ncurses-bin", "libtinfo6", "libncursesw6"],
    "readline": ["libreadline8", "libreadline8t64", "readline-common"],
    "zlib": ["zlib1g"],
    "xz": ["xz-utils", "liblzma5"],
    "zstd": ["zstd", "libzstd1"],
    "bzip2": ["bzip2", "libbz2-1.0"],
    "libarchive": ["libarchive13", "libarchive13t64", "libarchive-tools"],
    "gpgme": ["libgpgme11", "libgpgme11t64"],
    "krb5": ["libkrb5-3", "libkrb5support0", "libk5crypto3", "libgssapi-krb5-2"],
    "pam": ["libpam0g", "libpam-modules", "libpam-modules-bin"],
    "kmod": ["kmod", "libkmod2"],
    "gettext": ["gettext-base"],
    "iputils": ["iputils-ping"],
    "openldap": ["libldap-2.5-0", "libldap2"],
    "busybox": ["busybox-static"],
    "dracut": ["dracut-core", "dracut-install"],
}
# Debian machinery an Arch root does not have; a dependency on one counts as satisfied.
IGNORED = {"debconf", "debconf-2.0", "cdebconf", "dpkg", "install-info", "init-system-helpers",
           "base-files", "base-passwd", "usrmerge", "usr-is-merged", "adduser", "ucf",
           "sensible-utils", "lsb-base", "sysvinit-utils", "runit-helper", "libpam-runtime",
           "perl", "perl-base", "fakeroot", "debugedit", "patch", "pkgconf", "texinfo",
           "systemd-sysv", "systemd-dev", "dbus", "sgml-base", "xml-core"}
BASE_SMALL = ["bash", "coreutils", "gnupg", "gpg", "gpg-agent", "gpgconf", "dirmngr", "gpgv",
              "gawk", "sed", "grep", "findutils", "util-linux", "mount", "bsdutils", "procps",
              "psmisc", "pacman-package-manager", "makepkg", "ca-certificates", "openssl",
              "libc-bin", "login", "passwd", "pinentry-curses", "gettext-base", "tar", "gzip",
              "libpam-modules", "libpam-modules-bin", "tzdata"]
BASE_FULL = BASE_SMALL + ["bzip2", "xz-utils", "zstd", "locales", "systemd", "kmod", "file",
                          "iproute2", "iputils-ping", "pciutils", "libarchive-tools", "curl"]
EXTRA_DEBS = ["vim-tiny", "nano", "sudo", "openssh-server", "kmod", "tar"]
EXTRA_FULL = EXTRA_DEBS + ["systemd-resolved"]
# --boot: Debian's kernel and what it needs to find its root, in the place of the stand-ins, and a dracut that is one; of its
# modules, those for disks at the buses that QEMU has, their file systems, a network, and chance.
BOOT_DEBS = ["busybox-static", "udev", "systemd-boot-efi", "dracut-core"]
BOOT_KERNEL = "linux-image-"
BOOT_ARCHES = ("aarch64", "x86_64", "riscv64")
BOOT_MODULES = ("fs/", "lib/", "crypto/", "arch/", "block/", "drivers/virtio/", "drivers/block/", "drivers/char/hw_random/",
                "drivers/net/virtio_net", "drivers/net/net_failover", "net/core/failover", "net/packet/",
                "drivers/nvme/", "drivers/ata/ahci.", "drivers/ata/libahci.", "drivers/ata/libata.", "drivers/scsi/sd_mod.",
                "drivers/scsi/scsi_", "drivers/usb/core/", "drivers/usb/common/", "drivers/usb/host/xhci", "drivers/usb/storage/",
                "drivers/mmc/")

# Debian leaves these to update-alternatives in a maintainer script, which never runs here.
SYMLINKS = {
    "bash": {"usr/bin/sh": "bash"},
    "gawk": {"usr/bin/awk": "gawk"},
    "vim": {"usr/bin/vim": "vim.tiny", "usr/bin/vi": "vim.tiny"},
    "pinentry": {"usr/bin/pinentry": "pinentry-curses"},
    "debianutils": {"usr/bin/which": "which.debianutils"},
    "systemd": {"usr/bin/init": "../lib/systemd/systemd",
                **{f"usr/bin/{name}": "systemctl" for name in ("halt", "poweroff", "reboot")}},
}
PROVIDES = {"bash": ["sh"], "gawk": ["awk"], "shadow": ["login"], "dracut": ["initramfs"]}
EXTRA_DEPENDS = {"pacman": ["bash", "coreutils", "gnupg", "gawk", "grep", "sed", "gettext",
                            "pacman-mirrorlist"],
                 "glibc": ["filesystem"], "pam": ["pambase"],
                 "shadow": ["pambase"], "ca-certificates": ["bash", "debianutils"],
                 **{d["kernel"]: ["kmod", d["initramfs"]] for d in DISTROS.values()},
                 "systemd": ["bash", "util-linux"], "openssh": ["bash", "shadow"], "util-linux": ["bash"]}
DROP_DEPENDS = {("glibc", "gcc-libs"), ("libdevmapper1.02.1", "dmsetup")}   # keep cycles out
SKIP_TREES = ("usr/share/doc/", "usr/share/man/", "usr/share/info/", "usr/share/lintian/",
              "usr/share/bug/", "usr/share/locale/", "usr/share/doc-base/", "etc/init.d/",
              "usr/share/bash-completion/", "usr/share/zsh/", "etc/default/", "etc/cron.d/", "etc/X11/",
              "etc/logcheck/")
MOVES = (("usr/sbin", "usr/bin"), ("usr/lib64", "usr/lib"), ("sbin", "usr/bin"),
         ("bin", "usr/bin"), ("lib64", "usr/lib"), ("lib", "usr/lib"), ("var/run", "run"))

INSTALL = {
    # glibc comes before the shell that a scriptlet needs, so (as on Arch) it has no post_install;
    # util-linux runs ldconfig in its place.
    "glibc": "post_upgrade() {\n  ldconfig -r .\n}\n",
    "util-linux": "post_install() {\n  ldconfig -r .\n}\npost_upgrade() { post_install; }\n",
    "bash": "post_install() {\n  [[ $(<etc/shells) == */bin/bash* ]] || "
            "printf '%s\\n' /bin/sh /bin/bash >> etc/shells\n}\npost_upgrade() { post_install; }\n",
    "systemd": "post_install() {\n  systemd-machine-id-setup\n  mkdir -p var/log/journal\n}\n",
    "openssh": "post_install() {\n  getent passwd sshd >/dev/null || "
               "useradd -r -d /run/sshd -s /usr/bin/nologin sshd\n}\n",
    "base": "post_install() {\n  echo \"base: scriptlet ran as uid $(id -u) on $(uname -m)\"\n}\n",
}
# As archlinuxarm-keyring's: a keyring that exists already is brought up to date by the package.
KEYRING_INSTALL = """post_upgrade() {
  if usr/bin/pacman-key -l >/dev/null 2>&1; then
    usr/bin/pacman-key --populate %s
  fi
}
post_install() {
  if [ -x usr/bin/pacman-key ]; then post_upgrade; fi
}
"""


def hook(operations, targets, command, description, when="PostTransaction", kind="Path", needs=False):
    """The text of an alpm hook."""
    return (f"[Trigger]\nType = {kind}\n" + "".join(f"Operation = {o}\n" for o in operations) +
            "".join(f"Target = {t}\n" for t in targets) +
            f"\n[Action]\nDescription = {description}\nWhen = {when}\nExec = {command}\n" +
            "NeedsTargets\n" * needs)


HOOKS = {
    "ca-certificates": {"40-update-ca-trust.hook": hook(
        ["Install", "Upgrade", "Remove"], ["usr/share/ca-certificates/*"],
        "/usr/bin/update-ca-trust", "Rebuilding certificate stores...")},
    "systemd": {
        "20-systemd-sysusers.hook": hook(["Install", "Upgrade"], ["usr/lib/sysusers.d/*.conf"],
                                         "/usr/bin/systemd-sysusers", "Creating system user accounts..."),
        "30-systemd-tmpfiles.hook": hook(["Install", "Upgrade"], ["usr/lib/tmpfiles.d/*.conf"],
                                         "/usr/bin/systemd-tmpfiles --create", "Creating temporary files...")},
    "kmod": {"60-depmod.hook": hook(
        ["Install", "Upgrade"], ["usr/lib/modules/*/vmlinuz"], "/usr/share/libalpm/scripts/depmod",
        "Updating module dependencies...", needs=True)},
    "mkinitcpio": {"90-mkinitcpio-install.hook": hook(
        ["Install", "Upgrade"], ["usr/lib/initcpio/*", "usr/lib/firmware/*", "usr/lib/modules/*/vmlinuz"],
        "/usr/bin/mkinitcpio -P", "Updating linux initcpios...")},
    "dracut": {"90-dracut-install.hook": hook(
        ["Install", "Upgrade"], ["usr/lib/modules/*/pkgbase"], "/usr/share/libalpm/scripts/dracut-install",
        "Updating linux initcpios (with dracut)...", needs=True)},
    "pacman": {"00-mkmirror-pre.hook": hook(
        ["Install", "Upgrade"], ["*"], "/usr/bin/true", "Doing nothing before the transaction...",
        "PreTransaction", "Package")},
}


def add_extras(p):
    """The links, scriptlet and hooks that the tables give a package."""
    for path, target in SYMLINKS.get(p.name, {}).items():
        p.symlink(path, target)
    for name, text in HOOKS.get(p.name, {}).items():
        p.file("usr/share/libalpm/hooks/" + name, text)
    p.install = p.install or INSTALL.get(p.name)
    return p


# ---------------------------------------------------------------- from debs to packages

def end_with_parent(parent):
    """A worker has no reason to outlive mkmirror, however that ended, and holds its lock."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)      # PR_SET_PDEATHSIG
    signal.signal(signal.SIGINT, signal.SIG_IGN)    # Ctrl-C is mkmirror's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if os.getppid() != parent:
        os._exit(1)


def convert(job):
    """Worker: one pacman package out of its .debs; returns its installed size."""
    p = Package(job["name"], job["version"], job["arch"], job["desc"], job["depend"],
                PROVIDES.get(job["name"], []))
    for deb in job["debs"]:
        add_deb(p, deb)
    add_extras(p)
    SPECIAL.get(p.name, lambda *_: None)(p, job)
    p.write(job["folder"], job["ext"])
    return p.size


def add_deb(p, deb):
    """Every member of a .deb, moved to its usr-merged place, and its conffiles as backup files."""
    with deb_tar(deb, "--fsys-tarfile") as tar:
        for m in tar:
            path = merged(m.name)
            if not path or path in ("usr/sbin", "bin", "sbin", "lib", "lib64") or \
                    (path + "/").startswith(SKIP_TREES):
                continue
            if m.issym():
                there = os.path.normpath(os.path.join("/", os.path.dirname(path), m.linkname))
                if merged(there) != path:           # /usr/sbin/x -> ../bin/x would name itself
                    p.put(path, tarfile.SYMTYPE, link=m.linkname, mode=0o777, mtime=m.mtime)
            elif m.islnk():
                p.put(path, tarfile.LNKTYPE, link=merged(m.linkname), mode=m.mode, uid=m.uid, gid=m.gid)
            elif m.isdir():
                p.put(path, tarfile.DIRTYPE, mode=m.mode, uid=m.uid, gid=m.gid)
            elif m.isreg():
                p.put(path, data=tar.extractfile(m).read(), mode=m.mode, uid=m.uid, gid=m.gid, mtime=m.mtime)
    with deb_tar(deb, "--ctrl-tarfile") as tar:
        if "./conffiles" in tar.getnames():
            lines = tar.extractfile("./conffiles").read().decode().splitlines()
            names = [merged(x.split()[-1]) for x in lines if x.strip()]
            p.backup += [n for n in names if n in p.entries]


def deb_tar(deb, which):
    data = subprocess.run(["dpkg-deb", which, deb], check=True, stdout=subprocess.PIPE).stdout
    return tarfile.open(fileobj=io.BytesIO(data))


def merged(name):
    """A path of a Debian package in its usr-merged Arch place ('' for the root itself)."""
    p = os.path.normpath("/" + name).strip("/")
    for old, new in MOVES:
        if p == old or p.startswith(old + "/"):
            return (new + p[len(old):]).strip("/")
    return p


def arch_version(deb_version):
    """Debian 'epoch:upstream-revision' -> a legal pkgver 'epoch:upstream'."""
    epoch, _, rest = deb_version.rpartition(":")
    upstream = rest.rsplit("-", 1)[0] if "-" in rest else rest
    return (epoch + ":" if epoch else "") + re.sub(r"[^A-Za-z0-9._+]", "_", upstream)


# The few edits that make a Debian package behave as Arch's does.

def special_pacman(p, job):
    _, key_script = p.entries["usr/bin/pacman-key"]
    p.file("usr/bin/pacman-key", key_script.replace(b"/usr/share/keyrings", b"/usr/share/pacman/keyrings"), 0o755)
    p.file("etc/pacman.conf",
           f"[options]\nHoldPkg = pacman glibc\nArchitecture = {p.arch}\nCheckSpace\n"
           "SigLevel = Required DatabaseOptional\nLocalFileSigLevel = Optional\n" +
           "".join(f"\n[{r}]\nInclude = /etc/pacman.d/mirrorlist\n" for r in job["repos"]))
    p.backup = ["etc/pacman.conf", "etc/makepkg.conf"]


def special_ca_certificates(p, _job):
    certificates = sorted(n[len("usr/share/ca-certificates/"):] for n in p.entries if n.endswith(".crt"))
    p.file("etc/ca-certificates.conf", "\n".join(certificates) + "\n")
    p.backup.append("etc/ca-certificates.conf")
    p.dir("etc/ssl/certs")
    # Debian's update-ca-certificates forks about 1000 times: 45 s emulated. Arch's update-ca-trust
    # runs a handful of programs; so does this.
    p.file("usr/bin/update-ca-trust",
           "#!/bin/sh\nset -e\ncd /usr/share/ca-certificates\n"
           "cat */*.crt > /etc/ssl/certs/ca-certificates.crt\nln -sf $PWD/*/*.crt /etc/ssl/certs/\n"
           "openssl rehash /etc/ssl/certs >/dev/null 2>&1\n", 0o755)


def special_kmod(p, _job):
    p.file("usr/share/libalpm/scripts/depmod", "#!/bin/bash\nwhile read -r f; do v=${f#usr/lib/modules/}; "
           "depmod \"${v%%/*}\"; done\n", 0o755)


def special_dracut(p, _job):
    # The hooks that people use with dracut, such as EndeavourOS's, ask for an initramfs of this machine, whatever dracut.conf says,
    # and put the kernel beside it by the name of its package.
    p.file("usr/share/libalpm/scripts/dracut-install", "#!/bin/bash\nwhile read -r pkgbase; do\n"
           "    name=$(< \"$pkgbase\") version=$(basename \"${pkgbase%/pkgbase}\")\n"
           "    install -D -m 644 \"${pkgbase%/pkgbase}/vmlinuz\" \"boot/vmlinuz-$name\"\n"
           "    dracut --force --hostonly --no-hostonly-cmdline --kver \"$version\" \"/boot/initramfs-$name.img\" || exit\n"
           "done\n", 0o755)


def special_glibc(p, _job):
    supported = p.entries.get("usr/share/i18n/SUPPORTED")       # --small leaves locales out
    if supported:
        p.file("etc/locale.gen", "".join(f"#{x}  \n" for x in supported[1].decode().splitlines()))
        p.backup.append("etc/locale.gen")


def special_sudo(p, _job):
    # Debian's maintainer script gives it this mode; visudo(8) wants it.
    p.file("etc/sudoers", p.entries["etc/sudoers"][1], 0o440)


def special_openssh(p, _job):
    # Debian's maintainer scripts write this, and the host keys; Arch has the one in the package, and makes the others at boot.
    p.file("etc/ssh/sshd_config", p.entries["usr/share/openssh/sshd_config"][1])
    p.backup.append("etc/ssh/sshd_config")
    unit = p.entries["usr/lib/systemd/system/ssh.service"][1].decode()
    p.file("usr/lib/systemd/system/ssh.service",
           unit.replace("[Service]", "Wants=sshdgenkeys.service\nAfter=sshdgenkeys.service\n\n[Service]", 1))
    p.file("usr/lib/systemd/system/sshdgenkeys.service",
           "[Unit]\nDescription=SSH Key Generation\n"
           "ConditionPathExists=|!/etc/ssh/ssh_host_ed25519_key\nConditionFileNotEmpty=|!/etc/ssh/ssh_host_ed25519_key\n\n"
           "[Service]\nExecStart=/usr/bin/ssh-keygen -A\nType=oneshot\nRemainAfterExit=yes\n")


def special_kernel(p, _job):
    """Debian's kernel, its files named as Arch names them: the image below /boot, and vmlinuz and pkgbase beside the
    modules, for the hooks."""
    image, = (n for n in p.entries if n.startswith(("boot/vmlinuz-", "boot/vmlinux-")))
    modules = f"usr/lib/modules/{image.partition('-')[2]}/"
    _, data = p.entries[image]
    for path in [n for n in p.entries if n.startswith("boot/") or n.startswith(modules + "kernel/")
                 and n.endswith((".ko", ".ko.xz")) and not n.removeprefix(modules + "kernel/").startswith(BOOT_MODULES)]:
        del p.entries[path]
    p.file("boot/" + DISTROS[p.arch]["image"], data)
    p.file(modules + "vmlinuz", data)
    p.file(modules + "pkgbase", p.name + "\n")


SPECIAL = {**{d["kernel"]: special_kernel for d in DISTROS.values()}, "glibc": special_glibc, "sudo": special_sudo,
           "pacman": special_pacman, "ca-certificates": special_ca_certificates, "kmod": special_kmod,
           "openssh": special_openssh, "dracut": special_dracut}


# ---------------------------------------------------------------- packages with no .deb behind them

def handmade(arch, base, keys, url, boot):
    """[(repository, Package)] of all that is not converted; `base` is what base depends on."""
    d = DISTROS[arch]
    out = [("core", p) for p in (
        filesystem(arch), pambase(), keyring(d["name"], d["title"], keys), mirrorlist(url),
        *([] if boot else [linux(arch)]), firmware(), mkinitcpio(boot),
        meta("base", base | {"filesystem", "pambase"}, "Minimal package set to define a basic install"))]
    out += [(r, meta(f"{r}-meta", [], f"An empty package, so that [{r}] is not empty"))
            for r in d["repos"] if r not in ("core", "extra")]
    return [(repo, add_extras(p)) for repo, p in out]


def filesystem(arch):
    p = Package("filesystem", "2025.01.01", desc="Base files")
    p.backup = ["etc/" + n for n in "passwd group shadow gshadow hosts nsswitch.conf shells fstab resolv.conf "
                                    "profile".split()]
    for d in ("boot dev etc/ld.so.conf.d etc/profile.d home mnt opt run srv/http usr/bin usr/include usr/lib "
              "usr/local/bin usr/local/lib usr/share/misc usr/src var/cache var/empty var/lib var/log/old "
              "var/opt var/spool/mail").split():
        p.dir(d)
    for d, mode in (("root", 0o750), ("proc", 0o555), ("sys", 0o555), ("tmp", 0o1777), ("var/tmp", 0o1777)):
        p.dir(d, mode)
    links = {"bin": "usr/bin", "sbin": "usr/bin", "lib": "usr/lib", "usr/sbin": "bin", "var/run": "../run",
             "var/lock": "../run/lock", "var/mail": "spool/mail", "etc/mtab": "../proc/self/mounts",
             "etc/os-release": "../usr/lib/os-release"}
    if arch == "x86_64":
        links |= {"lib64": "usr/lib", "usr/lib64": "lib"}
    for path, target in links.items():
        p.symlink(path, target)
    users = [("root", 0, "/root", "/bin/bash"), ("bin", 1, "/", "/usr/bin/nologin"),
             ("daemon", 2, "/", "/usr/bin/nologin"), ("mail", 8, "/var/spool/mail", "/usr/bin/nologin"),
             ("nobody", 65534, "/", "/usr/bin/nologin")]
    groups = [("root", 0), ("bin", 1), ("daemon", 2), ("sys", 3), ("tty", 5), ("mem", 8), ("mail", 12),
              ("wheel", 998), ("shadow", 42), ("utmp", 997), ("adm", 999), ("disk", 6), ("lp", 7), ("kmem", 9),
              ("dialout", 20), ("cdrom", 24), ("floppy", 25), ("audio", 29), ("video", 44), ("staff", 50),
              ("users", 984), ("kvm", 992), ("input", 994), ("render", 989), ("sgx", 987), ("tape", 26),
              ("nobody", 65534)]
    p.file("etc/passwd", "".join(f"{n}:x:{u}:{u}::{home}:{sh}\n" for n, u, home, sh in users))
    p.file("etc/shadow", "".join(f"{n}:{'' if n == 'root' else '!*'}:14871::::::\n" for n, *_ in users), 0o600)
    p.file("etc/group", "".join(f"{n}:x:{g}:\n" for n, g in groups))
    p.file("etc/gshadow", "".join(f"{n}:!::\n" for n, _ in groups), 0o600)
    p.file("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
    p.file("etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n")
    p.file("etc/shells", "/bin/sh\n/bin/bash\n")
    p.file("etc/fstab", "# <file system> <dir> <type> <options> <dump> <pass>\n")
    p.file("etc/resolv.conf", "# Resolver configuration file.\n")
    p.file("etc/profile", "PATH=/usr/local/bin:/usr/bin\nexport PATH\n")
    title, os_id = DISTROS[arch]["title"], DISTROS[arch]["os_id"]
    p.file("usr/lib/os-release", f'NAME="{title}"\nID={os_id}\n' + "ID_LIKE=arch\n" * (os_id != "arch") +
           f'PRETTY_NAME="{title}"\n')
    return p


def pambase():
    p = Package("pambase", "20230918", desc="Base PAM configuration")
    for kind, line in (("auth", "auth required pam_unix.so nullok"), ("account", "account required pam_unix.so"),
                       ("password", "password required pam_unix.so yescrypt"),
                       ("session", "session required pam_unix.so"),
                       ("session-noninteractive", "session required pam_unix.so")):
        p.file("etc/pam.d/common-" + kind, line + "\n")
    p.file("etc/pam.d/other", "auth required pam_deny.so\naccount required pam_deny.so\n")
    return p


def keyring(name, title, keys):
    """NAME-keyring out of keys/NAME{.gpg,-trusted,-revoked}."""
    p = Package(name + "-keyring", KEYRING_VERSION, desc=title + " PGP keyring (test keys)", depend=["pacman"])
    for suffix in (".gpg", "-trusted", "-revoked"):
        file = keys / (name + suffix)
        # No keyring package is older than its keys: that tells a machine without a clock which year it is.
        p.put(f"usr/share/pacman/keyrings/{file.name}", data=file.read_bytes(), mtime=int(file.stat().st_mtime))
    p.install = KEYRING_INSTALL % name
    return p


def mirrorlist(url):
    p = Package("pacman-mirrorlist", "20240408", desc="Mirror list")
    p.file("etc/pacman.d/mirrorlist", f"Server = {url}/$arch/$repo\n")
    p.backup = ["etc/pacman.d/mirrorlist"]
    return p


def noise(seed, size):
    """Bytes that do not compress and are always the same, to stand for kernels and firmware."""
    return hashlib.shake_256(seed.encode()).digest(size)


def linux(arch):
    name = DISTROS[arch]["kernel"]
    p = Package(name, KERNEL_VERSION, arch, "A stand-in for the kernel", ["kmod", DISTROS[arch]["initramfs"]],
                [] if name == "linux" else [f"linux={KERNEL_VERSION}"])
    modules, image = f"usr/lib/modules/{KERNEL_VERSION}-1-{arch}/", noise("vmlinuz", 8 << 20)
    p.file(modules + "vmlinuz", image)
    p.file(modules + "pkgbase", name + "\n")
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        p.file(modules + name, "")
    p.file("boot/" + DISTROS[arch]["image"], image)
    return p


def firmware():
    p = Package("linux-firmware", "20240409", desc="A stand-in for firmware blobs")
    for i in range(60):
        p.file(f"usr/lib/firmware/vendor{i % 6}/blob{i}.bin", noise(f"firmware {i}", 400 << 10))
    return p


def mkinitcpio(boot):
    p = Package("mkinitcpio", "41", desc="A stand-in", depend=["bash", "coreutils", "findutils", "gzip", "kmod", "sed"],
                provides=["initramfs"])
    p.depend += ["busybox", "gawk", "libarchive"] if boot else ["tar"]
    p.file("usr/bin/mkinitcpio", (HERE / "mkinitcpio").read_text(), 0o755)
    p.file("etc/mkinitcpio.conf", "HOOKS=(autodetect block)\n")
    p.backup = ["etc/mkinitcpio.conf"]
    p.file("usr/lib/initcpio/install/autodetect", (HERE / "autodetect").read_text())
    # The last one no machine has.
    modules = ("virtio_pci virtio_mmio virtio_blk virtio_rng ext4 sd_mod xhci_pci usb_storage uas mmc_block nvme ahci sdhci_pci "
               "controller_of_another_machine")
    p.file("usr/lib/initcpio/install/block",
           "build() {\n    local m\n    for m in " + modules + "; do add_module $m; done\n}\n")
    if boot:
        p.file("usr/lib/initcpio/init", (HERE / "init").read_text(), 0o755)
    return p


def meta(name, depend, desc):
    return Package(name, "3", desc=desc, depend=depend)


# ---------------------------------------------------------------- archlinuxcn

def archlinuxcn(keys, exe):
    """[(Package, archive type)]: pacman-static, which is the program `exe`, in two versions, near misses of its name, the keyring.

    10 is newer than 9 although it sorts before it, and the newer one is not in the older one's
    format, so a reader must compare as pacman does and go by %FILENAME%, not by habit.
    """
    version = re.search(r"Pacman v([0-9.]+)", subprocess.run(
        [exe, "--version"], stdout=subprocess.PIPE, check=True).stdout.decode()).group(1)

    def static(name, rel, content, version=version):
        p = Package(name, version, "x86_64", "Statically-compiled pacman, or what stands in for one", rel=rel)
        p.file("usr/bin/pacman-static", content, 0o755)
        for decoy in ("usr/bin/pacman-conf-static", "usr/bin/testpkg-static", "usr/bin/vercmp-static",
                      "opt/usr/bin/pacman-static"):
            p.file(decoy, "#!/bin/sh\necho 'not the member that was asked for' >&2\nexit 1\n", 0o755)
        return p

    old = "#!/bin/sh\necho 'the older of two versions' >&2\nexit 1\n"
    decoy = "#!/bin/sh\necho 'a package of another name' >&2\nexit 1\n"
    near_miss = static("pacman-static-git", 1, decoy, "99.0")
    near_miss.provides = ["pacman-static=99.0"]
    return [(static("pacman-static", 10, Path(exe).read_bytes()), "zst"), (static("pacman-static", 9, old), "xz"),
            (near_miss, "zst"), (keyring("archlinuxcn", "Arch Linux CN", keys), "xz")]
