//! What turns a ring into a GnuPG home: our own code, or the host's gpg, with one result.

mod gpg;
mod native;

use crate::home::{self, Home};
use crate::listing::{self, Summary};
use crate::trust::Ring;
use clap::ValueEnum;
use gpg::Gpg;
use native::Sha1Until;
use rootfs::Inside;
use serde::{Deserialize, Serialize};
use stage::{Code, Context, Document, Doing, Failure};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Who builds the keyring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// This program
    #[default]
    Native,
    /// The host's gpg, which takes longer: the reference
    Gpg,
}

/// What was built.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Built {
    /// Whether there was no keyring before.
    pub(crate) made: bool,
    /// What it is.
    pub(crate) summary: Summary,
    /// What a person should know.
    warnings: Vec<String>,
    /// How long gpg worked, in seconds.
    seconds: f64,
}

impl Engine {
    /// Builds the keyring beside the one of the root, at [`home::BESIDE`].
    ///
    /// # Errors
    ///
    /// When it cannot be built, or is not what was to be built.
    pub(crate) fn build(
        self,
        context: &Context,
        document: &Document,
        inside: &Inside,
        ring: &Ring,
    ) -> Result<Built, Failure> {
        let built = match self {
            Self::Native => match native(inside, ring)? {
                Some(built) => built,
                None => {
                    context.note("the keyring that is there is not one of ours: gpg completes it");
                    gpg::build(document, inside, ring)?
                }
            },
            Self::Gpg => gpg::build(document, inside, ring)?,
        };
        for warning in &built.warnings {
            context.warn(warning);
        }
        context.waited(Duration::try_from_secs_f64(built.seconds).unwrap_or_default());
        Ok(built)
    }
}

/// Builds a keyring, or completes one that we built; `None` where there is another. No namespace is needed: nothing runs,
/// and a root is only ever worked on by the user whom its files belong to.
fn native(inside: &Inside, ring: &Ring) -> Result<Option<Built>, Failure> {
    let root = inside.root();
    let mut home = Home::read(root)?;
    let made = home.is_empty();
    // A host without gpg has no word in how strict to be.
    let gpg = Gpg::find().ok().map(|gpg| gpg.version);
    let Some(new) = native::build(ring, home.keys(), Sha1Until::of(gpg), now()?)? else {
        return Ok(None);
    };
    let summary = listing::judge(ring, &new.public, &new.secret)?;
    let mut warnings = warnings(ring, &home, &new.public, &new.secret);
    if new.left_out > 0 {
        warnings.push(format!(
            "left out of the ring: {}, of a kind unknown here or without a name of their own; --engine gpg may know them",
            crate::count(new.left_out)
        ));
    }
    home.fill(new.files, gpg);
    home.write_beside(root)?;
    Ok(Some(Built {
        made,
        summary,
        warnings,
        seconds: 0.0,
    }))
}

/// The time as OpenPGP has it, which ends in 2106.
fn now() -> Result<u32, Failure> {
    let doing = || "reading the clock, which is before 1970 or after 2106";
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .doing(Code::Os, doing)?;
    u32::try_from(since.as_secs()).doing(Code::Os, doing)
}

fn warnings(
    ring: &Ring,
    home: &Home,
    public: &[listing::Key],
    secret: &[listing::Key],
) -> Vec<String> {
    let mut warnings = Vec::new();
    for path in &home.skipped {
        warnings.push(format!(
            "'{}/{path}' is no regular file: it is not kept",
            home::AT
        ));
    }
    for key in listing::strangers(ring, public, secret) {
        warnings.push(format!(
            "{key} was in the keyring before and gives trust, though it is not pinned"
        ));
    }
    for key in listing::marginal(ring, public) {
        warnings.push(format!(
            "{key} is only marginally valid, so packages signed by it are refused; --trust {key} would take it as it is"
        ));
    }
    warnings
}
