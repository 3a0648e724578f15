//! A finished document for a person: what was built, from what, verified how, and where the time went. As text, or as one HTML
//! page that needs nothing else. And what can be asked of it: why something is there, and what is different in another one.

mod bill;
mod diff;
mod provenance;
mod why;

pub(crate) use bill::{cyclonedx, spdx};
pub(crate) use diff::diff;
pub(crate) use provenance::{BUILDER, provenance};
pub(crate) use why::why;

use stage::members::{
    Arch, Archive, Disk, Distro, ErrorRecord, Keyring, Mode, Package, Pacman, Step, TreeFile, VerifiedPackage, Verify,
};
use stage::message::escape;
use stage::{Document, date};
use std::fmt::Write as _;

/// How many packages that were not verified are named.
const NAMED: usize = 10;

/// A group of lines, each a name and what there is to say.
struct Section {
    title: String,
    lines: Vec<(String, String)>,
}

/// Returns the document as text.
pub(crate) fn text(document: &Document) -> String {
    let mut out = render(&sections(document));
    let steps = steps(document);
    let total: f64 = steps.iter().map(|step| step.seconds).sum();
    let others: f64 = steps.iter().map(|step| step.child_seconds).sum();
    writeln!(out, "time               seconds   of it pacman and others").unwrap_or(());
    for Step { tool, seconds, child_seconds, .. } in &steps {
        writeln!(out, "  {:14} {seconds:9.3} {child_seconds:9.3}", escape(tool)).unwrap_or(());
    }
    let share = if total > 0.0 { 100.0 * (total - others) / total } else { 0.0 };
    writeln!(out, "  {:14} {total:9.3} {others:9.3}   our own: {share:.1} %", "all").unwrap_or(());
    out
}

/// Returns lines of text: each title, and below it what there is to say.
fn render(sections: &[Section]) -> String {
    let mut out = String::new();
    for Section { title, lines } in sections {
        writeln!(out, "{}", escape(title)).unwrap_or(());
        for (name, value) in lines {
            writeln!(out, "  {:14} {}", escape(name), escape(value)).unwrap_or(());
        }
    }
    out
}

/// A package, and the key that signed it, where `verify` has found that.
#[derive(Clone)]
struct Known {
    package: Package,
    key: Option<String>,
}

/// Returns the packages, in the document's order.
fn packages(document: &Document) -> Vec<Known> {
    let packages: Vec<Package> = document.get().unwrap_or_default();
    let verified: Vec<VerifiedPackage> = document.get().unwrap_or_default();
    let key = |name: &str| verified.iter().find(|one| one.name == name)?.key.clone();
    packages.into_iter().map(|package| Known { key: key(&package.name), package }).collect()
}

/// Returns the document as an HTML page, with the steps' times as a chart.
pub(crate) fn html(document: &Document) -> String {
    let title = document.root().map_or_else(|| "receipt".to_owned(), |root| markup(&root.to_string_lossy()));
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n<title>{title}</title>\n{STYLE}\n<h1>{title}</h1>\n"
    );
    for Section { title, lines } in sections(document) {
        writeln!(out, "<h2>{title}</h2>\n<table>").unwrap_or(());
        for (name, value) in lines {
            writeln!(out, "<tr><th>{}<td>{}", markup(&name), markup(&value)).unwrap_or(());
        }
        writeln!(out, "</table>").unwrap_or(());
    }
    out + "<h2>time</h2>\n" + &chart(&steps(document)) + "</html>\n"
}

const STYLE: &str = "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:50em;margin:2em auto;padding:0 1em;color:#222}\
    h1{font-size:1.4em}h2{font-size:1.1em;margin-bottom:.2em}th{text-align:left;font-weight:normal;color:#666;\
    padding-right:1.5em;vertical-align:top;white-space:nowrap}td{overflow-wrap:anywhere}svg{font:14px system-ui,sans-serif}</style>";

/// The chart's measures, in pixels.
const ROW: usize = 26;
const LABEL: f64 = 120.0;
const BAR: f64 = 520.0;

/// Returns the times of the steps as SVG: pacman's and other programs' share of each in a lighter colour.
fn chart(steps: &[Step]) -> String {
    let longest = steps.iter().map(|step| step.seconds).fold(f64::MIN_POSITIVE, f64::max);
    let mut out = format!("<svg role=\"img\" width=\"720\" height=\"{}\">\n", steps.len() * ROW);
    for (i, step) in steps.iter().enumerate() {
        let (whole, others) = (step.seconds / longest * BAR, step.child_seconds / longest * BAR);
        let (y, tool) = (i * ROW, markup(&step.tool));
        let (text, after) = (y + 17, LABEL + whole + 6.0);
        writeln!(
            out,
            "<text x=\"0\" y=\"{text}\">{tool}</text><rect x=\"{LABEL}\" y=\"{y}\" width=\"{whole:.1}\" height=\"20\" fill=\"#1793d1\"/>\
             <rect x=\"{LABEL}\" y=\"{y}\" width=\"{others:.1}\" height=\"20\" fill=\"#9fd3ee\"/>\
             <text x=\"{after:.1}\" y=\"{text}\">{:.3} s</text>",
            step.seconds
        )
        .unwrap_or(());
    }
    out + "</svg>\n<p>Dark: the tools themselves. Light: pacman and other programs that they ran.</p>\n"
}

fn steps(document: &Document) -> Vec<Step> {
    document.get().unwrap_or_default()
}

/// Returns what there is to say. A member that the document lacks has no lines.
fn sections(document: &Document) -> Vec<Section> {
    let built = Section { title: "built".to_owned(), lines: built(document) };
    let from = Section { title: "from".to_owned(), lines: from(document) };
    let verified = Section { title: "verified".to_owned(), lines: verified(document) };
    let made = Section { title: "made of it".to_owned(), lines: made(document) };
    [built, from, verified, made].into_iter().filter(|section| !section.lines.is_empty()).collect()
}

fn line(name: &str, value: impl ToString) -> (String, String) {
    (name.to_owned(), value.to_string())
}

fn built(document: &Document) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    lines.extend(document.get::<ErrorRecord>().map(|e| line("FAILED", format!("{}: {}", e.tool, e.message))));
    lines.extend(document.root().map(|root| line("root", root.display())));
    lines.extend(document.get::<Distro>().map(|distro| line("distribution", distro.0)));
    lines.extend(document.get::<Arch>().map(|arch| line("architecture", arch.0)));
    lines.extend(document.get::<Mode>().map(|mode| match mode {
        Mode::User => line("by", "an ordinary user: files of others have subordinate ids on disk"),
        Mode::Root | Mode::Host => line("by", "root"),
        Mode::Chroot => line("by", "root, by chroot(2) alone: scriptlets were not confined, and had no /proc"),
    }));
    // A number of a document may be any; seconds since 1970 are whole and positive.
    let tree: Vec<TreeFile> = document.get().unwrap_or_default();
    if !tree.is_empty() {
        let mut from: Vec<_> = tree.iter().map(|file| format!("{} ({})", file.from, file.tool)).collect();
        from.sort();
        from.dedup();
        lines.push(line("own files", format!("{} from {}", tree.len(), from.join(", "))));
    }
    lines.extend(steps(document).first().map(|step| line("begun", date::time(step.started.max(0.0) as u64))));
    lines
}

fn from(document: &Document) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    if let Some(pacman) = document.get::<Pacman>() {
        lines.push(line("pacman", format!("{} at {}", pacman.version, pacman.path.display())));
        lines.push(line("its trust", &pacman.trust));
        if let Some(package) = pacman.package {
            lines.push(line("its package", format!("{} {} from {}", package.name, package.version, package.server)));
            lines.extend(package.signed_by.map(|key| line("signed by", key)));
        }
    }
    if let Some(keyring) = document.get::<Keyring>() {
        lines.push(line("keyrings", keyring.populated.join(" ")));
        lines.push(line("pinned keys", keyring.trusted.join(" ")));
        if !keyring.extended.is_empty() {
            lines.push(line("also trusted", keyring.extended.join(" ")));
        }
    }
    lines
}

fn verified(document: &Document) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    if let Some(packages) = document.get::<Vec<Package>>() {
        let not: Vec<_> =
            packages.iter().filter(|package| !package.verified).map(|package| package.name.as_str()).collect();
        lines.push(line("packages", format!("{} of {}", packages.len() - not.len(), packages.len())));
        if !not.is_empty() {
            let more = if not.len() > NAMED { format!(" and {} more", not.len() - NAMED) } else { String::new() };
            lines.push(line("not verified", not[..not.len().min(NAMED)].join(" ") + &more));
        }
    }
    if let Some(verify) = document.get::<Verify>() {
        lines
            .push(line("afterwards", format!("{} packages, last transaction {}", verify.packages, verify.transaction)));
        for (what, counts) in [("signatures", verify.signatures), ("files", verify.files)] {
            let counts = counts.into_iter().flatten().filter(|(_, count)| count.as_u64() != Some(0));
            let counts = counts.map(|(word, count)| format!("{word} {count}"));
            lines.push(line(what, counts.collect::<Vec<_>>().join(", ")));
        }
    }
    lines
}

fn made(document: &Document) -> Vec<(String, String)> {
    let archives: Vec<Archive> = document.get().unwrap_or_default();
    let disks: Vec<Disk> = document.get().unwrap_or_default();
    let archives = archives.into_iter().map(|a| line(&a.format, format!("{}, {} bytes", a.file, a.size)));
    let disks = disks.into_iter().map(|d| line("disk", format!("{}, {} bytes", d.file.display(), d.size)));
    archives.chain(disks).collect()
}

/// Returns text for HTML.
fn markup(text: &str) -> String {
    escape(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
