//! How long a program inside may make no progress before it is aborted.

use rootfs::Inside;
use stage::Context;
use std::time::Duration;

/// The option of every tool that runs pacman, or another program inside that may wait for ever.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Timeout {
    /// Abort a program inside after SECONDS without progress (0: never)
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(0..=86400))]
    timeout: u64,
}

impl Timeout {
    /// Aborts programs inside that make no progress.
    pub fn watch(self, context: &Context, inside: &mut Inside) {
        inside.watch(context, Duration::from_secs(self.timeout));
    }
}
