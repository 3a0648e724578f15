//! A web page where a database or a package was to be: a captive portal, a proxy that wants a login, a mirror that moved.
//!
//! pacman takes it for a damaged file, and its words say so. It also leaves it there, newer than what the mirror has, so that
//! it would not be replaced once the network is what it should be.

use crate::conf::Conf;
use crate::records::SYNC;
use package::page;
use rootfs::Root;
use rustix::fs::{AtFlags, Mode, OFlags, open, openat, unlinkat};
use stage::{Code, Failure, message};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

/// Looks for web pages among the databases in the root, and among `packages`, archives in the cache that pacman refused;
/// removes them, and returns the failure that says so.
pub(crate) fn explain(root: &Root, conf: &Conf, packages: &[&str]) -> Option<Failure> {
    let databases = conf.repos.iter().map(|repo| format!("{repo}.db"));
    let packages = packages.iter().map(|file| (*file).to_owned());
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let sync = root.open_below(SYNC, directory).ok();
    let cache = conf.cache.as_ref();
    let cache = cache.and_then(|at| open(at, directory, Mode::empty()).ok());
    let mut pages = remove(sync, databases);
    pages.extend(remove(cache, packages));
    let first = pages.first()?;
    Some(
        Failure::new(
            Code::Network,
            format!(
                "fetching '{}': a web page came in its place",
                message::escape(first)
            ),
        )
        .hint(page::HINT),
    )
}

/// Removes the web pages among files, with what came as their signatures; returns their names.
fn remove(directory: Option<OwnedFd>, files: impl Iterator<Item = String>) -> Vec<String> {
    let Some(directory) = directory else {
        return Vec::new();
    };
    let is_page = |file: &String| {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut start = Vec::new();
        let read = openat(&directory, file, flags, Mode::empty())
            .map_err(std::io::Error::from)
            .and_then(|fd| File::from(fd).take(1024).read_to_end(&mut start));
        read.is_ok() && page::is_web_page(&start)
    };
    let pages: Vec<String> = files.filter(is_page).collect();
    for name in &pages {
        for name in [name, &format!("{name}.sig")] {
            // What stays is met again, and said again.
            unlinkat(&directory, name, AtFlags::empty()).unwrap_or(());
        }
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn pages_go_with_what_came_as_their_signatures_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let (sync, cache) = (top.join("root").join(SYNC), top.join("cache"));
        fs::create_dir_all(&sync).unwrap();
        fs::create_dir(&cache).unwrap();
        for name in ["core.db", "core.db.sig", "other.db"] {
            fs::write(sync.join(name), "<html>").unwrap();
        }
        for name in ["extra.db", "extra.db.sig"] {
            fs::write(sync.join(name), "\x1f\u{8b}").unwrap();
        }
        fs::write(cache.join("a.pkg"), "<html>").unwrap();
        fs::write(cache.join("b.pkg"), "<html>").unwrap();
        let conf = Conf {
            cache: Some(cache.clone()),
            repos: vec!["core".into(), "extra".into()],
        };
        let root = Root::open(&top.join("root")).unwrap();
        let failure = explain(&root, &conf, &["a.pkg"]).unwrap();
        assert_eq!(failure.code, Code::Network);
        assert_eq!(
            failure.message,
            "fetching 'core.db': a web page came in its place"
        );
        let there = |name: &str| sync.join(name).exists();
        assert!(!there("core.db") && !there("core.db.sig"));
        assert!(there("other.db") && there("extra.db") && there("extra.db.sig"));
        assert!(!cache.join("a.pkg").exists() && cache.join("b.pkg").exists());
        assert_eq!(explain(&root, &conf, &[]), None);
    }
}
