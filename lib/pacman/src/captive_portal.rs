//! A web page in place of a database or a package: a captive portal, a proxy that wants a login, a mirror that moved.
//!
//! To pacman it is a corrupted file, which it leaves there, newer than what the mirror has: it would not be replaced once the
//! network works.

use crate::signature_pair::{Directories, Directory};
use package::page;
use stage::{Code, Context, Failure, message};
use std::io::Read;

/// Looks for web pages among the databases in the root, and among `packages`, archives in the cache that pacman refused;
/// removes them, and returns the failure that says so.
pub(crate) fn explain(
    context: &Context,
    places: &Directories<'_>,
    repos: &[String],
    packages: &[&str],
) -> Option<Failure> {
    let databases = repos.iter().map(|repo| (Directory::Sync, format!("{repo}.db")));
    let packages = packages.iter().map(|file| (Directory::Cache, (*file).to_owned()));
    let is_page = |(directory, file): &(Directory, String)| {
        let mut start = Vec::new();
        let opened = places.file(*directory, file);
        let read = opened.map(|file| file.take(1024).read_to_end(&mut start));
        read.is_some_and(|read| read.is_ok()) && page::is_web_page(&start)
    };
    let pages: Vec<_> = databases.chain(packages).filter(is_page).collect();
    for (directory, file) in &pages {
        places.remove(context, *directory, file);
    }
    let (_, first) = pages.first()?;
    let message = format!("fetching '{}': a web page came in its place", message::escape(first));
    Some(Failure::new(Code::Network, message).hint(page::HINT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::SYNC;
    use rootfs::Root;
    use std::fs;

    #[test]
    fn only_pages_and_their_signatures_go() {
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
        let repos = ["core".into(), "extra".into()];
        let root = Root::open(&top.join("root")).unwrap();
        let places = Directories { root: &root, cache: &cache };
        let context = Context::new("test", true);
        let failure = explain(&context, &places, &repos, &["a.pkg"]).unwrap();
        assert_eq!(failure.code, Code::Network);
        assert_eq!(failure.message, "fetching 'core.db': a web page came in its place");
        let there = |name: &str| sync.join(name).exists();
        assert!(!there("core.db") && !there("core.db.sig"));
        assert!(there("other.db") && there("extra.db") && there("extra.db.sig"));
        assert!(!cache.join("a.pkg").exists() && cache.join("b.pkg").exists());
        assert_eq!(explain(&context, &places, &repos, &[]), None);
    }
}
