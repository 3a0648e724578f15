//! gpg's status lines, as doc/DETAILS of GnuPG describes them.
//!
//! Only what stands there counts: exit status 0 says that a signature holds, also where its key has expired or was
//! revoked.

/// What gpg says of one signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The fingerprint of the primary key, where gpg has the key; else what the signature says: a fingerprint, which may
    /// be a subkey's, or the 16 digits of a key id.
    pub(crate) key: String,
    /// When it was made, in seconds since 1970, as far as that is known.
    pub(crate) made: Option<u64>,
    pub(crate) verdict: Verdict,
}

/// How good a signature is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the key's, over the whole file, and neither has expired.
    Good,
    /// It is not the key's, or not over this file.
    Bad,
    /// It was good until then.
    Expired(Option<u64>),
    /// It is the key's; the key was good until then.
    KeyExpired(Option<u64>),
    /// It is the key's, and the key was revoked.
    KeyRevoked,
    /// There is no such key.
    NoKey,
    /// gpg cannot tell, with its number of the reason.
    Unknown(String),
}

impl Finding {
    pub(crate) fn is_good(&self) -> bool {
        self.verdict == Verdict::Good
    }
}

/// Returns what gpg says of each signature, in order.
pub(crate) fn parse(text: &str) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    let mut key_expired = None;
    for line in text.lines() {
        let Some(line) = line.strip_prefix("[GNUPG:] ") else {
            continue;
        };
        let words: Vec<&str> = line.split(' ').collect();
        let word = |n: usize| words.get(n).copied().unwrap_or_default();
        if word(0) == "NEWSIG" {
            key_expired = None;
            findings.push(Finding {
                key: String::new(),
                made: None,
                verdict: Verdict::Unknown("no verdict".into()),
            });
            continue;
        }
        let Some(finding) = findings.last_mut() else {
            continue;
        };
        let verdict = match word(0) {
            "KEY_CONSIDERED" => {
                word(1).clone_into(&mut finding.key);
                continue;
            }
            "KEYEXPIRED" => {
                key_expired = key_expired.or(seconds(word(1)));
                continue;
            }
            "VALIDSIG" => {
                valid(finding, &words);
                continue;
            }
            // Good only with the VALIDSIG that follows.
            "GOODSIG" => Verdict::Unknown("no VALIDSIG".into()),
            "BADSIG" => Verdict::Bad,
            "EXPSIG" => Verdict::Expired(None),
            "EXPKEYSIG" => Verdict::KeyExpired(key_expired),
            "REVKEYSIG" => Verdict::KeyRevoked,
            "ERRSIG" => {
                finding.made = seconds(word(5));
                match word(6) {
                    "9" => Verdict::NoKey,
                    number => Verdict::Unknown(number.to_owned()),
                }
            }
            _ => continue,
        };
        let named = match (word(0), word(7)) {
            ("ERRSIG", fingerprint) if is_key(fingerprint) => fingerprint,
            _ => word(1),
        };
        if finding.key.is_empty() && is_key(named) {
            named.clone_into(&mut finding.key);
        }
        // Two verdicts of one signature: the worse one, whichever that is.
        if finding.verdict == Verdict::Unknown("no verdict".into()) {
            finding.verdict = verdict;
        } else if finding.verdict != verdict {
            finding.verdict = Verdict::Unknown("two verdicts".into());
        }
    }
    findings
}

/// Takes the details of a signature that is the key's: `VALIDSIG KEY DATE MADE EXPIRES VERSION - ALGORITHM HASH CLASS
/// PRIMARY`.
fn valid(finding: &mut Finding, words: &[&str]) {
    let word = |n: usize| words.get(n).copied().unwrap_or_default();
    finding.made = seconds(word(3));
    if is_key(word(10)) {
        word(10).clone_into(&mut finding.key);
    }
    match &finding.verdict {
        // 00 is a signature over bytes. Of a text, other bytes would do as well.
        Verdict::Unknown(why) if why == "no VALIDSIG" => {
            finding.verdict = match (word(9), is_key(word(10))) {
                ("00", true) => Verdict::Good,
                (class, _) => Verdict::Unknown(format!("class {class}")),
            };
        }
        Verdict::Expired(_) => finding.verdict = Verdict::Expired(seconds(word(4))),
        _ => {}
    }
}

/// Returns whether it is a fingerprint or a key id.
fn is_key(word: &str) -> bool {
    let digits = word
        .bytes()
        .all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    digits && [16, 40, 64].contains(&word.len())
}

fn seconds(word: &str) -> Option<u64> {
    word.parse().ok().filter(|seconds| *seconds > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "9613962F88DCDE8C685A85CEEE48C67CE37C677E";

    fn of(verdict: Verdict) -> Finding {
        Finding {
            key: KEY.into(),
            made: Some(1_578_614_400),
            verdict,
        }
    }

    /// Lines as gpg 2.2.40 wrote them, K for the fingerprint and I for the id of the key.
    fn parsed(lines: &[&str]) -> Vec<Finding> {
        let text: String = lines
            .iter()
            .map(|line| {
                let line = line.replace(" K", &format!(" {KEY}"));
                format!(
                    "[GNUPG:] {}\n",
                    line.replace(" I", &format!(" {}", &KEY[24..]))
                )
            })
            .collect();
        parse(&text)
    }

    const VALID: &str = "VALIDSIG K 2020-01-10 1578614400 0 4 0 22 8 00 K";

    #[test]
    fn each_verdict() {
        let good = [
            "NEWSIG o@x",
            "KEY_CONSIDERED K 0",
            "GOODSIG I old <o@x>",
            VALID,
        ];
        assert_eq!(parsed(&good), [of(Verdict::Good)]);
        let expired = ["NEWSIG", "KEYEXPIRED 1580558400", "EXPKEYSIG I old", VALID];
        let verdict = Verdict::KeyExpired(Some(1_580_558_400));
        assert_eq!(parsed(&expired), [of(verdict)]);
        let revoked = ["NEWSIG", "REVKEYSIG I old", VALID];
        assert_eq!(parsed(&revoked), [of(Verdict::KeyRevoked)]);
        let late = "VALIDSIG K 2020-01-10 1578614400 1578873600 4 0 22 8 00 K";
        let verdict = Verdict::Expired(Some(1_578_873_600));
        assert_eq!(parsed(&["NEWSIG", "EXPSIG I old", late]), [of(verdict)]);
        let missing = [
            "NEWSIG o@x",
            "ERRSIG I 22 8 00 1578614400 9 K",
            "NO_PUBKEY I",
        ];
        assert_eq!(parsed(&missing), [of(Verdict::NoKey)]);
        let odd = ["NEWSIG", "ERRSIG I 22 8 00 1578614400 6 K"];
        assert_eq!(parsed(&odd), [of(Verdict::Unknown("6".into()))]);

        let bad = parsed(&["NEWSIG o@x", "KEY_CONSIDERED K 0", "BADSIG I old"]);
        assert_eq!((&*bad[0].key, &bad[0].verdict), (KEY, &Verdict::Bad));
        let old = parsed(&["NEWSIG", "ERRSIG I 1 2 00 1578614400 9 -"]);
        assert_eq!(old[0].key, KEY[24..]);
    }

    #[test]
    fn nothing_is_good_by_accident() {
        for lines in [
            &["GOODSIG I old", VALID][..],
            &["NEWSIG"],
            &["NEWSIG", VALID],
            &["NEWSIG", "GOODSIG I old"],
            &["NEWSIG", "GOODSIG I old", "VALIDSIG K"],
            &[
                "NEWSIG",
                "GOODSIG I old",
                "VALIDSIG K 2020-01-10 1578614400 0 4 0 22 8 01 K",
            ],
            &[
                "NEWSIG",
                "GOODSIG I old",
                "VALIDSIG K 2020-01-10 1578614400 0 4 0 22 8 00 x",
            ],
            &["NEWSIG", "BADSIG I old", "GOODSIG I old", VALID],
            &["NEWSIG", "EXPKEYSIG I old", "GOODSIG I old", VALID],
            &["NEWSIG", "GOODSIG I old", VALID, "REVKEYSIG I old"],
            &["NEWSIG", "GOODSIG I old", "NEWSIG", VALID],
        ] {
            assert!(!parsed(lines).iter().any(Finding::is_good), "{lines:?}");
        }
        // Words for people do not pass for a status.
        let text = format!("gpg: NEWSIG\n [GNUPG:] NEWSIG\n[GNUPG:]GOODSIG {KEY}\n");
        assert_eq!(parse(&text), []);
    }

    #[test]
    fn of_two_signatures_each_has_its_own() {
        let mut lines = vec!["NEWSIG", "KEYEXPIRED 1580558400", "EXPKEYSIG I x", VALID];
        lines.extend(["NEWSIG", "GOODSIG I old", VALID]);
        let verdict = Verdict::KeyExpired(Some(1_580_558_400));
        assert_eq!(parsed(&lines), [of(verdict), of(Verdict::Good)]);
    }
}
