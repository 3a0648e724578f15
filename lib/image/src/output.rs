//! The file that an image is written to: the user's own, outside of the root, there whole or not at all.
//!
//! It has no name until it is finished (`O_TMPFILE` of open(2)), so a program that is killed leaves nothing; what had the
//! name before stays until then. Where a file system cannot do that, it is `.NAME.part` until it is finished, and a later run
//! takes that over.

use rootfs::Root;
use rootfs::file::Placed;
use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, flock, fstat, fsync, ftruncate, linkat, openat, renameat, stat, statat,
    unlinkat,
};
use rustix::io::Errno;
use stage::{Code, Doing, Failure, quote};
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A file that is being written.
#[derive(Debug)]
pub struct Output {
    /// Its absolute path, which is UTF-8.
    pub path: PathBuf,
    directory: OwnedFd,
    name: String,
    /// The open file.
    pub file: File,
    /// Whether the file has the name of [`Output::part`] by now.
    named: bool,
}

impl Output {
    /// Begins it. `given` is what the command line says after `-o`.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] where it is `-`, not a regular file, or in the root.
    pub fn create(given: &Path, root: &Root) -> Result<Self, Failure> {
        let doing = || format!("writing {}", quote(given));
        let usage = |why: &str| Failure::new(Code::Usage, format!("{}: {why}", doing()));
        if given == Path::new("-") {
            let why = usage("stdout carries the document");
            return Err(why.hint("name a file: '-o image.tar.zst'; the document has its path"));
        }
        let path = resolve(given)?;
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(usage("not a file name"));
        };
        let (Some(_), Some(name)) = (path.to_str(), name.to_str()) else {
            return Err(usage("the path is not UTF-8"));
        };
        let id = root.id()?;
        for directory in above.ancestors() {
            let stat = stat(directory).doing(Code::Os, doing)?;
            if (stat.st_dev, stat.st_ino) == (id.dev, id.ino) {
                return Err(usage("the file is in the root").hint("name a file outside the root"));
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(above, flags, Mode::empty()).doing(Code::Os, doing)?;
        let name = name.to_owned();
        let begun = begin(&directory, &name);
        let (file, named) = begun.map_err(|e| explain(e, Code::Os, format!("writing {}", quote(&path))))?;
        Ok(Self { path, directory, name, file: file.into(), named })
    }

    /// Returns another file in its directory, without a name.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn scratch(&self) -> Result<File, Failure> {
        let name = format!("{}.scratch", self.name);
        let make = || {
            let (file, named) = begin(&self.directory, &name)?;
            if named {
                remove(&self.directory, &part(&name))?;
            }
            Ok(file.into())
        };
        make().map_err(|e: Errno| explain(e, Code::Os, format!("making a file beside {}", quote(&self.path))))
    }

    /// Gives it its name, once all of it is on the disk, and returns it.
    ///
    /// # Errors
    ///
    /// [`Code::Os`]; then nothing is left of it, and what had the name before has it still.
    pub fn finish(mut self) -> Result<Placed, Failure> {
        self.publish().map_err(|e| explain(e, Code::Os, format!("writing {}", quote(&self.path))))
    }

    fn publish(&mut self) -> Result<Placed, Errno> {
        fsync(&self.file)?;
        // Two runs that finish at once: linkat(2) cannot replace, so each needs the name in between for itself.
        flock(&self.directory, FlockOperation::LockExclusive)?;
        let part = part(&self.name);
        if !self.named {
            remove(&self.directory, &part)?;
            let file = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            linkat(rustix::fs::CWD, file, &self.directory, &part, AtFlags::SYMLINK_FOLLOW)?;
            self.named = true;
        }
        // Without our lock on it.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(&self.directory, ".", flags, Mode::empty())?;
        renameat(&self.directory, &part, &self.directory, &self.name)?;
        self.named = false;
        fsync(&self.directory)?;
        Placed::of(directory, &*self.name)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.named {
            // What cannot be removed now is taken over by the next run.
            remove(&self.directory, &part(&self.name)).unwrap_or_default();
        }
    }
}

/// Returns the absolute path of the file that a name means: where a link leads, or the name in its directory.
fn resolve(given: &Path) -> Result<PathBuf, Failure> {
    let doing = || format!("writing {}", quote(given));
    let usage = |why: &str| Failure::new(Code::Usage, format!("{}: {why}", doing()));
    match given.canonicalize() {
        Ok(path) => match path.metadata().doing(Code::Os, doing)? {
            meta if meta.is_dir() => Err(usage("it is a directory")),
            meta if !meta.is_file() => Err(usage("it is not a regular file")),
            _ => Ok(path),
        },
        Err(e) if e.kind() == ErrorKind::NotFound => {
            if given.is_symlink() {
                return Err(usage("it is a dangling symbolic link"));
            }
            let slash = given.as_os_str().as_bytes().ends_with(b"/");
            let name = given.file_name().filter(|_| !slash);
            let name = name.ok_or_else(|| usage("not a file name"))?;
            let above = given.parent().filter(|above| *above != Path::new("")).unwrap_or(Path::new("."));
            let absolute = above.canonicalize();
            let failed = |e| explain(e, Code::NotFound, format!("{}: {}", doing(), quote(above)));
            Ok(absolute.map_err(failed)?.join(name))
        }
        Err(e) => Err(explain(e, Code::Os, doing())),
    }
}

/// Opens a file without a name, or with the name in between where the file system has none such. Returns which.
fn begin(directory: &OwnedFd, name: &str) -> Result<(OwnedFd, bool), Errno> {
    let mode = Mode::from_raw_mode(0o666);
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match openat(directory, ".", flags | OFlags::TMPFILE, mode) {
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => {}
        result => return result.map(|file| (file, false)),
    }
    let flags = flags | OFlags::CREATE | OFlags::NOFOLLOW;
    let file = openat(directory, part(name), flags, mode)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    // Another run may have finished it meanwhile, and given it its name.
    let ours = fstat(&file)?;
    match statat(directory, part(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) if (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino) => {}
        Ok(_) | Err(Errno::NOENT) => return Err(Errno::WOULDBLOCK),
        Err(e) => return Err(e),
    }
    ftruncate(&file, 0)?;
    Ok((file, true))
}

/// Returns the name of the file while it is not finished.
fn part(name: &str) -> String {
    format!(".{name}.part")
}

fn remove(directory: &OwnedFd, name: &str) -> Result<(), Errno> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Returns the failure of a system call; `other` is the code where the error has none of its own.
fn explain(error: impl Into<std::io::Error>, other: Code, doing: String) -> Failure {
    let error = error.into();
    let of = |code| Failure::new(code, format!("{doing}: {error}"));
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => of(Code::Permission),
        ErrorKind::WouldBlock => of(Code::Busy).hint("wait until the other run that writes it has ended"),
        _ => of(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    struct Bench {
        directory: tempfile::TempDir,
        root: Root,
    }

    fn bench() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        fs::create_dir_all(path.join("root/etc")).unwrap();
        Bench { root: Root::open(&path.join("root")).unwrap(), directory }
    }

    impl Bench {
        fn at(&self, below: &str) -> PathBuf {
            self.directory.path().canonicalize().unwrap().join(below)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.directory.path()).unwrap();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }

        fn refused(&self, given: &str) -> Failure {
            Output::create(&self.at(given), &self.root).unwrap_err()
        }
    }

    #[test]
    fn a_file_has_its_name_when_it_is_whole_and_not_before() {
        let bench = bench();
        fs::write(bench.at("image"), "old").unwrap();
        fs::write(bench.at(".image.part"), "left by a run that was killed").unwrap();
        let output = Output::create(&bench.at("image"), &bench.root).unwrap();
        (&output.file).write_all(b"half").unwrap();
        drop(output);
        assert_eq!(fs::read(bench.at("image")).unwrap(), b"old");
        let output = Output::create(&bench.at("image"), &bench.root).unwrap();
        (&output.file).write_all(b"new").unwrap();
        output.finish().unwrap();
        assert_eq!(fs::read(bench.at("image")).unwrap(), b"new");
        assert_eq!(bench.names(), ["image", "root"]);
    }

    #[test]
    fn what_a_link_leads_to_is_replaced_and_the_link_stays() {
        let bench = bench();
        fs::write(bench.at("old"), "old").unwrap();
        symlink("old", bench.at("link")).unwrap();
        let output = Output::create(&bench.at("link"), &bench.root).unwrap();
        assert_eq!(output.path, bench.at("old"));
        output.finish().unwrap();
        assert_eq!(fs::read(bench.at("old")).unwrap(), b"");
        assert!(bench.at("link").is_symlink());
    }

    #[test]
    fn what_is_no_place_for_an_image_is_refused() {
        let bench = bench();
        symlink("root/etc", bench.at("into")).unwrap();
        symlink("nowhere", bench.at("dangling")).unwrap();
        for (given, why) in [
            ("root/x", "the file is in the root"),
            ("root/etc/x", "the file is in the root"),
            ("into/x", "the file is in the root"),
            ("root", "it is a directory"),
            ("new/", "not a file name"),
            ("dangling", "it is a dangling symbolic link"),
        ] {
            let failure = bench.refused(given);
            assert_eq!(failure.code, Code::Usage, "{failure}");
            assert!(failure.message.ends_with(why), "{failure}");
        }
        assert_eq!(bench.refused("none/x").code, Code::NotFound);
        for given in ["-", "/dev/null", "/dev/full"] {
            let failure = Output::create(Path::new(given), &bench.root).unwrap_err();
            assert_eq!(failure.code, Code::Usage, "{failure}");
        }
        assert_eq!(bench.names(), ["dangling", "into", "root"]);
    }
}
