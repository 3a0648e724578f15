//! The two files that the firmware of a Raspberry Pi reads: config.txt says what it loads, cmdline.txt is the kernel's command
//! line (raspberrypi/documentation: computers/config_txt.adoc, configuration/kernel-command-line-config).

use super::kernels::{Kernel, Tree};
use super::{Booting, Wish, menu};
use crate::Content;
use crate::kind::FileSystemKind;
use rootfs::Arch;
use stage::{Code, Failure};

pub(super) const CONFIG: &str = "boot/config.txt";
pub(super) const CMDLINE: &str = "boot/cmdline.txt";

/// Adds both, with what the root's own have.
pub(super) fn add(
    kernel: &Kernel,
    tree: &Tree<'_>,
    arch: Arch,
    wish: &Wish<'_>,
    booting: &mut Booting,
) -> Result<(), Failure> {
    if !tree.mounted().any(|(_, kind, at)| at == "/boot" && kind == FileSystemKind::Vfat) {
        let why = "making a disk that boots on a Raspberry Pi: '/boot' is not on a partition with vfat";
        return Err(Failure::new(Code::Failed, why).hint("its firmware reads nothing else: give another layout"));
    }
    let config = config(kernel, tree, arch, wish)?;
    booting.add(CONFIG, Content::Text(config.into()), wish);
    booting.add(CMDLINE, Content::Text(cmdline(wish).into()), wish);
    Ok(())
}

/// Returns config.txt: the root's own or the board's lines, and behind them those that name the files of the kernel.
fn config(kernel: &Kernel, tree: &Tree<'_>, arch: Arch, wish: &Wish<'_>) -> Result<String, Failure> {
    let mut lines = vec![format!("kernel={}", kernel.file), format!("arm_64bit={}", u8::from(arch.class == 2))];
    lines.extend(kernel.initramfs.as_ref().map(|name| format!("initramfs {name} followkernel")));
    if let Some(dtb) = wish.dtb {
        let places = [Some(""), kernel.dtbs.as_deref()].into_iter().flatten();
        let mut paths = places.map(|place| format!("{place}/{dtb}").trim_start_matches('/').to_owned());
        let found = paths.find(|path| tree.file(&format!("boot/{path}")).is_some());
        lines.push(format!("device_tree={}", found.ok_or_else(|| missing("devicetree", dtb, "'/boot'"))?));
    }
    for name in wish.overlays {
        if tree.file(&format!("boot/overlays/{name}.dtbo")).is_none() {
            return Err(missing("overlay", name, "'/boot/overlays'"));
        }
        lines.push(format!("dtoverlay={name}"));
    }
    let own = wish.existing[0].map(str::to_owned);
    let before = own.unwrap_or_else(|| format!("# Made by mkdisk.\n{}", wish.config.unwrap_or_default()));
    // What stands in a section for one model is not said for all.
    let of_all = |text: &str| -> Vec<String> {
        let mut section = String::from("[all]");
        let mut all = Vec::new();
        for line in text.lines().map(str::trim) {
            match line.starts_with('[') {
                true => section = line.to_owned(),
                false if section == "[all]" => all.push(line.to_owned()),
                false => {}
            }
        }
        all
    };
    let there = of_all(&before);
    // Which kernel it loads, the root's own file may say, too.
    let key = |line: &str| line.split(['=', ' ']).next().unwrap_or_default().to_owned();
    let is_said = |line: &String| match key(line).as_str() {
        said @ ("kernel" | "arm_64bit" | "initramfs") => there.iter().any(|known| key(known) == said),
        _ => there.contains(line),
    };
    lines.retain(|line| !is_said(line));
    let mut text = before.trim_end().to_owned() + "\n";
    if !lines.is_empty() {
        text += &format!("\n# Added by mkdisk.\n[all]\n{}\n", lines.join("\n"));
    }
    Ok(text)
}

/// Returns cmdline.txt, which is one line: the root's own, with our root instead of its.
fn cmdline(wish: &Wish<'_>) -> String {
    let is_ours = |word: &&str| {
        matches!(*word, "rw" | "ro" | "rootwait") || word.starts_with("root=") || word.starts_with("rootfstype=")
    };
    let own = wish.existing[1].unwrap_or_default().split_whitespace().filter(|word| !is_ours(word));
    // The firmware finds the kernel by the partition, and so does the kernel the root, with an initramfs or without.
    let root = format!("root=PARTUUID={}{} rootwait", wish.root[1], menu::root_options(wish));
    let mut words: Vec<&str> = root.split_whitespace().collect();
    for word in own.chain(wish.cmdline.unwrap_or_default().split_whitespace()) {
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words.join(" ") + "\n"
}

fn missing(what: &str, name: &str, place: &str) -> Failure {
    let why = format!("looking for the {what} '{name}': it is not in {place} of the root");
    Failure::new(Code::NotFound, why).hint(format!("give the name of a file of {place}, without a leading slash"))
}
