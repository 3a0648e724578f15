//! What the tools that make an image of a root agree on: `pack`, `mkdisk`, and `configure`, which writes down the file
//! systems that `mkdisk` makes.
//!
//! An image is made twice to see that it comes out the same. So nothing in it may come from the clock or from chance where
//! `SOURCE_DATE_EPOCH` is set (<https://reproducible-builds.org/specs/source-date-epoch/>).
//!
//! [`Rules`] says what goes into an image. [`Tree`] reads the root by them, from inside, as [`Node`]s, which an archive and every
//! [`FileSystem`] take. [`boot`] finds the kernels among them, and configures the boot loader. [`Output`] is the file that the
//! image is written to, outside.

pub mod acl;
pub mod attribute;
pub mod board;
pub mod boot;
mod bytes;
pub mod compress;
pub mod disk;
pub mod epoch;
mod ext4;
mod fat;
pub mod filesystem;
pub mod host;
pub mod ids;
pub mod kind;
pub mod layout;
pub mod node;
pub mod output;
pub mod reader;
pub mod rewrite;
pub mod rules;
pub mod size;
pub mod stream;
mod swap;
pub mod tree;

pub use filesystem::FileSystem;
pub use layout::Layout;
pub use node::{Content, Kind, Node, Xattr};
pub use output::Output;
pub use rules::Rules;
pub use tree::Tree;
