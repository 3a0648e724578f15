//! What the command line, the document and the preset come to: nothing is touched here.

use crate::Args;
use crate::render::{Conf, Repo, Setting, Version};
use distro::{Preset, check};
use stage::document::{plain_absolute, plain_below};
use stage::members::Pacman;
use stage::{Code, Document, Failure, quote};
use std::path::{Path, PathBuf};

/// The GnuPG home in the directory of the files: pacman's GPGDir, which `keyring` fills.
pub(crate) const GPGDIR: &str = "gnupg";

/// What will be written, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) conf: Conf,
    /// The directory of the two files.
    pub(crate) out_dir: PathBuf,
    pub(crate) cache: PathBuf,
    /// What a document's `distro` and `arch` say.
    pub(crate) distro: String,
    pub(crate) arch: String,
}

/// What of the host decides over defaults.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    pub(crate) root: bool,
    pub(crate) cache_home: Option<PathBuf>,
    pub(crate) home: Option<PathBuf>,
}

impl Host {
    pub(crate) fn here() -> Self {
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        Self {
            root: rustix::process::geteuid().is_root(),
            cache_home: variable("XDG_CACHE_HOME"),
            home: variable("HOME"),
        }
    }

    /// The directory for caches: the system's for root, else the user's. A relative one is as good as none, says the
    /// XDG base directory specification.
    fn cache(&self) -> Option<PathBuf> {
        if self.root {
            return Some(PathBuf::from("/var/cache"));
        }
        let cache = self.cache_home.clone().filter(|path| path.is_absolute());
        cache.or_else(|| {
            let home = self.home.as_ref().filter(|path| path.is_absolute())?;
            Some(home.join(".cache"))
        })
    }
}

pub(crate) fn plan(args: &Args, document: &Document, host: &Host) -> Result<Plan, Failure> {
    let root = document.need_root()?;
    let root_text = writable("the root", root).map_err(|failure| {
        failure.hint("pacman splits HookDir at white space: choose another directory for the root")
    })?;
    let preset = preset(args, document)?;
    let arch = arch(args, document, &preset)?;
    let repos = repos(args, &preset, arch)?;

    let cache = match &args.cache_dir {
        Some(path) => settle(path)?,
        None => host
            .cache()
            .map(|cache| cache.join("strapline/packages").join(format!("{}-{}", preset.name, arch.name)))
            .ok_or_else(|| {
                usage("no directory for the package cache: neither XDG_CACHE_HOME nor HOME is set")
                    .hint("give --cache-dir DIR")
            })?,
    };
    let cache_text = writable("the package cache", &cache)
        .map_err(|failure| failure.hint("pacman splits CacheDir at white space: give another --cache-dir"))?;
    if cache.starts_with(root) {
        return Err(usage(format!("the package cache {} is in the root", quote(&cache)))
            .hint("it would become part of every image: give a --cache-dir outside of it"));
    }
    let out_dir = match &args.out_dir {
        Some(path) => settle(path)?,
        None => stage::document::beside(root),
    };
    writable_path("the directory of the files", &out_dir)?;
    if out_dir.starts_with(root) {
        return Err(usage(format!("the directory of the files {} is in the root", quote(&out_dir)))
            .hint("programs of the root could change what pacman reads there: give an --out-dir outside of it"));
    }
    let gpgdir = writable_path("the keyring", &out_dir.join(GPGDIR))?;

    let mut set: Vec<Setting> = Vec::new();
    for text in &args.set {
        let setting = Setting::parse(text)?;
        set.retain(|known| known.key != setting.key);
        set.push(setting);
    }
    let pacman: Option<Pacman> = document.get();
    Ok(Plan {
        conf: Conf {
            title: preset.title.clone(),
            root: root_text,
            cache: cache_text,
            gpgdir,
            architecture: arch.architecture.clone(),
            siglevel: preset.siglevel.clone(),
            version: pacman.and_then(|pacman| Version::parse(&pacman.version)),
            repos,
            set,
        },
        out_dir,
        cache,
        distro: preset.reference().to_owned(),
        arch: arch.name.clone(),
    })
}

/// The preset that the document names, or else the command line. They must not differ: keyring, later in the pipe,
/// would trust another distribution's keys.
fn preset(args: &Args, document: &Document) -> Result<Preset, Failure> {
    let load = |name: Option<&str>, code, whence: &str| {
        let preset = name.map(Preset::load).transpose();
        preset.map_err(|failure| Failure { code, ..failure.while_doing(format!("reading {whence}")) })
    };
    let known = load(document.distro(), Code::BadDocument, "\"distro\" of the document")?;
    let given = load(args.distro.as_deref(), Code::Usage, "--distro")?;
    match (given, known) {
        (Some(given), Some(known)) if given.reference() != known.reference() => {
            Err(usage(format!("--distro is {}, but the document is of {}", given.reference(), known.reference()))
                .hint("leave --distro out, or give it to mkroot"))
        }
        (Some(preset), _) | (None, Some(preset)) => Ok(preset),
        (None, None) => {
            let names: Vec<_> = Preset::names().collect();
            Err(usage("no distribution: neither the document nor the command line names one")
                .hint(format!("give --distro, one of {}, or a file", names.join(", "))))
        }
    }
}

/// The architecture of the document, or of the command line, or the only one that there is.
fn arch<'a>(args: &Args, document: &Document, preset: &'a Preset) -> Result<&'a distro::Arch, Failure> {
    let of_document = document.arch();
    if let (Some(given), Some(known)) = (args.arch.as_deref(), of_document)
        && given != known
    {
        return Err(usage(format!("--arch is {given}, but the document is of {known}"))
            .hint("leave --arch out, or give it to mkroot"));
    }
    let mut all = preset.arches();
    let only = all.next().filter(|_| all.next().is_none());
    let Some(wanted) = of_document.or(args.arch.as_deref()).or(only) else {
        let names: Vec<_> = preset.arches().collect();
        return Err(usage(format!("{} has several architectures", preset.title))
            .hint(format!("give --arch, one of {}", names.join(", "))));
    };
    preset.arch(wanted).map_err(|failure| Failure { code: Code::Usage, ..failure })
}

/// The preset's repositories with the command line's servers, then those that only the command line names.
fn repos(args: &Args, preset: &Preset, arch: &distro::Arch) -> Result<Vec<Repo>, Failure> {
    for server in &args.server {
        check::url(server).map_err(|what| usage(format!("reading --server: {what}")))?;
    }
    if let Some(day) = &args.snapshot {
        check::date(day).map_err(|what| usage(format!("reading --snapshot: {what}")))?;
    }
    let mut given: Vec<Repo> = Vec::new();
    for text in &args.repo {
        let wrong = |what: String| usage(format!("reading --repo: {what}"));
        let Some((name, server)) = text.split_once('=') else {
            return Err(wrong(format!("'{}' is not NAME=URL", text.escape_default())));
        };
        check::repo(name).map_err(wrong)?;
        check::url(server).map_err(wrong)?;
        match given.iter_mut().find(|repo| repo.name == name) {
            Some(repo) => repo.servers.push(server.to_owned()),
            None => given.push(Repo {
                name: name.to_owned(),
                servers: vec![server.to_owned()],
                siglevel: None,
                origin: "--repo; behind the distribution's, which take precedence".to_owned(),
            }),
        }
    }
    let mut repos = Vec::new();
    for repo in &arch.repos {
        let siglevel = repo.siglevel.clone();
        let (servers, origin) = if let Some(at) = given.iter().position(|given| given.name == repo.name) {
            (given.remove(at).servers, "--repo, in place of the preset's".to_owned())
        } else if !args.server.is_empty() {
            (args.server.clone(), "--server, in place of the preset's".to_owned())
        } else if let Some(day) = &args.snapshot {
            (vec![snapshot(repo, preset, day)?], format!("--snapshot {day}"))
        } else {
            (repo.servers.clone(), format!("the preset '{}'", preset.name))
        };
        repos.push(Repo { name: repo.name.clone(), servers, siglevel, origin });
    }
    repos.append(&mut given);
    Ok(repos)
}

/// Where a repository was on that day.
fn snapshot(repo: &distro::Repo, preset: &Preset, day: &str) -> Result<String, Failure> {
    let Some(pattern) = &repo.snapshot else {
        return Err(usage(format!(
            "{} has no public archive of its repository '{}': there is no snapshot of {day}",
            preset.title, repo.name
        ))
        .hint("keep the package cache, or name an archive of your own with 'snapshot' in a preset file"));
    };
    let mut server = pattern.clone();
    for (field, number) in ["%Y", "%m", "%d"].into_iter().zip(day.split('-')) {
        server = server.replace(field, number);
    }
    Ok(server)
}

/// A path of the command line in its plainest absolute form. What is there is resolved, so that the document does not
/// depend on a symbolic link; what is not there yet is made later.
fn settle(path: &Path) -> Result<PathBuf, Failure> {
    let unusable = |why: String| usage(format!("using {}: {why}", quote(path)));
    let absolute = std::path::absolute(path).map_err(|error| unusable(error.to_string()))?;
    for there in absolute.ancestors() {
        let Ok(real) = there.canonicalize() else {
            continue;
        };
        let missing = absolute.strip_prefix(there).unwrap_or(Path::new(""));
        let text = missing.to_str().ok_or_else(|| unusable("it is not UTF-8".to_owned()))?;
        // `..` of what does not exist has no meaning.
        plain_below(text).map_err(unusable)?;
        return Ok(if text.is_empty() { real } else { real.join(text) });
    }
    Ok(absolute)
}

/// A path that is recorded in the document.
fn writable_path(what: &str, path: &Path) -> Result<String, Failure> {
    let refuse = |why: &str| usage(format!("{what} is {}: {why}", quote(path)));
    let text = path.to_str().ok_or_else(|| refuse("it is not UTF-8"))?;
    plain_absolute(text).map_err(|why| refuse(&why))?;
    if text == "/" {
        return Err(refuse("it is the host's own root"));
    }
    Ok(text.to_owned())
}

/// A path that stands in a pacman.conf, where lists are split at white space.
fn writable(what: &str, path: &Path) -> Result<String, Failure> {
    let text = writable_path(what, path)?;
    if text.contains(char::is_whitespace) {
        return Err(usage(format!("{what} is {}: there is white space in it", quote(path))));
    }
    Ok(text)
}

fn usage(message: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    const DOCUMENT: &str = r#"{"strapline":1,"root":"/srv/target","arch":"aarch64","distro":"archlinuxarm"}"#;

    fn host() -> Host {
        Host { root: false, cache_home: Some("/c".into()), home: Some("/h".into()) }
    }

    fn run(document: &str, args: &[&str]) -> Result<Plan, Failure> {
        let document = Document::parse(document.as_bytes(), "stdin").unwrap();
        let args = Args::try_parse_from(["mkconf"].iter().chain(args)).unwrap();
        plan(&args, &document, &host())
    }

    fn refused(document: &str, args: &[&str]) -> (Code, String) {
        let failure = run(document, args).unwrap_err();
        (failure.code, failure.message)
    }

    fn servers(plan: &Plan) -> Vec<(&str, Vec<&str>)> {
        plan.conf
            .repos
            .iter()
            .map(|repo| (repo.name.as_str(), repo.servers.iter().map(String::as_str).collect()))
            .collect()
    }

    #[test]
    fn the_document_is_enough() {
        let plan = run(DOCUMENT, &[]).unwrap();
        assert_eq!(plan.out_dir, Path::new("/srv/target.strapline"));
        assert_eq!(plan.cache, Path::new("/c/strapline/packages/archlinuxarm-aarch64"));
        assert_eq!(plan.conf.cache, "/c/strapline/packages/archlinuxarm-aarch64");
        assert_eq!((plan.distro.as_str(), plan.arch.as_str()), ("archlinuxarm", "aarch64"));
        assert_eq!(plan.conf.version, None);
    }

    #[test]
    fn the_cache_is_the_system_s_for_root_and_the_user_s_else() {
        let at = |host: Host| host.cache();
        assert_eq!(at(Host { root: true, ..host() }), Some("/var/cache".into()));
        assert_eq!(at(Host { cache_home: Some("c".into()), ..host() }), Some("/h/.cache".into()));
        assert_eq!(at(Host::default()), None);
    }

    #[test]
    fn the_command_line_fills_in_and_never_contradicts() {
        let bare = r#"{"strapline":1,"root":"/srv/target"}"#;
        let plan = run(bare, &["--distro", "archlinux"]).unwrap();
        assert_eq!((plan.distro.as_str(), plan.arch.as_str()), ("archlinux", "x86_64"));
        let plan = run(bare, &["--distro", "archlinuxarm", "--arch", "armv7h"]).unwrap();
        assert_eq!(plan.arch, "armv7h");
        assert!(run(DOCUMENT, &["--distro", "archlinuxarm", "--arch", "aarch64"]).is_ok());

        for (document, args, expected) in [
            (bare, &[][..], "no distribution: neither the document nor the command line names one"),
            (bare, &["--distro", "archlinuxarm"], "Arch Linux ARM has several architectures"),
            (bare, &["--distro", "debian"], "reading --distro: there is no preset 'debian'"),
            (bare, &["--distro", "archlinux", "--arch", "arm"], "Arch Linux has no architecture 'arm'"),
            (DOCUMENT, &["--arch", "armv7h"], "--arch is armv7h, but the document is of aarch64"),
            (DOCUMENT, &["--distro", "archlinux"], "--distro is archlinux, but the document is of archlinuxarm"),
        ] {
            assert_eq!(refused(document, args), (Code::Usage, expected.to_owned()));
        }
        let foreign = r#"{"strapline":1,"root":"/srv/target","distro":"debian"}"#;
        assert_eq!(refused(foreign, &[]).0, Code::BadDocument);
        assert_eq!(refused(r#"{"strapline":1}"#, &[]).0, Code::BadDocument);
    }

    #[test]
    fn servers_are_replaced_and_repositories_appended() {
        let plan = run(
            DOCUMENT,
            &[
                "--server",
                "http://a/$arch/$repo",
                "--server",
                "http://b/$repo",
                "--repo",
                "alarm=file:///alarm",
                "--repo",
                "mine=http://m/1",
                "--repo",
                "mine=http://m/2",
            ],
        )
        .unwrap();
        let both = vec!["http://a/$arch/$repo", "http://b/$repo"];
        assert_eq!(
            servers(&plan),
            [
                ("core", both.clone()),
                ("extra", both.clone()),
                ("alarm", vec!["file:///alarm"]),
                ("aur", both),
                ("mine", vec!["http://m/1", "http://m/2"]),
            ]
        );
    }

    #[test]
    fn what_would_write_a_line_of_its_own_is_refused() {
        for args in [
            ["--server", "http://h/\nSigLevel = Never"],
            ["--server", "rsync://h/x"],
            ["--repo", "x"],
            ["--repo", "options=http://h/x"],
            ["--repo", "a]\n[b=http://h/x"],
            ["--repo", "x=h/x"],
            ["--set", "DownloadUser=alpm"],
            ["--cache-dir", "/srv/a b"],
            ["--cache-dir", "/srv/target/cache"],
            ["--cache-dir", "/"],
            ["--cache-dir", "/nowhere/../etc"],
            ["--out-dir", "/srv/a\nb"],
        ] {
            assert_eq!(refused(DOCUMENT, &args).0, Code::Usage, "{args:?}");
        }
        let spaced = r#"{"strapline":1,"root":"/srv/a b","arch":"aarch64","distro":"archlinuxarm"}"#;
        assert_eq!(
            refused(spaced, &[]),
            (Code::Usage, "the root is '/srv/a b': there is white space in it".to_owned())
        );
    }

    #[test]
    fn a_snapshot_needs_someone_who_keeps_it() {
        let arch = r#"{"strapline":1,"root":"/srv/target","distro":"archlinux"}"#;
        let plan = run(arch, &["--snapshot", "2026-01-02", "--repo", "m=http://m/"]).unwrap();
        let at = "https://archive.archlinux.org/repos/2026/01/02/$repo/os/$arch";
        assert_eq!(servers(&plan), [("core", vec![at]), ("extra", vec![at]), ("m", vec!["http://m/"])]);
        for (document, day, expected) in [
            (
                DOCUMENT,
                "2026-01-02",
                "Arch Linux ARM has no public archive of its repository 'core': there is no snapshot of 2026-01-02",
            ),
            (arch, "yesterday", "reading --snapshot: 'yesterday' is not a day: write YYYY-MM-DD"),
        ] {
            let (code, message) = refused(document, &["--snapshot", day]);
            assert_eq!((code, message.as_str()), (Code::Usage, expected));
        }
    }
}
