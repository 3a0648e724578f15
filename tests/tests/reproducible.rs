//! The same packages give the same archive, and the same lock the same archive and disk: made in different directories, by
//! root and by an ordinary user, at different times. Where two differ, the test names the paths and what is different.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use strapline_tests::{Lab, Mirror, Server, Who, lab, top};

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
    let ran = lab.sh(&format!("SOURCE_DATE_EPOCH={EPOCH} pack --state doc.json --quiet -o {name} {options}"));
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
        let mut member = Member { header: entry.header().as_bytes().to_vec(), records, content: Vec::new() };
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
    found.extend(other.into_keys().map(|name| format!("{name}: only in the second")));
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
    let ruled =
        ["etc/machine-id: content", "var/cache/ldconfig/aux-cache: content", "var/log/pacman.log: header, content"];
    for path in ruled {
        assert!(found.iter().any(|f| f == path), "{path} is the same: no rule is needed");
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

/// The pipe from a mirror, as `strap` and what comes behind it are said.
fn pipe(mirror: &Mirror, server: &Server, root: &str, rest: &str) -> String {
    format!(
        "export SOURCE_DATE_EPOCH={EPOCH}; mkroot {root} --arch x86_64 --distro {preset} \
         | fetch-pacman --quiet --cache-dir fetched --server {url}/archlinuxcn/x86_64 \
         | mkconf --quiet --server '{url}/$arch/$repo' --cache-dir $PWD/packages | keyring --quiet | {rest}",
        preset = mirror.preset().display(),
        url = server.url(),
    )
}

/// What is made of a lock: everything that does not ask for random numbers, as the salt of a password does.
const REST: &str = "strap --quiet --locked lock.json \
    | configure --hostname same --locale C.UTF-8 --timezone Europe/Berlin --user ann:wheel --ssh-key ann:key.pub --sudo \
        --enable ssh --fstab --resolv-conf 9.9.9.9 --first-boot-keyring \
    | keyring --strip | pack --quiet -o image.tar | mkdisk --quiet -o disk.img --cmdline console=ttyS0 | reap | unmount";

fn clock() -> PathBuf {
    top().join("tests/clock.sh")
}

/// The programs of the root have the clock of the host, too: to its pacman-key, a key of tomorrow is none.
fn with_clock(script: &str, root: &str) -> String {
    let (make, strip) = script.split_once("| keyring --strip").expect("in REST");
    let (begin, install) = make.split_once("| strap").expect("in REST");
    format!(
        "clock() {{ document=$(cat); sh {} \"$1\" {root}; printf '%s\\n' \"$document\"; }}
        {begin} | clock --into | strap{install} | clock --out-of | keyring --strip{strip}",
        clock().display()
    )
}

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHXSyBEXq2oN1VsKaQe1ZrQCk2p2Lh1kUJy1N0kEd0mN ann@home";

/// Names what is different in the file systems of two disks; the places of the bytes where all files are the same.
fn differences_of_disks(one: (&Lab, &Value), other: (&Lab, &Value)) -> Vec<String> {
    let [a, b] = [one, other].map(|(lab, document)| files_of(lab, document));
    let mut found: Vec<_> = a
        .iter()
        .filter(|(path, what)| b.get(*path) != Some(*what))
        .map(|(path, what)| format!("{path}: {what} and {:?}", b.get(path)))
        .collect();
    let only = b.keys().filter(|path| !a.contains_key(*path));
    found.extend(only.map(|path| format!("{path}: only in the second")));
    let images = [one, other].map(|(lab, _)| lab.path().join("disk.img"));
    let cmp = lab::run(Command::new("sh").args(["-c", "cmp -l \"$@\" | head -n 20", "sh"]).args(images));
    found.push(cmp.stdout);
    found
}

/// Returns what is on the partitions of a disk, by path.
fn files_of(lab: &Lab, document: &Value) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for partition in document["disks"][0]["partitions"].as_array().expect("partitions") {
        let at = partition["at"].as_str().unwrap_or("?");
        // Not every kernel has FAT.
        let put = match partition["filesystem"]["type"].as_str() {
            Some("vfat") => "mcopy -s -m -n -i disk.img@@$1 '::*' $3",
            _ => "mount -o loop,ro,offset=$1,sizelimit=$2 disk.img $3",
        };
        let script = format!(
            "mkdir -p $3; {put}; cd $3; find . -mindepth 1 -printf '%p\\t%y %m %U:%G %s %T@ %l ' \
             \\( -type f -exec sha256sum {{}} \\; -o -printf '\\n' \\)"
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", &script, "sh"]);
        command.args(["start", "size"].map(|key| partition[key].to_string()));
        command.arg(partition["name"].as_str().expect("a name"));
        let ran = lab::run(command.current_dir(lab.path()));
        assert_eq!(ran.status, 0, "{ran:?}");
        for line in ran.stdout.lines() {
            let (path, what) = line.split_once('\t').expect("a path");
            found.insert(format!("{at}: {path}"), what.to_owned());
        }
    }
    found
}

/// A root with a kernel, once made by root a hundred days from now, and once by an ordinary user today.
#[test]
fn one_lock_makes_one_archive_and_one_disk() {
    let mirror = Mirror::that_boots("x86_64");
    let server = Server::of(&mirror.www());
    let first = Lab::new(Who::User);
    let rest = "strap --quiet base archlinux-keyring linux nano sudo openssh";
    let lock = first.sh(&pipe(&mirror, &server, "first", rest)).succeeded();
    let made = [(Who::Root, "root"), (Who::User, "some/where/else")].map(|(who, root)| {
        let lab = Lab::new(who);
        fs::write(lab.path().join("lock.json"), lock.to_string()).expect("our own directory");
        fs::write(lab.path().join("key.pub"), KEY).expect("our own directory");
        let script = pipe(&mirror, &server, root, REST);
        let (script, command) = match who {
            Who::Root => (
                with_clock(&script, root),
                format!(
                    "umask 077; unshare --mount --propagation private sh {} $(date -d '100 days' +%F) sh ./script",
                    clock().display()
                ),
            ),
            _ => (script, "mkdir -p some/where; umask 002; sh ./script".to_owned()),
        };
        fs::write(lab.path().join("script"), script).expect("our own directory");
        let ran = lab.sh(&command);
        let document = ran.succeeded();
        (lab, document)
    });
    let [(root, from_root), (user, from_user)] = &made;
    let sum = |document: &Value, what: &str| document[what][0]["sha256"].clone();
    assert!(sum(from_root, "archives").is_string() && sum(from_root, "disks").is_string());
    if sum(from_root, "archives") != sum(from_user, "archives") {
        let paths = [root, user].map(|lab| lab.path().join("image.tar"));
        let found = differences(&paths[0], &paths[1]);
        panic!("the archives differ:\n{}", found.join("\n"));
    }
    if sum(from_root, "disks") != sum(from_user, "disks") {
        let found = differences_of_disks((root, from_root), (user, from_user));
        panic!("the disks differ:\n{}", found.join("\n"));
    }
    // What is compared is what is there, and the comparison sees it.
    let found = differences_of_disks((root, from_root), (user, from_user));
    assert_eq!(found, [""]);
    let files = files_of(root, from_root);
    for path in ["/boot: ./vmlinuz-linux", "/: ./usr/bin/bash", "/: ./home/ann"] {
        assert!(files.contains_key(path), "{path}");
    }
}
