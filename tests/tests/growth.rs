//! The examples that make images, booted from a card that is larger than the image: the root grows, the machine is reached by ssh,
//! makes keys of its own, and installs from the mirror. The power may be cut meanwhile.
//!
//! What a power cut takes with it is what the disk had not written: a disk that is a file keeps all of that in the host's cache,
//! whatever `cache=` says, since it is not the host that loses its power. So the disk is an overlay in qcow2, whose tables QEMU writes
//! when the guest flushes, and else keeps in its memory: what was not flushed is gone, but for blocks that were written before. With
//! `cache=unsafe` that is so, too, and nothing waits for the host's disk.

use crate::boot::{BOARD, Machine, PC};
use crate::examples::{self, Bench};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use strapline_tests::{Guest, Mirror, lab};

/// Bytes of the card.
const CARD: u64 = 4 << 30;

/// Bytes in a sector.
const SECTOR: u64 = 512;

/// What lies in the first sectors of a GPT, in bytes: only this of what is before the first partition may change.
const TABLE: u64 = 34 * SECTOR;

/// What the machine is asked at each boot. `KEY` is the packagers'.
const FACTS: &str = r#"
say() { printf '%s: %s\n' "$1" "$2"; }
say state "$(systemctl is-system-running --wait || true)"
say failed "$(systemctl --failed --no-legend --plain | tr '\n' ' ')"
say machine-id "$(cat /etc/machine-id)"
device=$(findmnt --noheadings --output SOURCE /)
say sectors "$(cat "/sys/class/block/${device##*/}/size")"
say bytes "$(findmnt --noheadings --bytes --output SIZE / | tr -d ' ')"
say secret-keys "$(gpg --homedir /etc/pacman.d/gnupg --with-colons --list-secret-keys 2> /dev/null | grep --count ^sec)"
say secret-key "$(gpg --homedir /etc/pacman.d/gnupg --with-colons --list-secret-keys 2> /dev/null | grep ^fpr | head -n 1)"
say packager "$(gpg --homedir /etc/pacman.d/gnupg --with-colons --list-keys KEY 2> /dev/null | sed -n 's/^pub:\(.\).*/\1/p')"
say signatures "$(pacman-conf SigLevel | tr '\n' ' ')"
"#;

/// An example of an image, and where its machine's power is cut.
struct Example {
    machine: &'static Machine,
    bench: fn(&Mirror) -> Bench,
    /// Its makefile, and the name and the user of the system.
    makefile: &'static str,
    name: &'static str,
    user: &'static str,
    /// The loader of its board, and where the first partition begins.
    loader: &'static str,
    start: &'static str,
    /// How its board is named to make(1).
    board: &'static str,
    /// A package of the distribution and one of the overlay that it has not.
    packages: &'static str,
    /// The power is cut when it says this, each at one boot.
    cuts: &'static [&'static str],
}

const CACHYOS: Example = Example {
    machine: &PC,
    bench: examples::cachyos,
    makefile: "cachyos-v3.mk DISTRO=cachyos.toml KERNEL=linux",
    name: "cachyos",
    user: "me",
    loader: "systemd-boot",
    start: "1M",
    board: "BOOT='--board board.toml'",
    packages: "vim cachyos-fast",
    cuts: &["resizing filesystem", "Locally signing", "Finished first-boot-keyring"],
};

const ORANGE_PI: Example = Example {
    machine: &BOARD,
    bench: examples::orange_pi,
    makefile: "orange-pi-5.mk DISTRO=preset.toml OVERLAYS=7Ji.toml KERNEL=linux-aarch64 PACKAGES='linux-aarch64 systemd-resolved'",
    name: "alarm",
    user: "alarm",
    loader: "extlinux",
    start: "16M",
    board: "BOARD=board.toml",
    packages: "shared-one 7ji-tool",
    cuts: &[],
};

/// A card with an image.
struct Card<'a> {
    example: &'a Example,
    bench: Bench,
    facts: String,
}

impl<'a> Card<'a> {
    /// Makes the image by the example, and writes it to the card.
    fn new(example: &'a Example) -> Self {
        let machine = example.machine;
        let mirror = Mirror::that_boots(machine.arch);
        let bench = (example.bench)(&mirror);
        let card = Self { example, bench, facts: FACTS.replace("KEY", &mirror.key("/builder")) };
        card.bench.write("u-boot-rockchip.bin", &"u".repeat(5000));
        // no_timer_check: an emulated timer of a PC may come late on a busy host, and Linux then panics.
        card.bench.write(
            "board.toml",
            &format!(
                "start = '{}'\n[board]\ntitle = 'a test'\narch = ['x86_64_v3', 'aarch64']\nproof = 'never'\nloader = '{}'\n\
                 cmdline = 'console={} TERM=dumb systemd.journald.forward_to_console=1 no_timer_check'\n\
                 [[blob]]\nname = 'u-boot'\nfile = 'u-boot-rockchip.bin'\noffset = '32K'\n",
                example.start, example.loader, machine.console
            ),
        );
        card.write_tree();
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(card.path("key")));
        let Example { makefile, name, board, .. } = example;
        drop(
            card.bench
                .make(&format!("-f {makefile} {board} KEY=key.pub SSHD=ssh TREES=guest.tree"), &format!("{name}.json")),
        );
        run(Command::new("cp").arg("--sparse=always").args([card.image(), card.path("card")]));
        File::options().write(true).open(card.path("card")).and_then(|file| file.set_len(CARD)).expect("room");
        card
    }

    /// What the machine has of the test's: patience on a busy host, and the mirror at the addresses that it has here.
    fn write_tree(&self) {
        let units = "guest.tree/etc/systemd/system";
        let port = self.bench.server.url().rsplit(':').next().expect("a port");
        for directory in ["sockets.target.wants", "first-boot-keyring.service.d", "../system.conf.d"] {
            fs::create_dir_all(self.path(units).join(directory)).expect("our own directory");
        }
        for (name, text) in [
            ("../system.conf.d/patience.conf", "[Manager]\nDefaultDeviceTimeoutSec=1h\nDefaultTimeoutStartSec=1h\n"),
            ("first-boot-keyring.service.d/patience.conf", "[Service]\nTimeoutStartSec=1h\n"),
            ("mirror.socket", &format!("[Socket]\nListenStream=127.0.0.1:8765\nListenStream=127.0.0.1:{port}\n")),
            (
                "mirror.service",
                &format!("[Service]\nExecStart=/usr/lib/systemd/systemd-socket-proxyd 10.0.2.2:{port}\n"),
            ),
        ] {
            self.bench.write(&format!("{units}/{name}"), text);
        }
        let wanted = self.path(units).join("sockets.target.wants/mirror.socket");
        symlink("../mirror.socket", wanted).expect("our own directory");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.bench.lab.path().join(name)
    }

    fn image(&self) -> PathBuf {
        self.path(&format!("{}.img", self.example.name))
    }

    /// Starts the machine. What it discards is gone, as on a card.
    fn start(&self, disk: &str) -> Guest {
        let mut qemu = self.example.machine.command(&format!("cache=unsafe,discard=unmap,{disk}"));
        Guest::start(qemu.current_dir(self.bench.lab.path()), self.bench.lab.path())
    }

    /// Boots, and cuts the power when the machine says a line with this text.
    fn boot_until(&self, text: &str) {
        let qemu_img =
            |words: &str| run(Command::new("qemu-img").args(words.split(' ')).current_dir(self.bench.lab.path()));
        qemu_img("create -q -f qcow2 -b card -F raw -o cluster_size=4k overlay");
        let mut guest = self.start("format=qcow2,file=overlay");
        guest.wait_for(text);
        guest.cut();
        qemu_img("commit -q overlay");
    }

    /// Boots, runs a script beside the facts, and switches the machine off. Returns the facts, and what the script printed.
    fn boot(&self, script: &str) -> (BTreeMap<String, String>, String) {
        let mut guest = self.start("format=raw,file=card");
        guest.wait_for("Reached target multi-user.target");
        let inside = |script: &str| {
            let ran = guest.run(self.example.user, script);
            assert_eq!(ran.status, 0, "{script}\n{}\n{}", ran.stdout, ran.stderr);
            ran.stdout
        };
        let facts = inside(&self.facts);
        let facts = facts.lines().filter_map(|line| line.split_once(": "));
        let facts = facts.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect();
        let said = inside(script);
        // The connection may end before the command does.
        drop(guest.run(self.example.user, "systemctl --no-block poweroff"));
        guest.wait_for_end();
        (facts, said)
    }

    /// Returns the table of a disk; sfdisk(8) says on stderr where one of its two copies is wrong.
    fn table(disk: &Path) -> Value {
        let ran = lab::run(Command::new("sfdisk").arg("--json").arg(disk));
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
        let mut value: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        for partition in value["partitiontable"]["partitions"].as_array_mut().expect("partitions") {
            // The file's name and a number.
            drop(partition.as_object_mut().expect("a partition").remove("node"));
        }
        value["partitiontable"].take()
    }

    /// Checks that the last partition is all of the card that is left, and its file system all of it; and that nothing else changed.
    /// Returns its sectors.
    fn check_grown(&self) -> u64 {
        let card = self.path("card");
        let (old, new) = (Self::table(&self.image()), Self::table(&card));
        let number = |value: &Value| value.as_u64().expect("a number");
        assert_eq!(new["partitions"].as_array().map(Vec::len), Some(2));
        assert_eq!((&old["id"], &old["partitions"][0]), (&new["id"], &new["partitions"][0]));
        let mut grown = old["partitions"][1].clone();
        let start = number(&grown["start"]);
        // In whole blocks of 4 KiB.
        let sectors = (number(&new["lastlba"]) + 1 - start) / 8 * 8;
        assert!(sectors > number(&grown["size"]) && number(&new["lastlba"]) + 34 == CARD / SECTOR);
        grown["size"] = sectors.into();
        assert_eq!(new["partitions"][1], grown);
        let there = format!("{}?offset={}", card.display(), start * SECTOR);
        let superblock = run(Command::new("dumpe2fs").args(["-h", &there]));
        let blocks = superblock.lines().find_map(|line| line.strip_prefix("Block count:")).expect("a count");
        assert_eq!(blocks.trim().parse(), Ok(sectors / 8));
        run(Command::new("e2fsck").args(["-f", "-n", &there]));
        let before = |disk: &Path| {
            let end = number(&old["partitions"][0]["start"]) * SECTOR;
            let mut bytes = vec![0; usize::try_from(end).expect("it fits")];
            File::open(disk).and_then(|file| file.read_exact_at(&mut bytes, 0)).expect("a disk");
            drop(bytes.drain(440..usize::try_from(TABLE).expect("it fits")));
            bytes
        };
        let loader = before(&card);
        assert!(loader.windows(5000).any(|bytes| bytes == [b'u'; 5000]));
        assert!(loader == before(&self.image()), "what is before the first partition changed");
        sectors
    }
}

/// Runs a program of the host, which must succeed, and returns what it printed.
#[track_caller]
fn run(command: &mut Command) -> String {
    let ran = lab::run(command);
    assert_eq!(ran.status, 0, "{command:?}\n{}\n{}", ran.stdout, ran.stderr);
    ran.stdout
}

fn grows(example: &Example) {
    let card = Card::new(example);
    for text in example.cuts {
        card.boot_until(text);
    }
    let packages = example.packages;
    let (facts, said) = card.boot(&format!(
        "! pacman -Q {packages} > /dev/null 2>&1 && pacman -Syu --noconfirm {packages} >&2 \
         && pacman -Qi {packages} | sed -n 's/^Validated By *: //p'"
    ));
    assert_eq!(said, "Signature\nSignature\n");
    let sectors = card.check_grown();
    let is = |key: &str| facts[key].as_str();
    for (key, value) in [
        ("state", "running"),
        ("failed", ""),
        ("secret-keys", "1"),
        // The packagers' key is valid by the machine's own.
        ("packager", "f"),
        ("sectors", &sectors.to_string()),
    ] {
        assert_eq!(is(key), value, "{key}");
    }
    assert!(is("bytes").parse::<u64>().is_ok_and(|bytes| bytes > sectors * SECTOR / 10 * 9), "{facts:?}");
    assert_eq!(is("machine-id").len(), 32);
    assert!(is("signatures").contains("PackageRequired"), "{facts:?}");
    let table = Card::table(&card.path("card"));
    // Nothing is left to do, and the machine has the same keys.
    let (again, _) = card.boot("true");
    assert_eq!(again, facts);
    assert_eq!(Card::table(&card.path("card")), table);
    assert_eq!(card.check_grown(), sectors);
}

/// By day: `examples::as_cachyos_is_made_for_v3`.
#[test]
#[ignore = "soak: boots a machine five times"]
fn a_pc_grows_though_its_power_is_cut() {
    grows(&CACHYOS);
}

/// By day: `examples::a_card_for_an_orange_pi_5_twice`.
#[test]
#[ignore = "soak: boots a machine twice"]
fn a_card_of_a_board_grows() {
    grows(&ORANGE_PI);
}
