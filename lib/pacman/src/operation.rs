//! What pacman is asked to do, and the arguments that say so (pacman(8)). Nothing else makes arguments for it.

use std::ffi::OsString;
use std::path::Path;

/// An operation of pacman.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operation<'a> {
    /// What is done.
    pub action: Action,
    /// Whether the repository databases are downloaded first.
    pub refresh: Refresh,
    /// Whether all installed packages are upgraded.
    pub upgrade: bool,
    /// Whether a package that is installed in this version is left as it is.
    pub needed: bool,
    /// Whether files that no package owns are overwritten.
    pub overwrite: bool,
    /// Whether the packages are installed as dependencies.
    pub asdeps: bool,
    /// Whether dependencies are left out.
    pub nodeps: bool,
    /// What a person decided.
    pub choices: Choices<'a>,
}

/// What pacman is told to decide otherwise, where it downloads or installs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choices<'a> {
    /// The files that are overwritten: patterns.
    pub overwrite: &'a [String],
    /// The packages that are not upgraded.
    pub ignore: &'a [String],
    /// What counts as installed: `NAME=VERSION`.
    pub assume_installed: &'a [String],
    /// The installed packages that may be removed where they conflict with what is installed.
    pub replace: &'a [String],
}

impl Choices<'_> {
    fn arguments(self) -> impl Iterator<Item = String> {
        let lists =
            [("overwrite", self.overwrite), ("ignore", self.ignore), ("assume-installed", self.assume_installed)];
        let arguments = lists.map(|(option, values)| values.iter().map(move |value| format!("--{option}={value}")));
        // In this order, whatever was given first.
        arguments.into_iter().flatten().collect::<Vec<_>>().into_iter()
    }
}

/// What pacman does with its targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Downloads packages of the repositories into the cache.
    Download,
    /// Installs packages of the repositories.
    #[default]
    Install,
    /// Installs package files.
    InstallFiles,
    /// Marks installed packages as explicitly installed.
    MarkExplicit,
    /// Removes installed packages.
    Remove,
}

/// Which repository databases are downloaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refresh {
    /// None.
    #[default]
    No,
    /// Those that are newer on the server.
    Newer,
    /// All.
    All,
}

/// How pacman prints a package that it would install (pacman(8), `--print-format`). pacman 6.0 has `%l`, the location, and no
/// format for the file name alone; `%s` is how much is to be downloaded. The first word tells such a line from all others.
const FORMAT: &str = "strapline-plan %r %n %v %l %s";

/// The questions that `--noconfirm` answers with yes and that we answer with no, as `--ask` has them (bits of
/// `alpm_question_type_t`, the same in pacman 5 to 7): whether to remove a corrupted file from the cache, which we examine
/// first (`ALPM_QUESTION_CORRUPTED_PKG`, 8), and whether to import a missing key (`ALPM_QUESTION_IMPORT_KEY`, 64): only `keyring`
/// puts keys into a keyring.
const ASK: u32 = 8 | 64;

/// The question that it answers with no and that we may answer with yes: whether to remove a package that conflicts
/// (`ALPM_QUESTION_CONFLICT_PKG`).
const ASK_CONFLICT: u32 = 4;

impl Operation<'_> {
    /// Returns the operation that downloads just its targets, without their dependencies.
    #[must_use]
    pub fn download_targets(refresh: Refresh) -> Self {
        Self { action: Action::Download, refresh, nodeps: true, ..Self::default() }
    }

    /// Returns whether it uses the repository databases.
    #[must_use]
    pub fn is_sync(self) -> bool {
        matches!(self.action, Action::Download | Action::Install)
    }

    /// Returns what completes "running pacman to".
    pub(crate) fn purpose(self) -> &'static str {
        match self.action {
            Action::Download => "download",
            Action::Install | Action::InstallFiles => "install",
            Action::MarkExplicit => "mark packages as explicitly installed",
            Action::Remove => "remove packages",
        }
    }

    /// Returns pacman's arguments, without those of every run.
    #[must_use]
    pub fn arguments(self) -> Vec<String> {
        let mut operation = match self.action {
            Action::Download | Action::Install => "-S",
            Action::InstallFiles => "-U",
            Action::MarkExplicit => "-D",
            Action::Remove => "-R",
        }
        .to_owned();
        operation += match self.refresh {
            Refresh::No => "",
            Refresh::Newer => "y",
            Refresh::All => "yy",
        };
        let is_mark = self.action == Action::MarkExplicit;
        for (is, letter) in [(self.upgrade, 'u'), (self.action == Action::Download, 'w')] {
            operation.extend(is.then_some(letter));
        }
        let options = [
            (!is_mark, "--noconfirm"),
            (is_mark, "--asexplicit"),
            (is_mark, "--quiet"),
            (self.nodeps, "-dd"),
            (self.needed, "--needed"),
            (self.overwrite, "--overwrite=*"),
            (self.asdeps, "--asdeps"),
        ];
        let options = options.into_iter().filter(|(is, _)| *is);
        let mut args = vec![operation];
        args.extend(options.map(|(_, option)| option.to_owned()));
        args.extend(self.choices.arguments());
        args
    }

    /// Returns the questions that are not answered as `--noconfirm` does.
    pub(crate) fn ask(self) -> u32 {
        ASK | if self.choices.replace.is_empty() { 0 } else { ASK_CONFLICT }
    }

    /// Returns the arguments with which pacman prints what the operation would install or remove, and downloads nothing.
    pub(crate) fn print_arguments(self) -> Vec<String> {
        if self.action == Action::Remove {
            let mut args = self.arguments();
            args[0].push('p');
            return args;
        }
        let installs = Self { action: Action::Install, refresh: Refresh::No, ..self };
        let mut args = installs.arguments();
        args[0].push('p');
        args.extend(["--print-format", FORMAT].map(str::to_owned));
        args
    }
}

/// Returns the arguments of every run: the configuration, the answers and the targets. `gpgdir` is given whatever the
/// configuration says: gpg runs what the configuration in its home names, and the root's own home is the root's to write.
pub(crate) fn common(
    ask: u32,
    config: &Path,
    gpgdir: Option<&Path>,
    hook_dir: Option<&Path>,
    targets: &[String],
) -> Vec<OsString> {
    let mut args: Vec<OsString> = Vec::new();
    for (option, directory) in [("--gpgdir", gpgdir), ("--hookdir", hook_dir)] {
        args.extend(directory.into_iter().flat_map(|directory| [option.into(), directory.into()]));
    }
    args.extend(["--ask", &ask.to_string(), "--config"].map(OsString::from));
    args.extend([config.into(), "--".into()]);
    args.extend(targets.iter().map(OsString::from));
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_asks_for_no_more_than_it_needs() {
        let upgrade = Operation {
            action: Action::Download,
            refresh: Refresh::Newer,
            upgrade: true,
            needed: true,
            ..Operation::default()
        };
        let all = Operation { refresh: Refresh::All, ..upgrade };
        let repair = Operation { overwrite: true, asdeps: true, ..Operation::default() };
        let files = Operation { action: Action::InstallFiles, ..repair };
        let mark = Operation { action: Action::MarkExplicit, ..Operation::default() };
        let remove = Operation { action: Action::Remove, ..Operation::default() };
        let [globs, names] = [["/a b/*".to_owned()], ["x".to_owned()]];
        let choices = Choices { overwrite: &globs, ignore: &names, assume_installed: &names, replace: &names };
        let chosen = Operation { choices, ..Operation::default() };
        for (operation, arguments) in [
            (upgrade, "-Syuw --noconfirm --needed"),
            (all, "-Syyuw --noconfirm --needed"),
            (Operation::download_targets(Refresh::No), "-Sw --noconfirm -dd"),
            (repair, "-S --noconfirm --overwrite=* --asdeps"),
            (files, "-U --noconfirm --overwrite=* --asdeps"),
            (mark, "-D --asexplicit --quiet"),
            (remove, "-R --noconfirm"),
            (chosen, "-S --noconfirm --overwrite=/a b/* --ignore=x --assume-installed=x"),
        ] {
            assert_eq!(operation.arguments().join(" "), arguments);
        }
        let printed = format!("-Sup --noconfirm --needed --print-format {FORMAT}");
        assert_eq!(all.print_arguments().join(" "), printed);
        assert_eq!(remove.print_arguments().join(" "), "-Rp --noconfirm");
        let asked = common(chosen.ask(), Path::new("c"), None, None, &[]);
        assert_eq!(asked, ["--ask", "76", "--config", "c", "--"]);
    }
}
