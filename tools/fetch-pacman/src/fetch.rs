//! From a list of servers to one package that is proven: the next server, and another try at the same.
//!
//! Each server is asked for its own database, and then for the package that this database names: a mirror that is
//! behind has other versions, and a package without the database that names it has nothing to be held against. The same
//! goes for the signature and the keys: a server that has bad ones is left for the next.

use crate::cache::{Cache, Download, LARGEST_SIGNATURE, Origin, Whole};
use crate::client::Asker;
use crate::fault::{Fault, Stop};
use crate::ring::{self, Ring};
use crate::server::Server;
use crate::verify::{self, Evidence, Judge, Proof, Verified};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use package::db::{self, Database, Entry, Limits};
use package::page::{self, is_web_page};
use stage::{Code, Context, Failure, quote, signal};
use std::time::Duration;

/// How long to wait before each further try at the same server.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// The largest database: Arch's extra has 8 MB.
const LARGEST_DB: u64 = 64 << 20;

/// The largest package where the database does not say: pacman-static has 8 MB.
const LARGEST_PACKAGE: u64 = 256 << 20;

/// What to fetch.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) servers: &'a [Server],
    pub(crate) repo: &'a str,
    pub(crate) package: &'a str,
    /// The hash to hold the package against instead of the database's.
    pub(crate) pin: Option<&'a str>,
    /// What to ask of it beside its hash.
    pub(crate) proof: &'a Proof,
}

/// Something that a download goes into.
trait Sink {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Failure>;
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

impl Sink for Download {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Self::put(self, bytes)
    }
}

/// Fetches databases and packages.
#[derive(Debug)]
pub(crate) struct Fetcher<'a> {
    context: &'a Context,
    cache: &'a Cache,
    asker: Asker<'a>,
}

/// What one download may be, and how it is shown.
struct Limit {
    bytes: u64,
    why: &'static str,
    /// Of a package: its file name, and its size where that is known. It takes long enough for a progress bar.
    package: Option<(String, Option<u64>)>,
}

impl<'a> Fetcher<'a> {
    pub(crate) fn new(context: &'a Context, cache: &'a Cache, timeout: Duration) -> Self {
        Self {
            context,
            cache,
            asker: Asker::new(context, timeout),
        }
    }

    /// Returns a package that is proven, from the first server that has one, or from the cache.
    pub(crate) fn fetch(&self, wanted: &Wanted<'_>) -> Result<(Verified, Origin), Failure> {
        let mut worst: Option<Fault> = None;
        let mut last = String::new();
        for server in wanted.servers {
            signal::check()?;
            let (file, fault) = match self.ask(server, wanted) {
                Ok(found) => return Ok(found),
                Err((_, Stop::Own(failure))) => return Err(failure),
                Err((file, Stop::Server(fault))) => (file, fault),
            };
            let url = quote(format!("{}/{file}", server.shown()));
            last = format!("fetching {url}: {}", fault.reason);
            if wanted.servers.len() > 1 {
                self.context.warn(&last);
            }
            if worst
                .as_ref()
                .is_none_or(|worst| fault.weight() > worst.weight())
            {
                worst = Some(fault);
            }
        }
        let Some(worst) = worst else {
            return Err(Failure::new(Code::NotFound, "fetching: no server to ask"));
        };
        let message = match wanted.servers.len() {
            1 => last,
            n => format!(
                "fetching package {} of {}: all of {n} servers failed; the gravest: {}",
                quote(wanted.package),
                quote(wanted.repo),
                worst.reason
            ),
        };
        let failure = Failure::new(worst.code, message);
        if let Some(hint) = worst.hint {
            return Err(failure.hint(hint));
        }
        Err(match worst.code {
            Code::Network => {
                failure.hint("try again, or name another --server URL")
            }
            Code::NotFound => failure.hint("see --server, --repo and --package"),
            Code::NotVerified => failure.hint(
                "nothing of it was run; name another --server URL, or try again when the mirror has settled",
            ),
            _ => failure,
        })
    }

    /// Asks one server for all that is needed. An error comes with the file that was asked for.
    fn ask(
        &self,
        server: &Server,
        wanted: &Wanted<'_>,
    ) -> Result<(Verified, Origin), (String, Stop)> {
        let db = format!("{}.db", wanted.repo);
        let found = self.database(server, &db).and_then(|database| {
            let entry = db::newest(&database.entries, wanted.package).cloned();
            let entry = entry.ok_or_else(|| {
                let is_of = |odd: &&db::Odd| odd.is_of(wanted.package);
                let why = match database.odd.iter().find(is_of) {
                    Some(odd) => odd.to_string(),
                    None => format!("it has no package {}", quote(wanted.package)),
                };
                Fault::new(Code::NotFound, why)
            })?;
            Ok((database.entries, entry))
        });
        let (entries, entry) = found.map_err(|stop| (db, stop))?;
        let file = entry.filename.clone();
        let in_package = |stop| (file.clone(), stop);

        // What proves comes first, being small: where it is missing, the package is not fetched at all.
        let (evidence, keyring) = match wanted.proof {
            Proof::Sha256 => (Evidence::Sha256, None),
            Proof::Hash => (Evidence::Hash, None),
            Proof::Signature(judge) => {
                let signature = self.signature(server, &entry)?;
                let (ring, from) = self.ring(server, &entries, judge, wanted.repo)?;
                (Evidence::Signature(judge, signature, ring), from)
            }
        };
        let sha256 = match wanted.pin {
            Some(pin) => pin,
            None => promised(&entry).map_err(in_package)?,
        };
        let (whole, new) = self.package(server, &entry, sha256).map_err(in_package)?;
        let meant = (entry.name.as_str(), entry.version.as_str());
        let meant = wanted.pin.is_none().then_some(meant);
        let verified = verify::package(self.context, whole, sha256, evidence, meant);
        let verified = verified.map_err(in_package)?;
        self.keep(new, sha256).map_err(in_package)?;
        // With the keys that it was verified by, it can be verified again without a server.
        if let Some(keyring) = &keyring
            && let Err(failure) = self.cache.note(keyring, None)
        {
            self.context.warn(failure);
        }
        Ok((verified, origin(&entry, wanted.repo, sha256, server)))
    }

    /// Keeps a package that was downloaded, now that it is known to be good.
    fn keep(&self, new: Option<Download>, sha256: &str) -> Result<(), Stop> {
        match new {
            Some(download) => Ok(self.cache.keep(download, sha256)?),
            None => Ok(()),
        }
    }

    /// Returns a package's signature: the database's copy, or else the file beside the package.
    fn signature(&self, server: &Server, entry: &Entry) -> Result<Vec<u8>, (String, Stop)> {
        if let Some(signature) = entry.signature() {
            return Ok(signature);
        }
        let file = format!("{}.sig", entry.filename);
        let limit = Limit {
            bytes: LARGEST_SIGNATURE,
            why: "that a signature may have",
            package: None,
        };
        match self.download(&server.file(&file), &limit, &|| Ok(Vec::new())) {
            Ok(bytes) => Ok(bytes),
            Err(Stop::Server(fault)) if fault.code == Code::NotFound => {
                let why = format!(
                    "the package has no signature: {}, and the database has no %PGPSIG%",
                    fault.reason
                );
                let fault = Fault::new(Code::NotVerified, why).hint(UNSIGNED);
                Err((file, fault.into()))
            }
            Err(stop) => Err((file, stop)),
        }
    }

    /// Returns the keys to check a signature with: the user's, or else those of the keyring package of the repository,
    /// and what that is.
    fn ring(
        &self,
        server: &Server,
        entries: &[Entry],
        judge: &Judge,
        repo: &str,
    ) -> Result<(Ring, Option<Origin>), (String, Stop)> {
        if let Some(ring) = &judge.ring {
            return Ok((ring.clone(), None));
        }
        let name = ring::package(repo);
        let Some(entry) = db::newest(entries, &name) else {
            let why = format!(
                "it has no package {}, from which the key of the signature is taken",
                quote(&name)
            );
            let fault = Fault::new(Code::NotVerified, why).hint(ring::INSTEAD);
            return Err((format!("{repo}.db"), fault.into()));
        };
        let in_package = |stop| match stop {
            Stop::Server(fault) if fault.code == Code::NotFound => {
                (entry.filename.clone(), fault.hint(ring::INSTEAD).into())
            }
            stop => (entry.filename.clone(), stop),
        };
        let sha256 = promised(entry).map_err(in_package)?;
        let (whole, new) = self.package(server, entry, sha256).map_err(in_package)?;
        let ring = Ring::of_package(self.context, &judge.gpg, &whole.file, repo);
        let ring = ring.map_err(in_package)?;
        self.keep(new, sha256).map_err(in_package)?;
        Ok((ring, Some(origin(entry, repo, sha256, server))))
    }

    /// Asks a server for its database.
    fn database(&self, server: &Server, file: &str) -> Result<Database, Stop> {
        let limit = Limit {
            bytes: LARGEST_DB,
            why: "that a database may have",
            package: None,
        };
        let bytes = self.download(&server.file(file), &limit, &|| Ok(Vec::new()))?;
        let database = db::read(bytes.as_slice(), Limits::default())
            .map_err(|e| Fault::new(Code::Failed, e.to_string()))?;
        for odd in &database.odd {
            self.context
                .warn(format_args!("'{file}': {odd}: it is left out"));
        }
        Ok(database)
    }

    /// Returns the package of an entry, its hash being right: from the cache if it is there, else as a download, to be kept
    /// if all else is right too.
    fn package(
        &self,
        server: &Server,
        entry: &Entry,
        sha256: &str,
    ) -> Result<(Whole, Option<Download>), Stop> {
        if let Some(whole) = self.cache.find(self.context, sha256)? {
            return Ok((whole, None));
        }
        let limit = Limit {
            bytes: entry.csize.unwrap_or(LARGEST_PACKAGE).min(LARGEST_PACKAGE),
            why: "that the database promises",
            package: Some((entry.filename.clone(), entry.csize)),
        };
        let url = server.file(&entry.filename);
        let download = self.download(&url, &limit, &|| self.cache.download())?;
        let whole = download.whole()?;
        if whole.sha256 != sha256 {
            let why = match package::decompress::reader(&whole.file) {
                Err(e) => e.to_string(),
                Ok(_) => verify::differs(&whole.sha256, sha256),
            };
            return Err(Fault::new(Code::NotVerified, why).into());
        }
        Ok((whole, Some(download)))
    }

    /// Downloads a file, with as many tries as it is worth. Each begins with an empty `W`.
    fn download<W: Sink>(
        &self,
        url: &str,
        limit: &Limit,
        new: &dyn Fn() -> Result<W, Failure>,
    ) -> Result<W, Stop> {
        let mut pauses = PAUSES.iter();
        loop {
            let stop = match self.attempt(url, limit, new()?) {
                Err(stop) => stop,
                done => return done,
            };
            match (&stop, pauses.next()) {
                (Stop::Server(fault), Some(pause)) if fault.again => {
                    self.context.note(format_args!(
                        "fetching {}: {}: trying again",
                        quote(crate::server::shown(url)),
                        fault.reason
                    ));
                    signal::wait(*pause)?;
                }
                _ => return Err(stop),
            }
        }
    }

    /// Tries once to download a file.
    fn attempt<W: Sink>(&self, url: &str, limit: &Limit, mut to: W) -> Result<W, Stop> {
        let (head, mut transfer) = self.asker.get(url)?;
        if head.status != 200 {
            let why = format!("HTTP status {}", head.words);
            return Err(match head.status {
                404 | 410 => Fault::new(Code::NotFound, why),
                408 | 425 | 429 | 500 | 502..=504 => Fault::new(Code::Network, why).again(),
                501 | 505.. => Fault::new(Code::Network, why),
                _ => Fault::new(Code::Failed, why),
            }
            .into());
        }
        if head.length.is_some_and(|length| length > limit.bytes) {
            return Err(too_large(limit).into());
        }
        let bar = self.bar(limit);
        let mut bytes = 0;
        while let Some(piece) = transfer.next()? {
            if bytes == 0 && is_web_page(&piece) {
                return Err(Fault::new(Code::Network, "a web page came in its place")
                    .hint(page::HINT)
                    .into());
            }
            bytes += piece.len() as u64;
            if bytes > limit.bytes {
                return Err(too_large(limit).into());
            }
            to.put(&piece)?;
            bar.set_position(bytes);
        }
        bar.finish_and_clear();
        let size = limit.package.as_ref().and_then(|(_, size)| *size);
        if head.length.is_none() && size.is_some_and(|size| bytes < size) {
            let why = format!("the connection ended after {bytes} bytes");
            return Err(Fault::new(Code::Network, why).again().into());
        }
        Ok(to)
    }

    /// Returns a progress bar. It draws on a terminal only, and clears itself away when it is dropped.
    fn bar(&self, limit: &Limit) -> ProgressBar {
        let Some((name, size)) = limit.package.as_ref().filter(|_| !self.context.quiet) else {
            return ProgressBar::hidden();
        };
        let bar = match size {
            Some(size) => ProgressBar::new(*size),
            None => ProgressBar::no_length(),
        };
        bar.set_draw_target(ProgressDrawTarget::stderr());
        let template = match size {
            Some(_) => "{msg} {bar:20} {bytes}/{total_bytes} {bytes_per_sec} {eta} left",
            None => "{msg} {bytes} {bytes_per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(name.clone());
        bar.with_finish(indicatif::ProgressFinish::AndClear)
    }
}

/// What permits a package without a signature.
const UNSIGNED: &str =
    "name another --server URL, or take the package by its hash alone with --unsigned";

/// Returns the hash that the database has for a package.
fn promised(entry: &Entry) -> Result<&str, Stop> {
    entry.sha256.as_deref().ok_or_else(|| {
        let why = "the database has no %SHA256SUM% to hold it against, and there is no --sha256";
        Fault::new(Code::NotVerified, why).into()
    })
}

/// Returns what a package is, as the database says.
fn origin(entry: &Entry, repo: &str, sha256: &str, server: &Server) -> Origin {
    Origin {
        name: entry.name.clone(),
        version: entry.version.clone(),
        repo: repo.to_owned(),
        file: entry.filename.clone(),
        sha256: sha256.to_owned(),
        server: server.shown(),
        signed_by: None,
    }
}

fn too_large(limit: &Limit) -> Fault {
    Fault::new(
        Code::NotVerified,
        format!("larger than the {} bytes {}", limit.bytes, limit.why),
    )
}
