//! `fetch-pacman`: downloads a static pacman for this host, and verifies it before it runs.
//!
//! The usual one-liner, `wget | tar -xO | install`, leaves an empty executable and exit status 0 when the file has
//! another compression than last month, and runs as root whatever a mirror sent. Here a package is found in the
//! repository's database, its hash is compared, its signature checked by a pinned key, and only then is the program in it made
//! executable.

mod cache;
mod draft;
mod fetch;
mod http;
mod keyring;
mod program;
mod server;
mod verify;

use cache::{Cache, Origin};
use fetch::{Fetcher, Request};
use http::HttpClient;
use keyring::Keyring;
use program::Program;
use rootfs::file::Placed;
use rustix::fs::{Mode, OFlags};
use server::Server;
use stage::members::Pacman;
use stage::{Code, Common, Context, Document, Doing, Failure, Kind, Stage, quote};
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use verify::Verifier;

/// Download and verify a static pacman for this host
///
/// Options that are not given are taken from the preset of the document's distribution.
#[derive(Debug, clap::Parser)]
#[command(
    name = "fetch-pacman",
    version,
    after_help = "Example: mkroot target --arch aarch64 --distro archlinuxarm | fetch-pacman | mkconf"
)]
struct FetchPacman {
    /// Search the repository NAME
    #[arg(long, value_name = "NAME", value_parser = checked(distro::check::repo))]
    repo: Option<String>,

    /// Download from URL, with $repo and $arch replaced; several are tried in order
    #[arg(long = "server", value_name = "URL", value_parser = checked(distro::check::url))]
    servers: Vec<String>,

    /// Fetch the newest package NAME
    #[arg(long, value_name = "NAME", value_parser = package_name)]
    package: Option<String>,

    /// Extract the file PATH of the package
    #[arg(long, value_name = "PATH", value_parser = member)]
    member: Option<String>,

    /// Write the program to FILE, not to the cache
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Use the cache DIR, not ~/.cache/strapline (as root: /var/cache/strapline)
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,

    /// Trust this key, in addition to those of the distribution
    #[arg(long, value_name = "FINGERPRINT", value_parser = fingerprint)]
    trust: Vec<String>,

    /// Read the keys from FILE, not from the repository's keyring package
    #[arg(long, value_name = "FILE")]
    keyring: Vec<PathBuf>,

    /// Require this SHA-256 of the package, and no signature
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    sha256: Option<String>,

    /// Require no signature: trust the hash in the repository's database
    #[arg(long, conflicts_with_all = ["trust", "keyring"])]
    unsigned: bool,

    /// Use the newest package in the cache, without the network
    #[arg(long)]
    offline: bool,

    /// Use FILE, a pacman that is already installed
    #[arg(
        long = "use",
        value_name = "FILE",
        conflicts_with_all = ["repo", "servers", "package", "member", "output", "cache_dir", "trust", "keyring", "sha256", "unsigned", "offline"]
    )]
    existing: Option<PathBuf>,

    /// Abort a download after SECONDS without data
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86400))]
    timeout: u64,

    #[command(flatten)]
    common: Common,
}

impl Stage for FetchPacman {
    const KIND: Kind = Kind::Start;

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, context: &Context, document: &mut Document) -> Result<(), Failure> {
        let (program, trust, package) = match &self.existing {
            Some(path) => (program::inspect(context, &resolve(path)?)?, "host", None),
            None => {
                let request = self.request(document)?;
                check(&request)?;
                let (program, trust, package) = fetch(context, &request)?;
                (program, trust, Some(package))
            }
        };
        let Program { path, version, sha256, new } = program;
        if let Some(output) = self.output.as_ref().filter(|_| new) {
            find_placed(&path)?.remove_on_undo(context, output);
        }
        context.note(format_args!("pacman {version} in {}", quote(&path)));
        // In place of an earlier one. Members of others stay.
        document.write(&Pacman { path, version, sha256, trust: trust.to_owned(), package });
        Ok(())
    }
}

/// Returns the file that was put at this path, for undo.
fn find_placed(path: &Path) -> Result<Placed, Failure> {
    let above = path.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(above, flags, Mode::empty())
        .and_then(|directory| Placed::of(directory, path.file_name().unwrap_or_default()))
        .doing(Code::Os, || format!("opening {}", quote(path)))
}

impl FetchPacman {
    /// Decides what to fetch, by the command line, and by the preset of the document's distribution.
    fn request(&self, document: &Document) -> Result<Request, Failure> {
        let preset = server::preset(document.distro())?;
        let source = &preset.pacman;
        let arch = server::pacman_arch(std::env::consts::ARCH);
        let repo = self.repo.as_ref().unwrap_or(&source.repo);
        let urls = match self.servers.as_slice() {
            _ if self.offline => None,
            [] => Some(server::servers(&preset, arch)?),
            given => Some(given),
        };
        let env = |name| std::env::var_os(name).map(PathBuf::from);
        let cache = match &self.cache_dir {
            Some(dir) => dir.clone(),
            None => cache::default_dir(nix::unistd::geteuid().is_root(), env("XDG_CACHE_HOME"), env("HOME"))?,
        };
        // A hash that the user knows proves all that a signature could; with options for both, both are checked.
        let names_keys = !self.trust.is_empty() || !self.keyring.is_empty();
        let unsigned = self.unsigned || (self.sha256.is_some() && !names_keys);
        let pinned = source.trusted.iter().map(|pin| &pin.fingerprint);
        let pins = pinned.chain(&self.trust).cloned().collect();
        Ok(Request {
            servers: urls.map(|urls| urls.iter().map(|url| Server::expand(url, repo, arch)).collect()),
            repo: repo.clone(),
            package: self.package.as_ref().unwrap_or(&source.package).clone(),
            member: self.member.as_ref().unwrap_or(&source.member).clone(),
            pin: self.sha256.clone(),
            signature: (!unsigned).then(|| (pins, self.keyring.clone())),
            output: self.output.as_deref().map(resolve).transpose()?,
            cache: std::path::absolute(&cache).doing(Code::Os, || "choosing a cache")?,
            timeout: Duration::from_secs(self.timeout),
        })
    }
}

/// Checks that it can be done, before anything is changed.
fn check(request: &Request) -> Result<(), Failure> {
    if let Some((pins, _)) = &request.signature
        && pins.is_empty()
    {
        let package = quote(&request.package);
        let message = format!("checking package {package}: no key is pinned that may sign it");
        return Err(Failure::new(Code::NotVerified, message)
            .hint("name one with --trust FINGERPRINT, or take the package by its hash alone with --unsigned"));
    }
    if let Some(output) = &request.output
        && std::fs::symlink_metadata(output).is_ok_and(|meta| !meta.is_file() && !meta.is_symlink())
    {
        let message = format!("writing {}: it exists and is not a regular file", quote(output));
        return Err(
            Failure::new(Code::Usage, message).hint("give -o the path of the program itself, such as DIR/pacman")
        );
    }
    Ok(())
}

/// Fetches a package, and extracts the program where that has not been done yet. Returns the program, what it was checked by
/// as the document has it, and the package.
fn fetch(context: &Context, request: &Request) -> Result<(Program, &'static str, Origin), Failure> {
    let verifier = make_verifier(context, request)?;
    let cache = Cache::open(&request.cache)?;
    let fetcher = Fetcher {
        context,
        cache: &cache,
        request,
        verifier: verifier.as_ref(),
        client: HttpClient { context, timeout: request.timeout, client: OnceCell::new() },
    };
    let (verified, origin) = match &request.servers {
        None => fetcher.fetch_cached()?,
        Some(servers) => fetcher.fetch(servers)?,
    };
    let signature = verified.signature.clone();
    let name = request.member.rsplit('/').next().unwrap_or(&request.member);
    let to = match &request.output {
        Some(path) => path.clone(),
        None => cache.directory(&format!("pacman/{}", origin.sha256))?.join(name),
    };
    // Decompressing takes longer than all the rest.
    let reused = match cache.member(&origin.sha256, &request.member) {
        Some(sha256) => program::reuse(context, &verified, &to, &sha256)?,
        None => None,
    };
    let program = match reused {
        Some(program) => program,
        None => program::extract(context, verified, &request.member, &to, &cache.directory("trial")?)?,
    };
    // The program is good: a cache that cannot be written costs only time, later.
    let mut recorded = cache.record(&origin, Some((&request.member, &program.sha256)));
    if let Some((_, signature)) = &signature {
        recorded = recorded.and(cache.keep_signature(&origin.sha256, signature));
    }
    if let Err(failure) = recorded {
        context.warn(failure);
    }
    let trust = match (&signature, &request.pin) {
        (Some(_), _) => "signature",
        (None, Some(_)) => "sha256",
        (None, None) => "hash",
    };
    let signed_by = signature.map(|(key, _)| key);
    Ok((program, trust, Origin { signed_by, ..origin }))
}

/// Finds gpg and reads the user's keys, where a signature is required.
fn make_verifier(context: &Context, request: &Request) -> Result<Option<Verifier>, Failure> {
    let Some((pins, files)) = &request.signature else {
        return Ok(None);
    };
    let gpg = keyring::find_gpg(context)?;
    let keyring = if files.is_empty() { None } else { Some(Keyring::from_files(context, &gpg, files)?) };
    Ok(Some(Verifier { gpg, pins: pins.clone(), keyring }))
}

/// Returns the absolute path of a file whose directory must exist, without `..` and symbolic links before its name.
fn resolve(path: &Path) -> Result<PathBuf, Failure> {
    let doing = || format!("looking for the directory of {}", quote(path));
    let name = path.file_name().ok_or_else(|| Failure::new(Code::Usage, format!("{} names no file", quote(path))))?;
    let dir = match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    let dir = dir.canonicalize().doing(Code::NotFound, doing)?;
    let path = dir.join(name);
    match path.to_str() {
        Some(_) => Ok(path),
        None => Err(Failure::new(Code::Usage, format!("{}: the path is not UTF-8, as a document needs it", doing()))),
    }
}

/// Returns a parser of values that pass a check of presets.
fn checked(check: fn(&str) -> Result<(), String>) -> impl Fn(&str) -> Result<String, String> + Clone {
    move |value| check(value).map(|()| value.to_owned())
}

fn package_name(value: &str) -> Result<String, String> {
    match package::name::is_name(value) {
        true => Ok(value.to_owned()),
        false => Err("invalid package name".to_owned()),
    }
}

fn member(value: &str) -> Result<String, String> {
    match value.split('/').any(|part| matches!(part, "" | "." | "..")) {
        true => Err("not the path of a file in a package, as usr/bin/pacman is".to_owned()),
        false => Ok(value.to_owned()),
    }
}

fn fingerprint(value: &str) -> Result<String, String> {
    // As gpg prints it, too.
    let value = value.replace(' ', "").to_ascii_uppercase();
    distro::check::fingerprint(&value).map(|()| value)
}

fn sha256(value: &str) -> Result<String, String> {
    match package::digest::is_sha256(value) {
        true => Ok(value.to_lowercase()),
        false => Err("not a SHA-256: 64 hexadecimal digits".to_owned()),
    }
}

fn main() -> ExitCode {
    rootfs::seal_descriptors();
    rootfs::resolve_without_modules();
    stage::main::<FetchPacman>()
}
