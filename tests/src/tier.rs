//! What is tried by day (`make test`) and what by night (`make soak`): the same conditions, on samples that are thinner by day.

/// Says whether this is `make soak`, which sets `STRAPLINE_SOAK`: then every sample is the whole.
#[must_use]
pub fn soak() -> bool {
    std::env::var_os("STRAPLINE_SOAK").is_some_and(|value| !value.is_empty())
}

/// Returns every `stride`-th of `items`, from number `first` on; in a soak test all. The choice is the same in each run. Tests that
/// share a table by turns (`first` 0 for root, 1 for a user) try all of it by day, each row once.
pub fn sample<T>(items: impl IntoIterator<Item = T>, stride: usize, first: usize) -> impl Iterator<Item = T> {
    let (stride, first) = if soak() { (1, 0) } else { (stride, first) };
    items.into_iter().skip(first).step_by(stride)
}

/// Returns an architecture, its keyring's package and its kernel's: by day this host's own, for tests beside others that try an
/// emulated one.
#[must_use]
pub fn architecture() -> (&'static str, &'static str, &'static str) {
    if soak() { ("aarch64", "archlinuxarm-keyring", "linux-aarch64") } else { ("x86_64", "archlinux-keyring", "linux") }
}

/// Returns how often something is done: `day` times, or `night` times in a soak test.
#[must_use]
pub fn times(day: usize, night: usize) -> usize {
    if soak() { night } else { day }
}

/// Returns all of `items`, or by day the one whose turn it is: another in other tests.
#[must_use]
pub fn in_turn<T>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let items: Vec<T> = items.into_iter().collect();
    if soak() || items.is_empty() {
        return items;
    }
    // The test's name is its thread's.
    let thread = std::thread::current();
    let name = thread.name().unwrap_or_default().bytes();
    let turn = name.fold(0, |sum, byte| sum + usize::from(byte)) % items.len();
    items.into_iter().skip(turn).take(1).collect()
}
