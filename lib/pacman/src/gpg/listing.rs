//! The keys of a keyring, as `gpg --with-colons` lists them (doc/DETAILS of GnuPG).

/// A key as gpg lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Key {
    /// The primary key's fingerprint.
    pub fingerprint: String,
    /// Those of its subkeys.
    pub subkeys: Vec<String>,
    /// Its first user id.
    pub user: String,
    /// How valid it is: `u`ltimate, `f`ull, `m`arginal, `e`xpired, `r`evoked and others.
    pub validity: char,
    /// How far its owner's signatures count: `u`, `f`, `m`, `-` and others.
    pub owner_trust: char,
    /// Whether it is disabled.
    pub disabled: bool,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// When it expires.
    pub expires: Option<u64>,
}

impl Key {
    /// Returns the fingerprint and the user id, as they stand in a message.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} ({})", self.fingerprint, self.user)
    }
}

/// The keys of a keyring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// In gpg's order.
    pub list: Vec<Key>,
    /// How many marginally trusted keys must sign a key to make it valid.
    pub needed: u32,
}

impl Keys {
    /// Parses what `gpg --with-colons --list-keys` prints, or `--list-secret-keys`.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        // gpg's own default, which pacman-key leaves as it is.
        let mut keys = Self { list: Vec::new(), needed: 3 };
        let mut primary = false;
        for line in text.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let field = |n: usize| fields.get(n).copied().unwrap_or("");
            let letter = |n: usize| field(n).chars().next().unwrap_or('-');
            match field(0) {
                "tru" => keys.needed = field(5).parse().unwrap_or(keys.needed),
                "pub" | "sec" => {
                    keys.list.push(Key {
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
                "fpr" => {
                    let Some(key) = keys.list.last_mut() else {
                        continue;
                    };
                    if !primary {
                        key.subkeys.push(field(9).to_owned());
                    } else if key.fingerprint.is_empty() {
                        key.fingerprint = field(9).to_owned();
                    }
                }
                "uid" => {
                    if let Some(key) = keys.list.last_mut().filter(|k| k.user.is_empty()) {
                        key.user = unescape(field(9));
                    }
                }
                _ => {}
            }
        }
        keys
    }

    /// Finds the key that has this fingerprint or long key id, or a subkey of it. A primary key comes before a subkey: a
    /// hostile key may have another's primary key as its subkey.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<&Key> {
        if id.len() < 16 {
            return None;
        }
        let primary = self.list.iter().find(|k| k.fingerprint.ends_with(id));
        primary.or_else(|| self.list.iter().find(|k| k.subkeys.iter().any(|s| s.ends_with(id))))
    }

    /// Returns the keys that are valid, fully or ultimately, and not disabled.
    pub fn valid(&self) -> impl Iterator<Item = &Key> {
        let is_valid = |key: &&Key| matches!(key.validity, 'f' | 'u') && !key.disabled;
        self.list.iter().filter(is_valid)
    }

    /// Returns the keys that are valid here, neither valid in `reference` nor in `own`.
    #[must_use]
    pub fn strangers<'a>(&'a self, reference: &Self, own: &[String]) -> Vec<&'a Key> {
        self.valid()
            .filter(|key| !own.contains(&key.fingerprint))
            .filter(|key| reference.valid().all(|k| k.fingerprint != key.fingerprint))
            .collect()
    }
}

/// A certificate: the signature of a key on a user id of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The long key id of the key that made it.
    pub by: String,
    /// Whether gpg accepts it.
    pub good: bool,
    /// Whether it is over a SHA-1.
    pub sha1: bool,
}

/// Parses what `gpg --with-colons --check-signatures` prints of one key.
#[must_use]
pub fn certificates(text: &[u8]) -> Vec<Certificate> {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().take_while(|line| !line.starts_with("sub:"));
    lines
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let field = |n: usize| fields.get(n).copied().unwrap_or("");
            (field(0) == "sig").then(|| Certificate {
                by: field(4).to_owned(),
                good: field(1).starts_with('!'),
                sha1: field(15) == "2",
            })
        })
        .collect()
}

/// Returns a user id without gpg's escapes, `\x3a` for a colon.
fn unescape(text: &str) -> String {
    let mut parts = text.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let code = part.get(..2);
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend(&part.as_bytes()[2..]);
            }
            None => bytes.extend([b"\\x", part.as_bytes()].concat()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const B: &str = "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB";

    #[test]
    fn colons() {
        let text = format!(
            "tru::1:1795000000:0:2:1:5\n\
             pub:f:255:22:4DC95B6D7BE9892E:1619395200:1700000000::m:::scSCD:::::ed25519:::0:\n\
             fpr:::::::::{A}:\n\
             uid:f::::1619395200::X::David \\x3a Runge::::::::::0:\n\
             uid:f::::1619395200::X::Another::::::::::0:\n\
             sub:f:255:18:1111111111111111:1:::::e:::\n\
             fpr:::::::::{B}:\n\
             pub:-:255:22:1:5:::-:::scSC:::::ed25519:::0:\n\
             fpr:::::::::{B}:\n"
        );
        let keys = Keys::parse(text.as_bytes());
        assert_eq!(keys.needed, 2);
        let expected = Key {
            fingerprint: A.into(),
            subkeys: vec![B.into()],
            user: "David : Runge".into(),
            validity: 'f',
            owner_trust: 'm',
            disabled: true,
            created: 1_619_395_200,
            expires: Some(1_700_000_000),
        };
        assert_eq!(keys.list[0], expected);
        assert_eq!(expected.name(), format!("{A} (David : Runge)"));
        assert_eq!(keys.find(&A[..16]), Some(&expected));
        assert_eq!(keys.find(B).map(|k| &*k.fingerprint), Some(B));
        assert_eq!(keys.find(""), None);
        assert_eq!(Keys::parse(b"gpg: nothing\nfpr\n\xff").list, []);
        assert_eq!(Keys::parse(b"pub\n").list[0].validity, '-');
    }

    #[test]
    fn who_signed_a_key() {
        let text = "pub:m:255:22:1:5:::-:::scSC:::::ed25519:::0:\n\
             sig:!::22:0000000000000001:1700000000::::[x]:10l:::::8:\n\
             sig:%:::0000000000000002:1700000000::::[x]:10x:::::2:\n\
             sub:f:255:18:1111111111111111:1:::::e:::\n\
             sig:!::22:0000000000000003:1700000000::::[x]:18x:::::8:\n";
        let certificate = |by: &str, good, sha1| Certificate { by: by.into(), good, sha1 };
        assert_eq!(
            certificates(text.as_bytes()),
            [certificate("0000000000000001", true, false), certificate("0000000000000002", false, true),]
        );
        assert_eq!(certificates(b"sig\n\xff"), [certificate("", false, false)]);
    }

    #[test]
    fn strangers_are_valid_here_and_not_in_the_reference() {
        let key = |fingerprint: &str, validity| Key { fingerprint: fingerprint.into(), validity, ..Key::default() };
        let keys = |list| Keys { list, needed: 3 };
        let reference = keys(vec![key("own", 'u'), key(A, 'f'), key(B, 'm')]);
        let mut here = reference.clone();
        here.list.push(key("C", '-'));
        let names = |here: &Keys, own: &[String]| -> Vec<String> {
            let strangers = here.strangers(&reference, own);
            strangers.iter().map(|k| k.fingerprint.clone()).collect()
        };
        assert_eq!(names(&here, &[]), [""; 0]);
        // One that is valid by something else, a new one, and one that says that it is the keyring's own.
        here.list[2].validity = 'f';
        here.list.extend([key("D", 'f'), key("E", 'u')]);
        assert_eq!(names(&here, &[]), [B, "D", "E"]);
        assert_eq!(names(&here, &["E".to_owned()]), [B, "D"]);
        here.list[4].disabled = true;
        assert_eq!(names(&here, &["E".to_owned()]), [B]);
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape(r"a\x3ab\x5c\xc3\xa9\x\"), "a:b\\é\\x\\");
    }
}
