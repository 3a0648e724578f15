//! Why pacman refuses a signature.
//!
//! pacman prints "is unknown trust" for a key that expired, for one that too few masters signed and for one that nobody did,
//! and "required key missing" for more still. gpg knows which of them it is, and the keyring since when and by how
//! much. So the key is looked up, and the message names the key, the reason and what to do.

pub mod archive;
pub mod report;

use crate::gpg::Home;
use crate::gpg::listing::{Key, Keys};
use crate::gpg::status::{Signature, State, Trust};
use serde::{Deserialize, Serialize};
use stage::date::day;
use stage::{Code, Failure, message};

/// What is known of a package's signature.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// pacman accepts it at `Required`.
    Valid,
    /// The archive has no signature.
    Missing,
    /// There is no archive.
    NoArchive,
    /// It is not a signature of the archive.
    Bad,
    /// The keyring does not have its key.
    UnknownKey,
    /// The key, or the signature itself, expired.
    Expired,
    /// The key's owner revoked it.
    Revoked,
    /// The key is disabled in the keyring: it is in the distribution's list of revoked keys.
    Disabled,
    /// Too few trusted keys certify the key.
    Marginal,
    /// No trusted key certifies the key.
    Untrusted,
    /// The archive cannot be read here.
    Unreadable,
    /// The archive has none, as the command line said that installed it, and is the one that was installed.
    Unsigned,
    /// The key may not sign packages of this repository: see [`crate::publishers`].
    OtherPublisher,
}

impl Verdict {
    /// Every word, in the order of the verdicts.
    pub const WORDS: [&str; 13] = [
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
        "unsigned",
        "other-publisher",
    ];

    /// Returns its word in a document.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::WORDS[self as usize]
    }
}

/// What signatures are checked by.
#[derive(Debug)]
pub struct Verifier<'a> {
    /// The keyring.
    pub home: &'a Home<'a>,
    /// Its keys.
    pub keys: &'a Keys,
}

/// A verdict, and what to print of it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// The verdict.
    pub verdict: Verdict,
    /// The key that signed: the primary key's fingerprint, or what the signature names of an unknown key.
    pub key: Option<String>,
    /// When the key was made, in seconds since 1970.
    pub created: Option<u64>,
    /// What is wrong, to follow the name of a package and a colon. Empty where nothing is.
    pub why: String,
    /// What to do, where that is known.
    pub hint: Option<String>,
}

impl Diagnosis {
    /// Returns the diagnosis of a package without a signature to check.
    #[must_use]
    pub fn without_key(verdict: Verdict, why: impl Into<String>, hint: &str) -> Self {
        Self { verdict, key: None, created: None, why: why.into(), hint: Some(hint.to_owned()) }
    }

    /// Returns whether pacman accepts the signature at `Required`.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.verdict == Verdict::Valid
    }

    /// Returns whether there is nothing to report.
    #[must_use]
    pub fn is_good(&self) -> bool {
        matches!(self.verdict, Verdict::Valid | Verdict::Unsigned)
    }
}

const FETCH_AGAIN: &str = "remove it from the cache and run again, to download it again";
const NEWER: &str = "a newer keyring package may help: install it with strap, then run keyring again";
const REPLACE: &str =
    "do not use packages by that key: install it again when the distribution has signed it by another";

impl Verifier<'_> {
    /// Explains what gpg found in a signature file. As for pacman, all signatures in it must be good: the first that is not
    /// counts.
    #[must_use]
    pub fn diagnose(&self, signatures: &[Signature]) -> Diagnosis {
        let mut first = None;
        for signature in signatures {
            let diagnosis = self.diagnose_one(signature);
            if !diagnosis.is_valid() {
                return diagnosis;
            }
            first.get_or_insert(diagnosis);
        }
        first.unwrap_or_else(|| {
            Diagnosis::without_key(Verdict::Bad, "its signature file contains no signature", FETCH_AGAIN)
        })
    }

    fn diagnose_one(&self, signature: &Signature) -> Diagnosis {
        let key = self.keys.find(&signature.key);
        let (verdict, expired) = verdict(&signature.state, key);
        let name = key.map_or_else(|| signature.key.clone(), Key::name);
        let name = message::escape(&name);
        let by = format!("it is signed by the key {name}");
        let (why, hint) = match verdict {
            Verdict::Valid => (String::new(), None),
            Verdict::Bad => (format!("it is not what the key {name} signed"), Some(FETCH_AGAIN)),
            Verdict::UnknownKey if key.is_some() => (format!("{by}, which gpg cannot use"), Some(NEWER)),
            Verdict::UnknownKey => (format!("{by}, which is not in the keyring"), Some(NEWER)),
            Verdict::Expired => {
                let on = expired.map_or_else(String::new, |on| format!(" on {}", day(on)));
                (format!("{by}, which expired{on}"), Some(NEWER))
            }
            Verdict::Revoked => (format!("{by}, which its owner revoked"), Some(REPLACE)),
            Verdict::Disabled => (format!("{by}, which is disabled: the distribution revoked it"), Some(REPLACE)),
            _ => {
                let certificates = key.map(|key| self.count_certificates(key)).unwrap_or_default();
                let words = certificates.describe(self.keys.needed, self.home.gpg.version);
                (format!("{by}, {words}"), Some(NEWER))
            }
        };
        let by_hand = matches!(verdict, Verdict::Marginal | Verdict::Untrusted);
        Diagnosis {
            verdict,
            key: Some(key.map_or_else(|| signature.key.clone(), |k| k.fingerprint.clone())),
            created: key.map(|k| k.created),
            why,
            hint: hint.map(|hint| match key.filter(|_| by_hand) {
                Some(key) => format!("{hint}; 'keyring --trust {}' trusts the key", key.fingerprint),
                None => hint.to_owned(),
            }),
        }
    }

    /// Counts the trusted keys that certify a key.
    fn count_certificates(&self, key: &Key) -> Certificates {
        let mut count = Certificates::default();
        let mut seen = Vec::new();
        for certificate in self.home.certificates(&key.fingerprint) {
            let Some(by) = self.keys.find(&certificate.by) else {
                continue;
            };
            let counts = matches!(by.owner_trust, 'm' | 'f' | 'u')
                && matches!(by.validity, 'f' | 'u')
                && by.fingerprint != key.fingerprint
                && !by.disabled
                && (certificate.good || certificate.sha1);
            if counts && !seen.contains(&&by.fingerprint) {
                count.good += u32::from(certificate.good);
                count.sha1 += u32::from(!certificate.good);
                seen.push(&by.fingerprint);
            }
        }
        count
    }
}

/// Returns the verdict on a signature, and for [`Verdict::Expired`] the time, where it is known. `key` is the one that signed.
fn verdict(state: &State, key: Option<&Key>) -> (Verdict, Option<u64>) {
    let verdict = match (state, key) {
        (State::Bad | State::Unusable(_), _) => Verdict::Bad,
        (State::KeyRevoked, _) => Verdict::Revoked,
        (State::KeyExpired(_), _) => return (Verdict::Expired, key.and_then(|k| k.expires)),
        (State::Expired(on), _) => return (Verdict::Expired, *on),
        (State::NoKey, _) | (_, None) => Verdict::UnknownKey,
        // gpg accepts a disabled key, with a warning; pacman does not.
        (State::Good(_), Some(key)) if key.disabled => Verdict::Disabled,
        (State::Good(Trust::Full), _) => Verdict::Valid,
        (State::Good(trust), Some(key)) => match (key.validity, trust) {
            ('r', _) => Verdict::Revoked,
            ('e', _) => return (Verdict::Expired, key.expires),
            (_, Trust::Marginal) => Verdict::Marginal,
            _ => Verdict::Untrusted,
        },
    };
    (verdict, None)
}

/// How many trusted keys certify a key, and how many more do so over a SHA-1, which gpg does not accept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Certificates {
    good: u32,
    sha1: u32,
}

impl Certificates {
    fn describe(self, needed: u32, (major, minor, _): (u32, u32, u32)) -> String {
        let mut text = match self.good {
            0 => "for which no trusted key vouches".to_owned(),
            1 => "for which 1 trusted key vouches".to_owned(),
            n => format!("for which {n} trusted keys vouch"),
        };
        text += &format!(" where {needed} must");
        if self.sha1 > 0 {
            let n = self.sha1;
            text += &format!(", and {n} with SHA-1, which gpg {major}.{minor} does not accept");
        }
        text
    }
}

/// Returns the failure of a clock that is behind times that are known to be past: keys and signatures from the future are not
/// valid. `built` and `made` are when packages were built and keys were made.
#[must_use]
pub fn clock<'a>(
    now: u64,
    built: impl IntoIterator<Item = (u64, &'a str)>,
    made: impl IntoIterator<Item = (u64, &'a str)>,
) -> Option<Failure> {
    let built = built.into_iter().map(|(time, name)| (time, name, true));
    let made = made.into_iter().map(|(time, name)| (time, name, false));
    let (time, name, is_package) = built.chain(made).max_by_key(|(time, ..)| *time)?;
    let name = message::escape(name);
    let what = if is_package { format!("'{name}' was built") } else { format!("the key {name} was made") };
    // Clocks always differ a little.
    const SLACK: u64 = 3600;
    if now + SLACK >= time {
        return None;
    }
    let message = format!("reading the clock: it says {}, and {what} on {}", day(now), day(time));
    let hint = "set it, with 'timedatectl set-ntp true' or 'date --utc --set', and run again";
    Some(Failure::new(Code::NotVerified, message).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let key = |validity, disabled| Key { validity, disabled, expires: Some(1_700_000_000), ..Key::default() };
        let (full, disabled) = (key('f', false), key('f', true));
        let (revoked, expired) = (key('r', false), key('e', false));
        let good = |trust| State::Good(trust);
        let on = Some(1_700_000_000);
        let table = [
            (State::Bad, Some(&full), Verdict::Bad, None),
            (State::Unusable("4".into()), None, Verdict::Bad, None),
            (State::NoKey, None, Verdict::UnknownKey, None),
            (State::NoKey, Some(&full), Verdict::UnknownKey, None),
            (good(Trust::Full), None, Verdict::UnknownKey, None),
            (State::KeyRevoked, Some(&full), Verdict::Revoked, None),
            (State::KeyExpired(None), Some(&full), Verdict::Expired, on),
            (State::Expired(Some(1)), Some(&full), Verdict::Expired, Some(1)),
            (good(Trust::Full), Some(&disabled), Verdict::Disabled, None),
            (good(Trust::Full), Some(&full), Verdict::Valid, None),
            (good(Trust::Unknown), Some(&revoked), Verdict::Revoked, None),
            (good(Trust::Unknown), Some(&expired), Verdict::Expired, on),
            (good(Trust::Marginal), Some(&full), Verdict::Marginal, None),
            (good(Trust::Unknown), Some(&full), Verdict::Untrusted, None),
        ];
        for (state, key, word, on) in table {
            assert_eq!(verdict(&state, key), (word, on), "{state:?}");
        }
        assert_eq!(Verdict::Unreadable.word(), "unreadable");
        assert_eq!(Verdict::NoArchive.word(), "no-archive");
        assert_eq!(Verdict::Unsigned.word(), "unsigned");
    }

    #[test]
    fn certificates_are_counted_in_words() {
        for (good, sha1, words) in [
            (0, 0, "for which no trusted key vouches where 3 must"),
            (1, 0, "for which 1 trusted key vouches where 3 must"),
            (2, 1, "for which 2 trusted keys vouch where 3 must, and 1 with SHA-1, which gpg 2.4 does not accept"),
        ] {
            let certificates = Certificates { good, sha1 };
            assert_eq!(certificates.describe(3, (2, 4, 7)), words);
        }
    }

    #[test]
    fn a_clock_that_is_behind() {
        let clock = |now| clock(now, [(1_700_000_000, "bash"), (1, "sh")], [(1_699_999_999, "AB")]);
        let failure = clock(1_600_000_000).unwrap();
        assert_eq!(failure.message, "reading the clock: it says 2020-09-13, and 'bash' was built on 2023-11-14");
        assert_eq!(clock(1_700_000_000), None);
        assert_eq!(clock(1_699_999_000), None);
    }
}
