//! What `mkroot --tree` put into the root before packages: where a package has such a file too, and where a lock was made with
//! another tree.

use stage::members::TreeFile;
use stage::{Cause, Code, Context, Document, Doing, Failure, quote};
use std::collections::BTreeMap;
use std::path::Path;

/// Says what to do about a file that exists already, where it may be one of a tree.
pub(crate) fn explain(failure: Failure, document: &Document) -> Failure {
    if failure.cause == Some(Cause::FileExists) && !before_packages(document).is_empty() {
        return failure.hint(
            "what packages have as well is not for 'mkroot --tree': take it out of that tree, remove it from the root, and lay it \
             with 'configure --tree' after strap",
        );
    }
    failure
}

/// Warns where a lock was made with other files before packages: scriptlets and hooks may do something else.
///
/// # Errors
///
/// When the lock cannot be read.
pub(crate) fn compare_with_lock(context: &Context, document: &Document, lock: &Path) -> Result<(), Failure> {
    let text = std::fs::read(lock).doing(Code::Usage, || format!("reading the lock {}", quote(lock)))?;
    if let Some(path) = first_difference(&Document::parse(&text, &quote(lock))?, document) {
        context.warn(format_args!(
            "the lock {} was made with another 'mkroot --tree': {} differs",
            quote(lock),
            quote(path)
        ));
    }
    Ok(())
}

fn before_packages(document: &Document) -> Vec<TreeFile> {
    let mut tree: Vec<TreeFile> = document.get().unwrap_or_default();
    tree.retain(|file| file.tool == "mkroot");
    tree
}

/// Returns the first path that is not the same in both, wherever their trees are.
fn first_difference(one: &Document, other: &Document) -> Option<String> {
    let files = |document| -> BTreeMap<String, TreeFile> {
        let nowhere = |file: TreeFile| (file.path.clone(), TreeFile { from: String::new(), ..file });
        before_packages(document).into_iter().map(nowhere).collect()
    };
    let (one, other) = (files(one), files(other));
    let mut paths: Vec<&String> = one.keys().chain(other.keys()).collect();
    paths.sort();
    paths.into_iter().find(|path| one.get(*path) != other.get(*path)).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn document(files: &[(&str, &str, &str)]) -> Document {
        let file = |(path, sha256, tool): &(&str, &str, &str)| {
            json!({"path": path, "type": "file", "mode": "0644", "uid": 0, "gid": 0, "sha256": sha256,
                "from": format!("of-{}", files.len()), "tool": tool})
        };
        let tree: Vec<Value> = files.iter().map(file).collect();
        Document::parse(json!({"strapline": 1, "tree": tree}).to_string().as_bytes(), "x").unwrap()
    }

    #[test]
    fn another_tree_is_named_by_its_first_file() {
        let lock = document(&[("b", "1", "mkroot"), ("a", "1", "mkroot"), ("c", "1", "configure")]);
        assert_eq!(first_difference(&lock, &document(&[("a", "1", "mkroot"), ("b", "1", "mkroot")])), None);
        for other in [&[("a", "1", "mkroot"), ("b", "2", "mkroot")][..], &[("a", "1", "mkroot")]] {
            assert_eq!(first_difference(&lock, &document(other)).as_deref(), Some("b"));
        }
        assert_eq!(first_difference(&document(&[]), &document(&[])), None);
    }

    #[test]
    fn a_file_in_the_way_may_be_of_a_tree() {
        let exists = || Failure { cause: Some(Cause::FileExists), ..Failure::new(Code::Failed, "x").hint("h") };
        let hint = |document: &Document| explain(exists(), document).hint.unwrap();
        assert!(hint(&document(&[("a", "1", "mkroot")])).contains("configure --tree"));
        assert_eq!(hint(&document(&[("a", "1", "configure")])), "h");
    }
}
