//! The step between "all bytes are here" and "this may run".
//!
//! Only [`package()`] makes a [`Verified`], and only of a [`Verified`] does [`crate::program`] make an executable file. So
//! whatever is to be asked of a package before it runs is asked here.

use crate::cache::Whole;
use crate::fault::{Fault, Stop};
use crate::gpg::{Gpg, Report};
use crate::ring::{self, Ring};
use crate::status::{Finding, Verdict};
use package::pkginfo;
use stage::{Code, Context, Doing, date, quote};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::time::{SystemTime, UNIX_EPOCH};

/// A package that may be used, and by what its origin was checked.
#[derive(Debug)]
pub(crate) struct Verified {
    /// The package, open at an unknown place.
    pub(crate) file: File,
    pub(crate) trust: Trust,
}

/// By what a package's origin was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// A signature of a pinned key: that key's fingerprint, and the signature.
    Signature { by: String, signature: Vec<u8> },
    /// A hash of the user's.
    Sha256,
    /// The hash of the repository's database, because the user said so.
    Hash,
}

/// What is asked of a package beside its hash.
#[derive(Debug)]
pub(crate) enum Proof {
    Signature(Judge),
    Sha256,
    Hash,
}

/// Who decides about signatures.
#[derive(Debug)]
pub(crate) struct Judge {
    pub(crate) gpg: Gpg,
    /// The fingerprints of the primary keys that may have signed.
    pub(crate) pins: Vec<String>,
    /// The user's keys; without them, the repository's keyring package has them.
    pub(crate) ring: Option<Ring>,
}

/// What there is to show for a package.
#[derive(Debug)]
pub(crate) enum Evidence<'a> {
    Signature(&'a Judge, Vec<u8>, Ring),
    Sha256,
    Hash,
}

/// Checks a whole package against what it should hash to, and against its signature.
///
/// `meant` is the name and version that it must have itself. A signature says that its maker made this package, and not
/// that it is the one that was asked for: whoever offers it chooses among all that the same key has ever signed. A hash
/// that the user knows says which one it is; then there is none.
pub(crate) fn package(
    context: &Context,
    whole: Whole,
    sha256: &str,
    evidence: Evidence<'_>,
    meant: Option<(&str, &str)>,
) -> Result<Verified, Stop> {
    if whole.sha256 != sha256 {
        let why = differs(&whole.sha256, sha256);
        return Err(Fault::new(Code::NotVerified, why).into());
    }
    let trust = match evidence {
        Evidence::Signature(judge, signature, ring) => {
            let report = judge
                .gpg
                .verify(context, &ring.keys, &signature, &whole.file)?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let now = now.unwrap_or_default().as_secs();
            let by = signer(&report, &judge.pins, &ring.name, now)?;
            if let Some((name, version)) = meant {
                is_the_one(&whole.file, name, version)?;
            }
            Trust::Signature { by, signature }
        }
        Evidence::Sha256 => Trust::Sha256,
        Evidence::Hash => Trust::Hash,
    };
    Ok(Verified {
        file: whole.file,
        trust,
    })
}

/// Compares what a package says that it is with what it should be.
fn is_the_one(mut file: &File, name: &str, version: &str) -> Result<(), Stop> {
    file.seek(SeekFrom::Start(0))
        .doing(Code::Os, || "reading the package")?;
    let fault = |why: String| Fault::new(Code::NotVerified, why);
    let is = pkginfo::of_archive(file).map_err(|e| fault(e.to_string()))?;
    if (&*is.name, &*is.version) == (name, version) {
        return Ok(());
    }
    let why = format!(
        "it is package {} {}, validly signed, and should be {} {version}",
        quote(&is.name),
        is.version,
        quote(name)
    );
    Err(fault(why).into())
}

/// Returns what is wrong with a hash, in words.
pub(crate) fn differs(is: &str, should: &str) -> String {
    format!("its SHA-256 is {is}, and should be {should}")
}

/// Returns the pinned key that signed. As for pacman, every signature must hold, and there must be one.
fn signer(report: &Report, pins: &[String], ring: &str, now: u64) -> Result<String, Fault> {
    let fault = |why: String| Fault::new(Code::NotVerified, why);
    for finding in &report.findings {
        if let Err((why, hint)) = judge(finding, pins, ring, now) {
            return Err(fault(why).hint(hint));
        }
    }
    match (&report.complaint, report.findings.first()) {
        (None, Some(finding)) => Ok(finding.key.clone()),
        (Some(why), _) => Err(fault(format!("its signature cannot be used: {why}")).hint(UNSIGNED)),
        (None, None) => Err(fault("its signature is none".into()).hint(UNSIGNED)),
    }
}

/// What permits a package whose signature does not hold.
const UNSIGNED: &str =
    "name another --server URL, or take the package by its hash alone with --unsigned";

/// Decides about one signature; an error is what is wrong with it, and what mends that.
fn judge(finding: &Finding, pins: &[String], ring: &str, now: u64) -> Result<(), (String, String)> {
    let key = &finding.key;
    // Where gpg has no such key there may be a key id only, which is the end of a fingerprint.
    let pinned = pins.iter().any(|pin| match finding.verdict {
        Verdict::NoKey => !key.is_empty() && pin.ends_with(key.as_str()),
        _ => pin == key,
    });
    let on = |when: Option<u64>| match when {
        Some(when) => format!(" on {}", date::day(when)),
        None => String::new(),
    };
    // A clock that is behind makes good keys bad ones, so it is said first.
    if let Some(made) = finding.made.filter(|made| *made > now + date::DAY)
        && !finding.is_good()
    {
        return Err((
            format!(
                "it was signed on {}, and for this host it is {}: its clock is wrong",
                date::day(made),
                date::day(now)
            ),
            "set the clock, and run it again".into(),
        ));
    }
    let today = date::day(now);
    let newer = "a newer keyring package may have the key with a later date: try again later, give the key with \
                 --keyring FILE, or take the package by its hash alone with --unsigned";
    let (why, hint) = match &finding.verdict {
        Verdict::Bad => {
            let why = "the package or its signature was altered";
            (
                format!("its signature by {key} is bad: {why}"),
                "name another --server URL; only with --unsigned would it be taken all the same",
            )
        }
        _ if !pinned => {
            let hint = match key.len() {
                40.. => format!(
                    "if you know that this key may sign it, --trust {key}; or take the package by its hash alone with \
                     --unsigned"
                ),
                _ => format!(
                    "if you know the key, --trust with its whole fingerprint; or {}",
                    "take the package by its hash alone with --unsigned"
                ),
            };
            return Err((format!("it is signed by {key}, which is not pinned"), hint));
        }
        Verdict::Good => return Ok(()),
        Verdict::NoKey => (
            format!("it is signed by {key}, which is pinned and not in {ring}"),
            ring::INSTEAD,
        ),
        Verdict::Expired(when) => (
            format!(
                "its signature by {key} expired{}, and today is {today}",
                on(*when)
            ),
            UNSIGNED,
        ),
        Verdict::KeyExpired(when) => (
            format!(
                "it is signed by {key}, which expired{}, and today is {today}",
                on(*when)
            ),
            newer,
        ),
        Verdict::KeyRevoked => (
            format!("it is signed by {key}, which was revoked"),
            "its owner says that the key must not be used any more: wait for a package of another key",
        ),
        Verdict::Unknown(why) => (
            format!("gpg cannot check its signature by {key} (error {why})"),
            UNSIGNED,
        ),
    };
    Err((why, hint.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "83F817213361BF5F02E7E124F9F9FA97A403F63E";
    const NOW: u64 = 1_795_388_194;

    fn decide(key: &str, verdict: Verdict, made: u64) -> Result<String, Fault> {
        let finding = Finding {
            key: key.into(),
            made: Some(made),
            verdict,
        };
        let report = Report {
            findings: vec![finding],
            complaint: None,
        };
        signer(&report, &[KEY.to_owned()], "package 'x-keyring'", NOW)
    }

    #[test]
    fn only_a_good_signature_of_a_pinned_key() {
        assert_eq!(decide(KEY, Verdict::Good, 1).unwrap(), KEY);
        let other = KEY.replace('8', "9");
        let table = [
            (&*other, Verdict::Good, "which is not pinned"),
            (&KEY[24..], Verdict::Good, "which is not pinned"),
            ("", Verdict::Good, "which is not pinned"),
            ("", Verdict::NoKey, "which is not pinned"),
            (&other, Verdict::NoKey, "which is not pinned"),
            (&other, Verdict::KeyRevoked, "which is not pinned"),
            (KEY, Verdict::Bad, "was altered"),
            (
                KEY,
                Verdict::NoKey,
                "which is pinned and not in package 'x-keyring'",
            ),
            (
                &KEY[24..],
                Verdict::NoKey,
                "which is pinned and not in package",
            ),
            (KEY, Verdict::KeyRevoked, "which was revoked"),
            (
                KEY,
                Verdict::KeyExpired(Some(0)),
                "which expired on 1970-01-01, and today is 2026-11-22",
            ),
            (KEY, Verdict::Expired(None), "expired, and today is"),
            (KEY, Verdict::Unknown("4".into()), "(error 4)"),
        ];
        for (key, verdict, words) in table {
            let fault = decide(key, verdict, 1).unwrap_err();
            assert!(fault.reason.contains(words), "{fault:?}");
            assert_eq!(fault.code, Code::NotVerified);
            assert!(fault.hint.is_some());
        }
    }

    #[test]
    fn a_clock_that_is_behind_is_said_first() {
        for verdict in [Verdict::Unknown("6".into()), Verdict::KeyExpired(Some(1))] {
            let fault = decide(KEY, verdict, NOW + 100 * date::DAY).unwrap_err();
            assert!(fault.reason.contains("its clock is wrong"), "{fault:?}");
        }
        assert_eq!(decide(KEY, Verdict::Good, NOW * 2).unwrap(), KEY);
    }

    #[test]
    fn every_signature_must_hold_and_there_must_be_one() {
        let good = Finding {
            key: KEY.into(),
            made: None,
            verdict: Verdict::Good,
        };
        let bad = Finding {
            verdict: Verdict::Bad,
            ..good.clone()
        };
        let pins = [KEY.to_owned()];
        for (findings, complaint, holds) in [
            (vec![good.clone(), good.clone()], None, true),
            (vec![good.clone(), bad.clone()], None, false),
            (vec![bad, good.clone()], None, false),
            (vec![good], Some("gpg: packet too short".to_owned()), false),
            (vec![], None, false),
        ] {
            let report = Report {
                findings,
                complaint,
            };
            assert_eq!(
                signer(&report, &pins, "x", NOW).is_ok(),
                holds,
                "{report:?}"
            );
        }
    }
}
