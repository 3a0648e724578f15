//! What gpg says, or would say, that a keyring holds, and whether that is what was to be built.
//!
//! pacman-key and gpg exit 0 with no secret key, with a key that could not be signed, with a builder key that stays
//! marginal. So the result is read and judged: `--with-colons`, the format of doc/DETAILS in gpg's sources.

use crate::trust::Ring;
use pacman::diagnosis;
use serde::{Deserialize, Serialize};
use stage::date::day;
use stage::{Code, Failure};

/// A key as gpg lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Key {
    /// The primary key's fingerprint.
    pub(crate) fingerprint: String,
    /// How valid it is: `u`ltimate, `f`ull, `m`arginal, `e`xpired, `r`evoked and others.
    pub(crate) validity: char,
    /// How far its owner's signatures count: `u`, `f`, `m`, `-` and others.
    pub(crate) owner_trust: char,
    /// Whether it is disabled.
    pub(crate) disabled: bool,
    /// When it was made, in seconds since 1970.
    pub(crate) created: u64,
    /// When it expires.
    pub(crate) expires: Option<u64>,
    /// Who signed it, and the signatures hold: long key ids. Only where gpg was asked.
    pub(crate) signed_by: Vec<String>,
}

/// Parses what `gpg --with-colons --list-keys` prints, or `--list-secret-keys`, or `--check-signatures`.
pub(crate) fn parse(text: &[u8]) -> Vec<Key> {
    let text = String::from_utf8_lossy(text);
    let mut keys: Vec<Key> = Vec::new();
    let mut primary = false;
    for line in text.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let field = |n: usize| fields.get(n).copied().unwrap_or("");
        let letter = |n: usize| field(n).chars().next().unwrap_or('-');
        match field(0) {
            "pub" | "sec" => {
                keys.push(Key {
                    validity: letter(1),
                    owner_trust: letter(8),
                    disabled: field(11).contains('D'),
                    created: field(5).parse().unwrap_or(0),
                    expires: field(6).parse().ok(),
                    ..Key::default()
                });
                primary = true;
            }
            "sub" | "ssb" => primary = false,
            // A subkey has one too, and a hostile key may have another's primary key as its subkey.
            "fpr" if primary => {
                if let Some(key) = keys.last_mut().filter(|k| k.fingerprint.is_empty()) {
                    key.fingerprint = field(9).to_owned();
                }
            }
            "sig" if primary && letter(1) == '!' => {
                if let Some(key) = keys.last_mut() {
                    key.signed_by.push(field(4).to_owned());
                }
            }
            _ => {}
        }
    }
    keys
}

/// Checks that each trusted key is in a ring and can be used, before it is signed. `now` is in seconds since 1970.
///
/// # Errors
///
/// [`Code::NotVerified`] at the first that cannot, with the reason. That may be the clock: what is signed before the key was
/// made counts for nothing when that is mended.
pub(crate) fn alive(ring: &Ring, keys: &[Key], now: u64) -> Result<(), Failure> {
    for fingerprint in &ring.trusted {
        let refuse = |why: &str, hint: &str| {
            let message = format!("trusting {fingerprint}: {why}");
            Err(Failure::new(Code::NotVerified, message).hint(hint))
        };
        let Some(key) = keys.iter().find(|k| k.fingerprint == *fingerprint) else {
            return refuse(
                "the ring has no such key",
                "the keyring package is broken or incomplete, or the fingerprint is another ring's",
            );
        };
        let made = format!("the key {fingerprint} was made");
        if let Some(clock) = diagnosis::clock(now, (key.created, &made)) {
            return Err(clock);
        }
        if let Some(why) = dead(key) {
            return refuse(&why, "a newer keyring package may mend it");
        }
    }
    Ok(())
}

/// What was built, in numbers.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Summary {
    /// How many keys are fully valid, without the ring's own.
    pub(crate) valid: usize,
    /// How many are disabled.
    pub(crate) disabled: usize,
}

/// Judges a keyring: every trusted key there, valid and trusted; every revoked one disabled; a secret key to sign with.
/// `public` and `secret` are what gpg lists.
///
/// # Errors
///
/// At the first of these that is not so, with the key and the reason.
pub(crate) fn judge(ring: &Ring, public: &[Key], secret: &[Key]) -> Result<Summary, Failure> {
    let find = |fingerprint: &String| public.iter().find(|k| k.fingerprint == *fingerprint);
    let wrong = |code, why: String| {
        Err(Failure::new(
            code,
            format!("checking the keyring that was built: {why}"),
        ))
    };
    let own = secret.iter().filter_map(|s| find(&s.fingerprint));
    if own.clone().all(|k| k.validity != 'u') {
        return wrong(
            Code::Failed,
            "it has no secret key of its own, so nothing could be signed".into(),
        );
    }
    for fingerprint in &ring.trusted {
        let why = match find(fingerprint) {
            None => "it is not in the ring".to_owned(),
            Some(key) => match unfit(key) {
                None => continue,
                Some(why) => why,
            },
        };
        return wrong(
            Code::NotVerified,
            format!("the trusted key {fingerprint}: {why}"),
        );
    }
    for fingerprint in &ring.revoked {
        if find(fingerprint).is_some_and(|key| !key.disabled) {
            return wrong(
                Code::Failed,
                format!("the revoked key {fingerprint} is not disabled"),
            );
        }
    }
    Ok(Summary {
        valid: public
            .iter()
            .filter(|k| k.validity == 'f' && !k.disabled)
            .count(),
        disabled: public.iter().filter(|k| k.disabled).count(),
    })
}

/// Returns why a key cannot give trust, where it cannot.
fn unfit(key: &Key) -> Option<String> {
    if let Some(why) = dead(key) {
        return Some(why);
    }
    match (key.validity, key.owner_trust) {
        ('f' | 'u', 'm' | 'f' | 'u') => None,
        ('f' | 'u', _) => Some("its owner is not trusted".to_owned()),
        (other, _) => Some(format!("it is not valid (gpg says '{other}')")),
    }
}

/// Returns why a key cannot be used by anybody, where that is so: gpg does not sign such a key.
pub(crate) fn dead(key: &Key) -> Option<String> {
    match key.validity {
        _ if key.disabled => Some("it is disabled".to_owned()),
        'e' => {
            let day = key.expires.map_or_else(|| "a day unknown".to_owned(), day);
            Some(format!("it expired on {day}"))
        }
        'r' => Some("its owner revoked it".to_owned()),
        'i' => Some("it is invalid: gpg accepts none of its own signatures".to_owned()),
        _ => None,
    }
}

/// Returns the keys that the packagers sign with and that stay one step below valid, where no other key is valid than
/// the trusted ones themselves: packages would then all be refused as of unknown trust.
pub(crate) fn marginal<'a>(ring: &Ring, public: &'a [Key]) -> Vec<&'a str> {
    let others = || {
        public
            .iter()
            .filter(|k| !ring.trusted.contains(&k.fingerprint))
    };
    if others().any(|k| k.validity == 'f') {
        return Vec::new();
    }
    let marginal = others().filter(|k| k.validity == 'm' && !k.disabled);
    marginal.map(|k| k.fingerprint.as_str()).collect()
}

/// Returns the keys that were in the keyring before and give trust though nobody pinned them.
pub(crate) fn strangers<'a>(ring: &Ring, public: &'a [Key], secret: &[Key]) -> Vec<&'a str> {
    let known = |k: &Key| {
        ring.trusted.contains(&k.fingerprint)
            || secret.iter().any(|s| s.fingerprint == k.fingerprint)
    };
    public
        .iter()
        .filter(|k| matches!(k.owner_trust, 'm' | 'f' | 'u') && !k.disabled && !known(k))
        .map(|k| k.fingerprint.as_str())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const B: &str = "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB";
    const OWN: &str = "0000000000000000000000000000000000000001";

    fn key(fingerprint: &str, validity: char, owner_trust: char) -> Key {
        Key {
            fingerprint: fingerprint.into(),
            validity,
            owner_trust,
            ..Key::default()
        }
    }

    fn ring() -> Ring {
        Ring {
            trusted: vec![A.into()],
            revoked: vec![B.into()],
            ..Ring::default()
        }
    }

    #[test]
    fn colons() {
        let text = format!(
            "tru::1:1795000000:0:3:1:5\n\
             pub:f:255:22:4DC95B6D7BE9892E:1619395200:1700000000::m:::scSCD:::::ed25519:::0:\n\
             fpr:::::::::{A}:\n\
             uid:f::::1619395200::X::David \\x3a Runge::::::::::0:\n\
             sig:!::22:0000000000000001:1700000000::::[x]:10l:::::8:\n\
             sig:?::22:0000000000000002:1700000000::::[x]:10x:::::8:\n\
             sub:f:255:18:1111111111111111:1:::::e:::\n\
             fpr:::::::::{B}:\n"
        );
        let keys = parse(text.as_bytes());
        let expected = Key {
            disabled: true,
            created: 1_619_395_200,
            expires: Some(1_700_000_000),
            signed_by: vec!["0000000000000001".into()],
            ..key(A, 'f', 'm')
        };
        assert_eq!(keys, [expected]);
        assert_eq!(
            parse(b"gpg: nothing\npub\n\xff"),
            [Key {
                validity: '-',
                owner_trust: '-',
                ..Key::default()
            }]
        );
    }

    #[test]
    fn a_ring_that_is_what_it_should_be() {
        let own = key(OWN, 'u', 'u');
        let off = Key {
            disabled: true,
            ..key(B, 'r', '-')
        };
        let public = [own.clone(), key(A, 'f', 'm'), off];
        let summary = judge(&ring(), &public, &[key(OWN, 'u', '-')]).unwrap();
        assert_eq!(
            summary,
            Summary {
                valid: 1,
                disabled: 1
            }
        );
        // A revoked key that is not in the ring needs not be disabled.
        assert!(judge(&ring(), &public[..2], &[own]).is_ok());
    }

    #[test]
    fn each_fault_is_named() {
        let own = key(OWN, 'u', 'u');
        let expired = Key {
            expires: Some(1_709_164_800),
            ..key(A, 'e', 'm')
        };
        let table = [
            (
                vec![own.clone()],
                Code::NotVerified,
                "it is not in the ring",
            ),
            (
                vec![own.clone(), key(A, '-', 'm')],
                Code::NotVerified,
                "not valid (gpg says '-')",
            ),
            (
                vec![own.clone(), key(A, 'f', '-')],
                Code::NotVerified,
                "its owner is not trusted",
            ),
            (
                vec![own.clone(), expired],
                Code::NotVerified,
                "it expired on 2024-02-29",
            ),
            (
                vec![own.clone(), key(A, 'f', 'm'), key(B, 'f', '-')],
                Code::Failed,
                "is not disabled",
            ),
            (vec![key(A, 'f', 'm')], Code::Failed, "no secret key"),
            (
                vec![key(OWN, '-', '-'), key(A, 'f', 'm')],
                Code::Failed,
                "no secret key",
            ),
        ];
        for (public, code, words) in table {
            let failure = judge(&ring(), &public, std::slice::from_ref(&own)).unwrap_err();
            assert!(failure.message.contains(words), "{failure}");
            assert_eq!(failure.code, code, "{failure}");
        }
    }

    #[test]
    fn a_key_of_the_future_is_a_clock_of_the_past() {
        let master = Key {
            created: 1_700_000_000,
            ..key(A, 'f', '-')
        };
        let alive = |now| alive(&ring(), std::slice::from_ref(&master), now);
        assert_eq!(alive(1_700_000_000), Ok(()));
        let failure = alive(1_600_000_000).unwrap_err();
        assert!(
            failure
                .message
                .starts_with("reading the clock: it says 2020-09-13"),
            "{failure}"
        );
    }

    #[test]
    fn who_is_one_step_below_and_who_is_a_stranger() {
        let own = key(OWN, 'u', 'u');
        let public = [own.clone(), key(A, 'f', 'm'), key(B, 'm', '-')];
        assert_eq!(marginal(&ring(), &public), [B]);
        let public = [public.as_slice(), &[key("C", 'f', '-')]].concat();
        assert!(marginal(&ring(), &public).is_empty());
        assert_eq!(
            strangers(&ring(), &[key(B, 'f', 'f'), own.clone()], &[own]),
            [B]
        );
    }
}
