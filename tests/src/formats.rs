//! What must hold for any bytes at all, format by format: the formats that a mirror, a root or the tool before writes.
//!
//! Each function takes a text that somebody hostile may have written, reads it as the tools do, and checks what the
//! tools rely on: names are in their alphabets, no path leads out, limits hold, and what is written of something read is
//! read again as the same. The fuzz targets (`fuzz/`) call them with what a fuzzer thinks of, and `tests/formats.rs` with
//! what is kept of that, so that a host without a nightly toolchain checks it too.

use image::ids::Ids;
use image::layout::{Content, FIRST, Layout, SECTOR, Size, Source};
use package::{archive, db, digest, localdb, mtree, name, version};
use pacman::OutputEvent;
use pacman::english::log::{self as pacman_log, Before, Event};
use pacman::english::progress::{Step, step};
use pacman::gpg::listing;
use pacman::output::Reader;
use rootfs::mountinfo;
use stage::document::{plain_absolute, plain_below};
use stage::members::Member;
use stage::{Code, Document, Failure, members, message};
use std::collections::HashSet;
use std::path::Path;

/// A check of one format.
pub type Check = fn(&[u8]);

/// All of them, by the name of the fuzz target and of the directories of its corpus and its findings.
pub const ALL: [(&str, Check); 12] = [
    ("archive", archive),
    ("db", db),
    ("document", document),
    ("layout", layout),
    ("listing", listing),
    ("localdb", localdb),
    ("log", log),
    ("mountinfo", mountinfo),
    ("mtree", mtree),
    ("output", output),
    ("preset", preset),
    ("vercmp", vercmp),
];

/// The longest input that is looked at, in bytes: what is slow for being long is no finding.
pub const LONGEST: usize = 1 << 20;

// ---------------------------------------------------------------------------------------------------------------------
// The document.

/// The document, and every typed view that a tool takes of it.
///
/// # Panics
///
/// Where something does not hold that tools rely on.
pub fn document(text: &[u8]) {
    let Ok(document) = Document::parse(text, "stdin") else {
        return;
    };
    if let Some(root) = document.root() {
        assert!(root.is_absolute() && root != Path::new("/"));
        assert_eq!(plain_absolute(&root.to_string_lossy()), Ok(()));
    }
    same(&document, &again(&document.line()));
    same(&document, &again(&document.pretty()));
    for mount in get::<Vec<members::Mount>>(&document).unwrap_or_default() {
        assert_eq!(plain_below(&mount.at), Ok(()));
        assert!(mount.nodes.iter().all(|node| stage::document::is_name(node)));
    }
    if let Some(config) = get::<members::Config>(&document) {
        for path in [&config.strict, &config.loose, &config.cache] {
            assert_eq!(plain_absolute(&path.to_string_lossy()), Ok(()));
        }
    }
    if let Some(pacman) = get::<members::Pacman>(&document) {
        assert_eq!(plain_absolute(&pacman.path.to_string_lossy()), Ok(()));
    }
    get::<members::Identity>(&document);
    get::<members::IdMap>(&document);
    get::<members::Binfmt>(&document);
    get::<members::Keyring>(&document);
    get::<Vec<members::Package>>(&document);
    get::<Vec<members::VerifiedPackage>>(&document);
    get::<members::Configured>(&document);
    get::<Vec<members::Disk>>(&document);
    get::<Vec<members::Step>>(&document);
    get::<members::ErrorRecord>(&document);

    // A failure is recorded in any document, and forgotten again.
    let mut failed = document.clone();
    failed.fail("strap", &Failure::new(Code::Failed, "checking 'x': why"));
    assert!(again(&failed.line()).failed().is_some_and(|exit| exit > 0));
    failed.forget_failures_of("strap");
    if document.failed().is_none() {
        same(&failed, &document);
    }
    let shown = message::escape(&String::from_utf8_lossy(text));
    assert!(!shown.contains(char::is_control));
}

/// Reads what was written.
fn again(text: &str) -> Document {
    match Document::parse(text.as_bytes(), "stdin") {
        Ok(document) => document,
        Err(failure) => panic!("what is written is refused: {failure}: {text}"),
    }
}

fn same(a: &Document, b: &Document) {
    assert_eq!(a, b);
    // Members keep their order, which the comparison does not look at.
    assert_eq!(a.line(), b.line());
}

/// Reads a member, and checks that what is written of it is read as the same.
fn get<T: Member>(document: &Document) -> Option<T> {
    let member: T = document.get()?;
    let mut written = document.clone();
    written.write(&member);
    let read: T = match again(&written.line()).need() {
        Ok(read) => read,
        Err(failure) => panic!("what is written is refused: {failure}"),
    };
    let json = |member: &T| serde_json::to_value(member).unwrap_or_default();
    assert_eq!(json(&member), json(&read), "\"{}\"", T::NAME);
    Some(member)
}

// ---------------------------------------------------------------------------------------------------------------------
// What a mirror serves.

/// Limits that a fuzzer's input can reach.
const LIMITS: db::Limits = db::Limits { entries: 64, desc: 16 << 10, total: 4 << 20, kept: 1 << 20 };

/// A repository's database.
///
/// # Panics
///
/// Where something does not hold that tools rely on.
pub fn db(bytes: &[u8]) {
    let bytes = tape(bytes);
    let Ok(db::Database { entries, odd }) = db::read(&bytes[..], LIMITS) else {
        return;
    };
    assert!((entries.len() + odd.len()) as u64 <= LIMITS.entries);
    for odd in &odd {
        assert!(!odd.to_string().contains(char::is_control));
    }
    let mut seen = HashSet::new();
    for entry in &entries {
        assert!(name::is_name(&entry.name));
        assert!(name::is_version(&entry.version));
        assert!(name::is_filename(&entry.filename));
        assert!(entry.sha256.as_deref().is_none_or(digest::is_sha256));
        assert_eq!(entry.signature().is_some(), entry.pgpsig.is_some());
        assert!(seen.insert((&entry.name, &entry.version)), "twice");
        let newest = db::newest(&entries, &entry.name);
        assert!(newest.is_some_and(|newest| newest.name == entry.name));
    }
    assert_eq!(db::newest(&entries, "/"), None);
}

/// The members of a package archive that tools look for, and the most that they may have together.
const MEMBERS: [&str; 3] = [".PKGINFO", ".MTREE", "usr/bin/pacman-static"];
const MEMBERS_LIMIT: u64 = 64 << 10;

/// A package archive: some of its members, alone and together.
///
/// # Panics
///
/// Where something does not hold that tools rely on.
pub fn archive(bytes: &[u8]) {
    let bytes = tape(bytes);
    let mut whole = true;
    let mut sizes = 0;
    let alone = MEMBERS.map(|member| {
        let mut out = Vec::new();
        let found = archive::extract_member(&bytes[..], member, &mut out, MEMBERS_LIMIT);
        assert!(out.len() as u64 <= MEMBERS_LIMIT);
        match found {
            Ok(()) => sizes += out.len() as u64,
            Err(_) => whole = false,
        }
        out
    });
    match archive::extract_members(&bytes[..], &MEMBERS, MEMBERS_LIMIT) {
        Ok(together) => {
            assert!(whole && together.len() == MEMBERS.len());
            for (member, alone) in MEMBERS.iter().zip(alone) {
                assert_eq!(together.get(*member), Some(&alone));
            }
        }
        Err(_) => assert!(!whole || sizes > MEMBERS_LIMIT, "each alone is there"),
    }
}

/// Returns the archive that an input means. A fuzzer does not find the checksum that each header of a tar has: what begins
/// with `#` is a tar without, which gets them.
fn tape(bytes: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 512;
    let Some(tar) = bytes.strip_prefix(b"#") else {
        return bytes.to_vec();
    };
    let mut tar = tar.to_vec();
    let mut at = 0;
    while let Some(block) = tar.get_mut(at..at + BLOCK) {
        at += BLOCK;
        if block.iter().all(|b| *b == 0) {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = String::from_utf8_lossy(&block[124..136]);
        let size = usize::from_str_radix(size.trim_matches([' ', '\0']), 8);
        at = at.saturating_add(size.unwrap_or(0).div_ceil(BLOCK).saturating_mul(BLOCK));
    }
    tar
}

/// Versions: three of them, one a line.
///
/// # Panics
///
/// Where the order is none.
pub fn vercmp(text: &[u8]) {
    let Some([a, b, c]) = versions(text) else {
        return;
    };
    for (a, b) in [(a, b), (b, c), (a, c)] {
        assert_eq!(version::vercmp(a, b), version::vercmp(b, a).reverse());
        assert!(version::vercmp(a, a).is_eq());
    }
}

/// Returns the three versions of an input.
#[must_use]
pub fn versions(text: &[u8]) -> Option<[&str; 3]> {
    let mut lines = std::str::from_utf8(text).ok()?.lines();
    let versions = [lines.next()?, lines.next()?, lines.next()?];
    lines.next().is_none().then_some(versions)
}

// ---------------------------------------------------------------------------------------------------------------------
// What a root, and the programs in it, say.

/// A package's `.MTREE`, compressed or not.
///
/// # Panics
///
/// Where something does not hold that tools rely on.
pub fn mtree(text: &[u8]) {
    let lines = text.split(|b| *b == b'\n').count();
    for (entries, most) in [(mtree::parse(text), lines), (mtree::read(text), usize::MAX)] {
        let entries = entries.unwrap_or_default();
        assert!(entries.len() <= most);
        for entry in &entries {
            let parts = entry.path.split(|b| *b == b'/');
            let plain = |part: &[u8]| !part.is_empty() && part != b"." && part != b"..";
            assert!(parts.clone().all(plain), "{entry:?}");
            assert!(!entry.path.contains(&0));
        }
    }
}

/// The records of an installed package: `desc` and `files`.
///
/// # Panics
///
/// Where something does not hold that tools rely on.
pub fn localdb(text: &[u8]) {
    if let Ok(installed) = localdb::desc(text) {
        assert!(name::is_name(&installed.name));
        assert!(name::is_version(&installed.version));
        assert!(installed.arch.as_deref().is_none_or(name::is_arch));
    }
    let lines = text.split(|b| *b == b'\n').count();
    let files = localdb::paths(text);
    assert!(files.len() <= lines);
    assert!(files.iter().all(|f| !f.is_empty() && !f.contains(&b'\n')));
}

/// The longest line of a log or of output that is kept, in bytes; what is not UTF-8 becomes three bytes each.
const LINE: usize = 3 * 4096;

/// pacman's log.
///
/// # Panics
///
/// Where something does not hold that tools rely on.
pub fn log(text: &[u8]) {
    let mut count = 0;
    for event in pacman_log::events(text) {
        count += 1;
        let line = match &event {
            Event::Installed { name, version, before: Before::Absent } => {
                format!("[ALPM] installed {name} ({version})")
            }
            Event::RunningHook(name) => format!("[ALPM] running '{name}'..."),
            Event::ScriptletOutput(line) => format!("[ALPM-SCRIPTLET] {line}"),
            _ => continue,
        };
        assert!(line.len() <= LINE);
        if line.len() < 4000 {
            let written = format!("[2026-11-22T10:00:00+0000] {line}");
            assert_eq!(pacman_log::event(written.as_bytes()), event, "{line:?}");
        }
    }
    assert!(count <= text.split(|b| *b == b'\n').count());
}

/// What pacman prints, in pieces of any size: the first byte says of which.
///
/// # Panics
///
/// Where something does not hold that tools rely on.
pub fn output(bytes: &[u8]) {
    let Some((size, bytes)) = bytes.split_first() else {
        return;
    };
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Some(Step::Hook(..)) = step(&String::from_utf8_lossy(line)) {
            assert_eq!(line[0], b'(');
        }
    }
    let context = stage::Context::new("strap", true);
    let read = |size: usize| {
        let mut reader = Reader::new(&context, 1);
        for piece in bytes.chunks(size) {
            reader.take(piece);
        }
        reader.finish(false)
    };
    let marks = read(usize::from(*size).max(1));
    assert_eq!(marks, read(LONGEST));
    for mark in &marks {
        let text = match mark {
            OutputEvent::Package(text)
            | OutputEvent::Hook(_, text)
            | OutputEvent::CommandFailed(text)
            | OutputEvent::SavedBeside(text)
            | OutputEvent::Corrupted(text)
            | OutputEvent::NotExtracted(text, _)
            | OutputEvent::Error(_, text)
            | OutputEvent::Reason(_, text)
            | OutputEvent::Ignored(text) => text,
            OutputEvent::NotRetrieved(lost) => &lost.text,
        };
        assert!(text.len() <= LINE && !text.contains(char::is_control), "{text:?}");
    }
}

/// What gpg lists of a keyring, which names keys as their owners please.
///
/// # Panics
///
/// Where something does not hold that tools rely on.
pub fn listing(text: &[u8]) {
    let keys = listing::Keys::parse(text);
    let lines = text.split(|b| *b == b'\n').count();
    assert!(keys.list.len() + listing::certificates(text).len() <= lines);
    for key in &keys.list {
        if key.fingerprint.len() >= 16 {
            let found = keys.find(&key.fingerprint);
            assert!(found.is_some_and(|k| k.fingerprint.ends_with(&key.fingerprint)));
        }
    }
    assert!(keys.strangers(&keys, &[]).is_empty());
}

/// What the kernel says is mounted, with names that a root chose.
///
/// # Panics
///
/// Where something does not hold that tools rely on.
pub fn mountinfo(text: &[u8]) {
    let Ok(mounts) = mountinfo::parse(text) else {
        return;
    };
    let ids: HashSet<u64> = mounts.iter().map(|m| m.id).collect();
    for root in ["/", "/t", "/t/proc"].map(Path::new) {
        let below = mountinfo::below(&mounts, root);
        assert!(below.len() <= mounts.len());
        let unique = ids.len() == mounts.len();
        let mut seen = HashSet::new();
        for mount in below {
            assert!(mount.target.starts_with(root));
            // The kernel gives no id twice, and then nothing is taken down twice or before what is on it.
            assert!(!unique || seen.insert(mount.id));
            assert!(!unique || mount.parent == mount.id || !seen.contains(&mount.parent));
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// What people write.

/// A preset.
///
/// # Panics
///
/// Where something does not hold that tools rely on.
pub fn preset(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    // It would be read from a file, and a fuzzer finds many.
    let builtin = "extends = \"archlinux\"";
    if text.matches("extends").count() != text.matches(builtin).count() {
        return;
    }
    let Ok(preset) = distro::Preset::parse("x", text) else {
        return;
    };
    assert_eq!(distro::check::strict_siglevel(None, &preset.siglevel), Ok(()));
    for pin in preset.keyring.trusted.iter().chain(&preset.pacman.trusted) {
        assert_eq!(distro::check::fingerprint(&pin.fingerprint), Ok(()));
    }
    let names = preset.keyring.packages.iter().chain(&preset.keyring.populate);
    assert!(names.into_iter().all(|n| name::is_name(n)));
    for arch in preset.arches() {
        assert_eq!(distro::check::arch(arch), Ok(()));
        let Ok(arch) = preset.arch(arch) else {
            panic!("an architecture that it names and does not have");
        };
        for repo in &arch.repos {
            assert_eq!(distro::check::repo(&repo.name), Ok(()));
            assert!(repo.servers.iter().all(|s| distro::check::url(s) == Ok(())));
            if let Some(own) = &repo.siglevel {
                let above = Some(preset.siglevel.as_str());
                assert_eq!(distro::check::strict_siglevel(above, own), Ok(()));
            }
        }
    }
}

/// The layout of a disk.
///
/// # Panics
///
/// Where something does not hold that tools rely on.
pub fn layout(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let layout = match Layout::parse("x", text, Path::new("/base"), "aarch64") {
        Ok(layout) => layout,
        Err(failure) => return assert_eq!(failure.code, Code::Usage),
    };
    assert!(layout.partitions.len() <= 128);
    let mut end = FIRST;
    let (mut names, mut places) = (HashSet::new(), HashSet::new());
    for (n, partition) in layout.partitions.iter().enumerate() {
        assert!(names.insert(&partition.name) && partition.name.encode_utf16().count() <= 36);
        assert!(!partition.name.contains(char::is_control) && !partition.name.contains('/'));
        let begin = partition.offset.unwrap_or(end);
        assert!(begin >= end && begin % SECTOR == 0);
        end = begin;
        match partition.size {
            Size::Bytes(bytes) => end += bytes,
            Size::Rest => assert_eq!(n + 1, layout.partitions.len()),
            Size::Auto => assert!(partition.content != Content::Nothing),
        }
        match &partition.content {
            Content::FileSystem { at: Some(at), .. } => {
                assert!(places.insert(at.as_str()));
                assert!(at == "/" || plain_absolute(at) == Ok(()), "{at}");
                assert!(!at.contains(char::is_whitespace), "{at}");
            }
            Content::File(source) => plain_source(source),
            _ => {}
        }
    }
    assert!(places.contains("/"));
    for blob in &layout.blobs {
        assert!(blob.offset >= FIRST && blob.offset % SECTOR == 0);
        plain_source(&blob.source);
    }
    // No two of the identities that a disk has are the same.
    let Ok(ids) = Ids::new(Some(0), "x") else {
        panic!("a time of one's own is taken");
    };
    let unique: HashSet<String> = layout.partitions.iter().map(|p| p.id(&ids)).collect();
    assert_eq!(unique.len(), layout.partitions.len());
    let systems = layout.file_systems(&ids);
    assert_eq!(systems.len(), places.len());
    assert_eq!(systems[0].2.at, "/");
}

/// Checks that a file of the root is below it.
fn plain_source(source: &Source) {
    match source {
        Source::Root(path) => assert_eq!(plain_below(path), Ok(()), "{path}"),
        Source::Host(path) => assert!(path.is_absolute()),
    }
}
