//! Boards as data: a layout file with a `[board]` table, which says what a machine needs to boot beside its partitions. The
//! files of `boards/` are compiled in, so that a binary copied to a bare host knows them.
//!
//! ```toml
//! table = "gpt"
//! start = "16M"                          # where the first partition begins; without partitions those of the standard layout
//!
//! [board]
//! title = "Orange Pi 5"
//! arch = ["aarch64"]
//! proof = "read back"                    # or "never"
//! booted = ["aarch64"]                   # the architectures on which a virtual machine booted an image
//! loader = "extlinux"                    # what --bootloader auto means
//! dtb = "rockchip/rk3588s-orangepi-5.dtb"
//! overlays = ["rockchip/overlay/x.dtbo"]
//! cmdline = "console=ttyS2,1500000"
//! config = "enable_uart=1"               # lines of config.txt, of a Raspberry Pi
//!
//! [[blob]]
//! name = "u-boot"                        # for --blob NAME=FILE
//! in_root = "/boot/u-boot-rockchip.bin"
//! package = "uboot-odroid-m1"            # what brings it; or build = "…": what it is built from
//! offset = "32K"
//!
//! [[needs]]                              # a file that the firmware looks for
//! file = "/boot/start4.elf"
//! package = "raspberrypi-bootloader"
//! ```

use crate::boot;
use crate::layout::{Content, Layout, Source, from_root};
use crate::size;
use rootfs::Arch;
use serde::Deserialize;
use stage::message::meant;
use stage::{Code, Doing, Failure, quote};
use std::path::Path;

/// A board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board {
    /// What it is.
    pub title: String,
    /// The architectures of its roots.
    pub arch: Vec<String>,
    /// Whether an image for it was read back.
    pub proof: Proof,
    /// The architectures on which a virtual machine booted an image.
    pub booted: Vec<String>,
    /// The boot loader to configure.
    pub loader: Option<String>,
    /// Its devicetree, below the directory of the kernel's devicetrees.
    pub dtb: Option<String>,
    /// Its overlays, below the same directory.
    pub overlays: Vec<String>,
    /// What the kernel's command line has.
    pub cmdline: Option<String>,
    /// Lines of config.txt, where the root has none.
    pub config: Option<String>,
    /// Files that its firmware looks for: paths in the root, without a slash at their beginning.
    pub needs: Vec<String>,
}

/// How far an image was looked at.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub enum Proof {
    /// It was not looked at.
    #[default]
    #[serde(rename = "never")]
    Never,
    /// The table and the blobs were read back by others' programs.
    #[serde(rename = "read back")]
    ReadBack,
}

impl Proof {
    /// Returns its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::ReadBack => "read back",
        }
    }
}

impl Board {
    /// Returns how far an image was seen to work, in words.
    #[must_use]
    pub fn seen(&self) -> String {
        match self.booted.is_empty() {
            true => self.proof.name().to_owned(),
            false => format!("booted ({})", self.booted.join(", ")),
        }
    }
}

/// The table of a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BoardTable {
    title: String,
    pub(crate) arch: Vec<String>,
    #[serde(default)]
    proof: Proof,
    #[serde(default)]
    booted: Vec<String>,
    loader: Option<String>,
    dtb: Option<String>,
    #[serde(default)]
    overlays: Vec<String>,
    cmdline: Option<String>,
    config: Option<String>,
}

/// The boot loaders that a board can have: those of `mkdisk --bootloader`.
pub const LOADERS: [&str; 5] = ["extlinux", "systemd-boot", "raspberrypi", "syslinux", "none"];

impl BoardTable {
    pub(crate) fn check(self, needs: Vec<String>) -> Result<Board, String> {
        let wrong = |what: &str| Err(format!("board: {what}"));
        let is_line = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
        if !is_line(&self.title) {
            return wrong("title must be one line");
        }
        if self.arch.is_empty() {
            return wrong("arch names no architecture");
        }
        for name in &self.arch {
            Arch::named(name).map_err(|failure| format!("board: {}", failure.message))?;
        }
        if !self.booted.iter().all(|name| self.arch.contains(name)) {
            return wrong("booted names an architecture that arch does not");
        }
        if self.loader.as_deref().is_some_and(|loader| !LOADERS.contains(&loader)) {
            return wrong(&format!("loader must be one of {}", LOADERS.join(", ")));
        }
        let paths = self.dtb.iter().chain(&self.overlays);
        paths
            .map(|path| boot::check_dtb(path))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|what| format!("board: {what}"))?;
        self.cmdline.as_deref().map(boot::check_cmdline).transpose().map_err(|what| format!("board: {what}"))?;
        if self.config.as_deref().is_some_and(|text| text.chars().any(|c| c.is_control() && c != '\n')) {
            return wrong("config has a control character");
        }
        let Self { title, arch, proof, booted, loader, dtb, overlays, cmdline, config } = self;
        Ok(Board { title, arch, proof, booted, loader, dtb, overlays, cmdline, config, needs })
    }
}

/// What brings a file that a board needs: for a message that it is missing.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Needed {
    pub(crate) file: String,
    pub(crate) package: String,
}

/// Returns the hint for a file that is missing in the root.
pub(crate) fn hint(name: Option<&str>, package: Option<&str>, build: Option<&str>) -> Option<String> {
    let blob = name.map(|name| format!("give --blob {name}=FILE"));
    Some(match (package, build, blob) {
        (Some(package), _, None) => format!("put 'strap {package}' before this"),
        (Some(package), _, Some(blob)) => format!("put 'strap {package}' before this, or {blob}"),
        (None, Some(build), Some(blob)) => format!("build it ({build}), and {blob}"),
        (None, _, blob) => return blob,
    })
}

macro_rules! boards {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../boards/", $name, ".toml")))),*]
    };
}

/// The boards that are part of the programs, and their files.
const BOARDS: &[(&str, &str)] = boards![
    "asahi",
    "efi",
    "odroid-n2",
    "orangepi-5",
    "pc-bios",
    "pine64",
    "raspberrypi-3",
    "raspberrypi-4",
    "raspberrypi-5",
    "rk3399",
    "rk3568",
    "rock-5b",
    "visionfive-2",
];

/// What others call some of them.
const ELSEWHERE: [(&str, &str); 9] = [
    ("orange-pi-5", "orangepi-5"),
    ("opi5", "orangepi-5"),
    ("rock5b", "rock-5b"),
    ("rpi3", "raspberrypi-3"),
    ("rpi4", "raspberrypi-4"),
    ("rpi5", "raspberrypi-5"),
    ("uefi", "efi"),
    ("bios", "pc-bios"),
    ("apple", "asahi"),
];

/// Returns the names of the boards that are part of the programs.
pub fn names() -> impl Iterator<Item = &'static str> {
    BOARDS.iter().map(|(name, _)| *name)
}

/// Whether a word is a file's name, and not a board's.
fn is_path(wanted: &str) -> bool {
    wanted.contains('/') || wanted.ends_with(".toml")
}

/// Returns what names a board in a document: its name, or the absolute path of its file.
///
/// # Errors
///
/// [`Code::Os`] where the current directory cannot be read.
pub fn reference(wanted: &str) -> Result<String, Failure> {
    if !is_path(wanted) {
        return Ok(wanted.to_owned());
    }
    let path = std::path::absolute(wanted).doing(Code::Os, || format!("reading {}", quote(wanted)))?;
    let path = path.to_str().ok_or("the path is not UTF-8");
    Ok(path.doing(Code::Os, || format!("reading {}", quote(wanted)))?.to_owned())
}

impl Layout {
    /// Reads a board: the name of a built-in one, or a file, for a root of that architecture.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] where there is none, it cannot be read or is none, or is another architecture's.
    pub fn board(wanted: &str, arch: &str) -> Result<Self, Failure> {
        let usage = |what: String| Failure::new(Code::Usage, what);
        let is_path = is_path(wanted);
        let built_in = BOARDS.iter().find(|(name, _)| *name == wanted && !is_path);
        let layout = match built_in {
            Some((name, text)) => Self::parse_any(&format!("'{name}'"), text, Path::new("/"), arch)?,
            None if is_path => {
                let path = Path::new(wanted);
                let text = stage::file::read_text(path).map_err(|failure| Failure { code: Code::Usage, ..failure })?;
                Self::parse_any(&quote(path), &text, path.parent().unwrap_or(Path::new("")), arch)?
            }
            None => {
                let (meant, all) = (meant(wanted, &ELSEWHERE, names()), names().collect::<Vec<_>>().join(", "));
                return Err(usage(format!("there is no board '{}'", wanted.escape_default()))
                    .hint(format!("{meant}there are {all}; a file is named with a / or .toml")));
            }
        };
        let doing = || format!("reading the board {}", quote(wanted));
        let Some(board) = &layout.board else {
            return Err(usage(format!("{}: it has no [board]", doing())).hint("give it with --layout"));
        };
        if !board.arch.iter().any(|name| name == arch) {
            return Err(usage(format!("{}: it is {}, and the root is {arch}", doing(), board.arch.join(" or ")))
                .hint("give another board, or make the root with 'mkroot --arch'"));
        }
        Ok(layout)
    }

    /// Takes the bytes of a blob, or of a partition, from a file of the host.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] where the layout has none of that name.
    pub fn replace(&mut self, name: &str, file: &Path) -> Result<(), Failure> {
        let of_partition = self.partitions.iter_mut().filter_map(|p| match &mut p.content {
            Content::File(source) if p.name == name => Some(source),
            _ => None,
        });
        let of_blob = self.blobs.iter_mut().filter(|b| b.name.as_deref() == Some(name)).map(|b| &mut b.source);
        let mut found = of_partition.chain(of_blob).peekable();
        if found.peek().is_none() {
            drop(found);
            let why = format!("the layout has no blob '{}'", name.escape_default());
            let blobs = self.blobs.iter().filter_map(|b| b.name.as_deref());
            let is_file = |p: &&crate::layout::Partition| matches!(p.content, Content::File(_));
            let partitions = self.partitions.iter().filter(is_file).map(|p| p.name.as_str());
            let names: Vec<_> = blobs.chain(partitions).collect();
            let hint =
                if names.is_empty() { "leave --blob out".to_owned() } else { format!("it has {}", names.join(", ")) };
            return Err(Failure::new(Code::Usage, why).hint(hint));
        }
        found.for_each(|source| *source = Source::Host(file.to_owned()));
        Ok(())
    }
}

/// Returns the table of the boards that are part of the programs.
///
/// # Errors
///
/// Never: they are tested.
pub fn list() -> Result<Vec<(&'static str, Layout)>, Failure> {
    let read = |(name, text): &(&'static str, &str)| {
        let arch = first_arch(text).unwrap_or_else(|| "aarch64".to_owned());
        Ok((*name, Layout::parse_any(&format!("'{name}'"), text, Path::new("/"), &arch)?))
    };
    BOARDS.iter().map(read).collect()
}

/// Returns a table of boards for people: name, architectures, partition table, how far an image was seen to work, title.
#[must_use]
pub fn table(boards: &[(&str, Layout)]) -> String {
    let head = ["NAME", "ARCHITECTURES", "TABLE", "IMAGE", "BOARD"].map(str::to_owned);
    let row = |(name, layout): &(&str, Layout)| {
        let board = layout.board.as_ref()?;
        let words = [board.arch.join(","), layout.geometry.table.name().to_owned(), board.seen()];
        let [arch, table, proof] = words;
        Some([(*name).to_owned(), arch, table, proof, board.title.clone()])
    };
    let rows: Vec<_> = std::iter::once(head).chain(boards.iter().filter_map(row)).collect();
    let width = |n: usize| rows.iter().map(|row| row[n].len()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    let cell = |(text, width): (&String, &usize)| format!("{text:width$}  ");
    let line = |row: &[String; 5]| row.iter().zip(&widths).map(cell).collect::<String>() + &row[4] + "\n";
    rows.iter().map(line).collect()
}

/// Returns `docs/boards.md`.
#[must_use]
pub fn page(boards: &[(&str, Layout)]) -> String {
    let mut text = String::from(PAGE);
    for (name, layout) in boards {
        let Some(board) = &layout.board else { continue };
        let of_partition = layout.partitions.iter().filter_map(|p| match &p.content {
            Content::File(source) => Some((p.offset.unwrap_or(0), source)),
            _ => None,
        });
        let of_blob = layout.blobs.iter().map(|b| (b.offset, &b.source));
        let blob = |(offset, source): (u64, &Source)| match source {
            Source::Root(path) => format!("`/{path}` at {}", size::show(offset)),
            Source::Host(path) => format!("`{}` at {}", path.display(), size::show(offset)),
        };
        let blobs: Vec<_> = of_blob.chain(of_partition).map(blob).collect();
        let (table, loader) = (layout.geometry.table.name(), board.loader.as_deref().unwrap_or("auto"));
        let (arch, blobs) = (board.arch.join(", "), if blobs.is_empty() { "-".to_owned() } else { blobs.join(", ") });
        let (title, proof) = (&board.title, board.seen());
        text += &format!("| `{name}` | {title} | {arch} | {table} | {loader} | {blobs} | {proof} |\n");
    }
    text
}

const PAGE: &str = "# Boards

What `mkdisk --board NAME` and `configure --fstab --board NAME` know: the files of [boards/](../boards), each fact with its source.
This page is made from them (`cargo run -p image --example boards > docs/boards.md`), and a test compares it.

The last column says how far an image was seen to work:

* **booted**: a virtual machine of that architecture booted it, with the firmware of such a machine (`tests/tests/boot.rs`);
* **read back**: sfdisk, sgdisk, e2fsck and fsck.fat read the table and the file systems, and the boot loaders are, byte for byte,
  where the board's ROM looks for them (`tools/mkdisk/tests/boards.rs`);
* **never**: nobody looked.

No image was on one of these boards. Each format of `mkdisk -o` has the same disk in it, and the same mark.

| board | what it is | architectures | table | boot loader | what firmware loads | image |
|---|---|---|---|---|---|---|
";

/// Returns the first architecture that the text of a board names: partition types are those of an architecture.
fn first_arch(text: &str) -> Option<String> {
    let value: toml::Table = toml::from_str(text).ok()?;
    Some(value.get("board")?.get("arch")?.get(0)?.as_str()?.to_owned())
}

/// Checks the paths of `[[needs]]`.
pub(crate) fn needs(list: &[Needed]) -> Result<Vec<String>, String> {
    list.iter().map(|needed| from_root(&needed.file)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOARD: &str = "[board]\ntitle='A board'\narch=['aarch64']\n";

    fn parse(text: &str) -> Result<Layout, Failure> {
        Layout::parse_any("'x'", text, Path::new("/b"), "aarch64")
    }

    #[test]
    fn every_board_is_one_for_each_of_its_architectures() {
        for (name, layout) in list().unwrap() {
            let board = layout.board.unwrap();
            for arch in &board.arch {
                let of_arch = Layout::board(name, arch).unwrap();
                assert_eq!(of_arch.geometry, layout.geometry, "{name}");
            }
            let other = ["loong64", "i686"].into_iter().find(|a| !board.arch.contains(&(*a).to_owned())).unwrap();
            let failure = Layout::board(name, other).unwrap_err();
            assert!(failure.message.ends_with(&format!(", and the root is {other}")), "{failure}");
        }
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../boards")).unwrap();
        let mut files: Vec<_> = files.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        assert_eq!(files, names().map(|name| format!("{name}.toml")).collect::<Vec<_>>());
    }

    #[test]
    fn a_board_without_partitions_has_the_standard_ones() {
        let gpt = parse(&format!("start='16M'\n{BOARD}")).unwrap();
        assert_eq!(gpt.partitions[0].offset, Some(16 << 20));
        let standard = Layout::standard("aarch64").unwrap();
        assert_eq!(gpt.partitions[1], standard.partitions[1]);
        let mbr = parse(&format!("table='mbr'\n{BOARD}")).unwrap();
        assert!(mbr.partitions[0].is_active() && mbr.partitions[1].attributes == 0);
    }

    #[test]
    fn a_blob_of_the_root_has_a_hint_and_can_be_a_file() {
        let blob = "[[blob]]\nname='u-boot'\nin_root='/boot/u'\nbuild='U-Boot, x_defconfig'\noffset='32K'\n";
        let mut layout = parse(&format!("{BOARD}{blob}[[needs]]\nfile='/boot/a'\npackage='p'\n")).unwrap();
        assert_eq!(layout.hints["boot/u"], "build it (U-Boot, x_defconfig), and give --blob u-boot=FILE");
        assert_eq!(layout.hints["boot/a"], "put 'strap p' before this");
        assert_eq!(layout.board.as_ref().unwrap().needs, ["boot/a"]);
        let failure = layout.replace("spl", Path::new("x")).unwrap_err();
        assert_eq!(
            (failure.message.as_str(), failure.hint.as_deref()),
            ("the layout has no blob 'spl'", Some("it has u-boot"))
        );
        layout.replace("u-boot", Path::new("x")).unwrap();
        assert_eq!(layout.blobs[0].source, Source::Host("x".into()));
    }

    #[test]
    fn what_is_no_board_is_refused() {
        for (text, expected) in [
            (BOARD.replace("'aarch64'", "'arm64'"), "unknown architecture 'arm64'"),
            (BOARD.replace("'aarch64'", ""), "arch names no architecture"),
            (BOARD.replace("A board", ""), "title must be one line"),
            (format!("{BOARD}loader='grub'"), "loader must be one of extlinux"),
            (format!("{BOARD}proof='yes'"), "unknown variant `yes`"),
            (format!("{BOARD}booted=['x86_64']"), "booted names an architecture"),
            (format!("{BOARD}dtb='../x'"), "not a path below the directory of devicetrees"),
            (format!("{BOARD}overlays=['/x']"), "not a path below the directory of devicetrees"),
            (format!("{BOARD}cmdline=\"a\\nb\""), "control characters are not allowed"),
            (format!("{BOARD}cmdline='root=/dev/sda'"), "root= is set by mkdisk"),
            (format!("{BOARD}config=\"a\\u0000\""), "config has a control character"),
            (format!("{BOARD}[[needs]]\nfile='x'\npackage='p'"), "absolute path"),
        ] {
            let failure = parse(&text).unwrap_err();
            assert!(failure.code == Code::Usage && failure.message.contains(expected), "{text}: {failure}");
        }
        let failure = Layout::board("orangepi5", "aarch64").unwrap_err();
        assert!(failure.hint.unwrap().starts_with("did you mean 'orangepi-5'? there are asahi, "));
        let failure = Layout::parse("'x'", BOARD, Path::new("/"), "aarch64").unwrap_err();
        assert_eq!(failure.hint.as_deref(), Some("give it with --board"));
    }
}
