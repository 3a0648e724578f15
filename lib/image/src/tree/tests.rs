//! Walks over small trees.

use super::*;
use crate::stream::Source;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

/// A tree without a namespace: what is tested here needs none.
pub(crate) fn tree(path: &Path) -> Tree {
    let root = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    Tree { path: path.to_owned(), root, points: Vec::new() }
}

fn walk(path: &Path, epoch: Option<u64>) -> Result<Found, Failure> {
    tree(path).walk(&Rules::new(&["secret".to_owned()], &[], epoch).unwrap())
}

/// The working directory is one for all threads, and a walk changes it: one test.
#[test]
fn a_walk() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    let at = |below: &str| path.join(below);
    for below in ["a/b", "a-b", "secret/x", "etc", "tmp/x", "var/log"] {
        fs::create_dir_all(at(below)).unwrap();
    }
    fs::write(at("a/b/one"), "1").unwrap();
    fs::hard_link(at("a/b/one"), at("a-b/two")).unwrap();
    fs::write(at("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    fs::hard_link(at("etc/machine-id"), at("aaa")).unwrap();
    fs::write(at("var/log/x.log"), "x").unwrap();
    fs::write(path.join(OsStr::from_bytes(b"a/\xff")), "").unwrap();
    fs::set_permissions(at("a/b/one"), fs::Permissions::from_mode(0o4751)).unwrap();
    symlink("/etc/passwd", at("link")).unwrap();
    drop(UnixListener::bind(at("socket")).unwrap());
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();

    let found = walk(&path, Some(1)).unwrap();
    let paths: Vec<_> = found.nodes.iter().map(|e| String::from_utf8_lossy(&e.path)).collect();
    let expected = [
        "",
        "a",
        "a/b",
        "a/b/one",
        "a/\u{fffd}",
        "a-b",
        "a-b/two",
        "aaa",
        "etc",
        "etc/machine-id",
        "fifo",
        "link",
        "tmp",
        "var",
        "var/log",
    ];
    assert_eq!(paths, expected);
    assert_eq!(found.sockets, [b"socket"]);
    let of = |path: &str| found.nodes.iter().find(|e| e.path == path.as_bytes()).unwrap();
    let one = of("a/b/one");
    assert_eq!((one.mode, one.uid), (0o4751, at("a").metadata().unwrap().uid()));
    assert!(found.nodes.iter().all(|e| e.mtime == 1));
    assert_eq!(of("a-b/two").kind, Kind::HardLink(3));
    assert_eq!(of("link").kind, Kind::Symlink(b"/etc/passwd".to_vec()));
    assert_eq!(of("fifo").kind, Kind::Fifo);

    let tree = tree(&path);
    // As the tree is walked, the same is written, with another name of a file after the first.
    let (progress, writing) = (stage::Progress::hidden(), "writing");
    let source = Source { tree: &tree, nodes: &found.nodes, progress: &progress, writing, sparse: false };
    let (mut listed, mut walked, mut noted) = (Vec::new(), Vec::new(), Vec::new());
    source.stream(&mut listed).unwrap();
    let rules = Rules::new(&["secret".to_owned()], &[], Some(1)).unwrap();
    let as_found = Source { nodes: &[], ..source };
    let sockets = as_found.stream_tree(&rules, &mut walked, |node| noted.push(node.clone())).unwrap();
    assert!(listed == walked && listed.len() > 14 * 512);
    assert_eq!((sockets, noted), (found.sockets.clone(), found.nodes.clone()));

    let read = |node: &Node| -> Result<Vec<u8>, Failure> {
        let mut text = Vec::new();
        let reader = tree.open_content(node)?;
        reader.copy(0..reader.size(), |_, bytes| {
            text.extend_from_slice(bytes);
            Ok(())
        })?;
        reader.check_unchanged().map(|()| text)
    };
    assert_eq!(read(one).unwrap(), b"1");
    assert_eq!(read(of("etc/machine-id")).unwrap(), b"uninitialized\n");
    assert!(matches!(of("etc/machine-id").kind, Kind::File(Content::Text(_))), "and no other name of 'aaa'");
    fs::write(at("a/b/one"), "1234").unwrap();
    assert!(read(one).unwrap_err().message.ends_with("the file changed while it was read"));
    fs::remove_file(at("a/b/one")).unwrap();
    symlink("/etc/passwd", at("a/b/one")).unwrap();
    assert!(read(one).is_err(), "a link is not followed");
}
