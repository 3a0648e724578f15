//! strap beside Debian's pacstrap: the same packages from the same mirror, with the same pacman, by a pacman.conf as a distribution
//! ships it; first base, then a list into the root that is there. The two roots are compared file by file.

use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use strapline_tests::{Lab, Mirror, PACMAN, Server, Who};

/// What a file is: type and mode, owners, and what it holds.
type Node = (u32, u32, u32, Vec<u8>);

/// Reads all that is below `dir`. The time in a package's record is left out.
fn read(root: &Path, dir: &Path, nodes: &mut BTreeMap<String, Node>) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.strip_prefix(root).expect("it is below").to_string_lossy().into_owned();
        let meta = fs::symlink_metadata(&path).expect("it is there");
        let mut bytes = Vec::new();
        if meta.is_symlink() {
            bytes = fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes();
        } else if meta.is_file() {
            bytes = fs::read(&path).expect("a file");
        }
        if name.starts_with("var/lib/pacman/local/") && name.ends_with("/desc") {
            let text = String::from_utf8(bytes).expect("text");
            let (before, rest) = text.split_once("%INSTALLDATE%\n").expect("a date");
            bytes = format!("{before}{}", rest.split_once('\n').expect("a line").1).into_bytes();
        }
        nodes.insert(name, (meta.mode(), meta.uid(), meta.gid(), bytes));
        if meta.is_dir() {
            read(root, &path, nodes);
        }
    }
}

/// Returns what is below a root.
fn nodes(root: &Path) -> BTreeMap<String, Node> {
    let mut nodes = BTreeMap::new();
    read(root, root, &mut nodes);
    nodes
}

/// What differs, and is meant to. What is below a directory that only one of them has is not here.
const DIFFERENCES: [&str; 6] = [
    // For any machine, and not for this one.
    "boot/initramfs-linux.img: content",
    // Chance.
    "etc/machine-id: content",
    // The keyring, which -G of pacstrap leaves out, and a directory that pacman.conf names.
    "etc/pacman.d/gnupg: ours",
    "etc/pacman.d/hooks: ours",
    // Inode numbers.
    "var/cache/ldconfig/aux-cache: content",
    // Times, and command lines.
    "var/log/pacman.log: content",
];

#[test]
fn strap_and_pacstrap_make_the_same_root() {
    let lab = Lab::new(Who::Root);
    let more =
        json!({"name": "more", "version": "1", "files": {"usr/share/more/kept": "1", "usr/share/more/left": "2"}});
    let mirror = Mirror::of("x86_64").extended(&lab.path().join("m"), &json!({"repos": {"own": {"packages": [more]}}}));
    let server = Server::of(&mirror.www());
    let url = server.url();
    fs::write(lab.path().join("list"), "# what the machine is for\nlinux sudo\n\nopenssh   # and its keys\nmore\n")
        .expect("ours");
    // As a distribution ships it, for the root that it names with -r.
    let conf = format!(
        "[options]\nHoldPkg = pacman glibc\nArchitecture = x86_64\nNoExtract = usr/share/more/left\n\
         SigLevel = Required DatabaseOptional\nLocalFileSigLevel = Optional\nGPGDir = {lab}/gnupg/\nCacheDir = {lab}/packages/\n\
         [own]\nServer = {url}/$arch/$repo\n[core]\nInclude = {lab}/mirrorlist\n[extra]\nInclude = {lab}/mirrorlist\n",
        lab = lab.path().display()
    );
    fs::write(lab.path().join("pacman.conf"), conf).expect("our own directory");
    fs::write(lab.path().join("mirrorlist"), format!("Server = {url}/$arch/$repo\n")).expect("our own directory");
    // The day that shadow(5) gets.
    let epoch = "export SOURCE_DATE_EPOCH=1700000000;";
    let ran = lab.sh(&format!(
        "{epoch} mkroot ours --arch x86_64 --distro {} | fetch-pacman --use {PACMAN} \
         | mkconf --conf pacman.conf --cache-dir $PWD/packages \
         | keyring | strap base | strap --packages-from list",
        mirror.preset().display()
    ));
    let document = ran.succeeded();
    assert!(ran.stderr.contains("pacman.conf': CacheDir, GPGDir\n"), "{}", ran.stderr);
    let theirs = "cp -a ours.strapline/gnupg gnupg && mkdir theirs && umask 022 \
                  && pacstrap -c -G -M -C pacman.conf theirs base \
                  && pacstrap -c -G -M -C pacman.conf theirs $(sed 's/#.*//' list)";
    let ran = lab.sh(&format!(
        "{epoch} exec unshare --mount --propagation private --pid --fork --kill-child sh -c '{}'",
        theirs.replace('\'', "'\\''")
    ));
    assert_eq!(ran.status, 0, "{}\n{}", ran.stdout, ran.stderr);
    let (ours, theirs) = (nodes(&lab.path().join("ours")), nodes(&lab.path().join("theirs")));
    assert!(ours.len() > 4000, "{} files", ours.len());
    assert_eq!(
        document["packages"].as_array().map(Vec::len),
        Some(fs::read_dir(lab.path().join("theirs/var/lib/pacman/local")).expect("packages").count() - 1)
    );
    let all: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let mut found = Vec::new();
    for name in all {
        let parent = Path::new(name).parent().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
        match (ours.get(name), theirs.get(name)) {
            (Some(a), Some(b)) if a == b => {}
            (Some(a), Some(b)) if a.3 == b.3 => {
                found.push(format!("{name}: {:o} {}:{} is {:o} {}:{}", a.0, a.1, a.2, b.0, b.1, b.2))
            }
            (Some(_), Some(_)) => found.push(format!("{name}: content")),
            (Some(_), None) if theirs.contains_key(&parent) || parent.is_empty() => found.push(format!("{name}: ours")),
            (None, Some(_)) if ours.contains_key(&parent) || parent.is_empty() => found.push(format!("{name}: theirs")),
            _ => {}
        }
    }
    assert_eq!(found, DIFFERENCES);
}
