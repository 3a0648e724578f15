//! From a list of servers, or the cache, to one package that is verified.
//!
//! Each server is asked for its own database, and then for the package that this database names: a mirror that is
//! behind has other versions. Where its package, signature or keys are not good, the next server is asked.

use crate::cache::{Cache, LARGEST_SIGNATURE, Origin, Package};
use crate::http::{Expected, HttpClient};
use crate::keyring::{self, Keyring, OTHER_KEYS, UNSIGNED, package_name};
use crate::server::Server;
use crate::verify::{Proof, Verified, Verifier, verify};
use package::db::{self, Database, Entry, Limits};
use stage::{Code, Context, Failure, quote, signal};
use std::path::PathBuf;
use std::time::Duration;

/// A database: Arch's extra has 8 MB.
const DATABASE: Expected = Expected { limit: 64 << 20, limit_reason: "that a database may have", size: None };

const SIGNATURE: Expected =
    Expected { limit: LARGEST_SIGNATURE, limit_reason: "that a signature may have", size: None };

/// The largest package: pacman-static has 8 MB.
const LARGEST_PACKAGE: u64 = 256 << 20;

/// A hint where the cache does not have all that is needed.
const ONLINE: &str = "run it once without --offline, or take the package by its hash alone with --unsigned";

/// Which package to fetch, and from where.
#[derive(Debug)]
pub(crate) struct Request {
    /// None: use the cache.
    pub(crate) servers: Option<Vec<Server>>,
    pub(crate) repo: String,
    pub(crate) package: String,
    pub(crate) member: String,
    /// The hash that the user knows.
    pub(crate) pin: Option<String>,
    /// The keys that may sign, and files that have them; None: no signature is required.
    pub(crate) signature: Option<(Vec<String>, Vec<PathBuf>)>,
    pub(crate) output: Option<PathBuf>,
    pub(crate) cache: PathBuf,
    pub(crate) timeout: Duration,
}

/// Fetches the package of a request.
#[derive(Debug)]
pub(crate) struct Fetcher<'a> {
    pub(crate) context: &'a Context,
    pub(crate) cache: &'a Cache,
    pub(crate) request: &'a Request,
    /// None where no signature is required.
    pub(crate) verifier: Option<&'a Verifier>,
    pub(crate) client: HttpClient<'a>,
}

impl Fetcher<'_> {
    /// Returns the package, from the first server that has a good one.
    pub(crate) fn fetch(&self, servers: &[Server]) -> Result<(Verified, Origin), Failure> {
        let mut failures = Vec::new();
        for server in servers {
            signal::check()?;
            match self.fetch_from(server) {
                Err(failure) if !is_ours(&failure) => {
                    if servers.len() > 1 {
                        self.context.warn(&failure.message);
                    }
                    failures.push(failure);
                }
                result => return result,
            }
        }
        // Of equal ones the first.
        let Some(mut worst) = failures.into_iter().rev().max_by_key(severity) else {
            return Err(Failure::new(Code::NotFound, "fetching: no server to ask"));
        };
        if servers.len() > 1 {
            worst = worst.while_doing(format_args!(
                "fetching package {} of {}: all of {} servers failed; the most severe failure",
                quote(&self.request.package),
                quote(&self.request.repo),
                servers.len()
            ));
        }
        let hint = match worst.code {
            Code::Network => "try again, or name another --server URL",
            Code::NotFound => "see --server, --repo and --package",
            Code::NotVerified => {
                "nothing of it was run; name another --server URL, or try again when the mirror has settled"
            }
            _ => return Err(worst),
        };
        worst.hint.get_or_insert_with(|| hint.to_owned());
        Err(worst)
    }

    /// Asks one server for all that is needed.
    fn fetch_from(&self, server: &Server) -> Result<(Verified, Origin), Failure> {
        let db = format!("{}.db", self.request.repo);
        let database = self.database(server, &db)?;
        let entry = find_entry(&database, &self.request.package).map_err(at(server, &db))?;
        // The signature and the keys come first, being small: where they are missing, the package is not downloaded.
        let (mut proof, mut keyring_origin) = (None, None);
        if let Some(verifier) = self.verifier {
            let signature = self.signature(server, entry)?;
            let keyring;
            (keyring, keyring_origin) = self.keyring(server, &database, &db, verifier)?;
            proof = Some(Proof { verifier, keyring, signature });
        }
        let at_file = at(server, &entry.filename);
        let sha256 = match &self.request.pin {
            Some(pin) => pin,
            None => expected_sha256(entry).map_err(&at_file)?,
        };
        let package = self.package(server, entry, sha256)?;
        let origin = self.origin(server, entry, sha256);
        let verified = self.verify(&package, proof, &origin).map_err(&at_file)?;
        self.cache.keep(package, sha256)?;
        // With the keys that it was verified by, it can be verified again without a server.
        if let Some(keyring) = keyring_origin
            && let Err(failure) = self.cache.record(&keyring, None)
        {
            self.context.warn(failure);
        }
        Ok((verified, origin))
    }

    fn verify(&self, package: &Package, proof: Option<Proof<'_>>, origin: &Origin) -> Result<Verified, Failure> {
        let identity = self.request.pin.is_none().then_some((&*origin.name, &*origin.version));
        verify(self.context, package, proof, identity)
    }

    fn origin(&self, server: &Server, entry: &Entry, sha256: &str) -> Origin {
        Origin {
            name: entry.name.clone(),
            version: entry.version.clone(),
            repo: self.request.repo.clone(),
            file: entry.filename.clone(),
            sha256: sha256.to_owned(),
            server: server.shown(),
            signed_by: None,
        }
    }

    /// Returns a package's signature: the one in the database, or else the file beside the package.
    fn signature(&self, server: &Server, entry: &Entry) -> Result<Vec<u8>, Failure> {
        if let Some(signature) = entry.signature() {
            return Ok(signature);
        }
        let file = format!("{}.sig", entry.filename);
        let result = self.client.download(&server.file(&file), SIGNATURE, None).map_err(|failure| match failure.code {
            Code::NotFound => {
                let why = format!("the package has no signature: {failure}, and the database has no %PGPSIG%");
                Failure::new(Code::NotVerified, why).hint(UNSIGNED)
            }
            _ => failure,
        });
        result.map_err(at(server, &file))
    }

    /// Returns the keys to check a signature with: the user's, or else those of the repository's keyring package, and the
    /// origin of that.
    fn keyring(
        &self,
        server: &Server,
        database: &Database,
        db: &str,
        verifier: &Verifier,
    ) -> Result<(Keyring, Option<Origin>), Failure> {
        if let Some(keyring) = &verifier.keyring {
            return Ok((keyring.clone(), None));
        }
        let repo = &self.request.repo;
        let name = package_name(repo);
        let Some(entry) = db::newest(&database.entries, &name) else {
            let why = format!("it has no package {}, from which the key of the signature is taken", quote(&name));
            let failure = Failure::new(Code::NotVerified, why).hint(OTHER_KEYS);
            return Err(at(server, db)(failure));
        };
        let at_file = at(server, &entry.filename);
        let sha256 = expected_sha256(entry).map_err(&at_file)?;
        let package = self.package(server, entry, sha256).map_err(|failure| match failure.code {
            Code::NotFound => failure.hint(OTHER_KEYS),
            _ => failure,
        })?;
        let keyring = keyring::from_package(self.context, &verifier.gpg, &package.file, repo).map_err(&at_file)?;
        self.cache.keep(package, sha256)?;
        Ok((keyring, Some(self.origin(server, entry, sha256))))
    }

    /// Downloads a server's database.
    fn database(&self, server: &Server, file: &str) -> Result<Database, Failure> {
        let bytes = self.client.download(&server.file(file), DATABASE, None);
        let database = bytes
            .and_then(|bytes| {
                let database = db::read(bytes.as_slice(), Limits::default());
                database.map_err(|e| Failure::new(Code::Failed, e))
            })
            .map_err(at(server, file))?;
        for odd in &database.odd {
            self.context.warn(format_args!("'{file}': {odd}: it is left out"));
        }
        Ok(database)
    }

    /// Returns the package of an entry, from the cache or the server.
    fn package(&self, server: &Server, entry: &Entry, sha256: &str) -> Result<Package, Failure> {
        if let Some(package) = self.cache.find(self.context, sha256)? {
            return Ok(package);
        }
        let (file, size) = (&entry.filename, entry.csize);
        let expected = Expected {
            limit: size.unwrap_or(LARGEST_PACKAGE).min(LARGEST_PACKAGE),
            limit_reason: "that the database promises",
            size,
        };
        let bytes = self.client.download(&server.file(file), expected, Some(file));
        bytes.and_then(|bytes| self.cache.add(&bytes, sha256)).map_err(at(server, file))
    }

    /// Returns the newest package in the cache, or the one with the hash that was asked for.
    pub(crate) fn fetch_cached(&self) -> Result<(Verified, Origin), Failure> {
        let (package, origin) = self.find_cached()?.ok_or_else(|| {
            let message = format!(
                "looking for package {} of {} in cache {}: it is not there",
                quote(&self.request.package),
                quote(&self.request.repo),
                quote(&self.request.cache)
            );
            Failure::new(Code::NotFound, message).hint("run it once without --offline")
        })?;
        let verified = self.verify_cached(&package, &origin).map_err(|failure| {
            if is_ours(&failure) {
                return failure;
            }
            let hint = failure.hint.clone().unwrap_or_else(|| ONLINE.to_owned());
            let doing = format!("checking {} in the cache", quote(&origin.file));
            failure.while_doing(doing).hint(hint)
        })?;
        Ok((verified, origin))
    }

    fn find_cached(&self) -> Result<Option<(Package, Origin)>, Failure> {
        loop {
            let origin = match &self.request.pin {
                Some(sha256) => self.cache.origin(sha256),
                None => self.cache.newest(&self.request.repo, &self.request.package)?,
            };
            let Some(origin) = origin else {
                return Ok(None);
            };
            match self.cache.find(self.context, &origin.sha256)? {
                Some(package) => return Ok(Some((package, origin))),
                None if self.request.pin.is_some() => return Ok(None),
                // It was damaged and is removed now: the next newest is as good.
                None => {}
            }
        }
    }

    /// Checks a package in the cache by the signature and the keys there.
    fn verify_cached(&self, package: &Package, origin: &Origin) -> Result<Verified, Failure> {
        let missing = |what: &str| Failure::new(Code::NotVerified, format!("{what} is not there"));
        let Some(verifier) = self.verifier else {
            return self.verify(package, None, origin);
        };
        let signature = self.cache.signature(&origin.sha256)?.ok_or_else(|| missing("its signature"))?;
        let keyring = match &verifier.keyring {
            Some(keyring) => keyring.clone(),
            None => {
                let repo = &self.request.repo;
                let name = package_name(repo);
                let keys = match self.cache.newest(repo, &name)? {
                    Some(origin) => self.cache.find(self.context, &origin.sha256)?,
                    None => None,
                };
                let keys = keys.ok_or_else(|| missing(&format!("package {}", quote(&name))))?;
                keyring::from_package(self.context, &verifier.gpg, &keys.file, repo)?
            }
        };
        let proof = Proof { verifier, keyring, signature };
        self.verify(package, Some(proof), origin)
    }
}

/// Returns the newest package of that name in a database.
fn find_entry<'a>(database: &'a Database, package: &str) -> Result<&'a Entry, Failure> {
    db::newest(&database.entries, package).ok_or_else(|| {
        let why = match database.odd.iter().find(|odd| odd.is_of(package)) {
            Some(odd) => odd.to_string(),
            None => format!("it has no package {}", quote(package)),
        };
        Failure::new(Code::NotFound, why)
    })
}

/// Returns the hash that the database has of a package.
fn expected_sha256(entry: &Entry) -> Result<&String, Failure> {
    entry.sha256.as_ref().ok_or_else(|| {
        Failure::new(Code::NotVerified, "the database has no %SHA256SUM% of it, and there is no --sha256")
    })
}

/// Puts the URL of a file before the failure of a server.
fn at(server: &Server, file: &str) -> impl Fn(Failure) -> Failure {
    let url = quote(format!("{}/{file}", server.shown()));
    move |failure| match is_ours(&failure) {
        true => failure,
        false => failure.while_doing(format_args!("fetching {url}")),
    }
}

/// Returns whether we failed, or this host, so that no other server helps.
fn is_ours(failure: &Failure) -> bool {
    matches!(failure.code, Code::Os | Code::ChildFailed | Code::Permission | Code::Interrupted)
}

/// Orders the failures of servers: what is wrong, what may be temporary, what is missing.
fn severity(failure: &Failure) -> u8 {
    match failure.code {
        Code::NotVerified => 3,
        Code::Network => 2,
        Code::NotFound => 0,
        _ => 1,
    }
}
