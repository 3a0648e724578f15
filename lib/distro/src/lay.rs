//! Laying one preset over another: which repositories there are then, in which order, and whose they are.

use crate::file::{self, NameOrRepo};
use crate::{Arch, Keyring, Preset, Publisher, Repo, extend};
use std::collections::BTreeMap;

/// A mistake: the words of the file where it is, and what is wrong.
pub(crate) type Mistake = (String, String);

/// What a file makes of the architectures of its base, for a publisher.
#[derive(Debug)]
pub(crate) struct Layer<'a> {
    /// The base's architectures; none where there is no base.
    pub(crate) base: BTreeMap<String, Arch>,
    /// Whose repositories the file's own are.
    pub(crate) publisher: &'a str,
    /// The file's `snapshot`.
    pub(crate) snapshot: Option<&'a String>,
}

impl Layer<'_> {
    /// Merges one architecture of a file that extends the base, or has none.
    ///
    /// # Errors
    ///
    /// What is wrong, in words.
    pub(crate) fn merge(&self, name: &str, own: file::Arch) -> Result<Arch, String> {
        let base = self.under(name, own.from.as_ref())?;
        let mut arch = self.begin(name, &own, base);
        if arch.architecture.is_empty() {
            return Err("architecture is empty".to_owned());
        }
        match own.repos {
            Some(listed) => {
                for NameOrRepo(repo) in listed {
                    self.list(&mut arch.repos, repo, &own.servers, base)?;
                }
            }
            None => {
                arch.repos.clone_from(&base.ok_or("repos is missing")?.repos);
                // Whoever only adds has servers for what is added.
                let replaces = !own.servers.is_empty() && own.add.is_empty();
                for repo in arch.repos.iter_mut().filter(|_| replaces) {
                    repo.servers.clone_from(&own.servers);
                }
            }
        }
        self.add(&mut arch.repos, own.add, &own.servers)?;
        if arch.repos.is_empty() {
            return Err("repos is empty".to_owned());
        }
        Ok(arch)
    }

    /// Returns the base's architecture of that name, or the one that `from` names.
    fn under(&self, name: &str, from: Option<&file::ArchName>) -> Result<Option<&Arch>, String> {
        let Some(file::ArchName(from)) = from else {
            return Ok(self.base.get(name));
        };
        let base = self.base.get(from);
        base.map(Some).ok_or_else(|| format!("from: what it extends has no architecture '{from}'"))
    }

    /// Returns an architecture without repositories.
    fn begin(&self, name: &str, own: &file::Arch, base: Option<&Arch>) -> Arch {
        let words = |list: &Option<Vec<file::ArchName>>| -> Option<Vec<String>> {
            Some(list.as_ref()?.iter().map(|word| word.0.clone()).collect())
        };
        let architecture = words(&own.architecture).or_else(|| Some(base?.architecture.clone()));
        let flags = own.cpu.as_ref().map(|list| list.iter().map(|flag| flag.0.clone()).collect());
        let machine = own.machine.as_ref().map(|machine| machine.0.clone());
        let from = own.from.as_ref().map(|from| from.0.clone());
        Arch {
            name: name.to_owned(),
            architecture: architecture.unwrap_or_else(|| vec![name.to_owned()]),
            machine: machine.or_else(|| base?.machine.clone()),
            cpu: flags.or_else(|| Some(base?.cpu.clone())).unwrap_or_default(),
            from: from.or_else(|| base?.from.clone()),
            repos: Vec::new(),
        }
    }

    /// Appends a repository of the list `repos`, completed with what the base has for it.
    fn list(
        &self,
        repos: &mut Vec<Repo>,
        mut repo: Repo,
        servers: &[String],
        base: Option<&Arch>,
    ) -> Result<(), String> {
        if repo.before.is_some() || repo.after.is_some() {
            return Err(format!("repository '{}': before and after are for what 'add' adds", repo.name));
        }
        if repos.iter().any(|known| known.name == repo.name) {
            return Err(format!("repository '{}' is listed twice", repo.name));
        }
        let under = base.and_then(|base| base.repos.iter().find(|known| known.name == repo.name));
        if repo.servers.is_empty() {
            repo.servers = servers.to_vec();
        }
        self.publisher.clone_into(&mut repo.publisher);
        if let Some(under) = under {
            if repo.servers.is_empty() {
                repo.servers.clone_from(&under.servers);
            }
            repo.siglevel = repo.siglevel.or_else(|| under.siglevel.clone());
            repo.publisher.clone_from(&under.publisher);
        }
        let of_base = || under.and_then(|under| under.snapshot.as_ref());
        repo.snapshot = repo.snapshot.or_else(|| self.snapshot.or_else(of_base).cloned());
        if repo.servers.is_empty() {
            return Err(format!("repository '{}' has no servers", repo.name));
        }
        repos.push(repo);
        Ok(())
    }

    /// Adds what the file lays over the base, each at its place.
    fn add(&self, repos: &mut Vec<Repo>, add: Vec<NameOrRepo>, servers: &[String]) -> Result<(), String> {
        for NameOrRepo(mut repo) in add {
            if let Some(known) = repos.iter().find(|known| known.name == repo.name) {
                let (name, whose) = (&repo.name, &known.publisher);
                return Err(format!("repository '{name}' is there already, of the preset '{whose}'"));
            }
            if repo.servers.is_empty() {
                repo.servers = servers.to_vec();
            }
            if repo.servers.is_empty() {
                return Err(format!("repository '{}' has no servers", repo.name));
            }
            self.publisher.clone_into(&mut repo.publisher);
            repo.snapshot = repo.snapshot.or_else(|| self.snapshot.cloned());
            place(repos, repo)?;
        }
        Ok(())
    }

    /// Lays an overlay's architectures over the base's. One that the overlay does not have is not there any more.
    ///
    /// # Errors
    ///
    /// Where the mistake is, and what it is.
    pub(crate) fn lay(&self, own: BTreeMap<file::ArchName, file::Arch>) -> Result<BTreeMap<String, Arch>, Mistake> {
        let mut arches = BTreeMap::new();
        let adds: Vec<_> = own.into_iter().filter(|(_, arch)| !arch.add.is_empty()).collect();
        for (file::ArchName(name), own) in &adds {
            let wrong = |what| (format!("[arch.{name}]"), what);
            let base = self.base.get(name).or_else(|| self.base.get(&own.from.as_ref()?.0));
            if let Some(base) = base {
                let mut arch = self.begin(name, own, Some(base));
                arch.repos.clone_from(&base.repos);
                self.add(&mut arch.repos, own.add.clone(), &own.servers).map_err(wrong)?;
                arches.insert(name.clone(), arch);
            }
        }
        // What is made of another architecture of the base has its packages too.
        for base in self.base.values().filter(|base| !arches.contains_key(&base.name)).collect::<Vec<_>>() {
            let from = adds.iter().find(|(name, _)| base.from.as_ref() == Some(&name.0));
            if let Some((file::ArchName(name), own)) = from {
                let mut arch = base.clone();
                let wrong = |what| (format!("[arch.{name}]"), what);
                self.add(&mut arch.repos, own.add.clone(), &own.servers).map_err(wrong)?;
                arches.insert(arch.name.clone(), arch);
            }
        }
        Ok(arches)
    }
}

/// Puts a repository where it says: before or after another, or last. Those that go after the same one keep their order.
///
/// # Errors
///
/// Where there is no such repository.
pub(crate) fn place(repos: &mut Vec<Repo>, repo: Repo) -> Result<(), String> {
    let names: Vec<&str> = repos.iter().map(|repo| repo.name.as_str()).collect();
    let anchors: Vec<Option<&str>> = repos.iter().map(|repo| repo.after.as_deref()).collect();
    let at = position(&names, &anchors, &repo.name, repo.before.as_deref(), repo.after.as_deref())?;
    repos.insert(at, repo);
    Ok(())
}

/// Returns the place of a repository in a list of `names`. `anchors` has for each what it was put after.
///
/// # Errors
///
/// Where there is no such repository.
pub fn position(
    names: &[&str],
    anchors: &[Option<&str>],
    name: &str,
    before: Option<&str>,
    after: Option<&str>,
) -> Result<usize, String> {
    let find = |anchor: &str, word: &str| {
        let at = names.iter().position(|name| *name == anchor);
        at.ok_or_else(|| {
            format!("repository '{name}': there is no '{anchor}' to be {word}: there are {}", names.join(", "))
        })
    };
    match (before, after) {
        (Some(_), Some(_)) => Err(format!("repository '{name}': it has both before and after")),
        (Some(anchor), None) => find(anchor, "before"),
        (None, Some(anchor)) => {
            let first = find(anchor, "after")? + 1;
            let same = anchors[first..].iter().take_while(|other| **other == Some(anchor));
            Ok(first + same.count())
        }
        (None, None) => Ok(names.len()),
    }
}

impl Preset {
    /// Gives the file's keys to the publisher of its own repositories, or to the distribution where it has none of its own.
    pub(crate) fn add_publisher(&mut self, publisher: Publisher) -> Result<(), String> {
        let has_own = self.arches.values().flat_map(|arch| &arch.repos).any(|repo| repo.publisher == publisher.name);
        match self.publishers.first_mut() {
            Some(first) if !has_own => first.keyring.extend(publisher.keyring),
            _ => {
                if self.publishers.iter().any(|known| known.name == publisher.name) {
                    return Err(format!("two presets, one over the other, have the name '{}'", publisher.name));
                }
                self.publishers.push(publisher);
            }
        }
        Ok(())
    }

    /// Checks that there are the repositories that publishers vouch for.
    pub(crate) fn check_vouching(&self, keyring: &Keyring) -> Result<(), String> {
        let repos: Vec<_> = self.arches.values().flat_map(|arch| &arch.repos).collect();
        let is_there = |name: &String| name == "*" || repos.iter().any(|repo| repo.name == *name);
        match keyring.vouches_for.iter().find(|name| !is_there(name)) {
            Some(name) => Err(format!("there is no repository '{name}'")),
            None => Ok(()),
        }
    }
}

impl Keyring {
    /// Appends another one, without what is there already.
    pub(crate) fn extend(&mut self, more: Self) {
        extend(&mut self.packages, more.packages, String::eq);
        extend(&mut self.populate, more.populate, String::eq);
        extend(&mut self.vouches_for, more.vouches_for, String::eq);
        extend(&mut self.trusted, more.trusted, |a, b| a.fingerprint == b.fingerprint);
    }
}
