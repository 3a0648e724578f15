//! Sizes as people write them: `512M`.

/// One kibibyte, mebibyte and so on, by the letter that stands for it.
const UNITS: [(&str, u32); 6] = [("", 0), ("B", 0), ("K", 10), ("M", 20), ("G", 30), ("T", 40)];

/// The largest size that we take, in bytes: 8 TiB, half of what ext4 with blocks of 4 KiB and 32-bit numbers holds.
pub const LARGEST: u64 = 8 << 40;

/// Reads a whole number of bytes, or of KiB, MiB, GiB or TiB with `K`, `M`, `G` or `T` behind it; `MiB` is taken too.
///
/// # Errors
///
/// A sentence that says what is wrong with it.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = match unit.strip_suffix("iB") {
        Some(letter) if !letter.is_empty() => letter,
        _ => unit,
    };
    let unit = UNITS.iter().find(|(letter, _)| *letter == unit);
    let (Some((_, shift)), Ok(number)) = (unit, number.parse::<u64>()) else {
        return Err(format!(
            "'{}' is not a size: give a number of bytes, or one with the suffix K, M, G or T, such as 512M",
            text.escape_default()
        ));
    };
    number
        .checked_mul(1 << shift)
        .filter(|bytes| *bytes <= LARGEST)
        .ok_or_else(|| format!("'{text}' is more than {}", show(LARGEST)))
}

/// Returns a size as [`parse`] reads it, in the largest unit that it is a whole number of.
#[must_use]
pub fn show(bytes: u64) -> String {
    let fits = |(_, shift): &&(&str, u32)| bytes.is_multiple_of(1 << shift);
    match UNITS.iter().skip(2).rev().find(fits) {
        Some((letter, shift)) if bytes > 0 => format!("{}{letter}", bytes >> shift),
        _ => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("4096B", 4096),
            ("32K", 32 << 10),
            ("16M", 16 << 20),
            ("16MiB", 16 << 20),
            ("3G", 3 << 30),
            ("8T", 8 << 40),
        ] {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
        for bytes in [0, 1, 512, 4096, 1 << 20, 1000 << 20, 8 << 40] {
            assert_eq!(parse(&show(bytes)).unwrap(), bytes);
        }
        assert_eq!(show(1 << 30), "1G");
        assert_eq!(show(1536 << 20), "1536M");
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "M",
            "-1",
            "+1",
            " 1",
            "1 M",
            "1.5G",
            "1m",
            "1MB",
            "1KM",
            "9T",
            "1iB",
            "0x10",
            "1€",
            "99999999999999999999",
            "18446744073709551615T",
        ] {
            parse(text).unwrap_err();
        }
    }
}
