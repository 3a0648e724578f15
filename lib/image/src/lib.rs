//! What the tools that make an image of a root agree on: `pack`, `mkdisk`, and `configure`, which writes down the file
//! systems that `mkdisk` makes.
//!
//! An image is made twice to see that it comes out the same. So nothing in it may come from the clock or from chance where
//! `SOURCE_DATE_EPOCH` is set (<https://reproducible-builds.org/specs/source-date-epoch/>).

pub mod epoch;
pub mod ids;
pub mod layout;
pub mod size;
