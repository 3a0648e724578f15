//! A keyring that is there: what of it stays.
//!
//! Only one of the kind that we write, or gpg for us, is taken: all keys understood, and one secret key, Ed25519, without
//! a passphrase. Anything else is gpg's to complete, which knows every kind that there ever was.

use super::block::{self, Block, Local, Print};
use super::own::{self, Own};
use super::packet::{self, tag};
use super::{Files, SECRET, trustdb, web};
use std::collections::BTreeMap;

/// What stays.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) blocks: Vec<Block>,
    pub(super) own: Own,
    pub(super) print: Print,
    /// Owner trust, as somebody set it.
    pub(super) owners: BTreeMap<Print, u8>,
}

impl Before {
    /// Reads the files of a home; `None` where they are more than we understand.
    pub(super) fn read(files: &Files, now: u32) -> Option<Self> {
        let empty = |name| files.get(name).is_none_or(Vec::is_empty);
        if !empty("pubring.kbx") || !empty("secring.gpg") {
            return None;
        }
        let packets = packet::parse(files.get("pubring.gpg")?).ok()?;
        let keys = packets.iter().filter(|p| p.tag == tag::PUBLIC_KEY).count();
        let blocks = block::group(Vec::new(), packets, Local::Keep);
        if blocks.len() != keys {
            return None;
        }
        let mut secrets = files.iter().filter(|(path, _)| path.starts_with(SECRET));
        let (Some((_, file)), None) = (secrets.next(), secrets.next()) else {
            return None;
        };
        let (own, print) = own::find(file, &blocks)?;
        let owners = trustdb::owners(files.get("trustdb.gpg").map_or(&[], Vec::as_slice))?;
        let mut itself = blocks.iter().find(|b| b.print == print)?.clone();
        let alive = itself.clean(now) && !itself.revoked && !itself.expired(now);
        (alive && owners.get(&print) == Some(&web::ULTIMATE)).then_some(Self {
            blocks,
            own,
            print,
            owners,
        })
    }
}
