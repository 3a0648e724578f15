//! A tiny program for each architecture, which exits with 42.
//!
//! Running it inside the root proves that scriptlets will run: pacman exits with 0 when all of them fail without a handler.
//! The kernel's table proves less: the emulator may be broken, the flags wrong, the root mounted noexec.

use crate::Arch;

/// The exit status of the program.
pub const STATUS: i32 = 42;

/// Returns an ELF program for `arch` that calls `exit(42)`; `None` if we have no code for it.
#[must_use]
pub fn program(arch: Arch) -> Option<Vec<u8>> {
    let words = |words: [u32; 3]| words.map(u32::to_le_bytes).concat();
    let code = match arch.elf {
        // mov edi, 42; mov eax, 60 (exit); syscall
        62 => vec![0xbf, 42, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05],
        // mov ebx, 42; mov eax, 1 (exit); int 0x80
        3 => vec![0xbb, 42, 0, 0, 0, 0xb8, 1, 0, 0, 0, 0xcd, 0x80],
        // mov x0, #42; mov x8, #93 (exit); svc #0
        183 => words([0xd280_0540, 0xd280_0ba8, 0xd400_0001]),
        // mov r0, #42; mov r7, #1 (exit); svc #0
        40 => words([0xe3a0_002a, 0xe3a0_7001, 0xef00_0000]),
        // li a0, 42; li a7, 93 (exit); ecall
        243 => words([0x02a0_0513, 0x05d0_0893, 0x0000_0073]),
        // addi.w $a0, $zero, 42; addi.w $a7, $zero, 93 (exit); syscall 0
        258 => words([0x0280_a804, 0x0281_740b, 0x002b_0000]),
        _ => return None,
    };
    Some(elf(arch, &code))
}

/// Puts an ELF header and one program header before the code (elf(5)).
fn elf(arch: Arch, code: &[u8]) -> Vec<u8> {
    let wide = arch.class == 2;
    let base: u64 = 0x1_0000;
    let head: u16 = if wide { 64 } else { 52 };
    let segment: u16 = if wide { 56 } else { 32 };
    let start = u64::from(head + segment);
    let halves = |values: &[u16]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
    let word = |value: u32| value.to_le_bytes().to_vec();
    let length = if wide { 8 } else { 4 };
    let addresses = |values: &[u64]| values.iter().flat_map(|v| v.to_le_bytes().into_iter().take(length)).collect();
    // 32-bit ARM: EABI version 5. 64-bit LoongArch: LP64, double float, object file ABI 1.
    let flags = match arch.elf {
        40 => 0x0500_0000,
        258 => 0x43,
        _ => 0,
    };
    let size = start + code.len() as u64;
    let (load, read_and_run) = (word(1), word(5));
    let (before, after) = if wide { (read_and_run, vec![]) } else { (vec![], read_and_run) };
    [
        vec![0x7f, b'E', b'L', b'F', arch.class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        halves(&[2, arch.elf, 1, 0]),
        addresses(&[base + start, u64::from(head), 0]),
        word(flags),
        halves(&[head, segment, 1, 0, 0, 0]),
        load,
        before,
        addresses(&[0, base, base, size, size]),
        after,
        addresses(&[0x1000]),
        code.to_vec(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    /// Runs the probe of an architecture as the host would, or through its emulator.
    fn run(name: &str) -> i32 {
        let arch = Arch::named(name).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("probe");
        std::fs::write(&file, program(arch).unwrap()).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = if arch.is_native_on(Arch::host().unwrap()) {
            Command::new(&file)
        } else {
            let qemu = crate::binfmt::find_interpreter(arch)
                .expect("no static qemu-user here: apt-get install qemu-user-static");
            let mut command = Command::new(qemu);
            command.arg(&file);
            command
        };
        command.status().unwrap().code().unwrap()
    }

    #[test]
    fn the_probe_runs_on_every_architecture() {
        for arch in crate::arch::ALL {
            // Debian 12's QEMU has no user-mode emulator for some; the code is then proven where there is one.
            if arch.name == "loong64" && crate::binfmt::find_interpreter(*arch).is_none() {
                continue;
            }
            assert_eq!(run(arch.name), STATUS, "{}", arch.name);
        }
    }
}
