//! Interrupted, the same pipe goes on with what is there: after a network that went away, after a disk that was full, and
//! without any network where all is there already. What SIGKILL leaves is killed.rs's.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use strapline_tests::{Answer, Lab, Mirror, Request, Server, Who, pacmans};

/// The pipe up to a keyring, into `root`.
fn begin(mirror: &Mirror, url: &str, root: &str, packages: &str, pacman: &Path) -> String {
    format!(
        "mkroot {root} --arch x86_64 --distro {} | fetch-pacman --use {} \
         | mkconf --server '{url}/$arch/$repo' --cache-dir $PWD/{packages} | keyring",
        mirror.preset().display(),
        pacman.display()
    )
}

/// The archive of a package in the mirror, its name and its length.
fn archive(mirror: &Mirror, repo: &str, name: &str) -> (String, u64) {
    let directory = mirror.www().join("x86_64").join(repo);
    let files = fs::read_dir(&directory).expect("a repository").flatten();
    let is = |file: &str| {
        let rest = file.strip_prefix(name).and_then(|r| r.strip_prefix('-'));
        rest.is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit())) && !file.ends_with(".sig")
    };
    let mut names = files.map(|e| e.file_name().to_string_lossy().into_owned());
    let file = names.find(|f| is(f)).expect(name);
    let length = fs::metadata(directory.join(&file)).expect("it is there").len();
    (file, length)
}

/// Returns the names in a directory that end so.
fn ending(directory: &Path, end: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory").flatten();
    let mut names: Vec<_> =
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).filter(|n| n.ends_with(end)).collect();
    names.sort();
    names
}

#[test]
fn a_network_that_went_away_in_the_middle_of_a_package() {
    for pacman in pacmans() {
        network_gone(&pacman);
    }
}

fn network_gone(pacman: &Path) {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let (file, length) = archive(&mirror, "core", "glibc");
    let down = Arc::new(AtomicBool::new(true));
    let (is_down, wanted) = (Arc::clone(&down), file.clone());
    let server = Server::lying(&mirror.www(), move |request: &Request| {
        if is_down.load(Ordering::SeqCst) && request.path.ends_with(&wanted) {
            return match request.from {
                None | Some(0) => Answer::Truncate(length / 2),
                Some(_) => Answer::Truncate(0),
            };
        }
        Answer::Serve
    });
    let pipe =
        format!("{} | strap bash coreutils | reap | unmount", begin(&mirror, server.url(), "root", "packages", pacman));
    let ran = lab.sh(&pipe);
    ran.failed(75, &format!("strap: running pacman to download: exit status 1: failed retrieving file '{file}'"));
    assert_eq!(ran.document()["error"]["code"], "network");
    let local = lab.path().join("root/var/lib/pacman/local");
    assert!(ending(&local, "-1").is_empty(), "something was installed");
    assert!(!lab.path().join("root/var/lib/pacman/db.lck").exists());
    let part = lab.path().join("packages").join(format!("{file}.part"));
    assert_eq!(fs::metadata(&part).map(|m| m.len()).ok(), Some(length / 2));
    down.store(false, Ordering::SeqCst);
    let before = server.requests().len();
    drop(lab.sh(&pipe).succeeded());
    let requests = server.requests();
    let again = requests[before..].iter().find(|r| r.path.ends_with(&file));
    assert_eq!(again.and_then(|r| r.from), Some(length / 2), "it goes on there");
    assert_eq!(ending(&lab.path().join("packages"), ".part"), [""; 0]);
}

#[test]
fn a_part_of_something_else_is_never_taken_for_the_whole() {
    for pacman in pacmans() {
        parts(&pacman);
    }
}

fn parts(pacman: &Path) {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let server = Server::of(&mirror.www());
    let (file, length) = archive(&mirror, "core", "bash");
    let packages = lab.path().join("packages");
    fs::create_dir(&packages).expect("our own directory");
    for size in [length / 2, length, length + 10] {
        let size = usize::try_from(size).expect("a small package");
        fs::write(packages.join(format!("{file}.part")), vec![7; size]).expect("our own directory");
        let pipe = format!(
            "{} | strap bash | reap | unmount",
            begin(&mirror, server.url(), &format!("root{size}"), "packages", pacman)
        );
        // It is found out at once, or by its signature, and then it is gone.
        let ran = lab.sh(&pipe);
        if ran.status != 0 {
            ran.failed(69, "strap: checking 'bash'");
            drop(lab.sh(&pipe).succeeded());
        }
        let whole = fs::read(packages.join(&file)).expect("it is in the cache");
        let true_one = mirror.www().join("x86_64/core").join(&file);
        assert!(whole == fs::read(true_one).expect("a package"), "{size}");
        assert_eq!(ending(&packages, ".part"), [""; 0]);
        for name in [file.clone(), format!("{file}.sig")] {
            fs::remove_file(packages.join(name)).expect("our own file");
        }
    }
}

#[test]
fn a_full_disk_that_is_freed() {
    for pacman in pacmans() {
        disk_full(&pacman);
    }
}

fn disk_full(pacman: &Path) {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let server = Server::of(&mirror.www());
    // Of packages in the cache, then of the root, each a file system of its own that is gone with the script.
    let script = format!(
        "set -u\nmkdir packages disk\nmount -t tmpfs -o size=2m,mode=755 tmpfs packages\nmount -t tmpfs -o size=24m,mode=755 tmpfs disk\n\
         {} > keyring.json || exit 1\n\
         strap --state keyring.json bash coreutils > cache.json; echo $? > cache.status\n\
         mount -o remount,size=100m packages\n\
         strap --state keyring.json bash coreutils > root.json; echo $? > root.status\n\
         ls disk/root/var/lib/pacman > left\n\
         mount -o remount,size=200m disk\n\
         strap --state keyring.json bash coreutils > done.json || exit 1\n\
         enter --state done.json bash -c 'exit 0' || exit 1\n\
         verify --state done.json > verified.json || exit 1\n\
         ls packages > names\ncat verified.json\n",
        begin(&mirror, server.url(), "disk/root", "packages", pacman)
    );
    fs::write(lab.path().join("script"), script).expect("our own directory");
    let ran = lab.sh("unshare --mount sh ./script");
    drop(ran.succeeded());
    let read = |name: &str| fs::read_to_string(lab.path().join(name)).expect(name);
    assert_eq!((read("cache.status").trim(), read("root.status").trim()), ("69", "69"), "{}", ran.stderr);
    for name in ["cache.json", "root.json"] {
        let document: serde_json::Value = serde_json::from_str(&read(name)).expect("a document");
        let hint = document["error"]["hint"].as_str().unwrap_or_default();
        assert!(hint.contains("free some space and run"), "{name}: {}", document["error"]);
    }
    assert!(!read("names").contains(".part"));
}

#[test]
fn a_warm_cache_is_enough_without_any_server() {
    for who in [Who::Root, Who::User] {
        let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(who));
        let server = Server::of(&mirror.www());
        let pipe = |root: &str, url: &str, offline: &str| {
            format!(
                "mkroot {root} --arch x86_64 --distro {} \
                 | fetch-pacman --cache-dir fetched --server {url}/archlinuxcn/x86_64 {offline} \
                 | mkconf --server '{url}/$arch/$repo' --cache-dir $PWD/packages | keyring {offline} \
                 | strap {offline} base archlinux-keyring | strap {offline} nano | verify {offline} | reap | unmount",
                mirror.preset().display()
            )
        };
        drop(lab.sh(&pipe("first", server.url(), "")).succeeded());
        let asked = server.requests().len();
        // Nobody listens on port 1.
        let nowhere = "http://127.0.0.1:1";
        let ran = lab.sh(&pipe("second", nowhere, "--offline"));
        let packages = ran.succeeded()["packages"].as_array().map(Vec::len);
        assert!(packages > Some(100), "{packages:?}");
        let (file, _) = archive(&mirror, "core", "glibc");
        fs::remove_file(lab.path().join("packages").join(&file)).expect("it is there");
        let ran = lab.sh(&pipe("third", nowhere, "--offline"));
        ran.failed(69, &format!("strap: looking for '{file}' in "));
        assert_eq!(ran.document()["error"]["code"], "not-found");
        fs::remove_file(lab.path().join("packages/databases/extra.db")).expect("it is there");
        let ran = lab.sh(&pipe("fourth", nowhere, "--offline"));
        ran.failed(69, "keyring: looking for the database '");
        assert_eq!(server.requests().len(), asked, "a server was asked");
    }
}
