//! Which of two versions is newer, as libalpm decides it.
//!
//! vercmp(8) describes the order; the rules are those of libalpm's `alpm_pkg_vercmp` and of the
//! `rpmvercmp` it took from RPM. They are not obvious (`1.0a` is older than `1.0`, `1.0.a` is newer;
//! `2.0` and `2_0` are equal), and a bootstrap that picks another package than pacman would pick is
//! wrong, so the tests compare with pacman's own `vercmp` program.

use std::cmp::Ordering;

/// Compares two full versions, `[epoch:]pkgver[-pkgrel]`.
///
/// A missing epoch is 0. Releases are compared only if both versions have one: `1.5` and `1.5-1`
/// are equal, so that a dependency need not name the release. The order is therefore not total.
#[must_use]
pub fn vercmp(a: &str, b: &str) -> Ordering {
    if a == b {
        return Ordering::Equal;
    }
    let (epoch_a, version_a, release_a) = split(a.as_bytes());
    let (epoch_b, version_b, release_b) = split(b.as_bytes());
    rpmvercmp(epoch_a, epoch_b)
        .then_with(|| rpmvercmp(version_a, version_b))
        .then_with(|| match (release_a, release_b) {
            (Some(a), Some(b)) => rpmvercmp(a, b),
            _ => Ordering::Equal,
        })
}

/// Splits a full version into epoch, version and release.
///
/// The epoch is all digits (an empty one counts as 0), else the colon belongs to the version. The
/// release follows the last hyphen.
fn split(full: &[u8]) -> (&[u8], &[u8], Option<&[u8]>) {
    let digits = full.iter().take_while(|b| b.is_ascii_digit()).count();
    let (epoch, rest) = match full.get(digits) {
        Some(b':') if digits == 0 => (&b"0"[..], &full[1..]),
        Some(b':') => (&full[..digits], &full[digits + 1..]),
        _ => (&b"0"[..], full),
    };
    match rest.iter().rposition(|b| *b == b'-') {
        Some(at) => (epoch, &rest[..at], Some(&rest[at + 1..])),
        None => (epoch, rest, None),
    }
}

/// Cuts off the bytes at the beginning that are of that kind.
fn cut<'a>(text: &mut &'a [u8], kind: impl Fn(&u8) -> bool) -> &'a [u8] {
    let (head, tail) = text.split_at(text.iter().take_while(|b| kind(b)).count());
    *text = tail;
    head
}

/// Compares two parts of a version, segment by segment. Segments are runs of digits or of letters;
/// all else separates them.
fn rpmvercmp(mut a: &[u8], mut b: &[u8]) -> Ordering {
    if a == b {
        return Ordering::Equal;
    }
    while !a.is_empty() && !b.is_empty() {
        let separator_a = cut(&mut a, |c| !c.is_ascii_alphanumeric());
        let separator_b = cut(&mut b, |c| !c.is_ascii_alphanumeric());
        let (Some(first), false) = (a.first(), b.is_empty()) else {
            break;
        };
        // What the separators are does not matter, only how long they are.
        if separator_a.len() != separator_b.len() {
            return separator_a.len().cmp(&separator_b.len());
        }
        if first.is_ascii_digit() {
            let number_a = cut(&mut a, u8::is_ascii_digit);
            let number_b = cut(&mut b, u8::is_ascii_digit);
            // A number is newer than letters.
            if number_b.is_empty() {
                return Ordering::Greater;
            }
            let number_a = without_zeros(number_a);
            let number_b = without_zeros(number_b);
            let order = number_a.len().cmp(&number_b.len());
            match order.then_with(|| number_a.cmp(number_b)) {
                Ordering::Equal => {}
                order => return order,
            }
        } else {
            let word_a = cut(&mut a, u8::is_ascii_alphabetic);
            let word_b = cut(&mut b, u8::is_ascii_alphabetic);
            if word_b.is_empty() {
                return Ordering::Less;
            }
            match word_a.cmp(word_b) {
                Ordering::Equal => {}
                order => return order,
            }
        }
    }
    match (a.first(), b.first()) {
        (None, None) => Ordering::Equal,
        // What goes on with letters is older (1.0rc before 1.0), what goes on otherwise is newer.
        (Some(c), _) if c.is_ascii_alphabetic() => Ordering::Less,
        (None, Some(c)) if !c.is_ascii_alphabetic() => Ordering::Less,
        _ => Ordering::Greater,
    }
}

fn without_zeros(mut number: &[u8]) -> &[u8] {
    cut(&mut number, |c| *c == b'0');
    number
}
