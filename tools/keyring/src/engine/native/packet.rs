//! OpenPGP packets as they lie in a file: a tag and a body (RFC 9580, section 4.2).
//!
//! A ring is kept as the bytes that it came as. What is parsed is parsed to be judged, and never written again from what
//! was understood of it: so nothing can be lost or put right on the way, and gpg sees what the signers signed.

use pgp::armor::Dearmor;
use std::io::Read;

/// The kinds of packets that a key is made of (RFC 9580, section 5).
pub(super) mod tag {
    pub(in super::super) const SIGNATURE: u8 = 2;
    pub(in super::super) const PUBLIC_KEY: u8 = 6;
    pub(in super::super) const USER_ID: u8 = 13;
    pub(in super::super) const PUBLIC_SUBKEY: u8 = 14;
    pub(in super::super) const USER_ATTRIBUTE: u8 = 17;
}

/// gpg's own note beside a packet; its tag (GnuPG doc/DETAILS, "ring trust packets").
const RING_TRUST: u8 = 12;

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) tag: u8,
    pub(super) body: Vec<u8>,
}

/// Returns the packets of a ring, which is binary, or in any number of ASCII armours (archlinuxarm's has four).
///
/// # Errors
///
/// In words, where it is neither.
pub(super) fn parse(ring: &[u8]) -> Result<Vec<Packet>, String> {
    let mut packets = Vec::new();
    if ring.first().is_some_and(|b| b & 0x80 != 0) {
        split(ring, &mut packets)?;
        return Ok(packets);
    }
    let text = std::str::from_utf8(ring).map_err(|_| "it is neither binary nor armoured")?;
    let mut rest = text;
    while let Some(begin) = rest.find(BEGIN) {
        let end = rest[begin..]
            .find(END)
            .ok_or("an armour has no end")?
            .saturating_add(begin + END.len());
        let mut binary = Vec::new();
        Dearmor::new(&rest.as_bytes()[begin..end])
            .read_to_end(&mut binary)
            .map_err(|e| format!("an armour is broken: {e}"))?;
        split(&binary, &mut packets)?;
        rest = &rest[end..];
    }
    Ok(packets)
}

const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
const END: &str = "-----END PGP PUBLIC KEY BLOCK-----";

/// Takes packets apart. Lengths that are not said at the front are for data of any length, which no key has.
fn split(mut bytes: &[u8], packets: &mut Vec<Packet>) -> Result<(), String> {
    while !bytes.is_empty() {
        let (packet, rest) = next(bytes).ok_or("a packet is cut off or has no length")?;
        bytes = rest;
        packets.push(packet);
    }
    Ok(())
}

fn next(bytes: &[u8]) -> Option<(Packet, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let big = |n: usize| -> Option<(usize, &[u8])> {
        let (digits, rest) = rest.split_at_checked(n)?;
        Some((
            digits.iter().fold(0, |all, d| all << 8 | usize::from(*d)),
            rest,
        ))
    };
    let (tag, (length, rest)) = match first {
        0xC0.. => {
            let length = match *rest.first()? {
                0..192 => big(1)?,
                192..224 => {
                    let (two, rest) = big(2)?;
                    (two - (192 << 8) + 192, rest)
                }
                224..255 => return None,
                255 => {
                    let (five, rest) = big(5)?;
                    (five & 0xFFFF_FFFF, rest)
                }
            };
            (first & 0x3F, length)
        }
        0x80.. => (
            first >> 2 & 0x0F,
            big([1, 2, 4].get(usize::from(first & 3)).copied()?)?,
        ),
        _ => return None,
    };
    let (body, rest) = rest.split_at_checked(length)?;
    Some((
        Packet {
            tag,
            body: body.to_vec(),
        },
        rest,
    ))
}

impl Packet {
    /// Writes it as gpg does: with the short, old header where the tag has one.
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        let length = u32::try_from(self.body.len()).unwrap_or(u32::MAX);
        let digits = length.to_be_bytes();
        match (self.tag, length) {
            (16.., _) => to.extend([0xC0 | self.tag, 0xFF].iter().chain(&digits)),
            (_, ..=0xFF) => to.extend([0x80 | self.tag << 2].iter().chain(&digits[3..])),
            (_, ..=0xFFFF) => to.extend([0x81 | self.tag << 2].iter().chain(&digits[2..])),
            _ => to.extend([0x82 | self.tag << 2].iter().chain(&digits)),
        }
        to.extend(&self.body);
    }
}

/// Writes gpg's note that the signature before it was checked and is good (`sigcache` in doc/DETAILS), so that gpg, which
/// starts anew for each package, needs not check it again and again.
pub(super) fn write_checked(to: &mut Vec<u8>) {
    let body = b"\0\x03gpg\0".to_vec();
    Packet {
        tag: RING_TRUST,
        body,
    }
    .write(to);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let packet = |tag, length| Packet {
            tag,
            body: vec![7; length],
        };
        let packets: Vec<_> = [0, 1, 191, 192, 255, 256, 8383, 8384, 65535, 65536]
            .iter()
            .flat_map(|n| [packet(2, *n), packet(17, *n)])
            .collect();
        let mut bytes = Vec::new();
        packets.iter().for_each(|p| p.write(&mut bytes));
        assert_eq!(parse(&bytes).unwrap(), packets);
        // And the new format's shorter lengths.
        assert_eq!(
            parse(&[0xC2, 1, 9]).unwrap(),
            [Packet {
                tag: 2,
                body: vec![9]
            }]
        );
        let mut two = vec![0xCD, 192, 8];
        two.extend([1; 200]);
        assert_eq!(parse(&two).unwrap()[0].body.len(), 200);
    }

    #[test]
    fn what_is_broken_is_refused() {
        for bad in [
            &[0x99][..],
            &[0x98, 2, 0],
            &[0x9B, 1],
            &[0xC2, 0xE1, 0],
            &[0xC2, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0],
            &[0x98, 0, 0x20],
            b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQ",
            b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n!!!!\n-----END PGP PUBLIC KEY BLOCK-----\n",
            b"\xff\xfe not a ring",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse(b"no ring at all\n"), Ok(Vec::new()));
    }

    /// As the fuzz target of that name has it.
    #[test]
    fn what_a_fuzzer_found_is_read_and_written_as_the_same() {
        let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
        let mut count = 0;
        for kind in ["corpus", "findings"] {
            let Ok(entries) = std::fs::read_dir(top.join(kind).join("openpgp")) else {
                continue;
            };
            for entry in entries {
                let Ok(packets) = parse(&std::fs::read(entry.unwrap().path()).unwrap()) else {
                    continue;
                };
                let mut written = Vec::new();
                packets.iter().for_each(|p| p.write(&mut written));
                assert_eq!(parse(&written), Ok(packets));
                count += 1;
            }
        }
        assert!(count >= 3, "{count}");
    }
}
