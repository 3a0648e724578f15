//! gpg's status lines, as doc/DETAILS of GnuPG describes them.
//!
//! Only they count: gpg also exits with 0 for a signature whose key has expired or was revoked.

/// What gpg found of one signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The fingerprint of the primary key, where gpg has the key; else what the signature names: a fingerprint, which may
    /// be a subkey's, or a key id of 16 digits.
    pub key: String,
    /// When it was made, in seconds since 1970, where that is known.
    pub created: Option<u64>,
    /// Whether it is good, and what is wrong with it.
    pub state: State,
    /// Whether it is over text: of other bytes with the same lines it would be good too.
    pub text: bool,
}

/// Whether a signature is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The key made it over this data, and neither has expired.
    Good(Trust),
    /// It was not made by the key, or not over this data.
    Bad,
    /// It was good, and expired then.
    Expired(Option<u64>),
    /// The key made it, and expired then.
    KeyExpired(Option<u64>),
    /// The key made it, and was revoked.
    KeyRevoked,
    /// gpg does not have the key.
    NoKey,
    /// gpg cannot check it: the number of its error, or what is missing in the status lines.
    Unusable(String),
}

/// How far gpg trusts that the key belongs to the one whom it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Fully, or ultimately.
    Full,
    /// Marginally.
    Marginal,
    /// Not at all, or gpg does not say.
    Unknown,
}

/// Returns what gpg found of each signature, in order.
#[must_use]
pub fn parse(text: &str) -> Vec<Signature> {
    let mut signatures: Vec<Signature> = Vec::new();
    let mut key_expired = None;
    let lines = text.lines();
    for line in lines.filter_map(|line| line.strip_prefix("[GNUPG:] ")) {
        let words: Vec<&str> = line.split(' ').collect();
        let word = |n: usize| words.get(n).copied().unwrap_or_default();
        if word(0) == "NEWSIG" {
            key_expired = None;
            let state = State::Unusable(NO_VERDICT.to_owned());
            signatures.push(Signature { key: String::new(), created: None, state, text: false });
        }
        let Some(signature) = signatures.last_mut() else {
            continue;
        };
        match word(0) {
            "KEY_CONSIDERED" if signature.has_no_verdict() => word(1).clone_into(&mut signature.key),
            "KEYEXPIRED" => key_expired = key_expired.or(seconds(word(1))),
            "VALIDSIG" => signature.add_details(&words),
            // Good only with the VALIDSIG that follows.
            "GOODSIG" => signature.set(State::Unusable(NO_VALIDSIG.to_owned()), word(1)),
            "BADSIG" => signature.set(State::Bad, word(1)),
            "EXPSIG" => signature.set(State::Expired(None), word(1)),
            "EXPKEYSIG" => signature.set(State::KeyExpired(key_expired), word(1)),
            "REVKEYSIG" => signature.set(State::KeyRevoked, word(1)),
            "ERRSIG" => {
                signature.created = seconds(word(5));
                let state = match word(6) {
                    "9" => State::NoKey,
                    number => State::Unusable(number.to_owned()),
                };
                // The fingerprint, since gpg 2.2.7; where gpg does not know it there is a dash.
                let key = Some(word(7)).filter(|key| is_key(key));
                signature.set(state, key.unwrap_or(word(1)));
            }
            "TRUST_FULLY" | "TRUST_ULTIMATE" => signature.set_trust(Trust::Full),
            "TRUST_MARGINAL" => signature.set_trust(Trust::Marginal),
            _ => {}
        }
    }
    signatures
}

const NO_VERDICT: &str = "no verdict";
const NO_VALIDSIG: &str = "no VALIDSIG";

impl Signature {
    fn has_no_verdict(&self) -> bool {
        self.state == State::Unusable(NO_VERDICT.to_owned())
    }

    /// Sets the verdict. Of two that differ neither counts.
    fn set(&mut self, state: State, key: &str) {
        if self.key.is_empty() && is_key(key) {
            key.clone_into(&mut self.key);
        }
        if self.has_no_verdict() {
            self.state = state;
        } else if self.state != state {
            self.state = State::Unusable("two verdicts".to_owned());
        }
    }

    fn set_trust(&mut self, trust: Trust) {
        if let State::Good(known) = &mut self.state {
            *known = trust;
        }
    }

    /// Takes the details of a signature that the key made: `VALIDSIG KEY DATE CREATED EXPIRES VERSION - ALGORITHM HASH CLASS
    /// PRIMARY`.
    fn add_details(&mut self, words: &[&str]) {
        let word = |n: usize| words.get(n).copied().unwrap_or_default();
        self.created = seconds(word(3));
        if is_key(word(10)) {
            word(10).clone_into(&mut self.key);
        }
        match &self.state {
            State::Unusable(why) if why == NO_VALIDSIG => {
                self.text = word(9) == "01";
                self.state = match (word(9), is_key(word(10))) {
                    ("00" | "01", true) => State::Good(Trust::Unknown),
                    (class, _) => State::Unusable(format!("class {class}")),
                };
            }
            State::Expired(_) => self.state = State::Expired(seconds(word(4))),
            _ => {}
        }
    }
}

/// Returns whether it is a fingerprint or a key id.
fn is_key(word: &str) -> bool {
    let digits = word.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    digits && [16, 40, 64].contains(&word.len())
}

fn seconds(word: &str) -> Option<u64> {
    word.parse().ok().filter(|seconds| *seconds > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "9613962F88DCDE8C685A85CEEE48C67CE37C677E";

    fn of(state: State) -> Signature {
        Signature { key: KEY.into(), created: Some(1_578_614_400), state, text: false }
    }

    /// Lines as gpg 2.2.40 wrote them, K for the fingerprint and I for the id of the key.
    fn parsed(lines: &[&str]) -> Vec<Signature> {
        let text: String = lines
            .iter()
            .map(|line| {
                let line = line.replace(" K", &format!(" {KEY}"));
                format!("[GNUPG:] {}\n", line.replace(" I", &format!(" {}", &KEY[24..])))
            })
            .collect();
        parse(&text)
    }

    const VALID: &str = "VALIDSIG K 2020-01-10 1578614400 0 4 0 22 8 00 K";

    #[test]
    fn each_verdict() {
        let good = ["NEWSIG o@x", "KEY_CONSIDERED K 0", "GOODSIG I old <o@x>", VALID];
        assert_eq!(parsed(&good), [of(State::Good(Trust::Unknown))]);
        let expired = ["NEWSIG", "KEYEXPIRED 1580558400", "EXPKEYSIG I old", VALID, "TRUST_FULLY"];
        let state = State::KeyExpired(Some(1_580_558_400));
        assert_eq!(parsed(&expired), [of(state)]);
        for (line, trust) in [
            ("TRUST_FULLY 0 pgp", Trust::Full),
            ("TRUST_MARGINAL 0 pgp", Trust::Marginal),
            ("TRUST_UNDEFINED 0 pgp", Trust::Unknown),
        ] {
            let lines = ["NEWSIG", "GOODSIG I old", VALID, line];
            assert_eq!(parsed(&lines), [of(State::Good(trust))]);
        }
        let revoked = ["NEWSIG", "REVKEYSIG I old", VALID];
        assert_eq!(parsed(&revoked), [of(State::KeyRevoked)]);
        let late = "VALIDSIG K 2020-01-10 1578614400 1578873600 4 0 22 8 00 K";
        let state = State::Expired(Some(1_578_873_600));
        assert_eq!(parsed(&["NEWSIG", "EXPSIG I old", late]), [of(state)]);
        let missing = ["NEWSIG o@x", "ERRSIG I 22 8 00 1578614400 9 K", "NO_PUBKEY I"];
        assert_eq!(parsed(&missing), [of(State::NoKey)]);
        let odd = ["NEWSIG", "ERRSIG I 22 8 00 1578614400 6 K"];
        assert_eq!(parsed(&odd), [of(State::Unusable("6".into()))]);

        let bad = parsed(&["NEWSIG o@x", "KEY_CONSIDERED K 0", "BADSIG I old"]);
        assert_eq!((&*bad[0].key, &bad[0].state), (KEY, &State::Bad));
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
            &["NEWSIG", "GOODSIG I old", "VALIDSIG K 2020-01-10 1578614400 0 4 0 22 8 01 K"],
            &["NEWSIG", "GOODSIG I old", "VALIDSIG K 2020-01-10 1578614400 0 4 0 22 8 00 x"],
            &["NEWSIG", "BADSIG I old", "GOODSIG I old", VALID],
            &["NEWSIG", "EXPKEYSIG I old", "GOODSIG I old", VALID],
            &["NEWSIG", "GOODSIG I old", VALID, "REVKEYSIG I old"],
            &["NEWSIG", "GOODSIG I old", "NEWSIG", VALID],
        ] {
            let is_good = |s: &Signature| matches!(s.state, State::Good(_)) && !s.text;
            assert!(!parsed(lines).iter().any(is_good), "{lines:?}");
        }
        // Words for people do not pass for a status.
        let text = format!("gpg: NEWSIG\n [GNUPG:] NEWSIG\n[GNUPG:]GOODSIG {KEY}\n");
        assert_eq!(parse(&text), []);
    }

    #[test]
    fn of_two_signatures_each_has_its_own() {
        let mut lines = vec!["NEWSIG", "KEYEXPIRED 1580558400", "EXPKEYSIG I x", VALID];
        lines.extend(["NEWSIG", "GOODSIG I old", VALID]);
        let state = State::KeyExpired(Some(1_580_558_400));
        assert_eq!(parsed(&lines), [of(state), of(State::Good(Trust::Unknown))]);
    }
}
