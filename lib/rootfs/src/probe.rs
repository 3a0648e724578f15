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
    let mut out = vec![0x7f, b'E', b'L', b'F', arch.class, 1, 1];
    out.resize(16, 0);
    let half = |out: &mut Vec<u8>, v: u16| out.extend(v.to_le_bytes());
    let word = |out: &mut Vec<u8>, v: u32| out.extend(v.to_le_bytes());
    let address = |out: &mut Vec<u8>, v: u64| {
        let bytes = v.to_le_bytes();
        out.extend(if wide { &bytes[..] } else { &bytes[..4] });
    };
    // 32-bit ARM: EABI version 5. 64-bit LoongArch: LP64, double float, object file ABI 1.
    let flags = match arch.elf {
        40 => 0x0500_0000,
        258 => 0x43,
        _ => 0,
    };
    half(&mut out, 2);
    half(&mut out, arch.elf);
    word(&mut out, 1);
    for v in [base + start, u64::from(head), 0] {
        address(&mut out, v);
    }
    word(&mut out, flags);
    for v in [head, segment, 1, 0, 0, 0] {
        half(&mut out, v);
    }
    let size = start + code.len() as u64;
    let (load, read_and_run) = (1, 5);
    word(&mut out, load);
    if wide {
        word(&mut out, read_and_run);
    }
    for v in [0, base, base, size, size] {
        address(&mut out, v);
    }
    if !wide {
        word(&mut out, read_and_run);
    }
    address(&mut out, 0x1000);
    out.extend(code);
    out
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
