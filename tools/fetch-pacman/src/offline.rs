//! `--offline`: a package, its signature and the keys to check it with, all out of the cache.

use crate::Fetch;
use crate::cache::{Cache, Origin};
use crate::fault::{Fault, Stop};
use crate::ring::{self, Ring};
use crate::verify::{self, Evidence, Proof, Verified};
use stage::{Code, Context, Failure, quote};

/// What helps where the cache has not all that is needed.
const ONLINE: &str =
    "run it once without --offline, or take the package by its hash alone with --unsigned";

/// Takes the newest package that is in the cache, or the one that was asked for by its hash.
pub(crate) fn fetch(
    context: &Context,
    cache: &Cache,
    fetch: &Fetch,
    proof: &Proof,
) -> Result<(Verified, Origin), Failure> {
    let mut found = None;
    // A package that turns out to be damaged is gone after that, and the next newest is as good.
    while found.is_none() {
        let origin = match &fetch.pin {
            Some(sha256) => cache.origin_of(sha256),
            None => cache.newest(&fetch.repo, &fetch.package)?,
        };
        let Some(origin) = origin else { break };
        let whole = cache.find(context, &origin.sha256)?;
        if whole.is_none() && fetch.pin.is_some() {
            break;
        }
        found = whole.map(|whole| (whole, origin));
    }
    let (whole, origin) = found.ok_or_else(|| {
        Failure::new(
            Code::NotFound,
            format!(
                "looking for package {} of {} in cache {}: it is not there",
                quote(&fetch.package),
                quote(&fetch.repo),
                quote(&fetch.cache)
            ),
        )
        .hint("run it once without --offline")
    })?;
    let sha256 = origin.sha256.clone();
    let meant = (origin.name.as_str(), origin.version.as_str());
    let meant = fetch.pin.is_none().then_some(meant);
    let verified = evidence(context, cache, fetch, proof, &sha256)
        .and_then(|evidence| verify::package(context, whole, &sha256, evidence, meant));
    let verified = verified.map_err(|stop| match stop {
        Stop::Own(failure) => failure,
        Stop::Server(fault) => {
            let doing = format!("checking {} in the cache", quote(&origin.file));
            let failure = Failure::new(fault.code, format!("{doing}: {}", fault.reason));
            failure.hint(fault.hint.unwrap_or_else(|| ONLINE.to_owned()))
        }
    })?;
    Ok((verified, origin))
}

/// Returns what the cache has to show for a package.
fn evidence<'a>(
    context: &Context,
    cache: &Cache,
    fetch: &Fetch,
    proof: &'a Proof,
    sha256: &str,
) -> Result<Evidence<'a>, Stop> {
    let missing = |what: &str| Fault::new(Code::NotVerified, format!("{what} is not there"));
    let judge = match proof {
        Proof::Sha256 => return Ok(Evidence::Sha256),
        Proof::Hash => return Ok(Evidence::Hash),
        Proof::Signature(judge) => judge,
    };
    let signature = cache.signature(sha256)?;
    let signature = signature.ok_or_else(|| missing("its signature"))?;
    let ring = match &judge.ring {
        Some(ring) => ring.clone(),
        None => {
            let name = ring::package(&fetch.repo);
            let keyring = match cache.newest(&fetch.repo, &name)? {
                Some(origin) => cache.find(context, &origin.sha256)?,
                None => None,
            };
            let keyring = keyring.ok_or_else(|| missing(&format!("package {}", quote(&name))))?;
            Ring::of_package(context, &judge.gpg, &keyring.file, &fetch.repo)?
        }
    };
    Ok(Evidence::Signature(judge, signature, ring))
}
