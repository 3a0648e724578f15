//! A password, as text or as its hash. It comes from a file, goes to one program's stdin or into shadow(5), and nowhere
//! else: not into a message, not into an argument, not into the document.

use std::fmt;

/// A password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Secret {
    /// The password itself; the root's own tools hash it.
    Plain(String),
    /// Its hash, of crypt(5).
    Hash(String),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain(…)",
            Self::Hash(_) => "Hash(…)",
        })
    }
}

/// The longest password that PAM accepts, in bytes (`PAM_MAX_RESP_SIZE`, less its end).
const LONGEST: usize = 511;

/// The methods of crypt(5) that are still strong: yescrypt, gost-yescrypt, scrypt, bcrypt, SHA-512 and SHA-256.
const METHODS: [&str; 8] = ["y", "gy", "7", "2b", "2a", "2y", "6", "5"];

impl Secret {
    /// Reads a password: the file's one line.
    ///
    /// # Errors
    ///
    /// Why it is invalid; never with what is in the file.
    pub(crate) fn plain(text: &str) -> Result<Self, String> {
        let line = one_line(text)?;
        if line.len() > LONGEST {
            return Err(format!("it is longer than {LONGEST} bytes"));
        }
        Ok(Self::Plain(line.to_owned()))
    }

    /// Reads a hash: the file's one line.
    ///
    /// # Errors
    ///
    /// Why it is invalid; never with what is in the file.
    pub(crate) fn hash(text: &str) -> Result<Self, String> {
        let line = one_line(text)?;
        let mut parts = line.split('$');
        let (before, method) = (parts.next(), parts.next().unwrap_or_default());
        let fine = |b: u8| b.is_ascii_alphanumeric() || b"./$=,-_".contains(&b);
        if before != Some("") || parts.count() < 2 || !line.bytes().all(fine) {
            return Err("it is not a hash of crypt(5): 'mkpasswd' and 'openssl passwd -6' make one".into());
        }
        if !METHODS.contains(&method) {
            return Err("its method is too weak or unknown: use yescrypt, bcrypt or SHA-512".into());
        }
        Ok(Self::Hash(line.to_owned()))
    }
}

fn one_line(text: &str) -> Result<&str, String> {
    let line = text.strip_suffix('\n').unwrap_or(text);
    if line.is_empty() {
        return Err("it is empty".into());
    }
    if line.chars().any(char::is_control) {
        return Err("it is more than one line, or has a control character".into());
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_strong_hashes_are_accepted_and_nothing_is_shown() {
        for good in ["$6$salt$hash", "$y$j9T$salt$hash", "$2b$10$saltandhash", "$6$rounds=9$s$h\n"] {
            let secret = Secret::hash(good).unwrap();
            assert_eq!(format!("{secret:?}"), "Hash(…)");
        }
        for bad in ["", "\n", "geheim", "$1$salt$hash", "$6$salt", "x$6$a$b", "$6$a$b:c", "$6$a$b\n\n", "!", "$6$a b$c"]
        {
            let why = Secret::hash(bad).unwrap_err();
            assert!(!why.contains("geheim"), "{why}");
        }
    }

    #[test]
    fn a_password_is_one_line() {
        assert_eq!(Secret::plain("correct horse\n").unwrap(), Secret::Plain("correct horse".into()));
        for bad in ["", "\n", "a\nb", "a\n\n", "a\0", &"a".repeat(512)] {
            Secret::plain(bad).unwrap_err();
        }
    }
}
