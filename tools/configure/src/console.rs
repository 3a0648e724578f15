//! `--keymap`: vconsole.conf(5).

use crate::step::{Site, Step};
use crate::text::with_variable;
use crate::tree::Tree;
use stage::{Code, Failure};

const CONF: &str = "etc/vconsole.conf";

/// Where kbd keeps its keymaps.
const KEYMAPS: &str = "usr/share/kbd/keymaps";

/// How deep they lie at most: `i386/qwertz/de-latin1.map.gz`.
const DEPTH: usize = 4;

#[derive(Debug)]
pub(crate) struct KeyMap(pub(crate) String);

impl Step for KeyMap {
    fn name(&self) -> &'static str {
        "keymap"
    }

    fn check(&self, site: &Site) -> Result<(), Failure> {
        site.tree.text(CONF)?;
        if site.tree.stat(KEYMAPS).is_none() {
            return Err(Failure::new(
                Code::NotFound,
                format!(
                    "looking for the keymap '{}': {} is not there, and without kbd no keymap is ever loaded",
                    self.0,
                    site.tree.quote(KEYMAPS)
                ),
            )
            .hint("install it first: 'strap kbd'"));
        }
        if find(&site.tree, KEYMAPS, &self.0, DEPTH) {
            return Ok(());
        }
        Err(Failure::new(
            Code::NotFound,
            format!(
                "looking for the keymap '{}': there is none below {}",
                self.0,
                site.tree.quote(KEYMAPS)
            ),
        )
        .hint("'localectl list-keymaps' lists them"))
    }

    fn apply(&self, site: &Site) -> Result<(), Failure> {
        let text = with_variable(&site.tree.text(CONF)?, "KEYMAP", &self.0);
        site.tree.write(CONF, text.as_bytes(), 0o644)
    }
}

/// Checks that a text can be the name of a keymap.
///
/// # Errors
///
/// Why it is none.
pub(crate) fn check(name: &str) -> Result<(), String> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"_.@-".contains(&b);
    if name.is_empty() || !name.bytes().all(fine) || name.starts_with(['.', '-']) {
        return Err("it has more than letters, digits, '_', '-', '.' and '@'".into());
    }
    Ok(())
}

fn find(tree: &Tree, below: &str, name: &str, depth: usize) -> bool {
    tree.names(below).into_iter().any(|(entry, directory)| {
        if directory {
            return depth > 0 && find(tree, &format!("{below}/{entry}"), name, depth - 1);
        }
        let rest = entry.strip_prefix(name);
        matches!(rest, Some(".map" | ".map.gz" | ".map.xz" | ".map.zst"))
    })
}
