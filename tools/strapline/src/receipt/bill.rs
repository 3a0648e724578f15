//! The receipt as a software bill of materials: SPDX 2.3 and CycloneDX 1.6, as JSON.
//!
//! What is in it is in the receipt, and the same receipt gives the same bytes: the time is that of its last step, and ids follow
//! from the content. Licences are not in the receipt, and not guessed.

use super::{Known, packages, steps};
use package::digest::sha256_hex;
use serde_json::{Value, json};
use stage::members::{Config, Configured, Pacman, Step, TreeFile};
use stage::{Code, Document, Failure, date};
use std::collections::BTreeMap;
use std::path::Path;

const DOING: &str = "making a bill of materials";

/// `ID` of os-release(5), which package URLs name a distribution by, of presets that are called otherwise.
const VENDORS: [(&str, &str); 5] = [
    ("archlinux", "arch"),
    ("archriscv", "arch"),
    ("loongarchlinux", "arch"),
    ("archlinuxarm", "archarm"),
    ("archlinux32", "arch32"),
];

/// What the formats for programs say.
pub(super) struct Bill {
    /// What was built, and its version.
    name: String,
    version: Option<String>,
    /// When the last step ended, as RFC 3339 has it.
    pub(super) created: String,
    /// Who publishes each repository, where that is known.
    publishers: BTreeMap<String, String>,
    /// Programs that made it, and their versions.
    pub(super) tools: Vec<(String, String)>,
    pub(super) packages: Vec<Known>,
    pub(super) tree: Vec<TreeFile>,
}

impl Bill {
    /// `doing` is what an error says.
    pub(super) fn of(document: &Document, doing: &str) -> Result<Self, Failure> {
        let lacks = |what: &str, hint: &str| {
            Failure::new(Code::BadDocument, format!("{doing}: the document has no {what}")).hint(hint)
        };
        let packages = packages(document);
        if packages.is_empty() {
            return Err(lacks("packages", "give the document of a finished root"));
        }
        let steps: Vec<Step> = steps(document);
        let ended = steps.iter().map(|step| (step.started + step.seconds).max(0.0)).fold(0.0, f64::max);
        if ended <= 0.0 {
            return Err(lacks("time in its steps", "give the document as the last tool wrote it"));
        }
        let configured: Configured = document.get().unwrap_or_default();
        let image = |key: &str| configured.os_release.get(key).and_then(Value::as_str).map(str::to_owned);
        // The name of a preset, or the path of one.
        let distro = document.distro().unwrap_or("linux");
        let distro = Path::new(distro).file_stem().and_then(|name| name.to_str()).unwrap_or("linux").to_lowercase();
        let mut tools = vec![("strapline".to_owned(), env!("CARGO_PKG_VERSION").to_owned())];
        if let Some(step) = steps.iter().find(|step| stage::TOOLS.contains(&step.tool.as_str())) {
            tools[0].1.clone_from(&step.version);
        }
        tools.extend(document.get::<Pacman>().map(|pacman| ("pacman".to_owned(), pacman.version)));
        let config: Option<Config> = document.get();
        let repositories = config.into_iter().flat_map(|config| config.repositories);
        let publishers = repositories.filter_map(|repo| Some((repo.name, repo.publisher?))).collect();
        let mut tree: Vec<TreeFile> = document.get().unwrap_or_default();
        tree.retain(|file| file.kind == "file");
        Ok(Self {
            name: image("IMAGE_ID").unwrap_or_else(|| distro.clone()),
            version: image("IMAGE_VERSION"),
            // A number of a document may be any; seconds since 1970 are whole and positive.
            created: date::time(ended as u64),
            publishers,
            tools,
            packages,
            tree,
        })
    }

    /// Returns the package URL of a package: of the type `alpm`, as its specification has it, with the publisher of its repository.
    /// None of a package that no distribution is known to publish: a scanner would take the advisories of one for it.
    pub(super) fn url(&self, known: &Known) -> Option<String> {
        let package = &known.package;
        let publisher = self.publishers.get(package.repo.as_ref()?)?;
        let vendor =
            VENDORS.iter().find(|(name, _)| name == publisher).map_or(publisher.as_str(), |(_, vendor)| *vendor);
        let (vendor, name) = (encoded(vendor), encoded(&package.name.to_lowercase()));
        Some(format!("pkg:alpm/{vendor}/{name}@{}?arch={}", encoded(&package.version), encoded(&package.arch)))
    }
}

/// Returns text as a package URL has it.
pub(super) fn encoded(text: &str) -> String {
    let one = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => char::from(b).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(one).collect()
}

/// What is known of a package that no format has a place for.
pub(super) fn facts(known: &Known) -> Vec<(&'static str, String)> {
    let package = &known.package;
    let facts = [
        ("repository", package.repo.clone()),
        ("reason", package.reason.clone()),
        ("verified", Some(package.verified.to_string())),
        ("signed-by", known.key.clone()),
    ];
    facts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// Returns a document of SPDX 2.3.
///
/// # Errors
///
/// [`Code::BadDocument`] where the receipt has no packages, or no time.
pub(crate) fn spdx(document: &Document) -> Result<String, Failure> {
    let bill = Bill::of(document, DOING)?;
    const NOT_KNOWN: &str = "NOASSERTION";
    let entry = |id: &str, name: &str, purpose: &str| {
        json!({"SPDXID": id, "name": name, "downloadLocation": NOT_KNOWN, "filesAnalyzed": false,
            "primaryPackagePurpose": purpose})
    };
    let checksum = |sha256: &Option<String>| {
        sha256.as_ref().map(|sha256| json!([{"algorithm": "SHA256", "checksumValue": sha256.to_lowercase()}]))
    };
    let root = "SPDXRef-Root";
    let mut entries = vec![entry(root, &bill.name, "OPERATING-SYSTEM")];
    if let Some(version) = &bill.version {
        entries[0]["versionInfo"] = json!(version);
    }
    for (number, known) in bill.packages.iter().enumerate() {
        let mut one = entry(&id("Package", number, &known.package.name), &known.package.name, "LIBRARY");
        one["versionInfo"] = json!(known.package.version);
        if let Some(file) = &known.package.file {
            one["packageFileName"] = json!(file);
        }
        let facts: Vec<String> = facts(known).into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
        one["comment"] = json!(facts.join(", "));
        if let Some(url) = bill.url(known) {
            one["externalRefs"] = json!([{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                "referenceLocator": url}]);
        }
        if let Some(checksum) = checksum(&known.package.sha256) {
            one["checksums"] = checksum;
        }
        entries.push(one);
    }
    // A file of SPDX needs a SHA-1, which the receipt does not have; a package may be a file.
    for (number, file) in bill.tree.iter().enumerate() {
        let mut one = entry(&id("File", number, &file.path), &format!("/{}", file.path), "FILE");
        one["packageFileName"] = json!(format!("./{}", file.path));
        one["comment"] = json!(format!("laid over the root by {}, from '{}'", file.tool, file.from));
        if let Some(checksum) = checksum(&file.sha256) {
            one["checksums"] = checksum;
        }
        entries.push(one);
    }
    let relation = |one: &Value, kind: &str, other: &Value| json!({"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other});
    let (whole, root) = (json!("SPDXRef-DOCUMENT"), json!(root));
    let mut relations = vec![relation(&whole, "DESCRIBES", &root)];
    relations.extend(entries[1..].iter().map(|one| relation(&root, "CONTAINS", &one["SPDXID"])));
    let creators: Vec<String> = bill.tools.iter().map(|(name, version)| format!("Tool: {name}-{version}")).collect();
    let mut text = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": whole,
        "name": bill.name,
        "creationInfo": {"created": bill.created, "creators": creators},
        "packages": entries,
        "relationships": relations,
    });
    // Unique, as it has to be, where the content is.
    let namespace = format!("https://spdx.org/spdxdocs/strapline-{}", sha256_hex(text.to_string()));
    text["documentNamespace"] = json!(namespace);
    Ok(format!("{text:#}\n"))
}

/// Returns an id of SPDX, which has letters, digits, dots and hyphens only.
fn id(kind: &str, number: usize, name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    format!("SPDXRef-{kind}-{number}-{}", name.chars().map(plain).collect::<String>())
}

/// Returns a document of CycloneDX 1.6.
///
/// # Errors
///
/// As [`spdx`].
pub(crate) fn cyclonedx(document: &Document) -> Result<String, Failure> {
    let bill = Bill::of(document, DOING)?;
    let hashes = |sha256: &Option<String>| {
        sha256.as_ref().map(|sha256| json!([{"alg": "SHA-256", "content": sha256.to_lowercase()}]))
    };
    let mut components = Vec::new();
    for known in &bill.packages {
        let url = bill.url(known);
        let facts = facts(known).into_iter();
        let facts: Vec<Value> =
            facts.map(|(name, value)| json!({"name": format!("strapline:{name}"), "value": value})).collect();
        let reference = url.clone().unwrap_or_else(|| format!("package:{}", known.package.name));
        let mut one = json!({"type": "library", "bom-ref": reference, "name": known.package.name,
            "version": known.package.version, "properties": facts});
        if let Some(url) = url {
            one["purl"] = json!(url);
        }
        if let Some(hashes) = hashes(&known.package.sha256) {
            one["hashes"] = hashes;
        }
        components.push(one);
    }
    for file in &bill.tree {
        let path = format!("/{}", file.path);
        let from =
            json!([{"name": "strapline:laid-by", "value": file.tool}, {"name": "strapline:from", "value": file.from}]);
        let mut one = json!({"type": "file", "bom-ref": format!("file:{path}"), "name": path, "properties": from});
        if let Some(hashes) = hashes(&file.sha256) {
            one["hashes"] = hashes;
        }
        components.push(one);
    }
    let tool = |(name, version): &(String, String)| json!({"type": "application", "name": name, "version": version});
    let tools: Vec<Value> = bill.tools.iter().map(tool).collect();
    let mut root = json!({"type": "operating-system", "bom-ref": "root", "name": bill.name});
    if let Some(version) = &bill.version {
        root["version"] = json!(version);
    }
    let all: Vec<&Value> = components.iter().map(|one| &one["bom-ref"]).collect();
    let mut text = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"timestamp": bill.created, "tools": {"components": tools}, "component": root},
        "dependencies": [{"ref": "root", "dependsOn": all}],
        "components": components,
    });
    text["serialNumber"] = json!(format!("urn:uuid:{}", uuid(&sha256_hex(text.to_string()))));
    Ok(format!("{text:#}\n"))
}

/// Returns a UUID of version 8, whose bits are its maker's to choose (RFC 9562, 5.8), from a hash in hex.
fn uuid(hash: &str) -> String {
    let variant = "89ab".as_bytes()[usize::from(hash.as_bytes()[16]) % 4];
    format!(
        "{}-{}-8{}-{}{}-{}",
        &hash[..8],
        &hash[8..12],
        &hash[13..16],
        char::from(variant),
        &hash[17..20],
        &hash[20..32]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Document {
        let text = json!({"strapline": 1, "root": "/r", "distro": "archlinuxarm",
            "packages": [
                {"name": "gtk+", "version": "1:2.0+r1-1", "arch": "aarch64", "repo": "core", "file": "f",
                    "sha256": "AB".repeat(32), "reason": "explicit", "verified": true},
                {"name": "x", "version": "1-1", "arch": "any", "verified": false},
                {"name": "y", "version": "1-1", "arch": "any", "repo": "mine", "verified": false}],
            "config": {"strict": "/s", "loose": "/l", "cache": "/c", "architecture": ["aarch64"], "repositories": [
                {"name": "core", "publisher": "archlinuxarm", "siglevel": "Required", "servers": ["https://h"]},
                {"name": "mine", "siglevel": "Never", "servers": ["https://h"]}]},
            "tree": [
                {"path": "etc/x", "type": "file", "mode": "0644", "uid": 0, "gid": 0, "sha256": "cd".repeat(32),
                    "from": "t", "tool": "configure"},
                {"path": "etc", "type": "directory", "mode": "0755", "uid": 0, "gid": 0, "from": "t", "tool": "configure"}],
            "configured": {"os_release": {"IMAGE_ID": "own", "IMAGE_VERSION": "7"}},
            "steps": [{"tool": "org.example.x", "version": "99", "started": 1_750_000_000.0, "seconds": 0.5},
                {"tool": "mkroot", "version": "0.2.0", "started": 1_750_000_000.0, "seconds": 1.5}]});
        Document::parse(text.to_string().as_bytes(), "x").unwrap()
    }

    #[test]
    fn both_formats_say_what_the_receipt_says() {
        let one: Value = serde_json::from_str(&spdx(&document()).unwrap()).unwrap();
        assert_eq!(one["creationInfo"]["created"], "2025-06-15T15:06:41Z");
        assert_eq!(one["packages"][0]["name"], "own");
        let package = &one["packages"][1];
        assert_eq!(package["SPDXID"], "SPDXRef-Package-0-gtk-");
        assert_eq!(package["checksums"][0]["checksumValue"], "ab".repeat(32));
        let url = "pkg:alpm/archarm/gtk%2B@1:2.0%2Br1-1?arch=aarch64";
        assert_eq!(package["externalRefs"][0]["referenceLocator"], url);
        assert_eq!(one["packages"].as_array().unwrap().len(), 5);
        let other: Value = serde_json::from_str(&cyclonedx(&document()).unwrap()).unwrap();
        assert_eq!(other["components"][0]["purl"], url);
        assert_eq!(other["metadata"]["component"]["version"], "7");
        // Of no repository, and of one that no distribution publishes.
        assert_eq!((&other["components"][1]["purl"], &other["components"][2]["purl"]), (&Value::Null, &Value::Null));
        assert_eq!(other["components"][3]["name"], "/etc/x");
        assert_eq!(other["metadata"]["tools"]["components"][0]["version"], "0.2.0");
        let serial = other["serialNumber"].as_str().unwrap();
        assert!(serial.len() == 45 && serial.as_bytes()[23] == b'8', "{serial}");
    }

    #[test]
    fn the_same_receipt_gives_the_same_bytes_and_another_not() {
        let other = document().line().replace("1:2.0", "1:2.1");
        let other = Document::parse(other.as_bytes(), "x").unwrap();
        for make in [spdx, cyclonedx] {
            assert_eq!(make(&document()).unwrap(), make(&document()).unwrap());
        }
        let of = |text: String, member: &str| serde_json::from_str::<Value>(&text).unwrap()[member].clone();
        let namespace = |document| of(spdx(document).unwrap(), "documentNamespace");
        assert_ne!(namespace(&document()), namespace(&other));
        let serial = |document| of(cyclonedx(document).unwrap(), "serialNumber");
        assert_ne!(serial(&document()), serial(&other));
    }

    #[test]
    fn without_packages_or_a_time_there_is_no_bill() {
        for text in [
            r#"{"strapline":1,"steps":[{"tool":"x","started":9}]}"#,
            r#"{"strapline":1,"packages":[{"name":"a","version":"1","arch":"any","verified":true}]}"#,
        ] {
            let document = Document::parse(text.as_bytes(), "x").unwrap();
            assert_eq!(spdx(&document).unwrap_err().code, Code::BadDocument);
            assert_eq!(cyclonedx(&document).unwrap_err().code, Code::BadDocument);
        }
    }
}
