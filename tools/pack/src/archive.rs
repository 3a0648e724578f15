//! Writing the file, inside: the tree as tar, compressed, hashed. The file is the user's, outside.

use crate::format::Format;
use crate::{Plan, oci};
use image::node::total;
use image::rules::is_secret;
use image::stream::Source;
use image::{Kind, Node, Tree, host};
use rootfs::Root;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stage::{Code, Context, Document, Doing, Failure, Unit, quote};
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

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
    /// Whether it is for WSL, and has no file that tells WSL what it is.
    pub(crate) untold: bool,
    /// What docker and podman would take for a mark that a file is deleted, as paths.
    pub(crate) marks: Vec<String>,
}

/// Writes the archive.
///
/// # Errors
///
/// When the tree cannot be read or the file not be written. Then the file is of no use.
pub(crate) fn work(context: &Context, plan: &Plan, document: &Document) -> Result<Written, Failure> {
    let tree = Tree::open(&Root::of(document)?, &plan.points)?;
    let found = tree.walk(&plan.rules)?;
    let path = &plan.output.path;
    let writing = format!("writing {}", quote(path));
    let content = total(&found.nodes);
    let progress = context.progress("packing", Unit::Bytes, Some(content));
    let source =
        Source { tree: &tree, nodes: &found.nodes, progress: &progress, writing: &writing, sparse: plan.sparse };
    let (size, sha256) = match plan.format {
        Format::Oci => oci::write(plan, document, source)?,
        format => match format.file_system() {
            Some(kind) => {
                let (file, progress) = (&plan.output.file, source.progress);
                host::make_read_only(kind, source.nodes, &plan.options, source.tree, file, progress)?;
                hash(plan, source)?
            }
            None => {
                let out = compress_into_file(plan, source, |out| stream(source, out).map(drop))?;
                // The last of it may be a hole.
                plan.output.file.set_len(out.size).doing(Code::Os, || source.writing)?;
                (out.size, out.hex())
            }
        },
    };
    drop(progress);
    let paths = |want: fn(&Node) -> bool| found.nodes.iter().filter(|n| want(n)).map(Node::path_text).collect();
    Ok(Written {
        size,
        sha256,
        entries: found.nodes.len() as u64,
        sockets: found.sockets.iter().map(|p| String::from_utf8_lossy(p).into()).collect(),
        secrets: paths(|node| is_secret(&node.path)),
        untold: plan.format == Format::Wsl
            && !found.nodes.iter().any(|n| n.path == WSL.as_bytes() && matches!(n.kind, Kind::File(_))),
        marks: paths(|node| oci::mark(node).is_some()),
    })
}

/// What tells WSL the name of a distribution and its first steps, for 'wsl --install --from-file'.
pub(crate) const WSL: &str = "etc/wsl-distribution.conf";

/// Reads the file, and returns its size and its SHA-256.
pub(crate) fn hash(plan: &Plan, source: Source<'_>) -> Result<(u64, String), Failure> {
    let doing = || source.writing;
    let mut file = &plan.output.file;
    file.seek(SeekFrom::Start(0)).doing(Code::Os, doing)?;
    let mut whole = Hashed::new(io::sink());
    io::copy(&mut file, &mut whole).doing(Code::Os, doing)?;
    Ok((whole.size, whole.hex()))
}

/// How much is compressed, and looked at for zeros, at a time.
const PIECE: usize = 1 << 20;

/// Compresses what `fill` writes into the file, from where it is.
pub(crate) fn compress_into_file<'a>(
    plan: &'a Plan,
    source: Source<'_>,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), Failure>,
) -> Result<Hashed<Hollow<'a>>, Failure> {
    let mut out = Hashed::new(Hollow(&plan.output.file));
    let fill = |to: &mut dyn Write| fill(to).map_err(io::Error::other);
    let written = match plan.format.compression() {
        Some(compression) => compression.compress(out, plan.level, fill),
        None => fill(&mut out).map(|()| out),
    };
    written.map_err(|e| Failure::of_io(e).unwrap_or_else(|e| Failure::system(Code::Os, source.writing, e)))
}

/// Streams the tree into `out`, and returns that.
pub(crate) fn stream<W: Write>(source: Source<'_>, out: W) -> Result<W, Failure> {
    // Pieces of one size: what is written is then the same also where a compressor looks at how it is given.
    let mut out = BufWriter::with_capacity(PIECE, out);
    source.stream(&mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error).doing(Code::Os, || source.writing)
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
        Self { inner, size: 0, hash: Sha256::new() }
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
