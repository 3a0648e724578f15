//! Writing the file, inside: the tree as tar, compressed, hashed. The file is the user's, outside.

use crate::compress::Encoder;
use crate::format::Format;
use crate::oci;
use crate::stream::Source;
use image::rules::is_secret;
use image::tree::Points;
use image::{Entry, Kind, Rules, Tree};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rootfs::Root;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stage::{Code, Document, Doing, Failure, quote};
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
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
    /// What an image is called.
    pub(crate) name: &'a str,
    /// Whether holes are stored as holes.
    pub(crate) sparse: bool,
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
    /// What docker and podman would take for a mark that a file is deleted, as paths.
    pub(crate) marks: Vec<String>,
}

/// Does it, and returns [`Written`] as JSON.
///
/// # Errors
///
/// When the tree cannot be read or the file not be written. Then the file is of no use.
pub(crate) fn work(task: &Task<'_>) -> Result<Written, Failure> {
    let tree = Tree::open(&Root::of(task.document)?, task.points)?;
    let found = tree.walk(task.rules)?;
    let writing = format!("writing {}", quote(task.path));
    let size = |entry: &Entry| match entry.kind {
        Kind::File { size, .. } => size,
        _ => 0,
    };
    let bar = bar(task, found.entries.iter().map(size).sum());
    let source = Source {
        tree: &tree,
        entries: &found.entries,
        bar: &bar,
        writing: &writing,
        sparse: task.sparse,
    };
    let (size, sha256) = match task.format {
        Format::Oci => oci::write(task, source)?,
        _ => {
            let encoder = stream(source, encoder(task, source)?)?;
            let out = encoder.finish().doing(Code::Os, || source.writing)?;
            // The last of it may be a hole.
            let sized = task.file.set_len(out.size);
            sized.doing(Code::Os, || source.writing)?;
            (out.size, out.hex())
        }
    };
    bar.finish_and_clear();
    let text = |path: &Vec<u8>| String::from_utf8_lossy(path).into_owned();
    let secrets = found.entries.iter().map(|entry| &entry.path);
    let marks = found.entries.iter().filter(|e| oci::mark(e).is_some());
    Ok(Written {
        size,
        sha256,
        entries: found.entries.len() as u64,
        sockets: found.sockets.iter().map(text).collect(),
        secrets: secrets.filter(|p| is_secret(p)).map(text).collect(),
        marks: marks.map(|entry| text(&entry.path)).collect(),
    })
}

/// How much is compressed, and looked at for zeros, at a time.
const PIECE: usize = 1 << 20;

/// Begins to compress into the file, from where it is.
pub(crate) fn encoder<'a>(
    task: &Task<'a>,
    source: Source<'_>,
) -> Result<Encoder<Hashed<Hollow<'a>>>, Failure> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Encoder::new(
        Hashed::new(Hollow(task.file)),
        task.format,
        task.level,
        threads,
    )
    .doing(Code::Os, || source.writing)
}

/// Streams the tree into `out`, and returns that.
pub(crate) fn stream<W: Write>(source: Source<'_>, out: W) -> Result<W, Failure> {
    // Pieces of one size: what is written is then the same also where a compressor looks at how it is given.
    let mut out = BufWriter::with_capacity(PIECE, out);
    source.stream(&mut out)?;
    out.into_inner()
        .map_err(io::IntoInnerError::into_error)
        .doing(Code::Os, || source.writing)
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

/// A file that is written in order, in which the zeros of files with holes take no room where they are not compressed.
pub(crate) struct Hollow<'a>(&'a File);

impl Write for Hollow<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() < PIECE || bytes.iter().any(|b| *b != 0) {
            return self.0.write(bytes);
        }
        self.0.seek(SeekFrom::Current(PIECE as i64))?;
        Ok(PIECE)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Hashes and counts what goes through it.
pub(crate) struct Hashed<W: Write> {
    pub(crate) inner: W,
    pub(crate) size: u64,
    hash: Sha256,
}

impl<W: Write> Hashed<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self {
            inner,
            size: 0,
            hash: Sha256::new(),
        }
    }

    /// Returns the SHA-256 of it all, in hex.
    pub(crate) fn hex(&self) -> String {
        format!("{:x}", self.hash.clone().finalize())
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
