//! The same packages give the same archive: made in different directories, by root and by an ordinary user, at different
//! times. Where two archives differ, the test names the members and what is different.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use strapline_tests::{Lab, Mirror, Server, Who};

/// After the packages were built, and before today.
const EPOCH: u64 = 1_750_000_000;

/// Makes a root with these packages, and packs it.
fn make(lab: &Lab, mirror: &Mirror, server: &Server, root: &str, arch: &str, packages: &str) {
    let ran = lab.sh(&format!(
        "mkroot {root} --arch {arch} --distro {preset} \
         | fetch-pacman --cache-dir fetched --server {url}/archlinuxcn/x86_64 \
         | mkconf --server '{url}/$arch/$repo' --cache-dir $PWD/packages \
         | keyring | strap {packages} | keyring --strip > doc.json; cat doc.json",
        preset = mirror.preset().display(),
        url = server.url(),
    ));
    drop(ran.succeeded());
}

/// Packs the root of `doc.json`, and returns the archive's SHA-256.
fn pack(lab: &Lab, options: &str, name: &str) -> String {
    let ran = lab.sh(&format!(
        "SOURCE_DATE_EPOCH={EPOCH} pack --state doc.json --quiet -o {name} {options}"
    ));
    let document = ran.succeeded();
    let archive = &document["archives"][0];
    assert_eq!(archive["file"], lab.path().join(name).display().to_string());
    archive["sha256"].as_str().expect("a hash").to_owned()
}

/// What a member is, but for its name.
#[derive(Debug, PartialEq, Eq)]
struct Member {
    header: Vec<u8>,
    records: Vec<(String, Vec<u8>)>,
    content: Vec<u8>,
}

fn members(path: &Path) -> BTreeMap<String, Member> {
    let mut archive = tar::Archive::new(File::open(path).expect("an archive"));
    let mut members = BTreeMap::new();
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("a member");
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let records = entry.pax_extensions().expect("records");
        let records = records.into_iter().flatten().map(|record| {
            let record = record.expect("a record");
            let key = record.key().expect("a key").to_owned();
            (key, record.value_bytes().to_vec())
        });
        let records = records.collect();
        let mut member = Member {
            header: entry.header().as_bytes().to_vec(),
            records,
            content: Vec::new(),
        };
        entry.read_to_end(&mut member.content).expect("a content");
        members.insert(name, member);
    }
    members
}

/// Names what is different in two archives.
fn differences(one: &Path, other: &Path) -> Vec<String> {
    let (one, mut other) = (members(one), members(other));
    let mut found = Vec::new();
    for (name, a) in one {
        let Some(b) = other.remove(&name) else {
            found.push(format!("{name}: only in the first"));
            continue;
        };
        let different = [
            (a.header != b.header, "header"),
            (a.records != b.records, "records"),
            (a.content != b.content, "content"),
        ];
        let what: Vec<_> = different.iter().filter(|d| d.0).map(|d| d.1).collect();
        if !what.is_empty() {
            found.push(format!("{name}: {}", what.join(", ")));
        }
    }
    found.extend(
        other
            .into_keys()
            .map(|name| format!("{name}: only in the second")),
    );
    found
}

/// Makes a root as root and one as an ordinary user, and compares.
fn compare(arch: &str, packages: &str) {
    let mirror = Mirror::of(arch);
    let server = Server::of(&mirror.www());
    let (root, user) = (Lab::new(Who::Root), Lab::new(Who::User));
    make(&root, &mirror, &server, "root", arch, packages);
    // The second is made after this, so at another second: no clock needs to be waited for.
    make(&user, &mirror, &server, "another-name", arch, packages);
    let hashes = [&root, &user].map(|lab| pack(lab, "", "image.tar"));
    if hashes[0] != hashes[1] {
        let paths = [&root, &user].map(|lab| lab.path().join("image.tar"));
        let found = differences(&paths[0], &paths[1]);
        panic!("the archives differ:\n{}", found.join("\n"));
    }
    let hashes = [&root, &user].map(|lab| pack(lab, "", "image.tar.zst"));
    assert_eq!(hashes[0], hashes[1], "the compression");
    check_that_rules_are_needed(&root, &user);
}

/// Without the rules there are differences, of which each is one that a rule is for.
fn check_that_rules_are_needed(one: &Lab, other: &Lab) {
    let paths = [one, other].map(|lab| {
        drop(pack(lab, "--include '**'", "all.tar"));
        lab.path().join("all.tar")
    });
    let found = differences(&paths[0], &paths[1]);
    let ruled = [
        "etc/machine-id: content",
        "var/cache/ldconfig/aux-cache: content",
        "var/log/pacman.log: header, content",
    ];
    for path in ruled {
        assert!(
            found.iter().any(|f| f == path),
            "{path} is the same: no rule is needed"
        );
    }
    let (mended, other): (Vec<_>, Vec<_>) = found
        .iter()
        .filter(|f| !ruled.contains(&f.as_str()))
        .partition(|f| f.starts_with("var/lib/pacman/local/") && f.ends_with("/desc: content"));
    assert!(mended.len() > 100, "{mended:?}");
    assert_eq!(other, Vec::<&String>::new());
}

#[test]
fn root_and_an_ordinary_user_make_the_same_archive() {
    compare("x86_64", "base archlinux-keyring nano sudo openssh");
}
