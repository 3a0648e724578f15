//! `fetch-pacman`: gets a static pacman for this host, and proves it before it runs.
//!
//! The usual one-liner, `wget | tar -xO | install`, leaves an empty executable and exit status 0 when the file has
//! another compression than it had last month, and runs as root whatever a mirror sent. Here a package is found by the
//! repository's database, compared with its hash as a whole, its signature checked against a pinned key, and only then
//! made executable.

mod cache;
mod client;
mod draft;
mod fault;
mod fetch;
mod gpg;
mod offline;
mod program;
mod ring;
mod server;
mod status;
mod verify;

use cache::{Cache, Origin};
use fetch::{Fetcher, Wanted};
use gpg::Gpg;
use program::Program;
use ring::Ring;
use rootfs::file::Placed;
use rustix::fs::{Mode, OFlags};
use serde_json::json;
use server::Server;
use stage::members::Pacman;
use stage::{Code, Common, Context, Document, Doing, Failure, Kind, Stage, quote};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use verify::{Judge, Proof, Trust};

/// Find the newest static pacman in a repository, prove it and extract the one program
///
/// What is not given is looked up in the document's distribution. The program is for this host, not for the root.
#[derive(Debug, clap::Parser)]
#[command(
    name = "fetch-pacman",
    version,
    after_help = "Example: mkroot target --arch aarch64 --distro archlinuxarm | fetch-pacman | mkconf"
)]
struct FetchPacman {
    /// Look in the repository NAME
    #[arg(long, value_name = "NAME", value_parser = repo)]
    repo: Option<String>,

    /// Ask this server, $repo and $arch expanded; several are asked in order
    #[arg(long = "server", value_name = "URL", value_parser = url)]
    servers: Vec<String>,

    /// Take the newest package of exactly this name
    #[arg(long, value_name = "NAME", value_parser = package_name)]
    package: Option<String>,

    /// Extract this file of the package
    #[arg(long, value_name = "PATH", value_parser = member)]
    member: Option<String>,

    /// Put the program there; otherwise it stays in the cache
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Keep what was downloaded in DIR, not in ~/.cache/strapline (as root: /var/cache/strapline)
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,

    /// Take packages that this key has signed, beside those of the distribution's
    #[arg(long, value_name = "FINGERPRINT", value_parser = fingerprint)]
    trust: Vec<String>,

    /// Take the keys from FILE, not from the repository's keyring package
    #[arg(long, value_name = "FILE")]
    keyring: Vec<PathBuf>,

    /// Take only a package with this SHA-256, whatever the database says and whoever signed it
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    sha256: Option<String>,

    /// Take a package by the hash that the database has, whoever signed it
    #[arg(long, conflicts_with_all = ["trust", "keyring"])]
    unsigned: bool,

    /// Ask no server: take the newest package in the cache
    #[arg(long)]
    offline: bool,

    /// Take a pacman that is already there
    #[arg(
        long = "use",
        value_name = "FILE",
        conflicts_with_all = ["repo", "servers", "package", "member", "output", "cache_dir", "trust", "keyring", "sha256", "unsigned", "offline"]
    )]
    existing: Option<PathBuf>,

    /// Give a server up after SECONDS in which nothing came
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86400))]
    timeout: u64,

    #[command(flatten)]
    common: Common,
}

/// What is to be done.
#[derive(Debug)]
enum Plan {
    /// Take the pacman that is there.
    Use(PathBuf),
    /// Get one.
    Fetch(Box<Fetch>),
}

#[derive(Debug)]
struct Fetch {
    /// None where only the cache may be asked.
    servers: Option<Vec<Server>>,
    repo: String,
    package: String,
    member: String,
    pin: Option<String>,
    proof: Wish,
    output: Option<PathBuf>,
    cache: PathBuf,
    timeout: Duration,
}

/// What is to be asked of a package beside its hash.
#[derive(Debug)]
enum Wish {
    /// A signature of one of these keys, which are in these files or in the repository's keyring package.
    Signature(Vec<String>, Vec<PathBuf>),
    /// Nothing: the hash is the user's.
    Sha256,
    /// Nothing: the user said so.
    Hash,
}

/// What was done.
#[derive(Debug)]
struct Done {
    program: Program,
    /// What was fetched, and by what it was checked. None for a program that was there.
    origin: Option<(Origin, Trust)>,
}

impl Stage for FetchPacman {
    const KIND: Kind = Kind::Start;

    fn common(&self) -> &Common {
        &self.common
    }

    fn run(&self, context: &Context, document: &mut Document) -> Result<(), Failure> {
        let plan = plan(self, document)?;
        check(&plan)?;
        let done = apply(context, &plan)?;
        if let Some(path) = self.output.as_ref().filter(|_| done.program.new) {
            placed(&done.program.path)?.remove_on_undo(context, path);
        }
        record(document, &done);
        context.note(format_args!(
            "pacman {} in {}",
            done.program.version,
            quote(&done.program.path)
        ));
        Ok(())
    }
}

/// Returns what was put at this path.
fn placed(path: &Path) -> Result<Placed, Failure> {
    let above = path.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(above, flags, Mode::empty())
        .and_then(|directory| Placed::of(directory, path.file_name().unwrap_or_default()))
        .doing(Code::Os, || format!("opening {}", quote(path)))
}

/// Works out what to do from the command line, and from the document what that leaves open.
fn plan(args: &FetchPacman, document: &Document) -> Result<Plan, Failure> {
    if let Some(path) = &args.existing {
        return Ok(Plan::Use(settle(path)?));
    }
    let preset = server::preset(document.text("distro"))?;
    let source = &preset.pacman;
    let arch = server::pacman_arch(std::env::consts::ARCH);
    let repo = args.repo.clone().unwrap_or_else(|| source.repo.clone());
    let servers = if args.offline {
        None
    } else {
        let urls = match args.servers.as_slice() {
            [] => server::servers(&preset, arch)?,
            given => given,
        };
        Some(
            urls.iter()
                .map(|url| Server::expand(url, &repo, arch))
                .collect(),
        )
    };
    let env = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = match &args.cache_dir {
        Some(dir) => dir.clone(),
        None => {
            let root = nix::unistd::geteuid().is_root();
            cache::default_dir(root, env("XDG_CACHE_HOME"), env("HOME"))?
        }
    };
    Ok(Plan::Fetch(Box::new(Fetch {
        servers,
        repo,
        package: args
            .package
            .clone()
            .unwrap_or_else(|| source.package.clone()),
        member: args.member.clone().unwrap_or_else(|| source.member.clone()),
        pin: args.sha256.clone(),
        proof: wish(args, source),
        output: args.output.as_deref().map(settle).transpose()?,
        cache: std::path::absolute(&cache).doing(Code::Os, || "choosing a cache")?,
        timeout: Duration::from_secs(args.timeout),
    })))
}

/// Decides what to ask of a package, from the command line and the pins of the preset.
fn wish(args: &FetchPacman, source: &distro::Source) -> Wish {
    // A hash that the user knows says all that a signature could; who asks for both gets both.
    let asks = !args.trust.is_empty() || !args.keyring.is_empty();
    if args.sha256.is_some() && !asks {
        return Wish::Sha256;
    }
    if args.unsigned {
        return Wish::Hash;
    }
    let pinned = source.trusted.iter().map(|pin| pin.fingerprint.clone());
    let pins = pinned.chain(args.trust.iter().cloned()).collect();
    Wish::Signature(pins, args.keyring.clone())
}

/// Looks whether it can be done, before anything is touched.
fn check(plan: &Plan) -> Result<(), Failure> {
    let Plan::Fetch(fetch) = plan else {
        return Ok(());
    };
    if let Wish::Signature(pins, _) = &fetch.proof
        && pins.is_empty()
    {
        return Err(Failure::new(
            Code::NotVerified,
            format!(
                "checking package {}: no key is pinned that may sign it",
                quote(&fetch.package)
            ),
        )
        .hint("name one with --trust FINGERPRINT, or take the package by its hash alone with --unsigned"));
    }
    if let Some(output) = &fetch.output
        && std::fs::symlink_metadata(output).is_ok_and(|meta| !meta.is_file() && !meta.is_symlink())
    {
        return Err(Failure::new(
            Code::Usage,
            format!(
                "writing {}: it is there and not a regular file",
                quote(output)
            ),
        )
        .hint("give -o the path of the program itself, such as DIR/pacman"));
    }
    Ok(())
}

/// Does it.
fn apply(context: &Context, plan: &Plan) -> Result<Done, Failure> {
    let fetch = match plan {
        Plan::Fetch(fetch) => fetch,
        Plan::Use(path) => {
            return Ok(Done {
                program: program::inspect(context, path)?,
                origin: None,
            });
        }
    };
    let proof = prepare(context, &fetch.proof)?;
    let cache = Cache::open(&fetch.cache)?;
    let (verified, origin) = match &fetch.servers {
        None => offline::fetch(context, &cache, fetch, &proof)?,
        Some(servers) => {
            let wanted = Wanted {
                servers,
                repo: &fetch.repo,
                package: &fetch.package,
                pin: fetch.pin.as_deref(),
                proof: &proof,
            };
            Fetcher::new(context, &cache, fetch.timeout).fetch(&wanted)?
        }
    };
    let trust = verified.trust.clone();
    let to = match &fetch.output {
        Some(path) => path.clone(),
        None => {
            let name = fetch.member.rsplit('/').next().unwrap_or(&fetch.member);
            cache.program(&origin.sha256, name)?
        }
    };
    let trial = cache.trial()?;
    // Decompressing takes longer than all the rest: a program that this package is known to have needs none.
    let same = match cache.member(&origin.sha256, &fetch.member) {
        Some(sha256) => program::same(context, &verified, &to, &sha256, &trial)?,
        None => None,
    };
    let program = match same {
        Some(program) => program,
        None => program::place(context, verified, &fetch.member, &to, &trial)?,
    };
    // The program is there and good: a note that cannot be written costs only time, later.
    let mut noted = cache.note(&origin, Some((&fetch.member, &program.sha256)));
    if let Trust::Signature { signature, .. } = &trust {
        noted = noted.and(cache.sign(&origin.sha256, signature));
    }
    if let Err(failure) = noted {
        context.warn(failure);
    }
    Ok(Done {
        program,
        origin: Some((origin, trust)),
    })
}

/// Finds what the proof needs of this host.
fn prepare(context: &Context, wish: &Wish) -> Result<Proof, Failure> {
    let (pins, files) = match wish {
        Wish::Signature(pins, files) => (pins, files),
        Wish::Sha256 => return Ok(Proof::Sha256),
        Wish::Hash => return Ok(Proof::Hash),
    };
    let gpg = Gpg::find(context)?;
    let ring = match files.as_slice() {
        [] => None,
        files => Some(Ring::of_files(context, &gpg, files)?),
    };
    Ok(Proof::Signature(Judge {
        gpg,
        pins: pins.clone(),
        ring,
    }))
}

/// The members of `pacman.package`.
const ORIGIN: [&str; 7] = [
    "name",
    "version",
    "repo",
    "file",
    "sha256",
    "server",
    "signed_by",
];

/// Writes down what was done.
fn record(document: &mut Document, done: &Done) {
    // The member is ours, but others may have added to it; what we said of an earlier package does not hold any more.
    let old = document.get("pacman").cloned();
    document.remove("pacman");
    if let Some(serde_json::Value::Object(mut old)) = old {
        if let Some(package) = old.get_mut("package").and_then(|p| p.as_object_mut()) {
            package.retain(|key, _| !ORIGIN.contains(&key.as_str()));
            if package.is_empty() {
                old.shift_remove("package");
            }
        }
        document.record("pacman", &old);
    }
    document.record(
        "pacman",
        &Pacman {
            path: done.program.path.clone(),
            version: done.program.version.clone(),
            sha256: done.program.sha256.clone(),
            trust: match &done.origin {
                None => "host",
                Some((_, Trust::Signature { .. })) => "signature",
                Some((_, Trust::Sha256)) => "sha256",
                Some((_, Trust::Hash)) => "hash",
            }
            .to_owned(),
        },
    );
    if let Some((origin, trust)) = &done.origin {
        document.record("pacman", &json!({ "package": origin }));
        if let Trust::Signature { by, .. } = trust {
            document.record("pacman", &json!({ "package": { "signed_by": by } }));
        }
    }
}

/// Returns the absolute path of a file whose directory must be there, without `..` and symbolic links on the way.
fn settle(path: &Path) -> Result<PathBuf, Failure> {
    let doing = || format!("looking for the directory of {}", quote(path));
    let name = path
        .file_name()
        .ok_or_else(|| Failure::new(Code::Usage, format!("{} names no file", quote(path))))?;
    let dir = match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    let dir = dir.canonicalize().doing(Code::NotFound, doing)?;
    let path = dir.join(name);
    match path.to_str() {
        Some(_) => Ok(path),
        None => Err(Failure::new(
            Code::Usage,
            format!("{}: the path is not UTF-8, as a document needs it", doing()),
        )),
    }
}

fn repo(value: &str) -> Result<String, String> {
    distro::check::repo(value).map(|()| value.to_owned())
}

fn url(value: &str) -> Result<String, String> {
    distro::check::url(value).map(|()| value.to_owned())
}

fn package_name(value: &str) -> Result<String, String> {
    match package::name::is_name(value) {
        true => Ok(value.to_owned()),
        false => Err("not the name of a package".to_owned()),
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
    stage::main::<FetchPacman>()
}
