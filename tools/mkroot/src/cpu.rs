//! What this processor has, for architectures that need more than their machine.

/// Returns what this processor lacks, as text; nothing where it has all, or where the kernel does not say.
pub(crate) fn lacks(needed: &[String]) -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    missing(&text, needed)
}

/// Compares the flags of /proc/cpuinfo, `flags` on x86 and `Features` on ARM.
fn missing(cpuinfo: &str, needed: &[String]) -> Option<String> {
    let line = cpuinfo.lines().find_map(|line| {
        let (key, flags) = line.split_once(':')?;
        matches!(key.trim(), "flags" | "Features").then_some(flags)
    });
    let has: Vec<&str> = line?.split_whitespace().collect();
    let lacks: Vec<&str> = needed.iter().map(String::as_str).filter(|flag| !has.contains(flag)).collect();
    (!lacks.is_empty()).then(|| lacks.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_does_not_list_is_lacking() {
        let needed = ["avx2", "fma"].map(str::to_owned);
        assert_eq!(missing("processor\t: 0\nflags\t\t: fpu avx2 fma\n", &needed), None);
        assert_eq!(missing("flags\t\t: fpu avx\n", &needed).as_deref(), Some("avx2, fma"));
        assert_eq!(missing("Features\t: fp fma\n", &needed).as_deref(), Some("avx2"));
        assert_eq!(missing("model name\t: x\n", &needed), None);
    }
}
