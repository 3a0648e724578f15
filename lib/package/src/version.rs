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
    rpmvercmp(epoch_a, epoch_b).then_with(|| rpmvercmp(version_a, version_b)).then_with(|| {
        match (release_a, release_b) {
            (Some(a), Some(b)) => rpmvercmp(a, b),
            _ => Ordering::Equal,
        }
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
        let is_number = first.is_ascii_digit();
        let kind = if is_number { u8::is_ascii_digit } else { u8::is_ascii_alphabetic };
        let (mut part_a, mut part_b) = (cut(&mut a, kind), cut(&mut b, kind));
        if part_b.is_empty() {
            // A number is newer than letters.
            return if is_number { Ordering::Greater } else { Ordering::Less };
        }
        if is_number {
            cut(&mut part_a, |c| *c == b'0');
            cut(&mut part_b, |c| *c == b'0');
        }
        let longer = if is_number { part_a.len().cmp(&part_b.len()) } else { Ordering::Equal };
        let order = longer.then_with(|| part_a.cmp(part_b));
        if order.is_ne() {
            return order;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Random;
    use std::process::Command;

    /// Each is older than all that follow it.
    const CHAINS: &[&[&str]] = &[
        // vercmp(8)
        &["1.0a", "1.0b", "1.0beta", "1.0p", "1.0pre", "1.0rc", "1.0", "1.0.a", "1.0.1"],
        &["1", "1.0", "1.1", "1.1.1", "1.2", "2.0", "3.0.0"],
        // Releases, also of several parts.
        &["4.8-1", "4.8-1.1", "4.8-2", "4.8-10", "4.8.1-1"],
        // Epochs come before all else.
        &["9.9-9", "1:0.1-1", "1:0.1-2", "2:0.0.1-1", "10:0-1"],
        // Letters and dots.
        &["7.3c-1", "7.3-1", "7.3.a-1", "7.3.b-1", "7.3.1-1"],
        // Lengths of separators, leading zeros, numbers beyond any integer.
        &["3.1", "3..1"],
        &["2.009", "2.10", "2.99999999999999999999998", "2.99999999999999999999999"],
        // What repositories have.
        &["5.1.016-1", "5.1.16.r3.gabc-1", "5.2-1", "5.2.15-2", "5.2.037-1"],
        &["2.39+r52+gf8e4623421-1", "2.39+r67+gd3d6f1d1-1", "2.40-1"],
        &["20140119-1", "20240419-2", "20240419-10"],
    ];

    const EQUAL: &[(&str, &str)] = &[
        ("6.1.0-3", "6.1.0-3"),
        // One without a release.
        ("6.1.0", "6.1.0-3"),
        ("0:6.1.0-3", "6.1.0"),
        // Separators.
        ("4.1", "4_1"),
        ("4.1_b", "4+1.b"),
        // Zeros.
        ("1.01", "1.1"),
        ("0:1", ":1"),
        ("00:1", "1"),
        ("1.000", "1.0"),
    ];

    fn known() -> Vec<(&'static str, &'static str, Ordering)> {
        let mut known = Vec::new();
        for chain in CHAINS {
            for (i, a) in chain.iter().enumerate() {
                known.extend(chain.iter().enumerate().map(|(j, b)| (*a, *b, i.cmp(&j))));
            }
        }
        for (a, b) in EQUAL {
            known.push((a, b, Ordering::Equal));
            known.push((b, a, Ordering::Equal));
        }
        known
    }

    /// Returns two versions that have something in common.
    fn pair(random: &mut Random) -> (String, String) {
        const PIECES: &[&str] = &[
            "0", "1", "2", "9", "10", "007", "a", "b", "rc", "alpha", ".", ".", "..", "_", "+", "~", "-", "-1", "-2",
            ":", "1:", "é",
        ];
        let mut version = |first: &str| {
            let mut version = first.to_owned();
            for _ in 0..random.below(7) {
                version += PIECES[random.below(PIECES.len())];
            }
            version
        };
        let start = version("1");
        let a = version(&start);
        (a, version(&start))
    }

    /// Asks pacman's own program.
    fn pacman(a: &str, b: &str) -> Ordering {
        let out = Command::new("vercmp").args([a, b]).output().expect(
            "this test compares with pacman's vercmp, which cannot be run: install the package \
             that has it (pacman, or on Debian pacman-package-manager)",
        );
        let text = String::from_utf8(out.stdout).unwrap();
        let sign: i32 = text.trim().parse().unwrap_or_else(|e| panic!("vercmp {a} {b}: printed {text:?}: {e}"));
        sign.cmp(&0)
    }

    #[test]
    fn known_cases() {
        for (a, b, order) in known() {
            assert_eq!(vercmp(a, b), order, "{a} and {b}");
        }
    }

    #[test]
    fn as_pacman_says() {
        let mut random = Random(0x5eed);
        let generated = (0..250).map(|_| pair(&mut random));
        let known = known().into_iter().filter(|(a, b, _)| a < b).map(|(a, b, _)| (a.to_owned(), b.to_owned()));
        for (a, b) in generated.chain(known.collect::<Vec<_>>()) {
            assert_eq!(vercmp(&a, &b), pacman(&a, &b), "{a} and {b}");
        }
    }

    #[test]
    fn turned_around_is_reversed() {
        let mut random = Random(0xfeed);
        for _ in 0..20_000 {
            let (a, b) = pair(&mut random);
            assert_eq!(vercmp(&a, &b), vercmp(&b, &a).reverse(), "{a} and {b}");
            assert_eq!(vercmp(&a, &a), Ordering::Equal);
        }
    }

    #[test]
    fn odd_ones() {
        for text in ["", "-", ":", "-:", ":-", "1:", "1-", "....", "é", "1:-"] {
            for other in ["", "1", "a", "-1", ":"] {
                assert_eq!(vercmp(text, other), vercmp(other, text).reverse());
            }
        }
    }
}
