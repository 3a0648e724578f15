//! What pacman 6.0, 7.0 and 7.1 print when they refuse, from real ones on small repositories: the package and the file are in our
//! one message, with -q as well, and the status says whether trying again helps. And whose scriptlet it was that failed, whatever
//! the scriptlets print.

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use strapline_tests::{Answer, Lab, Mirror, Ran, Server, Who, pacmans};

/// A distribution of one repository.
const PRESET: &str = r#"
name = "small"
title = "Small"
siglevel = "Required DatabaseOptional"
[keyring]
packages = ["small-keyring"]
populate = ["small"]
[[keyring.trusted]]
fingerprint = "CAE9D50223177389E43EF44FDCF0972CF9377410"
source = "a test"
date = "2026-11-29"
[arch.x86_64]
architecture = ["x86_64"]
servers = ["http://127.0.0.1:1/$repo"]
repos = ["t"]
[pacman]
repo = "none"
package = "pacman-static"
member = "usr/bin/pacman-static"
[pacman.arch.x86_64]
servers = ["http://127.0.0.1:1"]
[[pacman.trusted]]
fingerprint = "CAE9D50223177389E43EF44FDCF0972CF9377410"
source = "a test"
date = "2026-11-29"
"#;

/// A package: its name, more lines of its .PKGINFO, its files and its scriptlets.
type Package<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str);

const PACKAGES: &[Package<'_>] = &[
    ("plain", "", &[("usr/share/plain", "x")], ""),
    ("two", "", &[("usr/share/same", "2")], ""),
    ("three", "", &[("usr/share/same", "3")], ""),
    ("fights", "conflict = plain", &[], ""),
    ("versus", "conflict = plain<2", &[], ""),
    ("lacks", "depend = nothere>=3", &[], ""),
    ("above", "depend = lacks", &[], ""),
    ("foreign", "arch = aarch64", &[], ""),
    ("needed", "provides = virtual", &[], ""),
    ("wants", "depend = virtual", &[], ""),
    ("pinned", "depend = plain=1-1", &[], ""),
    ("trigger", "", &[("usr/share/trigger", "x")], ""),
    (
        "aborts",
        "",
        &[(
            "usr/share/libalpm/hooks/50-no.hook",
            "[Trigger]\nType=Package\nOperation=Install\nTarget=trigger\n[Action]\nDescription=Saying no...\n\
             When=PreTransaction\nExec=/bin/false\nAbortOnFail\n",
        )],
        "",
    ),
    (
        "unready",
        "",
        &[(
            "usr/share/libalpm/hooks/60-dep.hook",
            "[Trigger]\nType=Package\nOperation=Install\nTarget=trigger\n[Action]\nWhen=PreTransaction\nDepends=absent\n\
             Exec=/bin/true\nAbortOnFail\n",
        )],
        "",
    ),
];

/// Makes packages, and adds them to the repository's database.
fn repository(dir: &Path, name: &str, version: &str, packages: &[Package<'_>]) {
    fs::create_dir_all(dir).expect("our own directory");
    let mut files = Vec::new();
    for (name, more, list, install) in packages {
        let tree = tempfile::tempdir_in(dir).expect("our own directory");
        let at = |path: &str| tree.path().join(path);
        let arch = if more.starts_with("arch = ") { "" } else { "arch = any\n" };
        let info = format!(
            "pkgname = {name}\npkgbase = {name}\npkgver = {version}\npkgdesc = x\nurl = x\nbuilddate = 1700000000\n\
             packager = x\nsize = 1\n{arch}{more}\n"
        );
        fs::write(at(".PKGINFO"), info).expect("our own directory");
        let mut members = vec![".PKGINFO".to_owned()];
        if !install.is_empty() {
            fs::write(at(".INSTALL"), install).expect("our own directory");
            members.push(".INSTALL".into());
        }
        for (path, text) in *list {
            fs::create_dir_all(at(path).parent().expect("a file")).expect("our own directory");
            match text.strip_prefix("zeros ") {
                Some(size) => {
                    let file = fs::File::create(at(path)).expect("our own directory");
                    let size = size.parse().expect("a size");
                    file.set_len(size).expect("a file with a hole");
                }
                None => fs::write(at(path), text).expect("our own directory"),
            }
        }
        if !list.is_empty() {
            members.push("usr".into());
        }
        let file = dir.join(format!("{name}-{version}-any.pkg.tar.gz"));
        let mut tar = Command::new("tar");
        tar.arg("-czf").arg(&file).arg("-C").arg(tree.path());
        assert!(tar.args(members).status().expect("tar is there").success());
        files.push(file);
    }
    let mut repo_add = Command::new("repo-add");
    repo_add.arg("-q").arg(dir.join(format!("{name}.db.tar.gz")));
    let out = repo_add.args(files).output().expect("repo-add is there");
    assert!(out.status.success(), "{out:?}");
}

/// What is asked for, and what is to be said.
struct Row {
    /// Options of mkconf.
    mkconf: String,
    /// A script before each run of strap.
    each: &'static str,
    /// A script between mkconf and strap. `$CONF` is the configuration.
    before: &'static str,
    /// What strap is asked for.
    strap: &'static str,
    status: i32,
    code: &'static str,
    /// All of them are in the message.
    says: &'static [&'static str],
    /// This is in the hint.
    hint: &'static str,
}

fn row(
    before: &'static str,
    strap: &'static str,
    (status, code): (i32, &'static str),
    says: &'static [&'static str],
    hint: &'static str,
) -> Row {
    Row { mkconf: String::new(), each: "", before, strap, status, code, says, hint }
}

/// Runs the rows with each pacman, each twice: as it is, and with -q. `root` is where the root is to be.
fn check(lab: &Lab, repo: &Path, rows: &[Row]) {
    check_as(lab, repo, (PRESET, ":", "--loose"), rows);
}

/// The same with a preset of its own, a script that follows mkconf, and options of strap's.
fn check_as(lab: &Lab, repo: &Path, (preset, then, options): (&str, &str, &str), rows: &[Row]) {
    fs::write(lab.path().join("small.toml"), preset).expect("our own directory");
    for (m, pacman) in pacmans().iter().enumerate() {
        for (n, row) in rows.iter().enumerate() {
            let dir = format!("{m}-{n}");
            let server = match row.mkconf.contains("--server") {
                true => String::new(),
                false => format!("--server file://{}", repo.display()),
            };
            let script = format!(
                "mkdir {dir} && cd {dir} && REPO={} && export REPO \
                 && mkroot root --arch x86_64 --distro ../small.toml | fetch-pacman --use {} \
                    | mkconf {server} {} --cache-dir $PWD/cache > document.json \
                 && CONF=root.strapline/pacman-loose.conf && {then} && {{ {}\n}}",
                repo.display(),
                pacman.display(),
                row.mkconf,
                if row.before.is_empty() { ":" } else { row.before },
            );
            let made = lab.sh(&script);
            assert_eq!(made.status, 0, "{script}: {}", made.stderr);
            for quiet in ["", "-q"] {
                let command =
                    format!("cd {dir}; {}\nstrap {options} {quiet} --state document.json {}", row.each, row.strap);
                said(&lab.sh(&command), row, &format!("{} {command}", pacman.display()));
            }
        }
    }
}

/// Checks what was said: one message with all of it, on stderr and in the document.
fn said(ran: &Ran, row: &Row, what: &str) {
    assert_eq!(ran.status, row.status, "{what}: {}", ran.stderr);
    let error = &ran.document()["error"];
    assert_eq!(error["code"], row.code, "{what}: {error}");
    let message = error["message"].as_str().unwrap_or_default();
    for text in row.says {
        assert!(message.contains(text), "{what}: no «{text}» in «{message}»");
    }
    let line = format!("strap: {message}");
    assert!(ran.stderr.lines().any(|l| l == line), "{what}: {}", ran.stderr);
    let hint = error["hint"].as_str().unwrap_or_default();
    assert!(hint.contains(row.hint), "{what}: no «{}» in «{hint}»", row.hint);
    assert_eq!(hint.is_empty(), row.hint.is_empty(), "{what}: {hint}");
}

const FAILED: (i32, &str) = (69, "failed");
const NETWORK: (i32, &str) = (75, "network");
const NOT_FOUND: (i32, &str) = (69, "not-found");
const NOT_VERIFIED: (i32, &str) = (69, "not-verified");

#[test]
fn what_is_in_the_way_is_named_with_package_and_file() {
    let lab = Lab::new(Who::Root);
    let repo = lab.path().join("repo");
    repository(&repo, "t", "1-1", PACKAGES);
    let exists = ": a file is there that no package owns";
    let exists = exists.trim_start_matches(": ");
    let rows = [
        row(
            "mkdir -p root/usr/share; echo x > root/usr/share/plain",
            "plain",
            FAILED,
            &["(conflicting files): plain: /", "/root/usr/share/plain exists in filesystem"],
            exists,
        ),
        row(
            "strap --loose -q --state document.json two > /dev/null",
            "three",
            FAILED,
            &["three: /", "/usr/share/same exists in filesystem (owned by two)"],
            "two packages have the same file",
        ),
        row(
            "",
            "two three",
            FAILED,
            &["/usr/share/same exists in both '", "'two'", "'three'"],
            "two packages have the same file",
        ),
        row(
            "",
            "plain fights",
            FAILED,
            &["(conflicting dependencies): fights", "plain", " are in conflict"],
            "leave one of them out",
        ),
        row(
            "strap --loose -q --state document.json plain > /dev/null",
            "versus",
            FAILED,
            &["(conflicting dependencies): versus", "plain", " are in conflict (plain<2)"],
            "leave one of them out",
        ),
        row(
            "",
            "above",
            FAILED,
            &[
                "unable to satisfy dependency 'nothere>=3' required by lacks",
                "unable to satisfy dependency 'lacks' required by above",
            ],
            "no repository has it",
        ),
        Row {
            mkconf: "--set IgnorePkg=needed".into(),
            ..row("", "wants", FAILED, &["unable to satisfy dependency 'virtual' required by wants"], "IgnorePkg")
        },
        row(
            "",
            "foreign",
            FAILED,
            &["package foreign-1-1-aarch64 does not have a valid architecture"],
            "for another architecture",
        ),
        row(
            "strap --loose -q --state document.json aborts > /dev/null",
            "trigger",
            (69, "child-failed"),
            &["(failed to run transaction hooks): the hook '50-no.hook'"],
            "nothing was installed",
        ),
        row(
            "strap --loose -q --state document.json unready > /dev/null",
            "trigger",
            FAILED,
            &["unable to run hook 60-dep.hook: could not satisfy dependencies"],
            "strap that first",
        ),
        row("", "nosuch", NOT_FOUND, &["target not found: nosuch"], "check the spelling"),
        row(
            "",
            "./plain-1-1-any.pkg.tar.gz",
            (64, "usage"),
            &["installing './plain-1-1-any.pkg.tar.gz': No such file or directory"],
            "",
        ),
        row(
            "sed -i 's/^SigLevel.*/SigLevel = Sometimes/' $CONF",
            "plain",
            FAILED,
            &["pacman-loose.conf, line ", "'Sometimes'"],
            "run mkconf again",
        ),
    ];
    check(&lab, &repo, &rows);
}

#[test]
fn a_disk_that_is_full_is_named() {
    let lab = Lab::new(Who::Root);
    let repo = lab.path().join("repo");
    let large: &[Package<'_>] = &[("large", "", &[("usr/share/large", "zeros 67108864")], "")];
    repository(&repo, "t", "1-1", large);
    // The root is made anew on a file system of 8 MiB.
    const SMALL: &str = "mkdir small && mount -t tmpfs -o size=8m tmpfs small \
                         && mkroot small/root --arch x86_64 --distro ../small.toml \
                         | fetch-pacman --use $(sed -n 's/.*\"path\":\"\\([^\"]*\\)\".*/\\1/p' document.json) \
                         | mkconf --server file://$REPO --cache-dir $PWD/cache > new.json && mv new.json document.json";
    let rows = [
        row(SMALL, "large", FAILED, &["large"], "free some space"),
        row(
            "mkdir small && mount -t tmpfs -o size=8m tmpfs small \
             && mkroot small/root --arch x86_64 --distro ../small.toml \
             | fetch-pacman --use $(sed -n 's/.*\"path\":\"\\([^\"]*\\)\".*/\\1/p' document.json) \
             | mkconf --server file://$REPO --cache-dir $PWD/cache > new.json && mv new.json document.json \
             && sed -i 's/^\\[options\\]/&\\nCheckSpace/' small/root.strapline/pacman-loose.conf",
            "large",
            FAILED,
            &["Partition ", "/small/root too full: ", " blocks needed"],
            "free some space",
        ),
    ];
    check(&lab, &repo, &rows);
    assert_eq!(lab.sh("for at in */small; do umount $at || exit; done").status, 0);
}

#[test]
fn a_database_that_cannot_be_read_or_is_not_there_is_named() {
    let lab = Lab::new(Who::Root);
    let repo = lab.path().join("repo");
    repository(&repo, "t", "1-1", PACKAGES);
    // Each of them is newer than what the mirror has, which pacman would not fetch in its place.
    for (name, script) in [("rubbish", "echo rubbish"), ("cut", "head -c 200 repo/t.db"), ("empty", ":")] {
        let made = lab.sh(&format!("mkdir {name} && {script} > {name}/t.db"));
        assert_eq!(made.status, 0, "{}", made.stderr);
    }
    let server = |name: &str| format!("--server {}", Server::of(&lab.path().join(name)).url());
    const RUBBISH: &[&str] = &["could not read db 't' ("];
    const CUT: &[&str] = &["could not open file ", "/sync/t.db: truncated gzip input"];
    const LACKS: &[&str] = &["target not found: plain", "the root has no database of the repository 't'"];
    const HERE: &str = "--no-refresh plain";
    const MENDS: &str = "another mirror";
    let rows = [
        Row { mkconf: server("rubbish"), ..row("", "plain", NETWORK, RUBBISH, MENDS) },
        Row { mkconf: server("cut"), ..row("", "plain", NETWORK, CUT, MENDS) },
        Row { mkconf: server("empty"), ..row("", "plain", NOT_FOUND, LACKS, MENDS) },
        Row {
            each: "mkdir -p root/var/lib/pacman/sync; cp ../rubbish/t.db root/var/lib/pacman/sync",
            ..row("", HERE, NETWORK, RUBBISH, MENDS)
        },
        Row {
            each: "mkdir -p root/var/lib/pacman/sync; cp ../cut/t.db root/var/lib/pacman/sync",
            ..row("", HERE, NETWORK, CUT, MENDS)
        },
        row("", HERE, NOT_FOUND, LACKS, "leave --no-refresh out"),
        row("", "--offline plain", NOT_FOUND, &["/sync/t.db': it is not there"], "without --offline"),
    ];
    check(&lab, &repo, &rows);
    // What could not be read is gone, and another mirror mends it.
    for (m, _) in pacmans().iter().enumerate() {
        for n in 0..5 {
            let ran = lab.sh(&format!(
                "cd {m}-{n} && mkconf -q --state document.json --server file://{} --cache-dir $PWD/cache | strap -q --loose plain",
                repo.display()
            ));
            drop(ran.succeeded());
        }
    }
}

#[test]
fn a_server_that_says_no_more_is_named_with_the_file() {
    let lab = Lab::new(Who::Root);
    let repo = lab.path().join("repo");
    repository(&repo, "t", "1-1", PACKAGES);
    let server = Server::lying(&repo, |request| match request.path.contains(".pkg.tar") {
        true => Answer::Stall(10),
        false => Answer::Serve,
    });
    let at =
        |strap, says, hint| Row { mkconf: format!("--server {}", server.url()), ..row("", strap, NETWORK, says, hint) };
    let says: &[&str] = &["'plain-1-1-any.pkg.tar.gz' from 127.0.0.1", "Operation too slow"];
    check(&lab, &repo, &[at("plain", says, "another mirror")]);
}

/// The first of those that provide it, in the order of the repository, with or without a word.
#[test]
fn a_choice_is_made_and_shown() {
    let lab = Lab::new(Who::Root);
    let repo = lab.path().join("repo");
    let provides: &[Package<'_>] = &[
        ("one", "provides = virtual", &[], ""),
        ("other", "provides = virtual", &[], ""),
        ("wants", "depend = virtual", &[], ""),
    ];
    repository(&repo, "t", "1-1", provides);
    fs::write(lab.path().join("small.toml"), PRESET).expect("our own directory");
    for pacman in pacmans() {
        for (quiet, shown) in [("", true), ("-q", false)] {
            let ran = lab.sh(&format!(
                "rm -rf root root.strapline; mkroot root --arch x86_64 --distro small.toml | fetch-pacman --use {} \
                 | mkconf --server file://{} --cache-dir $PWD/cache | strap --loose {quiet} wants",
                pacman.display(),
                repo.display()
            ));
            let document = ran.succeeded();
            let packages = document["packages"].as_array().expect("packages");
            let names: Vec<_> = packages.iter().map(|p| &p["name"]).collect();
            assert_eq!(names, ["one", "wants"]);
            for line in [":: There are 2 providers available for virtual:", "   1) one  2) other"] {
                assert_eq!(ran.stderr.lines().any(|l| l == line), shown, "{}", ran.stderr);
            }
        }
    }
}

/// A pacman of somebody's that works in the root, here by waiting for an answer, holds the database's lock.
#[test]
fn a_pacman_that_works_in_the_root_is_named() {
    let lab = Lab::new(Who::Root);
    let repo = lab.path().join("repo");
    repository(&repo, "t", "1-1", PACKAGES);
    fs::write(lab.path().join("small.toml"), PRESET).expect("our own directory");
    for pacman in pacmans() {
        let made = lab.sh(&format!(
            "rm -rf root root.strapline; mkroot root --arch x86_64 --distro small.toml | fetch-pacman --use {} \
             | mkconf --server file://{} --cache-dir $PWD/cache > document.json",
            pacman.display(),
            repo.display()
        ));
        assert_eq!(made.status, 0, "{}", made.stderr);
        let mut other = lab
            .command(&pacman)
            .args(["--config", "root.strapline/pacman-loose.conf", "-Sy", "plain"])
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("pacman is there");
        // Where it asks.
        let out = other.stderr.take().expect("a pipe");
        let mut said = Vec::new();
        for byte in std::io::Read::bytes(out) {
            said.push(byte.expect("pacman asks"));
            if said.ends_with(b"[Y/n] ") {
                break;
            }
        }
        for quiet in ["", "-q"] {
            let ran = lab.sh(&format!("strap --loose {quiet} --state document.json plain"));
            let database = lab.path().join("root/var/lib/pacman");
            ran.failed(75, &format!("locking '{}': {} ", database.display(), other.id()));
            let error = &ran.document()["error"];
            assert_eq!(error["code"], "busy");
            assert!(error["hint"].as_str().is_some_and(|hint| hint.starts_with("wait until it has ended")));
        }
        other.kill().expect("our own child");
        drop(other.wait());
        // A lock of a pacman that is no more is nobody's.
        drop(lab.sh("strap --loose -q --state document.json plain").succeeded());
    }
}

#[test]
fn what_a_server_refuses_is_told_from_what_may_go_away() {
    let lab = Lab::new(Who::Root);
    let repo = lab.path().join("repo");
    repository(&repo, "t", "1-1", PACKAGES);
    let tls = Tls::new(&lab);
    let (untrusted, plain_http) =
        (format!("--server https://127.0.0.1:{}", tls.port), format!("--server http://127.0.0.1:{}", tls.port));
    let at = |mkconf: String, row: Row| Row { mkconf, ..row };
    let refused: &[&str] = &["'t.db'", "127.0.0.1"];
    let mut rows = vec![
        at(untrusted, row("", "plain", FAILED, &["'t.db'", "SSL certificate"], "certificate authorities")),
        at(plain_http, row("", "plain", NETWORK, refused, "another mirror")),
        at("--server http://127.0.0.1:1".into(), row("", "plain", NETWORK, refused, "another mirror")),
        at(
            "--server http://nosuch.invalid".into(),
            row("", "plain", NETWORK, &["'t.db'", "nosuch.invalid"], "try again"),
        ),
    ];
    // Lest they are gone before the rows are checked.
    let mut servers = Vec::new();
    for (status, expected, hint) in [
        (401, FAILED, "a login"),
        (403, FAILED, "a login"),
        (407, FAILED, "a login"),
        (404, NETWORK, "try again"),
        (429, NETWORK, "try again"),
        (500, NETWORK, "try again"),
        (503, NETWORK, "try again"),
    ] {
        let server = Server::lying(&repo, move |_| Answer::Status(status, "no"));
        let row = row("", "plain", expected, &["'t.db'", "returned error: "], hint);
        rows.push(at(format!("--server {}", server.url()), row));
        servers.push(server);
    }
    // The database is there, and a package is not to be had.
    let server = Server::lying(&repo, |request| match request.path.contains(".pkg.tar") {
        true => Answer::Status(403, "no"),
        false => Answer::Serve,
    });
    rows.push(at(
        format!("--server {}", server.url()),
        row("", "plain", FAILED, &["'plain-1-1-any.pkg.tar.gz'", "returned error: 403"], "a login"),
    ));
    check(&lab, &repo, &rows);
}

#[test]
fn what_is_not_what_was_signed_is_named() {
    let lab = Lab::new(Who::Root);
    let repo = lab.path().join("repo");
    repository(&repo, "t", "1-1", PACKAGES);
    let script = "umask 077; mkdir g; export GNUPGHOME=$PWD/g; umask 022
        gpg -q --batch --passphrase '' --quick-gen-key 'A <a@example>' ed25519 sign never
        gpg -q --batch --export > a.gpg
        for n in two three; do gpg -q --batch --detach-sign -o repo/$n-1-1-any.pkg.tar.gz.sig repo/$n-1-1-any.pkg.tar.gz; done
        cp repo/two-1-1-any.pkg.tar.gz.sig repo/needed-1-1-any.pkg.tar.gz.sig
        # As long as it was.
        printf X | dd of=repo/fights-1-1-any.pkg.tar.gz bs=1 seek=30 conv=notrunc status=none
        gpgconf --homedir g --kill all";
    let made = lab.sh(script);
    assert_eq!(made.status, 0, "{}", made.stderr);
    const STRICT: &str = "sed -i 's/^SigLevel.*/SigLevel = PackageRequired DatabaseNever TrustedOnly/' $CONF
        chmod 700 root.strapline/gnupg; : > root.strapline/gnupg/pubring.gpg
        gpg -q --batch --no-autostart --homedir root.strapline/gnupg --import ../a.gpg";
    let rows = [
        row("", "fights", NOT_VERIFIED, &["fights-1-1-any.pkg.tar.gz"], "mirror"),
        row(STRICT, "plain", NOT_VERIFIED, &["no signature for 'plain-1-1-any.pkg.tar.gz'"], "another mirror"),
        row(STRICT, "two", NOT_VERIFIED, &["two: signature from \"A <a@example>\" is unknown trust"], "newer keyring"),
        row(STRICT, "needed", NOT_VERIFIED, &["needed: signature from \"A <a@example>\" is invalid"], "is not valid"),
    ];
    check(&lab, &repo, &rows);
}

/// Makes a keyring and its package, and signs packages: each of the keys is at fault in another way.
const SIGNERS: &str = "mkdir -m 700 g; export GNUPGHOME=$PWD/g
    on() { day=$1; shift; gpg -q --batch --no-tty --yes --pinentry-mode loopback --passphrase '' --faked-system-time=${day}T120000! \"$@\"; }
    of() { gpg -q --with-colons --list-keys \"$1@test\" | sed -n '/^fpr/{s/^fpr:*\\([0-9A-F]*\\):/\\1/p;q}'; }
    for n in m1 m2 m3 good two none gone stranger; do on 20180101 --quick-gen-key \"$n <$n@test>\" ed25519 cert,sign never; done
    on 20180101 --quick-gen-key 'ended <ended@test>' ed25519 cert,sign 2020-01-01
    for m in m1 m2 m3; do for n in good gone ended; do on 20180201 -u $m@test --quick-sign-key $(of $n); done; done
    for m in m1 m2; do on 20180201 -u $m@test --quick-sign-key $(of two); done
    gpg -q --batch --armor --export $(for n in m1 m2 m3 good two none gone ended; do echo $n@test; done) > small.gpg
    for n in m1 m2 m3; do echo $(of $n):4:; done > small-trusted
    of gone > small-revoked
";

/// A lock that means rubbish.
const LOCK: &str = r#"printf '{"strapline":1,"arch":"x86_64","packages":[{"name":"plain","version":"1-1","arch":"any","repo":"t","file":"plain-1-1-any.pkg.tar.gz","sha256":"%s","reason":"explicit","verified":true}]}' $(sha256sum < ../rubbish | cut -c 1-64) > lock.json"#;

#[test]
fn a_signer_who_may_not_sign_is_named_with_the_reason() {
    let lab = Lab::new(Who::Root);
    let repo = lab.path().join("repo");
    drop(lab.run_script(SIGNERS));
    let read = |name: &str| fs::read_to_string(lab.path().join(name)).expect("gpg does its work");
    let [keys, trusted, revoked] = ["small.gpg", "small-trusted", "small-revoked"].map(read);
    let ring: &[(&str, &str)] = &[
        ("usr/share/pacman/keyrings/small.gpg", &keys),
        ("usr/share/pacman/keyrings/small-trusted", &trusted),
        ("usr/share/pacman/keyrings/small-revoked", &revoked),
    ];
    let mut packages = PACKAGES.to_vec();
    packages.push(("small-keyring", "", ring, ""));
    repository(&repo, "t", "1-1", &packages);
    let (on, _) = SIGNERS[SIGNERS.find("export").expect("it is there")..]
        .split_once("    for n in m1")
        .expect("the functions come first");
    drop(lab.run_script(&format!(
        "{on}
        sign() {{ file=repo/$3-1-1-any.pkg.tar.gz; day=$1; n=$2; shift 3; on $day -u $n@test \"$@\" -o $file.sig --detach-sign $file; }}
        sign 20190101 good small-keyring
        sign 20190101 two two
        sign 20190101 none three
        sign 20190101 stranger fights
        sign 20190101 ended needed
        sign 20190101 gone trigger
        sign 20190101 good versus --default-sig-expire 2019-06-01
        echo rubbish > rubbish; on 20190101 -u good@test -o rubbish.sig --detach-sign rubbish"
    )));
    let (begin, end) = PRESET.split_once("[[keyring.trusted]]").expect("it is there");
    let (_, end) = end.split_once("[arch.").expect("it is there");
    let pins: String = trusted
        .lines()
        .filter_map(|line| line.strip_suffix(":4:"))
        .map(|key| format!("[[keyring.trusted]]\nfingerprint = \"{key}\"\nsource = \"x\"\ndate = \"2018-01-01\"\n"))
        .collect();
    let preset = format!("{begin}{pins}[arch.{end}");
    // An archive that a lock means and that is none: pacman -U is what is run.
    let locked = Row {
        each: "cp ../rubbish cache/plain-1-1-any.pkg.tar.gz; cp ../rubbish.sig cache/plain-1-1-any.pkg.tar.gz.sig",
        ..row(LOCK, "--offline --locked lock.json", NOT_VERIFIED, &["/cache/plain-1-1-any.pkg.tar.gz'"], "try again")
    };
    let of = |name, says, hint| row("", name, NOT_VERIFIED, says, hint);
    let rows = [
        of(
            "two",
            &["checking 'two': ", " (two <two@test>), for which 2 trusted keys vouch where 3 must"],
            "'keyring --trust ",
        ),
        of(
            "three",
            &["checking 'three': ", " (none <none@test>), for which no trusted key vouches where 3 must"],
            "'keyring --trust ",
        ),
        of("fights", &["checking 'fights': ", ", which is not in the keyring"], "a newer keyring package may help"),
        of(
            "needed",
            &["checking 'needed': ", " (ended <ended@test>), which expired on 2020-01-01"],
            "a newer keyring package may help",
        ),
        of(
            "trigger",
            &["checking 'trigger': ", " (gone <gone@test>), which is disabled"],
            "do not use packages by that key",
        ),
        of("versus", &["checking 'versus': ", " (good <good@test>)"], "a newer keyring package may help"),
        locked,
    ];
    let keyring = "keyring --state document.json > new.json && mv new.json document.json";
    check_as(&lab, &repo, (&preset, keyring, ""), &rows);
}

/// A server that speaks TLS, with a certificate that nobody vouches for.
struct Tls {
    child: Child,
    port: u16,
}

impl Tls {
    fn new(lab: &Lab) -> Self {
        let made =
            lab.sh("openssl req -x509 -newkey rsa:2048 -nodes -keyout k.pem -out c.pem -days 30 -subj /CN=localhost \
             -addext subjectAltName=IP:127.0.0.1 2>&1 \
             && cat k.pem c.pem > s.pem");
        assert_eq!(made.status, 0, "{}", made.stdout);
        const SERVE: &str = "import http.server, ssl, sys
h = http.server.ThreadingHTTPServer(('127.0.0.1', 0), http.server.BaseHTTPRequestHandler)
c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
c.load_cert_chain('s.pem')
h.socket = c.wrap_socket(h.socket, server_side=True)
print(h.server_port, flush=True)
h.serve_forever()";
        let mut command = lab.command("python3");
        let mut child =
            command.args(["-c", SERVE]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("python3 is there");
        let mut line = String::new();
        let out = child.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("a port");
        Self { child, port: line.trim().parse().expect("a port") }
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_scriptlet_cannot_name_another() {
    const FAILS: &str = "error: command failed to execute correctly";
    // The transaction goes by names where nothing depends on another.
    let named = "post_install() { echo 'installing b-other...'; false; }\n";
    let quoted = format!("post_install() {{ echo '{FAILS}'; }}\n");
    let hides = "post_install() {\n\
         printf '\\033[2K\\rinstalling b-other...\\r\\n[2026-01-01T00:00:00+0000] [ALPM] installed b-other (1-1)\\n'\n\
         printf ':: Running post-transaction hooks...\\n(1/1) Other\\ninstalling b-other...\\n'\nfalse\n}\n\
         post_upgrade() { post_install; }\n";
    let foreign = format!(
        "post_install() {{ echo '{FAILS}'; echo 'call to execv failed (Exec format error)'; echo 'installing a-bad...'; }}\n"
    );
    let mirror = Mirror::of("x86_64");
    let server = Server::of(&mirror.www());
    for pacman in pacmans() {
        let lab = Lab::new(Who::Root);
        let repo = lab.path().join("repo");
        let packages: Vec<Package<'_>> = vec![
            ("a-named", "", &[], named),
            ("a-quoted", "", &[], &quoted),
            ("a-hides", "", &[], hides),
            ("a-foreign", "", &[], &foreign),
            ("a-bad", "", &[], "post_install() { false; }\n"),
            ("b-other", "", &[], "post_install() { true; }\n"),
        ];
        repository(&repo, "mine", "1-1", &packages);
        let begin = format!(
            "mkroot root --arch x86_64 --distro {} | fetch-pacman --use {} \
             | mkconf --server '{}/$arch/$repo' --repo mine=file://{} --cache-dir $PWD/cache \
             | strap --loose bash coreutils > before.json",
            mirror.preset().display(),
            pacman.display(),
            server.url(),
            repo.display()
        );
        let ran = lab.sh(&begin);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let of = |name: &str| format!("running the scriptlet of '{name}': command failed to execute correctly");
        for (targets, culprit) in [
            ("a-named b-other", Some("a-named")),
            ("a-quoted", None),
            ("a-hides b-other", Some("a-hides")),
            ("a-foreign b-other", None),
            ("a-bad a-foreign", Some("a-bad")),
            // As post_upgrade.
            ("a-hides", Some("a-hides")),
        ] {
            if targets == "a-hides" {
                repository(&repo, "mine", "2-1", &[packages[2], packages[5]]);
            }
            let ran = lab.sh(&format!("strap --loose --state before.json {targets}"));
            let error = &ran.document()["error"];
            match culprit {
                Some(name) => {
                    assert_eq!(error["message"], of(name), "{targets}: {}", ran.stderr);
                    assert_eq!(ran.status, 69);
                }
                None => assert_eq!(*error, Value::Null, "{targets}: {}", ran.stderr),
            }
        }
    }
}
