//! What to build, from the command line and the document: nothing is touched here.

use crate::Args;
use crate::trust::Pins;
use distro::Preset;
use stage::members::Config;
use stage::{Code, Document, Failure};

/// What to build.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Its title in messages.
    pub(crate) title: String,
    /// Whose rings, the distribution's first.
    pub(crate) publishers: Vec<Wanted>,
}

/// The rings of one publisher.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The name of the preset; none for the user, whose keys are in files.
    pub(crate) name: Option<String>,
    /// The names of the rings.
    pub(crate) rings: Vec<String>,
    /// The packages that have them.
    pub(crate) packages: Vec<String>,
    /// The repositories that have the packages; none where any may.
    pub(crate) repos: Vec<String>,
    pub(crate) pins: Pins,
    /// The repositories of others that its keys may sign packages of.
    pub(crate) vouches_for: Vec<String>,
}

impl Wanted {
    /// Returns how a message calls it.
    pub(crate) fn title(&self) -> String {
        self.name.clone().unwrap_or_else(|| "--key".to_owned())
    }
}

/// Decides what to build.
///
/// # Errors
///
/// Where no ring is known, or no key that could give trust.
pub(crate) fn plan(args: &Args, document: &Document) -> Result<Plan, Failure> {
    let preset = Preset::of(document).map_err(|failure| Failure { code: Code::Failed, ..failure })?;
    let config: Option<Config> = document.get();
    let repos = config.map(|config| config.repositories).unwrap_or_default();
    let mut publishers: Vec<Wanted> = Vec::new();
    for publisher in preset.iter().flat_map(|preset| &preset.publishers) {
        let of_it = repos.iter().filter(|repo| repo.publisher.as_ref() == Some(&publisher.name));
        publishers.push(Wanted {
            name: Some(publisher.name.clone()),
            rings: publisher.keyring.populate.clone(),
            packages: publisher.keyring.packages.clone(),
            repos: of_it.map(|repo| repo.name.clone()).collect(),
            pins: Pins {
                preset: publisher.keyring.trusted.iter().map(|pin| pin.fingerprint.clone()).collect(),
                asked: args.trust.clone(),
            },
            vouches_for: publisher.keyring.vouches_for.clone(),
        });
    }
    if publishers.is_empty() {
        let pins = Pins { asked: args.trust.clone(), ..Pins::default() };
        publishers.push(Wanted { name: Some(args.populate.join(", ")), pins, ..Wanted::default() });
    }
    if publishers.len() == 1 {
        // Which repository has the package is pacman's to decide.
        publishers[0].repos.clear();
    }
    choose(&mut publishers, &args.populate, |wanted| &mut wanted.rings);
    choose(&mut publishers, &args.package, |wanted| &mut wanted.packages);
    publishers.retain(|wanted| !wanted.rings.is_empty());
    if publishers.is_empty() && args.key.is_empty() {
        let message = match &preset {
            Some(preset) => format!("{} has no keyring", preset.title),
            None => "the document names no distribution, so no keyring".to_owned(),
        };
        return Err(
            Failure::new(Code::Usage, message).hint("say which: --populate NAME --package NAME --trust FINGERPRINT")
        );
    }
    let names = || publishers.iter().flat_map(|wanted| &wanted.rings).cloned().collect::<Vec<_>>().join(", ");
    let title = preset.map_or_else(names, |preset| preset.title);
    for wanted in &publishers {
        let of = if publishers.len() == 1 { title.clone() } else { wanted.title() };
        wanted.pins.need_some(&of)?;
    }
    Ok(Plan { title, publishers })
}

/// Replaces the names of the presets by those of the command line, each at the publisher that has it, or the first.
fn choose(publishers: &mut [Wanted], given: &[String], list: fn(&mut Wanted) -> &mut Vec<String>) {
    if given.is_empty() {
        return;
    }
    let before: Vec<Vec<String>> = publishers.iter_mut().map(|wanted| std::mem::take(list(wanted))).collect();
    for name in given {
        let at = before.iter().position(|names| names.contains(name)).unwrap_or_default();
        list(&mut publishers[at]).push(name.clone());
    }
}
