//! `trustdb.gpg`: what gpg remembers of whom its user trusts, and of what follows from that.
//!
//! A file of records of forty bytes (g10/tdbio.h and tdbio.c, doc/DETAILS "Layout of the TrustDB"): the version, a hash
//! table of 29 records, then per key a trust record and one validity record for each of its names that somebody signed.

use super::block::Print;
use std::collections::BTreeMap;

const LENGTH: usize = 40;
const VERSION: u8 = 1;
const HASH_TABLE: u8 = 10;
const HASH_LIST: u8 = 11;
const TRUST: u8 = 12;
const VALID: u8 = 13;

/// The hash table has an item for each first byte of a fingerprint, nine to a record; a list has six.
const TABLE_ITEMS: usize = 9;
const TABLE_RECORDS: usize = 256_usize.div_ceil(TABLE_ITEMS);
const LIST_ITEMS: usize = 6;

/// The trust model and the numbers that pacman-key leaves at gpg's defaults: three marginal signatures or one full one,
/// five steps, no signatures of persona.
pub(super) const MARGINALS_NEEDED: u8 = 3;
pub(super) const COMPLETES_NEEDED: u8 = 1;
pub(super) const MAX_DEPTH: u8 = 5;
pub(super) const MIN_CERT_LEVEL: u8 = 2;
const MODEL_PGP: u8 = 1;

/// What is known of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trust {
    /// How far its owner's signatures count, with the mark of a disabled key.
    pub(super) owner: u8,
    /// How many steps it is from the root's own key.
    pub(super) depth: u8,
    /// Its names that somebody signed.
    pub(super) names: Vec<Valid>,
}

/// How valid a name is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Valid {
    /// RIPEMD-160 of it.
    pub(super) hash: Print,
    pub(super) validity: u8,
    pub(super) full: u8,
    pub(super) marginal: u8,
}

/// Writes the file. `next_check` is when gpg is to look again: when the first of the keys and signatures that count ends.
pub(super) fn write(keys: &BTreeMap<Print, Trust>, now: u32, next_check: Option<u32>) -> Vec<u8> {
    let mut file = File(Vec::new());
    let mut version = Record::new(VERSION);
    version.0[1..4].copy_from_slice(b"gpg");
    let numbers = [
        3,
        MARGINALS_NEEDED,
        COMPLETES_NEEDED,
        MAX_DEPTH,
        MODEL_PGP,
        MIN_CERT_LEVEL,
    ];
    version.0[4..10].copy_from_slice(&numbers);
    version.number(12, now);
    version.number(16, next_check.unwrap_or(0));
    version.number(36, 1);
    file.push(version);
    for _ in 0..TABLE_RECORDS {
        file.push(Record::new(HASH_TABLE));
    }
    let mut table: BTreeMap<u8, Vec<u32>> = BTreeMap::new();
    for (print, trust) in keys {
        let mut next = 0;
        for name in trust.names.iter().rev() {
            let mut valid = Record::new(VALID);
            valid.0[2..22].copy_from_slice(&name.hash);
            valid.0[22] = name.validity;
            valid.number(23, next);
            valid.0[27] = name.full;
            valid.0[28] = name.marginal;
            next = file.push(valid);
        }
        let mut record = Record::new(TRUST);
        record.0[2..22].copy_from_slice(print);
        record.0[22] = trust.owner;
        record.0[23] = trust.depth;
        record.number(26, next);
        let at = file.push(record);
        table.entry(print[0]).or_default().push(at);
    }
    for (first, records) in table {
        let item = match records.as_slice() {
            [one] => *one,
            all => {
                let mut next = 0;
                for some in all.chunks(LIST_ITEMS) {
                    let mut list = Record::new(HASH_LIST);
                    list.number(2, next);
                    for (i, at) in some.iter().enumerate() {
                        list.number(6 + 4 * i, *at);
                    }
                    next = file.push(list);
                }
                next
            }
        };
        let first = usize::from(first);
        let at = (1 + first / TABLE_ITEMS) * LENGTH + 2 + 4 * (first % TABLE_ITEMS);
        file.0[at..at + 4].copy_from_slice(&item.to_be_bytes());
    }
    file.0
}

struct Record([u8; LENGTH]);

impl Record {
    fn new(kind: u8) -> Self {
        let mut record = Self([0; LENGTH]);
        record.0[0] = kind;
        record
    }

    fn number(&mut self, at: usize, number: u32) {
        self.0[at..at + 4].copy_from_slice(&number.to_be_bytes());
    }
}

struct File(Vec<u8>);

impl File {
    /// Returns the number of the record.
    fn push(&mut self, record: Record) -> u32 {
        let number = self.0.len() / LENGTH;
        self.0.extend(record.0);
        u32::try_from(number).unwrap_or(0)
    }
}

/// Returns the owner trust of each key in such a file: what a home of before says of its keys. `None` where it is none.
pub(super) fn owners(file: &[u8]) -> Option<BTreeMap<Print, u8>> {
    if file.is_empty() {
        return Some(BTreeMap::new());
    }
    if !file.len().is_multiple_of(LENGTH) || file.get(..5)? != b"\x01gpg\x03" {
        return None;
    }
    let records = file.chunks_exact(LENGTH).filter(|r| r[0] == TRUST);
    let owner = |r: &[u8]| Some((r.get(2..22)?.try_into().ok()?, *r.get(22)?));
    Some(records.filter_map(owner).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let key = |first: u8, last: u8| {
            let mut print = [first; 20];
            print[19] = last;
            print
        };
        let mut keys = BTreeMap::new();
        // More keys with one first byte than a list has room for, and both ends of the table.
        for last in 0..20 {
            keys.insert(
                key(7, last),
                Trust {
                    owner: 4,
                    ..Trust::default()
                },
            );
        }
        let names = vec![
            Valid {
                hash: [1; 20],
                validity: 5,
                full: 1,
                marginal: 0,
            },
            Valid {
                hash: [2; 20],
                validity: 4,
                full: 0,
                marginal: 2,
            },
        ];
        keys.insert(
            key(0, 1),
            Trust {
                owner: 128,
                depth: 0,
                names: Vec::new(),
            },
        );
        keys.insert(
            key(255, 1),
            Trust {
                owner: 0,
                depth: 2,
                names,
            },
        );
        let file = write(&keys, 1_000_000_000, Some(2_000_000_000));
        let read = owners(&file).unwrap();
        assert_eq!(read.len(), keys.len());
        assert!(keys.iter().all(|(print, trust)| read[print] == trust.owner));
        // Every key is found from the table, as gpg looks for it.
        let record = |n: u32| &file[n as usize * LENGTH..][..LENGTH];
        let number = |r: &[u8], at: usize| u32::from_be_bytes(r[at..at + 4].try_into().unwrap());
        for print in keys.keys() {
            let first = usize::from(print[0]);
            let mut at = number(record(1 + (first / 9) as u32), 2 + 4 * (first % 9));
            let found = loop {
                let r = record(at);
                if r[0] == TRUST {
                    break r[2..22] == print[..];
                }
                assert_eq!(r[0], HASH_LIST);
                let items = || {
                    (0..LIST_ITEMS)
                        .map(|i| number(r, 6 + 4 * i))
                        .filter(|n| *n != 0)
                };
                if items().any(|n| record(n)[2..22] == print[..]) {
                    break true;
                }
                at = number(r, 2);
                assert_ne!(at, 0);
            };
            assert!(found, "{print:?}");
        }
        assert_eq!(owners(b""), Some(BTreeMap::new()));
        for bad in [&file[1..], b"x", &[0; 40]] {
            assert_eq!(owners(bad), None);
        }
    }
}
