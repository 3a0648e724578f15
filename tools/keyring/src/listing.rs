//! Checks of a keyring, as gpg lists it.
//!
//! pacman-key and gpg exit with 0 without a secret key, with a key that could not be signed, with a builder's key that stays
//! marginal. So the result is listed and checked.

use crate::trust::{Ring, Unusable};
use pacman::diagnosis;
use pacman::gpg::listing::Key;
use serde::{Deserialize, Serialize};
use stage::date::day;
use stage::{Code, Failure};

/// Returns the pinned keys that cannot give trust, and why not: gpg does not sign an expired, revoked or invalid key. `now` is
/// in seconds since 1970.
///
/// # Errors
///
/// [`Code::NotVerified`] where one that the command line names is in no ring, or where the clock is behind the day on which a
/// pinned key was made: signatures from before that day are invalid when the clock is right again.
pub(crate) fn unusable_pins(ring: &Ring, keys: &[Key], now: u64) -> Result<Unusable, Failure> {
    let mut unusable = Unusable::new();
    for fingerprint in &ring.trusted {
        let Some(key) = keys.iter().find(|k| k.fingerprint == *fingerprint) else {
            if ring.asked.contains(fingerprint) {
                let message = format!("trusting {fingerprint}: no ring has it");
                return Err(Failure::new(Code::NotVerified, message)
                    .hint("check the fingerprint that --trust gives, and which rings are populated"));
            }
            unusable.insert(fingerprint.clone(), "no ring has it".to_owned());
            continue;
        };
        if let Some(clock) = diagnosis::clock(now, [], [(key.created, fingerprint.as_str())]) {
            return Err(clock);
        }
        unusable.extend(why_unusable(key).map(|why| (fingerprint.clone(), why)));
    }
    Ok(unusable)
}

/// Returns the pinned keys that gpg signed and that are not valid all the same, and why not: no name of theirs may have a good
/// self-signature.
pub(crate) fn invalid_pins(pins: Vec<&String>, keys: &[Key]) -> Unusable {
    let find = |pin: &String| keys.iter().find(|key| key.fingerprint == *pin);
    let why = |pin: &String| Some((pin.clone(), why_no_trust(find(pin))?));
    pins.into_iter().filter_map(why).collect()
}

/// Numbers of a keyring.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Summary {
    /// How many keys are fully valid, without the ring's own.
    pub(crate) valid: usize,
    /// How many are disabled.
    pub(crate) disabled: usize,
}

/// Checks a keyring: every key of `trusted` is valid and trusted, every key of `revoked` that it has is disabled, and it has a
/// secret key to sign with. `public` and `secret` are what gpg lists.
///
/// # Errors
///
/// At the first check that fails, with the key and the reason.
pub(crate) fn check(
    trusted: &[&String],
    revoked: &[String],
    public: &[Key],
    secret: &[Key],
) -> Result<Summary, Failure> {
    let find = |fingerprint: &String| public.iter().find(|k| k.fingerprint == *fingerprint);
    let wrong = |code, why: String| Err(Failure::new(code, format!("checking the keyring that was built: {why}")));
    let mut own = secret.iter().filter_map(|s| find(&s.fingerprint));
    if own.all(|k| k.validity != 'u') {
        return wrong(Code::Failed, "it has no secret key of its own, so nothing could be signed".into());
    }
    for fingerprint in trusted {
        if let Some(why) = why_no_trust(find(fingerprint)) {
            return wrong(Code::NotVerified, format!("the trusted key {fingerprint}: {why}"));
        }
    }
    for fingerprint in revoked {
        if find(fingerprint).is_some_and(|key| !key.disabled) {
            return wrong(Code::Failed, format!("the revoked key {fingerprint} is not disabled"));
        }
    }
    Ok(Summary {
        valid: public.iter().filter(|k| k.validity == 'f' && !k.disabled).count(),
        disabled: public.iter().filter(|k| k.disabled).count(),
    })
}

/// Returns why a key gives no trust.
fn why_no_trust(key: Option<&Key>) -> Option<String> {
    let Some(key) = key else {
        return Some("it is not in the keyring".to_owned());
    };
    if let Some(why) = why_unusable(key) {
        return Some(why);
    }
    match (key.validity, key.owner_trust) {
        ('f' | 'u', 'm' | 'f' | 'u') => None,
        ('f' | 'u', _) => Some("its owner is not trusted".to_owned()),
        (other, _) => Some(format!("it is not valid (gpg says '{other}')")),
    }
}

/// Returns why gpg does not sign a key.
fn why_unusable(key: &Key) -> Option<String> {
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

/// Returns the keys that are only marginally valid, where no key is valid but the trusted ones themselves: pacman would then
/// refuse all packages, as of unknown trust.
pub(crate) fn marginal(ring: &Ring, public: &[Key]) -> Vec<String> {
    let others = || public.iter().filter(|k| !ring.trusted.contains(&k.fingerprint));
    if others().any(|k| k.validity == 'f') {
        return Vec::new();
    }
    let marginal = others().filter(|k| k.validity == 'm' && !k.disabled);
    marginal.map(|k| k.fingerprint.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const B: &str = "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB";
    const OWN: &str = "0000000000000000000000000000000000000001";

    fn key(fingerprint: &str, validity: char, owner_trust: char) -> Key {
        Key { fingerprint: fingerprint.into(), validity, owner_trust, ..Key::default() }
    }

    fn check_ring(ring: &Ring, public: &[Key], secret: &[Key]) -> Result<Summary, Failure> {
        let trusted: Vec<&String> = ring.trusted.iter().collect();
        check(&trusted, &ring.revoked, public, secret)
    }

    fn ring() -> Ring {
        Ring { trusted: vec![A.into()], revoked: vec![B.into()], ..Ring::default() }
    }

    #[test]
    fn a_ring_that_is_what_it_should_be() {
        let own = key(OWN, 'u', 'u');
        let off = Key { disabled: true, ..key(B, 'r', '-') };
        let public = [own.clone(), key(A, 'f', 'm'), off];
        let summary = check_ring(&ring(), &public, &[key(OWN, 'u', '-')]).unwrap();
        assert_eq!(summary, Summary { valid: 1, disabled: 1 });
        // A revoked key that is not in the ring needs not be disabled.
        assert!(check_ring(&ring(), &public[..2], &[own]).is_ok());
    }

    #[test]
    fn each_fault_is_named() {
        let own = key(OWN, 'u', 'u');
        let expired = Key { expires: Some(1_709_164_800), ..key(A, 'e', 'm') };
        let table = [
            (vec![own.clone()], Code::NotVerified, "it is not in the keyring"),
            (vec![own.clone(), key(A, '-', 'm')], Code::NotVerified, "not valid (gpg says '-')"),
            (vec![own.clone(), key(A, 'f', '-')], Code::NotVerified, "its owner is not trusted"),
            (vec![own.clone(), expired], Code::NotVerified, "it expired on 2024-02-29"),
            (vec![own.clone(), key(A, 'f', 'm'), key(B, 'f', '-')], Code::Failed, "is not disabled"),
            (vec![key(A, 'f', 'm')], Code::Failed, "no secret key"),
            (vec![key(OWN, '-', '-'), key(A, 'f', 'm')], Code::Failed, "no secret key"),
        ];
        for (public, code, words) in table {
            let failure = check_ring(&ring(), &public, std::slice::from_ref(&own)).unwrap_err();
            assert!(failure.message.contains(words), "{failure}");
            assert_eq!(failure.code, code, "{failure}");
        }
    }

    #[test]
    fn a_key_of_the_future_is_a_clock_of_the_past() {
        let master = Key { created: 1_700_000_000, ..key(A, 'f', '-') };
        let unusable = |now| unusable_pins(&ring(), std::slice::from_ref(&master), now);
        assert_eq!(unusable(1_700_000_000), Ok(Unusable::new()));
        let failure = unusable(1_600_000_000).unwrap_err();
        assert!(failure.message.starts_with("reading the clock: it says 2020-09-13"), "{failure}");
    }

    #[test]
    fn a_pinned_key_that_is_unusable_is_named_with_the_reason() {
        let expired = Key { expires: Some(1_709_164_800), ..key(A, 'e', '-') };
        let ring = Ring { trusted: vec![A.into(), B.into(), OWN.into()], ..Ring::default() };
        let keys = [expired, key(B, '-', '-')];
        let unusable = unusable_pins(&ring, &keys, 1_800_000_000).unwrap();
        let expected = [(A, "it expired on 2024-02-29"), (OWN, "no ring has it")];
        assert_eq!(unusable, Unusable::from(expected.map(|(key, why)| (key.to_owned(), why.to_owned()))));
    }

    #[test]
    fn who_is_one_step_below() {
        let own = key(OWN, 'u', 'u');
        let public = [own.clone(), key(A, 'f', 'm'), key(B, 'm', '-')];
        assert_eq!(marginal(&ring(), &public), [B]);
        let public = [public.as_slice(), &[key("C", 'f', '-')]].concat();
        assert!(marginal(&ring(), &public).is_empty());
    }
}
