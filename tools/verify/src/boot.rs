//! Whether the images that mkdisk has made of the root can boot: the root as it is now, as the document says that mkdisk laid
//! it out.

use image::boot::{Bus, Finding, Place, Subject};
use image::tree::Points;
use image::{Rules, Tree};
use rootfs::{Inside, Place as Where, Root};
use serde::{Deserialize, Serialize};
use stage::members::{Disk, VerifiedBoot, Verify};
use stage::{Code, Document, Failure, quote};
use std::path::PathBuf;

/// How many lines the document has of each kind.
const LINES: usize = 100;

/// What was found of an image.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Boots {
    disk: PathBuf,
    entries: usize,
    findings: Vec<Finding>,
}

/// Checks the images of the document for disks at these buses.
///
/// # Errors
///
/// When the document has no image, or the root cannot be read. What is found wrong is no error.
pub(crate) fn check(document: &Document, inside: &Inside, buses: &[Bus]) -> Result<Vec<Boots>, Failure> {
    let disks: Vec<Disk> = document.need()?;
    let points = Points::of(inside)?;
    inside.call(Where::Host, &[], || {
        let tree = Tree::open(&Root::of(document)?, &points)?;
        let nodes = tree.walk(&Rules::new(&[], &[], None)?)?.nodes;
        let of_disk = |disk: &Disk| {
            let places = Place::of_record(disk).collect();
            let subject = Subject::new(&tree, &nodes, &[], places);
            let entries = disk.boot.as_deref().unwrap_or_default();
            let findings = subject.prove(entries, buses)?;
            Ok(Boots { disk: disk.file.clone(), entries: entries.len(), findings })
        };
        disks.iter().map(of_disk).collect()
    })
}

/// Writes it down in the document.
pub(crate) fn record(document: &mut Document, boots: &[Boots], buses: &[Bus]) {
    let Some(verify) = document.get::<Verify>() else { return };
    let boot = boots.iter().map(|of| of.record(buses)).collect();
    document.write(&Verify { boot, ..verify });
}

/// Returns what is wrong or unproven of all images, what is wrong first.
pub(crate) fn failures(boots: &[Boots]) -> impl Iterator<Item = Failure> + use<> {
    let of = |is_wrong: bool| {
        let findings = boots.iter().flat_map(|of| of.findings.iter().map(move |finding| (of, finding)));
        findings.filter(move |(_, finding)| finding.is_wrong == is_wrong)
    };
    let failures = of(true)
        .chain(of(false))
        .map(|(of, finding)| finding.failure(Code::NotVerified, &format!("verifying that {} boots", quote(&of.disk))));
    failures.collect::<Vec<_>>().into_iter()
}

/// Returns what is said where all is well.
pub(crate) fn summary(document: &Document) -> Vec<String> {
    let boot = document.get::<Verify>().map(|verify| verify.boot).unwrap_or_default();
    let of_image = |of: &VerifiedBoot| {
        let buses = of.buses.join(", ");
        let from = if buses.is_empty() { String::new() } else { format!(" from {buses}") };
        format!("{} has what it needs to boot{from}", quote(&of.disk))
    };
    boot.iter().map(of_image).collect()
}

impl Boots {
    fn record(&self, buses: &[Bus]) -> VerifiedBoot {
        let lines = |is_wrong: bool| {
            let findings = self.findings.iter().filter(|finding| finding.is_wrong == is_wrong);
            findings.take(LINES).map(|finding| finding.message.clone()).collect()
        };
        let is_proven =
            |bus: &&Bus| self.findings.iter().all(|finding| finding.bus.is_some_and(|other| other != **bus));
        VerifiedBoot {
            disk: self.disk.clone(),
            entries: self.entries,
            buses: buses.iter().filter(is_proven).map(|bus| bus.name().to_owned()).collect(),
            wrong: lines(true),
            unproven: lines(false),
        }
    }
}
