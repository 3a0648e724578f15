//! What images were seen to do: for each board, file system of the root, format of the file and maker of the initramfs, the
//! tests that boot such an image or read it back. `docs/matrix.md` is made from this; `tests/tests/matrix.rs` holds it to the
//! code and to the tests that there are.

use image::board;
use image::boot::MAKERS;
use image::kind::FileSystemKind;

/// How far an image went, the less first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// Programs of others read it.
    ReadBack,
    /// A virtual machine booted it.
    Booted,
}

/// A test, and the images that it makes: each of the boards with each of the file systems, formats and makers.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The test, as `docs/needs.md` names tests.
    pub test: &'static str,
    /// What it sees.
    pub seen: Seen,
    /// Boards; [`EACH`] is all of them.
    pub boards: &'static [&'static str],
    /// File systems of the root.
    pub kinds: &'static [&'static str],
    /// Formats of the file.
    pub formats: &'static [&'static str],
    /// Makers of the initramfs.
    pub makers: &'static [&'static str],
}

/// No board: the default layout, or a layout file.
pub const NO_BOARD: &str = "no board";

/// Each board.
pub const EACH: &str = "each board";

/// No initramfs, or bytes in its place.
pub const NO_MAKER: &str = "none";

/// The formats of `mkdisk -o`.
pub const FORMATS: [&str; 7] = ["raw", "zst", "xz", "gz", "qcow2", "vhdx", "vmdk"];

const BOOTS: Row = Row {
    test: "",
    seen: Seen::Booted,
    boards: &[NO_BOARD],
    kinds: &["ext4"],
    formats: &["raw"],
    makers: &["mkinitcpio"],
};

const READS: Row = Row { seen: Seen::ReadBack, makers: &[NO_MAKER], ..BOOTS };

/// The tests.
pub const ROWS: [Row; 15] = [
    Row { test: "boot::a_board_boots_what_an_ordinary_user_made", ..BOOTS },
    Row { test: "boot::a_pc_boots", boards: &["efi"], ..BOOTS },
    Row { test: "boot::a_pc_boots_from_each_bus", boards: &["efi"], ..BOOTS },
    Row { test: "boot::a_pc_with_dracut_boots_from_each_bus", boards: &["efi"], makers: &["dracut"], ..BOOTS },
    Row { test: "boot::a_board_with_dracut_boots", makers: &["dracut"], ..BOOTS },
    Row { test: "boot::an_arm_machine_with_uefi_boots", boards: &["efi"], ..BOOTS },
    Row { test: "boot::a_riscv_machine_with_uefi_boots", boards: &["efi"], makers: &["dracut"], ..BOOTS },
    Row { test: "boot::a_pc_with_bios_boots", boards: &["pc-bios"], ..BOOTS },
    // By a board file of the test, for QEMU's machines.
    Row { test: "growth::a_card_of_a_board_grows", ..BOOTS },
    Row { test: "growth::a_pc_grows_though_its_power_is_cut", ..BOOTS },
    Row { test: "mkdisk/boards::each_board_is_read_back", boards: &[EACH], ..READS },
    Row { test: "mkdisk::an_image_of_a_board_as_root", makers: &["mkinitcpio"], ..READS },
    Row {
        test: "filesystems::each_file_system_is_what_ext4_is",
        kinds: &["ext4", "btrfs", "erofs", "squashfs"],
        ..READS
    },
    Row { test: "filesystems::newer_programs_make_xfs_and_subvolumes", kinds: &["btrfs", "xfs"], ..READS },
    Row { test: "mkdisk/cli::each_format_holds_the_same_disk", formats: &FORMATS, ..READS },
];

impl Row {
    fn has_board(&self, board: &str) -> bool {
        self.boards.contains(&board) || (self.boards == [EACH] && board != NO_BOARD)
    }
}

/// Returns the file systems that a root can have.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    let all = FileSystemKind::ALL.into_iter();
    all.filter(|kind| kind.holds_root() && *kind != FileSystemKind::Swap).map(FileSystemKind::name)
}

/// Returns the programs that make an initramfs, and none.
pub fn makers() -> impl Iterator<Item = &'static str> {
    MAKERS.iter().map(|maker| maker.0).chain([NO_MAKER])
}

/// Returns the boards, and none.
pub fn boards() -> impl Iterator<Item = &'static str> {
    [NO_BOARD].into_iter().chain(board::names())
}

/// Returns `docs/matrix.md`.
#[must_use]
pub fn page() -> String {
    let tests = ROWS.iter().enumerate().map(|(n, row)| {
        let list = |words: &[&str]| words.join(", ");
        let [boards, kinds, formats, makers] = [row.boards, row.kinds, row.formats, row.makers].map(list);
        let seen = word(row.seen);
        format!("| {} | {seen} | {boards} | {kinds} | {formats} | {makers} | `{}` |\n", n + 1, row.test)
    });
    let mut text = PAGE.replace("{tests}", &tests.collect::<String>());
    text += &table("File system of the root", kinds(), |row| row.kinds);
    text += &table("Format", FORMATS.into_iter(), |row| row.formats);
    text += &table("Initramfs", makers(), |row| row.makers);
    text
}

/// Returns the table of boards and the values that images have of one kind.
fn table(title: &str, values: impl Iterator<Item = &'static str>, of: fn(&Row) -> &'static [&'static str]) -> String {
    let values: Vec<_> = values.collect();
    let head = values.iter().map(|value| format!(" {value} |")).collect::<String>();
    let mut text = format!("\n## {title}\n\n| board |{head}\n|---|{}\n", "---|".repeat(values.len()));
    for board in boards() {
        let cell = |value: &&str| {
            let is_meant = |row: &&Row| row.has_board(board) && of(row).contains(value);
            let Some(best) = ROWS.iter().filter(is_meant).map(|row| row.seen).max() else {
                return " never |".to_owned();
            };
            let rows = ROWS.iter().enumerate().filter(|(_, row)| is_meant(row) && row.seen == best);
            let numbers: Vec<_> = rows.map(|(n, _)| (n + 1).to_string()).collect();
            format!(" {} ({}) |", word(best), numbers.join(", "))
        };
        text += &format!("| {board} |{}\n", values.iter().map(cell).collect::<String>());
    }
    text
}

fn word(seen: Seen) -> &'static str {
    match seen {
        Seen::Booted => "**booted**",
        Seen::ReadBack => "read back",
    }
}

const PAGE: &str = "# What images were seen to do

An image has a board, a file system for its root, a format and an initramfs. This page says which of them were seen together, and
by which test. It is made from those tests (`cargo run -p strapline-tests --example matrix > docs/matrix.md`), and a test compares it.

* **booted**: a virtual machine booted it, with the firmware of such a machine. No image was on a real board.
* read back: programs of others read the partition table and the file systems; nothing ran.
* never: no test has made such an image. It may work all the same: what each part does is tested with other parts.

Each format has the same disk in it, byte for byte, so an image that boots does so in any format that the machine reads. \"mkinitcpio\"
is a stand-in that the mirror of the tests has, and packs the modules of ext4 and of the buses that QEMU has; \"dracut\" is Debian's,
with a hook as people use it on Arch; \"none\" is a root without an initramfs, or with bytes in its place. The names and settings of
booster and update-initramfs are known, but no test has an image that one of them made; Debian has no booster.

`boot::NAME` is the test NAME in `tests/tests/boot.rs`, and `mkdisk/cli::NAME` one in `tools/mkdisk/tests/cli.rs`. What no line has
together was never seen together.

| | seen | board | file system | format | initramfs | test |
|---|---|---|---|---|---|---|
{tests}
The tables have the most that was seen of a board with each file system, format and maker, and the lines above that have it.
";
