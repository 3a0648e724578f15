//! A directory of the package cache, which is all of the host that pacman may write, for databases and configurations that are
//! made for one run. Its name is made of the root's identity. It is there only while this program runs, or after it was killed.

use crate::run::Pacman;
use stage::{Code, Doing, Failure, quote};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The directories in it: two as pacman has them in its `DBPath`, and one for files that are downloaded.
const DIRECTORIES: [&str; 3] = ["sync", "local", "files"];

/// How deep it is: the records of `local` are directories.
const DEPTH: u32 = 3;

/// The directory.
#[derive(Clone, Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Returns the one that is for this purpose, and for the root of this pacman.
    ///
    /// # Errors
    ///
    /// When the root cannot be identified.
    pub fn of(pacman: &Pacman<'_>, purpose: &str) -> Result<Self, Failure> {
        let id = pacman.inside.root().id()?;
        Ok(Self { path: pacman.cache.join(format!("{purpose}-{}-{}", id.dev, id.ino)) })
    }

    /// Returns where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it with these files, in place of what a run that was killed left.
    ///
    /// # Errors
    ///
    /// When it cannot be made; nothing of it is left then.
    pub fn make(&self, files: &[(String, Vec<u8>)]) -> Result<(), Failure> {
        self.clear()?;
        let make = || -> io::Result<()> {
            for directory in DIRECTORIES {
                std::fs::create_dir_all(self.path.join(directory))?;
            }
            for (name, bytes) in files {
                let path = self.path.join(name);
                path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
                std::fs::write(path, bytes)?;
            }
            Ok(())
        };
        let made = make().doing(Code::Os, || format!("making {}", quote(&self.path)));
        // The first failure is the one to report.
        made.inspect_err(|_| self.clear().unwrap_or_default())
    }

    /// Removes the directory, as deep as what is made here, and what pacman makes, can be.
    ///
    /// # Errors
    ///
    /// When something else is in it.
    pub fn clear(&self) -> Result<(), Failure> {
        gone(clear(&self.path, DEPTH)).doing(Code::Os, || format!("removing {}", quote(&self.path)))
    }
}

fn clear(directory: &Path, depth: u32) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true if depth > 1 => gone(clear(&entry.path(), depth - 1))?,
            true => {}
            false => gone(std::fs::remove_file(entry.path()))?,
        }
    }
    std::fs::remove_dir(directory)
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
