//! Why something could not be read.

use std::fmt;
use std::io;

/// The result of reading.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something could not be read: what was being done, and the reason.
///
/// The text is safe to print: what comes from the input is shortened, and its control characters are escaped.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Reading or decompressing failed, or the input ended early.
    Read {
        /// What was being done.
        doing: String,
        /// The reason.
        source: io::Error,
    },
    /// The output could not be written.
    Write {
        /// The member that was being extracted.
        member: String,
        /// The reason.
        source: io::Error,
    },
    /// The input is of another format, larger than the limit, or refused.
    Malformed {
        /// What was being done.
        doing: String,
        /// The reason.
        reason: String,
    },
    /// The archive lacks members.
    NotFound {
        /// The members that were not found.
        members: Vec<String>,
    },
}

impl Error {
    pub(crate) fn read(doing: &str, source: io::Error) -> Self {
        Self::Read { doing: doing.into(), source }
    }

    pub(crate) fn malformed(doing: &str, reason: impl Into<String>) -> Self {
        Self::Malformed { doing: doing.into(), reason: reason.into() }
    }

    /// Returns the error of input that has more than `limit` of something.
    pub(crate) fn too_large(doing: &str, what: &str, limit: u64) -> Self {
        Self::malformed(doing, format!("more than {limit} {what}"))
    }

    /// Returns the error of input that ended before it was complete.
    pub(crate) fn ended(doing: &str) -> Self {
        Self::read(doing, io::Error::new(io::ErrorKind::UnexpectedEof, "the input ended early"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The tar crate quotes names and fields of the archive in its messages.
            Self::Read { doing, source } => write!(f, "{}: {}", printable(doing), printable(&source.to_string())),
            Self::Write { member, source } => write!(f, "writing member '{}': {source}", printable(member)),
            Self::Malformed { doing, reason } => write!(f, "{}: {}", printable(doing), printable(reason)),
            Self::NotFound { members } => {
                let quoted: Vec<_> = members.iter().map(|m| format!("'{}'", printable(m))).collect();
                write!(f, "reading package archive: no member {}", quoted.join(", "))
            }
        }
    }
}

impl std::error::Error for Error {}

/// How many characters of foreign text a message repeats.
const SHOWN: usize = 200;

/// Returns text that is harmless on a terminal: short, and without control characters or characters that change the order
/// of reading. Quotes stay as they are.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        match c {
            _ if n == SHOWN => {
                out.push('…');
                break;
            }
            '\'' | '"' => out.push(c),
            _ => out.extend(c.escape_debug()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_harmless_line() {
        let evil = "\u{1b}]0;x\u{7}a\nb\u{202e}\u{9b}31m\u{0}";
        let errors = [
            Error::read(evil, io::Error::other(evil)),
            Error::malformed(evil, evil),
            Error::NotFound { members: vec![evil.into(), "usr/bin/x".into()] },
            Error::Write { member: evil.into(), source: io::Error::other("disk full") },
        ];
        for e in errors {
            let text = e.to_string();
            assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
            assert!(!text.ends_with('.'), "{text}");
        }
    }

    #[test]
    fn messages_are_short() {
        let long = "x".repeat(1 << 20);
        assert!(Error::malformed(&long, &long).to_string().len() < 1000);
    }
}
