//! A small root that has all that a boot is checked for: a kernel and an initramfs that are made up, and the lists of modules.

use crate::small::{self, Ran};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// The kernel's release.
pub const RELEASE: &str = "6.1.0-1-test";

/// The UUID of the root's file system.
pub const ROOT: &str = "4a7f9a4e-0d1b-4a2c-8c3d-0123456789ab";

/// A root of a board, in a directory of its own, with a document.
#[derive(Debug)]
pub struct Bootable {
    directory: TempDir,
    /// What the tools read.
    pub document: Value,
}

impl Default for Bootable {
    fn default() -> Self {
        Self::new()
    }
}

impl Bootable {
    /// Makes one.
    ///
    /// # Panics
    ///
    /// Where it cannot be written.
    #[must_use]
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().tempdir_in("/var/tmp").expect("our own directory");
        let root = directory.path().canonicalize().expect("our own directory").join("root");
        fs::create_dir_all(root.join("var/lib/pacman/local")).expect("our own directory");
        let lab = Self { directory, document: Value::Null };
        let mut kernel = vec![0; 0x38];
        kernel.extend(b"ARM\x64");
        kernel.extend(format!("\0Linux version {RELEASE} (x@y)\n").bytes());
        let modules = format!("usr/lib/modules/{RELEASE}");
        for (path, content) in [
            ("etc/os-release", b"NAME=\"Arch Linux ARM\"\n".as_slice()),
            ("etc/fstab", format!("UUID={ROOT} / ext4 rw 0 1\nUUID=1A2B-3C4D /boot vfat rw 0 2\n").as_bytes()),
            ("usr/bin/mkinitcpio", b"#!/bin/bash\n"),
            ("boot/Image", &kernel),
            ("boot/dtbs/a.dtb", b"d"),
            (&format!("{modules}/modules.builtin"), b"kernel/drivers/virtio/virtio_pci.ko\n"),
            (&format!("{modules}/modules.dep"), b"kernel/ext4.ko: kernel/jbd2.ko\nkernel/jbd2.ko:\nkernel/nvme.ko:\n"),
            (&format!("{modules}/modules.softdep"), b"softdep ext4 pre: crc32c\n"),
        ] {
            lab.put(path, content);
        }
        lab.initramfs(&["ext4", "jbd2"], RELEASE);
        let meta = root.metadata().expect("our own directory");
        let filesystem = |at: &str, kind: &str, uuid: &str| json!({"at": at, "type": kind, "uuid": uuid});
        let document = json!({
            "strapline": 1, "root": root, "root_id": {"dev": meta.dev(), "ino": meta.ino()}, "arch": "aarch64",
            "distro": "archlinuxarm", "mode": "root", "mounts": [], "binfmt": {"kind": "native"},
            "filesystems": [filesystem("/", "ext4", ROOT), filesystem("/boot", "vfat", "1A2B-3C4D")],
        });
        Self { document, ..lab }
    }

    /// Returns the directory that all of it is in.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Returns a path of the root.
    ///
    /// # Panics
    ///
    /// Where the directory is gone.
    #[must_use]
    pub fn root(&self, below: &str) -> PathBuf {
        self.directory.path().canonicalize().expect("our own directory").join("root").join(below)
    }

    /// Writes a file of the root, with the directories above it.
    ///
    /// # Panics
    ///
    /// Where that fails.
    pub fn put(&self, below: &str, content: &[u8]) {
        let path = self.root(below);
        fs::create_dir_all(path.parent().expect("our own directory")).expect("our own directory");
        fs::write(path, content).expect("our own directory");
    }

    /// Makes an initramfs with bsdtar(1) and zstd(1), of a kernel's release.
    ///
    /// # Panics
    ///
    /// Where that fails.
    pub fn initramfs(&self, modules: &[&str], release: &str) {
        let scratch = tempfile::tempdir_in(self.path()).expect("our own directory");
        let top = scratch.path();
        let below = top.join(format!("usr/lib/modules/{release}/kernel"));
        fs::create_dir_all(&below).expect("our own directory");
        fs::write(top.join("init"), "#!/bin/sh\n").expect("our own directory");
        for module in modules {
            fs::write(below.join(format!("{module}.ko")), format!("\0vermagic={release} SMP \0"))
                .expect("our own directory");
        }
        fs::create_dir_all(self.root("boot")).expect("our own directory");
        let script = format!(
            "cd {} && bsdtar --format newc -cf - . | zstd -q > {}",
            top.display(),
            self.root("boot/initramfs-linux.img").display()
        );
        assert!(
            Command::new("sh")
                .args(["-ec", &script])
                .stdin(Stdio::null())
                .status()
                .expect("our own directory")
                .success()
        );
    }

    /// Makes a unified kernel image with objcopy(1) and systemd's stub, as of the architecture of this machine.
    ///
    /// # Panics
    ///
    /// Where that fails.
    pub fn unified(&self, below: &str, sections: &[(&str, &[u8])]) {
        let stubs = fs::read_dir("/usr/lib/systemd/boot/efi").expect("Debian's systemd-boot-efi");
        let mut stubs = stubs.map(|entry| entry.expect("a directory").path());
        let stub = stubs.find(|path| path.to_string_lossy().ends_with(".efi.stub")).expect("a stub");
        let scratch = tempfile::tempdir_in(self.path()).expect("our own directory");
        let mut command = Command::new("objcopy");
        for (n, (name, content)) in sections.iter().enumerate() {
            let file = scratch.path().join(n.to_string());
            fs::write(&file, content).expect("our own directory");
            command.arg("--add-section").arg(format!("{name}={}", file.display()));
            command.arg("--change-section-vma").arg(format!("{name}={}", (n + 1) << 28));
        }
        let to = self.root(below);
        fs::create_dir_all(to.parent().expect("our own directory")).expect("our own directory");
        assert!(command.arg(stub).arg(to).status().expect("Debian's binutils").success());
    }

    /// Runs a program beside the root, with the document.
    ///
    /// # Panics
    ///
    /// Where it cannot be started.
    pub fn run(&self, command: &mut Command) -> Ran {
        small::prepare(command, self.path());
        let child = small::start(command, &self.document);
        Ran::of(&child.wait_with_output().expect("it ends"))
    }
}
