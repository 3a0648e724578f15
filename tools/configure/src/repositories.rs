//! `--repositories`: the root's own pacman.conf(5) gets the repositories that the root was built from, so that what came from an
//! overlay or from one's own repository is upgraded later.
//!
//! The distribution's file stays as it is: what it has of a repository is its own. What it lacks is added, each repository at its
//! place, and is written again by the next run.

use crate::item::{Item, Site, lacks};
use distro::check;
use stage::members::{Config, Repository};
use stage::{Code, Document, Failure};

const CONF: &str = "etc/pacman.conf";
/// The line before a section that is ours.
const OURS: &str = "# Written by configure(8) of strapline.";

pub(crate) struct Repositories {
    architecture: Vec<String>,
    list: Vec<Repository>,
}

impl Repositories {
    /// Reads what `mkconf` recorded.
    ///
    /// # Errors
    ///
    /// [`Code::BadDocument`] where there is nothing, or what would be another line of the file.
    pub(crate) fn of(document: &Document) -> Result<Self, Failure> {
        let config: Config = document.need()?;
        let wrong = |why: String| Failure::new(Code::BadDocument, format!("reading \"config\" of the document: {why}"));
        if config.repositories.is_empty() {
            return Err(wrong("it does not say which repositories there are".to_owned()).hint("run mkconf again"));
        }
        for repo in &config.repositories {
            check::repo(&repo.name).map_err(wrong)?;
            check::repo_siglevel("", &repo.siglevel).map_err(wrong)?;
            repo.servers.iter().try_for_each(|url| check::url(url)).map_err(wrong)?;
        }
        config.architecture.iter().try_for_each(|arch| check::arch(arch)).map_err(wrong)?;
        Ok(Self { architecture: config.architecture, list: config.repositories })
    }

    /// Returns the names.
    pub(crate) fn names(&self) -> Vec<String> {
        self.list.iter().map(|repo| repo.name.clone()).collect()
    }

    /// Returns the file with what it lacks.
    fn merge(&self, text: &str) -> String {
        let mut lines: Vec<String> = without_ours(text);
        let theirs: Vec<String> = lines.iter().filter_map(|line| section(line)).map(str::to_owned).collect();
        for (n, repo) in self.list.iter().enumerate() {
            if theirs.contains(&repo.name) {
                continue;
            }
            let servers = self
                .include(&lines, repo)
                .unwrap_or_else(|| repo.servers.iter().map(|url| format!("Server = {url}")).collect());
            let mut block = vec![OURS.to_owned(), format!("[{}]", repo.name), format!("SigLevel = {}", repo.siglevel)];
            block.extend(servers);
            let next = self.list[n + 1..].iter().find(|next| theirs.contains(&next.name));
            match next.and_then(|next| begin(&lines, &next.name)) {
                Some(at) => {
                    block.push(String::new());
                    lines.splice(at..at, block);
                }
                None => {
                    if lines.last().is_some_and(|line| !line.is_empty()) {
                        lines.push(String::new());
                    }
                    lines.extend(block);
                }
            }
        }
        if let [_, _, ..] = &self.architecture[..] {
            let is_it = |line: &&mut String| line.split_once('=').is_some_and(|(key, _)| key.trim() == "Architecture");
            if let Some(line) = lines.iter_mut().find(is_it) {
                *line = format!("Architecture = {}", self.architecture.join(" "));
            }
        }
        lines.join("\n") + "\n"
    }

    /// Returns how the file itself has another repository of the same publisher, where that is by including a list of mirrors.
    fn include(&self, lines: &[String], repo: &Repository) -> Option<Vec<String>> {
        let same = self.list.iter().filter(|other| other.publisher.is_some() && other.publisher == repo.publisher);
        same.filter(|other| other.name != repo.name).find_map(|other| {
            let at = lines.iter().position(|line| section(line) == Some(&other.name))?;
            let body = lines[at + 1..].iter().take_while(|line| section(line).is_none());
            let kept = |line: &&String| {
                let key = line.split_once('=').map_or("", |(key, _)| key.trim());
                matches!(key, "Include" | "Server") && !line.starts_with('#')
            };
            let body: Vec<String> = body.filter(kept).cloned().collect();
            let includes = !body.is_empty() && body.iter().all(|line| line.trim().starts_with("Include"));
            includes.then_some(body)
        })
    }
}

/// Returns the name of the section that a line begins.
fn section(line: &str) -> Option<&str> {
    line.trim().strip_prefix('[')?.strip_suffix(']')
}

/// Returns where a section begins, with the comment above it.
fn begin(lines: &[String], name: &str) -> Option<usize> {
    let at = lines.iter().position(|line| section(line) == Some(name))?;
    let comment = lines[..at].iter().rev().take_while(|line| line.starts_with('#') && *line != OURS).count();
    Some(at - comment)
}

/// Returns the lines without the sections that an earlier run wrote, and without blank lines at the end.
fn without_ours(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = text.lines().peekable();
    while let Some(line) = rest.next() {
        if line != OURS {
            lines.push(line.to_owned());
            continue;
        }
        while rest.next_if(|line| !line.is_empty()).is_some() {}
        let _ = rest.next_if_eq(&"");
    }
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

impl Item for Repositories {
    fn check(&self, site: &Site) -> Result<(), Failure> {
        match site.tree.exists(CONF) {
            true => site.tree.text(CONF).map(drop),
            false => {
                let conf = site.tree.quote(CONF);
                Err(lacks(format!("writing the repositories: there is no {conf}"), "pacman"))
            }
        }
    }

    fn apply(&self, site: &mut Site) -> Result<(), Failure> {
        let before = site.tree.text(CONF)?;
        let text = self.merge(&before);
        for repo in &self.list {
            if let Some(server) = repo.servers.iter().find(|server| server.starts_with("file://"))
                && text.contains(&format!("Server = {server}\n"))
            {
                site.warnings
                    .push(format!("the repository '{}' is at {server}: the machine must have it there", repo.name));
            }
        }
        let (mode, owner) = site.tree.attributes(CONF)?.unwrap_or((0o644, crate::tree::ROOT));
        site.tree.write_as(CONF, &text, mode, owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "[options]\nArchitecture = auto\n\n# The core.\n[core]\nInclude = /etc/pacman.d/mirrorlist\n\n\
                       #[multilib]\n#Include = /etc/pacman.d/mirrorlist\n";

    fn repositories() -> Repositories {
        let repo = |name: &str, publisher: Option<&str>| Repository {
            name: name.to_owned(),
            publisher: publisher.map(str::to_owned),
            servers: vec![format!("http://h/{name}")],
            siglevel: "Required".to_owned(),
            unsigned: false,
        };
        Repositories {
            architecture: vec!["x86_64".to_owned(), "x86_64_v3".to_owned()],
            list: vec![
                repo("one", Some("over")),
                repo("two", Some("over")),
                repo("core", Some("base")),
                repo("extra", Some("base")),
                repo("mine", None),
            ],
        }
    }

    #[test]
    fn each_repository_is_at_its_place() {
        let text = repositories().merge(OLD);
        let block = |name: &str, server: &str| format!("{OURS}\n[{name}]\nSigLevel = Required\n{server}\n");
        let expected = format!(
            "[options]\nArchitecture = x86_64 x86_64_v3\n\n{}\n{}\n# The core.\n[core]\nInclude = \
             /etc/pacman.d/mirrorlist\n\n#[multilib]\n#Include = /etc/pacman.d/mirrorlist\n\n{}\n{}",
            block("one", "Server = http://h/one"),
            block("two", "Server = http://h/two"),
            block("extra", "Include = /etc/pacman.d/mirrorlist"),
            block("mine", "Server = http://h/mine"),
        );
        assert_eq!(text, expected);
        // Again, and with one less.
        assert_eq!(repositories().merge(&text), expected);
        let mut fewer = repositories();
        fewer.list.truncate(3);
        let text = fewer.merge(&text);
        assert!(text.ends_with("#Include = /etc/pacman.d/mirrorlist\n") && text.contains("[two]"), "{text}");
    }

    #[test]
    fn a_document_is_not_believed() {
        for (key, value) in [("name", "a]\n[b"), ("siglevel", "Required\nX"), ("siglevel", "Optional TrustAll")] {
            let mut repo = serde_json::json!({"name": "a", "servers": ["http://h/"], "siglevel": "Required"});
            repo[key] = value.into();
            let config = serde_json::json!({"strict": "/s", "loose": "/l", "cache": "/c", "repositories": [repo]});
            let document = serde_json::json!({"strapline": 1, "config": config});
            let document = Document::parse(document.to_string().as_bytes(), "x").unwrap();
            assert_eq!(Repositories::of(&document).err().unwrap().code, Code::BadDocument, "{value}");
        }
    }
}
