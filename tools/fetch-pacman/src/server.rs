//! Where a pacman is: as the command line says, or else the preset.

use distro::Preset;
use stage::Failure;
use stage::message::without_password;

/// A directory of a server that has a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server(String);

impl Server {
    /// Returns the server behind a URL as pacman.conf has it, with its variables.
    pub(crate) fn expand(url: &str, repo: &str, arch: &str) -> Self {
        let url = url.replace("$repo", repo).replace("$arch", arch);
        Self(url.trim_end_matches('/').to_owned())
    }

    /// Returns the URL of a file there.
    pub(crate) fn file(&self, name: &str) -> String {
        // A version's epoch makes a ':' and a '+' is not a space in a path: both stand for themselves.
        let name = if self.0.starts_with("file://") {
            name.to_owned()
        } else {
            name.replace('%', "%25").replace('#', "%23").replace('?', "%3F")
        };
        format!("{}/{name}", self.0)
    }

    /// Returns the URL without a password, as messages and documents have it.
    pub(crate) fn shown(&self) -> String {
        without_password(&self.0)
    }
}

/// Returns pacman's name of an architecture of Rust's.
pub(crate) fn pacman_arch(arch: &str) -> &str {
    match arch {
        "x86" => "i686",
        "arm" => "armv7h",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// Returns the preset that fills in what the command line leaves open: the document's, or the one that every preset
/// without a source of its own falls back on.
pub(crate) fn preset(distro: Option<&str>) -> Result<Preset, Failure> {
    Preset::load(distro.unwrap_or("archlinuxcn"))
}

/// Returns where the preset has a pacman for hosts of this architecture.
pub(crate) fn servers<'a>(preset: &'a Preset, arch: &str) -> Result<&'a [String], Failure> {
    preset.pacman.servers(arch).map_err(|failure| {
        let hint = "give a --server that has it, or take this host's own with --use /usr/bin/pacman";
        failure.while_doing("looking for a server").hint(hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use stage::Code;

    #[test]
    fn variables_and_slashes() {
        let server = Server::expand("https://h/$repo/os/$arch/", "cn", "x86_64");
        assert_eq!(server.file("cn.db"), "https://h/cn/os/x86_64/cn.db");
        let server = Server::expand("http://h", "cn", "x86_64");
        assert_eq!(server.file("p-1:1.0+r1-1-any.pkg.tar.xz"), "http://h/p-1:1.0+r1-1-any.pkg.tar.xz");
        assert_eq!(server.file("a%2fb#c?d"), "http://h/a%252fb%23c%3Fd");
    }

    #[test]
    fn the_default_source_is_strict_about_architectures() {
        let preset = preset(None).unwrap();
        assert_eq!(preset.pacman.package, "pacman-static");
        assert!(!servers(&preset, "x86_64").unwrap().is_empty());
        let failure = servers(&preset, "vax").unwrap_err();
        assert_eq!(failure.code, Code::NotFound);
        assert!(failure.message.contains("'vax'"), "{failure}");
    }
}
