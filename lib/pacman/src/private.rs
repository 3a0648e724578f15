//! A copy of the root's databases that pacman may be led by and change, where the root's own are to stay as they are.

use crate::records::{LOCAL, SYNC, if_exists, names_in};
use crate::run::Pacman;
use crate::scratch::Scratch;
use crate::{conf, databases};
use package::db::{self, Entry};
use package::dbtar;
use rootfs::Root;
use stage::members::PlannedPackage;
use stage::{Code, Doing, Failure, quote};
use std::collections::BTreeSet;
use std::io::ErrorKind;

/// The longest database that is copied, and the longest record: of these a hostile root may have many.
const LIMIT: u64 = 256 << 20;
const RECORD: u64 = 1 << 20;

/// The copy, and a configuration that has it as its `DBPath`.
#[derive(Debug)]
pub struct PrivateDatabases {
    scratch: Scratch,
}

impl PrivateDatabases {
    /// Makes it. `own` are databases that the root does not have, by the names of their repositories.
    ///
    /// # Errors
    ///
    /// When a database cannot be read, or the copy cannot be made.
    pub fn make(pacman: &Pacman<'_>, own: &[(String, Vec<u8>)]) -> Result<Self, Failure> {
        let root = pacman.inside.root();
        let scratch = Scratch::of(pacman, "private")?;
        let text = stage::file::read_text(&pacman.config)?;
        let path = |_: &str| format!("{}/", scratch.path().display());
        let log = |_: &str| scratch.path().join("pacman.log").display().to_string();
        let config = conf::changed(&text, &[("DBPath", &path), ("LogFile", &log)]);
        let mut files = vec![("private.conf".to_owned(), config.into_bytes())];
        files.extend(own.iter().map(|(repo, bytes)| (format!("sync/{repo}.db"), bytes.clone())));
        for repo in pacman.repos.iter().filter(|repo| own.iter().all(|(own, _)| own != *repo)) {
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

    /// Makes the copy what it would be when `planned` is installed and `removed` is gone.
    ///
    /// # Errors
    ///
    /// When a database cannot be read, or the copy cannot be changed.
    pub fn install(&self, planned: &[PlannedPackage], removed: &[String]) -> Result<(), Failure> {
        let local = self.scratch.path().join("local");
        let doing = || format!("changing {}", quote(&local));
        let goes = |name: &str| removed.iter().any(|gone| gone == name) || planned.iter().any(|one| one.name == name);
        for record in std::fs::read_dir(&local).doing(Code::Os, doing)? {
            let record = record.doing(Code::Os, doing)?;
            let name = record.file_name().to_string_lossy().rsplitn(3, '-').nth(2).map(str::to_owned);
            if name.is_some_and(|name| goes(&name)) {
                for file in ["desc", "files"] {
                    match std::fs::remove_file(record.path().join(file)) {
                        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e).doing(Code::Os, doing),
                        _ => {}
                    }
                }
                std::fs::remove_dir(record.path()).doing(Code::Os, doing)?;
            }
        }
        let repos: BTreeSet<&String> = planned.iter().map(|one| &one.repo).collect();
        for repo in repos {
            let path = self.scratch.path().join("sync").join(format!("{repo}.db"));
            let doing = || format!("reading {}", quote(&path));
            let file = stage::file::open(&path).doing(Code::Failed, doing)?;
            let descs = dbtar::descs(file).doing(Code::Failed, doing)?;
            for one in planned.iter().filter(|one| one.repo == *repo) {
                let record = db::directory(&one.name, &one.version);
                // An entry in a directory of another name, which is odd: what it depends on is not looked at.
                let Some(desc) = descs.get(&record) else { continue };
                let at = local.join(&record);
                let made = std::fs::create_dir(&at)
                    .and_then(|()| std::fs::write(at.join("desc"), desc))
                    .and_then(|()| std::fs::write(at.join("files"), ""));
                made.doing(Code::Os, || format!("writing {}", quote(&at)))?;
            }
        }
        Ok(())
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
