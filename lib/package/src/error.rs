//! Why something could not be read.

use std::fmt;
use std::io;

/// The result of reading.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something could not be read: what was being done, and the reason.
///
/// The text is safe to show: whatever came out of the input is shortened, and its control
/// characters are escaped.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// There was no input at all.
    Empty,
    /// The input is no archive: a web page, a redirect, something else.
    NotAnArchive {
        /// Its first bytes.
        begins: Vec<u8>,
    },
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
    /// The input is not what it should be, or is refused.
    Malformed {
        /// What was being done.
        doing: String,
        /// The reason.
        reason: String,
    },
    /// The input is larger than the limit.
    TooLarge {
        /// What was being done.
        doing: String,
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        limit: u64,
    },
    /// The archive has no such members.
    NotFound {
        /// The members that were looked for and not found.
        members: Vec<String>,
    },
}

impl Error {
    pub(crate) fn read(doing: impl Into<String>, source: io::Error) -> Self {
        Self::Read {
            doing: doing.into(),
            source,
        }
    }

    pub(crate) fn malformed(doing: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Malformed {
            doing: doing.into(),
            reason: reason.into(),
        }
    }

    /// Returns an error for input that ended before it was complete.
    pub(crate) fn ended(doing: impl Into<String>) -> Self {
        Self::read(
            doing,
            io::Error::new(io::ErrorKind::UnexpectedEof, "the input ended early"),
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "reading archive: it is empty"),
            Self::NotAnArchive { begins } => write!(
                f,
                "reading archive: not an archive: it begins with '{}'",
                printable(&String::from_utf8_lossy(begins))
            ),
            // The tar crate quotes names and fields of the archive in its messages.
            Self::Read { doing, source } => {
                write!(
                    f,
                    "{}: {}",
                    printable(doing),
                    printable(&source.to_string())
                )
            }
            Self::Write { member, source } => {
                write!(f, "writing member '{}': {source}", printable(member))
            }
            Self::Malformed { doing, reason } => {
                write!(f, "{}: {}", printable(doing), printable(reason))
            }
            Self::TooLarge { doing, what, limit } => {
                write!(f, "{}: more than {limit} {what}", printable(doing))
            }
            Self::NotFound { members } => {
                write!(f, "reading package archive: no member ")?;
                for (i, member) in members.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    write!(f, "{comma}'{}'", printable(member))?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } | Self::Write { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The most characters of foreign text that a message repeats.
const SHOWN: usize = 200;

/// Returns text that can do nothing to a terminal: short, and without control characters or
/// characters that reorder what is read. Quotes stay as they are.
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
            Error::NotAnArchive {
                begins: evil.as_bytes().to_vec(),
            },
            Error::NotFound {
                members: vec![evil.into(), "usr/bin/x".into()],
            },
            Error::Write {
                member: evil.into(),
                source: io::Error::other("disk full"),
            },
        ];
        for e in errors {
            let text = e.to_string();
            assert!(
                !text.chars().any(|c| c.is_control() || c == '\u{202e}'),
                "{text:?}"
            );
            assert!(!text.ends_with('.'), "{text}");
        }
    }

    #[test]
    fn messages_are_short() {
        let long = "x".repeat(1 << 20);
        assert!(Error::malformed(&long, &long).to_string().len() < 1000);
    }
}
