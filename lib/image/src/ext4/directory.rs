//! A directory's blocks: names in order, none of them over a block's end (kernel: `ext4/directory.rst`, linear).

use super::checksum::chain;
use super::geometry::BLOCK;
use crate::bytes::Fields;
use crate::node::Kind;

/// Bytes of an entry without its name, and of the one at a block's end that has the checksum.
const ENTRY: usize = 8;
const TAIL: usize = 12;
const ROOM: usize = BLOCK as usize - TAIL;

fn length(name: &[u8]) -> usize {
    ENTRY + name.len().next_multiple_of(4)
}

/// Returns how many names are in each block of a directory.
fn pack<'a>(names: impl Iterator<Item = &'a [u8]>) -> Vec<usize> {
    let (mut blocks, mut used) = (Vec::new(), ROOM);
    for name in names {
        if used + length(name) > ROOM {
            blocks.push(0);
            used = 0;
        }
        used += length(name);
        blocks.last_mut().into_iter().for_each(|count| *count += 1);
    }
    blocks
}

/// Returns how many blocks a directory with these names takes, beside `.` and `..`.
pub(crate) fn blocks<'a>(names: impl Iterator<Item = &'a [u8]>) -> u64 {
    pack([&b"."[..], b".."].into_iter().chain(names)).len() as u64
}

/// A name in a directory.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) inode: u32,
    pub(crate) name: &'a [u8],
    /// Its type, as a directory says it (`filetype`).
    pub(crate) kind: u8,
}

/// Returns a directory's blocks. `seed` is the inode's.
pub(crate) fn encode(entries: &[Entry<'_>], seed: u32) -> Vec<u8> {
    let mut rest = entries;
    let encoded = pack(entries.iter().map(|entry| entry.name)).into_iter().flat_map(|count| {
        let (now, later) = rest.split_at(count);
        rest = later;
        block(now, seed)
    });
    encoded.collect()
}

fn block(entries: &[Entry<'_>], seed: u32) -> Vec<u8> {
    let mut block = vec![0; BLOCK as usize];
    let mut at = 0;
    for (n, entry) in entries.iter().enumerate() {
        let length = length(entry.name);
        // The last one takes what is left.
        let record = if n + 1 == entries.len() { ROOM - at } else { length };
        block.le32(at, entry.inode.into());
        block.le16(at + 4, record as u64);
        block.put(at + 6, &[u8::try_from(entry.name.len()).unwrap_or_default(), entry.kind]);
        block.put(at + ENTRY, entry.name);
        at += record;
    }

    let sum = chain(seed, &block[..ROOM]);
    block.le16(ROOM + 4, TAIL as u64);
    block.put(ROOM + 7, &[0xde]);
    block.le32(ROOM + 8, sum.into());
    block
}

/// The type of a directory.
pub(crate) const DIRECTORY: u8 = 2;

/// Returns the type of a file.
pub(crate) fn type_of(kind: &Kind) -> u8 {
    match kind {
        Kind::File(_) | Kind::HardLink(_) => 1,
        Kind::Directory => DIRECTORY,
        Kind::Character(..) => 3,
        Kind::Block(..) => 4,
        Kind::Fifo => 5,
        Kind::Symlink(_) => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_as_many_as_were_counted() {
        for count in [0, 1, 15, 16, 500] {
            let names: Vec<Vec<u8>> =
                (0..count).map(|n| format!("{n:0>width$}", width = 200 + n % 50).into_bytes()).collect();
            let mut entries =
                vec![Entry { inode: 2, name: b".", kind: DIRECTORY }, Entry { inode: 2, name: b"..", kind: DIRECTORY }];
            entries.extend(names.iter().map(|name| Entry { inode: 12, name, kind: 5 }));
            let expected = blocks(names.iter().map(Vec::as_slice));
            let all = encode(&entries, 0);
            assert_eq!(all.len() as u64, expected * BLOCK);
            let found = names.iter().filter(|name| all.windows(name.len()).any(|window| window == name.as_slice()));
            assert_eq!(found.count(), names.len(), "{count}");
        }
    }
}
