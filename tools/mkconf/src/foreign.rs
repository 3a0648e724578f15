//! `--conf`: a pacman.conf(5) that the user has. pacman-conf(8) reads it, with all that it includes; here it is decided what of
//! that is taken over.

use crate::plan::usage;
use crate::render::{Repo, Version};
use crate::repos::CACHE_SERVER;
use crate::setting::Setting;
use distro::check;
use stage::{Code, Doing, Failure, child, quote};
use std::path::{Path, PathBuf};

/// What such a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Foreign {
    /// The file.
    path: PathBuf,
    /// `Architecture`, in order; `auto` is this machine's.
    pub(crate) architecture: Vec<String>,
    /// `SigLevel` of `[options]`.
    pub(crate) siglevel: String,
    /// What is taken over of `[options]`.
    pub(crate) settings: Vec<Setting>,
    /// The repositories, in order.
    repos: Vec<Section>,
    /// The options that are not taken over.
    left_out: Vec<String>,
}

/// A section: its name, and of each key its values in order; none for a switch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Section {
    name: String,
    keys: Vec<(String, Vec<String>)>,
}

impl Section {
    fn values(&self, key: &str) -> &[String] {
        self.keys.iter().find(|(name, _)| name == key).map_or(&[], |(_, values)| values)
    }

    /// Returns the values of a key as one line, if there are any.
    fn words(&self, key: &str) -> Option<String> {
        Some(self.values(key).join(" ")).filter(|words| !words.is_empty())
    }
}

impl Foreign {
    /// Reads the file by the pacman-conf of this host: what lies beside the document's pacman nobody has checked.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] where the file cannot be read, is no regular file or is in the root, [`Code::NotFound`] without a pacman-conf,
    /// [`Code::ChildFailed`] where that fails.
    pub(crate) fn read(path: &Path, root: &Path, version: Option<Version>) -> Result<Self, Failure> {
        let doing = || format!("reading {}", quote(path));
        let path = path.canonicalize().doing(Code::Usage, doing)?;
        // pacman-conf would wait for the writer of a fifo.
        stage::file::open(&path).doing(Code::Usage, doing)?;
        let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
        if path.starts_with(&root) {
            return Err(usage(format!("reading {}: it is in the root", quote(&path)))
                .hint("programs of the host read no configuration that a root wrote: give a copy that you have read"));
        }
        let Some(program) = child::find("pacman-conf") else {
            let why = format!("reading {}: there is no pacman-conf in PATH", quote(&path));
            return Err(Failure::new(Code::NotFound, why)
                .hint("install it (Debian: pacman-package-manager), or give --server, --repo and --set"));
        };
        let defaults = run(&program, Path::new("/dev/null"))?;
        let text = run(&program, &path)?;
        Ok(Self::of(path, &text, &defaults, version))
    }

    /// Takes over what pacman-conf says. `defaults` is what it says of an empty file.
    fn of(path: PathBuf, text: &str, defaults: &str, version: Option<Version>) -> Self {
        let split = |text| {
            let (options, repos): (Vec<_>, Vec<_>) = sections(text).into_iter().partition(|one| one.name == "options");
            (options.into_iter().next().unwrap_or_default(), repos)
        };
        let ((all, repos), (defaults, _)) = (split(text), split(defaults));
        let mut foreign = Self {
            path,
            architecture: all.values("Architecture").to_vec(),
            siglevel: all.words("SigLevel").unwrap_or_default(),
            repos,
            ..Self::default()
        };
        for pair in all.keys.iter().filter(|(key, _)| !["Architecture", "SigLevel"].contains(&key.as_str())) {
            let (key, values) = pair;
            let line = if values.is_empty() { key.clone() } else { format!("{key}={}", values.join(" ")) };
            match Setting::parse(&line, version) {
                // A program that runs on the host is named on the command line: what the file includes may be anybody's.
                Ok(setting) if key != "XferCommand" => foreign.settings.push(setting),
                Err(_) if defaults.keys.contains(pair) => {}
                _ => foreign.left_out.push(key.clone()),
            }
        }
        if version.is_some_and(|version| version < CACHE_SERVER) {
            let has = |repo: &&Section| !repo.values("CacheServer").is_empty();
            foreign.left_out.extend(foreign.repos.iter().find(has).map(|_| "CacheServer".to_owned()));
        }
        foreign
    }

    /// Fails where it is for another architecture than that of the root, whose words for pacman are `wanted`.
    pub(crate) fn check_architecture(&self, wanted: &[String]) -> Result<(), Failure> {
        if self.architecture.is_empty() || wanted.first().is_some_and(|first| self.architecture.contains(first)) {
            return Ok(());
        }
        let (is, wanted) = (self.architecture.join(" "), wanted.join(" "));
        Err(usage(format!("reading {}: its Architecture is {is}, and the root is of {wanted}", quote(&self.path)))
            .hint(format!("write 'Architecture = {wanted}' in it: 'auto' is that of this machine")))
    }

    /// Fails where it lets in packages without a trusted signature.
    pub(crate) fn check_siglevel(&self) -> Result<(), Failure> {
        check::strict_siglevel(None, &self.siglevel).map_err(|what| {
            usage(format!("reading the SigLevel of {}: {what}", quote(&self.path)))
                .hint("give --set 'SigLevel=Required DatabaseOptional'; for one repository alone --repo NAME=URL,siglevel=WORDS")
        })
    }

    /// Returns the failure of a repository whose packages need no signature, and nobody has said so on the command line.
    pub(crate) fn unsaid(&self, repo: &Repo) -> Failure {
        let server = repo.servers.first().map_or("URL", String::as_str);
        usage(format!("reading {}: packages of the repository '{}' need no signature", quote(&self.path), repo.name))
            .hint(format!("if that is meant, say so: --repo '{}={server},siglevel=Optional'", repo.name))
    }

    /// Returns its repositories. One that `arch` has, too, is its publisher's.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`] where it has none, and where one has no server, or what could not stand in a pacman.conf.
    pub(crate) fn repos(&self, arch: &distro::Arch, version: Option<Version>) -> Result<Vec<Repo>, Failure> {
        let wrong = |what: String| usage(format!("reading {}: {what}", quote(&self.path)));
        if self.repos.is_empty() {
            return Err(wrong("it has no repository".to_owned()));
        }
        let one = |section: &Section| {
            check::repo(&section.name).map_err(wrong)?;
            let servers = section.values("Server").to_vec();
            if servers.is_empty() {
                return Err(wrong(format!("the repository '{}' has no server", section.name)));
            }
            let has_cache = version.is_none_or(|version| version >= CACHE_SERVER);
            let cache_servers = if has_cache { section.values("CacheServer").to_vec() } else { Vec::new() };
            servers.iter().chain(&cache_servers).try_for_each(|url| check::url(url)).map_err(wrong)?;
            let publisher = arch.repos.iter().find(|repo| repo.name == section.name);
            Ok(Repo {
                name: section.name.clone(),
                publisher: publisher.map(|repo| repo.publisher.clone()),
                servers,
                siglevel: section.words("SigLevel"),
                unsigned: false,
                usage: section.words("Usage").filter(|usage| usage != "All"),
                cache_servers,
                origin: "--conf".to_owned(),
            })
        };
        self.repos.iter().map(one).collect()
    }

    /// Returns what people should know: what is not taken over, and which of the distribution's repositories it does not have.
    pub(crate) fn notes(&self, arch: &distro::Arch) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.left_out.is_empty() {
            notes.push(format!("not taken from {}: {}", quote(&self.path), self.left_out.join(", ")));
        }
        let has = |name: &String| self.repos.iter().any(|repo| repo.name == *name);
        let names: Vec<&str> = arch.repos.iter().map(|r| &r.name).filter(|n| !has(n)).map(String::as_str).collect();
        if !names.is_empty() {
            notes.push(format!("not in {}: the repositories {}", quote(&self.path), names.join(", ")));
        }
        notes
    }
}

/// Runs pacman-conf(8), whose messages are about lines of the file.
fn run(program: &Path, file: &Path) -> Result<String, Failure> {
    let mut command = child::command(program);
    command.arg("--config").arg(file);
    rootfs::die_with_us(&mut command);
    let ran = child::output(&mut command)?;
    if !ran.status.success() {
        let why = format!("reading {}: {} ended with {}", quote(file), quote(program), child::ended(ran.status));
        return Err(Failure::new(Code::ChildFailed, why));
    }
    String::from_utf8(ran.stdout).doing(Code::Usage, || format!("reading {}", quote(file)))
}

/// Reads what pacman-conf(8) prints.
fn sections(text: &str) -> Vec<Section> {
    let mut all: Vec<Section> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            all.push(Section { name: name.to_owned(), keys: Vec::new() });
        } else if let Some(section) = all.last_mut() {
            let (key, value) = line.split_once(" = ").map_or((line, None), |(key, value)| (key, Some(value)));
            let value = value.map(str::to_owned);
            match section.keys.iter_mut().find(|(name, _)| name == key) {
                Some((_, values)) => values.extend(value),
                None => section.keys.push((key.to_owned(), value.into_iter().collect())),
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: &str = "[options]\nRootDir = /\nCacheDir = /var/cache/pacman/pkg/\nParallelDownloads = 1\n\
        SigLevel = PackageOptional\nSigLevel = PackageTrustedOnly\n";

    fn foreign(text: &str, version: Version) -> Foreign {
        Foreign::of(PathBuf::from("/f"), text, DEFAULTS, Some(version))
    }

    #[test]
    fn what_is_taken_over_and_what_is_not() {
        let text = "[options]\nRootDir = /\nCacheDir = /c/\nXferCommand = /bin/sh -c evil\nNoExtract = a\nNoExtract = b\nColor\nCheckSpace\n\
            DisableSandbox\nOfTomorrow = x\nRemoteFileSigLevel = PackageNever\nArchitecture = x86_64\nArchitecture = any\n\
            SigLevel = PackageRequired\nSigLevel = PackageTrustedOnly\n\
            [mine]\nUsage = Sync\nUsage = Install\nSigLevel = DatabaseRequired\nCacheServer = http://c\nServer = http://a\n\
            Server = http://b\n";
        let old = foreign(text, Version(6, 0));
        let settings: Vec<_> = old.settings.iter().map(|s| (s.key.as_str(), s.value.as_deref())).collect();
        assert_eq!(settings, [("NoExtract", Some("a b")), ("Color", None)]);
        let left_out = [
            "CacheDir",
            "XferCommand",
            "CheckSpace",
            "DisableSandbox",
            "OfTomorrow",
            "RemoteFileSigLevel",
            "CacheServer",
        ];
        assert_eq!(old.left_out, left_out);
        assert_eq!((old.siglevel.as_str(), old.architecture.len()), ("PackageRequired PackageTrustedOnly", 2));
        let mine = &old.repos[0];
        assert_eq!((mine.words("Usage").as_deref(), mine.values("Server").len()), (Some("Sync Install"), 2));
        assert!(foreign(text, Version(7, 0)).settings.iter().any(|setting| setting.key == "DisableSandbox"));
    }

    #[test]
    fn what_would_let_anything_in_is_refused() {
        let level = |words: &str| foreign(&format!("[options]\nSigLevel = {words}\n"), Version(7, 1));
        for (words, is_good) in [
            ("PackageRequired\nSigLevel = PackageTrustedOnly\nSigLevel = DatabaseOptional", true),
            ("PackageOptional\nSigLevel = PackageTrustedOnly", false),
            ("PackageRequired\nSigLevel = PackageTrustAll", false),
            ("Never", false),
        ] {
            assert_eq!(level(words).check_siglevel().is_ok(), is_good, "{words}");
        }
        assert!(foreign("[options]\n", Version(7, 1)).check_siglevel().is_err(), "none at all");
        let other = foreign("[options]\nArchitecture = x86_64\n", Version(7, 1));
        assert!(other.check_architecture(&["aarch64".to_owned()]).is_err());
        assert!(other.check_architecture(&["x86_64".to_owned(), "x86_64_v3".to_owned()]).is_ok());
    }
}
