//! From a list of servers to one package that is proven: next server, another try, and on from where it broke off.
//!
//! Each server is asked for its own database, and then for the package that this database names: a mirror that is
//! behind has other versions, and a package without the database that names it has nothing to be held against. The same
//! goes for the signature and the keys: a server that has bad ones is left for the next.

use crate::cache::{Cache, LARGEST_SIGNATURE, Origin, Part, Whole};
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
    fn bytes(&self) -> u64;
    fn reset(&mut self) -> Result<(), Failure>;
    fn put(&mut self, bytes: &[u8]) -> Result<(), Failure>;
    /// Whether it may be continued where it broke off: only what has a hash may be put together from parts.
    fn resumes(&self) -> bool;
    /// Whether it could be cut off, where the server does not say how long it is.
    fn cut_off(&mut self) -> bool {
        false
    }
}

impl Sink for Vec<u8> {
    fn bytes(&self) -> u64 {
        self.len() as u64
    }

    fn reset(&mut self) -> Result<(), Failure> {
        self.clear();
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn resumes(&self) -> bool {
        false
    }
}

/// A part of a package, and how long the whole is, if the database says so.
struct Packed<'a> {
    part: &'a mut Part,
    size: Option<u64>,
}

impl Sink for Packed<'_> {
    fn bytes(&self) -> u64 {
        self.part.bytes()
    }

    fn reset(&mut self) -> Result<(), Failure> {
        self.part.reset()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.part.put(bytes)
    }

    fn resumes(&self) -> bool {
        true
    }

    fn cut_off(&mut self) -> bool {
        self.size.is_some_and(|size| self.part.bytes() < size) && self.part.no_archive().is_none()
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
    /// Whether it takes long enough for a progress bar; and how large it is, where that is known.
    bar: Option<(String, Option<u64>)>,
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
    pub(crate) fn fetch(&mut self, wanted: &Wanted<'_>) -> Result<(Verified, Origin), Failure> {
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
                failure.hint("try again: what has arrived is kept; or name another --server URL")
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
        &mut self,
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
        let (whole, part) = self.package(server, &entry, sha256).map_err(in_package)?;
        let meant = (entry.name.as_str(), entry.version.as_str());
        let meant = wanted.pin.is_none().then_some(meant);
        let verified = verify::package(self.context, whole, sha256, evidence, meant);
        let verified = self.keep_if(verified, part).map_err(in_package)?;
        // With the keys that it was verified by, it can be verified again without a server.
        if let Some(keyring) = &keyring
            && let Err(failure) = self.cache.note(keyring, None)
        {
            self.context.warn(failure);
        }
        Ok((verified, origin(&entry, wanted.repo, sha256, server)))
    }

    /// Keeps what was downloaded if what was made of it is good; else nothing of it stays.
    fn keep_if<T>(&self, made: Result<T, Stop>, part: Option<Part>) -> Result<T, Stop> {
        match part {
            Some(part) if made.is_ok() => self.cache.keep(part)?,
            Some(mut part) => part.reset()?,
            None => {}
        }
        made
    }

    /// Returns a package's signature: the database's copy, or else the file beside the package.
    fn signature(&mut self, server: &Server, entry: &Entry) -> Result<Vec<u8>, (String, Stop)> {
        if let Some(signature) = entry.signature() {
            return Ok(signature);
        }
        let file = format!("{}.sig", entry.filename);
        let mut bytes = Vec::new();
        let limit = Limit {
            bytes: LARGEST_SIGNATURE,
            why: "that a signature may have",
            bar: None,
        };
        match self.download(&server.file(&file), &mut bytes, &limit) {
            Ok(_) => Ok(bytes),
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
        &mut self,
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
        let (whole, part) = self.package(server, entry, sha256).map_err(in_package)?;
        let ring = Ring::of_package(self.context, &judge.gpg, &whole.file, repo);
        let ring = self.keep_if(ring, part).map_err(in_package)?;
        Ok((ring, Some(origin(entry, repo, sha256, server))))
    }

    /// Asks a server for its database.
    fn database(&mut self, server: &Server, file: &str) -> Result<Database, Stop> {
        let mut bytes = Vec::new();
        let limit = Limit {
            bytes: LARGEST_DB,
            why: "that a database may have",
            bar: None,
        };
        self.download(&server.file(file), &mut bytes, &limit)?;
        let database = db::read(bytes.as_slice(), Limits::default())
            .map_err(|e| Fault::new(Code::Failed, e.to_string()))?;
        for odd in &database.odd {
            self.context
                .warn(format_args!("'{file}': {odd}: it is left out"));
        }
        Ok(database)
    }

    /// Returns the package of an entry, its hash being right, from the cache if it is there; else with the part that it
    /// is, to be kept if all else is right too.
    fn package(
        &mut self,
        server: &Server,
        entry: &Entry,
        sha256: &str,
    ) -> Result<(Whole, Option<Part>), Stop> {
        if let Some(whole) = self.cache.find(self.context, sha256)? {
            return Ok((whole, None));
        }
        let mut part = self.cache.part(self.context, sha256)?;
        // The run that had the part may have completed it while we waited.
        if let Some(whole) = self.cache.find(self.context, sha256)? {
            return Ok((whole, None));
        }
        let limit = Limit {
            bytes: entry.csize.unwrap_or(LARGEST_PACKAGE).min(LARGEST_PACKAGE),
            why: "that the database promises",
            bar: Some((entry.filename.clone(), entry.csize)),
        };
        if part.bytes() > limit.bytes {
            part.reset()?;
        }
        let url = server.file(&entry.filename);
        let mut tries = 0;
        while part.sha256() != sha256 {
            // A part that is as long as the whole and is not it has nothing to be continued.
            if entry.csize == Some(part.bytes()) {
                part.reset()?;
            }
            tries += 1;
            let mut sink = Packed {
                part: &mut part,
                size: entry.csize,
            };
            let pieced = self.download(&url, &mut sink, &limit)?;
            let is = part.sha256();
            if is == sha256 {
                break;
            }
            let why = part
                .no_archive()
                .unwrap_or_else(|| verify::differs(&is, sha256));
            part.reset()?;
            // The first half may be of another run, or of another server, and wrong: then the second cannot mend it.
            if !pieced || tries > 1 {
                return Err(Fault::new(Code::NotVerified, why).into());
            }
        }
        Ok((part.whole()?, Some(part)))
    }

    /// Downloads a file, with as many tries as it is worth. Returns whether it is of several pieces.
    fn download(&mut self, url: &str, to: &mut dyn Sink, limit: &Limit) -> Result<bool, Stop> {
        let mut validator = None;
        let mut pauses = PAUSES.iter();
        let mut pieced = false;
        loop {
            let stop = match self.attempt(url, to, limit, &mut validator, &mut pieced) {
                Ok(()) => return Ok(pieced),
                Err(stop) => stop,
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

    /// Tries once to download a file, or what is missing of it.
    fn attempt(
        &mut self,
        url: &str,
        to: &mut dyn Sink,
        limit: &Limit,
        validator: &mut Option<String>,
        pieced: &mut bool,
    ) -> Result<(), Stop> {
        if !to.resumes() {
            to.reset()?;
        }
        let from = to.bytes();
        let (head, mut transfer) = self.asker.get(url, from, validator.as_deref())?;
        match head.status {
            206 if head.start == from && from > 0 => *pieced = true,
            // A server that cannot send parts, or whose file is another one by now, sends all of it.
            200 => {
                *pieced = false;
                to.reset()?;
            }
            // It has no more than we have, and that is not the whole: another file.
            206 | 416 => {
                to.reset()?;
                return Err(
                    Fault::new(Code::Network, "it sent another part than asked for")
                        .again()
                        .into(),
                );
            }
            status => {
                let fault = Fault::new(
                    match status {
                        404 | 410 => Code::NotFound,
                        408 | 425 | 429 | 500.. => Code::Network,
                        _ => Code::Failed,
                    },
                    format!("HTTP status {}", head.words),
                );
                return Err(match status {
                    408 | 425 | 429 | 500 | 502..=504 => fault.again(),
                    _ => fault,
                }
                .into());
            }
        }
        *validator = head.validator;
        let room = limit.bytes.saturating_sub(to.bytes());
        if head.length.is_some_and(|length| length > room) {
            to.reset()?;
            return Err(too_large(limit).into());
        }
        let bar = self.bar(limit, to.bytes());
        while let Some(piece) = transfer.next()? {
            if to.bytes() == 0 && is_web_page(&piece) {
                return Err(Fault::new(Code::Network, "a web page came in its place")
                    .hint(page::HINT)
                    .into());
            }
            if to.bytes() + piece.len() as u64 > limit.bytes {
                to.reset()?;
                return Err(too_large(limit).into());
            }
            to.put(&piece)?;
            bar.set_position(to.bytes());
        }
        bar.finish_and_clear();
        if head.length.is_none() && to.cut_off() {
            let why = format!("the connection ended after {} bytes", to.bytes());
            return Err(Fault::new(Code::Network, why).again().into());
        }
        Ok(())
    }

    /// Returns a progress bar. It draws on a terminal only, and clears itself away when it is dropped.
    fn bar(&self, limit: &Limit, from: u64) -> ProgressBar {
        let Some((name, size)) = limit.bar.as_ref().filter(|_| !self.context.quiet) else {
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
        bar.set_position(from);
        bar.reset_eta();
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
    }
}

fn too_large(limit: &Limit) -> Fault {
    Fault::new(
        Code::NotVerified,
        format!("larger than the {} bytes {}", limit.bytes, limit.why),
    )
}
