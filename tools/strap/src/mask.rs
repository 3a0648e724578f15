//! `--mask-hook`: hooks that do not run in this run, though packages have them.
//!
//! Of hooks of one name pacman takes that in the last of its directories, and one without a trigger never runs: so a hook is
//! masked (alpm-hooks(5)). A directory of such hooks is the last of a configuration that exists only while this program runs.

use crate::plan::Plan;
use pacman::Pacman;
use pacman::conf::changed;
use pacman::scratch::Scratch;
use rustix::fs::OFlags;
use stage::{Code, Context, Failure, quote};
use std::path::PathBuf;

/// Where pacman looks for hooks by itself, and the directory of mkconf's configuration.
const DIRECTORIES: [&str; 2] = ["usr/share/libalpm/hooks", "etc/pacman.d/hooks"];

/// The hooks that are masked.
#[derive(Debug)]
pub(crate) struct Masks<'a> {
    scratch: Scratch,
    names: &'a [String],
}

impl<'a> Masks<'a> {
    /// Returns them, not made yet.
    ///
    /// # Errors
    ///
    /// When the root cannot be identified.
    pub(crate) fn new(pacman: &Pacman<'_>, names: &'a [String]) -> Result<Self, Failure> {
        Ok(Self { scratch: Scratch::of(pacman, "hooks")?, names })
    }

    /// Makes them, and returns the configuration that has them.
    ///
    /// # Errors
    ///
    /// When the configuration cannot be read or they cannot be written.
    pub(crate) fn make(&self, config: PathBuf) -> Result<PathBuf, Failure> {
        if self.names.is_empty() {
            return Ok(config);
        }
        let text = stage::file::read_text(&config)?;
        let own = self.scratch.path().join("hooks");
        let masked = changed(&text, &[("HookDir", &|before| format!("{before}\nHookDir = {}/", own.display()))]);
        if !masked.contains(&format!("\nHookDir = {}/\n", own.display())) {
            let why = format!("masking hooks: {} has no HookDir", quote(&config));
            return Err(Failure::new(Code::Failed, why).hint("write it again with mkconf"));
        }
        let hooks = self.names.iter().map(|name| (format!("hooks/{name}.hook"), Vec::new()));
        let mut files: Vec<(String, Vec<u8>)> = hooks.collect();
        files.push(("hooks.conf".to_owned(), masked.into_bytes()));
        self.scratch.make(&files)?;
        Ok(self.scratch.path().join("hooks.conf"))
    }

    /// Warns of names that no hook has: they may be misspelt.
    pub(crate) fn check(&self, context: &Context, plan: &Plan) {
        let root = plan.inside.root();
        for name in self.names {
            let path = |directory: &&str| format!("{directory}/{name}.hook");
            let is_there = |path: String| root.open_below(&path, OFlags::PATH | OFlags::NOFOLLOW).is_ok();
            if !DIRECTORIES.iter().any(|directory| is_there(path(directory))) {
                context.warn(format_args!("masking the hook {}: the root has no such hook", quote(name)));
            }
        }
    }

    /// Removes them.
    ///
    /// # Errors
    ///
    /// When something cannot be removed.
    pub(crate) fn clear(&self) -> Result<(), Failure> {
        self.scratch.clear()
    }
}

/// Reads the name of a hook, with or without `.hook`.
pub(crate) fn hook_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix(".hook").unwrap_or(text);
    if package::name::is_filename(name) { Ok(name.to_owned()) } else { Err("this is no name of a hook".to_owned()) }
}
