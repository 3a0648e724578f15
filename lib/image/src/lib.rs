//! What the tools that make an image of a root agree on: `pack`, `mkdisk`, and `configure`, which writes down the file
//! systems that `mkdisk` makes.
//!
//! An image is made twice to see that it comes out the same. So nothing in it may come from the clock or from chance where
//! `SOURCE_DATE_EPOCH` is set (<https://reproducible-builds.org/specs/source-date-epoch/>).
//!
//! [`Rules`] says what goes into an image, [`Tree`] reads the root by them, from inside, and [`Output`] is the file that
//! the image is written to, outside.

pub mod epoch;
pub mod ids;
pub mod layout;
pub mod mend;
pub mod output;
pub mod rules;
pub mod size;
pub mod sparse;
pub mod tree;

pub use layout::Layout;
pub use output::Output;
pub use rules::Rules;
pub use tree::{Content, Entry, Kind, Tree, Xattr};
