//! The two runs of pacman, and what each is asked for.

/// Whether an earlier transaction ended half way, and what is installed of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// None did.
    No,
    /// What it installed. Files that no package owns are its, and are taken over.
    Repair,
    /// The same, of packages whose record is gone: that somebody asked for one is not known.
    Dependencies,
}

/// One run of pacman.
#[derive(Debug)]
pub(crate) struct Phase {
    /// Download only, or install from the cache.
    pub(crate) download: bool,
    /// Whether the repository databases are refreshed first (when downloading).
    pub(crate) refresh: bool,
    /// Whether it repairs.
    pub(crate) again: Again,
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
        match self.again {
            Again::No => args.push("--needed"),
            Again::Repair => args.extend(["--overwrite", "*"]),
            Again::Dependencies => args.extend(["--overwrite", "*", "--asdeps"]),
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
        let (no, repair, dependencies) = (Again::No, Again::Repair, Again::Dependencies);
        assert_eq!(phase(true, true, no), "-Syuw --noconfirm --needed");
        assert_eq!(phase(false, true, no), "-Su --noconfirm --needed");
        assert_eq!(phase(false, false, repair), "-S --noconfirm --overwrite *");
        assert_eq!(
            phase(false, false, dependencies),
            "-S --noconfirm --overwrite * --asdeps"
        );
    }
}
