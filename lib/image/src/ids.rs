//! Ids of partitions and file systems: by chance, or the same each time.

use crate::epoch;
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest, Sha256};
use stage::{Code, Doing, Failure};
use uuid::Uuid;

/// Where the ids of one image come from.
#[derive(Clone, Debug)]
pub struct Ids {
    seed: [u8; 32],
}

impl Ids {
    /// Returns ids that follow from the date and `salt` (what tells this image from others of that date, such as its host
    /// name), or new ones where there is no date.
    ///
    /// # Errors
    ///
    /// [`Code::Os`] where the system has no random numbers.
    pub fn new(epoch: Option<u64>, salt: &str) -> Result<Self, Failure> {
        let mut seed = [0; 32];
        if let Some(epoch) = epoch {
            seed = Sha256::digest(format!("strapline image\n{}={epoch}\n{salt}", epoch::VARIABLE)).into();
        } else {
            // Up to 256 bytes come whole and uninterrupted (getrandom(2)).
            getrandom(&mut seed, GetRandomFlags::empty()).doing(Code::Os, || "drawing random numbers for ids")?;
        }
        Ok(Self { seed })
    }

    /// Returns the id of what is called `name`: the same for the same name.
    #[must_use]
    pub fn bytes(&self, name: &str) -> [u8; 16] {
        let hash = Sha256::new().chain_update(self.seed).chain_update(name).finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        bytes
    }

    /// Returns a UUID of version 8, whose bits are its maker's to choose (RFC 9562, 5.8).
    #[must_use]
    pub fn uuid(&self, name: &str) -> String {
        uuid::Builder::from_custom_bytes(self.bytes(name)).into_uuid().to_string()
    }

    /// Returns a FAT volume's serial number as blkid(8) and fstab(5) write it: `1A2B-3C4D`.
    #[must_use]
    pub fn fat_serial(&self, name: &str) -> String {
        let [a, b, c, d, ..] = self.bytes(name);
        format!("{a:02X}{b:02X}-{c:02X}{d:02X}")
    }
}

/// Checks a UUID that is not all zeros, and returns it in lower case.
///
/// # Errors
///
/// A sentence that says what is wrong with it.
pub fn parse_uuid(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    // The crate takes other forms, too.
    match Uuid::try_parse(&lower) {
        Ok(uuid) if !uuid.is_nil() && uuid.to_string() == lower => Ok(lower),
        _ => Err(format!("'{}' is not a UUID", text.escape_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_gives_the_same_ids_and_none_gives_others() {
        let of = |epoch, salt, name| Ids::new(epoch, salt).unwrap().uuid(name);
        assert_eq!(of(Some(1), "a", "root"), of(Some(1), "a", "root"));
        let others = [
            of(Some(1), "a", "root"),
            of(Some(1), "a", "boot"),
            of(Some(1), "b", "root"),
            of(Some(2), "a", "root"),
            of(None, "a", "root"),
            of(None, "a", "root"),
        ];
        for (n, id) in others.iter().enumerate() {
            assert!(!others[..n].contains(id), "{id}");
        }
    }

    #[test]
    fn ids_have_the_form_that_others_expect() {
        let ids = Ids::new(None, "").unwrap();
        for name in ["a", "b", "c", "d", "e", "f"] {
            let uuid = ids.uuid(name);
            let lengths: Vec<_> = uuid.split('-').map(str::len).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12], "{uuid}");
            assert_eq!(&uuid[14..15], "8", "{uuid}");
            assert!("89ab".contains(&uuid[19..20]), "{uuid}");
            let serial = ids.fat_serial(name);
            assert!(serial.len() == 9 && &serial[4..5] == "-", "{serial}");
        }
    }
}
