//! Writes an ext4 file system whole, once, the same each time.
//!
//! By hand, since mke2fs(8) of Debian 12 (1.47.0) does not do it: it takes over the change and access times of the directory
//! that it copies and the order in which that is read, so two copies of one tree gave two images; it reads nothing but a
//! directory; and it only knows that an image is too small when it is full. No library writes ext4. This goes when mke2fs of
//! the oldest supported release reads a tar (1.47.1) and the image is the same each time.
//!
//! A file system that is written once and never changed needs none of what makes a file system hard, and then:
//!
//! * it is a function of the nodes and the options: names are sorted, inodes are numbered in that order, and blocks are given
//!   out in that order. No clock and no chance is asked.
//! * how large it must be is known before a byte is written.
//! * what is nothing but zeros is not written: the image is sparse.
//! * it needs no privilege and no program of the host.
//!
//! The format is that of the kernel's `Documentation/filesystems/ext4/`, and what mke2fs makes by default, in its plainest
//! form: blocks of 4 KiB, inodes of 256 bytes, extents, checksums of all metadata, a journal, and reserved blocks for
//! growing (`resize_inode`) so that resize2fs(8) and the kernel can make it larger. Each group has its own tables. Left out
//! is `64bit`, which is for more than 16 TiB, and `flex_bg`, which moves tables together. Directories are not indexed:
//! the kernel reads such directories, and `e2fsck -D` makes the indices.
//!
//! e2fsck(8) and the kernel check the result: see `tests.rs`.

mod allocate;
mod checksum;
mod directory;
mod files;
mod geometry;
mod inode;
mod plan;
mod superblock;
#[cfg(test)]
mod tests;
mod xattr;

use crate::filesystem::{FileSystem, Region, STEP};
use crate::tree::Tree;
pub(crate) use files::Ext4;
use files::LARGEST;
use geometry::BLOCK;
use plan::{Disk, Plan};
use stage::{Code, Failure};

impl FileSystem for Ext4 {
    fn content(&self) -> u64 {
        self.content
    }

    fn smallest(&self, spare: u64) -> Result<u64, Failure> {
        let spare = spare.div_ceil(BLOCK);
        let fits =
            |steps: u64| Plan::new(self, steps * STEP / BLOCK).is_some_and(|plan| plan.allocator.free() >= spare);
        let mut high = 1;
        while !fits(high) {
            high *= 2;
            if high * STEP > LARGEST {
                let at = stage::quote(&self.options.at);
                let why = format!("measuring the file system of {at}: it is larger than 16 TiB");
                return Err(Failure::new(Code::Failed, why));
            }
        }
        let mut low = high / 2;
        while low + 1 < high {
            let middle = low.midpoint(high);
            if fits(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        Ok(high * STEP)
    }

    fn fits(&self, size: u64) -> bool {
        Plan::new(self, size / BLOCK).is_some()
    }

    fn largest(&self) -> u64 {
        LARGEST
    }

    fn write(&self, to: &Region<'_>, tree: &Tree) -> Result<(), Failure> {
        let plan = Plan::new(self, to.size / BLOCK);
        let plan = plan.ok_or_else(|| Failure::new(Code::Failed, "the file system is full"))?;
        Disk::new(self, &plan, to)?.write(tree)
    }
}
