//! What `mkdisk` makes boots: as a board does (U-Boot and extlinux.conf) and as a PC does (UEFI and systemd-boot, BIOS and
//! SYSLINUX), in a virtual machine without a network, and without acceleration, which not every machine has.
//!
//! A unit of the test's says on the serial console what the machine finds, and switches it off: so the test waits for the
//! machine, and for nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use strapline_tests::{Lab, Mirror, Server, Who, lab};

/// The most that a boot may take, in seconds. On two idle processors it takes one minute.
const LIMIT: &str = "1500";

/// What the machine runs: a line for each question. `KEY` is the packagers'.
const REPORT: &str = r#"#!/bin/bash
exec > /dev/console 2>&1
say() { printf '\nboot-test: %s: %s\n' "$1" "$2"; }
say hostname "$(cat /proc/sys/kernel/hostname)"
say machine "$(uname -m)"
say packages "$(pacman -Q | wc -l)"
say secret-keys "$(ls /etc/pacman.d/gnupg/private-keys-v1.d | wc -l)"
say packager "$(gpg --homedir /etc/pacman.d/gnupg --with-colons --list-keys KEY 2> /dev/null | sed -n 's/^pub:\(.\).*/\1/p')"
say keyring "$(systemctl show --property Result --value first-boot-keyring.service)"
say root "$(findmnt --noheadings --output FSTYPE,UUID /)"
say boot "$(ls /boot > /dev/null; findmnt --noheadings --output FSTYPE,UUID /boot)"
say failed "$(systemctl --failed --no-legend --plain | wc -l)"
say machine-id "$(wc -c < /etc/machine-id)"
say end "of report"
systemctl poweroff
"#;

const UNIT: &str = "[Unit]
Description=Say what this machine finds, and switch it off
After=first-boot-keyring.service systemd-user-sessions.service

[Service]
Type=oneshot
ExecStart=/usr/local/bin/report

[Install]
WantedBy=multi-user.target
";

/// A kind of machine.
pub(crate) struct Machine {
    pub(crate) arch: &'static str,
    /// The packages of its keyring and its kernel.
    packages: &'static str,
    pub(crate) console: &'static str,
    qemu: &'static str,
    /// Its board, as `mkdisk --board` names it.
    board: Option<&'static str>,
    /// What `mkdisk` is told beside that.
    options: &'static str,
}

pub(crate) const BOARD: Machine = Machine {
    arch: "aarch64",
    packages: "archlinuxarm-keyring linux-aarch64",
    console: "ttyAMA0",
    qemu: "qemu-system-aarch64 -machine virt -cpu cortex-a72 -bios /usr/lib/u-boot/qemu_arm64/u-boot.bin",
    board: None,
    options: "",
};

pub(crate) const PC: Machine = Machine {
    arch: "x86_64",
    packages: "archlinux-keyring linux",
    console: "ttyS0",
    qemu: "qemu-system-x86_64 -machine q35 -cpu max \
        -drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd \
        -drive if=pflash,format=raw,snapshot=on,file=/usr/share/OVMF/OVMF_VARS_4M.fd",
    board: Some("efi"),
    options: "",
};

const ARM_UEFI: Machine = Machine {
    qemu: "qemu-system-aarch64 -machine virt -cpu cortex-a72 -bios /usr/share/qemu-efi-aarch64/QEMU_EFI.fd",
    board: Some("efi"),
    ..BOARD
};

/// With an initramfs of the real dracut.
const DRACUT_PC: Machine = Machine { packages: "archlinux-keyring linux dracut", ..PC };

/// The kernel depends on mkinitcpio, which then makes nothing. dracut's hook puts a second name of the kernel beside `Image`.
const DRACUT_BOARD: Machine =
    Machine { packages: "archlinuxarm-keyring linux-aarch64 dracut --mask-hook 90-mkinitcpio-install.hook", ..BOARD };

/// With OpenSBI, which QEMU brings, and U-Boot's UEFI. The kernel and dracut are Debian 13's.
const RISCV_UEFI: Machine = Machine {
    arch: "riscv64",
    packages: "archlinux-keyring linux dracut",
    console: "ttyS0",
    qemu: "qemu-system-riscv64 -machine virt -kernel /usr/lib/u-boot/qemu-riscv64_smode/u-boot.bin",
    board: Some("efi"),
    options: "",
};

/// With QEMU's own BIOS. The mirror has no syslinux, so the boot code of the MBR is the host's.
const OLD_PC: Machine = Machine {
    qemu: "qemu-system-x86_64 -machine q35 -cpu max",
    board: Some("pc-bios"),
    options: "--blob mbr=/usr/lib/syslinux/mbr/mbr.bin",
    ..PC
};

/// Where a disk may be, as `verify --for` calls it, with QEMU's devices.
const BUSES: [(&str, &[&str]); 5] = [
    ("virtio", &["virtio-blk-pci,drive=disk"]),
    ("nvme", &["nvme,serial=1,drive=disk"]),
    ("ahci", &["ide-hd,drive=disk"]),
    ("usb", &["qemu-xhci", "usb-storage,drive=disk"]),
    ("sdhci", &["sdhci-pci", "sd-card,drive=disk"]),
];

impl Machine {
    /// Returns the command that runs it with a disk at a bus: the devices of [`BUSES`], and more options of -drive.
    fn command_at(&self, devices: &[&str], disk: &str) -> Command {
        // One processor: Linux changes its own code while it starts, and with two of an emulated PC one of them has waited for ever
        // on such an instruction.
        let mut words = self.qemu.split_whitespace();
        let mut qemu = Command::new(words.next().unwrap_or_default());
        qemu.args(words)
            .args(["-accel", "tcg", "-smp", "1", "-m", "1024", "-no-reboot", "-device", "virtio-rng-pci"])
            .args(["-drive", &format!("if=none,id=disk,{disk}")])
            .args(devices.iter().flat_map(|device| ["-device", *device]));
        qemu
    }

    /// Returns the command that runs it with a disk of virtio: more options of -drive.
    pub(crate) fn command(&self, disk: &str) -> Command {
        self.command_at(BUSES[0].1, disk)
    }
}

/// Makes an image with the whole pipe, boots it twice, and checks what the machine says.
fn boots(machine: &Machine, who: Who) {
    let (lab, expected, _) = image(machine, who);
    // The second time there is nothing to make.
    for _ in 0..2 {
        assert_eq!(boot(&lab, machine, BUSES[0].1), expected);
    }
}

/// Makes an image with the whole pipe. Returns the laboratory that has it, what the machine says, and the kernel's command line.
fn image(machine: &Machine, who: Who) -> (Lab, BTreeMap<String, String>, String) {
    let (mirror, lab) = (Mirror::that_boots(machine.arch), Lab::new(who));
    let server = Server::of(&mirror.www());
    let report = REPORT.replace("KEY", &mirror.key("/builder"));
    for (name, text) in [("report", report.as_str()), ("boot-test.service", UNIT)] {
        std::fs::write(lab.path().join(name), text).expect("our own directory");
    }
    let image = lab.sh(&format!(
        "mkroot root --arch {arch} --distro {preset} \
         | fetch-pacman --cache-dir fetched --server {url}/archlinuxcn/x86_64 \
         | mkconf --server '{url}/$arch/$repo' --cache-dir $PWD/packages \
         | keyring --quiet | strap --quiet base {packages} \
         | enter --bind $PWD:/mnt -- sh -c 'install -m 755 -D /mnt/report /usr/local/bin/report \
             && install -m 644 /mnt/boot-test.service /etc/systemd/system/' \
         | configure --hostname booted --fstab {board} --first-boot-keyring --enable boot-test \
         | keyring --strip | mkdisk --quiet -o disk.img --size 2G {board} {options} --cmdline console={console} \
         | verify --quiet --no-signatures --no-files --boot --for {buses} | reap | unmount",
        buses = BUSES.map(|(bus, _)| bus).join(","),
        arch = machine.arch,
        preset = mirror.preset().display(),
        url = server.url(),
        packages = machine.packages,
        console = machine.console,
        board = machine.board.map(|name| format!("--board {name}")).unwrap_or_default(),
        options = machine.options,
    ));
    let receipt = image.succeeded();
    let count = receipt["packages"].as_array().map(Vec::len);
    let uuid = |at: &str| -> String {
        let partitions = receipt["disks"][0]["partitions"].as_array();
        let mut partitions = partitions.into_iter().flatten();
        let found = partitions.find(|p| p["at"] == at).expect(at);
        found["filesystem"]["uuid"].as_str().expect("a UUID").to_owned()
    };
    let expected = [
        ("hostname", "booted".to_owned()),
        ("machine", machine.arch.to_owned()),
        ("packages", count.expect("packages").to_string()),
        // The one that the machine made, and the packagers' key is valid by it.
        ("secret-keys", "1".to_owned()),
        ("packager", "f".to_owned()),
        ("keyring", "success".to_owned()),
        ("root", format!("ext4 {}", uuid("/"))),
        ("boot", format!("vfat {}", uuid("/boot"))),
        ("failed", "0".to_owned()),
        // 32 digits and the end of the line.
        ("machine-id", "33".to_owned()),
        ("end", "of report".to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value));
    let cmdline = receipt["disks"][0]["boot"][0]["cmdline"].as_str().unwrap_or_default().to_owned();
    (lab, BTreeMap::from(expected), cmdline)
}

/// Runs the machine with its disk at a bus until it switches itself off; returns what it said.
fn boot(lab: &Lab, machine: &Machine, devices: &[&str]) -> BTreeMap<String, String> {
    run(lab, &machine.command_at(devices, "format=raw,file=disk.img"))
}

/// Runs a machine until it switches itself off; returns what it said.
fn run(lab: &Lab, machine: &Command) -> BTreeMap<String, String> {
    let mut qemu = Command::new("timeout");
    qemu.args(["--kill-after=10", LIMIT])
        .arg(machine.get_program())
        .args(machine.get_args())
        .args(["-nic", "none", "-nographic"])
        .current_dir(lab.path())
        .stdin(std::process::Stdio::null());
    let ran = lab::run(&mut qemu);
    assert_eq!(ran.status, 0, "{}\n{}", ran.stdout, ran.stderr);
    let lines = ran.stdout.lines().filter_map(|line| {
        let (key, value) = line.trim().strip_prefix("boot-test: ")?.split_once(": ")?;
        Some((key.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" ")))
    });
    let said: BTreeMap<String, String> = lines.collect();
    assert!(said.contains_key("end"), "it did not come to an end:\n{}", ran.stdout);
    said
}

/// By day: `mkdisk::an_image_of_a_board_as_root`.
#[test]
#[ignore = "soak: boots a machine twice"]
fn a_board_boots_what_an_ordinary_user_made() {
    boots(&BOARD, Who::User);
}

/// By day: `tools/mkdisk/tests/cli.rs` looks at what the firmware reads.
#[test]
#[ignore = "soak: boots a machine twice"]
fn a_pc_boots() {
    boots(&PC, Who::Root);
}

/// What `verify --boot --for` says of each bus is so. By day: the tests of `lib/image/src/boot`.
#[test]
#[ignore = "soak: boots a machine five times"]
fn a_pc_boots_from_each_bus() {
    boots_from_each_bus(&PC);
}

/// dracut's hook asks for an initramfs of this machine, which has none of these buses but virtio. By day: the test of
/// `tools/strap/src/initramfs.rs`.
#[test]
#[ignore = "soak: boots a machine five times"]
fn a_pc_with_dracut_boots_from_each_bus() {
    boots_from_each_bus(&DRACUT_PC);
}

fn boots_from_each_bus(machine: &Machine) {
    let (lab, expected, cmdline) = image(machine, Who::User);
    for (bus, devices) in BUSES {
        let mut qemu = machine.command_at(devices, "format=raw,file=disk.img");
        // Debian's OVMF reads no card: QEMU loads what the menu names, and the initramfs has to find the root all the same.
        if bus == "sdhci" {
            qemu.args([
                "-kernel",
                "root/boot/vmlinuz-linux",
                "-initrd",
                "root/boot/initramfs-linux.img",
                "-append",
                &cmdline,
            ]);
        }
        assert_eq!(run(&lab, &qemu), expected, "{bus}");
    }
}

/// dracut runs under emulation here. By day: `a_pc_with_dracut_boots_from_each_bus` has the day's test.
#[test]
#[ignore = "soak: boots a machine"]
fn a_board_with_dracut_boots() {
    let (lab, expected, _) = image(&DRACUT_BOARD, Who::User);
    // A board without a battery: its clock stood still, and the keys are of its future. Once, since without a network it is behind
    // them again at each later boot.
    let mut qemu = DRACUT_BOARD.command("format=raw,file=disk.img");
    assert_eq!(run(&lab, qemu.args(["-rtc", "base=2000-01-01"])), expected);
}

/// By day: `tools/mkdisk/tests/boards.rs` looks at what the firmware reads.
#[test]
#[ignore = "soak: boots a machine twice"]
fn an_arm_machine_with_uefi_boots() {
    boots(&ARM_UEFI, Who::User);
}

/// By day: `tools/mkdisk/tests/boards.rs` looks at what the firmware reads.
#[test]
#[ignore = "soak: boots a machine twice"]
fn a_riscv_machine_with_uefi_boots() {
    boots(&RISCV_UEFI, Who::User);
}

/// By day: `tools/mkdisk/tests/boards.rs` looks at what the BIOS reads.
#[test]
#[ignore = "soak: boots a machine twice"]
fn a_pc_with_bios_boots() {
    boots(&OLD_PC, Who::User);
}

/// A board says "booted" where a machine of this file boots it, and nowhere else.
#[test]
fn what_is_called_booted_is_booted_here() {
    let boards = image::board::list().expect("the boards are tested");
    let mut said = BTreeSet::new();
    for (name, layout) in boards {
        said.extend(layout.board.into_iter().flat_map(|board| board.booted).map(|arch| (name, arch)));
    }
    let machines = [&BOARD, &PC, &ARM_UEFI, &RISCV_UEFI, &OLD_PC].into_iter();
    let booted = machines.filter_map(|machine| Some((machine.board?, machine.arch.to_owned())));
    assert_eq!(said, booted.collect());
}
