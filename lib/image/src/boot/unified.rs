//! Unified kernel images, which UEFI starts by themselves: PE files whose sections have a kernel, its initramfs and its command
//! line (the UAPI group's Unified Kernel Image specification; Microsoft's PE Format).
//!
//! Of an image with several profiles the first is read, which is what starts where nobody chooses.

use super::drivers::make_again;
use super::files::Files;
use super::prove::{Finding, show};
use super::unpack::damaged;
use crate::reader::{Reader, Stream};
use stage::Failure;
use stage::members::BootEntry;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::ops::Range;

/// How long headers are, in bytes: of DOS, of COFF with the signature before it, and of a section.
const DOS: u64 = 64;
const COFF: u64 = 24;
const SECTION: u64 = 40;

/// The most sections; an image with ten profiles has about fifty.
const MOST: u16 = 512;

/// The longest command line, in bytes.
const LONGEST: u64 = 1 << 16;

/// What systemd-boot looks for: without it, it does not show an image.
const OS_RELEASE: &str = ".osrel";
const KERNEL: &str = ".linux";

/// Where the sections of a PE file are in it, by their names.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sections {
    places: BTreeMap<Vec<u8>, Range<u64>>,
    has_profiles: bool,
}

impl Sections {
    /// Reads them; `None` where it is no PE file.
    fn read(reader: &Reader<'_>) -> io::Result<Option<Self>> {
        let is_below = |end: u64| end <= reader.size();
        if !is_below(DOS) {
            return Ok(None);
        }
        let dos = bytes(reader, 0..DOS)?;
        let at = number(&dos, 0x3c);
        if !dos.starts_with(b"MZ") || !is_below(at + COFF) {
            return Ok(None);
        }
        let coff = bytes(reader, at..at + COFF)?;
        if !coff.starts_with(b"PE\0\0") {
            return Ok(None);
        }
        let half = |at: usize| u16::from_le_bytes([coff[at], coff[at + 1]]);
        let (count, optional) = (half(6), half(20));
        if count > MOST {
            return Err(damaged("it has too many sections"));
        }
        let table = at + COFF + u64::from(optional);
        let mut found = Self::default();
        for header in bytes(reader, table..table + SECTION * u64::from(count))?.chunks_exact(SECTION as usize) {
            let name: Vec<u8> = header[..8].iter().copied().take_while(|byte| *byte != 0).collect();
            // What follows belongs to this profile.
            if name == b".profile" {
                found.has_profiles = true;
                break;
            }
            // What is stored is a whole number of blocks, and may be less than what is in memory.
            let [size, stored, place] = [8, 16, 20].map(|at| number(header, at));
            let length = if size == 0 { stored } else { size.min(stored) };
            found.places.entry(name).or_insert(place..place + length);
        }
        Ok(Some(found))
    }

    fn has(&self, name: &str) -> bool {
        self.places.get(name.as_bytes()).is_some_and(|place| !place.is_empty())
    }

    /// Returns a short text; empty where there is none.
    fn text(&self, reader: &Reader<'_>, name: &str) -> io::Result<String> {
        let Some(place) = self.places.get(name.as_bytes()) else { return Ok(String::new()) };
        if place.end - place.start > LONGEST {
            return Err(damaged("its command line has more than 64 KiB"));
        }
        let text = bytes(reader, place.clone())?;
        Ok(String::from_utf8_lossy(&text).trim_matches(|c: char| c == '\0' || c.is_whitespace()).to_owned())
    }
}

fn bytes(reader: &Reader<'_>, place: Range<u64>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; (place.end - place.start) as usize];
    reader.part(place).read_exact(&mut bytes)?;
    Ok(bytes)
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]))
}

/// Returns what a section has: the kernel or the initramfs of a unified image. A file without it is passed on whole.
///
/// # Errors
///
/// When reading fails, and where the file ends before the section does.
pub(super) fn section<'a>(reader: &'a Reader<'a>, name: &str) -> io::Result<Stream<'a>> {
    match Sections::read(reader)?.and_then(|sections| sections.places.get(name.as_bytes()).cloned()) {
        Some(place) if place.end > reader.size() => Err(ErrorKind::UnexpectedEof.into()),
        Some(place) => Ok(reader.part(place)),
        None => Ok(reader.stream()),
    }
}

/// Returns the menu's entry for an image. What is wrong with it [`check`] says.
///
/// # Errors
///
/// When the file cannot be read.
pub(super) fn entry(path: &str, files: &Files<'_>) -> Result<BootEntry, Failure> {
    let mut entry = BootEntry { file: path.to_owned(), kernel: path.to_owned(), ..BootEntry::default() };
    let Some(node) = files.find(path) else { return Ok(entry) };
    let read = files.read(node, |reader| {
        let sections = Sections::read(reader)?.unwrap_or_default();
        Ok((sections.has(".initrd"), sections.text(reader, ".cmdline")?))
    })?;
    if let Ok((has_initramfs, cmdline)) = read {
        entry.initramfs.extend(has_initramfs.then(|| path.to_owned()));
        entry.cmdline = cmdline;
    }
    Ok(entry)
}

/// Returns whether an entry is an image by itself, as [`entry`] makes it.
pub(super) fn is_unified(entry: &BootEntry) -> bool {
    entry.file == entry.kernel
}

/// Checks that systemd-boot finds the image and a kernel in it.
///
/// # Errors
///
/// When the file cannot be read.
pub(super) fn check(entry: &BootEntry, files: &Files<'_>) -> Result<Option<Finding>, Failure> {
    let Some(node) = files.find(&entry.kernel).filter(|_| is_unified(entry)) else { return Ok(None) };
    let read = files.read(node, |reader| {
        let sections = Sections::read(reader)?;
        sections.as_ref().map_or(Ok(String::new()), |sections| sections.text(reader, ".cmdline"))?;
        Ok(sections)
    })?;
    let path = show(&entry.kernel);
    let why = match read {
        Ok(Some(sections)) if !sections.has(KERNEL) => "it has no section .linux, which is the kernel".to_owned(),
        Ok(Some(sections)) if !sections.has(OS_RELEASE) => {
            "it has no section .osrel, and systemd-boot shows none without".to_owned()
        }
        Ok(Some(sections)) if sections.has_profiles => {
            return Ok(Some(Finding::unproven(format!("{path} has several profiles, and only the first is checked"))));
        }
        Ok(Some(_)) => return Ok(None),
        Ok(None) => "it is no PE file".to_owned(),
        Err(why) => why,
    };
    Ok(Some(Finding::wrong(format!("{path} is no unified kernel image: {why}"), make_again(files))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PE file with these sections, one behind the other.
    fn image(sections: &[(&str, &[u8])]) -> Vec<u8> {
        let mut file = vec![0; 0x80];
        file[..2].copy_from_slice(b"MZ");
        file[0x3c] = 0x80;
        file.extend(b"PE\0\0\x64\x86");
        file.extend((sections.len() as u16).to_le_bytes());
        file.extend([0; 12]);
        file.extend([16, 0, 0, 0]);
        file.extend([0; 16]);
        let begin = (file.len() + 40 * sections.len()).next_multiple_of(16);
        let mut place = begin;
        for (name, content) in sections {
            let mut header = [0; 40];
            header[..name.len()].copy_from_slice(name.as_bytes());
            for (at, value) in [(8, content.len()), (16, content.len().next_multiple_of(16)), (20, place)] {
                header[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
            }
            file.extend(header);
            place += content.len().next_multiple_of(16);
        }
        file.resize(begin, 0);
        for (_, content) in sections {
            file.extend(*content);
            file.resize(file.len().next_multiple_of(16), 0);
        }
        file
    }

    fn read(file: &[u8]) -> Result<Option<Sections>, String> {
        Sections::read(&Reader::of_text(file)).map_err(|e| e.to_string())
    }

    fn of_section(file: &[u8], name: &str) -> Result<Vec<u8>, String> {
        let reader = Reader::of_text(file);
        let mut found = Vec::new();
        let mut stream = section(&reader, name).map_err(|e| e.to_string())?;
        stream.read_to_end(&mut found).map_err(|e| e.to_string())?;
        Ok(found)
    }

    const SECTIONS: [(&str, &[u8]); 4] =
        [(".osrel", b"ID=x\n"), (".cmdline", b" root=UUID=1 rw\n\0"), (".linux", b"kernel"), (".linux", b"another")];

    #[test]
    fn sections_are_found_by_their_names() {
        let file = image(&SECTIONS);
        let sections = read(&file).unwrap().unwrap();
        assert_eq!(sections.text(&Reader::of_text(&file), ".cmdline").unwrap(), "root=UUID=1 rw");
        assert!(sections.has(".osrel") && !sections.has(".initrd") && !sections.has_profiles);
        assert_eq!(of_section(&file, ".linux").unwrap(), b"kernel");
        // A file that has none is what it is.
        assert_eq!(of_section(&file, ".initrd").unwrap(), file);
        assert_eq!(of_section(b"MZ", ".linux").unwrap(), b"MZ");
        let first = image(&[SECTIONS[0], (".profile", b"ID=a\n"), SECTIONS[2]]);
        let sections = read(&first).unwrap().unwrap();
        assert!(sections.has_profiles && !sections.has(".linux"), "{sections:?}");
    }

    #[test]
    fn what_is_cut_off_or_odd_is_no_image() {
        let file = image(&SECTIONS);
        for length in 0..file.len() {
            let short = &file[..length];
            // Either the headers are not whole, or the section is not, or it is.
            match of_section(short, ".linux") {
                Ok(found) => assert!(found == b"kernel" || found == short, "{length}"),
                Err(why) => assert!(length < file.len() - 16, "{length}: {why}"),
            }
        }
        for place in 0..0x80 + 24 + 16 + 160 {
            let mut odd = file.clone();
            odd[place] = 0xff;
            drop(of_section(&odd, ".linux"));
            if let Ok(Some(sections)) = read(&odd) {
                drop(sections.text(&Reader::of_text(&odd), ".cmdline"));
            }
        }
        let mut many = file.clone();
        many[0x80 + 7] = 0xff;
        assert_eq!(read(&many).unwrap_err(), "it has too many sections");
        let long = image(&[(".cmdline", &[b'x'; 70_000])]);
        let reader = Reader::of_text(&long);
        let sections = read(&long).unwrap().unwrap();
        assert_eq!(
            sections.text(&reader, ".cmdline").unwrap_err().to_string(),
            "its command line has more than 64 KiB"
        );
        for other in [&b""[..], &[0; 100], &file[..0x84], b"MZ\0\0zimg"] {
            assert_eq!(read(other), Ok(None));
        }
    }
}
