//! The web of trust as gpg computes it (g10/trustdb.c, validate_keys; g10/key-clean.c, mark_usable_uid_certs).
//!
//! In steps: the root's own key is valid by itself; then each key that keys of the step before have signed counts those
//! signatures, one full or three marginal make a name valid, and valid keys sign in the next step. gpg does the same
//! whenever the time has come to look again, so each rule here is one of gpg's, down to which signature of several counts.

use super::block::{Block, CERTIFIES, Id, Print};
use super::signature::{Said, Sha1Until, Sig};
use super::trustdb::{COMPLETES_NEEDED, MARGINALS_NEEDED, MAX_DEPTH, MIN_CERT_LEVEL, Trust, Valid};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{PublicKey, SignatureType};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Degrees of trust and of validity (g10/trustdb.h).
pub(super) const UNDEFINED: u8 = 2;
pub(super) const MARGINAL: u8 = 4;
pub(super) const FULL: u8 = 5;
pub(super) const ULTIMATE: u8 = 6;
/// The bits of owner trust that are no mark.
pub(super) const MASK: u8 = 15;

/// What does not change while it is computed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) now: u32,
    pub(super) sha1: Sha1Until,
}

/// A key whose signatures count in a step.
struct Signer {
    key: PublicKey,
    owner: u8,
}

/// What a step found on a name.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    full: u8,
    marginal: u8,
    validity: u8,
}

/// What a step found on a key: per name that was signed, its place and count; and when to look again.
#[derive(Debug, Default)]
struct Found {
    names: Vec<(usize, Count)>,
    next: Option<u32>,
}

/// Computes how valid each key is. `trust` has the owner trust, and gets the validity. Returns when the first thing that
/// counts ends.
///
/// # Errors
///
/// In words.
pub(super) fn weave(
    blocks: &mut [Block],
    trust: &mut BTreeMap<Print, Trust>,
    rules: Rules,
) -> Result<Option<u32>, String> {
    let mut counts: Vec<Vec<Count>> = blocks
        .iter()
        .map(|b| vec![Count::default(); b.names.len()])
        .collect();
    let owner = |trust: &BTreeMap<Print, Trust>, block: &Block| {
        trust.get(&block.print).map_or(0, |t| t.owner & MASK)
    };
    let mut next: Option<u32> = None;
    let mut used = BTreeSet::new();
    // Keys that are not looked at any more.
    let mut done = vec![false; blocks.len()];
    let mut signers: HashMap<Id, Signer> = HashMap::new();
    for (i, block) in blocks.iter().enumerate() {
        let dead = block.revoked || block.expired(rules.now);
        done[i] = dead;
        if dead || owner(trust, block) != ULTIMATE {
            continue;
        }
        done[i] = true;
        used.insert(block.print);
        next = sooner(next, block.expires);
        for name in &block.names {
            let valid = valid(
                &name.packet.body,
                Count {
                    validity: ULTIMATE,
                    ..Count::default()
                },
            )?;
            trust.entry(block.print).or_default().names.push(valid);
        }
        signers.insert(
            block.id(),
            Signer {
                key: block.key.clone(),
                owner: ULTIMATE,
            },
        );
    }
    for depth in 0..MAX_DEPTH {
        let found = step(blocks, &counts, &done, &signers, rules)?;
        signers.clear();
        for (i, found) in found.into_iter().enumerate() {
            next = sooner(next, found.next);
            if found.names.is_empty() {
                continue;
            }
            let block = &blocks[i];
            next = sooner(next, block.expires);
            let full = found.names.iter().any(|(_, count)| count.validity == FULL);
            let entry = trust.entry(block.print).or_default();
            entry.depth = depth;
            for (n, count) in found.names {
                counts[i][n] = count;
                let valid = valid(&block.names[n].packet.body, count)?;
                match entry.names.iter_mut().find(|v| v.hash == valid.hash) {
                    Some(old) => *old = valid,
                    None => entry.names.push(valid),
                }
            }
            done[i] = counts[i].iter().all(|count| count.validity == FULL);
            if full && used.insert(block.print) {
                let signer = Signer {
                    key: block.key.clone(),
                    owner: owner(trust, block),
                };
                signers.insert(block.id(), signer);
            }
        }
        if signers.is_empty() {
            break;
        }
    }
    Ok(next.filter(|when| *when >= rules.now))
}

/// The record of a name. gpg hashes the name with RIPEMD-160 (g10/misc.c, namehash_from_uid).
fn valid(name: &[u8], count: Count) -> Result<Valid, String> {
    let hash = HashAlgorithm::Ripemd160
        .digest(name)
        .map_err(|e| e.to_string())?;
    Ok(Valid {
        hash: hash.try_into().map_err(|_| "RIPEMD-160 has 20 bytes")?,
        validity: count.validity,
        full: count.full,
        marginal: count.marginal,
    })
}

fn sooner(a: Option<u32>, b: Option<u32>) -> Option<u32> {
    a.into_iter().chain(b).min()
}

/// Looks at all keys that are not done, on all processors: checking signatures is what takes the time.
fn step(
    blocks: &mut [Block],
    counts: &[Vec<Count>],
    done: &[bool],
    signers: &HashMap<Id, Signer>,
    rules: Rules,
) -> Result<Vec<Found>, String> {
    let work: Vec<_> = blocks.iter_mut().zip(counts).zip(done).collect();
    super::in_parallel(work, |((block, counts), done)| {
        if *done {
            Found::default()
        } else {
            look(block, counts, signers, rules)
        }
    })
}

/// Counts the signatures on the names of one key.
fn look(block: &mut Block, counts: &[Count], signers: &HashMap<Id, Signer>, rules: Rules) -> Found {
    let mut found = Found::default();
    let own = block.id();
    for (n, name) in block.names.iter_mut().enumerate() {
        if name.gone {
            continue;
        }
        found.next = sooner(found.next, name.expires);
        let mut count = counts[n];
        let mut signed = false;
        for (id, signer) in signers.iter().filter(|(id, _)| **id != own) {
            let holds = |sig: &Sig| {
                certifies(sig, id).is_some_and(|said| {
                    let weak = said.is_sha1() && said.created > rules.sha1.0;
                    let packet = &name.packet;
                    !weak && said.holds_on_id(&signer.key, &block.key, packet.tag, &packet.body)
                })
            };
            let Some(i) = newest(&name.sigs, rules.now, holds) else {
                continue;
            };
            name.sigs[i].mark();
            let Some(said) = &name.sigs[i].said else {
                continue;
            };
            let ended = said.expires.is_some_and(|end| end < rules.now);
            if said.kind == SignatureType::CertRevocation || ended {
                continue;
            }
            found.next = sooner(found.next, said.expires);
            signed = true;
            match signer.owner {
                ULTIMATE => count.full = COMPLETES_NEEDED,
                FULL => count.full = count.full.saturating_add(1),
                MARGINAL => count.marginal = count.marginal.saturating_add(1),
                _ => {}
            }
        }
        if signed {
            count.validity = if count.full >= COMPLETES_NEEDED || count.marginal >= MARGINALS_NEEDED
            {
                FULL
            } else if count.full > 0 || count.marginal > 0 {
                MARGINAL
            } else {
                UNDEFINED
            };
            found.names.push((n, count));
        }
    }
    found
}

/// Whether a signature is this signer's word on a name, in a class that counts: its own word that it did not look closely
/// makes it none.
fn certifies<'a>(sig: &'a Sig, id: &Id) -> Option<&'a Said> {
    let said = sig.said.as_ref().filter(|s| s.issuers.contains(id))?;
    let level = CERTIFIES.iter().position(|k| *k == said.kind);
    let low = level.is_some_and(|l| l != 0 && l < usize::from(MIN_CERT_LEVEL));
    let kind = level.is_some() || said.kind == SignatureType::CertRevocation;
    (kind && !low).then_some(said)
}

/// Returns which of one signer's signatures on a name counts: one that cannot be revoked and has not ended, else the
/// newest, and of the same second the last.
fn newest(sigs: &[Sig], now: u32, holds: impl Fn(&Sig) -> bool) -> Option<usize> {
    let rank = |i: &usize| {
        let said = sigs[*i].said.as_ref();
        let stays = said.is_some_and(|s| {
            s.kind != SignatureType::CertRevocation
                && !s.revocable()
                && s.expires.is_none_or(|end| end > now)
        });
        std::cmp::Reverse((stays, said.map_or(0, |s| s.created), *i))
    };
    let mut order: Vec<usize> = (0..sigs.len()).collect();
    order.sort_by_key(rank);
    order.into_iter().find(|i| holds(&sigs[*i]))
}
