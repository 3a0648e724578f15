//! Messages on stderr: `tool: doing what 'path': reason`, and `tool: hint: …` if there is one.
//!
//! Names come from roots and mirrors that an attacker may have written, so control characters are escaped.

use crate::progress;
use std::fmt::Display;
use std::path::Path;

/// Returns `text` with every control character escaped, so that it can neither control a terminal nor forge a message.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Returns `path` for a message: in single quotes, with control characters escaped.
#[must_use]
pub fn quote(path: impl AsRef<Path>) -> String {
    format!("'{}'", escape(&path.as_ref().to_string_lossy()))
}

/// Returns a text, or a URL, without the users and passwords of URLs in it: messages and documents are copied into logs, and
/// contain no secrets.
#[must_use]
pub fn without_password(text: &str) -> String {
    let mut parts = text.split("://");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let ends = |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '<' | '>');
        let end = part.find(ends).unwrap_or(part.len());
        let host = part[..end].rfind('@').map_or(0, |at| at + 1);
        out.push_str("://");
        out.push_str(&part[host..]);
    }
    out
}

/// Returns that of `names` which is most like `word`, where one is: for a hint.
#[must_use]
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |name| (strsim::jaro(word, name), name);
    // As clap does with the names of options.
    let near = names.into_iter().map(likeness).filter(|(likeness, _)| *likeness > 0.7);
    near.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

/// Returns the beginning of a hint, `did you mean 'NAME'? `: `elsewhere` has what others call some of `names`. Empty where
/// nothing is like `word`.
#[must_use]
pub fn meant(word: &str, elsewhere: &[(&str, &str)], names: impl IntoIterator<Item = &'static str>) -> String {
    let known = elsewhere.iter().find(|(other, _)| *other == word).map(|(_, ours)| *ours);
    let meant = known.or_else(|| nearest(word, names));
    meant.map_or_else(String::new, |meant| format!("did you mean '{meant}'? "))
}

/// Writes one line of `tool` to stderr. A message that cannot be written is dropped.
pub fn line(tool: &str, text: impl Display) {
    pass(&format!("{tool}: {}", without_password(&escape(&text.to_string()))));
}

/// Writes one line to stderr, in the place of a bar that a stage of the pipeline may have there. It begins with no brace: that is
/// progress.
pub fn pass(line: &str) {
    let begin = if line.starts_with('{') { " " } else { "" };
    let erase = if progress::can_erase() { "\x1b[K" } else { "" };
    // One write, so that lines of the stages of one pipeline do not mix.
    progress::write(&format!("{begin}{line}{erase}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for (url, out) in [
            ("https://me:word@h/x", "https://h/x"),
            ("https://me:w@rd@h", "https://h"),
            ("https://h/a@b", "https://h/a@b"),
            ("file:///srv/a@b", "file:///srv/a@b"),
            ("https://h?a@b", "https://h?a@b"),
            ("https://it's:me@h", "https://h"),
            (
                "reading 'http://a:b@h/': write to me@h, or c=https://d@i",
                "reading 'http://h/': write to me@h, or c=https://i",
            ),
        ] {
            assert_eq!(without_password(url), out);
        }
    }

    #[test]
    fn control_characters_and_direction_marks_are_escaped() {
        assert_eq!(escape("a\x1b[2Jb\nc\u{202e}d"), "a\\u{1b}[2Jb\\nc\\u{202e}d");
        assert_eq!(escape("größe 'x'"), "größe 'x'");
        assert_eq!(quote("/a\tb"), "'/a\\tb'");
    }

    #[test]
    fn a_name_with_a_slip_is_found_and_another_is_not() {
        let names = ["x86_64", "aarch64", "armv7h"];
        assert_eq!(nearest("aarch46", names), Some("aarch64"));
        assert_eq!(nearest("x86-64", names), Some("x86_64"));
        assert_eq!(nearest("z80", names), None);
        assert_eq!(nearest("", names), None);
    }
}
