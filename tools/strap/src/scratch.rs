//! A directory of the package cache, which is all of the host that pacman may write, for databases and configurations that are
//! made for one run. Its name is made of the root's identity. It is there only while this program runs, or after it was killed.

use pacman::Pacman;
use stage::{Code, Doing, Failure, quote};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The directories in it: two as pacman has them in its `DBPath`, and one for files that are downloaded.
const DIRECTORIES: [&str; 3] = ["sync", "local", "files"];

/// The directory.
#[derive(Clone, Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Returns the one that is for this purpose, and for the root of this pacman.
    ///
    /// # Errors
    ///
    /// When the root cannot be identified.
    pub(crate) fn of(pacman: &Pacman<'_>, purpose: &str) -> Result<Self, Failure> {
        let id = pacman.inside.root().id()?;
        Ok(Self { path: pacman.cache.join(format!("{purpose}-{}-{}", id.dev, id.ino)) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it with these files, in place of what a run that was killed left.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub(crate) fn make(&self, files: &[(String, Vec<u8>)]) -> Result<(), Failure> {
        self.clear()?;
        let make = || -> io::Result<()> {
            for directory in DIRECTORIES {
                std::fs::create_dir_all(self.path.join(directory))?;
            }
            files.iter().try_for_each(|(name, bytes)| std::fs::write(self.path.join(name), bytes))
        };
        make().doing(Code::Os, || format!("making {}", quote(&self.path)))
    }

    /// Removes the directory, by the names of what is made here, and of what pacman makes.
    ///
    /// # Errors
    ///
    /// When something else is in it.
    pub(crate) fn clear(&self) -> Result<(), Failure> {
        let gone = |result: io::Result<()>| match result {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        };
        let clear = |directory: &Path| -> io::Result<()> {
            for entry in std::fs::read_dir(directory)? {
                let entry = entry?;
                if !entry.file_type()?.is_dir() {
                    gone(std::fs::remove_file(entry.path()))?;
                }
            }
            std::fs::remove_dir(directory)
        };
        for directory in DIRECTORIES.into_iter().chain([""]) {
            let cleared = gone(clear(&self.path.join(directory)));
            cleared.doing(Code::Os, || format!("removing {}", quote(&self.path)))?;
        }
        Ok(())
    }
}
