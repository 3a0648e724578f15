//! CRC32C as ext4 uses it: chained, and without the inversion at the end (the kernel's `ext4_chksum`).

const CRC32C: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);

/// Continues `state` over `bytes`. A chain begins with all ones.
pub(crate) fn chain(state: u32, bytes: &[u8]) -> u32 {
    // The crate takes the initial value unreflected, and inverts what it returns.
    let mut digest = CRC32C.digest_with_initial(state.reverse_bits());
    digest.update(bytes);
    !digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_the_whole() {
        // The check value of CRC-32/ISCSI, which is inverted at its end.
        assert_eq!(!chain(!0, b"123456789"), 0xe306_9283);
        assert_eq!(chain(chain(!0, b"1234"), b"56789"), chain(!0, b"123456789"));
    }
}
