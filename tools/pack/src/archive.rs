//! Writing the archive, inside: the tree as tar, compressed, hashed, into a file of the user's outside.

use crate::compress::Encoder;
use crate::format::Format;
use crate::member::{BLOCK, Member};
use crate::sparse::{self, Piece};
use image::tree::{Points, Reader};
use image::{Content, Entry, Kind, Rules, Tree};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rootfs::Root;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stage::{Code, Document, Doing, Failure, quote};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

/// What is to be written.
#[derive(Debug)]
pub(crate) struct Task<'a> {
    pub(crate) document: &'a Document,
    pub(crate) points: &'a Points,
    pub(crate) rules: &'a Rules,
    pub(crate) file: &'a File,
    /// Its path, for messages.
    pub(crate) path: &'a Path,
    pub(crate) format: Format,
    pub(crate) level: u32,
    /// Whether a bar shows how far it is.
    pub(crate) bar: bool,
}

/// What was written.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Written {
    /// The size of the file, in bytes.
    pub(crate) size: u64,
    /// Its SHA-256, in hex.
    pub(crate) sha256: String,
    /// How many members it has.
    pub(crate) entries: u64,
    /// The sockets that were left out.
    pub(crate) sockets: Vec<String>,
    /// The secret keys of the machine that it has, as paths.
    pub(crate) secrets: Vec<String>,
}

/// Does it, and returns [`Written`] as JSON.
///
/// # Errors
///
/// When the tree cannot be read or the file not be written. Then the file is of no use.
pub(crate) fn work(task: &Task<'_>) -> Result<Vec<u8>, Failure> {
    let tree = Tree::open(&Root::of(task.document)?, task.points)?;
    let found = tree.walk(task.rules)?;
    let (size, sha256) = Archive::begin(task, &tree, &found.entries)?.all()?;
    let text = |path: &Vec<u8>| String::from_utf8_lossy(path).into_owned();
    let secrets = found.entries.iter().map(|entry| &entry.path);
    let written = Written {
        size,
        sha256,
        entries: found.entries.len() as u64,
        sockets: found.sockets.iter().map(text).collect(),
        secrets: secrets.filter(|p| is_secret(p)).map(text).collect(),
    };
    serde_json::to_vec(&written).doing(Code::Os, || "saying what was written")
}

/// Returns whether it is a key that makes one machine known from another (sshd(8)).
fn is_secret(path: &[u8]) -> bool {
    path.starts_with(b"etc/ssh/ssh_host_") && path.ends_with(b"_key")
}

struct Archive<'a> {
    task: &'a Task<'a>,
    tree: &'a Tree,
    entries: &'a [Entry],
    out: BufWriter<Encoder<Hashed<'a>>>,
    bar: ProgressBar,
    buffer: Vec<u8>,
}

impl<'a> Archive<'a> {
    fn begin(task: &'a Task<'a>, tree: &'a Tree, entries: &'a [Entry]) -> Result<Self, Failure> {
        let out = Hashed {
            file: task.file,
            hash: Sha256::new(),
            size: 0,
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let encoder = Encoder::new(out, task.format, task.level, threads)
            .map_err(|e| writing(task.path, &e))?;
        let size = |entry: &Entry| match entry.kind {
            Kind::File { size, .. } => size,
            _ => 0,
        };
        Ok(Self {
            task,
            tree,
            entries,
            // Pieces of one size: what is written is then the same also where a compressor looks at how it is given.
            out: BufWriter::with_capacity(1 << 20, encoder),
            bar: bar(task, entries.iter().map(size).sum()),
            buffer: vec![0; 1 << 18],
        })
    }

    /// Writes it. Returns the file's size and hash.
    fn all(mut self) -> Result<(u64, String), Failure> {
        for entry in self.entries {
            self.one(entry)?;
        }
        // Two blocks of zeros are the end.
        self.put(&[0; 2 * BLOCK])?;
        let path = self.task.path;
        self.bar.finish_and_clear();
        let finish = || {
            let encoder = self.out.into_inner();
            encoder.map_err(io::IntoInnerError::into_error)?.finish()
        };
        let out = finish().map_err(|e| writing(path, &e))?;
        Ok((out.size, format!("{:x}", out.hash.finalize())))
    }

    fn one(&mut self, entry: &Entry) -> Result<(), Failure> {
        match self.tree.content(entry)? {
            Content::Text(text) => {
                self.begin_member(entry, None)?;
                self.put(text)?;
                self.pad(text.len() as u64)
            }
            Content::File(reader) => self.file(entry, reader),
        }
    }

    fn file(&mut self, entry: &Entry, mut reader: Reader) -> Result<(), Failure> {
        let Kind::File { size, .. } = entry.kind else {
            return Ok(());
        };
        let reading = |e: &io::Error| {
            let show = self.tree.show(&entry.path);
            Failure::new(Code::Failed, format!("reading {show}: {e}"))
        };
        let pieces = sparse::data(reader.file(), size).map_err(|e| reading(&e))?;
        self.begin_member(entry, pieces.as_deref())?;
        let whole = [(0, size)];
        let pieces = pieces.as_deref().unwrap_or(&whole);
        for (at, length) in pieces {
            reader.seek(*at).map_err(|e| self.reading(entry, &e))?;
            self.copy(entry, &mut reader, *length)?;
        }
        reader.is_the_same()?;
        self.pad(pieces.iter().map(|(_, length)| length).sum())?;
        self.bar.inc(size);
        Ok(())
    }

    fn copy(&mut self, entry: &Entry, reader: &mut Reader, mut left: u64) -> Result<(), Failure> {
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            let most = most.min(self.buffer.len());
            let mut buffer = std::mem::take(&mut self.buffer);
            let read = reader.read(&mut buffer[..most]);
            self.buffer = buffer;
            let n = read.map_err(|e| self.reading(entry, &e))?;
            self.out
                .write_all(&self.buffer[..n])
                .map_err(|e| writing(self.task.path, &e))?;
            left -= n as u64;
        }
        Ok(())
    }

    /// Writes a member up to where its content begins.
    fn begin_member(&mut self, entry: &Entry, pieces: Option<&[Piece]>) -> Result<(), Failure> {
        let first: &[u8] = match entry.kind {
            Kind::HardLink(first) => &self.entries[first].path,
            _ => &[],
        };
        let member = Member::of(entry, first, pieces).map_err(|e| self.reading(entry, &e))?;
        if let Some((header, text)) = member.extension() {
            self.put(header.as_bytes())?;
            self.put(&text)?;
            self.pad(text.len() as u64)?;
        }
        self.put(member.header.as_bytes())?;
        self.put(&member.map)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out
            .write_all(bytes)
            .map_err(|e| writing(self.task.path, &e))
    }

    /// Fills the last block of a content.
    fn pad(&mut self, length: u64) -> Result<(), Failure> {
        let over = (length % BLOCK as u64) as usize;
        let zeros = [0; BLOCK];
        self.put(&zeros[..(BLOCK - over) % BLOCK])
    }

    fn reading(&self, entry: &Entry, error: &io::Error) -> Failure {
        let show = self.tree.show(&entry.path);
        Failure::new(Code::Failed, format!("reading {show}: {error}"))
    }
}

fn writing(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Code::Os, format!("writing {}: {error}", quote(path)))
}

/// Returns a progress bar, which draws on a terminal only.
fn bar(task: &Task<'_>, size: u64) -> ProgressBar {
    if !task.bar {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::stderr());
    let template = "{msg} {bar:20} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    let name = task.path.file_name().unwrap_or_default();
    bar.set_message(stage::message::escape(&name.to_string_lossy()));
    bar.with_finish(indicatif::ProgressFinish::AndClear)
}

/// Hashes and counts what goes into the file.
struct Hashed<'a> {
    file: &'a File,
    hash: Sha256,
    size: u64,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
