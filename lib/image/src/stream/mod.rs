//! The tree as a stream of tar members: headers, contents, and the end.

pub mod member;

use crate::node::{Content, Kind, Node, RootFile};
use crate::reader::{Piece, Reader};
use crate::rules::Rules;
use crate::tree::Tree;
use member::{BLOCK, Member};
use stage::{Code, Doing, Failure, Progress};
use std::io::{self, Write};

/// What is streamed.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// What has the contents.
    pub tree: &'a Tree,
    /// The members, where they are known: a directory before what is in it, a file before its other names.
    pub nodes: &'a [Node],
    /// What shows how much of the contents is through.
    pub progress: &'a Progress,
    /// What is being done where writing fails, for a message.
    pub writing: &'a str,
    /// Whether holes are stored as holes, and not as zeros.
    pub sparse: bool,
}

impl Source<'_> {
    /// Writes all of it into `out`, up to the end of an archive.
    ///
    /// # Errors
    ///
    /// When the tree cannot be read, or `out` takes no more.
    pub fn stream(self, out: &mut impl Write) -> Result<(), Failure> {
        let mut stream = Stream { source: self, out, holes: 0 };
        for node in self.nodes {
            let first: &[u8] = match node.kind {
                Kind::HardLink(first) => &self.nodes[first].path,
                _ => &[],
            };
            stream.one(node, first)?;
        }
        stream.put(&END)
    }

    /// Writes the tree into `out` as [`Source::stream`] does its nodes, of which none need be known: each is written as it is
    /// found, however many there are. `note` sees them all. Returns the sockets.
    ///
    /// # Errors
    ///
    /// As [`Source::stream`] and [`Tree::walk`].
    pub fn stream_tree(
        self,
        rules: &Rules,
        out: &mut impl Write,
        mut note: impl FnMut(&Node),
    ) -> Result<Vec<Vec<u8>>, Failure> {
        let mut stream = Stream { source: self, out, holes: 0 };
        let sockets = self.tree.each(rules, |node, first| {
            note(&node);
            stream.one(&node, first)
        })?;
        stream.put(&END)?;
        Ok(sockets)
    }
}

/// Two blocks of zeros, which end an archive.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// How long the holes may be together that are written as zeros: a file of a byte must not keep us for days, or fill a disk
/// where it is unpacked.
const MOST_ZEROS: u64 = 64 << 30;

/// Returns what fills the last block of a content of this length.
#[must_use]
pub fn padding(length: u64) -> &'static [u8] {
    let over = (length % BLOCK as u64) as usize;
    &END[..(BLOCK - over) % BLOCK]
}

struct Stream<'a, W: Write> {
    source: Source<'a>,
    out: &'a mut W,
    /// How long the holes were so far.
    holes: u64,
}

impl<W: Write> Stream<'_, W> {
    /// Writes a node. `first` is the path of what a hard link is another name of.
    fn one(&mut self, node: &Node, first: &[u8]) -> Result<(), Failure> {
        let reader = self.source.tree.open_content(node)?;
        let size = node.size();
        let sparse = if self.source.sparse { reader.data()? } else { None };
        self.begin_member(node, first, sparse.as_deref())?;
        if sparse.is_none() {
            self.count_holes(node, &reader)?;
        }
        let pieces = sparse.unwrap_or_else(|| vec![(0, size)]);
        for (at, length) in &pieces {
            reader.copy_with_zeros(*at..at + length, |bytes| self.put(bytes))?;
        }
        reader.check_unchanged()?;
        self.source.progress.advance(size);
        self.pad(pieces.iter().map(|(_, length)| length).sum())
    }

    /// Counts the holes that are written as zeros.
    fn count_holes(&mut self, node: &Node, reader: &Reader<'_>) -> Result<(), Failure> {
        let Kind::File(Content::Root(file @ RootFile { sparse: true, .. })) = &node.kind else { return Ok(()) };
        let stored: u64 = reader.stored(0..file.size)?.iter().map(|(_, length)| length).sum();
        self.holes = self.holes.saturating_add(file.size - stored);
        if self.holes <= MOST_ZEROS {
            return Ok(());
        }
        let why = "with it there are more than 64 GiB of holes, which would be written as zeros";
        let failure = self.reading(node, &io::Error::other(why));
        Err(failure.hint("leave it out with --exclude, or keep holes with --sparse in an archive"))
    }

    /// Writes a member up to where its content begins.
    fn begin_member(&mut self, node: &Node, first: &[u8], pieces: Option<&[Piece]>) -> Result<(), Failure> {
        let refuse = |e: io::Error| {
            self.reading(node, &e)
                .hint("remove the attributes with 'setfattr -x', or leave the file out with --exclude")
        };
        let member = Member::of(node, first, pieces).map_err(refuse)?;
        if let Some((header, text)) = member.extension().map_err(refuse)? {
            self.put(header.as_bytes())?;
            self.put(&text)?;
            self.pad(text.len() as u64)?;
        }
        self.put(member.header.as_bytes())?;
        self.put(&member.map)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).doing(Code::Os, || self.source.writing)
    }

    /// Fills the last block of a content.
    fn pad(&mut self, length: u64) -> Result<(), Failure> {
        self.put(padding(length))
    }

    fn reading(&self, node: &Node, error: &io::Error) -> Failure {
        let show = self.source.tree.show(&node.path);
        Failure::new(Code::Failed, format!("reading {show}: {error}"))
    }
}
