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

/// What is said of the nodes.
#[derive(Debug, Default)]
struct Facts {
    entries: u64,
    secrets: Vec<String>,
    marks: Vec<String>,
    tells_wsl: bool,
}

impl Facts {
    fn note(&mut self, node: &Node) {
        self.entries += 1;
        self.secrets.extend(is_secret(&node.path).then(|| node.path_text()));
        self.marks.extend(oci::mark(node).map(|_| node.path_text()));
        self.tells_wsl |= node.path == WSL.as_bytes() && matches!(node.kind, Kind::File(_));
    }
}

/// Writes the archive.
///
/// # Errors
///
/// When the tree cannot be read or the file not be written. Then the file is of no use.
pub(crate) fn work(context: &Context, plan: &Plan, document: &Document) -> Result<Written, Failure> {
    let tree = Tree::open(&Root::of(document)?, &plan.points)?;
    let writing = format!("writing {}", quote(&plan.output.path));
    let mut facts = Facts::default();
    let needs_all = plan.format == Format::Oci || plan.format.file_system().is_some();
    let (size, sha256, sockets) = match needs_all {
        true => write_nodes(context, plan, document, &tree, &writing, &mut facts)?,
        false => write_as_found(context, plan, &tree, &writing, &mut facts)?,
    };
    Ok(Written {
        size,
        sha256,
        entries: facts.entries,
        sockets: sockets.iter().map(|p| String::from_utf8_lossy(p).into()).collect(),
        secrets: facts.secrets,
        untold: plan.format == Format::Wsl && !facts.tells_wsl,
        marks: facts.marks,
    })
}

/// The size and the SHA-256 of a file, and the sockets that it does not have.
type Sum = (u64, String, Vec<Vec<u8>>);

/// Writes a format that needs to know all nodes before the first is written.
fn write_nodes(
    context: &Context,
    plan: &Plan,
    document: &Document,
    tree: &Tree,
    writing: &str,
    facts: &mut Facts,
) -> Result<Sum, Failure> {
    let found = tree.walk(&plan.rules)?;
    found.nodes.iter().for_each(|node| facts.note(node));
    let progress = context.progress("packing", Unit::Bytes, Some(total(&found.nodes)));
    let source = Source { tree, nodes: &found.nodes, progress: &progress, writing, sparse: plan.sparse };
    let (size, sha256) = match plan.format.file_system() {
        Some(kind) => {
            host::make_read_only(kind, source.nodes, &plan.options, tree, &plan.output.file, &progress)?;
            hash(plan, source)?
        }
        None => oci::write(plan, document, source)?,
    };
    Ok((size, sha256, found.sockets))
}

/// Writes an archive as the tree is walked: it is compressed meanwhile, and no list of the nodes is in memory.
fn write_as_found(
    context: &Context,
    plan: &Plan,
    tree: &Tree,
    writing: &str,
    facts: &mut Facts,
) -> Result<Sum, Failure> {
    let mut total = None;
    if context.shows_progress() {
        // How much there is only another walk can tell.
        tree.each(&plan.rules, |node, _| {
            total = Some(node.size().saturating_add(total.unwrap_or_default()));
            Ok(())
        })?;
    }
    let progress = context.progress("packing", Unit::Bytes, total);
    let source = Source { tree, nodes: &[], progress: &progress, writing, sparse: plan.sparse };
    let mut sockets = Vec::new();
    let out = compress_into_file(plan, source, |out| {
        let mut out = in_pieces(out);
        sockets = source.stream_tree(&plan.rules, &mut out, |node| facts.note(node))?;
        last_piece(source, out).map(drop)
    })?;
    // The last of it may be a hole.
    plan.output.file.set_len(out.size).doing(Code::Os, || writing)?;
    Ok((out.size, out.hex(), sockets))
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

/// Streams the nodes into `out`, and returns that.
pub(crate) fn stream<W: Write>(source: Source<'_>, out: W) -> Result<W, Failure> {
    let mut out = in_pieces(out);
    source.stream(&mut out)?;
    last_piece(source, out)
}

/// Pieces of one size: what is written is then the same also where a compressor looks at how it is given.
fn in_pieces<W: Write>(out: W) -> BufWriter<W> {
    BufWriter::with_capacity(PIECE, out)
}

fn last_piece<W: Write>(source: Source<'_>, out: BufWriter<W>) -> Result<W, Failure> {
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
