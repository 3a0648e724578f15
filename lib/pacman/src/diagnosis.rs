//! What is the matter with a signature.
//!
//! pacman says "is unknown trust" of a key that expired, of one that too few masters signed and of one that nobody did,
//! and "required key missing" of more still. gpg knows which of them it is, and the keyring says since when and by how
//! much. So the key is looked up, and what is said names the key, the reason and what mends it.

pub mod archive;
pub mod report;

use crate::gpg::Home;
use crate::gpg::listing::{Key, Keys};
use crate::gpg::status::{Signature, State, Trust};
use stage::date::day;
use stage::{Code, Failure, message};

/// What was found of a package's signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// pacman would take it at `Required`.
    Valid,
    /// There is none.
    Missing,
    /// The archive that it would be a signature of is not there.
    NoArchive,
    /// It is not the archive's, or no signature.
    Bad,
    /// It is by a key that the keyring does not have.
    UnknownKey,
    /// The key, or the signature itself, expired then.
    Expired(Option<u64>),
    /// The key was revoked by its owner.
    Revoked,
    /// The key is disabled in the keyring: it is in the distribution's list of revoked keys.
    Disabled,
    /// Some who are trusted vouch for the key, and too few.
    Marginal(Vouched),
    /// Nobody who is trusted vouches for the key.
    Untrusted(Vouched),
    /// The archive cannot be read here: what it is, is not known.
    Unreadable,
}

/// How many trusted keys vouch for a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vouched {
    /// How many do.
    pub have: u32,
    /// How many must.
    pub need: u32,
    /// How many more did in a way that gpg does not accept any more, with SHA-1.
    pub sha1: u32,
}

impl Verdict {
    /// Every word, in the order of a table.
    pub const WORDS: [&str; 11] = [
        "valid",
        "missing",
        "no-archive",
        "bad",
        "unknown-key",
        "expired",
        "revoked",
        "disabled",
        "marginal",
        "untrusted",
        "unreadable",
    ];

    /// Returns the word that stands in a document.
    #[must_use]
    pub fn word(&self) -> &'static str {
        let n = match self {
            Self::Valid => 0,
            Self::Missing => 1,
            Self::NoArchive => 2,
            Self::Bad => 3,
            Self::UnknownKey => 4,
            Self::Expired(_) => 5,
            Self::Revoked => 6,
            Self::Disabled => 7,
            Self::Marginal(_) => 8,
            Self::Untrusted(_) => 9,
            Self::Unreadable => 10,
        };
        Self::WORDS[n]
    }
}

/// The keyring, and the clock to judge it by.
#[derive(Debug)]
pub struct Judge<'a> {
    /// The keyring.
    pub home: &'a Home<'a>,
    /// What it has.
    pub keys: &'a Keys,
}

/// A verdict and what there is to say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// The verdict.
    pub verdict: Verdict,
    /// The key that signed: the primary key's fingerprint, or what the signature says of an unknown one.
    pub key: Option<String>,
    /// When the key was made, in seconds since 1970.
    pub created: Option<u64>,
    /// What is wrong, as it follows the name of a package and a colon. Empty where nothing is.
    pub why: String,
    /// What mends it, where that is known.
    pub hint: Option<String>,
}

impl Diagnosis {
    /// Returns the diagnosis of a package that has no signature to look at.
    #[must_use]
    pub fn without(verdict: Verdict, why: impl Into<String>, hint: &str) -> Self {
        Self {
            verdict,
            key: None,
            created: None,
            why: why.into(),
            hint: Some(hint.to_owned()),
        }
    }
}

impl Judge<'_> {
    /// Says what is the matter with what gpg found in one signature file. As pacman does, all of the signatures in it
    /// must be good: the first that is not is the one that counts.
    #[must_use]
    pub fn diagnose(&self, signatures: &[Signature]) -> Diagnosis {
        let mut first = None;
        for signature in signatures {
            let diagnosis = self.of_one(signature);
            if diagnosis.verdict != Verdict::Valid {
                return diagnosis;
            }
            first.get_or_insert(diagnosis);
        }
        first.unwrap_or_else(|| {
            Diagnosis::without(
                Verdict::Bad,
                "its signature is none: gpg finds nothing in it",
                FETCH_AGAIN,
            )
        })
    }

    fn of_one(&self, signature: &Signature) -> Diagnosis {
        let key = self.keys.find(&signature.key);
        let verdict = self.verdict(signature, key);
        let name = match key {
            Some(key) => key.name(),
            None => signature.key.clone(),
        };
        let (why, hint) = explain(&verdict, &name, key.is_some(), self.home.gpg().version());
        Diagnosis {
            verdict,
            key: Some(key.map_or_else(|| signature.key.clone(), |k| k.fingerprint.clone())),
            created: key.map(|k| k.created),
            why,
            hint,
        }
    }

    fn verdict(&self, signature: &Signature, key: Option<&Key>) -> Verdict {
        let trust = match signature.state {
            State::Bad | State::Unusable(_) => return Verdict::Bad,
            State::NoKey => return Verdict::UnknownKey,
            State::KeyRevoked => return Verdict::Revoked,
            State::KeyExpired(_) => return Verdict::Expired(key.and_then(|k| k.expires)),
            State::Expired(on) => return Verdict::Expired(on),
            State::Good(trust) => trust,
        };
        let Some(key) = key else {
            return Verdict::UnknownKey;
        };
        // gpg verifies by a disabled key, with a warning; pacman does not.
        if key.disabled {
            return Verdict::Disabled;
        }
        match (trust, key.validity) {
            (Trust::Full, _) => Verdict::Valid,
            (_, 'r') => Verdict::Revoked,
            (_, 'e') => Verdict::Expired(key.expires),
            (Trust::Marginal, _) => Verdict::Marginal(self.vouched(key)),
            _ => Verdict::Untrusted(self.vouched(key)),
        }
    }

    /// Counts the trusted keys that signed a key.
    fn vouched(&self, key: &Key) -> Vouched {
        let mut vouched = Vouched {
            need: self.keys.needed,
            ..Vouched::default()
        };
        let mut seen = Vec::new();
        for certificate in self.home.certificates(&key.fingerprint) {
            let Some(by) = self.keys.find(&certificate.by) else {
                continue;
            };
            let counts = matches!(by.owner_trust, 'm' | 'f' | 'u')
                && matches!(by.validity, 'f' | 'u')
                && by.fingerprint != key.fingerprint
                && !by.disabled;
            if !counts || seen.contains(&&by.fingerprint) {
                continue;
            }
            if certificate.good {
                vouched.have += 1;
                seen.push(&by.fingerprint);
            } else if certificate.sha1 {
                vouched.sha1 += 1;
                seen.push(&by.fingerprint);
            }
        }
        vouched
    }
}

const FETCH_AGAIN: &str = "remove it from the cache and run again: it is then fetched again";
const NEWER: &str = "a newer keyring package mends it: strap that, then run keyring again";
const REPLACE: &str =
    "take no package by that key: strap it again when the distribution has signed it by another";

/// Returns what is wrong and what mends it. `name` is the key's, which is in the keyring where it is `known`.
fn explain(
    verdict: &Verdict,
    name: &str,
    known: bool,
    gpg: (u32, u32, u32),
) -> (String, Option<String>) {
    let name = message::escape(name);
    let by = format!("it is signed by the key {name}");
    let (why, hint) = match verdict {
        Verdict::Valid => return (String::new(), None),
        Verdict::Missing | Verdict::NoArchive | Verdict::Unreadable => return (by, None),
        Verdict::Bad => (
            format!("it is not what the key {name} signed"),
            FETCH_AGAIN.to_owned(),
        ),
        Verdict::UnknownKey if known => (format!("{by}, which gpg cannot use"), NEWER.to_owned()),
        Verdict::UnknownKey => (
            format!("{by}, which is not in the keyring"),
            NEWER.to_owned(),
        ),
        Verdict::Expired(Some(on)) => (
            format!("{by}, which expired on {}", day(*on)),
            NEWER.to_owned(),
        ),
        Verdict::Expired(None) => (format!("{by}, which expired"), NEWER.to_owned()),
        Verdict::Revoked => (format!("{by}, which its owner revoked"), REPLACE.to_owned()),
        Verdict::Disabled => (
            format!("{by}, which is disabled: the distribution revoked it"),
            REPLACE.to_owned(),
        ),
        Verdict::Marginal(vouched) | Verdict::Untrusted(vouched) => {
            let trust = name.split(' ').next().unwrap_or_default();
            (
                format!("{by}, {}", vouched.words(gpg)),
                format!("{NEWER}; 'keyring --trust {trust}' takes it as it is"),
            )
        }
    };
    (why, Some(hint))
}

impl Vouched {
    fn words(self, (major, minor, _): (u32, u32, u32)) -> String {
        let keys = |n: u32| match n {
            0 => "no trusted key".to_owned(),
            1 => "1 trusted key".to_owned(),
            n => format!("{n} trusted keys"),
        };
        let vouch = if self.have < 2 { "vouches" } else { "vouch" };
        let mut text = format!(
            "for which {} {vouch} where {} must",
            keys(self.have),
            self.need
        );
        if self.sha1 > 0 {
            text += &format!(
                ", and {} with SHA-1, which gpg {major}.{minor} does not accept",
                self.sha1
            );
        }
        text
    }
}

/// Says that the clock is behind, where it is: keys and signatures that are made later than now do not verify. `newest`
/// is the latest time that is known to be past, and what happened then.
#[must_use]
pub fn clock(now: u64, newest: (u64, &str)) -> Option<Failure> {
    let (time, what) = newest;
    // Clocks that run a little apart are no cause.
    const SLACK: u64 = 3600;
    if now + SLACK >= time {
        return None;
    }
    Some(
        Failure::new(
            Code::NotVerified,
            format!(
                "reading the clock: it says {}, and {what} on {}",
                day(now),
                day(time)
            ),
        )
        .hint("set it, with 'timedatectl set-ntp true' or 'date --utc --set', and run again"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_is_a_word_of_its_own_and_says_what_is_wrong() {
        let two = Vouched {
            have: 2,
            need: 3,
            sha1: 1,
        };
        let table = [
            (Verdict::Bad, true, "it is not what the key K (x) signed"),
            (
                Verdict::UnknownKey,
                false,
                "it is signed by the key K (x), which is not in the keyring",
            ),
            (
                Verdict::Expired(Some(1_709_164_800)),
                true,
                "it is signed by the key K (x), which expired on 2024-02-29",
            ),
            (
                Verdict::Revoked,
                true,
                "it is signed by the key K (x), which its owner revoked",
            ),
            (
                Verdict::Disabled,
                true,
                "it is signed by the key K (x), which is disabled: the distribution revoked it",
            ),
            (
                Verdict::Marginal(two),
                true,
                "it is signed by the key K (x), for which 2 trusted keys vouch where 3 must, and 1 with SHA-1, which \
                 gpg 2.4 does not accept",
            ),
            (
                Verdict::Untrusted(Vouched {
                    need: 3,
                    ..Vouched::default()
                }),
                true,
                "it is signed by the key K (x), for which no trusted key vouches where 3 must",
            ),
        ];
        let mut words = Vec::new();
        for (verdict, known, why) in table {
            let (said, hint) = explain(&verdict, "K (x)", known, (2, 4, 7));
            assert_eq!(said, why);
            assert!(hint.is_some(), "{verdict:?}");
            words.push(verdict.word());
        }
        let without = [
            Verdict::Valid,
            Verdict::Missing,
            Verdict::NoArchive,
            Verdict::Unreadable,
        ];
        words.extend(without.map(|v| v.word()));
        words.sort_unstable();
        let mut all = Verdict::WORDS;
        all.sort_unstable();
        assert_eq!(words, all);
    }

    #[test]
    fn a_clock_that_is_behind() {
        let built = (1_700_000_000, "'bash' was built");
        let failure = clock(1_600_000_000, built).unwrap();
        assert_eq!(
            failure.message,
            "reading the clock: it says 2020-09-13, and 'bash' was built on 2023-11-14"
        );
        assert_eq!(clock(1_700_000_000, built), None);
        assert_eq!(clock(1_699_999_000, built), None);
    }
}
