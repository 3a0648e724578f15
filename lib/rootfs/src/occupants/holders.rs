//! What keeps a mount busy although no process does: files that the kernel itself has open. umount(8) says no more than
//! "target is busy".

use super::text::path_below;
use crate::mountinfo::decode;
use stage::quote;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Returns what keeps `root` busy although no process does, in words. What cannot be read is left out: these are optional
/// parts of the kernel.
#[must_use]
pub fn kernel_users(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for (device, text) in files("/sys/block", "loop/backing_file") {
        if let Some(file) = path_below(text.trim_ascii_end(), root) {
            let device = device.to_string_lossy();
            found.push(format!("the loop device /dev/{device} has {}", quote(file)));
        }
    }
    for (name, text) in files("/proc/sys/fs/binfmt_misc", "") {
        if let Some(file) = interpreter_kept_open(&text).and_then(|file| path_below(file, root)) {
            found.push(format!("the binfmt_misc handler {} of the host has {} open", quote(name), quote(file)));
        }
    }
    let swaps = swap_files(&std::fs::read("/proc/swaps").unwrap_or_default(), root).into_iter();
    found.extend(swaps.map(|file| format!("the kernel swaps to {}", quote(file))));
    found
}

/// Parses `/proc/swaps`: the files at or below `root`. A blank in a name is an octal escape.
fn swap_files(text: &[u8], root: &Path) -> Vec<PathBuf> {
    let names = text.split(|&b| b == b'\n').skip(1).filter_map(|line| line.split(|&b| b == b' ' || b == b'\t').next());
    names.filter_map(|name| path_below(decode(name).as_bytes(), root)).collect()
}

/// Returns what is in the file `below` each entry of a directory, with the entry's name. Empty means the entry itself.
fn files(dir: &str, below: &str) -> Vec<(OsString, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .filter_map(|entry| {
            let path = if below.is_empty() { entry.path() } else { entry.path().join(below) };
            Some((entry.file_name(), std::fs::read(path).ok()?))
        })
        .collect();
    files.sort();
    files
}

/// Returns the interpreter of a binfmt_misc handler that has the flag F.
fn interpreter_kept_open(text: &[u8]) -> Option<&[u8]> {
    let field = |key: &[u8]| text.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(key));
    field(b"flags: ")?.contains(&b'F').then_some(field(b"interpreter ")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_file_below_a_path_with_a_blank_is_found() {
        let text = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
            /srv/my\\040root/swap\\040file                  file\t\t8\t\t0\t\t-2\n\
            /srv/my\\011root/swap file\t8\t0\t-3\n\
            /dev/vda2 partition\t8\t0\t-3\n\
            /srv/my\\040root/gone\\040(deleted) file\t8\t0\t-4\n";
        let found = |root: &str| swap_files(text, Path::new(root));
        let expected = ["/srv/my root/swap file", "/srv/my root/gone (deleted)"].map(PathBuf::from);
        assert_eq!(found("/srv/my root"), expected);
        assert_eq!(found("/srv/my\troot"), [PathBuf::from("/srv/my\troot/swap")]);
        assert_eq!(found("/srv/my"), [""; 0].map(PathBuf::from));
    }

    #[test]
    fn only_the_flag_f_keeps_the_interpreter_open() {
        let kept = b"enabled\ninterpreter /t/qemu\nflags: OCF\noffset 0\n";
        assert_eq!(interpreter_kept_open(kept), Some(&b"/t/qemu"[..]));
        let closed = b"interpreter /t/q\nflags: OC\n";
        assert_eq!(interpreter_kept_open(closed), None);
        assert_eq!(interpreter_kept_open(b"enabled\n"), None);
    }
}
