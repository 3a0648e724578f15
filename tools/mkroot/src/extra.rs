//! What the user adds to the plan with `--bind` and `--device`, and the mount points for it.

use rootfs::{Mount, Root, attach, plan};
use rustix::fs::{AtFlags, OFlags, unlinkat};
use stage::{Code, Doing, Failure, quote};
use std::os::fd::AsFd;
use std::path::Path;

/// A directory of the skeleton or a mount point that was made, for undo.
pub(crate) struct Point {
    pub(crate) path: String,
    pub(crate) file: bool,
}

/// Makes the directories and files that binds and devices are mounted on, and adds to `made` what was missing.
///
/// # Errors
///
/// At the first that cannot be made.
pub(crate) fn make_mount_points(root: &Root, mounts: &[Mount], made: &mut Vec<Point>) -> Result<(), Failure> {
    for mount in mounts {
        let (at, file) = (&mount.at, attach::is_file(mount));
        if root.open_below(at, OFlags::PATH).is_ok() || attach::is_on_our_own(at) {
            continue;
        }
        let mut paths = Vec::new();
        let result = attach::make_path(root.as_fd(), at, file, &mut paths);
        made.extend(paths.into_iter().map(|path| Point { file: file && path == *at, path }));
        result.doing(Code::Failed, || format!("making the mount point {}", quote(root.path().join(at))))?;
    }
    Ok(())
}

/// Removes what was made, parents last, if it is still empty.
pub(crate) fn remove(root: &Root, made: &[Point]) {
    for point in made.iter().rev() {
        let (parent, name) = point.path.rsplit_once('/').unwrap_or(("", &point.path));
        let flags = if point.file { AtFlags::empty() } else { AtFlags::REMOVEDIR };
        if let Ok(parent) = root.open_below(parent, OFlags::PATH | OFlags::DIRECTORY) {
            // Fails for a directory with content; a file or directory that stays is harmless.
            unlinkat(&parent, name, flags).unwrap_or(());
        }
    }
}

/// Reads `DEV:AT[:FSTYPE[:OPTIONS]]`.
pub(crate) fn device(text: &str) -> Result<Mount, Failure> {
    use std::os::unix::fs::FileTypeExt;
    let usage = |why: &str| Failure::new(Code::Usage, format!("reading '--device {text}': {why}"));
    let mut parts = text.splitn(4, ':');
    let (Some(source), Some(at)) = (parts.next(), parts.next()) else {
        return Err(usage("not of the form DEV:AT[:FSTYPE[:OPTIONS]]"));
    };
    let at = plan::place(at).map_err(|why| usage(&why))?;
    let source = Path::new(source).canonicalize().map_err(|e| usage(&format!("'{source}': {e}")))?;
    let block = source.metadata().is_ok_and(|m| m.file_type().is_block_device());
    if !block {
        return Err(usage("not a block device").hint("attach an image to one with 'losetup --find --show FILE'"));
    }
    let kind = match parts.next() {
        Some(kind) if !kind.is_empty() => kind.to_owned(),
        _ => probe_filesystem(&source)?,
    };
    let source = source.to_str().ok_or_else(|| usage("the path is not UTF-8"))?;
    let options = parts.next().map(|o| o.split(',').map(str::to_owned).collect());
    Ok(Mount { source: Some(source.to_owned()), options: options.unwrap_or_default(), ..Mount::new(&at, &kind, &[]) })
}

/// Asks blkid(8) for the kind of filesystem on a device.
fn probe_filesystem(device: &Path) -> Result<String, Failure> {
    let mut command = stage::child::command("blkid");
    command
        // Probe the device; do not use the host's cache.
        .args(["--probe", "--output", "value", "--match-tag", "TYPE"])
        .arg(device);
    rootfs::die_with_us(&mut command);
    let out = stage::child::output(&mut command)?;
    let kind = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    if !out.status.success() || kind.is_empty() {
        return Err(Failure::new(Code::Failed, format!("looking for a file system on {}: none found", quote(device)))
            .hint("give it: --device DEV:AT:FSTYPE"));
    }
    Ok(kind)
}
