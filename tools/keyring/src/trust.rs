//! Which keys give trust, by a keyring package and the pins.
//!
//! `NAME-trusted` comes from the mirror with the keys, so it proves nothing by itself. A key gets a local signature and
//! owner trust if that file names it *and* it is pinned, in the distribution's preset or with `--trust`. If that file names a
//! key that is not pinned the run fails: without that key the keyring would not be the distribution's, and with it the
//! mirror would decide whom to trust.

use serde::{Deserialize, Serialize};
use stage::{Code, Failure};
use std::collections::{BTreeMap, BTreeSet};

/// The files of one ring, as `usr/share/pacman/keyrings` has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RingFiles {
    /// The ring's name.
    pub(crate) name: String,
    /// `NAME.gpg`: the keys.
    pub(crate) keys: Vec<u8>,
    /// `NAME-trusted`: the master keys, in the format of gpg's owner trust.
    pub(crate) trusted: Option<Vec<u8>>,
    /// `NAME-revoked`: the keys that are not to be used any more.
    pub(crate) revoked: Option<Vec<u8>>,
}

/// What a keyring is built from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ring {
    /// The names of the rings, and their keys as gpg exports them.
    pub(crate) keys: Vec<(String, Vec<u8>)>,
    /// The fingerprints that get a local signature and marginal owner trust.
    pub(crate) trusted: Vec<String>,
    /// Those of them that only `--trust` names, and no ring.
    pub(crate) asked: Vec<String>,
    /// The fingerprints that are disabled.
    pub(crate) revoked: Vec<String>,
}

/// What a keyring is built from, together and for each publisher.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decided {
    pub(crate) all: Ring,
    pub(crate) each: Vec<Ring>,
    /// How messages call them.
    pub(crate) titles: Vec<String>,
    /// The keys of `--trust`.
    pub(crate) asked: Vec<String>,
}

/// A key that an overlay lists as revoked and another publisher's packages are signed by: `of` is the overlay, `by` that one.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Kept {
    pub(crate) key: String,
    pub(crate) of: String,
    pub(crate) by: String,
}

impl Decided {
    /// Returns what the keyring of all is built from, and the keys that it does not disable. `valid` are the keys that are valid by
    /// each publisher's own rings and pins: what the distribution revokes is disabled, and what an overlay revokes unless it is
    /// another's.
    pub(crate) fn together(&self, valid: &[Vec<String>]) -> (Ring, Vec<Kept>) {
        let is_of_first = |key: &String| self.each.first().is_some_and(|ring| ring.revoked.contains(key));
        let mut kept = Vec::new();
        let mut all = self.all.clone();
        all.revoked.retain(|key| {
            let by = valid.iter().position(|keys| keys.contains(key)).filter(|_| !is_of_first(key));
            let of = self.each.iter().position(|ring| ring.revoked.contains(key));
            let titles = |by: usize| Some((self.titles.get(of?)?.clone(), self.titles.get(by)?.clone()));
            kept.extend(by.and_then(titles).map(|(of, by)| Kept { key: key.clone(), of, by }));
            by.is_none()
        });
        (all, kept)
    }
}

impl Ring {
    /// Joins the rings of several publishers.
    ///
    /// # Errors
    ///
    /// [`Code::NotVerified`] where one lists as revoked what is a master key of another: it speaks for its own keys only.
    pub(crate) fn join(each: &[Self], titles: &[String]) -> Result<Self, Failure> {
        let mut all = Self::default();
        for (ring, title) in each.iter().zip(titles) {
            let others = each.iter().zip(titles).filter(|(_, other)| *other != title);
            for (other, whose) in others {
                if let Some(key) = ring.revoked.iter().find(|key| other.trusted.contains(key)) {
                    let message = format!(
                        "building the keyring of '{title}': it lists {key} as revoked, which is a master key of '{whose}'"
                    );
                    return Err(Failure::new(Code::NotVerified, message).hint("leave that overlay out"));
                }
            }
            all.keys.extend(ring.keys.clone());
            all.trusted.extend(ring.trusted.clone());
            all.revoked.extend(ring.revoked.clone());
            let is_unnamed = |key: &&String| each.iter().all(|ring| ring.asked.contains(key));
            all.asked.extend(ring.asked.iter().filter(is_unnamed).cloned());
        }
        for list in [&mut all.trusted, &mut all.revoked, &mut all.asked] {
            list.sort();
            list.dedup();
        }
        Ok(all)
    }

    /// Returns the pinned keys that give trust.
    pub(crate) fn usable(&self, unusable: &Unusable) -> Vec<&String> {
        let keys = self.trusted.iter();
        keys.filter(|key| !unusable.contains_key(*key)).collect()
    }
}

/// The pinned keys that give no trust, and why not.
pub(crate) type Unusable = BTreeMap<String, String>;

/// The fingerprints that may give trust.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pins {
    /// Those of the distribution's preset.
    pub(crate) preset: Vec<String>,
    /// Those of `--trust`.
    pub(crate) asked: Vec<String>,
}

impl Pins {
    /// Fails without any pin: then no ring can be trusted, and none needs to be downloaded.
    ///
    /// # Errors
    ///
    /// [`Code::NotVerified`], with what to do.
    pub(crate) fn need_some(&self, title: &str) -> Result<(), Failure> {
        if self.preset.is_empty() && self.asked.is_empty() {
            let message = format!("building the keyring of {title}: no key is pinned that could give trust");
            return Err(Failure::new(Code::NotVerified, message)
                .hint("find out whose keys they are, and give each with --trust FINGERPRINT"));
        }
        Ok(())
    }
}

/// Decides what a keyring is built from.
///
/// # Errors
///
/// [`Code::NotVerified`] where a key would give trust that is not pinned, or none is left that does.
pub(crate) fn decide(rings: Vec<RingFiles>, pins: &Pins) -> Result<Ring, Failure> {
    let mut ring = Ring::default();
    let mut revoked = BTreeSet::new();
    for files in &rings {
        for line in lines(files.revoked.as_deref().unwrap_or_default()) {
            revoked.insert(fingerprint(line, &files.name, "revoked")?);
        }
    }
    let mut trusted = BTreeSet::new();
    let mut strangers = Vec::new();
    for files in &rings {
        for line in lines(files.trusted.as_deref().unwrap_or_default()) {
            let key = fingerprint(line.split(':').next().unwrap_or(""), &files.name, "trusted")?;
            if revoked.contains(&key) {
                continue;
            }
            if pins.preset.contains(&key) || pins.asked.contains(&key) {
                trusted.insert(key);
            } else {
                strangers.push((key, files.name.as_str()));
            }
        }
    }
    if let Some((key, name)) = strangers.first() {
        let more = pacman::and_more(strangers.len() - 1);
        let message = format!("reading '{name}-trusted': it names {key}{more} as a master key, which is not pinned");
        return Err(Failure::new(Code::NotVerified, message).hint(format!(
            "the keyring may be newer than this program, or another's: if its owners publish that key, add --trust {key}"
        )));
    }
    for key in &pins.asked {
        if revoked.contains(key) {
            return Err(Failure::new(Code::NotVerified, format!("trusting {key}: its owners list it as revoked")));
        }
        if trusted.insert(key.clone()) {
            ring.asked.push(key.clone());
        }
    }
    if trusted.is_empty() {
        let names: Vec<_> = rings.iter().map(|r| format!("'{}'", r.name)).collect();
        let names = names.join(", ");
        let message = format!("reading the keyring {names}: none of the pinned keys is a master key in it");
        return Err(Failure::new(Code::NotVerified, message)
            .hint("a newer release of strapline may pin its keys of today; --trust FINGERPRINT names one by hand"));
    }
    ring.trusted = trusted.into_iter().collect();
    ring.revoked = revoked.into_iter().collect();
    ring.keys = rings.into_iter().map(|r| (r.name, r.keys)).collect();
    Ok(ring)
}

/// Returns the lines but for blank ones and comments, as pacman-key does.
fn lines(text: &[u8]) -> impl Iterator<Item = &str> {
    text.split(|b| *b == b'\n')
        // Not UTF-8: refused as an invalid fingerprint.
        .map(|line| std::str::from_utf8(line).unwrap_or("?").trim())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Returns a normalized fingerprint. Key ids are refused: anybody can make a key that has the same one.
fn fingerprint(text: &str, name: &str, file: &str) -> Result<String, Failure> {
    let key = text.trim().to_ascii_uppercase();
    distro::check::fingerprint(&key)
        .map_err(|why| Failure::new(Code::NotVerified, format!("reading '{name}-{file}': {why}")))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const B: &str = "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB";
    const C: &str = "CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC";

    fn files(trusted: &str, revoked: &str) -> Vec<RingFiles> {
        vec![RingFiles {
            name: "x".into(),
            keys: b"keys".to_vec(),
            trusted: Some(trusted.into()),
            revoked: Some(revoked.into()),
        }]
    }

    fn run(trusted: &str, revoked: &str, preset: &[&str], asked: &[&str]) -> Result<Ring, Failure> {
        let owned = |list: &[&str]| list.iter().map(|k| (*k).to_owned()).collect::<Vec<_>>();
        let (preset, asked) = (owned(preset), owned(asked));
        decide(files(trusted, revoked), &Pins { preset, asked })
    }

    #[test]
    fn trust_is_what_is_both_named_and_pinned() {
        let text = format!("# masters\n\n{A}:4:\n{}:4:\r\n", B.to_lowercase());
        let ring = run(&text, C, &[A, B, C], &[]).unwrap();
        assert_eq!(ring.trusted, [A, B]);
        assert_eq!(ring.revoked, [C]);
        assert_eq!(ring.keys, [("x".to_owned(), b"keys".to_vec())]);
        // A pinned key that the distribution does not name any more gives none.
        assert_eq!(run(&format!("{A}:4:"), "", &[A, B], &[]).unwrap().trusted, [A]);
        // One that the user names does, whatever the ring says.
        let ring = run(&format!("{A}:4:"), "", &[], &[A, B, B]).unwrap();
        assert_eq!((ring.trusted, ring.asked), (vec![A.into(), B.into()], vec![B.into()]));
        assert_eq!(run("", "", &[A], &[B]).unwrap().trusted, [B]);
    }

    #[test]
    fn a_master_that_is_not_pinned_is_refused_and_named() {
        let failure = run(&format!("{A}:4:\n{B}:4:\n{C}:4:\n"), "", &[A], &[]).unwrap_err();
        assert_eq!(failure.code, Code::NotVerified);
        assert_eq!(
            failure.message,
            format!("reading 'x-trusted': it names {B} (and 1 more) as a master key, which is not pinned")
        );
        assert!(failure.hint.unwrap().ends_with(&format!("--trust {B}")));
    }

    #[test]
    fn revoked_wins() {
        let ring = run(&format!("{A}:4:\n{B}:4:\n"), B, &[A], &[]).unwrap();
        assert_eq!(ring.trusted, [A]);
        let failure = run(&format!("{A}:4:"), B, &[A], &[B]).unwrap_err();
        assert!(failure.message.contains("revoked"), "{failure}");
        assert!(run(&format!("{A}:4:"), A, &[A], &[]).is_err());
    }

    #[test]
    fn an_overlay_disables_its_own_keys_only() {
        let ring = |revoked: &[&str]| Ring {
            revoked: revoked.iter().map(|key| (*key).to_owned()).collect(),
            ..Ring::default()
        };
        let each = vec![ring(&[A]), ring(&[A, B, C])];
        let titles = vec!["base".to_owned(), "over".to_owned()];
        let all = Ring::join(&each, &titles).unwrap();
        let decided = Decided { all, each, titles, asked: Vec::new() };
        let (together, kept) = decided.together(&[vec![B.to_owned()], vec![A.to_owned()]]);
        assert_eq!(together.revoked, [A, C]);
        assert_eq!(kept, [Kept { key: B.to_owned(), of: "over".to_owned(), by: "base".to_owned() }]);
        // Where there is one publisher nothing was asked.
        assert_eq!(decided.together(&[]).0.revoked, [A, B, C]);
    }

    #[test]
    fn none_left_and_nonsense() {
        let none = run("", "", &[A], &[]).unwrap_err();
        assert!(none.message.contains("none of the pinned keys"), "{none}");
        for bad in ["AAAAAAAA:4:", "--help", "\u{1b}[2J:4:", "4DC95B6D7BE9892E:4:"] {
            let failure = run(bad, "", &[A], &[]).unwrap_err();
            assert!(failure.message.starts_with("reading 'x-trusted': '"), "{failure}");
        }
        assert!(run(&format!("{A}:4:"), "D6D055F927843F1C", &[A], &[]).is_err());
        assert!(Pins::default().need_some("x").is_err());
    }
}
