//! The block map of an image: which of its blocks have something in them, with their hashes, for bmaptool(1). Its format, 2.0, is
//! described in the tool's own source and nowhere else.

use image::reader::Reader;
use sha2::{Digest, Sha256};
use stage::Failure;
use std::ops::Range;

/// The size of a block, in bytes.
const BLOCK: u64 = 4096;

/// Stands for the hash of the map itself while that is made.
const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Returns the map of an image.
///
/// # Errors
///
/// When the image cannot be read, and on a signal.
pub(crate) fn of(image: &Reader<'_>) -> Result<String, Failure> {
    let mut ranges = Vec::new();
    let mut open: Option<(Range<u64>, Sha256)> = None;
    image.copy(0..image.size(), |offset, bytes| {
        let begin = offset / BLOCK * BLOCK;
        let (range, hash) = match open.take() {
            // What is between two parts of a block is zeros.
            Some((range, mut hash)) if begin <= range.end => {
                zeros(&mut hash, offset - range.end);
                (range, hash)
            }
            before => {
                ranges.extend(before.map(|(range, hash)| finish(range, hash, image.size())));
                let mut hash = Sha256::new();
                zeros(&mut hash, offset - begin);
                (begin..begin, hash)
            }
        };
        open = Some((range.start..offset + bytes.len() as u64, hash.chain_update(bytes)));
        Ok(())
    })?;
    ranges.extend(open.map(|(range, hash)| finish(range, hash, image.size())));
    Ok(text(image.size(), &ranges))
}

fn zeros(hash: &mut Sha256, count: u64) {
    // Less than a block.
    hash.update(&[0; BLOCK as usize][..count.min(BLOCK) as usize]);
}

/// Returns the blocks of a range of bytes, with the hash of all that is in them.
fn finish(range: Range<u64>, mut hash: Sha256, size: u64) -> (Range<u64>, String) {
    let end = range.end.next_multiple_of(BLOCK);
    zeros(&mut hash, end.min(size) - range.end);
    (range.start / BLOCK..end / BLOCK, format!("{:x}", hash.finalize()))
}

fn text(size: u64, ranges: &[(Range<u64>, String)]) -> String {
    let mapped: u64 = ranges.iter().map(|(range, _)| range.end - range.start).sum();
    let mut text = format!(
        "<?xml version=\"1.0\" ?>\n<bmap version=\"2.0\">\n  <ImageSize> {size} </ImageSize>\n  <BlockSize> {BLOCK} </BlockSize>\n  \
         <BlocksCount> {} </BlocksCount>\n  <MappedBlocksCount> {mapped} </MappedBlocksCount>\n  \
         <ChecksumType> sha256 </ChecksumType>\n  <BmapFileChecksum> {NO_HASH} </BmapFileChecksum>\n  <BlockMap>\n",
        size.div_ceil(BLOCK)
    );
    for (range, hash) in ranges {
        let (first, last) = (range.start, range.end - 1);
        let blocks = if first == last { first.to_string() } else { format!("{first}-{last}") };
        text += &format!("    <Range chksum=\"{hash}\"> {blocks} </Range>\n");
    }
    text += "  </BlockMap>\n</bmap>\n";
    let hash = format!("{:x}", Sha256::digest(&text));
    text.replace(NO_HASH, &hash)
}
