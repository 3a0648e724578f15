//! The root's own key: it makes the local signatures, by which the pinned keys become valid, and nothing else.
//!
//! Ed25519, made from 32 random bytes at once, where RSA-4096 takes seconds of searching for primes. Its secret half is
//! written where gpg's agent keeps secret keys, in the agent's own format: so there is nothing to migrate, and no agent is
//! started to do it.

use super::block::{Block, CERTIFIES, Name, Print};
use super::packet::{Packet, tag};
use super::signature::{Raw, Sig, header};
use pgp::crypto::ed25519::{Mode, SecretKey as Secret};
use pgp::crypto::eddsa_legacy;
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{PublicKey, SecretKey, SignatureConfig, SignatureType, Subpacket, SubpacketData};
use pgp::ser::Serialize;
use pgp::types::{KeyDetails, Password, PlainSecretParams, SecretParams, Tag, Timestamp};

/// What pacman-key --init calls it.
const NAME: &[u8] = b"Pacman Keyring Master Key <pacman@localhost>";

/// A public key packet's constant parts (RFC 9580, 5.5.2; 9.2 for the curve): algorithm 22, curve, length of the point.
const CURVE: [u8; 13] = [22, 9, 0x2B, 6, 1, 4, 1, 0xDA, 0x47, 0x0F, 1, 0x01, 0x07];

/// The point's prefix: "as it is" (RFC 9580, 11.2.1 "native").
const NATIVE: u8 = 0x40;

/// The secret key as libgcrypt has it, a canonical s-expression (GnuPG agent/keyformat.txt). Around the point and the
/// secret, all is constant.
const FILE: [&[u8]; 3] = [
    b"(11:private-key(3:ecc(5:curve7:Ed25519)(5:flags5:eddsa)(1:q33:",
    b")(1:d32:",
    b")))",
];

/// The same as gpg writes it since 2.2.20, in words.
const WORDS: [&str; 3] = [
    "(private-key(ecc(curveEd25519)(flagseddsa)(q#",
    "#)(d#",
    "#)))",
];

/// What a keygrip is the SHA-1 of, beside the point: the curve's parameters as libgcrypt hashes them
/// (cipher/ecc.c, compute_keygrip): prime, a, b, base point, order.
const GRIP: [(char, &str); 5] = [
    (
        'p',
        "7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFED",
    ),
    ('a', "01"),
    (
        'b',
        "2DFC9311D490018C7338BF8688861767FF8FF5B2BEBE27548A14B235ECA6874A",
    ),
    (
        'g',
        "04216936D3CD6E53FEC0A4E231FDD6DC5C692CC7609525A7B2C9562D608F25D51A\
         6666666666666666666666666666666666666666666666666666666666666658",
    ),
    (
        'n',
        "1000000000000000000000000000000014DEF9DEA2F79CD65812631A5CF5D3ED",
    ),
];

/// A secret key, with the public one as it stands in the ring.
#[derive(Debug)]
pub(super) struct Own {
    secret: SecretKey,
    seed: [u8; 32],
    point: [u8; 32],
}

impl Own {
    /// Makes a key, and how it stands in the ring.
    pub(super) fn make(now: u32) -> Result<(Self, Block), String> {
        let secret = Secret::generate(rand::rngs::OsRng, Mode::EdDSALegacy);
        let point = secret.verifying_key().to_bytes();
        let body = [&[4], &now.to_be_bytes()[..], &CURVE, &[NATIVE], &point].concat();
        let packet = Packet {
            tag: tag::PUBLIC_KEY,
            body,
        };
        let own = Self::of(&packet, *secret.as_bytes(), point).ok_or("the key was not taken")?;
        let name = Packet {
            tag: tag::USER_ID,
            body: NAME.to_vec(),
        };
        let mut flags = pgp::packet::KeyFlags::default();
        flags.set_certify(true);
        flags.set_sign(true);
        let says = vec![SubpacketData::KeyFlags(flags)];
        let key = own.secret.public_key();
        let sig = own.certify(SignatureType::CertPositive, key, &name, says, now)?;
        let block = Block::own(packet, name, sig).ok_or("the key was not understood")?;
        Ok((own, block))
    }

    fn of(public: &Packet, seed: [u8; 32], point: [u8; 32]) -> Option<Self> {
        let header = header(public.tag, public.body.len())?;
        let public = PublicKey::try_from_reader(header, public.body.as_slice()).ok()?;
        let secret = Secret::try_from_bytes(seed, Mode::EdDSALegacy).ok()?;
        let secret = PlainSecretParams::EdDSALegacy(eddsa_legacy::SecretKey::Ed25519(secret));
        let secret = SecretKey::new(public, SecretParams::Plain(secret)).ok()?;
        Some(Self {
            secret,
            seed,
            point,
        })
    }

    /// Signs a name of a key so that it counts here and goes nowhere else: what `--lsign-key` makes.
    pub(super) fn sign_locally(
        &self,
        key: &PublicKey,
        name: &Packet,
        now: u32,
    ) -> Result<Sig, String> {
        let says = vec![SubpacketData::ExportableCertification(false)];
        self.certify(SignatureType::CertGeneric, key, name, says, now)
    }

    fn certify(
        &self,
        kind: SignatureType,
        key: &PublicKey,
        name: &Packet,
        says: Vec<SubpacketData>,
        now: u32,
    ) -> Result<Sig, String> {
        let who = SubpacketData::IssuerFingerprint(self.secret.fingerprint());
        let when = SubpacketData::SignatureCreationTime(Timestamp::from_secs(now));
        let id = SubpacketData::IssuerKeyId(self.secret.legacy_key_id());
        let sign = || {
            let mut config =
                SignatureConfig::v4(kind, self.secret.algorithm(), HashAlgorithm::Sha256);
            for data in [who, when].into_iter().chain(says) {
                config.hashed_subpackets.push(Subpacket::regular(data)?);
            }
            config.unhashed_subpackets = vec![Subpacket::regular(id)?];
            config
                .sign_certification_third_party(
                    &self.secret,
                    &Password::empty(),
                    key,
                    Tag::from(name.tag),
                    &Raw(&name.body),
                )?
                .to_bytes()
        };
        let body = sign().map_err(|e| e.to_string())?;
        let mut sig = Sig::new(Packet {
            tag: tag::SIGNATURE,
            body,
        });
        sig.mark();
        Ok(sig)
    }

    /// Whether it vouches for a name already.
    pub(super) fn has_signed(&self, key: &PublicKey, name: &Name) -> bool {
        let me = self.secret.public_key();
        let Packet { tag, body } = &name.packet;
        name.sigs.iter().any(|sig| {
            sig.of(&CERTIFIES)
                .is_some_and(|said| said.expires.is_none() && said.holds_on_id(me, key, *tag, body))
        })
    }

    /// The file's name below `private-keys-v1.d`, and the file.
    pub(super) fn file(&self) -> Result<(String, Vec<u8>), String> {
        let [begin, between, end] = FILE;
        let text = [begin, &[NATIVE], &self.point, between, &self.seed, end].concat();
        Ok((format!("{}.key", grip(&self.point)?), text))
    }
}

/// Returns the keygrip: by that the agent knows a key.
fn grip(point: &[u8; 32]) -> Result<String, String> {
    let mut text = Vec::new();
    let mut add = |name: char, bytes: &[u8]| {
        text.extend(format!("(1:{name}{}:", bytes.len()).bytes());
        text.extend(bytes);
        text.push(b')');
    };
    for (name, digits) in GRIP {
        add(name, &unhex(digits).ok_or("a constant is wrong")?);
    }
    add('q', point);
    let hash = HashAlgorithm::Sha1
        .digest(&text)
        .map_err(|e| e.to_string())?;
    Ok(hex(&hash))
}

/// Returns the secret and the public half in a file of `private-keys-v1.d`; `None` where it is another kind of key, or
/// has a passphrase.
fn read(file: &[u8]) -> Option<([u8; 32], [u8; 32])> {
    let [begin, between, end] = FILE;
    let halves = if let Some(rest) = file.strip_prefix(begin) {
        let (point, rest) = rest.split_at_checked(33)?;
        let (seed, rest) = rest.strip_prefix(between)?.split_at_checked(32)?;
        (rest == end).then(|| (point.to_vec(), seed.to_vec()))?
    } else {
        // Lines of "Name: value", of which long ones go on after a space.
        let text = std::str::from_utf8(file).ok()?;
        let (_, text) = text.rsplit_once("Key:")?;
        let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let [begin, between, end] = WORDS;
        let rest = text.strip_prefix(begin)?.strip_suffix(end)?;
        let (point, seed) = rest.split_once(between)?;
        (unhex(point)?, unhex(seed)?)
    };
    let (point, seed) = halves;
    let point = point.strip_prefix(&[NATIVE])?.try_into().ok()?;
    // A leading zero is none to libgcrypt.
    let mut full = [0; 32];
    full.get_mut(32_usize.checked_sub(seed.len())?..)?
        .copy_from_slice(&seed);
    Some((full, point))
}

/// Finds whose key a file is among those of the ring.
pub(super) fn find(file: &[u8], blocks: &[Block]) -> Option<(Own, Print)> {
    let (seed, point) = read(file)?;
    blocks.iter().find_map(|block| {
        let own = Own::of(block.packet(), seed, point)?;
        let is = block.packet().body.get(5..) == Some(&[&CURVE[..], &[NATIVE], &point].concat());
        is.then_some((own, block.print))
    })
}

/// Digits in upper case, as gpg and we write them.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02X}")).collect()
}

/// The other way round.
pub(super) fn unhex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by gpg 2.2.40.
    const POINT: &str = "D48F737F03438A27639E0A0257AD52ACDE1DCACF3A8D4CB6442F7AED9F5258CA";

    #[test]
    fn a_keygrip_is_libgcrypts() {
        let point = unhex(POINT).unwrap().try_into().unwrap();
        assert_eq!(
            grip(&point).unwrap(),
            "141A01A5CE380E7B30B30EB160D20E7BFC35BA2F"
        );
    }

    #[test]
    fn a_key_is_known_again() {
        let (own, mut block) = Own::make(1_700_000_000).unwrap();
        assert!(block.clean(1_700_000_000) && block.expires.is_none() && !block.revoked);
        let (_, file) = own.file().unwrap();
        assert_eq!(read(&file), Some((own.seed, own.point)));
        let words = format!(
            "Created: 20261122T225934\nKey: (private-key (ecc (curve Ed25519)(flags eddsa)(q\n  \
             #40{}#)\n (d #{}#)\n ))\n",
            hex(&own.point),
            hex(&own.seed)
        );
        let blocks = [Own::make(1_700_000_000).unwrap().1, block];
        for file in [&file[..], words.as_bytes()] {
            assert_eq!(find(file, &blocks).unwrap().1, blocks[1].print);
        }
        for bad in [
            &b""[..],
            b"Key: (protected-private-key",
            &file[..90],
            &[&file[..], b"x"].concat(),
        ] {
            assert_eq!(read(bad), None);
        }
        assert!(find(&file, &blocks[..1]).is_none());
    }
}
