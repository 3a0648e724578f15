//! What the command line, the document and the preset come to: nothing is touched here.

use crate::Args;
use crate::foreign::Foreign;
use crate::render::{Conf, Version};
use crate::repos::repos;
use crate::setting::Setting;
use distro::Preset;
use stage::document::{plain_absolute, plain_below};
use stage::members::Overlays;
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
    /// What a document's `distro`, `overlays` and `arch` say.
    pub(crate) distro: String,
    pub(crate) overlays: Vec<String>,
    pub(crate) arch: String,
    /// What people should know of `--conf`.
    pub(crate) notes: Vec<String>,
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
    let pacman: Option<Pacman> = document.get();
    let version = pacman.as_ref().and_then(|pacman| Version::parse(&pacman.version));
    let foreign = args.conf.as_ref().map(|path| Foreign::read(path, root, version)).transpose()?;
    let mut set: Vec<Setting> = foreign.iter().flat_map(|foreign| foreign.settings.clone()).collect();
    for text in &args.set {
        let setting = Setting::parse(text, version)?;
        set.retain(|known| known.key != setting.key || setting.adds_up());
        set.push(setting);
    }
    let said = set.iter().find(|set| set.key == "SigLevel").and_then(|set| set.value.clone());
    let mut siglevel = said.clone().unwrap_or_else(|| preset.siglevel.clone());
    let mut architecture = arch.architecture.clone();
    if let Some(foreign) = &foreign {
        foreign.check_architecture(&architecture)?;
        if !foreign.architecture.is_empty() {
            architecture.clone_from(&foreign.architecture);
        }
        if said.is_none() {
            foreign.check_siglevel()?;
            siglevel.clone_from(&foreign.siglevel);
        }
    }
    let repos = repos(args, &preset, arch, version, foreign.as_ref(), &siglevel)?;

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

    Ok(Plan {
        conf: Conf {
            title: preset.title.clone(),
            root: root_text,
            cache: cache_text,
            gpgdir,
            architecture,
            siglevel,
            version,
            repos,
            set,
        },
        out_dir,
        cache,
        distro: preset.reference().to_owned(),
        overlays: preset.overlays().to_vec(),
        arch: arch.name.clone(),
        notes: foreign.map(|foreign| foreign.notes(arch)).unwrap_or_default(),
    })
}

/// The preset that the document names, or else the command line. They must not differ: keyring, later in the pipe,
/// would trust another distribution's keys.
fn preset(args: &Args, document: &Document) -> Result<Preset, Failure> {
    let of = |code, whence: &str| {
        let whence = format!("reading {whence}");
        move |failure: Failure| Failure { code, ..failure.while_doing(whence) }
    };
    let overlays = |list: &[String]| -> Result<Vec<String>, Failure> {
        list.iter().map(|name| Preset::resolve(name)).collect::<Result<_, _>>().map_err(of(Code::Usage, "--overlay"))
    };
    let recorded: Option<Overlays> = document.get();
    let asked = overlays(&args.overlay)?;
    let known = document.distro();
    let given = args.distro.as_deref().map(Preset::resolve).transpose().map_err(of(Code::Usage, "--distro"))?;
    if let (Some(given), Some(known)) = (&given, known)
        && given != known
    {
        return Err(usage(format!("--distro is {given}, but the document is of {known}"))
            .hint("leave --distro out, or give it to mkroot"));
    }
    let laid = recorded.map(|recorded| recorded.0).unwrap_or_default();
    if known.is_some() && !asked.is_empty() && asked != laid {
        let laid = if laid.is_empty() { "none".to_owned() } else { laid.join(", ") };
        return Err(usage(format!("--overlay is {}, but the document is of {laid}", asked.join(", ")))
            .hint("leave --overlay out, or give it to mkroot"));
    }
    let load = |name: &str, overlays: &[String]| Preset::with_overlays(name, overlays);
    match (known, given) {
        (Some(known), _) => load(known, &laid).map_err(of(Code::BadDocument, "\"distro\" of the document")),
        (None, Some(given)) => load(&given, &asked).map_err(of(Code::Usage, "--distro")),
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

pub(crate) fn usage(message: impl std::fmt::Display) -> Failure {
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
