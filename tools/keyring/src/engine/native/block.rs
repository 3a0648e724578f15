//! A key with all that belongs to it, put together from packets: its names, its subkeys, and who signed them.
//!
//! A ring comes from a mirror, and anybody can put names and subkeys beside somebody's key. So it is cleaned as
//! `gpg --import` cleans it (g10/import.c): what the key itself did not sign is not taken, nor are local signatures of
//! others, nor kinds of packets that are none of a key's.

use super::packet::{Packet, tag, write_checked};
use super::signature::{Said, Sig, header};
use pgp::packet::{PublicKey, PublicSubkey, SignatureType};
use pgp::types::{Fingerprint, KeyDetails};
use std::collections::HashMap;

/// A key's long id: the last eight bytes of its fingerprint (RFC 9580, 5.5.4.2).
pub(super) type Id = [u8; 8];

/// A fingerprint of a version 4 key. Arch's rings and gpg's trust database have no others.
pub(super) type Print = [u8; 20];

/// Returns the id of a key with this fingerprint, or the id itself.
pub(super) fn id_of(print: &[u8]) -> Option<Id> {
    print.last_chunk().copied()
}

/// Signatures by which others, or the key itself, vouch for a name.
pub(super) const CERTIFIES: [SignatureType; 4] = [
    SignatureType::CertGeneric,
    SignatureType::CertPersona,
    SignatureType::CertCasual,
    SignatureType::CertPositive,
];

/// A key.
#[derive(Clone, Debug)]
pub(super) struct Block {
    packet: Packet,
    pub(super) key: PublicKey,
    pub(super) print: Print,
    /// Signatures on the key as a whole.
    pub(super) direct: Vec<Sig>,
    pub(super) names: Vec<Name>,
    subkeys: Vec<(Packet, Vec<Sig>)>,
    /// Whether its owner took it back.
    pub(super) revoked: bool,
    /// When it ends, in seconds since 1970.
    pub(super) expires: Option<u32>,
    /// The fingerprints of those who may revoke it, beside its owner.
    pub(super) revokers: Vec<Print>,
}

/// A user id, or a user attribute, which is mostly a picture.
#[derive(Clone, Debug)]
pub(super) struct Name {
    pub(super) packet: Packet,
    pub(super) sigs: Vec<Sig>,
    /// Whether its owner took it back, or its own signature has ended.
    pub(super) gone: bool,
    /// When its own signature ends.
    pub(super) expires: Option<u32>,
}

/// Whose signatures for nobody else's eyes are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Local {
    /// Those of a keyring of our own.
    Keep,
    /// Those that come from elsewhere: none.
    Drop,
}

/// Puts keys together, beside those that are there. A key that is there more than once becomes one.
pub(super) fn group(mut blocks: Vec<Block>, packets: Vec<Packet>, local: Local) -> Vec<Block> {
    let places = blocks.iter().enumerate().map(|(i, b)| (b.print, i));
    let mut places: HashMap<Print, usize> = places.collect();
    let mut packets = packets.into_iter().peekable();
    while let Some(first) = packets.next() {
        let mut rest = Vec::new();
        while let Some(packet) = packets.next_if(|p| p.tag != tag::PUBLIC_KEY) {
            rest.push(packet);
        }
        let Some(block) = Block::new(first, rest, local) else {
            continue;
        };
        match places.get(&block.print) {
            Some(at) => blocks[*at].merge(block),
            None => {
                places.insert(block.print, blocks.len());
                blocks.push(block);
            }
        }
    }
    blocks
}

/// Reads a key; `None` where it is none, or of a kind that we do not know.
pub(super) fn read(packet: &Packet) -> Option<(PublicKey, Print)> {
    let header = header(packet.tag, packet.body.len())?;
    let key = PublicKey::try_from_reader(header, packet.body.as_slice()).ok()?;
    match key.fingerprint() {
        Fingerprint::V4(print) => Some((key, print)),
        _ => None,
    }
}

impl Block {
    /// `None` where the first packet is no key, or none that is understood.
    fn new(packet: Packet, rest: Vec<Packet>, local: Local) -> Option<Self> {
        let (key, print) = read(&packet)?;
        let mut block = Self::of(packet, key, print);
        let mut sigs = &mut block.direct;
        for packet in rest {
            match packet.tag {
                tag::SIGNATURE => {
                    let sig = Sig::new(packet);
                    if local == Local::Keep || sig.exportable() {
                        sigs.push(sig);
                    }
                }
                tag::USER_ID | tag::USER_ATTRIBUTE => {
                    block.names.push(Name::new(packet));
                    sigs = &mut block.names.last_mut()?.sigs;
                }
                tag::PUBLIC_SUBKEY => {
                    block.subkeys.push((packet, Vec::new()));
                    sigs = &mut block.subkeys.last_mut()?.1;
                }
                _ => {}
            }
        }
        Some(block)
    }

    fn of(packet: Packet, key: PublicKey, print: Print) -> Self {
        Self {
            packet,
            key,
            print,
            direct: Vec::new(),
            names: Vec::new(),
            subkeys: Vec::new(),
            revoked: false,
            expires: None,
            revokers: Vec::new(),
        }
    }

    /// A key of ours, with its name.
    pub(super) fn own(packet: Packet, name: Packet, sig: Sig) -> Option<Self> {
        let mut block = Self::new(packet, vec![name], Local::Keep)?;
        block.names.last_mut()?.sigs.push(sig);
        Some(block)
    }

    pub(super) fn packet(&self) -> &Packet {
        &self.packet
    }

    pub(super) fn id(&self) -> Id {
        id_of(&self.print).unwrap_or_default()
    }

    fn merge(&mut self, other: Self) {
        fn add(to: &mut Vec<Sig>, sigs: Vec<Sig>) {
            for sig in sigs {
                if to.iter().all(|s| s.packet != sig.packet) {
                    to.push(sig);
                }
            }
        }
        add(&mut self.direct, other.direct);
        for name in other.names {
            match self.names.iter_mut().find(|n| n.packet == name.packet) {
                Some(same) => add(&mut same.sigs, name.sigs),
                None => self.names.push(name),
            }
        }
        for (packet, sigs) in other.subkeys {
            match self.subkeys.iter_mut().find(|(p, _)| *p == packet) {
                Some((_, same)) => add(same, sigs),
                None => self.subkeys.push((packet, sigs)),
            }
        }
    }

    /// Removes what the key did not sign itself, and finds out what it says of itself (g10/getkey.c,
    /// merge_selfsigs_main). Returns whether it has a name left: a key without is none.
    pub(super) fn clean(&mut self, now: u32) -> bool {
        let (key, id) = (&self.key, self.id());
        let own = |said: &Said| said.issuers.contains(&id);

        for sig in &mut self.direct {
            let Some(said) = sig.said.as_ref().filter(|s| own(s)) else {
                continue;
            };
            if said.kind == SignatureType::KeyRevocation && said.holds_on_key(key, key) {
                self.revoked = true;
                sig.mark();
            }
        }
        let mut lives = None;
        if let Some(i) = newest(&self.direct, |said| {
            said.kind == SignatureType::Key
                && own(said)
                && said.expires.is_none_or(|end| end > now)
                && said.holds_on_key(key, key)
        }) {
            self.direct[i].mark();
            if let Some(said) = &self.direct[i].said {
                lives = said.key_lives;
                let prints = said.revokers().into_iter();
                self.revokers = prints.filter_map(|p| p.try_into().ok()).collect();
            }
        }

        // Where no such signature says how long the key lives, the newest of those on a name does that says it.
        let mut of_names: Option<(u32, u32)> = None;
        self.names.retain_mut(|name| {
            let Packet { tag, body } = &name.packet;
            let Some(i) = newest(&name.sigs, |said| {
                (CERTIFIES.contains(&said.kind) || said.kind == SignatureType::CertRevocation)
                    && own(said)
                    && said.holds_on_id(key, key, *tag, body)
            }) else {
                return false;
            };
            name.sigs[i].mark();
            if let Some(said) = &name.sigs[i].said {
                let revoked = said.kind == SignatureType::CertRevocation;
                name.expires = said.expires;
                name.gone = revoked || said.expires.is_some_and(|end| end <= now);
                if let Some(lives) = said.key_lives
                    && of_names.is_none_or(|(when, _)| said.created > when)
                {
                    of_names = Some((said.created, lives));
                }
            }
            true
        });
        let lives = lives.or(of_names.map(|(_, lives)| lives));
        self.expires = lives.map(|lives| key.created_at().as_secs().saturating_add(lives));

        self.subkeys.retain_mut(|(packet, sigs)| {
            let subkey = header(packet.tag, packet.body.len())
                .and_then(|h| PublicSubkey::try_from_reader(h, packet.body.as_slice()).ok());
            let Some(subkey) = subkey else {
                return false;
            };
            let bound = newest(sigs, |said| {
                said.kind == SignatureType::SubkeyBinding && said.holds_on_subkey(key, &subkey)
            });
            if let Some(i) = bound {
                sigs[i].mark();
            }
            bound.is_some()
        });
        !self.names.is_empty()
    }

    /// Whether it ended before `now`.
    pub(super) fn expired(&self, now: u32) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }

    /// Writes it as it lies in `pubring.gpg`.
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        let put = |to: &mut Vec<u8>, sigs: &[Sig]| {
            for sig in sigs {
                sig.packet.write(to);
                if sig.checked {
                    write_checked(to);
                }
            }
        };
        self.packet.write(to);
        put(to, &self.direct);
        for name in &self.names {
            name.packet.write(to);
            put(to, &name.sigs);
        }
        for (packet, sigs) in &self.subkeys {
            packet.write(to);
            put(to, sigs);
        }
    }
}

impl Name {
    fn new(packet: Packet) -> Self {
        Self {
            packet,
            sigs: Vec::new(),
            gone: false,
            expires: None,
        }
    }
}

/// Returns the newest of the signatures that hold; of those made in the same second the last. What is expensive is asked
/// from the newest on, so mostly once.
fn newest(sigs: &[Sig], holds: impl Fn(&Said) -> bool) -> Option<usize> {
    let created = |i: &usize| sigs[*i].said.as_ref().map_or(0, |s| s.created);
    let mut order: Vec<usize> = (0..sigs.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse((created(i), *i)));
    order
        .into_iter()
        .find(|i| sigs[*i].said.as_ref().is_some_and(&holds))
}
