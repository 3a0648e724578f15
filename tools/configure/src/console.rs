//! `--keymap`: vconsole.conf(5).

use crate::item::{Item, Site, lacks, not_found};
use crate::text::with_variable;
use crate::tree::Tree;
use stage::Failure;

const CONF: &str = "etc/vconsole.conf";

/// Where kbd keeps its keymaps.
const KEYMAPS: &str = "usr/share/kbd/keymaps";

/// How deep they are at most: `i386/qwertz/de-latin1.map.gz`.
const DEPTH: usize = 4;

#[derive(Clone, Debug)]
pub(crate) struct KeyMap(pub(crate) String);

impl KeyMap {
    /// Parses the name of a keymap.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        let fine = |b: u8| b.is_ascii_alphanumeric() || b"_.@-".contains(&b);
        if name.is_empty() || !name.bytes().all(fine) || name.starts_with(['.', '-']) {
            return Err("only letters, digits, '_', '-', '.' and '@' are allowed".into());
        }
        Ok(Self(name.to_owned()))
    }
}

impl Item for KeyMap {
    fn check(&self, site: &Site) -> Result<(), Failure> {
        site.tree.text(CONF)?;
        let doing = format!("looking for the keymap '{}'", self.0);
        let keymaps = site.tree.quote(KEYMAPS);
        if site.tree.stat(KEYMAPS).is_none() {
            let why = format!("{doing}: no {keymaps}, and without kbd no keymap is ever loaded");
            return Err(lacks(why, "kbd"));
        }
        if find(&site.tree, KEYMAPS, &self.0, DEPTH) {
            return Ok(());
        }
        Err(not_found(format!("{doing}: none below {keymaps}")).hint("'localectl list-keymaps' lists them"))
    }

    fn apply(&self, site: &mut Site) -> Result<(), Failure> {
        let text = with_variable(&site.tree.text(CONF)?, "KEYMAP", &self.0);
        site.tree.write(CONF, &text, 0o644)
    }
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
