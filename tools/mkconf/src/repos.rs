//! The repositories: those of the preset with the command line's servers, and those that the command line adds.

use crate::Args;
use crate::foreign::Foreign;
use crate::plan::usage;
use crate::render::{Repo, Version};
use distro::check::{self, Signed};
use distro::{Preset, position};
use stage::Failure;
use stage::message::meant;

/// What `--repo` takes behind the URL.
const OPTIONS: [&str; 5] = ["before", "after", "siglevel", "usage", "cacheserver"];

/// The first pacman with CacheServer.
pub(crate) const CACHE_SERVER: Version = Version(6, 1);

/// What pacman can use a repository for.
const USAGE: [&str; 5] = ["Sync", "Search", "Install", "Upgrade", "All"];

/// `--repo NAME=URL[,before=NAME|,after=NAME][,siglevel=WORDS]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Given {
    name: String,
    servers: Vec<String>,
    before: Option<String>,
    after: Option<String>,
    siglevel: Option<String>,
    usage: Option<String>,
    cache_server: Option<String>,
}

impl Given {
    fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = |what: String| usage(format!("reading --repo: {what}"));
        let Some((name, rest)) = text.split_once('=') else {
            return Err(wrong(format!("'{}' is not NAME=URL", text.escape_default())));
        };
        check::repo(name).map_err(wrong)?;
        let mut parts = split(rest);
        let server = parts.next().unwrap_or_default();
        check::url(server).map_err(wrong)?;
        let mut given = Self { name: name.to_owned(), servers: vec![server.to_owned()], ..Self::default() };
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let place = match key {
                "before" => &mut given.before,
                "after" => &mut given.after,
                "siglevel" => &mut given.siglevel,
                "usage" => &mut given.usage,
                "cacheserver" => &mut given.cache_server,
                _ => {
                    let hint = format!("{}there are {}", meant(key, &[], OPTIONS.into_iter()), OPTIONS.join(", "));
                    let what = format!("repository '{name}' has no '{}'", key.escape_default());
                    return Err(wrong(what).hint(hint));
                }
            };
            match key {
                "before" | "after" => check::repo(value),
                "cacheserver" => check::url(value),
                "usage" => usage_words(value),
                _ => Ok(()),
            }
            .map_err(wrong)?;
            if place.replace(value.to_owned()).is_some() {
                return Err(wrong(format!("repository '{name}' has '{key}' twice")));
            }
        }
        Ok(given)
    }

    /// Adds another `--repo` of the same name.
    fn join(&mut self, other: Self) -> Result<(), Failure> {
        self.servers.extend(other.servers);
        let pairs = [
            (&mut self.before, other.before),
            (&mut self.after, other.after),
            (&mut self.siglevel, other.siglevel),
            (&mut self.usage, other.usage),
            (&mut self.cache_server, other.cache_server),
        ];
        for (known, new) in pairs {
            if known.is_some() && new.is_some() && *known != new {
                return Err(usage(format!("reading --repo: repository '{}' is given in two ways", self.name)));
            }
            *known = new.or(known.take());
        }
        Ok(())
    }
}

/// Refuses words that `Usage =` does not have.
fn usage_words(value: &str) -> Result<(), String> {
    match value.split(' ').find(|word| !USAGE.contains(word)) {
        Some(word) => {
            Err(format!("'{}' is not a value of Usage: there are {}", word.escape_default(), USAGE.join(", ")))
        }
        None => Ok(()),
    }
}

/// Splits a URL from the options behind it: a comma belongs to the URL where no word and `=` follow it.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let is_option = |rest: &str| {
        let word = rest.split_once('=').map_or("", |(word, _)| word);
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase())
    };
    let mut starts: Vec<usize> =
        text.match_indices(',').map(|(at, _)| at).filter(|at| is_option(&text[at + 1..])).collect();
    starts.push(text.len());
    let mut from = 0;
    starts.into_iter().map(move |end| {
        let part = &text[from..end];
        from = end + 1;
        part
    })
}

/// Returns the preset's repositories with the command line's servers, or those of `--conf`, and those that only the command line
/// names, in order. `siglevel` is that of `[options]`.
pub(crate) fn repos(
    args: &Args,
    preset: &Preset,
    arch: &distro::Arch,
    version: Option<Version>,
    foreign: Option<&Foreign>,
    siglevel: &str,
) -> Result<Vec<Repo>, Failure> {
    for server in &args.server {
        check::url(server).map_err(|what| usage(format!("reading --server: {what}")))?;
    }
    if let Some(day) = &args.snapshot {
        check::date(day).map_err(|what| usage(format!("reading --snapshot: {what}")))?;
    }
    let mut given = given(args, version)?;
    let said: Vec<String> =
        given.iter().filter(|given| given.siglevel.is_some()).map(|given| given.name.clone()).collect();
    let (mut repos, whose) = match foreign {
        Some(foreign) => (foreign.repos(arch, version)?, "--conf"),
        None => {
            let is_given = |repo: &distro::Repo| given.iter().any(|given| given.name == repo.name);
            let repos = arch.repos.iter().map(|repo| of_preset(args, preset, repo, is_given(repo)));
            (repos.collect::<Result<_, _>>()?, "the preset")
        }
    };
    for repo in &mut repos {
        if let Some(at) = given.iter().position(|given| given.name == repo.name) {
            replace(repo, given.remove(at), whose)?;
        }
    }
    add(&mut repos, given)?;
    for repo in &mut repos {
        repo.unsigned = is_unsigned(siglevel, &repo.name, repo.siglevel.as_deref())?;
        if let Some(foreign) = foreign.filter(|_| repo.unsigned && !said.contains(&repo.name)) {
            return Err(foreign.unsaid(repo));
        }
    }
    Ok(repos)
}

/// Reads each `--repo`; those of one name are one.
fn given(args: &Args, version: Option<Version>) -> Result<Vec<Given>, Failure> {
    let mut given: Vec<Given> = Vec::new();
    for text in &args.repo {
        let more = Given::parse(text)?;
        match given.iter_mut().find(|known| known.name == more.name) {
            Some(known) => known.join(more)?,
            None => given.push(more),
        }
    }
    if let Some(is) = version.filter(|version| *version < CACHE_SERVER)
        && given.iter().any(|given| given.cache_server.is_some())
    {
        let message = format!("reading --repo: CacheServer is of pacman 6.1, and this is {}.{}", is.0, is.1);
        return Err(usage(message).hint("leave cacheserver out, or fetch a newer pacman"));
    }
    Ok(given)
}

/// Returns a repository of the preset, with the servers that are used in place of its own. One that `--repo` names needs no
/// snapshot.
fn of_preset(args: &Args, preset: &Preset, repo: &distro::Repo, is_given: bool) -> Result<Repo, Failure> {
    let distribution = preset.publishers.first().map(|publisher| publisher.name.as_str());
    let is_distribution = distribution == Some(repo.publisher.as_str());
    let (servers, origin) = if !args.server.is_empty() && is_distribution {
        (args.server.clone(), "--server, in place of the preset's".to_owned())
    } else if let Some(day) = args.snapshot.as_ref().filter(|_| !is_given) {
        (vec![snapshot(repo, preset, day)?], format!("--snapshot {day}"))
    } else {
        (repo.servers.clone(), format!("the preset '{}'", repo.publisher))
    };
    Ok(Repo {
        name: repo.name.clone(),
        publisher: Some(repo.publisher.clone()),
        servers,
        siglevel: repo.siglevel.clone(),
        unsigned: false,
        usage: None,
        cache_servers: Vec::new(),
        origin,
    })
}

/// Gives a repository what the command line says of it, in place of what is there.
fn replace(repo: &mut Repo, given: Given, whose: &str) -> Result<(), Failure> {
    if given.before.or(given.after).is_some() {
        return Err(usage(format!("reading --repo: '{}' has its place by {whose} already", repo.name)));
    }
    repo.siglevel = given.siglevel.or(repo.siglevel.take());
    repo.usage = given.usage.or(repo.usage.take());
    repo.cache_servers.extend(given.cache_server);
    repo.servers = given.servers;
    repo.origin = format!("--repo, in place of {whose}'s");
    Ok(())
}

/// Adds the repositories of the command line, each at its place.
fn add(repos: &mut Vec<Repo>, given: Vec<Given>) -> Result<(), Failure> {
    let mut anchors: Vec<Option<String>> = vec![None; repos.len()];
    for Given { name, servers, before, after, siglevel, usage: usage_of, cache_server } in given {
        let names: Vec<&str> = repos.iter().map(|repo| repo.name.as_str()).collect();
        let after_what: Vec<Option<&str>> = anchors.iter().map(Option::as_deref).collect();
        let at = position(&names, &after_what, &name, before.as_deref(), after.as_deref());
        let at = at.map_err(|what| usage(format!("reading --repo: {what}")))?;
        let origin = match at == repos.len() {
            true => "--repo; behind the others, which take precedence".to_owned(),
            false => format!("--repo; before '{}', over which it takes precedence", repos[at].name),
        };
        anchors.insert(at, after);
        let cache_servers = cache_server.into_iter().collect();
        let (publisher, unsigned) = (None, false);
        repos.insert(at, Repo { name, publisher, servers, siglevel, unsigned, usage: usage_of, cache_servers, origin });
    }
    Ok(())
}

/// Returns whether packages of a repository may have no signature; `above` is the `SigLevel` of `[options]`.
fn is_unsigned(above: &str, name: &str, siglevel: Option<&str>) -> Result<bool, Failure> {
    let Some(siglevel) = siglevel else { return Ok(false) };
    let signed = check::repo_siglevel(above, siglevel);
    let signed = signed.map_err(|what| usage(format!("reading the SigLevel of '{name}': {what}")));
    Ok(signed? == Signed::Perhaps)
}

/// Where a repository was on that day.
fn snapshot(repo: &distro::Repo, preset: &Preset, day: &str) -> Result<String, Failure> {
    let Some(pattern) = &repo.snapshot else {
        return Err(usage(format!(
            "{} has no public archive of its repository '{}': there is no snapshot of {day}",
            preset.title, repo.name
        ))
        .hint("keep the package cache, or name an archive of your own with 'snapshot' in a preset file"));
    };
    let mut server = pattern.clone();
    for (field, number) in ["%Y", "%m", "%d"].into_iter().zip(day.split('-')) {
        server = server.replace(field, number);
    }
    Ok(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_with_its_place() {
        let given = Given::parse("mine=http://h/a,b/$repo,before=core,siglevel=Required DatabaseNever").unwrap();
        let expected = Given {
            name: "mine".to_owned(),
            servers: vec!["http://h/a,b/$repo".to_owned()],
            before: Some("core".to_owned()),
            after: None,
            siglevel: Some("Required DatabaseNever".to_owned()),
            ..Given::default()
        };
        assert_eq!(given, expected);
        for (text, message, hint) in [
            ("mine", "reading --repo: 'mine' is not NAME=URL", None),
            (
                "mine=http://h/,befor=core",
                "reading --repo: repository 'mine' has no 'befor'",
                Some("did you mean 'before'? there are before, after, siglevel, usage, cacheserver"),
            ),
            (
                "mine=http://h/,usage=Sync Serch",
                "reading --repo: 'Serch' is not a value of Usage: there are Sync, Search, Install, Upgrade, All",
                None,
            ),
            ("mine=http://h/,before=", "reading --repo: it is empty", None),
            ("mine=http://h/,after=a,after=b", "reading --repo: repository 'mine' has 'after' twice", None),
        ] {
            let failure = Given::parse(text).unwrap_err();
            assert_eq!((failure.message.as_str(), failure.hint.as_deref()), (message, hint), "{text}");
        }
    }
}
