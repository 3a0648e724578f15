//! A copy of the root's databases that pacman may be led by and change, where the root's own are to stay as they are.

use crate::records::{LOCAL, SYNC, if_exists, names_in};
use crate::run::Pacman;
use crate::scratch::Scratch;
use crate::{conf, databases};
use package::db::{self, Entry};
use rootfs::Root;
use stage::{Code, Doing, Failure, quote};

/// The longest database that is copied, and the longest record: of these a hostile root may have many.
const LIMIT: u64 = 256 << 20;
const RECORD: u64 = 1 << 20;

/// The copy, and a configuration that has it as its `DBPath`.
#[derive(Debug)]
pub struct PrivateDatabases {
    scratch: Scratch,
}

impl PrivateDatabases {
    /// Makes it.
    ///
    /// # Errors
    ///
    /// When a database cannot be read, or the copy cannot be made.
    pub fn make(pacman: &Pacman<'_>) -> Result<Self, Failure> {
        let root = pacman.inside.root();
        let scratch = Scratch::of(pacman, "private")?;
        let text = stage::file::read_text(&pacman.config)?;
        let path = |_: &str| format!("{}/", scratch.path().display());
        let log = |_: &str| scratch.path().join("pacman.log").display().to_string();
        let config = conf::changed(&text, &[("DBPath", &path), ("LogFile", &log)]);
        let mut files = vec![("private.conf".to_owned(), config.into_bytes())];
        for repo in &pacman.repos {
            let before = files.len();
            for name in [format!("{repo}.db"), format!("{repo}.db.sig")] {
                copy(root, SYNC, &name, "sync", &mut files)?;
            }
            if files.len() == before {
                files.extend(databases::kept(pacman.cache, repo));
            }
        }
        for record in names_in(root, LOCAL)? {
            // `ALPM_DB_VERSION` is a file.
            let is_record = record.contains('-');
            let file = if is_record { format!("{record}/desc") } else { record.clone() };
            copy(root, LOCAL, &file, "local", &mut files)?;
            // To upgrade a package libalpm reads the list of its files, and an empty one does.
            if is_record {
                files.push((format!("local/{record}/files"), Vec::new()));
            }
        }
        scratch.make(&files)?;
        Ok(Self { scratch })
    }

    /// Returns a pacman that works by it.
    #[must_use]
    pub fn pacman<'a>(&self, pacman: &Pacman<'a>) -> Pacman<'a> {
        Pacman { config: self.scratch.path().join("private.conf"), ..pacman.clone() }
    }

    /// Returns what these repositories offer, in their order.
    ///
    /// # Errors
    ///
    /// When a database cannot be read.
    pub fn offered(&self, repos: &[String]) -> Result<Vec<(String, Entry)>, Failure> {
        let mut offered = Vec::new();
        for repo in repos {
            let path = self.scratch.path().join("sync").join(format!("{repo}.db"));
            let doing = || format!("reading {}", quote(&path));
            let file = stage::file::open(&path).doing(Code::Failed, doing)?;
            let database = db::read(file, db::Limits::default()).doing(Code::Failed, doing)?;
            offered.extend(database.entries.into_iter().map(|entry| (repo.clone(), entry)));
        }
        Ok(offered)
    }

    /// Removes it.
    ///
    /// # Errors
    ///
    /// As [`Scratch::clear`].
    pub fn clear(&self) -> Result<(), Failure> {
        self.scratch.clear()
    }
}

/// Reads a file of the root to be written into the scratch directory, where there is one.
fn copy(root: &Root, from: &str, name: &str, to: &str, files: &mut Vec<(String, Vec<u8>)>) -> Result<(), Failure> {
    let path = format!("{from}/{name}");
    let limit = if to == "local" { RECORD } else { LIMIT };
    let read = if_exists(root.read(&path, limit))
        .doing(Code::Failed, || format!("reading {}", quote(root.path().join(&path))))?;
    files.extend(read.map(|bytes| (format!("{to}/{name}"), bytes)));
    Ok(())
}
