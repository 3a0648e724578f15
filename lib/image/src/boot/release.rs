//! Which kernel a file is: what `uname -r` says when it runs.

use super::initramfs::{word, word_behind};
use super::unpack::{Input, LIMIT, decoder};
use std::io::{self, Read};

/// The largest kernel, in bytes.
const LARGEST: u64 = 256 << 20;

/// What a file is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Image {
    /// Not a kernel in a format that is known here.
    Unknown,
    /// A kernel that does not say its release: what is compressed in it has it.
    Silent,
    /// The kernel of that release.
    Release(String),
}

/// Reads a kernel.
///
/// # Errors
///
/// When reading or decompressing fails.
pub(super) fn read(input: impl Read) -> io::Result<Image> {
    let mut bytes = Vec::new();
    input.take(LARGEST).read_to_end(&mut bytes)?;
    of_bytes(&bytes, true)
}

fn of_bytes(bytes: &[u8], may_unpack: bool) -> io::Result<Image> {
    let at = |offset: usize, magic: &[u8]| bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    // The kernel's Documentation/arch/x86/boot.rst.
    if at(0x202, b"HdrS") && bytes.len() >= 0x210 {
        let pointer = u16::from_le_bytes([bytes[0x20e], bytes[0x20f]]);
        let text = bytes.get(usize::from(pointer) + 0x200..).filter(|_| pointer != 0);
        return Ok(text.and_then(word).map_or(Image::Silent, Image::Release));
    }
    // arch/arm64/boot.rst, arch/riscv/boot-image-header.rst; LoongArch has the same place.
    if at(0x38, b"ARM\x64") || at(0x38, b"RSC\x05") || at(0x38, &0x8182_23cd_u32.to_le_bytes()) {
        return Ok(banner(bytes));
    }
    // drivers/firmware/efi/libstub/zboot-header.S: where the compressed kernel is.
    let part = match at(0, b"MZ") && at(4, b"zimg") {
        true => number(bytes, 8).zip(number(bytes, 12)).and_then(|(from, size)| bytes.get(from..)?.get(..size)),
        false => Some(bytes),
    };
    let mut input = Input::new(part.unwrap_or_default());
    if let Some(decoder) = decoder(&mut input)?.filter(|_| may_unpack) {
        let mut plain = Vec::new();
        decoder.take(LARGEST.min(LIMIT)).read_to_end(&mut plain)?;
        return of_bytes(&plain, false);
    }
    // A zImage of 32-bit ARM unpacks itself.
    Ok(if at(0x24, &0x016f_2818_u32.to_le_bytes()) { Image::Silent } else { Image::Unknown })
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

/// Returns the release out of the line that the kernel prints first.
fn banner(bytes: &[u8]) -> Image {
    word_behind(bytes, b"Linux version ").map_or(Image::Silent, Image::Release)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A kernel's first bytes, with something at an offset and the line that it prints.
    fn image(at: usize, magic: &[u8], rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 0x1000];
        bytes[at..at + magic.len()].copy_from_slice(magic);
        bytes.extend(rest);
        bytes
    }

    const BANNER: &[u8] = b"\0Linux version 6.1.0-57-arm64 (x@y) #1\n";

    #[test]
    fn each_architecture_s_kernel_says_its_release() {
        let release = Image::Release("6.1.0-57-arm64".to_owned());
        let arm64 = image(0x38, b"ARM\x64", BANNER);
        let mut x86 = image(0x202, b"HdrS", b"6.1.0-57-arm64 (x@y) #1\0");
        x86[0x20e..0x210].copy_from_slice(&0xe00_u16.to_le_bytes());
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&arm64).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::encode_all(arm64.as_slice(), 1).unwrap();
        let mut zboot = image(0, b"MZ\0\0zimg", &zstd);
        zboot[8..12].copy_from_slice(&0x1000_u32.to_le_bytes());
        zboot[12..16].copy_from_slice(&(zstd.len() as u32).to_le_bytes());
        for kernel in [&arm64, &image(0x38, b"RSC\x05", BANNER), &x86, &gzip, &zboot] {
            assert_eq!(read(kernel.as_slice()).unwrap(), release);
        }
        assert_eq!(read(image(0x24, &0x016f_2818_u32.to_le_bytes(), b"").as_slice()).unwrap(), Image::Silent);
        read(&gzip[..gzip.len() / 2]).unwrap_err();
        zboot[8] = 0xff;
        for other in [&b""[..], b"kernel", b"MZ\0\0zimg", &zboot, &[0; 0x300]] {
            assert_eq!(read(other).unwrap(), Image::Unknown);
        }
        // A pointer that leads out of the file.
        let mut x86 = image(0x202, b"HdrS", b"");
        x86[0x20e..0x210].copy_from_slice(&u16::MAX.to_le_bytes());
        x86.truncate(0x210);
        assert_eq!(read(x86.as_slice()).unwrap(), Image::Silent);
        x86.truncate(0x208);
        assert_eq!(read(x86.as_slice()).unwrap(), Image::Unknown);
    }
}
