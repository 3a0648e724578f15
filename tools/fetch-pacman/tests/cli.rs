//! The program as it is used: what it says, what it writes down, what it leaves behind.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; clippy.toml excuses only the functions that are tests themselves"
)]

mod helpers;

use helpers::fixture::{FORMATS, Format, MEMBER, Package, compress, database, program, ring, script, sha256};
use helpers::keys::{forged, keys, mute};
use helpers::server::{Answer, Nobody, Server};
use helpers::{Lab, Run, bare, names, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const DB: &str = "/archlinuxcn.db";

/// Asserts that the document has a program that runs, and returns its version.
#[track_caller]
fn version(run: &Run) -> String {
    let document = run.good();
    let pacman = &document["pacman"];
    let path = Path::new(pacman["path"].as_str().unwrap());
    assert!(path.is_absolute());
    let bytes = fs::read(path).unwrap();
    assert_eq!(pacman["sha256"], sha256(&bytes));
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, 0o755);
    let said = Command::new(path).arg("--version").output().unwrap();
    let version = pacman["version"].as_str().unwrap();
    let banner = format!("Pacman v{version} - libalpm");
    assert!(String::from_utf8(said.stdout).unwrap().contains(&banner));
    version.to_owned()
}

/// Waits until something is so.
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !so() {
        assert!(begin.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        std::thread::yield_now();
    }
}

#[test]
fn every_format_of_database_and_package_whatever_its_name() {
    for db in FORMATS {
        for format in FORMATS {
            let lab = Lab::new();
            let mut package = Package::new("7.1.0-1", format);
            package.file = "pacman-static-7.1.0-1-x86_64.pkg.tar.bz2".into();
            let server = Server::with(&[&package]);
            server.say(DB, Answer::File(database(&[&package, ring()], db)));
            let run = run(&mut lab.ask(&[&server.url]));
            assert_eq!(version(&run), "7.1.0");
            assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
        }
    }
}

#[test]
fn the_document_says_what_it_is_and_where_it_came_from() {
    let lab = Lab::new();
    let package = Package::new("7.1.0.r9.g54d9411-41", Format::Xz);
    let server = Server::with(&[&package]);
    let url = server.url.replace("http://", "http://me:word@");
    let run = run(lab.ask(&[&url]).arg("-q"));
    assert_eq!(version(&run), "7.1.0.r9.g54d9411");
    assert_eq!(run.stderr, "");
    let document = run.good();
    let path = lab.path("cache/pacman").join(package.hash()).join("pacman-static");
    assert_eq!(
        document["pacman"],
        json!({
            "path": path,
            "version": "7.1.0.r9.g54d9411",
            "sha256": sha256(&program("7.1.0.r9.g54d9411")),
            "trust": "signature",
            "package": {
                "name": "pacman-static",
                "version": "7.1.0.r9.g54d9411-41",
                "repo": "archlinuxcn",
                "file": package.file,
                "sha256": package.hash(),
                "server": server.url,
                "signed_by": keys().lilac.fingerprint,
            },
        })
    );
    assert!(!run.stdout.contains("word"));
    assert_eq!(document["steps"][0]["tool"], "fetch-pacman");
    assert_eq!(names(path.parent().unwrap()), ["pacman-static"]);
}

#[test]
fn the_real_pacman_of_this_host_goes_the_same_way() {
    let real = fs::read("/usr/bin/pacman").expect("this test needs pacman: apt install pacman-package-manager");
    let lab = Lab::new();
    let package = Package::of("pacman-static", "1-1", Format::Zst, &real);
    let server = Server::with(&[&package]);
    let fetched = run(&mut lab.ask(&[&server.url])).good();
    let used = run(bare().args(["--use", "/usr/bin/pacman"])).good();
    for key in ["version", "sha256"] {
        assert_eq!(fetched["pacman"][key], used["pacman"][key]);
    }
    assert_eq!(used["pacman"]["path"], "/usr/bin/pacman");
    assert_eq!(used["pacman"]["trust"], "host");
    assert_eq!(used["pacman"].get("package"), None);
}

#[test]
fn the_newest_is_found_by_pacmans_order() {
    for (older, newer) in [
        ("2.0-1", "1:1.0-1"),
        ("7.1.0-3", "7.1.0.r9.g54d9411-1"),
        ("7.9.0-1", "7.10.0-1"),
        ("7.1.0rc1-1", "7.1.0-1"),
        ("7.1.0-9", "7.1.0-10"),
    ] {
        for turned in [false, true] {
            let (a, b) = (Package::new(older, Format::Zst), Package::new(newer, Format::Zst));
            let order = if turned { [&b, &a] } else { [&a, &b] };
            let server = Server::with(&order);
            let run = run(&mut Lab::new().ask(&[&server.url]));
            assert_eq!(run.good()["pacman"]["package"]["version"], newer);
        }
    }
}

#[test]
fn only_the_exact_name_counts() {
    let decoys = ["pacman", "pacman-static-git", "Pacman-static", "lib32-pacman-static"]
        .map(|name| Package::of(name, "9:9-9", Format::Gz, b"#!/bin/false\n"));
    let right = Package::new("6.0.2-1", Format::Zst);
    let mut all: Vec<_> = decoys.iter().collect();
    all.push(&right);
    let server = Server::with(&all);
    let lab = Lab::new();
    assert_eq!(version(&run(&mut lab.ask(&[&server.url]))), "6.0.2");

    let server = Server::with(&all[..4]);
    let run = run(&mut lab.ask(&[&server.url]));
    run.bad(69, "not-found", &["it has no package 'pacman-static'"]);
    assert_eq!(server.paths(), [DB]);
}

#[test]
fn another_repository_package_and_member() {
    let lab = Lab::new();
    let package = Package::of("pacman-own", "1-1", Format::Zst, &program("6.1.0"));
    let keyring = Package::keyring("mine", &keys().lilac.public);
    let server = Server::new();
    let base = format!("/mine/os/{}", std::env::consts::ARCH);
    server.say(&format!("{base}/mine.db"), Answer::File(database(&[&package, &keyring], Format::Zst)));
    server.say(&format!("{base}/{}", keyring.file), Answer::File(keyring.bytes.clone()));
    server.say(&format!("{base}/{}", package.file), Answer::File(package.bytes.clone()));
    let url = format!("{}/$repo/os/$arch/", server.url);
    let mut tool = lab.ask(&[&url]);
    tool.args(["--repo", "mine", "--package", "pacman-own", "--member", MEMBER]);
    assert_eq!(version(&run(&mut tool)), "6.1.0");

    let run = run(tool.args(["-o"]).arg(lab.path("x")).arg("--member=usr/bin/pacman").arg("--new"));
    assert_eq!(run.status, Some(64), "{run:?}");
}

#[test]
fn output_goes_where_it_is_told_and_replaces_what_is_there() {
    let lab = Lab::new();
    let package = Package::new("6.0.2-1", Format::Zst);
    let server = Server::with(&[&package]);
    fs::create_dir(lab.path("bin")).unwrap();
    let out = lab.path("bin/pacman");
    for _ in 0..2 {
        let run = run(lab.ask(&[&server.url]).current_dir(lab.path("bin")).args(["-o", "../bin/pacman"]));
        assert_eq!(version(&run), "6.0.2");
        assert_eq!(run.good()["pacman"]["path"], out.to_str().unwrap());
        assert_eq!(names(&lab.path("bin")), ["pacman"]);
    }
    // A link is replaced, not followed.
    fs::remove_file(&out).unwrap();
    fs::write(lab.path("victim"), "v").unwrap();
    symlink(lab.path("victim"), &out).unwrap();
    assert_eq!(version(&run(lab.ask(&[&server.url]).arg("-o").arg(&out))), "6.0.2");
    assert_eq!(fs::read(lab.path("victim")).unwrap(), b"v");

    let run1 = run(lab.ask(&[&server.url]).arg("-o").arg(lab.path("bin")));
    run1.bad(64, "usage", &["it exists and is not a regular file"]);
    let run2 = run(lab.ask(&[&server.url]).arg("-o").arg(lab.path("no/pacman")));
    run2.bad(69, "not-found", &["looking for the directory of", "No such file"]);
}

#[test]
fn what_is_in_the_cache_is_not_fetched_again() {
    let lab = Lab::new();
    let package = Package::new("6.0.2-1", Format::Xz);
    let server = Server::with(&[&package]);
    let file = format!("/{}", package.file);
    let first = run(&mut lab.ask(&[&server.url])).good();
    let keyring = format!("/{}", ring().file);
    assert_eq!(server.paths(), [DB, &keyring, &file]);
    let second = run(&mut lab.ask(&[&server.url]));
    assert_eq!(version(&second), "6.0.2");
    assert_eq!(second.good()["pacman"], first["pacman"]);
    assert_eq!(server.paths(), [DB, &keyring, &file, DB]);

    // What is in the cache is believed only for its hash.
    let kept = lab.path("cache/packages-by-hash").join(format!("{}.pkg", package.hash()));
    let mut bytes = fs::read(&kept).unwrap();
    bytes[100] ^= 1;
    fs::write(&kept, bytes).unwrap();
    let third = run(&mut lab.ask(&[&server.url]));
    assert_eq!(version(&third), "6.0.2");
    assert!(third.stderr.contains("warning: reading") || third.stderr.contains("was damaged"), "{third:?}");
    assert_eq!(server.paths(), [DB, &keyring, &file, DB, DB, &file]);
}

#[test]
fn an_unchanged_program_is_not_unpacked_again() {
    let lab = Lab::new();
    let package = Package::new("6.0.2-1", Format::Xz);
    let server = Server::with(&[&package]);
    for out in [None, Some(lab.path("pacman"))] {
        let mut tool = lab.ask(&[&server.url]);
        if let Some(out) = &out {
            tool.arg("-o").arg(out);
        }
        let path = run(&mut tool).good()["pacman"]["path"].as_str().unwrap().to_owned();
        let inode = || fs::metadata(&path).unwrap().ino();
        let first = inode();
        assert_eq!(version(&run(&mut tool)), "6.0.2");
        assert_eq!(inode(), first);
        // One that was changed is not run, and replaced.
        fs::write(&path, "#!/bin/sh\ntouch \"$0.ran\"\n").unwrap();
        assert_eq!(version(&run(&mut tool)), "6.0.2");
        assert!(!Path::new(&format!("{path}.ran")).exists());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o775)).unwrap();
        assert_eq!(version(&run(&mut tool)), "6.0.2");
    }
}

/// What was tried when it was extracted is not tried again; its version, which the document needs, is asked for.
#[test]
fn a_program_that_is_in_place_is_started_once() {
    let lab = Lab::new();
    let log = lab.path("log");
    let body = format!("echo \"$1\" >> {}; exec /usr/bin/pacman \"$@\"", log.display());
    let package = Package::of("pacman-static", "1-1", Format::Zst, &script(&body));
    let server = Server::with(&[&package]);
    let mut tool = lab.ask(&[&server.url]);
    version(&run(&mut tool));
    assert!(fs::read_to_string(&log).unwrap().lines().count() > 1);
    fs::remove_file(&log).unwrap();
    run(&mut tool).good();
    assert_eq!(fs::read_to_string(&log).unwrap(), "--version\n");
}

#[test]
fn offline_takes_the_newest_of_the_cache() {
    let lab = Lab::new();
    let none = run(lab.tool().arg("--offline"));
    none.bad(69, "not-found", &["'pacman-static' of 'archlinuxcn'", "it is not there"]);
    assert!(none.stderr.contains("hint: run it once without --offline"));

    let packages = ["6.0.2-1", "1:5.0-1", "7.0.0-1"].map(|v| Package::new(v, Format::Zst));
    for package in &packages {
        let server = Server::with(&[package]);
        version(&run(&mut lab.ask(&[&server.url])));
    }
    assert_eq!(version(&run(lab.tool().arg("--offline"))), "5.0");
    let pinned = run(lab.tool().args(["--offline", "--sha256", &packages[0].hash()]));
    assert_eq!(version(&pinned), "6.0.2");
    // The newest is damaged: the next newest is taken.
    let newest = format!("{}.pkg", packages[1].hash());
    fs::write(lab.path("cache/packages-by-hash").join(newest), "no").unwrap();
    let other = run(lab.tool().arg("--offline"));
    assert_eq!(version(&other), "7.0.0");
    assert!(other.stderr.contains("warning: "), "{other:?}");
    let gone = run(lab.tool().args(["--offline", "--sha256", &packages[1].hash()]));
    gone.bad(69, "not-found", &["it is not there"]);
}

#[test]
fn a_missing_file_is_asked_of_the_next_server() {
    let lab = Lab::new();
    let package = Package::new("6.0.2-1", Format::Zst);
    let (empty, half, good) = (Server::new(), Server::with(&[&package]), Server::with(&[&package]));
    half.say(&format!("/{}", package.file), Answer::Status("410 Gone"));
    let run1 = run(&mut lab.ask(&[&empty.url, &half.url, &good.url]));
    assert_eq!(version(&run1), "6.0.2");
    let warnings: Vec<_> = run1.stderr.lines().filter(|l| l.contains("warning: ")).collect();
    assert_eq!(
        warnings,
        [
            format!("fetch-pacman: warning: fetching '{}{DB}': HTTP status 404 Not Found", empty.url),
            format!("fetch-pacman: warning: fetching '{}/{}': HTTP status 410 Gone", half.url, package.file),
        ]
    );
    let run2 = run(&mut Lab::new().ask(&[&empty.url, &half.url]));
    run2.bad(69, "not-found", &["fetching package 'pacman-static' of 'archlinuxcn'", "all of 2 servers failed"]);
    let run3 = run(&mut Lab::new().ask(&[&empty.url]));
    run3.bad(69, "not-found", &["fetching '", "archlinuxcn.db': HTTP status 404 Not Found"]);
}

#[test]
fn nobody_at_the_port_is_a_fault_of_the_network() {
    let lab = Lab::new();
    let nobody = Nobody::new();
    let run1 = run(&mut lab.ask(&[&nobody.url]));
    run1.bad(75, "network", &[&nobody.url, "Connection refused"]);
    // What may go away is graver than what is not there.
    let empty = Server::new();
    let run2 = run(&mut lab.ask(&[&nobody.url, &empty.url]));
    run2.bad(75, "network", &["all of 2 servers failed", "Connection refused"]);
    assert_eq!(run2.stderr.lines().filter(|l| l.contains("warning: ")).count(), 2);
    let good = Server::with(&[&Package::new("6.0.2-1", Format::Zst)]);
    assert_eq!(version(&run(&mut lab.ask(&[&nobody.url, &good.url]))), "6.0.2");
}

#[test]
fn after_a_broken_connection_it_begins_again() {
    for silently in [false, true] {
        let lab = Lab::new();
        let package = Package::new("6.0.2-1", Format::Zst);
        let server = Server::with(&[&package]);
        let file = format!("/{}", package.file);
        let bytes = package.bytes.clone();
        let cut =
            if silently { Answer::CutSilently(bytes.clone(), 10_000) } else { Answer::Cut(bytes.clone(), 10_000) };
        server.say_all(&file, vec![cut, Answer::File(bytes)]);
        let run = run(&mut lab.ask(&[&server.url]));
        assert_eq!(version(&run), "6.0.2");
        assert_eq!(server.times(&file), 2);
        assert!(run.stderr.contains("after 10000 bytes") && run.stderr.contains("trying again"), "{run:?}");
    }
}

#[test]
fn a_server_that_breaks_every_time_is_left_for_the_next() {
    let lab = Lab::new();
    let package = Package::new("6.0.2-1", Format::Zst);
    let file = format!("/{}", package.file);
    let bad = Server::with(&[&package]);
    bad.say(&file, Answer::Cut(package.bytes.clone(), 10_000));
    let good = Server::with(&[&package]);
    assert_eq!(version(&run(&mut lab.ask(&[&bad.url, &good.url]))), "6.0.2");
    assert_eq!(bad.times(&file), 4);
    assert_eq!(good.times(&file), 1);
}

#[test]
fn a_busy_server_is_asked_again() {
    let lab = Lab::new();
    let package = Package::new("6.0.2-1", Format::Zst);
    let server = Server::with(&[&package]);
    let db = database(&[&package, ring()], Format::Gz);
    server.say_all(DB, vec![Answer::Status("503 Service Unavailable"), Answer::Cut(db.clone(), 20), Answer::File(db)]);
    assert_eq!(version(&run(&mut lab.ask(&[&server.url]))), "6.0.2");
    assert_eq!(server.times(DB), 3);
}

#[test]
fn a_wrong_hash_is_never_run_and_the_next_server_is_asked() {
    let lab = Lab::new();
    let right = Package::new("6.0.2-1", Format::Zst);
    let evil = Package::of("pacman-static", "6.0.2-1", Format::Zst, &script("touch \"$0.ran\""));
    let mut lie = evil.clone();
    lie.sha256.clone_from(&right.sha256);
    let bad = Server::with(&[&lie]);
    let run1 = run(&mut lab.ask(&[&bad.url]));
    run1.bad(69, "not-verified", &[&evil.hash(), &right.hash(), &right.file, &bad.url]);
    let keyring = format!("{}.pkg", ring().hash());
    assert_eq!(lab.cached("packages-by-hash"), [keyring]);
    assert_eq!(lab.cached("pacman"), Vec::<String>::new());

    // What does not hold is graver than what may go away.
    let nobody = Nobody::new();
    run(&mut lab.ask(&[&bad.url, &nobody.url])).bad(69, "not-verified", &["all of 2 servers"]);

    let good = Server::with(&[&right]);
    let run2 = run(&mut lab.ask(&[&bad.url, &good.url]));
    assert_eq!(version(&run2), "6.0.2");
    assert_eq!(good.times(&format!("/{}", right.file)), 1);
}

#[test]
fn a_pin_goes_before_the_database() {
    let lab = Lab::new();
    let package = Package::new("6.0.2-1", Format::Zst);
    let mut lie = package.clone();
    lie.sha256 = Some("0".repeat(64));
    let server = Server::with(&[&lie]);
    let pin = package.hash().to_uppercase();
    let run1 = run(lab.ask(&[&server.url]).args(["--sha256", &pin]));
    assert_eq!(version(&run1), "6.0.2");
    let other = "1".repeat(64);
    let run2 = run(lab.ask(&[&server.url]).args(["--sha256", &other]));
    run2.bad(69, "not-verified", &[&package.hash(), &other]);
    let run3 = run(lab.ask(&[&server.url]).args(["--sha256", "12"]));
    run3.bad(64, "usage", &["not a SHA-256"]);
}

#[test]
fn a_database_without_a_hash_proves_nothing() {
    let lab = Lab::new();
    let mut package = Package::new("6.0.2-1", Format::Zst);
    let hash = package.hash();
    package.sha256 = None;
    package.csize = None;
    let server = Server::with(&[&package]);
    run(&mut lab.ask(&[&server.url])).bad(69, "not-verified", &["no %SHA256SUM%"]);
    let run = run(lab.ask(&[&server.url]).args(["--sha256", &hash]));
    assert_eq!(version(&run), "6.0.2");
}

#[test]
fn a_web_page_is_not_an_archive() {
    let page = b"<!DOCTYPE html>\n<title>Log in to the Wi-Fi</title>".to_vec();
    let lab = Lab::new();
    let package = Package::new("6.0.2-1", Format::Zst);
    let server = Server::with(&[&package]);
    server.say(DB, Answer::File(page.clone()));
    let words = ["a web page came in its place", DB];
    run(&mut lab.ask(&[&server.url])).bad(75, "network", &words);

    let server = Server::with(&[&package]);
    for answer in [Answer::File(page.clone()), Answer::CutSilently(page, 1000)] {
        server.say(&format!("/{}", package.file), answer);
        let words = ["a web page came in its place", &package.file];
        run(&mut lab.ask(&[&server.url])).bad(75, "network", &words);
    }
    let empty = Server::new();
    empty.say(DB, Answer::File(Vec::new()));
    run(&mut lab.ask(&[&empty.url])).bad(69, "failed", &["it is empty"]);
    let cut = Server::new();
    let db = compress(Format::Gz, &vec![0; 100_000]);
    cut.say(DB, Answer::File(db[..db.len() - 9].to_vec()));
    run(&mut lab.ask(&[&cut.url])).bad(69, "failed", &["reading"]);
}

#[test]
fn redirects_are_followed_but_not_for_ever() {
    let lab = Lab::new();
    let package = Package::new("6.0.2-1", Format::Zst);
    let good = Server::with(&[&package]);
    let mirror = Server::new();
    mirror.say(DB, Answer::To(format!("{}{DB}", good.url)));
    mirror.say(&format!("/{}", package.file), Answer::To("/moved".into()));
    mirror.say("/moved", Answer::File(package.bytes.clone()));
    mirror.say(&format!("/{}", ring().file), Answer::To(format!("{}/{}", good.url, ring().file)));
    let run1 = run(&mut lab.ask(&[&mirror.url]));
    assert_eq!(version(&run1), "6.0.2");
    assert_eq!(run1.good()["pacman"]["package"]["server"], mirror.url);

    let circle = Server::new();
    circle.say(DB, Answer::To(DB.into()));
    run(&mut lab.ask(&[&circle.url])).bad(75, "network", &["redirected more than 10 times", DB]);
    assert_eq!(circle.paths().len(), 11);
    let file = Server::new();
    file.say(DB, Answer::To("file:///etc/passwd".into()));
    run(&mut lab.ask(&[&file.url])).bad(69, "failed", &["HTTP status 302 Found"]);
    let away = Server::new();
    away.say(DB, Answer::To("http://[".into()));
    run(&mut lab.ask(&[&away.url])).bad(69, "failed", &["HTTP status 302 Found"]);
}

#[test]
fn https_is_for_who_can_prove_who_it_is() {
    let lab = Lab::new();
    let (certificate, key) = (lab.path("certificate"), lab.path("key"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-out"])
        .arg(&certificate)
        .arg("-keyout")
        .arg(&key)
        .output()
        .expect("this test needs openssl: apt install openssl");
    assert!(made.status.success(), "{made:?}");
    let package = Package::new("6.0.2-1", Format::Zst);
    let file = format!("/{}", package.file);
    let secure = Server::secure(&certificate, &key);
    secure.say(DB, Answer::File(database(&[&package, ring()], Format::Gz)));
    secure.say(&file, Answer::File(package.bytes.clone()));
    let tool = |url: &str, certificates: &Path| {
        let mut tool = lab.ask(&[url]);
        tool.env_remove("SSL_CERT_DIR");
        run(tool.env("SSL_CERT_FILE", certificates))
    };

    let stranger = tool(&secure.url, Path::new("/etc/ssl/certs/ca-certificates.crt"));
    stranger.bad(69, "not-verified", &["invalid peer certificate: UnknownIssuer", DB]);
    let none = tool(&secure.url, Path::new("/dev/null"));
    none.bad(69, "not-verified", &["invalid peer certificate"]);
    assert!(none.stderr.contains("warning: this host has no certificate authorities"), "{none:?}");
    assert_eq!(secure.paths(), Vec::<String>::new());
    // A http server never needs any.
    let plain = Server::with(&[&package]);
    let run1 = tool(&plain.url, Path::new("/dev/null"));
    assert_eq!(version(&run1), "6.0.2");
    assert_eq!(run1.stderr.lines().count(), 1, "{run1:?}");

    fs::remove_file(lab.path("cache/packages-by-hash").join(format!("{}.pkg", package.hash()))).unwrap();
    assert_eq!(version(&tool(&secure.url, &certificate)), "6.0.2");
    assert_eq!(secure.paths(), [DB, &file]);
    // From http to https is a gain, and the reverse a loss.
    plain.say(DB, Answer::To(format!("{}{DB}", secure.url)));
    assert_eq!(version(&tool(&plain.url, &certificate)), "6.0.2");
    secure.say(DB, Answer::To("http://me:word@127.0.0.1:1/x".into()));
    let run2 = tool(&secure.url, &certificate);
    run2.bad(69, "failed", &["a redirect from https to 'http://127.0.0.1:1/x', which is not encrypted"]);
}

#[test]
fn a_silent_server_is_given_up() {
    let lab = Lab::new();
    let package = Package::new("6.0.2-1", Format::Zst);
    let (slow, good) = (Server::with(&[&package]), Server::with(&[&package]));
    slow.say(DB, Answer::Stall(database(&[&package], Format::Gz), 0));
    let run1 = run(lab.ask(&[&slow.url]).args(["--timeout", "1"]));
    run1.bad(75, "network", &["nothing came for 1 s", DB]);
    assert_eq!(slow.paths().len(), 1);

    let file = format!("/{}", package.file);
    slow.say(DB, Answer::File(database(&[&package, ring()], Format::Gz)));
    slow.say_all(&file, vec![Answer::Stall(package.bytes.clone(), 1000), Answer::Stall(package.bytes.clone(), 0)]);
    let run2 = run(lab.ask(&[&slow.url, &good.url]).args(["--timeout", "1"]));
    assert_eq!(version(&run2), "6.0.2");
    assert_eq!(slow.times(&file), 2);
    assert_eq!(good.times(&file), 1);
}

#[test]
fn a_body_without_an_end_is_cut_off() {
    let lab = Lab::new();
    let package = Package::new("6.0.2-1", Format::Zst);
    let server = Server::with(&[&package]);
    let size = package.bytes.len();
    for answer in [Answer::Endless, Answer::File(vec![0; size + 1])] {
        server.say(&format!("/{}", package.file), answer);
        let words = [&*format!("larger than the {size} bytes that the database promises")];
        run(&mut lab.ask(&[&server.url])).bad(69, "not-verified", &words);
    }
    let endless = Server::new();
    endless.say(DB, Answer::Endless);
    run(&mut lab.ask(&[&endless.url])).bad(69, "not-verified", &["that a database may have"]);
}

#[test]
fn a_directory_can_be_a_server() {
    let lab = Lab::new();
    let package = Package::new("1:6.0.2-1", Format::Zst);
    let dir = lab.path("mirror a");
    fs::create_dir(&dir).unwrap();
    fs::rename(&dir, lab.path("mirror")).unwrap();
    let dir = lab.path("mirror");
    let url = format!("file://{}", dir.display());
    run(&mut lab.ask(&[&url])).bad(69, "not-found", &[&url, "No such file"]);
    fs::write(dir.join("archlinuxcn.db"), database(&[&package, ring()], Format::Xz)).unwrap();
    fs::write(dir.join(&package.file), &package.bytes).unwrap();
    fs::write(dir.join(&ring().file), &ring().bytes).unwrap();
    assert_eq!(version(&run(&mut lab.ask(&[&url]))), "6.0.2");
    fs::remove_file(dir.join("archlinuxcn.db")).unwrap();
    fs::create_dir(dir.join("archlinuxcn.db")).unwrap();
    run(&mut lab.ask(&[&url])).bad(69, "failed", &["regular file"]);
    run(&mut lab.ask(&["ftp://h/x"])).bad(69, "failed", &["'ftp' is not supported"]);
}

#[test]
fn a_package_without_the_program_is_refused() {
    let lab = Lab::new();
    let fetch = |package: &Package| {
        let server = Server::with(&[package]);
        let out = lab.path("pacman");
        let run = run(lab.ask(&[&server.url]).arg("-o").arg(&out));
        assert!(!out.exists());
        assert_eq!(names(&lab.path("")), ["cache"]);
        run
    };
    let run1 = fetch(&Package::without_program("1-1"));
    run1.bad(69, "not-found", &["no member 'usr/bin/pacman-static'"]);
    assert!(run1.stderr.contains("hint: name the file of the package"));
    let run2 = fetch(&Package::with_link("2-1", "/bin/sh"));
    run2.bad(69, "failed", &["'usr/bin/pacman-static'", "a symbolic link, not a regular file"]);
}

#[test]
fn a_program_that_is_no_pacman_is_not_put_in_place() {
    let lab = Lab::new();
    let out = lab.path("pacman");
    for (body, words) in [
        (script("echo broken >&2; exit 3"), "exit status 3"),
        (script("exit 0"), "it printed nothing"),
        (script("echo GNU tar"), "not a pacman: it printed 'GNU tar'"),
        (script("kill -9 $$"), "killed by signal 9 (SIGKILL)"),
        (Vec::new(), "Exec format error"),
        (b"\x7fELF of another machine".to_vec(), "Exec format error"),
    ] {
        let server = Server::with(&[&Package::of("pacman-static", "1-1", Format::Zst, &body)]);
        let run = run(lab.ask(&[&server.url]).arg("-o").arg(&out));
        let doing = format!("running '{}' --version: ", out.display());
        run.bad(69, "child-failed", &[words, &doing]);
        assert_eq!(names(&lab.path("")), ["cache"]);
    }
}

/// With glibc or musl: in the locale C a pacman leaves out a file with such a name, or gives it another.
#[test]
fn a_pacman_that_loses_names_is_not_put_in_place() {
    let lab = Lab::new();
    let out = lab.path("pacman");
    let body = script("export LC_ALL=C; exec /usr/bin/pacman \"$@\"");
    let server = Server::with(&[&Package::of("pacman-static", "1-1", Format::Zst, &body)]);
    let run = run(lab.ask(&[&server.url]).arg("-o").arg(&out));
    let message = format!("using '{}': it leaves out files whose names are not ASCII", out.display());
    run.bad(69, "failed", &[&message]);
    assert_eq!(names(&lab.path("")), ["cache"]);
}

#[test]
fn using_what_is_there() {
    let lab = Lab::new();
    let there = lab.path("pacman");
    let tool = |path: &Path| run(bare().arg("--use").arg(path));
    let none = tool(&there);
    none.bad(69, "not-found", &["using '", "No such file"]);
    assert!(none.stderr.contains("hint: install your distribution's pacman"));
    fs::write(&there, program("6.0.2")).unwrap();
    let plain = tool(&there);
    plain.bad(69, "failed", &["it is not executable"]);
    assert!(plain.stderr.contains("chmod +x"));
    tool(&lab.path("")).bad(69, "failed", &["regular file"]);
    fs::set_permissions(&there, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(version(&tool(&there)), "6.0.2");
    let relative = run(bare().args(["--use", "./pacman"]).current_dir(lab.path("")));
    assert_eq!(relative.good()["pacman"]["path"], there.to_str().unwrap());
    tool(Path::new("/bin/true")).bad(69, "child-failed", &["/true' --version: not a pacman: it printed 'true"]);
    let both = run(bare().args(["--use", "/usr/bin/pacman", "--offline"]));
    both.bad(64, "usage", &["cannot be used with"]);
}

#[test]
fn a_killed_run_leaves_no_temporary_file() {
    let lab = Lab::new();
    fs::create_dir(lab.path("bin")).unwrap();
    let mark = lab.path("mark");
    let wait = format!("echo $$ > '{0}.new'; mv '{0}.new' '{0}'; exec sleep 60", mark.display());
    let package = Package::of("pacman-static", "1-1", Format::Zst, &script(&wait));
    let server = Server::with(&[&package]);
    let mut tool = lab.ask(&[&server.url]);
    tool.arg("-o").arg(lab.path("bin/pacman"));
    let mut child = tool.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("it asks for the version", || mark.exists());
    let asked: i32 = fs::read_to_string(&mark).unwrap().trim().parse().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    // It ends with the tool by itself, sooner or later than this.
    let ended = kill(Pid::from_raw(asked), Signal::SIGKILL);
    assert!(matches!(ended, Ok(()) | Err(nix::errno::Errno::ESRCH)), "{ended:?}");
    assert_eq!(names(&lab.path("bin")), Vec::<String>::new());
}

/// Runs the tool with a document on its stdin.
fn with_input(mut tool: Command, text: &str) -> Run {
    let mut child = tool.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Run {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn what_the_document_has_stays_and_an_earlier_package_goes() {
    let lab = Lab::new();
    let before = json!({
        "strapline": 1,
        "distro": "archlinuxarm",
        "arch": "aarch64",
        "org.example.note": {"a": [1]},
        "pacman": {"path": "/old", "version": "1", "sha256": "0", "trust": "hash", "org.example.x": 1,
            "package": {"name": "old", "version": "1", "repo": "r", "file": "f", "sha256": "0", "server": "s"}},
    });
    let server = Server::with(&[&Package::new("6.0.2-1", Format::Zst)]);
    let first = with_input(lab.ask(&[&server.url]), &before.to_string()).good();
    assert_eq!(first["org.example.note"], before["org.example.note"]);
    assert_eq!(first["arch"], "aarch64");
    assert_eq!(first["pacman"]["org.example.x"], 1);
    assert_eq!(first["pacman"]["package"]["name"], "pacman-static");
    let mut tool = bare();
    tool.args(["--use", "/usr/bin/pacman"]);
    let second = with_input(tool, &first.to_string()).good();
    assert_eq!(second["pacman"]["org.example.x"], 1);
    assert_eq!(second["pacman"].get("package"), None);
    assert_eq!(second["pacman"]["trust"], "host");
}

#[test]
fn a_failed_document_passes_untouched() {
    let text = "{\"strapline\":1, \"error\":{\"tool\":\"mkroot\",\"exit\":77}}\n";
    let run = with_input(Lab::new().ask(&["http://127.0.0.1:1"]), text);
    assert_eq!((run.status, &*run.stdout, &*run.stderr), (Some(77), text, ""));
}

#[test]
fn a_distribution_that_nobody_knows_is_named() {
    let text = "{\"strapline\":1,\"distro\":\"slackware\"}";
    let run = with_input(Lab::new().tool(), text);
    run.bad(69, "not-found", &["there is no preset 'slackware'"]);
}

#[test]
fn words_that_cannot_be_right_are_refused() {
    for (option, value) in [
        ("--repo", "../x"),
        ("--repo", "options"),
        ("--server", "rsync://h/x"),
        ("--server", "h/x"),
        ("--package", "-x"),
        ("--package", "a/b"),
        ("--member", "/usr/bin/pacman"),
        ("--member", "usr/../x"),
        ("--timeout", "0"),
    ] {
        let run = run(Lab::new().tool().arg(format!("{option}={value}")));
        run.bad(64, "usage", &[option, value]);
    }
}

#[test]
fn a_signal_ends_a_download_and_leaves_nothing_of_it() {
    let lab = Lab::new();
    let package = Package::new("6.0.2-1", Format::Zst);
    let server = Server::with(&[&package]);
    let file = format!("/{}", package.file);
    server.say_all(&file, vec![Answer::Stall(package.bytes.clone(), 12_345), Answer::File(package.bytes.clone())]);
    let child = lab.ask(&[&server.url]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("the package is asked for", || server.paths().contains(&file));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    let begin = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(10), "it waited for the server");
    let run1 = Run {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    run1.bad(130, "interrupted", &["interrupted by a signal"]);
    let keyring = format!("{}.pkg", ring().hash());
    assert_eq!(lab.cached("packages-by-hash"), [keyring]);
    assert_eq!(version(&run(&mut lab.ask(&[&server.url]))), "6.0.2");
}

#[test]
fn a_signal_ends_the_pause_between_two_tries() {
    let lab = Lab::new();
    let server = Server::new();
    server.say(DB, Answer::Status("503 Service Unavailable"));
    let mut child = lab.ask(&[&server.url]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It says so before it pauses.
    let mut stderr = child.stderr.take().unwrap();
    let mut byte = [0];
    stderr.read_exact(&mut byte).unwrap();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(server.paths().len() < 3);
}

#[test]
fn a_document_that_cannot_be_handed_on_undoes_what_was_new() {
    let lab = Lab::new();
    let server = Server::with(&[&Package::new("6.0.2-1", Format::Zst)]);
    let out = lab.path("pacman");
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut tool = lab.ask(&[&server.url]);
    tool.arg("-o").arg(&out);
    let output = tool.stdout(full()).stderr(Stdio::piped()).spawn().unwrap();
    let output = output.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(74));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("writing the document on stdout: No space left"), "{stderr}");
    assert!(!out.exists());

    // What was there before is not ours to remove.
    fs::write(&out, "old").unwrap();
    assert_eq!(tool.stdout(full()).status().unwrap().code(), Some(74));
    assert_eq!(fs::read(&out).unwrap(), program("6.0.2"));
}

/// Returns the command as it runs where no file may have more than `blocks` times 512 bytes: as on a full disk.
fn limited(tool: &Command, blocks: usize) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\""), "sh"]);
    command.arg(tool.get_program()).args(tool.get_args());
    for (name, value) in tool.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(Stdio::null());
    command
}

#[test]
fn a_full_disk_is_our_own_fault_and_no_servers() {
    let lab = Lab::new();
    let package = Package::new("6.0.2-1", Format::Zst);
    let (first, second) = (Server::with(&[&package]), Server::with(&[&package]));
    let out = lab.path("pacman");
    let mut tool = lab.ask(&[&first.url, &second.url]);
    tool.arg("-o").arg(&out);
    let run1 = run(&mut limited(&tool, 16));
    run1.bad(71, "os", &["writing in '", "packages-by-hash': File too large"]);
    assert!(run1.stderr.contains("hint: make room"));
    assert_eq!(second.paths(), Vec::<String>::new());

    // Room enough for the package, not for the program.
    let blocks = package.bytes.len() / 512 + 1;
    assert!(blocks * 512 < program("6.0.2").len());
    let run2 = run(&mut limited(&tool, blocks));
    run2.bad(71, "os", &[&format!("writing '{}': File too large", out.display())]);
    assert_eq!(names(&lab.path("")), ["cache"]);

    assert_eq!(version(&run(&mut tool)), "6.0.2");
}

#[test]
fn a_cache_that_anyone_may_write_to_is_refused() {
    let lab = Lab::new();
    fs::create_dir(lab.path("cache")).unwrap();
    fs::set_permissions(lab.path("cache"), fs::Permissions::from_mode(0o777)).unwrap();
    let run = run(&mut lab.ask(&["http://127.0.0.1:1"]));
    run.bad(77, "permission", &["anyone may write to it"]);
    assert!(run.stderr.contains("hint: chmod o-w"));
}

#[test]
fn runs_at_once_do_not_disturb_each_other() {
    let lab = Lab::new();
    let package = Package::new("6.0.2-1", Format::Zst);
    let server = Server::with(&[&package]);
    let runs: Vec<_> = (0..8)
        .map(|_| {
            let mut tool = lab.ask(&[&server.url]);
            std::thread::spawn(move || run(&mut tool))
        })
        .collect();
    for run in runs {
        assert_eq!(version(&run.join().unwrap()), "6.0.2");
    }
    let dir = lab.path("cache/pacman").join(package.hash());
    assert_eq!(names(&dir), ["pacman-static"]);
}

#[test]
fn progress_is_drawn_on_a_terminal_only() {
    let package = Package::new("6.0.2-1", Format::Zst);
    for (quiet, drawn) in [(false, true), (true, false)] {
        let lab = Lab::new();
        let server = Server::with(&[&package]);
        // Broken off, so that there is something to see before it is done.
        let bytes = package.bytes.clone();
        server.say_all(&format!("/{}", package.file), vec![Answer::Cut(bytes.clone(), 20_000), Answer::File(bytes)]);
        let pty = nix::pty::openpty(None, None).unwrap();
        let mut tool = lab.ask(&[&server.url]);
        if quiet {
            tool.arg("-q");
        }
        tool.env("TERM", "xterm").stdout(Stdio::null()).stderr(pty.slave);
        let mut child = tool.spawn().unwrap();
        drop(tool);
        let mut text = Vec::new();
        // The other end is gone: EIO, as a terminal says it.
        drop(fs::File::from(pty.master).read_to_end(&mut text));
        assert!(child.wait().unwrap().success());
        let text = String::from_utf8_lossy(&text);
        assert_eq!(text.contains(&package.file), drawn, "{text:?}");
        for word in [" left", "/s ", "KiB/"] {
            assert_eq!(text.contains(word), drawn, "{text:?}");
        }
    }
}

/// Asserts that a run failed for want of proof and that nothing came of it, and returns what it says and the hint.
#[track_caller]
fn refused(lab: &Lab, run: &Run, words: &[&str]) -> String {
    let document = run.bad(69, "not-verified", words);
    let mut kept = lab.cached("packages-by-hash");
    // Keys are material: their package may stay.
    kept.retain(|name| *name != format!("{}.pkg", ring().hash()));
    assert_eq!(kept, Vec::<String>::new(), "{run:?}");
    assert_eq!(lab.cached("pacman"), Vec::<String>::new());
    assert_eq!(names(&lab.path("")), ["cache"]);
    document["error"]["hint"].as_str().unwrap().to_owned()
}

/// Returns what asks a server and would put the program beside the cache.
fn placing(lab: &Lab, server: &Server) -> Command {
    let mut tool = lab.ask(&[&server.url]);
    tool.arg("-o").arg(lab.path("pacman"));
    tool
}

#[test]
fn without_a_signature_nothing_of_the_package_is_fetched() {
    let lab = Lab::new();
    let package = Package::new("6.0.2-1", Format::Zst).with_signature(None);
    let server = Server::with(&[&package]);
    let sig = format!("/{}.sig", package.file);
    let words = ["has no signature: HTTP status 404", "no %PGPSIG%", &sig];
    let hint = refused(&lab, &run(&mut placing(&lab, &server)), &words);
    assert!(hint.contains("--unsigned"), "{hint}");
    assert_eq!(server.paths(), [DB, &sig]);

    // A server that is tired has not said that there is none.
    server.say(&sig, Answer::Status("503 Service Unavailable"));
    run(&mut placing(&lab, &server)).bad(75, "network", &["503", &sig]);

    // The next server may have it, beside the package or in its database.
    server.say(&sig, Answer::Status("404 Not Found"));
    let good = Server::with(&[&package]);
    let signature = keys().sign(&keys().lilac, &package.bytes);
    good.say(&sig, Answer::File(signature));
    let run1 = run(&mut lab.ask(&[&server.url, &good.url]));
    assert_eq!(version(&run1), "6.0.2");
    assert_eq!(run1.good()["pacman"]["trust"], "signature");
    assert!(good.paths().contains(&sig));

    server.say(&sig, Answer::Endless);
    let long = run(&mut placing(&Lab::new(), &server));
    long.bad(69, "not-verified", &["larger than the 16384 bytes", &sig]);
}

#[test]
fn only_a_good_signature_of_a_pinned_key_over_this_package() {
    let keys = keys();
    let package = Package::new("6.0.2-1", Format::Zst);
    let other = Package::new("6.0.2-2", Format::Zst);
    let evil = Package::of("pacman-static", "6.0.2-1", Format::Zst, &program("6.6.6"));
    let lilac = &*keys.lilac.fingerprint;
    let bytes = &package.bytes;
    let inline = keys.sign_as(&keys.lilac, bytes, &["--sign"]);
    let text = keys.sign_as(&keys.lilac, bytes, &["--textmode", "--detach-sign"]);
    let ours = keys.sign(&keys.lilac, bytes);
    let mut flipped = ours.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let two = [&*ours, &keys.sign(&keys.stranger, bytes)].concat();
    let trailing = [&*ours, b"\xcb\x05hello"].concat();
    let table: Vec<(&str, Package, &str)> = vec![
        ("of another package", package.clone().with_signature(other.signature), lilac),
        ("altered, with its own right hash", evil.with_signature(package.signature.clone()), "was altered"),
        ("flipped", package.clone().with_signature(Some(flipped)), "is bad"),
        ("of a stranger", package.clone().signed_by(&keys.stranger), &keys.stranger.fingerprint),
        ("of a stranger too", package.clone().with_signature(Some(two)), "which is not pinned"),
        ("none", package.clone().with_signature(Some(b"<html>".to_vec())), "not a signature: gpg: "),
        ("cut off", package.clone().with_signature(Some(ours[..40].to_vec())), "its signature"),
        ("inline", package.clone().with_signature(Some(inline)), "not a signature: gpg: "),
        ("of a text", package.clone().with_signature(Some(text)), "class 01"),
        ("with more behind it", package.clone().with_signature(Some(trailing)), "its signature cannot be used"),
    ];
    for (what, package, words) in table {
        let lab = Lab::new();
        let server = Server::with(&[&package]);
        let ran = run(&mut placing(&lab, &server));
        let hint = refused(&lab, &ran, &[words, &package.file]);
        assert!(hint.contains("--unsigned"), "{what}: {hint}");
        // A good server is asked after a bad one, and nobody has to clean up in between.
        let good = Server::with(&[&Package::new("6.0.2-1", Format::Zst)]);
        let both = run(&mut lab.ask(&[&server.url, &good.url]));
        assert_eq!(version(&both), "6.0.2", "{what}");
        assert_eq!(both.good()["pacman"]["package"]["signed_by"], lilac);
    }
}

/// What the key has signed, and what it was asked for, are two things.
#[test]
fn a_signed_package_in_the_place_of_another_is_refused() {
    let as_entry =
        |package: &Package| Package { name: "pacman-static".into(), version: "6.0.2-2".into(), ..package.clone() };
    let other = Package::of("pacman-static-git", "7.0-1", Format::Zst, &program("7.0"));
    let old = Package::new("6.0.2-1", Format::Zst);
    for (package, is) in [
        (&other, "it is package 'pacman-static-git' 7.0-1, validly signed"),
        (&old, "it is package 'pacman-static' 6.0.2-1, validly signed"),
    ] {
        let lab = Lab::new();
        let server = Server::with(&[&as_entry(package)]);
        let ran = run(&mut placing(&lab, &server));
        refused(&lab, &ran, &[is, "and should be 'pacman-static' 6.0.2-2"]);
        // Who knows the hash knows which one it is.
        let mut known = lab.ask(&[&server.url]);
        known.args(["--sha256", &package.hash()]);
        run(&mut known).good();
    }
}

#[test]
fn a_key_that_is_in_the_ring_and_not_pinned_does_not_count() {
    let keys = keys();
    let package = Package::new("6.0.2-1", Format::Zst).signed_by(&keys.stranger);
    let both = [&*keys.stranger.public, &keys.lilac.public].concat();
    let keyring = Package::keyring("archlinuxcn", &both);
    let server = Server::with_only(&[&package, &keyring]);
    let lab = Lab::new();
    let ran = run(lab.ask(&[&server.url]).arg("-q"));
    let stranger = &*keys.stranger.fingerprint;
    let hint = ran.bad(69, "not-verified", &[stranger, "which is not pinned"])["error"]["hint"].clone();
    let trust = format!("--trust {stranger}");
    assert!(hint.as_str().unwrap().contains(&trust), "{hint}");
    assert_eq!(lab.cached("pacman"), Vec::<String>::new());

    // Who knows the key says so, in any spelling.
    let spaced = format!("{} {}", stranger[..20].to_lowercase(), &stranger[20..]);
    let ran = run(lab.ask(&[&server.url]).args(["--trust", &spaced]));
    assert_eq!(version(&ran), "6.0.2");
    assert_eq!(ran.good()["pacman"]["package"]["signed_by"], stranger);
    // An extra key beside the pinned one harms nobody.
    let usual = Package::new("6.0.2-1", Format::Zst);
    let server = Server::with_only(&[&usual, &keyring]);
    assert_eq!(version(&run(&mut Lab::new().ask(&[&server.url]))), "6.0.2");

    for bad in ["83F817213361BF5F", "x", ""] {
        let ran = run(lab.ask(&[&server.url]).args(["--trust", bad]));
        ran.bad(64, "usage", &["--trust", "not a fingerprint"]);
    }
}

#[test]
fn keyring_packages_that_do_not_help() {
    let keys = keys();
    let package = Package::new("6.0.2-1", Format::Zst);
    let ring_of = |ring: &[u8]| Package::keyring("archlinuxcn", ring);
    let elsewhere = Package::keyring("other", &keys.lilac.public);
    let renamed = Package { name: "archlinuxcn-keyring".into(), ..elsewhere };
    let mut wrong_hash = ring_of(&keys.lilac.public);
    wrong_hash.sha256 = Some("0".repeat(64));
    let pinned = format!("{}, which is pinned and not in package 'archlinuxcn-keyring'", keys.lilac.fingerprint);
    for (keyring, words) in [
        (ring_of(&keys.stranger.public), &*pinned),
        (ring_of(b""), "no keys in its member"),
        (ring_of(b"not keys"), "no keys in its member"),
        (renamed, "no member 'usr/share/pacman/keyrings/archlinuxcn.gpg'"),
        (wrong_hash, "its SHA-256 is"),
    ] {
        let lab = Lab::new();
        let server = Server::with_only(&[&package, &keyring]);
        let ran = run(&mut placing(&lab, &server));
        let hint = ran.bad(69, "not-verified", &[words])["error"]["hint"].clone();
        assert!(hint.as_str().unwrap().contains("--"), "{hint}");
        assert_eq!(lab.cached("pacman"), Vec::<String>::new());
        assert_eq!(names(&lab.path("")), ["cache"]);
    }
    let lab = Lab::new();
    let server = Server::with_only(&[&package]);
    let hint = refused(&lab, &run(&mut placing(&lab, &server)), &["no package 'archlinuxcn-keyring'", DB]);
    assert!(hint.contains("--keyring FILE"), "{hint}");
    let server = Server::with(&[&package]);
    server.say(&format!("/{}", ring().file), Answer::Status("404 Not Found"));
    let ran = run(&mut placing(&lab, &server));
    ran.bad(69, "not-found", &[&ring().file]);
    assert!(ran.stderr.contains("hint: give the key that signs the package with --keyring FILE"));
}

#[test]
fn an_expired_and_a_revoked_key_are_each_named() {
    let keys = keys();
    for (key, words, hint) in [
        (&keys.expired, "which expired on 2020-02-01, and today is 20", "a newer keyring package"),
        (&keys.revoked, "which was revoked", "must not be used any more"),
    ] {
        let lab = Lab::new();
        let package = Package::new("6.0.2-1", Format::Zst).signed_by(key);
        let keyring = Package::keyring("archlinuxcn", &key.public);
        let server = Server::with_only(&[&package, &keyring]);
        let mut tool = lab.ask(&[&server.url]);
        tool.args(["--trust", &key.fingerprint]);
        let ran = run(&mut tool);
        let document = ran.bad(69, "not-verified", &[&key.fingerprint, words]);
        assert!(document["error"]["hint"].as_str().unwrap().contains(hint), "{ran:?}");
        assert_eq!(lab.cached("pacman"), Vec::<String>::new());
        // Not pinned goes first: what such a key may be does not matter.
        let ran = run(&mut lab.ask(&[&server.url]));
        ran.bad(69, "not-verified", &[&key.fingerprint, "which is not pinned"]);
    }
}

#[test]
fn a_ring_cannot_vouch_for_itself() {
    let keys = keys();
    let lab = Lab::new();
    let ring = forged(&keys.expired);
    let package = Package::new("6.0.2-1", Format::Zst).signed_by(&keys.expired);
    // gpg itself is taken in, or this test shows nothing.
    let (file, sig, data) = (lab.path("ring"), lab.path("sig"), lab.path("data"));
    fs::write(&file, &ring).unwrap();
    fs::write(&sig, package.signature.as_ref().unwrap()).unwrap();
    fs::write(&data, &package.bytes).unwrap();
    let gpg = Command::new("gpg")
        .args(["--homedir", "/nonexistent", "--no-default-keyring", "--trust-model=always"])
        .args(["--lock-never", "--status-fd=1", "--keyring"])
        .arg(&file)
        .arg("--verify")
        .args([&sig, &data])
        .output()
        .unwrap();
    let said = String::from_utf8(gpg.stdout).unwrap();
    assert!(said.contains("[GNUPG:] GOODSIG"), "{said}");

    for ring in [ring, mute(&keys.expired, 1), mute(&keys.expired, 2)] {
        // Beside a key that is good, so that the ring is not refused as a whole.
        let ring = [&*keys.lilac.public, &ring].concat();
        let server = Server::with_only(&[&package, &Package::keyring("archlinuxcn", &ring)]);
        fs::write(&file, &ring).unwrap();
        for own in [false, true] {
            let mut tool = lab.ask(&[&server.url]);
            tool.args(["--trust", &keys.expired.fingerprint]);
            if own {
                tool.arg("--keyring").arg(&file);
            }
            run(&mut tool).bad(69, "not-verified", &[&keys.expired.fingerprint]);
            assert_eq!(lab.cached("pacman"), Vec::<String>::new());
        }
    }
}

#[test]
fn keys_can_be_from_files() {
    let keys = keys();
    let lab = Lab::new();
    let package = Package::new("6.0.2-1", Format::Zst);
    let server = Server::with_only(&[&package]);
    let (binary, text, junk) = (lab.path("binary"), lab.path("text"), lab.path("junk"));
    fs::write(&binary, &keys.stranger.public).unwrap();
    let armored = keys.armored(&keys.lilac);
    assert!(armored.starts_with(b"-----BEGIN PGP"));
    // One after the other, as cat(1) makes them.
    fs::write(&text, [&*keys.armored(&keys.expired), &armored].concat()).unwrap();
    fs::write(&junk, "keys").unwrap();
    let with = |files: &[&Path]| {
        let mut tool = lab.ask(&[&server.url]);
        for file in files {
            tool.arg("--keyring").arg(file);
        }
        run(&mut tool)
    };
    let ran = with(&[&binary]);
    let name = binary.to_str().unwrap();
    ran.bad(69, "not-verified", &[&keys.lilac.fingerprint, "which is pinned and not in", name]);
    assert_eq!(version(&with(&[&binary, &text])), "6.0.2");
    assert_eq!(version(&with(&[&text])), "6.0.2");
    let file = format!("/{}", package.file);
    assert_eq!(server.paths(), [DB, &file, DB, &file, DB]);
    // A file gives keys, and no trust.
    let plain = run(Lab::at(lab.plain(), &[&server.url]).arg("--keyring").arg(&text));
    plain.bad(69, "not-verified", &["which is not pinned"]);
    with(&[&junk]).bad(69, "failed", &["no keys in it: gpg: "]);
    with(&[&lab.path("")]).bad(69, "failed", &["regular file"]);
    with(&[&lab.path("no")]).bad(69, "not-found", &["reading keyring", "No such file"]);
}

#[test]
fn what_a_hash_may_stand_in_for() {
    let lab = Lab::new();
    let package = Package::new("6.0.2-1", Format::Zst).signed_by(&keys().stranger);
    let server = Server::with_only(&[&package]);
    let plain = |args: &[&str]| run(Lab::at(lab.plain(), &[&server.url]).args(args));
    let hash = package.hash();
    plain(&[]).bad(69, "not-verified", &["no package 'archlinuxcn-keyring'"]);
    for (args, trust) in [
        (&["--unsigned"][..], "hash"),
        (&["--sha256", &hash], "sha256"),
        (&["--sha256", &hash, "--unsigned"], "sha256"),
    ] {
        let ran = plain(args);
        assert_eq!(version(&ran), "6.0.2");
        assert_eq!(ran.good()["pacman"]["trust"], trust);
        assert_eq!(ran.good()["pacman"]["package"].get("signed_by"), None);
        let offline = run(lab.plain().arg("--offline").args(args));
        assert_eq!(offline.good()["pacman"]["trust"], trust);
    }
    // What was taken without a signature is not taken for signed later.
    let offline = run(lab.tool().arg("--offline"));
    offline.bad(69, "not-verified", &["its signature is not there", &package.file]);
    assert!(offline.stderr.contains("hint: run it once without --offline"));

    let wrong = "0".repeat(64);
    for args in [&["--sha256", &wrong][..], &["--sha256", &wrong, "--unsigned"]] {
        plain(args).bad(69, "not-verified", &["its SHA-256 is", &wrong]);
    }
    // Who asks for both gets both.
    let both = run(lab.ask(&[&server.url]).args(["--sha256", &hash]));
    both.bad(69, "not-verified", &["no package 'archlinuxcn-keyring'"]);
    for args in [["--unsigned", "--keyring=x"], ["--unsigned", "--use=/usr/bin/pacman"]] {
        plain(&args).bad(64, "usage", &["cannot be used with"]);
    }
    let all = ["--repo=x", "--unsigned", "--sha256", &hash];
    plain(&all).bad(69, "not-found", &["x.db"]);
}

#[test]
fn a_host_without_gpg() {
    let lab = Lab::new();
    let package = Package::new("6.0.2-1", Format::Zst);
    let server = Server::with(&[&package]);
    let bin = lab.path("bin");
    fs::create_dir(&bin).unwrap();
    // Something of that name that cannot be run is none.
    fs::write(bin.join("gpg"), "").unwrap();
    symlink("/bin/cat", bin.join("cat")).unwrap();
    let ran = run(lab.ask(&[&server.url]).env("PATH", &bin));
    ran.bad(69, "not-found", &["looking for gpg", "none in PATH"]);
    assert!(ran.stderr.contains("hint: sudo apt-get install gnupg"));
    assert_eq!(server.paths(), Vec::<String>::new());
    assert_eq!(names(&lab.path("")), ["bin"]);
    for args in [&["--unsigned"][..], &["--sha256", &package.hash()]] {
        let mut tool = Lab::at(lab.plain(), &[&server.url]);
        assert_eq!(version(&run(tool.args(args).env("PATH", &bin))), "6.0.2");
    }
    // One that breaks has not said that a signature holds.
    for (body, code) in
        [("kill -9 $$", "child-failed"), ("exit 0", "not-verified"), ("echo '[GNUPG:] GOODSIG'", "not-verified")]
    {
        fs::remove_file(bin.join("gpg")).unwrap();
        let version = "[ $1 != --version ] || { echo 'gpg (GnuPG) 2.2.40'; exit; }";
        fs::write(bin.join("gpg"), format!("#!/bin/sh\n{version}\n{body}\n")).unwrap();
        fs::set_permissions(bin.join("gpg"), fs::Permissions::from_mode(0o755)).unwrap();
        let ran = run(Lab::new().ask(&[&server.url]).env("PATH", &bin));
        ran.bad(69, code, &["gpg"]);
    }
}

#[test]
fn the_preset_pins_and_no_one_else() {
    let lab = Lab::new();
    let server = Server::with(&[&Package::new("6.0.2-1", Format::Zst)]);
    let preset = |trusted: &str| {
        let file = lab.path("preset.toml");
        let text = format!(
            "name = \"x\"\ntitle = \"X\"\n[arch.x86_64]\nservers = [\"{0}\"]\nrepos = [\"core\"]\n\
             [pacman]\nrepo = \"archlinuxcn\"\npackage = \"pacman-static\"\nmember = \"{MEMBER}\"\n\
             [pacman.arch.{arch}]\nservers = [\"{0}\"]\n{trusted}",
            server.url,
            arch = std::env::consts::ARCH,
        );
        fs::write(&file, text).unwrap();
        json!({"strapline": 1, "distro": file}).to_string()
    };
    let pin = format!(
        "[[pacman.trusted]]\nfingerprint = \"{}\"\nsource = \"x\"\ndate = \"2026-11-22\"\n",
        keys().lilac.fingerprint
    );
    let pinned = with_input(lab.plain(), &preset(&pin));
    assert_eq!(version(&pinned), "6.0.2");
    assert_eq!(pinned.good()["pacman"]["trust"], "signature");

    let lab2 = Lab::new();
    let nobody = with_input(lab2.plain(), &preset(""));
    nobody.bad(69, "not-verified", &["no key is pinned"]);
    assert!(nobody.stderr.contains("--trust FINGERPRINT") && nobody.stderr.contains("--unsigned"));
    assert_eq!(names(&lab2.path("")), Vec::<String>::new());
}

#[test]
fn what_is_in_the_cache_is_verified_again() {
    let lab = Lab::new();
    let package = Package::new("6.0.2-1", Format::Zst);
    let server = Server::with(&[&package]);
    version(&run(&mut lab.ask(&[&server.url])));
    let offline = || run(lab.tool().arg("--offline"));
    let ran = offline();
    assert_eq!(version(&ran), "6.0.2");
    assert_eq!(ran.good()["pacman"]["trust"], "signature");
    assert_eq!(ran.good()["pacman"]["package"]["signed_by"], keys().lilac.fingerprint);
    let unpinned = run(lab.plain().arg("--offline"));
    unpinned.bad(69, "not-verified", &["which is not pinned", "in the cache"]);

    let packages = lab.path("cache/packages-by-hash");
    let sig = packages.join(format!("{}.sig", package.hash()));
    assert_eq!(fs::read(&sig).ok(), package.signature);
    fs::write(&sig, Package::new("6.0.2-2", Format::Zst).signature.unwrap()).unwrap();
    offline().bad(69, "not-verified", &["is bad", &package.file]);
    fs::remove_file(&sig).unwrap();
    offline().bad(69, "not-verified", &["its signature is not there"]);
    // Online, the server's is taken, and kept.
    version(&run(&mut lab.ask(&[&server.url])));
    assert_eq!(version(&offline()), "6.0.2");
    // A server that has no good one for what is in the cache is not believed, and the cache stays.
    let stranger = Server::with(&[&package.clone().signed_by(&keys().stranger)]);
    run(&mut lab.ask(&[&stranger.url])).bad(69, "not-verified", &["which is not pinned"]);
    assert_eq!(version(&offline()), "6.0.2");

    fs::remove_file(packages.join(format!("{}.pkg", ring().hash()))).unwrap();
    offline().bad(69, "not-verified", &["package 'archlinuxcn-keyring' is not there"]);
    fs::write(lab.path("keys"), &keys().lilac.public).unwrap();
    let own = run(lab.tool().arg("--offline").arg("--keyring").arg(lab.path("keys")));
    assert_eq!(version(&own), "6.0.2");
}

#[test]
fn gpg_ends_with_us_and_leaves_nothing() {
    let lab = Lab::new();
    let server = Server::with(&[&Package::new("6.0.2-1", Format::Zst)]);
    let (bin, mark) = (lab.path("bin"), lab.path("mark"));
    fs::create_dir(&bin).unwrap();
    let body = format!("#!/bin/sh\necho $$ > {0}.new\nmv {0}.new {0}\nexec sleep 60\n", mark.display());
    fs::write(bin.join("gpg"), body).unwrap();
    fs::set_permissions(bin.join("gpg"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    // A place for temporary files whose path is longer than that of any socket may be.
    let temp = lab.path(&"t".repeat(200));
    fs::create_dir(&temp).unwrap();
    for (signal, status) in [(Signal::SIGTERM, Some(130)), (Signal::SIGKILL, None)] {
        let child = lab
            .ask(&[&server.url])
            .env("PATH", &path)
            .env("TMPDIR", &temp)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        until("gpg runs", || mark.exists());
        let gpg: i32 = fs::read_to_string(&mark).unwrap().trim().parse().unwrap();
        fs::remove_file(&mark).unwrap();
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), status);
        until("gpg is gone", || kill(Pid::from_raw(gpg), None).is_err());
    }
    let real = run(lab.ask(&[&server.url]).env("TMPDIR", &temp).env("GNUPGHOME", "/proc"));
    assert_eq!(version(&real), "6.0.2");
    assert_eq!(names(&temp), Vec::<String>::new());
}

#[test]
fn every_option_is_in_the_man_page_and_the_reverse() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../man/fetch-pacman.8");
    let page = fs::read_to_string(page).unwrap();
    let help = run(bare().arg("--help"));
    assert_eq!(help.status, Some(0));
    let options = |text: &str| {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        let mut found: Vec<_> =
            words.filter(|word| word.starts_with("--") && word.len() > 2).map(str::to_owned).collect();
        found.sort();
        found.dedup();
        found
    };
    let listed: String =
        help.stdout.lines().filter(|line| line.trim_start().starts_with('-')).map(|line| format!("{line}\n")).collect();
    let described: String = page
        .lines()
        .filter_map(|line| line.strip_prefix(".It Fl "))
        .flat_map(|line| line.split("Fl ").map(|word| format!("-{}\n", word.trim())))
        .collect();
    assert_eq!(options(&listed), options(&described));
    assert!(help.stdout.lines().all(|line| line.chars().count() <= 100), "{}", help.stdout);
    let lint = Command::new("mandoc")
        .args(["-T", "lint", "-W", "warning"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../man/fetch-pacman.8"))
        .output()
        .expect("this test needs mandoc: apt install mandoc");
    assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stdout));
}
