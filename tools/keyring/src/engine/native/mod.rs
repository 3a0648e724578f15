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
use pgp::types::KeyDetails;
pub(crate) use signature::Sha1Until;
use stage::{Code, Failure};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
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
    /// How many keys of the rings are not in it: those of a kind that is not known here, and those that have no name
    /// which the key itself signed.
    pub(crate) left_out: usize,
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

    let mut unread = 0;
    for (name, keys) in &ring.keys {
        let doing = |why: &str| doing(&format!("importing the ring '{name}'"), why);
        let packets = packet::parse(keys).map_err(|why| doing(&why))?;
        let mut keys = packets
            .iter()
            .filter(|p| p.tag == packet::tag::PUBLIC_KEY)
            .peekable();
        if keys.peek().is_none() {
            return Err(doing("there is no key in it"));
        }
        unread += keys.filter(|key| block::read(key).is_none()).count();
        blocks = block::group(blocks, packets, Local::Drop);
    }
    let all = blocks.len() + unread;
    blocks = clean(blocks, now).map_err(|why| doing("checking the keys", &why))?;
    let left_out = all - blocks.len();
    revoke(&mut blocks);

    let trust = |owner| Trust {
        owner,
        ..Trust::default()
    };
    let mut trusts: BTreeMap<Print, Trust> = owners
        .into_iter()
        .map(|(print, owner)| (print, trust(owner)))
        .collect();
    listing::alive(ring, &list(&blocks, &trusts, now), now.into())?;
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
        left_out,
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
                created: block.key.created_at().as_secs().into(),
                expires: block.expires.map(u64::from),
                signed_by: Vec::new(),
            }
        })
        .collect()
}

/// Does one thing to each of many, on all processors. Where a limit on threads is reached, fewer do it, and this one alone if
/// need be.
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
    let queue = Mutex::new(all.into_iter().enumerate());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let run = || {
        std::iter::from_fn(next)
            .map(|(i, item)| (i, one(item)))
            .collect::<Vec<_>>()
    };
    let mut done = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads)
            .map_while(|_| std::thread::Builder::new().spawn_scoped(scope, run).ok())
            .collect();
        let mut done = run();
        for other in others {
            done.extend(other.join().map_err(|_| "a thread ended early")?);
        }
        Ok::<_, String>(done)
    })?;
    done.sort_by_key(|(i, _)| *i);
    Ok(done.into_iter().map(|(_, r)| r).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: u32 = 1_700_000_000;
    const NOW: u32 = 1_800_000_000;

    /// A key as somebody exports it.
    fn key() -> (Own, Block, Vec<u8>) {
        let (own, block) = Own::make(THEN).unwrap();
        let mut bytes = Vec::new();
        block.write(&mut bytes);
        (own, block, bytes)
    }

    fn ring(keys: Vec<u8>, trusted: &[&Block]) -> Ring {
        Ring {
            keys: vec![("x".into(), keys)],
            trusted: trusted.iter().map(|b| hex(&b.print)).collect(),
            ..Ring::default()
        }
    }

    fn make(ring: &Ring, files: Files) -> Result<Option<Made>, Failure> {
        build(ring, files, Sha1Until(0), NOW)
    }

    #[test]
    fn a_master_is_valid_and_a_stranger_is_not() {
        let ((_, a, one), (_, b, two)) = (key(), key());
        let made = make(&ring([one, two].concat(), &[&a]), Files::new())
            .unwrap()
            .unwrap();
        let of = |block: &Block| {
            let key = made
                .public
                .iter()
                .find(|k| k.fingerprint == hex(&block.print));
            key.map(|k| (k.validity, k.owner_trust)).unwrap()
        };
        assert_eq!((of(&a), of(&b), made.left_out), (('f', 'm'), ('-', '-'), 0));
        // Run again, it finds its own key and all signed.
        let again = make(&ring(key().2, &[]), made.files.clone())
            .unwrap()
            .unwrap();
        assert_eq!(again.secret, made.secret);
        assert_eq!(again.public[..3], made.public[..]);
        // What it does not understand is left to gpg.
        for name in ["pubring.kbx", "secring.gpg", "private-keys-v1.d/B.key"] {
            let mut files = made.files.clone();
            files.insert(name.into(), b"x".to_vec());
            assert!(
                make(&ring(key().2, &[]), files).unwrap().is_none(),
                "{name}"
            );
        }
    }

    /// Names, subkeys and local signatures that somebody put beside a key, and a key that is not in one piece.
    #[test]
    fn what_the_key_did_not_sign_is_not_taken() {
        let ((master, a, one), (stranger, b, two)) = (key(), key());
        let foreign = packet::Packet {
            tag: packet::tag::USER_ID,
            body: b"Another".to_vec(),
        };
        let by_stranger = stranger.sign_locally(&a.key, &foreign, THEN).unwrap();
        let local = master
            .sign_locally(&b.key, &b.names[0].packet, THEN)
            .unwrap();
        let mut keys = one;
        foreign.write(&mut keys);
        by_stranger.packet.write(&mut keys);
        packet::Packet {
            tag: packet::tag::PUBLIC_SUBKEY,
            body: b.packet().body.clone(),
        }
        .write(&mut keys);
        keys.extend(two);
        local.packet.write(&mut keys);
        packet::Packet {
            tag: packet::tag::PUBLIC_KEY,
            body: vec![9; 40],
        }
        .write(&mut keys);
        let made = make(&ring(keys, &[&a]), Files::new()).unwrap().unwrap();
        let text = &made.files["pubring.gpg"];
        assert!(!text.windows(7).any(|w| w == b"Another"));
        let packets = packet::parse(text).unwrap();
        let count = |tag| packets.iter().filter(|p| p.tag == tag).count();
        assert_eq!([6, 13, 14, 2].map(count), [3, 3, 0, 4]);
        assert_eq!(made.left_out, 1);
    }

    #[test]
    fn a_ring_that_was_tampered_with_is_not_believed() {
        let (_, a, bytes) = key();
        for i in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[i] ^= 0x15;
            // gpg's note at the end says nothing to us; whatever else was changed, the key is another or none.
            if let Ok(made) = make(&ring(bytes.clone(), &[&a]), Files::new()) {
                let at = bytes.len() - 8;
                assert!(
                    i >= at || !made.unwrap().public.is_empty() && is_unhashed(&a, i),
                    "{i}"
                );
            }
            if i % 8 != 0 {
                continue;
            }
            assert!(
                make(&ring(bytes[..i].to_vec(), &[&a]), Files::new()).is_err()
                    || i >= bytes.len() - 8,
                "{i}"
            );
        }
    }

    /// Whether a byte is in the part of the signature that is not signed: the hint of who made it.
    fn is_unhashed(block: &Block, at: usize) -> bool {
        let mut bytes = Vec::new();
        block.write(&mut bytes);
        let hint = [&[10_u8, 9, 16][1..], &block.id()].concat();
        let place = bytes.windows(hint.len()).position(|w| w == hint).unwrap();
        (place..place + hint.len()).contains(&at)
    }
}
