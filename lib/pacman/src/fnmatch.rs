//! Patterns of fnmatch(3) without flags: `*` and `?` match a slash too, as in libalpm's `NoExtract`.

/// Compares a text with a pattern of fnmatch(3) without flags: `*` and `?` match a slash too.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and how much of the text it took.
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match pattern.get(p) {
            None if t == text.len() => return true,
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some(_) if t < text.len() => one(&pattern[p..], text[t]),
            _ => None,
        };
        match (step, star) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((at, taken))) if taken < text.len() => {
                star = Some((at, taken + 1));
                (p, t) = (at + 1, taken + 1);
            }
            _ => return false,
        }
    }
}

/// Matches one byte with what stands at the beginning of a pattern; returns the length of that.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    let single = |literal: u8, length| (literal == byte).then_some(length);
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', literal, ..] => single(*literal, 2),
        [b'[', rest @ ..] => {
            let negated = matches!(rest.first(), Some(b'!' | b'^'));
            let set = &rest[usize::from(negated)..];
            // A bracket that comes first is one of the set.
            let Some(end) = set.iter().skip(1).position(|b| *b == b']').map(|n| n + 1) else {
                return single(b'[', 1);
            };
            let mut found = false;
            let mut at = 0;
            while at < end {
                if at + 2 < end && set[at + 1] == b'-' {
                    found |= (set[at]..=set[at + 2]).contains(&byte);
                    at += 3;
                } else {
                    found |= set[at] == byte;
                    at += 1;
                }
            }
            (found != negated).then_some(1 + usize::from(negated) + end + 1)
        }
        [literal, ..] => single(*literal, 1),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, is) in [
            ("usr/share/doc/*", "usr/share/doc/a/b", true),
            ("usr/share/doc/*", "usr/share/doc", false),
            ("*", "", true),
            ("*.?o", "lib/x.so", true),
            ("*a*b", "xaybzb", true),
            ("*a*b", "xaybz", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]x", "]x", true),
            ("[x", "[x", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), is, "{pattern} {text}");
        }
    }
}
