//! Which root `reap` and `unmount` are to work on.
//!
//! Both end or take down whatever is there, so both are stricter than a tool that makes: the command line and the
//! document must mean the same directory, and the root of the host is refused by whatever name it comes.

use super::proc::look_at;
use crate::root::Root;
use rustix::fs::CWD;
use stage::members::Step;
use stage::{Code, Document, Failure, quote};
use std::path::Path;

/// Opens the root that an undoing tool works on: the document's, or `dir`. When both are given they must be the same
/// directory. Returns `None` when there is nothing to undo: an earlier stage failed before it made a root.
///
/// # Errors
///
/// [`Code::Usage`] when the two differ, or for the root of the host; [`Code::NotFound`] when it is not there; else as
/// [`Root::of`].
pub fn subject(document: &Document, dir: Option<&Path>) -> Result<Option<Root>, Failure> {
    let named = dir.map(open_named).transpose()?;
    let failed = document.failed().is_some();
    if document.root().is_none() {
        return match named {
            Some(named) => Ok(Some(named)),
            None if failed => Ok(None),
            None if document.get::<Vec<Step>>().is_none() => {
                Err(Failure::new(Code::Usage, "finding the root: there is neither a document nor DIR"))
            }
            None => document.need_root().map(|_| None),
        };
    }
    let meant = match Root::without_lock(document) {
        Err(f) if f.code == Code::NotFound && named.is_none() && failed => return Ok(None),
        result => not_the_hosts(result.map_err(without_mkroot)?)?,
    };
    match named {
        Some(named) if named.id()? != meant.id()? => Err(Failure::new(
            Code::Usage,
            format!("{} is not {}, the root that the document means", quote(named.path()), quote(meant.path())),
        )
        .hint("leave DIR out, or give --new to work from DIR alone")),
        _ => Ok(Some(meant)),
    }
}

/// Opens the directory that the command line names. The user may name it by a symbolic link; a document may not.
fn open_named(dir: &Path) -> Result<Root, Failure> {
    let path = dir.canonicalize().map_err(|e| {
        let code = match e.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => Code::NotFound,
            std::io::ErrorKind::PermissionDenied => Code::Permission,
            _ => Code::Os,
        };
        Failure::new(code, format!("opening the root {}: {e}", quote(dir)))
    })?;
    not_the_hosts(Root::open(&path).map_err(without_mkroot)?)
}

/// Removes the hint to make a root, which does not help here.
fn without_mkroot(failure: Failure) -> Failure {
    Failure { hint: failure.hint.filter(|_| failure.code != Code::NotFound), ..failure }
}

/// Refuses the root of PID 1: in a container that has the host's `/` bound somewhere and shares its PID namespace, all
/// processes of the host would live there. [`Root::open`] refuses our own root.
fn not_the_hosts(root: Root) -> Result<Root, Failure> {
    // If it cannot be read, we are an ordinary user and cannot do such damage.
    match look_at(CWD, "/proc/1/root") {
        Ok(first) if first.id == root.id()? => {
            Err(Failure::new(Code::Usage, format!("opening the root {}: it is the root of PID 1", quote(root.path()))))
        }
        _ => Ok(root),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_that_an_undoing_tool_means() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&root, root.join("link")).unwrap();
        std::fs::create_dir(root.join("other")).unwrap();
        let document = |text: String| Document::parse(text.as_bytes(), "stdin").unwrap();
        let path = root.display();
        let plain = document(format!("{{\"strapline\":1,\"root\":\"{path}\"}}"));
        let nothing = Document::new();
        let rootless = document("{\"strapline\":1,\"steps\":[]}".into());
        let failed = document("{\"strapline\":1,\"error\":{\"exit\":69}}".into());
        let gone = document(format!("{{\"strapline\":1,\"root\":\"{path}/gone\",\"error\":{{\"exit\":69}}}}"));
        let other = document(format!("{{\"strapline\":1,\"root\":\"{path}\",\"root_id\":{{\"dev\":1,\"ino\":1}}}}"));
        let path_of =
            |document: &Document, dir: Option<&Path>| subject(document, dir).map(|r| r.map(|r| r.path().to_owned()));
        let link = root.join("link");
        assert_eq!(path_of(&plain, None), Ok(Some(root.clone())));
        assert_eq!(path_of(&plain, Some(&link)), Ok(Some(root.clone())));
        assert_eq!(path_of(&nothing, Some(&link)), Ok(Some(root.clone())));
        assert_eq!(path_of(&failed, Some(&root)), Ok(Some(root.clone())));
        assert_eq!(path_of(&failed, None), Ok(None));
        assert_eq!(path_of(&gone, None), Ok(None));
        for (document, dir, code) in [
            (&nothing, None, Code::Usage),
            (&nothing, Some("/".into()), Code::Usage),
            (&nothing, Some("/proc/../proc/..".into()), Code::Usage),
            (&nothing, Some(root.join("gone")), Code::NotFound),
            (&rootless, None, Code::BadDocument),
            (&plain, Some(root.join("other")), Code::Usage),
            (&other, None, Code::Failed),
        ] {
            let failure = path_of(document, dir.as_deref()).unwrap_err();
            assert_eq!(failure.code, code, "{dir:?}: {failure}");
        }
    }
}
