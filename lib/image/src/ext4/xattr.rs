//! Extended attributes on the disk (kernel: `ext4/attributes.rst`): behind the inode where they fit, else in a block.

use super::checksum::chain;
use super::geometry::BLOCK;
use super::inode::BEHIND;
use crate::bytes::Fields;

/// The namespaces, and the numbers that stand for them. The ACLs are names of their own.
const SPACES: [(&[u8], u8); 6] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
    (b"system.", 7),
];

const MAGIC: u64 = 0xea02_0000;

/// Bytes of a block's header, and of an entry without its name.
const HEADER: usize = 32;
const ENTRY: usize = 16;

/// A file's attributes as they are on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Encoded {
    /// What is behind the inode's own fields; empty where there is nothing.
    pub(crate) inline: Vec<u8>,
    /// The block, without its checksum, which depends on where it is.
    pub(crate) block: Option<Vec<u8>>,
}

struct Attribute<'a> {
    space: u8,
    name: &'a [u8],
    value: Vec<u8>,
}

/// Encodes attributes.
pub(crate) fn encode(xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<Encoded, String> {
    if xattrs.is_empty() {
        return Ok(Encoded::default());
    }
    let mut attributes = xattrs.iter().map(|(name, value)| attribute(name, value)).collect::<Result<Vec<_>, _>>()?;
    // The order in which the kernel keeps, and looks for, those in a block.
    attributes.sort_by_key(|a| (a.space, a.name.len(), a.name));
    let need: usize = attributes.iter().map(Attribute::length).sum();
    let mut encoded = Encoded::default();
    // Four bytes of zeros end the entries.
    if 4 + need + 4 <= BEHIND {
        encoded.inline = vec![0; BEHIND];
        encoded.inline.le32(0, MAGIC);
        fill(&mut encoded.inline, 4, 4, &attributes);
    } else if HEADER + need + 4 <= BLOCK as usize {
        let mut block = vec![0; BLOCK as usize];
        let hash = fill(&mut block, HEADER, 0, &attributes);
        block.le32(0, MAGIC);
        block.le32(4, 1); // files that use it
        block.le32(8, 1); // blocks
        block.le32(12, hash.into());
        encoded.block = Some(block);
    } else {
        return Err("its extended attributes take more than a block of 4 KiB".to_owned());
    }
    Ok(encoded)
}

/// Puts entries at `begin` and values at the end, with offsets relative to `base`. Returns the hash over all.
fn fill(table: &mut [u8], begin: usize, base: usize, attributes: &[Attribute<'_>]) -> u32 {
    let (mut at, mut end) = (begin, table.len());
    let mut all: u32 = 0;
    for a in attributes {
        end -= a.value.len().next_multiple_of(4);
        let hash = a.hash();
        all = all.rotate_left(16) ^ hash;
        table.put(at, &[low8(a.name.len()), a.space]);
        // An empty value has no place.
        let offset = if a.value.is_empty() { 0 } else { end - base };
        table.le16(at + 2, offset as u64);
        table.le32(at + 8, a.value.len() as u64);
        table.le32(at + 12, hash.into());
        table.put(at + ENTRY, a.name);
        table.put(end, &a.value);
        at += ENTRY + a.name.len().next_multiple_of(4);
    }
    all
}

fn low8(n: usize) -> u8 {
    u8::try_from(n & 0xff).unwrap_or_default()
}

/// Puts the checksum into a block that is to be block number `at`.
pub(crate) fn seal(block: &mut [u8], seed: u32, at: u64) {
    let sum = chain(chain(seed, &at.to_le_bytes()), block);
    block.le32(16, sum.into());
}

fn attribute<'a>(name: &'a [u8], value: &[u8]) -> Result<Attribute<'a>, String> {
    let shown = || String::from_utf8_lossy(name).escape_default().to_string();
    let is_acl = |space| matches!(space, 2 | 3);
    let (space, rest) = SPACES
        .iter()
        .find_map(|(prefix, space)| Some((*space, name.strip_prefix(*prefix)?)))
        .filter(|(space, rest)| rest.len() <= 255 && is_acl(*space) == rest.is_empty())
        .ok_or_else(|| format!("the extended attribute '{}' is not supported", shown()))?;
    let value = match is_acl(space) {
        true => acl_on_disk(value).ok_or_else(|| format!("the ACL '{}' is malformed", shown()))?,
        false => value.to_owned(),
    };
    Ok(Attribute { space, name: rest, value })
}

/// Turns an ACL as getxattr(2) has it (version 2, entries of eight bytes) into that of the disk (version 1; only entries
/// of named users and groups have an id).
fn acl_on_disk(value: &[u8]) -> Option<Vec<u8>> {
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    let entries = value.strip_prefix(&2u32.to_le_bytes())?;
    let mut disk = 1u32.to_le_bytes().to_vec();
    if entries.len() % 8 != 0 {
        return None;
    }
    for entry in entries.chunks(8) {
        let named = matches!(u16::from_le_bytes([entry[0], entry[1]]), USER | GROUP);
        disk.extend_from_slice(&entry[..if named { 8 } else { 4 }]);
    }
    Some(disk)
}

impl Attribute<'_> {
    fn length(&self) -> usize {
        ENTRY + self.name.len().next_multiple_of(4) + self.value.len().next_multiple_of(4)
    }

    /// The kernel's `ext4_xattr_hash_entry`.
    fn hash(&self) -> u32 {
        let mut hash = self.name.iter().fold(0u32, |hash, byte| hash.rotate_left(5) ^ u32::from(*byte));
        for chunk in self.value.chunks(4) {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = hash.rotate_left(16) ^ u32::from_le_bytes(word);
        }
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, length: usize) -> Result<Encoded, String> {
        encode(&[(name.as_bytes().to_vec(), vec![7; length])])
    }

    #[test]
    fn small_ones_lie_behind_the_inode_and_others_in_a_block() {
        assert!(!one("security.capability", 20).unwrap().inline.is_empty());
        assert!(one("user.x", 4096 - 32 - 16 - 4 - 4).unwrap().block.is_some());
        one("user.x", 4096 - 32 - 16 - 4 - 3).unwrap_err();
        assert_eq!(encode(&[]).unwrap(), Encoded::default());
    }

    #[test]
    fn what_is_in_no_namespace_is_refused() {
        for name in ["x", "btrfs.compression", "system.posix_acl_accessx", "system.posix_acl_access"] {
            one(name, 4).unwrap_err();
        }
    }

    #[test]
    fn an_acl_has_another_form_on_the_disk() {
        let value = [
            2, 0, 0, 0, /* user:: */ 1, 0, 6, 0, 255, 255, 255, 255, /* user:1000: */ 2, 0, 4, 0, 232, 3, 0,
            0, /* other:: */ 32, 0, 0, 0, 255, 255, 255, 255,
        ];
        assert_eq!(acl_on_disk(&value).unwrap(), [1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 4, 0, 232, 3, 0, 0, 32, 0, 0, 0]);
        assert_eq!(acl_on_disk(&value[..26]), None);
        assert_eq!(acl_on_disk(b""), None);
    }
}
