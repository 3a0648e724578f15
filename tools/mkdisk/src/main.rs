//! mkdisk
mod content;
mod fat;
fn main() {}
