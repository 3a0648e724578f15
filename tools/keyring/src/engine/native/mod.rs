//! The default engine: writes what gpg would have written, and starts no program to do it.
//!
//! Arch's ring takes gpg seconds and pacman-key ten, for it reads all keys anew for each thing that is asked of it, and
//! what it starts beside itself has to be ended again. Here the ring is read once, what counts is checked once, on all
//! processors, and the result is the files of a GnuPG home (doc/DETAILS and agent/keyformat.txt of GnuPG). That they are
//! what gpg would have made of the same ring, is what the tests compare; gpg itself looks again when the first key ends.

mod before;
mod block;
mod own;
mod packet;
mod signature;
mod trustdb;
mod web;

use crate::listing::{self, Key};
use crate::trust::Ring;
use before::Before;
use block::{Block, Local, Print};
use own::{Own, hex, unhex};
pub(crate) use signature::Sha1Until;
use stage::{Code, Failure};
use std::collections::BTreeMap;
use trustdb::Trust;

/// Where gpg's agent keeps secret keys.
const SECRET: &str = "private-keys-v1.d/";
/// The mark of a disabled key in owner trust.
const DISABLED: u8 = 128;

/// The files of a home that gpg works with: their paths and contents.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// A home that was built, and what there is to say of its keys.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) files: Files,
    /// What gpg lists of it.
    pub(crate) public: Vec<Key>,
    pub(crate) secret: Vec<Key>,
}

/// Builds a home from a ring and the files of the home of before. `now` is in seconds since 1970. `None` where there is
/// one that is not understood.
///
/// # Errors
///
/// When a ring cannot be read, or a key that is to give trust is not there, or dead.
pub(crate) fn build(
    ring: &Ring,
    mut files: Files,
    sha1: Sha1Until,
    now: u32,
) -> Result<Option<Made>, Failure> {
    let doing = |what: &str, why: &str| Failure::new(Code::Failed, format!("{what}: {why}"));
    let before = if files.values().all(Vec::is_empty) {
        None
    } else {
        match Before::read(&files, now) {
            Some(before) => Some(before),
            None => return Ok(None),
        }
    };
    let making = "making the keyring's own key";
    let (own, print, mut blocks, owners) = match before {
        Some(before) => (before.own, before.print, before.blocks, before.owners),
        None => {
            let (own, block) = Own::make(now).map_err(|why| doing(making, &why))?;
            let owners = BTreeMap::from([(block.print, web::ULTIMATE)]);
            (own, block.print, vec![block], owners)
        }
    };

    for (name, keys) in &ring.keys {
        let doing = |why: &str| doing(&format!("importing the ring '{name}'"), why);
        let packets = packet::parse(keys).map_err(|why| doing(&why))?;
        if packets.iter().all(|p| p.tag != packet::tag::PUBLIC_KEY) {
            return Err(doing("there is no key in it"));
        }
        blocks = block::group(blocks, packets, Local::Drop);
    }
    blocks = clean(blocks, now).map_err(|why| doing("checking the keys", &why))?;
    revoke(&mut blocks);

    let trust = |owner| Trust {
        owner,
        ..Trust::default()
    };
    let mut trusts: BTreeMap<Print, Trust> = owners
        .into_iter()
        .map(|(print, owner)| (print, trust(owner)))
        .collect();
    listing::alive(ring, &list(&blocks, &trusts, now))?;
    for (prints, owner) in [(&ring.trusted, web::MARGINAL), (&ring.revoked, DISABLED)] {
        let prints = prints
            .iter()
            .filter_map(|text| unhex(text)?.try_into().ok());
        trusts.extend(prints.map(|print: Print| (print, trust(owner))));
    }
    for block in &mut blocks {
        if block.print != print && ring.trusted.contains(&hex(&block.print)) {
            sign(&own, block, now)
                .map_err(|why| doing(&format!("signing {} locally", hex(&block.print)), &why))?;
        }
    }
    let rules = web::Rules { now, sha1 };
    let next = web::weave(&mut blocks, &mut trusts, rules)
        .map_err(|why| doing("computing the web of trust", &why))?;

    let public = list(&blocks, &trusts, now);
    let own_hex = hex(&print);
    let secret = public
        .iter()
        .filter(|k| k.fingerprint == own_hex)
        .cloned()
        .collect();
    let mut pubring = Vec::new();
    blocks.iter().for_each(|block| block.write(&mut pubring));
    files.insert("pubring.gpg".into(), pubring);
    files.insert("trustdb.gpg".into(), trustdb::write(&trusts, now, next));
    // pacman-key makes it, and gpg looks no further for keys of before 2.1 where its mark says that it did.
    files.entry("secring.gpg".into()).or_default();
    files.entry(".gpg-v21-migrated".into()).or_default();
    if !files.keys().any(|path| path.starts_with(SECRET)) {
        let (name, key) = own.file().map_err(|why| doing(making, &why))?;
        files.insert(format!("{SECRET}{name}"), key);
    }
    Ok(Some(Made {
        files,
        public,
        secret,
    }))
}

/// Removes what does not belong to the keys, and the keys that nothing is left of.
fn clean(blocks: Vec<Block>, now: u32) -> Result<Vec<Block>, String> {
    let kept = in_parallel(blocks, |mut block| block.clean(now).then_some(block))?;
    Ok(kept.into_iter().flatten().collect())
}

/// Revokes the keys that another key revoked which their owner gave the right to.
fn revoke(blocks: &mut [Block]) {
    let revoked: Vec<Print> = blocks
        .iter()
        .filter(|block| !block.revokers.is_empty())
        .filter(|block| {
            let revokers = || blocks.iter().filter(|b| block.revokers.contains(&b.print));
            block.direct.iter().any(|sig| {
                sig.of(&[pgp::packet::SignatureType::KeyRevocation])
                    .is_some_and(|said| revokers().any(|by| said.holds_on_key(&by.key, &block.key)))
            })
        })
        .map(|block| block.print)
        .collect();
    for block in blocks {
        block.revoked |= revoked.contains(&block.print);
    }
}

/// Signs the names of a key that stand, where that is not done yet.
fn sign(own: &Own, block: &mut Block, now: u32) -> Result<(), String> {
    for name in block.names.iter_mut().filter(|name| !name.gone) {
        if own.has_signed(&block.key, name) {
            continue;
        }
        let sig = own.sign_locally(&block.key, &name.packet, now)?;
        name.sigs.push(sig);
    }
    Ok(())
}

/// Lists the keys as gpg does (g10/trust.c, get_validity).
fn list(blocks: &[Block], trust: &BTreeMap<Print, Trust>, now: u32) -> Vec<Key> {
    let letter = |degree: u8| match degree {
        web::UNDEFINED => 'q',
        web::MARGINAL => 'm',
        web::FULL => 'f',
        web::ULTIMATE => 'u',
        _ => '-',
    };
    blocks
        .iter()
        .map(|block| {
            let none = Trust::default();
            let trust = trust.get(&block.print).unwrap_or(&none);
            let valid = trust.names.iter().map(|n| n.validity).max();
            Key {
                fingerprint: hex(&block.print),
                validity: match valid.unwrap_or(0) {
                    _ if block.revoked => 'r',
                    _ if block.expired(now) => 'e',
                    degree => letter(degree),
                },
                owner_trust: letter(trust.owner & web::MASK),
                disabled: trust.owner & DISABLED != 0,
                expires: block.expires.map(u64::from),
                signed_by: Vec::new(),
            }
        })
        .collect()
}

/// Does one thing to each of many, on all processors.
///
/// # Errors
///
/// Where it could not be done for one of them, which is a fault of this program.
fn in_parallel<T: Send, R: Send>(
    all: Vec<T>,
    one: impl Fn(T) -> R + Sync,
) -> Result<Vec<R>, String> {
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(16);
    // In turns, as keys that lie side by side are alike, and large ones too.
    let mut shares: Vec<Vec<(usize, T)>> = Vec::new();
    shares.resize_with(threads, Vec::new);
    for (i, item) in all.into_iter().enumerate() {
        shares[i % threads].push((i, item));
    }
    let one = &one;
    let run = |share: Vec<(usize, T)>| {
        share
            .into_iter()
            .map(|(i, t)| (i, one(t)))
            .collect::<Vec<_>>()
    };
    let mut done: Vec<(usize, R)> = std::thread::scope(|scope| {
        let handles: Vec<_> = shares
            .into_iter()
            .map(|share| scope.spawn(move || run(share)))
            .collect();
        let joined = handles
            .into_iter()
            .map(|h| h.join().map_err(|_| "a thread ended early"));
        joined.collect::<Result<Vec<_>, _>>()
    })?
    .into_iter()
    .flatten()
    .collect();
    done.sort_by_key(|(i, _)| *i);
    Ok(done.into_iter().map(|(_, r)| r).collect())
}
