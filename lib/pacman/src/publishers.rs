//! Whose keys may sign the packages of a repository.
//!
//! pacman has one keyring, and to it a key that is valid is valid for all repositories. So after the download, and before
//! anything is installed, the signer of each package is compared with the keys of the repository's publisher: an overlay does
//! not vouch for the distribution's packages, nor for another overlay's.

use crate::diagnosis::archive::Cache;
use crate::diagnosis::{Diagnosis, Verifier};
use crate::gpg::{self, Gpg, Home, StoredKeyring};
use crate::records::{self, Index};
use crate::run::Planned;
use crate::signature_pair;
use rootfs::{Inside, Place};
use stage::members::{Config, Keyring, Package, Publisher};
use stage::{Code, Doing, Failure, message, quote};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The keys that may sign packages, by repository. A repository that is not there is not checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vouchers(BTreeMap<String, Signers>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Signers {
    /// The preset that the repository is from.
    publisher: Option<String>,
    keys: BTreeSet<String>,
}

impl Vouchers {
    /// Returns the keys for the repositories of a configuration; none where all are of one publisher, whose keys are all
    /// that pacman's keyring has.
    ///
    /// # Errors
    ///
    /// [`Code::NotVerified`] where the keyring was built without one of the publishers.
    pub fn of(config: &Config, keyring: Option<&Keyring>) -> Result<Self, Failure> {
        let known = keyring.map(|keyring| keyring.publishers.as_slice()).unwrap_or_default();
        let named: BTreeSet<&String> = config.repositories.iter().filter_map(|repo| repo.publisher.as_ref()).collect();
        let is_known = |name: &&&String| known.iter().any(|publisher| publisher.name.as_ref() == Some(**name));
        if known.is_empty() && named.len() < 2 {
            return Ok(Self::default());
        }
        if let Some(name) = named.iter().find(|name| !is_known(name)) {
            let message = match known.is_empty() {
                true => "looking for whose keys are whose: the keyring was built without the overlays".to_owned(),
                false => format!("looking for the keys of {}: the keyring was built without them", quote(name)),
            };
            return Err(Failure::new(Code::NotVerified, message)
                .hint("run keyring after mkconf, for the same distribution and overlays"));
        }
        if config.repositories.is_empty() {
            let message = "looking for the repositories of the configuration: the document does not say whose they are";
            return Err(Failure::new(Code::NotVerified, message).hint("run mkconf again"));
        }
        let repositories = config.repositories.iter().filter(|repo| !repo.unsigned).map(|repo| {
            let vouching =
                known.iter().filter(|publisher| vouches(publisher, &repo.name, repo.publisher.as_ref(), known));
            let keys = vouching.flat_map(|publisher| publisher.keys.iter().cloned()).collect();
            (repo.name.clone(), Signers { publisher: repo.publisher.clone(), keys })
        });
        Ok(Self(repositories.collect()))
    }

    /// Returns whether nothing is to be checked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns why a key may not sign packages of a repository, where it may not: to follow the name of a package and a colon.
    #[must_use]
    pub fn refusal(&self, repo: &str, key: &str) -> Option<String> {
        let signers = self.0.get(repo).filter(|signers| !signers.keys.contains(key))?;
        let whose = signers.publisher.as_deref();
        let whose = whose.map_or("the distribution's or yours".to_owned(), |name| format!("one of {}", quote(name)));
        Some(format!("it is signed by the key {}, which is not {whose}", message::escape(key)))
    }

    /// Checks that each package that pacman is to install is signed by a key for its repository, and removes what is not from
    /// the cache.
    ///
    /// # Errors
    ///
    /// [`Code::NotVerified`] with the first package, its key and whose that is.
    pub fn check(&self, inside: &Inside, config: &Config, planned: &[Planned]) -> Result<(), Failure> {
        // One that is named as a file is of no publisher's repository, and its signature or --unsigned is the user's word.
        let is_file = |repo: &str| ["local", Package::LOCAL, Package::UNSIGNED].contains(&repo);
        let is_known = |repo: &String| is_file(repo) || config.repositories.iter().any(|known| known.name == *repo);
        if let Some(Planned { name, repo, .. }) =
            planned.iter().find(|planned| !self.is_empty() && !is_known(&planned.repo))
        {
            let message =
                format!("checking {}: the document does not know its repository {}", quote(name), quote(repo));
            return Err(Failure::new(Code::NotVerified, message).hint("run mkconf again"));
        }
        let planned: Vec<&Planned> = planned.iter().filter(|planned| self.0.contains_key(&planned.repo)).collect();
        if planned.is_empty() {
            return Ok(());
        }
        let told = examine(inside, config, &planned)?;
        let mut refused = planned.iter().zip(&told).filter_map(|(planned, told)| {
            let (name, repo) = (quote(&planned.name), quote(&planned.repo));
            let doing = format!("checking {name} of the repository {repo}");
            if !told.is_valid() {
                return Some((planned, format!("{doing}: {}", told.why)));
            }
            let why = self.refusal(&planned.repo, told.key.as_deref().unwrap_or_default())?;
            Some((planned, format!("{doing}: {why}")))
        });
        let Some((first, why)) = refused.next() else {
            return Ok(());
        };
        let rest: Vec<_> = refused.map(|(planned, _)| planned).collect();
        for planned in std::iter::once(&first).chain(&rest) {
            signature_pair::remove(&config.cache, &planned.file)?;
        }
        Err(Failure::new(Code::NotVerified, why + &crate::and_more(rest.len())).hint(
            "nothing was installed; try another mirror of that repository. A preset whose keys may sign packages of another's \
             repository says so: vouches_for",
        ))
    }
}

/// Returns whether a publisher's keys may sign packages of a repository.
fn vouches(publisher: &Publisher, repo: &str, of: Option<&String>, all: &[Publisher]) -> bool {
    let is_named = publisher.vouches_for.iter().any(|name| name == "*" || name == repo);
    // What the command line names is the distribution's, as multilib is, or the user's own.
    let is_first = all.first().is_some_and(|first| first.name == publisher.name);
    is_named || publisher.name.as_ref() == of || (of.is_none() && is_first)
}

/// How many archives are open at a time in a thread.
const AT_A_TIME: usize = 32;

/// Has gpg check the signatures, inside: its scratch home is on a file system that ends with the namespaces.
fn examine(inside: &Inside, config: &Config, planned: &[&Planned]) -> Result<Vec<Diagnosis>, Failure> {
    let gpg = Gpg::find()?;
    let keyring = inside.gpgdir().map_or_else(|| config.gpgdir(), Path::to_owned);
    let names = config.repositories.iter().map(|repo| &repo.name);
    let repos: Vec<String> = names.filter(|repo| planned.iter().any(|p| p.repo == **repo)).cloned().collect();
    let packages = planned.iter().map(|one| (one.name.as_str(), one.version.as_str()));
    let offers = records::offered_of(inside.root(), &repos, packages)?.entries;
    let index = Index::of(&offers);
    inside.call(Place::Host, &[], || {
        // Opened before the tmpfs is there, which may cover them.
        let cache = Cache::at(&config.cache).doing(Code::Os, || format!("opening {}", quote(&config.cache)))?;
        let stored = StoredKeyring::read(&keyring)?;
        let home = Home::create(&gpg, gpg::mount_scratch()?, &stored.files)?;
        let keys = home.keys()?;
        let verifier = Verifier { home: &home, keys: &keys };
        let check = |part: &[&Planned]| {
            let offered: Vec<_> =
                part.iter().map(|planned| index.find(planned).and_then(|entry| entry.signature())).collect();
            let wanted = part.iter().zip(&offered).map(|(planned, offered)| (planned.file.as_str(), offered.as_ref()));
            let wanted: Vec<_> = wanted.collect();
            let mut told = Vec::new();
            for few in wanted.chunks(AT_A_TIME) {
                told.extend(cache.check_all(&verifier, few)?.into_iter().map(|(diagnosis, _)| diagnosis));
            }
            Ok(told)
        };
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
        let parts: Vec<Result<Vec<Diagnosis>, Failure>> = std::thread::scope(|scope| {
            let size = planned.len().div_ceil(threads);
            let parts: Vec<_> = planned.chunks(size).map(|part| scope.spawn(|| check(part))).collect();
            let died = |_| Err(Failure::new(Code::Os, "checking packages: a thread died"));
            parts.into_iter().map(|part| part.join().unwrap_or_else(died)).collect()
        });
        let parts: Vec<Vec<Diagnosis>> = parts.into_iter().collect::<Result<_, _>>()?;
        Ok(parts.into_iter().flatten().collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use stage::members::Repository;

    fn publisher(name: &str, vouches_for: &[&str]) -> Publisher {
        let vouches_for = vouches_for.iter().map(|name| (*name).to_owned()).collect();
        Publisher {
            name: (!name.is_empty()).then(|| name.to_owned()),
            keys: vec![format!("key of {name}")],
            vouches_for,
        }
    }

    fn config(repos: &[(&str, Option<&str>)]) -> Config {
        let repository = |(name, publisher): &(&str, Option<&str>)| Repository {
            name: (*name).to_owned(),
            publisher: publisher.map(str::to_owned),
            unsigned: *name == "loose",
            ..Repository::default()
        };
        Config {
            strict: "/s".into(),
            loose: "/l".into(),
            cache: "/c".into(),
            gpgdir: None,
            architecture: Vec::new(),
            repositories: repos.iter().map(repository).collect(),
        }
    }

    #[test]
    fn a_publisher_vouches_for_its_own() {
        let config = config(&[
            ("over", Some("over")),
            ("core", Some("base")),
            ("other", Some("other")),
            ("mine", None),
            ("loose", None),
        ]);
        let keyring = Keyring {
            publishers: vec![
                publisher("base", &[]),
                publisher("over", &[]),
                publisher("other", &["over"]),
                publisher("", &[]),
            ],
            ..Keyring::default()
        };
        let vouchers = Vouchers::of(&config, Some(&keyring)).unwrap();
        let keys = |repo: &str| -> Vec<&str> { vouchers.0[repo].keys.iter().map(String::as_str).collect() };
        assert_eq!(keys("core"), ["key of base"]);
        assert_eq!(keys("over"), ["key of other", "key of over"]);
        assert_eq!(keys("other"), ["key of other"]);
        assert_eq!(keys("mine"), ["key of ", "key of base"]);
        assert!(!vouchers.0.contains_key("loose"));
        assert_eq!((vouchers.refusal("core", "key of base"), vouchers.refusal("loose", "x")), (None, None));
        let why = "it is signed by the key key of over, which is not one of 'base'";
        assert_eq!(vouchers.refusal("core", "key of over").as_deref(), Some(why));
    }

    #[test]
    fn a_keyring_of_before_the_overlay_is_refused() {
        let two = config(&[("core", Some("base")), ("over", Some("over"))]);
        let keyring = |publishers| Keyring { publishers, ..Keyring::default() };
        for keyring in [None, Some(keyring(vec![])), Some(keyring(vec![publisher("base", &[])]))] {
            let failure = Vouchers::of(&two, keyring.as_ref()).unwrap_err();
            assert_eq!(failure.code, Code::NotVerified);
            assert!(failure.message.contains("the keyring was built without the"), "{failure}");
        }
        let some = keyring(vec![publisher("base", &[]), publisher("over", &[])]);
        assert_eq!(Vouchers::of(&config(&[]), Some(&some)).unwrap_err().code, Code::NotVerified);
        let one = config(&[("core", Some("base")), ("mine", None)]);
        assert_eq!(Vouchers::of(&one, None), Ok(Vouchers::default()));
    }
}
