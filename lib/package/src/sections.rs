//! The format of `desc` and `files`: a `%KEY%` on a line, its values one a line, an empty line.
//!
//! As libalpm reads it (be_sync.c, be_local.c): a key with one value takes the next line, whatever it is, and a list goes on
//! to the next empty line; what stands between is skipped. A key that is not asked for is read as a list, lest a package's
//! description be taken for a key.

/// Calls `value` with each key and each of its values; the keys in `single` have one, all others a list.
///
/// A key without a value is not reported.
pub(crate) fn read<'a, E>(
    text: &'a [u8],
    single: &[&[u8]],
    mut value: impl FnMut(&'a [u8], &'a [u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut lines = text.split(|b| *b == b'\n');
    while let Some(line) = lines.next() {
        let Some(key) = line.strip_prefix(b"%").and_then(|k| k.strip_suffix(b"%")) else {
            continue;
        };
        let count = if single.contains(&key) { 1 } else { usize::MAX };
        for line in lines.by_ref().take(count).take_while(|l| !l.is_empty()) {
            value(key, line)?;
        }
    }
    Ok(())
}

/// Returns a value that is text, and passes a check.
pub(crate) fn checked(key: &[u8], value: &[u8], good: impl Fn(&str) -> bool) -> Result<String, String> {
    match std::str::from_utf8(value) {
        Ok(text) if good(text) => Ok(text.to_owned()),
        _ => {
            let [key, value] = [key, value].map(String::from_utf8_lossy);
            Err(format!("invalid %{key}%: '{value}'"))
        }
    }
}

/// Fails for the first key without a value.
pub(crate) fn required(values: &[(&str, &String)]) -> Result<(), String> {
    match values.iter().find(|(_, value)| value.is_empty()) {
        Some((key, _)) => Err(format!("no %{key}%")),
        None => Ok(()),
    }
}
