//! How a package was checked, in pacman's local database (`%VALIDATION%`). Of an archive of a repository without a signature pacman
//! writes that it compared the SHA-256; of one that it is given as a file, that it compared nothing. A lock has the SHA-256, and
//! it was compared: so a root of a lock has the records of the root that the lock was made of.

use pacman::Planned;
use pacman::records::LOCAL;
use rootfs::{Root, file};
use rustix::fs::OFlags;
use stage::{Code, Doing, Failure, quote};
use std::os::fd::AsFd;

const NOTHING: &[u8] = b"\n%VALIDATION%\nnone\n";
const HASH: &[u8] = b"\n%VALIDATION%\nsha256\n";

/// The longest record that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// Records that the SHA-256 of an installed package was compared, where nothing is recorded.
///
/// # Errors
///
/// When its record cannot be read or written.
pub(super) fn record(root: &Root, package: &Planned) -> Result<(), Failure> {
    let record = format!("{LOCAL}/{}-{}", package.name, package.version);
    let doing = || format!("writing the record of {}", quote(&package.name));
    let text = root.read(&format!("{record}/desc"), LIMIT).doing(Code::Os, doing)?;
    let Some(at) = text.windows(NOTHING.len()).position(|part| part == NOTHING) else { return Ok(()) };
    let new = [&text[..at], HASH, &text[at + NOTHING.len()..]].concat();
    let directory = root.open_below(&record, OFlags::RDONLY | OFlags::DIRECTORY).doing(Code::Os, doing)?;
    file::replace(directory.as_fd(), "desc", &new, 0o644, None).doing(Code::Os, doing)
}
