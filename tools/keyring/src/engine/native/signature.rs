//! One signature: what it says, and whether it holds.
//!
//! The arithmetic is the `pgp` crate's; the rules are gpg's (g10/sig-check.c), since gpg is the judge of what we write:
//! no MD5, nothing that the signer calls critical and we do not know, no signature that is older than its key.

use super::block::{Id, id_of};
use super::packet::Packet;
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{PacketHeader, PublicKey, Signature, SignatureType, SubpacketData};
use pgp::ser::Serialize;
use pgp::types::{KeyDetails, PacketHeaderVersion, PacketLength, Tag};

/// A signature packet in a key.
#[derive(Clone, Debug)]
pub(super) struct Sig {
    pub(super) packet: Packet,
    /// What it says; `None` where it is of a kind that nobody of today reads.
    pub(super) said: Option<Said>,
    /// Whether we know that it is good.
    pub(super) checked: bool,
}

/// What a signature says.
#[derive(Clone, Debug)]
pub(super) struct Said {
    signature: Signature,
    pub(super) kind: SignatureType,
    pub(super) created: u32,
    /// When the signature itself ends, in seconds since 1970.
    pub(super) expires: Option<u32>,
    /// How long the key lives, from its creation on.
    pub(super) key_lives: Option<u32>,
    /// Who made it, by its own word.
    pub(super) issuers: Vec<Id>,
}

/// Which certifications of others may rest on SHA-1: those made until then.
///
/// gpg's own rule by version (NEWS of 2.2.18 and 2.3.0), so that what we write is what it finds when it looks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sha1Until(pub(crate) u32);

impl Sha1Until {
    /// What a gpg of this version accepts; without one, what those of today do: nothing.
    pub(crate) fn of(gpg: Option<(u32, u32, u32)>) -> Self {
        match gpg {
            Some(version) if version < (2, 2, 18) => Self(u32::MAX),
            // 2019-01-19, the day after which they ceased to count in 2.2.
            Some(version) if version < (2, 3, 0) => Self(1_547_856_000),
            _ => Self(0),
        }
    }
}

/// The bytes of a user id or attribute, as they are hashed.
#[derive(Debug)]
pub(super) struct Raw<'a>(pub(super) &'a [u8]);

impl Serialize for Raw<'_> {
    fn to_writer<W: std::io::Write>(&self, to: &mut W) -> pgp::errors::Result<()> {
        Ok(to.write_all(self.0)?)
    }

    fn write_len(&self) -> usize {
        self.0.len()
    }
}

/// What `pgp` wants to know of a packet beside its body.
pub(super) fn header(tag: u8, length: usize) -> Option<PacketHeader> {
    let length = PacketLength::Fixed(u32::try_from(length).ok()?);
    PacketHeader::from_parts(PacketHeaderVersion::New, Tag::from(tag), length).ok()
}

impl Sig {
    pub(super) fn new(packet: Packet) -> Self {
        let said = header(packet.tag, packet.body.len())
            .and_then(|header| Signature::try_from_reader(header, packet.body.as_slice()).ok())
            .and_then(Said::of);
        Self {
            packet,
            said,
            checked: false,
        }
    }

    /// What it says, if it is one of these kinds.
    pub(super) fn of(&self, kinds: &[SignatureType]) -> Option<&Said> {
        self.said.as_ref().filter(|s| kinds.contains(&s.kind))
    }

    /// Whether it is for other eyes than its maker's (RFC 9580, 5.2.3.19).
    pub(super) fn exportable(&self) -> bool {
        self.said
            .as_ref()
            .is_none_or(|s| s.signature.exportable_certification())
    }

    /// Notes that it is good, unless it rests on SHA-1: of those each gpg is to judge by its own rule.
    pub(super) fn mark(&mut self) {
        self.checked = self.said.as_ref().is_some_and(|s| !s.is_sha1());
    }
}

impl Said {
    fn of(signature: Signature) -> Option<Self> {
        let created = signature.created()?.as_secs();
        let config = signature.config()?;
        let known = |data: &SubpacketData| {
            !matches!(
                data,
                SubpacketData::Other(..)
                    | SubpacketData::Experimental(..)
                    | SubpacketData::Notation(_)
            )
        };
        if matches!(signature.hash_alg()?, HashAlgorithm::Md5)
            || config
                .hashed_subpackets()
                .any(|p| p.is_critical && !known(&p.data))
        {
            return None;
        }
        let mut issuers: Vec<Id> = Vec::new();
        issuers.extend(
            signature
                .issuer_key_id()
                .iter()
                .filter_map(|id| id_of(id.as_ref())),
        );
        issuers.extend(
            signature
                .issuer_fingerprint()
                .iter()
                .filter_map(|f| id_of(f.as_bytes())),
        );
        let some = |seconds: u32| (seconds != 0).then_some(seconds);
        let lasts = signature.signature_expiration_time();
        Some(Self {
            kind: signature.typ()?,
            created,
            expires: lasts
                .and_then(|d| some(d.as_secs()))
                .map(|d| created.saturating_add(d)),
            key_lives: signature
                .key_expiration_time()
                .and_then(|d| some(d.as_secs())),
            issuers,
            signature,
        })
    }

    pub(super) fn is_sha1(&self) -> bool {
        matches!(self.signature.hash_alg(), Some(HashAlgorithm::Sha1))
    }

    pub(super) fn revocable(&self) -> bool {
        self.signature.is_revocable()
    }

    /// The keys that may revoke this one in its owner's name: their fingerprints.
    pub(super) fn revokers(&self) -> Vec<Vec<u8>> {
        let subpackets = self
            .signature
            .config()
            .into_iter()
            .flat_map(|c| c.hashed_subpackets());
        subpackets
            .filter_map(|p| match &p.data {
                SubpacketData::RevocationKey(key) => Some(key.fingerprint.to_vec()),
                _ => None,
            })
            .collect()
    }

    /// Whether it holds, as said by `signer` of this name on that key.
    pub(super) fn holds_on_id(
        &self,
        signer: &PublicKey,
        key: &PublicKey,
        tag: u8,
        id: &[u8],
    ) -> bool {
        let tag = Tag::from(tag);
        self.is_after(signer)
            && self
                .signature
                .verify_third_party_certification(key, signer, tag, &Raw(id))
                .is_ok()
    }

    /// Whether it holds, as said by `signer` of a key as a whole.
    pub(super) fn holds_on_key(&self, signer: &PublicKey, key: &PublicKey) -> bool {
        self.is_after(signer) && self.signature.verify_key_third_party(key, signer).is_ok()
    }

    /// Whether it holds, as said by a key of its subkey.
    pub(super) fn holds_on_subkey(
        &self,
        key: &PublicKey,
        subkey: &pgp::packet::PublicSubkey,
    ) -> bool {
        self.is_after(key) && self.signature.verify_subkey_binding(key, subkey).is_ok()
    }

    fn is_after(&self, signer: &PublicKey) -> bool {
        self.created >= signer.created_at().as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gpg_takes_of_sha1() {
        for (version, until) in [
            (Some((2, 1, 18)), u32::MAX),
            (Some((2, 2, 17)), u32::MAX),
            (Some((2, 2, 18)), 1_547_856_000),
            (Some((2, 2, 40)), 1_547_856_000),
            (Some((2, 4, 7)), 0),
            (None, 0),
        ] {
            assert_eq!(Sha1Until::of(version), Sha1Until(until), "{version:?}");
        }
    }

    #[test]
    fn nonsense_says_nothing() {
        for body in [
            &[][..],
            &[4],
            &[9, 9, 9, 9],
            &[4, 0x10, 1, 2, 0, 0, 0, 0, 0, 0],
        ] {
            let sig = Sig::new(Packet {
                tag: 2,
                body: body.to_vec(),
            });
            assert!(sig.said.is_none() && !sig.checked);
        }
    }
}
