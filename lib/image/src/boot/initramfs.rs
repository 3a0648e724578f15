//! Reading an initramfs as the kernel unpacks it: cpio archives (newc), one behind the other, each plain or compressed
//! (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! mkinitcpio, dracut, booster and initramfs-tools put plain archives with microcode before the compressed one.

use super::unpack::{Input, damaged, decoder};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

/// The longest path of an entry, and the longest module, in bytes.
const LONGEST_NAME: u32 = 4096;
const LARGEST_MODULE: u64 = 64 << 20;

/// The most entries: many times what a whole distribution's modules are.
const MOST: usize = 1 << 17;

/// How long a header is, and what a regular file's mode has.
const HEADER: usize = 110;
const FORMAT: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;

/// What is in an initramfs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Initramfs {
    /// How many files it has, of any type.
    pub(super) entries: usize,
    /// Whether it has the program that the kernel starts.
    pub(super) has_init: bool,
    /// The names of its modules, and of those that were asked for the kernel that they are for.
    pub(super) modules: BTreeMap<String, Option<String>>,
    /// The kernels that it has directories of modules for.
    pub(super) releases: BTreeSet<String>,
}

impl Initramfs {
    /// Adds what another file has. `wanted` says which modules are looked into.
    ///
    /// # Errors
    ///
    /// When reading fails, and with what is damaged.
    pub(super) fn read(&mut self, input: impl Read, wanted: &dyn Fn(&str) -> bool) -> io::Result<()> {
        let mut input = Input::new(input);
        let mut is_empty = true;
        while input.skip_zeros()? {
            is_empty = false;
            if is_archive(input.peek(6)?) {
                self.archive(&mut input, wanted)?;
                continue;
            }
            let Some(plain) = decoder(&mut input)? else {
                return Err(damaged("it is no cpio archive, and in no compression that a kernel reads"));
            };
            let mut plain = Input::new(plain);
            while plain.skip_zeros()? {
                if !is_archive(plain.peek(6)?) {
                    return Err(damaged("what is compressed in it is no cpio archive"));
                }
                self.archive(&mut plain, wanted)?;
            }
        }
        if is_empty { Err(damaged("it is empty")) } else { Ok(()) }
    }

    /// Reads an archive to its trailer.
    fn archive<R: Read>(&mut self, input: &mut Input<R>, wanted: &dyn Fn(&str) -> bool) -> io::Result<()> {
        loop {
            let mut header = [0; HEADER];
            input.read_exact(&mut header)?;
            if !is_archive(&header) {
                return Err(damaged("a header of the cpio archive is damaged"));
            }
            let (mode, size, length) = (field(&header, 1)?, u64::from(field(&header, 6)?), field(&header, 11)?);
            if !(1..=LONGEST_NAME).contains(&length) || self.entries >= MOST {
                return Err(damaged("a header of the cpio archive is damaged"));
            }
            let mut name = vec![0; length as usize];
            input.read_exact(&mut name)?;
            skip(input, padding(HEADER as u64 + u64::from(length)))?;
            name.pop();
            if name == b"TRAILER!!!" {
                return Ok(());
            }
            let name = String::from_utf8_lossy(&name);
            let name = name.trim_start_matches("./").trim_start_matches('/');
            let module = self.add(name);
            match module.filter(|module| mode & FORMAT == REGULAR && size <= LARGEST_MODULE && wanted(module)) {
                Some(module) => {
                    let mut content = vec![0; size as usize];
                    input.read_exact(&mut content)?;
                    self.modules.insert(module, module_release(&content)?);
                }
                None => skip(input, size)?,
            }
            skip(input, padding(size))?;
        }
    }

    /// Adds an entry; returns the module's name, if it is one.
    fn add(&mut self, name: &str) -> Option<String> {
        self.entries += 1;
        self.has_init |= name == "init";
        let below = name.strip_prefix("usr/").unwrap_or(name).strip_prefix("lib/modules/");
        if let Some((release, _)) = below.and_then(|below| below.split_once('/')) {
            self.releases.insert(release.to_owned());
        }
        let module = module_name(name)?;
        self.modules.entry(module.clone()).or_default();
        Some(module)
    }
}

fn is_archive(head: &[u8]) -> bool {
    head.starts_with(b"070701") || head.starts_with(b"070702")
}

/// Returns a field of a header: eight hexadecimal digits.
fn field(header: &[u8; HEADER], n: usize) -> io::Result<u32> {
    let digits = &header[6 + 8 * n..14 + 8 * n];
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
    let value = text.and_then(|text| u32::from_str_radix(text, 16).ok());
    value.ok_or_else(|| damaged("a header of the cpio archive is damaged"))
}

/// How many bytes follow something of that length.
fn padding(length: u64) -> u64 {
    length.next_multiple_of(4) - length
}

fn skip(input: &mut impl Read, n: u64) -> io::Result<()> {
    match io::copy(&mut input.take(n), &mut io::sink())? {
        skipped if skipped == n => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Returns the name of the module that a path is the file of, as modprobe(8) takes it.
pub(super) fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, compression) = file.split_once(".ko")?;
    let is_module = matches!(compression, "" | ".zst" | ".xz" | ".gz") && !name.is_empty();
    is_module.then(|| name.replace('-', "_"))
}

/// Returns the kernel that a module is for, as modinfo(8) says it in `vermagic`.
fn module_release(module: &[u8]) -> io::Result<Option<String>> {
    let mut input = Input::new(module);
    let mut plain = Vec::new();
    if let Some(decoder) = decoder(&mut input)? {
        decoder.take(LARGEST_MODULE).read_to_end(&mut plain)?;
    }
    let bytes = if plain.is_empty() { module } else { &plain };
    Ok(word_behind(bytes, b"\0vermagic="))
}

/// Returns the word that follows the first `before`.
pub(super) fn word_behind(bytes: &[u8], before: &[u8]) -> Option<String> {
    let at = bytes.windows(before.len()).position(|window| window == before)? + before.len();
    word(&bytes[at..])
}

/// Returns the word that bytes begin with.
pub(super) fn word(bytes: &[u8]) -> Option<String> {
    let word = bytes.iter().take(256).take_while(|b| b.is_ascii_graphic()).copied().collect();
    String::from_utf8(word).ok().filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests;
