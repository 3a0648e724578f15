//! Writes an ext4 file system whole, once, the same each time.
//!
//! mke2fs(8) with `-d` does nearly that, and was measured first (1.47.0, Debian 12). It takes over the change and access
//! times of the directory that it copies, and the order in which that directory happens to be read: two copies of one tree
//! gave two images. It can leave nothing out and read nothing but a directory, so what goes into an image would have to be
//! copied first. And it only knows that an image is too small when it is full. A file system that is written once and never
//! changed needs none of what makes a file system hard, and then:
//!
//! * it is a function of the [`Tree`] and the [`Options`]: names are sorted, inodes are numbered in that order, and blocks
//!   are given out in that order. No clock and no chance is asked.
//! * how large it must be is known before a byte is written ([`Plan::smallest`]).
//! * what is nothing but zeros is not written: the image is sparse.
//! * it needs no privilege and no program of the host.
//!
//! The format is that of the kernel's `Documentation/filesystems/ext4/`, and what mke2fs makes by default, in its plainest
//! form: blocks of 4 KiB, inodes of 256 bytes, extents, checksums of all metadata, a journal, and reserved blocks for
//! growing (`resize_inode`) so that resize2fs(8) and the kernel can make it larger. Each group has its own tables. Left out
//! is `64bit`, which is for more than 16 TiB, and `flex_bg`, which moves tables together. Directories are not indexed:
//! the kernel reads such directories, and `e2fsck -D` makes the indices.
//!
//! The judge is e2fsck(8) and the kernel: see `tests/judged.rs`.

mod allocate;
mod checksum;
mod directory;
mod field;
mod geometry;
mod inode;
mod plan;
mod superblock;
mod tree;
mod xattr;

pub use plan::{Options, Plan, TooSmall, WriteError};
pub use tree::{Kind, Meta, NodeId, Tree};

/// Bytes in a block.
pub const BLOCK: u64 = 4096;
