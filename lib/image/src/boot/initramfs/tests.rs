//! Archives as the programs of a host compress them, whole and damaged.

use super::*;
use std::io::Write;
use std::process::{Command, Stdio};

/// Appends an entry of newc.
fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let numbers = [1, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
    archive.extend(b"070701");
    archive.extend(numbers.map(|n| format!("{n:08x}")).concat().bytes());
    archive.extend(name.bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in entries {
        entry(&mut archive, name, 0o100_644, content);
    }
    entry(&mut archive, "TRAILER!!!", 0, b"");
    archive.resize(archive.len().next_multiple_of(512), 0);
    archive
}

const MODULE: &[u8] = b"\x7fELF...\0license=GPL\0vermagic=6.1.0-1-test SMP mod_unload \0";

fn main_archive() -> Vec<u8> {
    archive(&[
        ("init", b"#!/bin/sh\n"),
        ("usr/lib/modules/6.1.0-1-test/kernel/fs/ext4/ext4.ko", MODULE),
        ("usr/lib/modules/6.1.0-1-test/kernel/drivers/virtio-blk.ko.zst", b"not looked into"),
    ])
}

fn early() -> Vec<u8> {
    archive(&[("kernel/x86/microcode/GenuineIntel.bin", &[0; 5000])])
}

fn read(bytes: &[u8]) -> Result<Initramfs, String> {
    let mut found = Initramfs::default();
    found.read(bytes, &|name| name == "ext4").map_err(|e| e.to_string())?;
    Ok(found)
}

fn compress(program: &str, bytes: &[u8]) -> Vec<u8> {
    let mut words = program.split(' ');
    let mut command = Command::new(words.next().unwrap());
    let mut child = command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect(program);
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{program}");
    output.stdout
}

/// What an initramfs is compressed with, as its makers call the programs.
const PROGRAMS: [&str; 6] =
    ["gzip -n", "xz --check=crc32", "lzma", "zstd -T0 -19 --no-progress", "bzip2", "lz4 -l -9 -c"];

#[test]
fn each_compression_is_read_behind_microcode() {
    let plain = [early(), main_archive()].concat();
    let expected = read(&plain).unwrap();
    assert!(expected.has_init);
    assert_eq!(expected.entries, 4);
    assert_eq!(expected.releases, BTreeSet::from(["6.1.0-1-test".to_owned()]));
    let modules = [("ext4", Some("6.1.0-1-test")), ("virtio_blk", None)];
    assert_eq!(expected.modules, modules.map(|(name, release)| (name.to_owned(), release.map(str::to_owned))).into());
    for program in PROGRAMS {
        let packed = compress(program, &main_archive());
        assert_eq!(read(&[early(), packed].concat()).as_ref(), Ok(&expected), "{program}");
    }
    // One of two is compressed by itself, and the other follows.
    let both = [compress("zstd", &early()), vec![0; 7], compress("gzip", &main_archive())].concat();
    assert_eq!(read(&both).as_ref(), Ok(&expected));
}

#[test]
fn what_is_cut_off_is_no_initramfs() {
    for program in PROGRAMS {
        let packed = compress(program, &main_archive());
        for end in (8..packed.len() - 12).step_by(packed.len() / 40) {
            read(&packed[..end]).expect_err(program);
        }
    }
    let plain = main_archive();
    for end in (4..plain.len() - 512).step_by(11) {
        read(&plain[..end]).unwrap_err();
    }
}

#[test]
fn what_is_something_else_is_named() {
    let of = |bytes: &[u8]| read(bytes).unwrap_err();
    assert_eq!(of(b""), "it is empty");
    assert_eq!(of(&[0; 4096]), "it is empty");
    assert_eq!(of(b"#!/bin/sh\n"), "it is no cpio archive, and in no compression that a kernel reads");
    assert_eq!(of(&compress("gzip", b"ustar")), "what is compressed in it is no cpio archive");
    assert_eq!(of(b"\x89LZO\0"), "it is compressed by lzop, which is not supported");
}

#[test]
fn hostile_headers_are_refused() {
    let good = archive(&[("a", b"x")]);
    for (at, bytes) in [(94, b"ffffffff"), (94, b"00000000"), (54, b"+0000001"), (54, b"ffffffff"), (0, b"07070700")] {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        read(&bad).unwrap_err();
    }
    let name = format!("../../{}\n", "x".repeat(4000));
    assert_eq!(read(&archive(&[(&name, b"")])).unwrap().entries, 1);
}

#[test]
fn names_of_modules_are_as_modprobe_takes_them() {
    let of = |path: &str| module_name(path);
    assert_eq!(of("kernel/a/virtio-blk.ko.zst").as_deref(), Some("virtio_blk"));
    assert_eq!(of("ext4.ko").as_deref(), Some("ext4"));
    for other in ["", "x", "x.ko.txt", ".ko", "a.ko/b"] {
        assert_eq!(of(other), None, "{other}");
    }
}

#[test]
fn a_compressed_module_says_its_kernel() {
    for program in ["gzip", "xz --check=crc32 --lzma2=dict=1MiB", "zstd"] {
        assert_eq!(module_release(&compress(program, MODULE)).unwrap().as_deref(), Some("6.1.0-1-test"), "{program}");
    }
    assert_eq!(module_release(b"").unwrap(), None);
}
