//! What is a layout, and what is none.

use super::*;

const ROOT: &str = "[[partition]]\nname='root'\ntype='root'\nsize='rest'\nfilesystem='ext4'\nat='/'\n";

fn parse(text: &str) -> Result<Layout, Failure> {
    Layout::parse("'x'", text, Path::new("/layouts"), "aarch64")
}

fn refused(text: &str) -> String {
    let failure = parse(text).unwrap_err();
    assert_eq!(failure.code, Code::Usage);
    failure.message
}

#[test]
fn every_architecture_has_a_standard_layout() {
    for arch in rootfs::arch::ALL {
        let layout = Layout::standard(arch.name).unwrap();
        let [boot, root] = &layout.partitions[..] else { panic!("{layout:?}") };
        assert_eq!((boot.type_name(), root.type_name()), ("esp", "root"));
        assert_eq!(root.attributes, 1 << 59);
    }
    let ids = Ids::new(Some(1), "x").unwrap();
    let layout = Layout::standard("aarch64").unwrap();
    let found = layout.file_systems(&ids);
    let [(_, ext4, root), (_, vfat, boot)] = &found[..] else { panic!("{found:?}") };
    assert_eq!((root.at.as_str(), *ext4), ("/", FileSystemKind::Ext4));
    assert_eq!((boot.at.as_str(), *vfat), ("/boot", FileSystemKind::Vfat));
    for (_, kind, f) in &found {
        assert_eq!(kind.check_id(&f.uuid).unwrap(), f.uuid);
    }
}

#[test]
fn a_board_s_layout_is_read() {
    let layout = parse(&format!(
        "[[blob]]\nfile='idbloader.img'\noffset='32K'\n[[blob]]\nin_root='/boot/u-boot.itb'\noffset='8M'\n\
         [[partition]]\nname='raw'\ntype='8DA63339-0007-60C0-C436-083AC8230908'\noffset='12M'\nsize='1M'\nfile='/x'\n\
         attributes=['required','no-auto']\n{ROOT}"
    ))
    .unwrap();
    assert_eq!(layout.blobs[0].source, Source::Host("/layouts/idbloader.img".into()));
    assert_eq!(layout.blobs[1].source, Source::Root("boot/u-boot.itb".into()));
    let raw = &layout.partitions[0];
    assert_eq!((raw.type_name(), raw.attributes), ("reserved", 1 | 1 << 63));
    assert_eq!(raw.content, Content::File(Source::Host("/x".into())));
    assert_eq!(raw.size, Size::Bytes(1 << 20));
}

#[test]
fn a_partition_of_type_swap_is_swap() {
    let swap = "[[partition]]\nname='s'\ntype='swap'\nsize='8M'\noptions=['pri=5']\n";
    let layout = parse(&format!("{swap}{ROOT}")).unwrap();
    assert_eq!(layout.partitions[0].in_fstab(), Some((FileSystemKind::Swap, SWAP_AT)));
    assert_eq!(layout.partitions[0].mounted(), None);
    let found = layout.file_systems(&Ids::new(Some(1), "x").unwrap());
    assert_eq!(found.iter().map(|(.., f)| f.at.as_str()).collect::<Vec<_>>(), ["/", "none"]);
    let bytes = parse(&format!("{}file='x'\n{ROOT}", swap.replace("options=['pri=5']\n", ""))).unwrap();
    assert_eq!(bytes.partitions[0].in_fstab(), None, "the bytes of a file are what they are");
}

#[test]
fn what_is_no_layout_is_refused_with_its_reason() {
    let add = |text: &str| format!("{ROOT}{text}\n");
    let before = |text: &str| format!("{text}\n{ROOT}");
    let cases = [
        (String::new(), "there is no root"),
        ("[[partition".to_owned(), "line 1: "),
        (add("sze='1M'"), "unknown field `sze`"),
        (before("[[partitions]]"), "unknown field `partitions`"),
        (add("offset='1000'"), "not a multiple of 512"),
        (add("offset='1K'"), "before the end of the partition table"),
        (add("offset='x'"), "is not a size"),
        (add("minimum='x'"), "is not a size"),
        (add("type='linux'"), "duplicate key"),
        (add("label='no spaces'"), "a label of ext4"),
        (add("attributes=['x']"), "is not an attribute"),
        (add("uuid='0'"), "is not a UUID"),
        (add("uuid='00000000-0000-0000-0000-000000000000'"), "is not a UUID"),
        (add("file='x'"), "the bytes of a file, not both"),
        (add(ROOT), "only the last partition"),
        (before(&ROOT.replace("rest", "4M")), "two partitions have the name"),
        (before(&ROOT.replace("rest", "4M").replace("'root'\nt", "'b'\nt")), "another partition is mounted at '/'"),
        (ROOT.replace("type='root'", "type='boot'"), "is not a partition type: give a GUID, or one of root, esp"),
        (ROOT.replace("ext4", "vfat"), "cannot hold a root"),
        (ROOT.replace("ext4", "ntfs"), "unknown variant `ntfs`"),
        (ROOT.replace("'/'", "'/x/../y'"), "must be an absolute path"),
        (ROOT.replace("'/'", "'/x y'"), "must be an absolute path"),
        (ROOT.replace("'/'", "'x'"), "must be an absolute path"),
        (ROOT.replace("name='root'", "name=''"), "1 to 36"),
        (ROOT.replace("name='root'", "name=\"a\\nb\""), "control character"),
        (add("options=['']"), "is empty, or has a comma"),
        (add("options=['noatime,ro']"), "is empty, or has a comma"),
        (add("options=['a b']"), "is empty, or has a comma"),
        (add("options=[\"a\\n/x\"]"), "is empty, or has a comma"),
        (before("[[partition]]\nname='a'\ntype='linux'\nsize='1M'\noptions=['ro']"), "options need filesystem"),
        (ROOT.replace("rest", "0"), "cannot be 0"),
        (ROOT.replace("filesystem='ext4'\n", ""), "need filesystem"),
        (before("[[partition]]\nname='s'\ntype='swap'\nsize='auto'"), "give a size"),
        (before("[[partition]]\nname='s'\ntype='linux'\nsize='1M'\nfilesystem='swap'\nat='/s'"), "leave at out"),
        (
            before("[[partition]]\nname='s'\ntype='swap'\nsize='1M'\n[[partition]]\nname='t'\ntype='swap'\nsize='1M'"),
            "partition 't': another partition is swap",
        ),
        (before("[[partition]]\nname='a'\ntype='linux'\nsize='auto'"), "give a size"),
        (before("[[partition]]\nname='a'\ntype='linux'\nsize='1M'\nminimum='1M'"), "minimum needs"),
        (
            before(
                "[[partition]]\nname='a'\ntype='linux'\nsize='1M'\noffset='2M'\n[[partition]]\nname='b'\ntype='linux'\nsize='1M'\noffset='2M'",
            ),
            "partition 'b': its offset 2M is before the end of a, 3M",
        ),
        (before("[[blob]]\noffset='1M'"), "give file or in_root"),
        (before("[[blob]]\nfile='x'\nin_root='/x'\noffset='1M'"), "either file or in_root"),
        (before("[[blob]]\nin_root='x'\noffset='1M'"), "absolute path"),
        (before("[[blob]]\nin_root='/../x'\noffset='1M'"), "absolute path"),
        (before("[[blob]]\nfile='x'\noffset='16K'"), "in the partition table, which ends at 17K"),
        (before("table='mbr'\n[[blob]]\nfile='x'\noffset='0'\n[[blob]]\nfile='x'\noffset='x'"), "is not a size"),
        (before("table='x'"), "unknown variant `x`, expected one of `gpt`, `hybrid`, `mbr`, `none`"),
        (before("sector=1024"), "sector is 1024: it must be 512 or 4096"),
        (before("sector=4096\nstart='1536'"), "its offset is not a multiple of the sectors of 4096"),
        (before("sector=4096\n[[blob]]\nfile='x'\noffset='20K'"), "in the partition table, which ends at 24K"),
        (before("entries='512'"), "entries must be at 1024 or"),
        (before("table='mbr'\nentries='1M'"), "entries are those of a GPT"),
        (before("entries='1M'\nstart='1M'"), "its offset 1M is before the end of the partition table, 1040K"),
        (before("id='1234abcd'"), "is not a UUID"),
        (before("table='mbr'\nid='00000000'"), "is not the id of an MBR: eight hexadecimal digits"),
        (before("table='none'\nid='00000001'"), "has no id"),
        (before("table='none'\nstart='1M'"), "the file system begins at 0"),
        (before("table='none'\n[[blob]]\nfile='x'\noffset='1M'"), "one partition, and no blob"),
        (before("table='hybrid'"), "one to three partitions of a hybrid table"),
        (add("in_mbr=true"), "in_mbr is for a hybrid table"),
        (
            format!("table='hybrid'\n{ROOT}in_mbr=true\nattributes=['grow-file-system']"),
            "the MBR would have its old size",
        ),
        (format!("table='mbr'\n{ROOT}attributes=['grow-file-system']"), "only legacy-boot"),
        (format!("table='mbr'\n{ROOT}uuid='aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee'"), "an MBR has no GUIDs"),
        (format!("table='none'\n{ROOT}attributes=['legacy-boot']"), "no uuid and no attributes"),
        (ROOT.replace("type='root'", "type='0x83'"), "a GPT has no such type"),
        (ROOT.replace("type='root'", "type='0xee'"), "is not a partition type"),
        (format!("table='mbr'\n{}", ROOT.replace("type='root'", "type='bios-boot'")), "an MBR has no such type"),
        (
            format!(
                "table='mbr'\n{}{ROOT}",
                ["a", "b", "c", "d"].map(|n| format!("[[partition]]\nname='{n}'\ntype='linux'\nsize='1M'\n")).concat()
            ),
            "has room for 4 partitions",
        ),
        (format!("[[blob]]\nfile='x'\noffset='16M'\n{ROOT}offset='16M'\n"), "is in partition 'root'"),
    ];
    for (text, expected) in cases {
        let message = refused(&text);
        assert!(message.contains(expected), "{text}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn ids_that_others_wrote_are_checked() {
    assert_eq!(FileSystemKind::Vfat.check_id("1a2b-3c4d").unwrap(), "1A2B-3C4D");
    for bad in ["", "1A2B3C4D", "1A2B-3C4", "1A2B-3C4G"] {
        FileSystemKind::Vfat.check_id(bad).unwrap_err();
    }
    FileSystemKind::Ext4.check_id("1A2B-3C4D").unwrap_err();
}
