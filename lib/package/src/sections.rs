//! The format of `desc` and `files`: a `%KEY%` on a line, its values one a line, an empty line.
//!
//! As libalpm reads it (be_sync.c, be_local.c): a key that takes one value takes the next line,
//! whatever it is, and a list goes on to the next empty line; what stands between is skipped. So is
//! all of a key that is not asked for, lest a package's description be taken for a key.

/// Whether a key takes one value or a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arity {
    One,
    List,
}

/// Calls `value` with each key that has an `arity`, and each of its values.
///
/// A key without a value is not reported.
pub(crate) fn read<'a, E>(
    text: &'a [u8],
    arity: impl Fn(&[u8]) -> Option<Arity>,
    mut value: impl FnMut(&'a [u8], &'a [u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut lines = text.split(|b| *b == b'\n');
    while let Some(line) = lines.next() {
        let key = line
            .strip_prefix(b"%")
            .and_then(|rest| rest.strip_suffix(b"%"));
        let Some(key) = key else { continue };
        let arity = arity(key);
        let count = match arity {
            Some(Arity::One) => 1,
            Some(Arity::List) | None => usize::MAX,
        };
        for line in lines.by_ref().take(count).take_while(|l| !l.is_empty()) {
            if arity.is_some() {
                value(key, line)?;
            }
        }
    }
    Ok(())
}
