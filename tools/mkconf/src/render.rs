//! What stands in a pacman.conf, and why: pure functions, so that every line can be looked at in a test.
//!
//! A line that is not there can matter as much as one that is. Those are kept here too, for `--explain`.

use crate::setting::Setting;
use stage::members::Repository;
use stage::message::without_password;

/// Which of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Level {
    /// Every package is verified
    Strict,
    /// No package is verified
    Loose,
}

/// Everything that a pacman.conf is made of. All values were checked before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conf {
    /// The distribution, for people.
    pub(crate) title: String,
    /// The root: absolute, with no slash at its end.
    pub(crate) root: String,
    /// The package cache: as the root.
    pub(crate) cache: String,
    /// The GnuPG home: as the root.
    pub(crate) gpgdir: String,
    /// `Architecture`, in order.
    pub(crate) architecture: Vec<String>,
    /// `SigLevel` of the strict file's `[options]`.
    pub(crate) siglevel: String,
    /// The pacman that will read it, where it is known.
    pub(crate) version: Option<Version>,
    /// The repositories, in order.
    pub(crate) repos: Vec<Repo>,
    /// What the command line sets, in order; twice is only what adds up.
    pub(crate) set: Vec<Setting>,
}

/// One repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Repo {
    pub(crate) name: String,
    /// The preset that it is from; none where the command line names it.
    pub(crate) publisher: Option<String>,
    pub(crate) servers: Vec<String>,
    pub(crate) siglevel: Option<String>,
    /// Whether its packages may have no signature.
    pub(crate) unsigned: bool,
    /// What pacman uses it for; all where nothing is said.
    pub(crate) usage: Option<String>,
    pub(crate) cache_servers: Vec<String>,
    /// Where it comes from, for `--explain`.
    pub(crate) origin: String,
}

impl Repo {
    /// Returns what the document has of it, which is no password; `siglevel` is that of `[options]`.
    pub(crate) fn record(&self, siglevel: &str) -> Repository {
        // As pacman reads the words, one after the other.
        let is_whole = |own: &str| ["Never", "Optional", "Required"].iter().any(|word| own.starts_with(word));
        let level = match &self.siglevel {
            None => siglevel.to_owned(),
            Some(own) if is_whole(own) => own.clone(),
            Some(own) => format!("{siglevel} {own}"),
        };
        Repository {
            name: self.name.clone(),
            publisher: self.publisher.clone(),
            servers: self.servers.iter().map(|server| without_password(server)).collect(),
            siglevel: level,
            unsigned: self.unsigned,
        }
    }
}

/// As much of pacman's version as decides what it understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32);

impl Version {
    /// The first two numbers: `7.1` of `7.1.0.r9.g54d9411-24`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.trim_start_matches('v').split('.');
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.split('-').next()?.parse().ok()?;
        Some(Self(major, minor))
    }
}

/// One line of `[options]` or of a repository, and why it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    key: String,
    value: Option<String>,
    why: String,
}

impl Line {
    fn text(&self) -> String {
        match &self.value {
            Some(value) => format!("{} = {value}", self.key),
            None => self.key.clone(),
        }
    }
}

fn line(key: &str, value: &str, why: &str) -> Line {
    Line { key: key.to_owned(), value: Some(value.to_owned()), why: why.to_owned() }
}

/// The first pacman that has ParallelDownloads, and that takes more than one Architecture.
const PARALLEL: Version = Version(6, 0);

/// What is known of an option of pacman.conf(5).
pub(crate) struct Known {
    pub(crate) key: &'static str,
    /// Its value as a template. None where it is left out on purpose.
    value: Option<&'static str>,
    why: &'static str,
    /// Why `--set` does not take it, and what to do instead.
    pub(crate) refused: Option<(&'static str, &'static str)>,
}

/// Returns what `options.conf` says.
pub(crate) fn known() -> impl Iterator<Item = Known> {
    let blocks = include_str!("options.conf").split("\n\n").skip(1);
    blocks.map(|block| {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
        let head = block.lines().next().unwrap_or_default();
        let (key, value) = match head.split_once(" = ") {
            Some((key, value)) => (key, Some(value)),
            None => (head.trim_start_matches("no "), None),
        };
        Known {
            key,
            value,
            why: field("why: ").unwrap_or_default(),
            refused: field("not set: ").zip(field("instead: ")),
        }
    })
}

/// The lines of `[options]`.
fn options(conf: &Conf, level: Level) -> Vec<Line> {
    let architecture = conf.architecture.join(" ");
    let mut lines = Vec::new();
    for Known { key, value, why, .. } in known() {
        let Some(value) = value else { continue };
        lines.push(match (key, level) {
            ("ParallelDownloads", _) if conf.version.is_none_or(|v| v < PARALLEL) => continue,
            ("SigLevel", Level::Loose) => {
                let why = "the loose file: nothing is verified; for strap --loose only";
                line(key, "Never", why)
            }
            _ => match value.strip_prefix('{').and_then(|v| v.split_once('}')) {
                Some((name, rest)) => {
                    let value = match name {
                        "root" => &conf.root,
                        "cache" => &conf.cache,
                        "gpgdir" => &conf.gpgdir,
                        "siglevel" => &conf.siglevel,
                        _ => &architecture,
                    };
                    line(key, &format!("{value}{rest}"), why)
                }
                None => line(key, value, why),
            },
        });
    }
    for setting in &conf.set {
        let Setting { key, value } = setting;
        // The loose file is loose whatever --set says of the strict one.
        if key == "SigLevel" && level == Level::Loose {
            continue;
        }
        let why = format!("--set {key}");
        match lines.iter_mut().find(|line| line.key == *key) {
            Some(line) if !setting.adds_up() => (line.value, line.why) = (value.clone(), why),
            _ => lines.push(Line { key: key.clone(), value: value.clone(), why }),
        }
    }
    lines
}

/// The lines of one repository.
fn section(repo: &Repo, level: Level) -> Vec<Line> {
    let mut lines = Vec::new();
    if let (Some(own), Level::Strict) = (&repo.siglevel, level) {
        let why = match repo.unsigned {
            true => "of this repository alone: its packages may have no signature",
            false => "of this repository alone",
        };
        lines.push(line("SigLevel", own, why));
    }
    lines.extend(repo.usage.iter().map(|usage| line("Usage", usage, "--repo")));
    lines.extend(
        repo.cache_servers.iter().map(|url| line("CacheServer", url, "--repo; asked for packages before the servers")),
    );
    lines.extend(repo.servers.iter().map(|url| line("Server", url, &repo.origin)));
    lines
}

/// All sections, with their names.
fn sections(conf: &Conf, level: Level) -> impl Iterator<Item = (&str, Vec<Line>)> {
    let repos = conf.repos.iter().map(move |repo| (repo.name.as_str(), section(repo, level)));
    std::iter::once(("options", options(conf, level))).chain(repos)
}

/// Returns the file's text.
pub(crate) fn text(conf: &Conf, level: Level) -> String {
    let what = match level {
        Level::Strict => "every package is verified",
        Level::Loose => "NO package is verified",
    };
    let architecture = conf.architecture.join(" ");
    let mut text = format!("# {}, {architecture}: {what}. Written by mkconf: changes are lost.\n", conf.title);
    for (name, lines) in sections(conf, level) {
        text += &format!("\n[{name}]\n");
        for line in lines {
            text += &format!("{}\n", line.text());
        }
    }
    text
}

/// Returns why each line is there, and why some are not: one sentence each.
pub(crate) fn explain(conf: &Conf, level: Level) -> Vec<String> {
    let mut out = Vec::new();
    for (name, lines) in sections(conf, level) {
        out.extend(lines.iter().map(|line| format!("[{name}] {}: {}", line.text(), line.why)));
    }
    let mut absent: Vec<(&str, &str)> =
        known().filter(|known| known.value.is_none()).map(|known| (known.key, known.why)).collect();
    if conf.version.is_none() {
        absent.push((
            "ParallelDownloads",
            "the document names no pacman, and one before 6.0 does not know it: put fetch-pacman before mkconf",
        ));
    }
    absent.retain(|(key, _)| conf.set.iter().all(|set| set.key != *key));
    out.extend(absent.iter().map(|(key, why)| format!("[options] no {key}: {why}")));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf() -> Conf {
        Conf {
            title: "Test".to_owned(),
            root: "/srv/target".to_owned(),
            cache: "/cache".to_owned(),
            gpgdir: "/srv/target.strapline/gnupg".to_owned(),
            architecture: vec!["x86_64".to_owned(), "x86_64_v3".to_owned()],
            siglevel: "Required DatabaseOptional".to_owned(),
            version: Some(Version(7, 1)),
            repos: vec![
                Repo {
                    name: "first".to_owned(),
                    servers: vec!["http://a/$arch/$repo".to_owned(), "http://b/$repo".to_owned()],
                    siglevel: Some("Required".to_owned()),
                    publisher: Some("test".to_owned()),
                    unsigned: false,
                    usage: None,
                    cache_servers: Vec::new(),
                    origin: "the preset".to_owned(),
                },
                Repo {
                    name: "second".to_owned(),
                    servers: vec!["file:///c".to_owned()],
                    siglevel: None,
                    publisher: None,
                    unsigned: false,
                    usage: None,
                    cache_servers: Vec::new(),
                    origin: "--repo".to_owned(),
                },
            ],
            set: Vec::new(),
        }
    }

    fn set(text: &str) -> Setting {
        Setting::parse(text, Some(Version(7, 1))).unwrap()
    }

    #[test]
    fn versions() {
        assert_eq!(Version::parse("7.1.0.r9.g54d9411-24"), Some(Version(7, 1)));
        assert_eq!(Version::parse("v6.0.2"), Some(Version(6, 0)));
        assert_eq!(Version::parse("6.1-1"), Some(Version(6, 1)));
        assert_eq!(Version::parse("git"), None);
        assert!(Version(5, 2) < PARALLEL && Version(10, 0) > PARALLEL);
    }

    #[test]
    fn loose_is_strict_but_for_signatures() {
        let (strict, loose) = (text(&conf(), Level::Strict), text(&conf(), Level::Loose));
        let differ: Vec<_> = strict.lines().filter(|line| !loose.contains(line)).skip(1).collect();
        assert_eq!(differ, ["SigLevel = Required DatabaseOptional", "SigLevel = Required"]);
        assert_eq!(loose.matches("SigLevel = Never").count(), 1);
        assert_eq!(loose.matches("SigLevel").count(), 2, "and LocalFileSigLevel");
    }

    #[test]
    fn the_version_decides_over_parallel_downloads() {
        for (version, expected) in
            [(None, false), (Some(Version(5, 2)), false), (Some(Version(6, 0)), true), (Some(Version(7, 1)), true)]
        {
            let text = text(&Conf { version, ..conf() }, Level::Strict);
            assert_eq!(text.contains("\nParallelDownloads = 5\n"), expected, "{version:?}");
        }
    }

    #[test]
    fn what_is_set_replaces_its_line_or_is_added() {
        let settings = ["ParallelDownloads=9", "Color", "IgnorePkg = a b", "IgnorePkg=c", "SigLevel=Required"];
        let conf = Conf { set: settings.map(set).to_vec(), ..conf() };
        let strict = text(&conf, Level::Strict);
        assert!(
            strict.contains("\nParallelDownloads = 9\nColor\nIgnorePkg = a b\nIgnorePkg = c\n\n[first]"),
            "{strict}"
        );
        assert!(strict.contains("\nSigLevel = Required\nLocalFileSigLevel"), "{strict}");
        assert!(!strict.contains("= 5"));
        assert!(text(&conf, Level::Loose).contains("\nSigLevel = Never\nLocalFileSigLevel"));
    }

    #[test]
    fn every_line_is_explained_and_so_is_what_is_missing() {
        let conf = conf();
        let lines = text(&conf, Level::Strict).lines().filter(|line| line.contains(" = ")).count();
        let explained = explain(&conf, Level::Strict);
        assert_eq!(explained.len(), lines + known().filter(|known| known.value.is_none()).count());
        assert!(explained.iter().any(|line| line.starts_with("[options] no CheckSpace: ")));
        let unknown = explain(&Conf { version: None, ..conf }, Level::Strict);
        assert!(unknown.iter().any(|line| line.starts_with("[options] no ParallelDownloads: ")));
    }
}
