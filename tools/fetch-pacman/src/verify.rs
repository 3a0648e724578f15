//! The step between "the package is complete" and "the program in it may run".
//!
//! Only [`verify`] makes a [`Verified`], and only from a [`Verified`] does [`crate::program`] make an executable file.

use crate::cache::Package;
use crate::keyring::{Keyring, OTHER_KEYS, UNSIGNED};
use package::pkginfo;
use pacman::gpg::Gpg;
use pacman::gpg::status::{Signature, State};
use stage::{Code, Context, Doing, Failure, date, quote};
use std::fs::File;
use std::io::Seek;
use std::time::{SystemTime, UNIX_EPOCH};

/// A package that may be used.
#[derive(Debug)]
pub(crate) struct Verified {
    /// The package, open at an unknown position.
    pub(crate) file: File,
    /// Where signatures are required: the fingerprint of the pinned key that signed, and the signature.
    pub(crate) signature: Option<(String, Vec<u8>)>,
}

/// What a signature is checked by.
#[derive(Debug)]
pub(crate) struct Verifier {
    pub(crate) gpg: Gpg,
    /// The fingerprints of the primary keys that may have signed.
    pub(crate) pins: Vec<String>,
    /// The user's keys; without them, those of the repository's keyring package are used.
    pub(crate) keyring: Option<Keyring>,
}

/// A signature, and the keys to check it with.
#[derive(Debug)]
pub(crate) struct Proof<'a> {
    pub(crate) verifier: &'a Verifier,
    pub(crate) keyring: Keyring,
    pub(crate) signature: Vec<u8>,
}

/// Checks the signature of a package, where one is required. The hash of a [`Package`] has been compared.
///
/// `identity` is the name and version that it must have. A signature proves who made the package, and not that it is the one
/// that was asked for: a server can choose among all packages that the same key ever signed. A hash that the user knows
/// identifies the package, and then there is no `identity`.
pub(crate) fn verify(
    context: &Context,
    package: &Package,
    proof: Option<Proof<'_>>,
    identity: Option<(&str, &str)>,
) -> Result<Verified, Failure> {
    let file = package.file.try_clone().doing(Code::Os, || "opening the package")?;
    let Some(Proof { verifier, keyring, signature }) = proof else {
        return Ok(Verified { file, signature: None });
    };
    let found = keyring.check(context, &verifier.gpg, &signature, &file).map_err(|failure| match failure.code {
        Code::NotVerified => failure.hint(UNSIGNED),
        _ => failure,
    })?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let signer = find_signer(&found, &verifier.pins, &keyring.name, now)?;
    if let Some((name, version)) = identity {
        check_identity(&file, name, version)?;
    }
    Ok(Verified { file, signature: Some((signer, signature)) })
}

/// Compares the name and version in a package with what they must be.
fn check_identity(mut file: &File, name: &str, version: &str) -> Result<(), Failure> {
    file.rewind().doing(Code::Os, || "reading the package")?;
    let info = pkginfo::of_archive(file).map_err(|e| Failure::new(Code::NotVerified, e.to_string()))?;
    if (&*info.name, &*info.version) == (name, version) {
        return Ok(());
    }
    let (is, should) = (format!("{} {}", quote(&info.name), info.version), format!("{} {version}", quote(name)));
    Err(Failure::new(Code::NotVerified, format!("it is package {is}, validly signed, and should be {should}")))
}

/// Returns the pinned key that signed. As for pacman, every signature must be good.
fn find_signer(signatures: &[Signature], pins: &[String], keyring: &str, now: u64) -> Result<String, Failure> {
    for signature in signatures {
        check_signature(signature, pins, keyring, now)?;
    }
    let first = signatures.first().map(|signature| signature.key.clone());
    first.ok_or_else(|| Failure::new(Code::NotVerified, "it has no signature").hint(UNSIGNED))
}

fn check_signature(signature: &Signature, pins: &[String], keyring: &str, now: u64) -> Result<(), Failure> {
    let Signature { key, state, text, .. } = signature;
    let fail = |why: String, hint: &str| Err(Failure::new(Code::NotVerified, why).hint(hint));
    let is_good = matches!(state, State::Good(_)) && !text;
    let today = date::day(now);
    // A clock that is behind makes good keys bad ones, so it is the first thing to report.
    if let Some(created) = signature.created.filter(|created| *created > now + date::DAY)
        && !is_good
    {
        let why =
            format!("it was signed on {}, and for this host it is {today}: its clock is wrong", date::day(created));
        return fail(why, "set the clock, and run it again");
    }
    // Where gpg does not have the key, this may be a key id only, which is the end of a fingerprint.
    let pinned = pins.iter().any(|pin| match state {
        State::NoKey => !key.is_empty() && pin.ends_with(key.as_str()),
        _ => pin == key,
    });
    let expired = |on: &Option<u64>| match on {
        Some(on) => format!("expired on {}, and today is {today}", date::day(*on)),
        None => format!("expired, and today is {today}"),
    };
    match state {
        State::Bad => fail(
            format!("its signature by {key} is bad: the package or its signature was altered"),
            "name another --server URL; only --unsigned accepts it",
        ),
        _ if !pinned => {
            let trust = match key.len() {
                40.. => format!("if you know that this key may sign it, --trust {key}"),
                _ => "if you know the key, --trust with its whole fingerprint".to_owned(),
            };
            fail(
                format!("it is signed by {key}, which is not pinned"),
                &format!("{trust}; or take the package by its hash alone with --unsigned"),
            )
        }
        State::Good(_) if is_good => Ok(()),
        State::Good(_) => fail(format!("its signature by {key} is over text and not over bytes (class 01)"), UNSIGNED),
        State::NoKey => fail(format!("it is signed by {key}, which is pinned and not in {keyring}"), OTHER_KEYS),
        State::Expired(on) => fail(format!("its signature by {key} {}", expired(on)), UNSIGNED),
        State::KeyExpired(on) => fail(
            format!("it is signed by {key}, which {}", expired(on)),
            "a newer keyring package may have the key with a later date: try again later, give the key with --keyring FILE, \
             or take the package by its hash alone with --unsigned",
        ),
        State::KeyRevoked => fail(
            format!("it is signed by {key}, which was revoked"),
            "its owner says that the key must not be used any more: wait for a package of another key",
        ),
        State::Unusable(why) => fail(format!("gpg cannot check its signature by {key} (error {why})"), UNSIGNED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pacman::gpg::status::Trust;

    const KEY: &str = "83F817213361BF5F02E7E124F9F9FA97A403F63E";
    const NOW: u64 = 1_795_388_194;
    const GOOD: State = State::Good(Trust::Unknown);

    fn signer(key: &str, state: State, created: u64) -> Result<String, Failure> {
        let signature = Signature { key: key.into(), created: Some(created), state, text: false };
        find_signer(&[signature], &[KEY.to_owned()], "package 'x-keyring'", NOW)
    }

    #[test]
    fn only_a_good_signature_of_a_pinned_key() {
        assert_eq!(signer(KEY, GOOD, 1).unwrap(), KEY);
        let other = KEY.replace('8', "9");
        let table = [
            (&*other, GOOD, "which is not pinned"),
            (&KEY[24..], GOOD, "which is not pinned"),
            ("", GOOD, "which is not pinned"),
            ("", State::NoKey, "which is not pinned"),
            (&other, State::NoKey, "which is not pinned"),
            (&other, State::KeyRevoked, "which is not pinned"),
            (KEY, State::Bad, "was altered"),
            (KEY, State::NoKey, "which is pinned and not in package 'x-keyring'"),
            (&KEY[24..], State::NoKey, "which is pinned and not in package"),
            (KEY, State::KeyRevoked, "which was revoked"),
            (KEY, State::KeyExpired(Some(0)), "which expired on 1970-01-01, and today is 2026-11-22"),
            (KEY, State::Expired(None), "expired, and today is"),
            (KEY, State::Unusable("4".into()), "(error 4)"),
        ];
        for (key, state, words) in table {
            let failure = signer(key, state, 1).unwrap_err();
            assert!(failure.message.contains(words), "{failure:?}");
            assert_eq!(failure.code, Code::NotVerified);
            assert!(failure.hint.is_some());
        }
    }

    #[test]
    fn a_clock_that_is_behind_is_reported_first() {
        for state in [State::Unusable("6".into()), State::KeyExpired(Some(1))] {
            let failure = signer(KEY, state, NOW + 100 * date::DAY).unwrap_err();
            assert!(failure.message.contains("its clock is wrong"), "{failure:?}");
        }
        assert_eq!(signer(KEY, GOOD, NOW * 2).unwrap(), KEY);
    }

    #[test]
    fn every_signature_must_be_good_and_there_must_be_one() {
        let good = Signature { key: KEY.into(), created: None, state: GOOD, text: false };
        let bad = Signature { state: State::Bad, ..good.clone() };
        let text = Signature { text: true, ..good.clone() };
        let pins = [KEY.to_owned()];
        for (signatures, is_good) in [
            (vec![good.clone(), good.clone()], true),
            (vec![good.clone(), bad.clone()], false),
            (vec![bad, good.clone()], false),
            (vec![good, text], false),
            (vec![], false),
        ] {
            let found = find_signer(&signatures, &pins, "x", NOW);
            assert_eq!(found.is_ok(), is_good, "{signatures:?}");
        }
    }
}
