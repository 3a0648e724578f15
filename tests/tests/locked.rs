//! `strap --locked`: what one root has, another gets, from a mirror or a cache; and nothing, where that is not to be had.

use serde_json::Value;
use std::fs;
use std::path::Path;
use strapline_tests::{Lab, Mirror, Ran, Server, Who};

/// The pipe up to where packages are installed.
fn begin(root: &str, cache: &str, (mirror, url): (&Mirror, &str)) -> String {
    format!(
        "mkroot {root} --arch x86_64 --distro {preset} \
         | fetch-pacman --quiet --use $(command -v pacman) \
         | mkconf --quiet --server '{url}/$arch/$repo' --cache-dir $PWD/{cache} | keyring --quiet",
        preset = mirror.preset().display(),
    )
}

/// Makes a root, and runs `strap` with these options.
fn strap(lab: &Lab, root: &str, cache: &str, from: (&Mirror, &str), options: &str) -> Ran {
    lab.sh(&format!("{} | strap --quiet {options}", begin(root, cache, from)))
}

/// What a lock is about, of each package.
fn packages(document: &Value) -> Vec<Value> {
    let packages = document["packages"].as_array().expect("packages");
    let keys = ["name", "version", "arch", "repo", "file", "sha256", "pgpsig", "reason", "verified"];
    let of = |p: &Value| keys.map(|key| p[key].clone()).to_vec().into();
    packages.iter().map(of).collect()
}

/// A root that is finished, and its document in `receipt.json`.
fn original(lab: &Lab, mirror: &Mirror) -> Value {
    let server = Server::of(&mirror.www());
    let ran = strap(lab, "original", "cache", (mirror, server.url()), "bash nano");
    let receipt = ran.succeeded();
    fs::write(lab.path().join("receipt.json"), receipt.to_string()).expect("our own directory");
    receipt
}

fn is_empty(lab: &Lab, root: &str) -> bool {
    let local = lab.path().join(root).join("var/lib/pacman/local");
    let mut records = fs::read_dir(local).into_iter().flatten().flatten();
    // pacman writes ALPM_DB_VERSION first of all.
    !records.any(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
}

#[test]
fn a_second_root_is_the_same() {
    for who in [Who::Root, Who::User] {
        let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(who));
        let receipt = original(&lab, &mirror);
        let explicit: Vec<&Value> = receipt["packages"]
            .as_array()
            .expect("packages")
            .iter()
            .filter(|p| p["reason"] == "explicit")
            .map(|p| &p["name"])
            .collect();
        assert_eq!(explicit, ["bash", "nano"]);
        let server = Server::of(&mirror.www());
        let url = server.url();
        let from = (&mirror, url);
        let ran = strap(&lab, "second", "cache2", from, "--locked receipt.json");
        assert_eq!(packages(&ran.succeeded()), packages(&receipt));
        let installed = |root: &str| -> Vec<String> {
            let list = lab.sh(&format!("pacman -Qi --dbpath {root}/var/lib/pacman"));
            let keep = |l: &&str| !l.starts_with("Install Date");
            list.stdout.lines().filter(keep).map(str::to_owned).collect()
        };
        assert_eq!(installed("second"), installed("original"));
        // Nothing is left of what pacman worked by, and a second run has nothing to do.
        let left = lab.sh("find cache cache2 -name 'locked-*' -o -name 'download-*'").stdout;
        assert_eq!(left, "");
        let again = strap(&lab, "second", "cache2", from, "--locked receipt.json");
        assert_eq!(packages(&again.succeeded()), packages(&receipt));
        // With a cache that has it all, nobody is asked.
        let begun = begin("third", "cache", from);
        let ran = lab.sh(&format!("{begun} > begun.json; cat begun.json"));
        drop(ran.succeeded());
        drop(server);
        // The option says so of itself, and names what the cache lacks or has another of, and leaves that.
        let file = |name: &str| {
            let packages = receipt["packages"].as_array().expect("packages");
            let package = packages.iter().find(|p| p["name"] == name).expect(name);
            lab.path().join("cache").join(package["file"].as_str().expect("a file"))
        };
        let nano = fs::read(file("nano")).expect("it is in the cache");
        let bash = fs::read(file("bash")).expect("it is in the cache");
        let offline = || lab.sh("strap --quiet --state begun.json --offline --locked receipt.json");
        fs::remove_file(file("nano")).expect("our own file");
        offline().failed(69, "installing what is locked: not available: 'nano' ");
        fs::write(file("nano"), &nano).expect("our own directory");
        fs::write(file("bash"), &nano).expect("our own file");
        offline().failed(69, "installing what is locked: the cache has another archive of 'bash' ");
        assert!(fs::read(file("bash")).expect("it was left") == nano);
        assert!(is_empty(&lab, "third"));
        fs::write(file("bash"), &bash).expect("our own file");
        assert_eq!(packages(&offline().succeeded()), packages(&receipt));
        // And without it.
        let ran = lab.sh("strap --quiet --state begun.json --locked receipt.json");
        assert_eq!(packages(&ran.succeeded()), packages(&receipt));
    }
}

#[test]
fn what_is_not_to_be_had_or_differs_is_named() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let receipt = original(&lab, &mirror);
    let version = |name: &str| -> String {
        let packages = receipt["packages"].as_array().expect("packages");
        let package = packages.iter().find(|p| p["name"] == name).expect(name);
        package["version"].as_str().expect("a version").to_owned()
    };
    // A mirror that has gone on: one archive is gone.
    let gone = mirror.tampered(&lab.path().join("gone"), "nano-removed");
    let server = Server::of(&gone.www());
    let ran = strap(&lab, "gone-root", "gone-cache", (&mirror, server.url()), "--locked receipt.json");
    ran.failed(69, &format!("installing what is locked: not available: 'nano' {}", version("nano")));
    assert_eq!(ran.document()["error"]["code"], "not-found");
    assert!(is_empty(&lab, "gone-root"));
    // One that has another archive by that name, validly signed: built again, with something in it.
    let other = mirror.tampered(&lab.path().join("other"), "nano-rebuilt");
    let server = Server::of(&other.www());
    let ran = strap(&lab, "other-root", "other-cache", (&mirror, server.url()), "--locked receipt.json");
    ran.failed(69, &format!("installing what is locked: the mirror has another archive of 'nano' {}", version("nano")));
    assert_eq!(ran.document()["error"]["code"], "not-verified");
    assert!(is_empty(&lab, "other-root"));
    // Which installs without a lock, and with the cache that has the locked one installs that.
    let ran = strap(&lab, "plain-root", "plain-cache", (&mirror, server.url()), "nano");
    drop(ran.succeeded());
    assert!(lab.path().join("plain-root/usr/share/nano/TAMPERED").exists());
    let ran = strap(&lab, "other-root", "cache", (&mirror, server.url()), "--locked receipt.json");
    assert_eq!(packages(&ran.succeeded()), packages(&receipt));
    assert!(!lab.path().join("other-root/usr/share/nano/TAMPERED").exists());
    // A root that has something else.
    let ran = strap(&lab, "plain-root", "cache", (&mirror, server.url()), "sed");
    drop(ran.succeeded());
    let ran = strap(&lab, "plain-root", "cache", (&mirror, server.url()), "--locked receipt.json");
    ran.failed(69, "installing what is locked: the root has something else: ");
    assert!(ran.stderr.contains("'sed'"), "{}", ran.stderr);
}

#[test]
fn a_lock_that_is_none_is_refused() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let server = Server::of(&mirror.www());
    let url = server.url();
    for (text, line) in [
        ("{}", "reading the document on 'lock.json'"),
        (r#"{"strapline":1,"arch":"aarch64","packages":[]}"#, "it is for aarch64, and the root is for x86_64"),
        (r#"{"strapline":1,"arch":"x86_64"}"#, "it has no packages"),
    ] {
        fs::write(lab.path().join("lock.json"), text).expect("our own directory");
        let ran = strap(&lab, "root", "cache", (&mirror, url), "--locked lock.json");
        assert!([64, 65].contains(&ran.status), "{}", ran.stderr);
        assert!(ran.stderr.contains(line), "{}", ran.stderr);
    }
    let ran = strap(&lab, "root", "cache", (&mirror, url), "--locked none.json");
    ran.failed(64, "reading the lock 'none.json': No such file or directory");
    let ran = strap(&lab, "root", "cache", (&mirror, url), "--locked lock.json nano");
    ran.failed(64, "cannot be used with");
    assert!(Path::new(&lab.path().join("root")).exists() && is_empty(&lab, "root"));
}

/// mkroot over a root that is there, and then strap: of what was there before nobody knows the archives.
#[test]
fn a_new_document_over_an_old_root_is_no_lock() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    drop(original(&lab, &mirror));
    let server = Server::of(&mirror.www());
    let from = (&mirror, server.url());
    // From an empty cache, as what is there is not fetched again.
    let ran = strap(&lab, "original", "other-cache", from, "sed");
    let anew = ran.succeeded();
    let of = |name: &str| {
        let packages = anew["packages"].as_array().expect("packages");
        packages.iter().find(|p| p["name"] == name).expect(name)
    };
    assert_eq!(of("bash").get("sha256"), None);
    assert!(of("sed")["sha256"].is_string());
    fs::write(lab.path().join("anew.json"), anew.to_string()).expect("our own directory");
    let ran = strap(&lab, "second", "cache", from, "--locked anew.json");
    let unknown = anew["packages"].as_array().expect("packages").iter();
    let first = unknown.filter_map(|p| p["sha256"].is_null().then_some(&p["name"])).next();
    let first = first.and_then(Value::as_str).expect("one");
    ran.failed(64, &format!("reading the lock 'anew.json': '{first}': it does not say its repository"));
    let hint = ran.document()["error"]["hint"].clone();
    let hint = hint.as_str().expect("a hint");
    assert!(hint.contains("begun again over an old root is not a lock"), "{hint}");
    assert!(is_empty(&lab, "second"));
    // The first one still is one.
    let ran = strap(&lab, "third", "cache", from, "--locked receipt.json");
    drop(ran.succeeded());
}
