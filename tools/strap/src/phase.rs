//! The two runs of pacman, and what each is asked for.

/// One run of pacman.
#[derive(Debug)]
pub(crate) struct Phase {
    /// Download only, or install from the cache.
    pub(crate) download: bool,
    /// Whether the repository databases are refreshed first (when downloading).
    pub(crate) refresh: bool,
    /// Whether an earlier transaction ended half way: then files that no package owns are its, and are taken over.
    pub(crate) again: bool,
}

impl Phase {
    /// Returns pacman's arguments (pacman(8)), without the configuration and the targets.
    pub(crate) fn arguments(&self) -> Vec<&'static str> {
        let mut args = vec![match (self.download, self.refresh) {
            (true, true) => "-Syuw",
            (false, true) => "-Su",
            (true, false) => "-Sw",
            (false, false) => "-S",
        }];
        args.push("--noconfirm");
        if self.again {
            args.extend(["--overwrite", "*"]);
        } else {
            args.push("--needed");
        }
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_asks_for_no_more_than_it_needs() {
        let phase = |download, refresh, again| {
            Phase {
                download,
                refresh,
                again,
            }
            .arguments()
            .join(" ")
        };
        assert_eq!(phase(true, true, false), "-Syuw --noconfirm --needed");
        assert_eq!(phase(false, true, false), "-Su --noconfirm --needed");
        assert_eq!(phase(false, false, true), "-S --noconfirm --overwrite *");
    }
}
