//! `verify` against roots that the whole pipe made, with a real pacman and real signatures: what went in before there was
//! a keyring is verified afterwards, and whatever is altered then is found and named.

use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use strapline_tests::{Lab, Mirror, Ran, Server, Who};

/// A root in a laboratory, with its document in `doc.json`.
struct Bench {
    lab: Lab,
    mirror: Mirror,
    server: Server,
}

impl Bench {
    /// Makes a root with these packages, in the order of the shell procedure: loose, then the keyring.
    fn new(who: Who, mirror: Mirror, packages: &str) -> Self {
        let lab = Lab::new(who);
        let server = Server::of(&mirror.www());
        let ran = lab.sh(&format!(
            "mkroot root --arch x86_64 --distro {preset} \
             | fetch-pacman --cache-dir fetched --server {url}/archlinuxcn/x86_64 \
             | mkconf --server '{url}/$arch/$repo' --cache-dir $PWD/packages \
             | strap --loose {packages} | keyring > doc.json; cat doc.json",
            preset = mirror.preset().display(),
            url = server.url(),
        ));
        drop(ran.succeeded());
        Self { lab, mirror, server }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.lab.path().join(below)
    }

    fn verify(&self, options: &str) -> Ran {
        self.lab.sh(&format!("verify --state doc.json --quiet {options}"))
    }

    /// Checks that all is well, and returns the document.
    #[track_caller]
    fn good(&self) -> Value {
        let ran = self.verify("");
        assert_eq!(ran.stderr, "");
        let document = ran.succeeded();
        for package in document["packages"].as_array().expect("packages") {
            let found = ["verified", "signature", "files"].map(|key| package[key].clone());
            assert_eq!(found, [Value::from(true), "valid".into(), "intact".into()], "{package}");
        }
        document
    }

    /// Checks that nobody looks at what an option leaves out.
    #[track_caller]
    fn without(&self, option: &str) {
        let ran = self.verify(option);
        assert_eq!(ran.stderr, "");
        drop(ran.succeeded());
    }

    /// Checks that it failed with this line, and returns the document.
    #[track_caller]
    fn bad(&self, line: &str) -> Value {
        let ran = self.verify("");
        ran.failed(69, line);
        let document = ran.document();
        assert_eq!(document["error"]["code"], "not-verified");
        document
    }

    /// Alters a file or directory, looks, and puts it back as it was.
    #[track_caller]
    fn altered(&self, below: &str, alter: impl FnOnce(&Path), line: &str) -> Value {
        let keep = self.path("keep");
        let path = self.path(below);
        self.must(&format!("cp -a '{below}' keep"));
        alter(&path);
        let document = self.bad(line);
        self.must(&format!("rm -rf '{below}' && mv keep '{below}'"));
        assert!(!keep.exists());
        document
    }

    /// Alters the owner, mode or ACL of what is in the root, checks that it is found, and puts it back as it was.
    #[track_caller]
    fn altered_mode(&self, below: &str, alter: impl FnOnce(&Path), line: &str) {
        let kept = self.must(&format!("cd root; getfacl -n '{below}'"));
        alter(&self.path("root").join(below));
        let ran = self.verify("--no-signatures");
        ran.failed(69, line);
        assert_eq!(ran.document()["error"]["code"], "not-verified");
        self.put_back(&kept);
    }

    /// The same, where it is no finding. Returns the document.
    #[track_caller]
    fn unaltered(&self, below: &str, alter: impl FnOnce(&Path)) -> Value {
        let kept = self.must(&format!("cd root; getfacl -n '{below}'"));
        alter(&self.path("root").join(below));
        let ran = self.verify("--no-signatures");
        assert_eq!(ran.stderr, "");
        self.put_back(&kept);
        ran.succeeded()
    }

    fn put_back(&self, kept: &str) {
        fs::write(self.path("acl"), kept).expect("ours");
        self.must("cd root; setfacl --restore=../acl");
    }

    /// Runs a script that must succeed. An agent that gpg starts ends with it.
    #[track_caller]
    fn must(&self, script: &str) -> String {
        self.lab.run_script(script)
    }

    /// Makes `k` a home of gpg's with the mirror's secret keys.
    fn secret_keys(&self) {
        self.must(&format!("mkdir -m 700 k && cp -a {}/keys/gnupg/. k/ && rm -f k/S.*", self.mirror.dir.display()));
    }

    /// Returns the path of a package's archive in the cache.
    fn archive(&self, name: &str) -> String {
        let found = fs::read_dir(self.path("packages")).expect("a cache").flatten().find_map(|e| {
            let file = e.file_name().to_string_lossy().into_owned();
            let rest = file.strip_prefix(name)?.strip_prefix('-')?;
            let version = rest.starts_with(|c: char| c.is_ascii_digit());
            (version && !file.ends_with(".sig")).then_some(file)
        });
        format!("packages/{}", found.expect(name))
    }
}

const GPG: &str = "gpg --batch --quiet --no-tty --no-permission-warning";

fn package<'a>(document: &'a Value, name: &str) -> &'a Value {
    let packages = document["packages"].as_array().expect("packages");
    packages.iter().find(|p| p["name"] == name).expect(name)
}

/// Changes the byte in the middle of a file, and no more.
fn change_a_byte(path: &Path) {
    let mut bytes = fs::read(path).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("our own file");
}

#[test]
fn what_went_in_loose_is_verified_afterwards() {
    for who in [Who::Root, Who::User] {
        let bench = Bench::new(who, Mirror::of("x86_64"), "base archlinux-keyring");
        let before: Value = serde_json::from_slice(&fs::read(bench.path("doc.json")).expect("doc.json")).expect("JSON");
        assert_eq!(package(&before, "bash")["verified"], false);
        // Written since, by hand or by a hook: it is there for that.
        let passwd = bench.path("root/etc/passwd");
        let text = fs::read_to_string(&passwd).expect("a file") + "x:x:1:1::/:/bin/sh\n";
        fs::write(&passwd, text).expect("our own file");
        let document = bench.good();
        let verify = &document["verify"];
        let count = document["packages"].as_array().map(Vec::len).expect("packages");
        assert!(count > 100, "{count}");
        assert_eq!(verify["packages"], count);
        assert_eq!(verify["signatures"]["valid"], count);
        assert_eq!(verify["files"]["intact"], count);
        assert_eq!(verify["fetched"], 0);
        assert_eq!(verify["transaction"], "complete");
        let changed = package(&document, "filesystem")["configuration"].as_array();
        assert!(changed.is_some_and(|list| list.contains(&"etc/passwd".into())));
        assert_eq!(package(&document, "bash")["key"], bench.mirror.key("/builder"));
        if who == Who::User {
            // An owner of the host's: in the root it is nobody's.
            lchown(bench.path("root/usr/bin/bash"), Some(0), Some(0)).expect("we are root");
            bench.bad("verify: verifying 'bash': 'usr/bin/bash' is changed (owner)");
        }
    }
}

#[test]
fn whatever_is_altered_is_found_and_named() {
    let bench = Bench::new(Who::Root, Mirror::of("x86_64"), "bash grep nano");
    bench.good();
    files(&bench);
    archives(&bench);
    signers(&bench);
    records(&bench);
    bench.good();
}

/// What is installed.
fn files(bench: &Bench) {
    let nano = "root/usr/bin/nano";
    let changed = |what: &str| format!("verify: verifying 'nano': 'usr/bin/nano' is changed ({what})");
    let document = bench.altered(nano, change_a_byte, &changed("content"));
    let nano_is = package(&document, "nano");
    assert_eq!((&nano_is["files"], &nano_is["signature"]), (&"changed".into(), &"valid".into()));
    assert_eq!(nano_is["verified"], false);
    assert_eq!(nano_is["changed"][0]["path"], "usr/bin/nano");
    assert_eq!(package(&document, "bash")["verified"], true);
    assert_eq!(document["verify"]["files"]["changed"], 1);
    bench.altered(nano, |p| fs::write(p, "").expect("ours"), &changed("size"));
    let set_uid = |p: &Path| fs::set_permissions(p, fs::Permissions::from_mode(0o4755)).expect("ours");
    bench.altered(nano, set_uid, &changed("mode"));
    bench.altered(nano, |p| lchown(p, Some(1), None).expect("ours"), &changed("owner"));
    bench.altered(nano, |p| lchown(p, None, Some(1)).expect("ours"), &changed("group"));
    let link = |p: &Path| {
        fs::remove_file(p).expect("ours");
        symlink("/bin/sh", p).expect("ours");
    };
    bench.altered(nano, link, &changed("type"));
    let document = bench.altered(
        nano,
        |p| fs::remove_file(p).expect("ours"),
        "verify: verifying 'nano': 'usr/bin/nano' is missing",
    );
    assert_eq!(package(&document, "nano")["files"], "missing");
    assert_eq!(package(&document, "nano")["missing"][0], "usr/bin/nano");
    let elsewhere = |p: &Path| {
        fs::remove_file(p).expect("ours");
        symlink("nano", p).expect("ours");
    };
    bench.altered("root/usr/bin/sh", elsewhere, "verify: verifying 'bash': 'usr/bin/sh' is changed (target)");
    // A directory that anybody may write to is no matter of its content.
    let open = |p: &Path| fs::set_permissions(p, fs::Permissions::from_mode(0o777)).expect("ours");
    bench.altered("root/usr/share/nano", open, "'usr/share/nano' is changed (mode)");
    // With --no-files nobody looks.
    set_uid(&bench.path(nano));
    bench.without("--no-files");
    fs::set_permissions(bench.path(nano), fs::Permissions::from_mode(0o755)).expect("ours");
}

/// What is in the cache.
fn archives(bench: &Bench) {
    let archive = bench.archive("nano");
    let builder = bench.mirror.key("/builder");
    let not_signed = format!("verify: verifying 'nano': it is not what the key {builder} (mkmirror Build System");
    let document = bench.altered(&archive, change_a_byte, &not_signed);
    assert_eq!(package(&document, "nano")["signature"], "bad");
    assert_eq!(package(&document, "nano")["verified"], false);
    assert_eq!(document["verify"]["signatures"]["bad"], 1);
    // With --no-signatures nobody looks.
    let mut bytes = fs::read(bench.path(&archive)).expect("an archive");
    bytes.push(0);
    bench.altered(
        &archive,
        |path| {
            fs::write(path, bytes).expect("ours");
            bench.without("--no-signatures");
        },
        &not_signed,
    );
    // Another package's archive with its own, good signature.
    let other = bench.archive("grep");
    let signature = format!("{}/www/x86_64/core/{}.sig", bench.mirror.dir.display(), &other["packages/".len()..]);
    let swapped = |path: &Path| {
        fs::copy(bench.path(&other), path).expect("ours");
        fs::copy(&signature, format!("{}.sig", path.display())).expect("ours");
    };
    let document =
        bench.altered(&archive, swapped, "verify: verifying 'nano': it is another package's: that of 'grep'");
    assert_eq!(package(&document, "nano")["signature"], "bad");
    fs::remove_file(bench.path(&format!("{archive}.sig"))).expect("ours");
    // Not there any more: it is fetched again.
    fs::remove_file(bench.path(&archive)).expect("ours");
    assert_eq!(bench.good()["verify"]["fetched"], 1);
    // No signature in the database, and none beside the archive, and no repository that could have one.
    fs::remove_file(bench.path(&format!("{archive}.sig"))).expect("it was fetched too");
    let sync = "root/var/lib/pacman/sync";
    bench.altered(
        sync,
        |path| {
            fs::remove_file(path.join("extra.db")).expect("ours");
            // The one that the document has is as good.
            bench.good();
            let doc = fs::read_to_string(bench.path("doc.json")).expect("ours");
            let mut other: Value = serde_json::from_str(&doc).expect("a document");
            for package in other["packages"].as_array_mut().expect("packages") {
                package.as_object_mut().expect("one").remove("pgpsig");
            }
            fs::write(bench.path("doc.json"), other.to_string()).expect("ours");
            let document = bench.bad("verify: verifying 'nano': its archive has no signature");
            assert_eq!(package(&document, "nano")["signature"], "missing");
            fs::write(bench.path("doc.json"), doc).expect("ours");
            fs::rename(bench.path(&archive), bench.path("away")).expect("ours");
        },
        "verify: verifying 'nano': its archive is not in the cache",
    );
    fs::rename(bench.path("away"), bench.path(&archive)).expect("ours");
    bench.good();
    // A database is read where the document and the cache do not say all.
    let database = bench.path(sync).join("extra.db");
    let kept = fs::read(&database).expect("a database");
    fs::write(&database, "no database").expect("ours");
    bench.good();
    fs::rename(bench.path(&archive), bench.path("away")).expect("ours");
    let reading = format!("verify: reading '{}': ", database.display());
    bench.verify("").failed(69, &reading);
    fs::write(&database, kept).expect("ours");
    fs::rename(bench.path("away"), bench.path(&archive)).expect("ours");
    bench.good();
}

/// Who signed it, in the keyring.
fn signers(bench: &Bench) {
    bench.secret_keys();
    let [builder, master, stranger] = ["/builder", "/masters/2", "/stranger"].map(|role| bench.mirror.key(role));
    let home = "root.strapline/gnupg";
    let all = |why: &str| {
        format!(
            "and {} more: it is signed by the key {builder} (mkmirror Build System <builder@mkmirror.invalid>), {why}",
            package_count(bench) - 3
        )
    };
    // What verify finds of a package that is there, strap finds of one that it is to install: in place of pacman's words,
    // which are "unknown trust" for most of these.
    let with = |script: String, word: &str, line: &str| {
        let alter = |_: &Path| {
            bench.must(&script);
            let ran = bench.lab.sh("strap --state doc.json --quiet sed");
            let (_, line) = line.rsplit_once(": ").unwrap_or(("", line));
            ran.failed(69, line);
            assert_eq!(ran.document()["error"]["code"], "not-verified");
            let own = ran.stderr.lines().find(|l| l.starts_with("strap: checking '"));
            assert!(own.is_some_and(|l| l.contains("'sed'")), "{}", ran.stderr);
            assert!(!bench.path("root/usr/bin/sed").exists());
        };
        let document = bench.altered(home, alter, line);
        let count = package_count(bench);
        assert_eq!(document["verify"]["signatures"][word], count, "{word}");
        assert_eq!(package(&document, "nano")["signature"], word);
        assert_eq!(package(&document, "nano")["verified"], false);
        document
    };
    let sha1 = sha1_instead_of(bench, &builder, home);
    with(sha1, "marginal", &all("for which 2 trusted keys vouch where 3 must, and 1 with SHA-1, which gpg 2."));
    // gpg takes no day in the past, so it is told that it is the past.
    let expire = format!(
        "made=$({GPG} --homedir k --with-colons --list-keys {builder} | sed -n 's/^pub:[^:]*:[^:]*:[^:]*:[^:]*:\\([0-9]*\\):.*/\\1/p')
         {GPG} --homedir k --faked-system-time $((made + 20)) --quick-set-expire {builder} seconds=5
         {GPG} --homedir k --export {builder} | {GPG} --homedir {home} --import"
    );
    let document = with(expire, "expired", &all("which expired on 20"));
    let hint = document["error"]["hint"].as_str().expect("a hint");
    assert!(hint.contains("strap archlinux-keyring"), "{hint}");
    let revoke = format!("sed 's/^:-----/-----/' k/openpgp-revocs.d/{builder}.rev | {GPG} --homedir {home} --import");
    with(revoke, "revoked", &all("which its owner revoked"));
    let trust = |key: &str, value: u8| {
        format!(
            "echo {key}:{value}: | {GPG} --homedir {home} --import-ownertrust; {GPG} --homedir {home} --check-trustdb"
        )
    };
    with(trust(&builder, 128), "disabled", &all("which is disabled"));
    with(trust(&master, 3), "marginal", &all("for which 2 trusted keys vouch where 3 must"));
    let nobody: String =
        ["/masters/0", "/masters/1", "/masters/2"].map(|role| trust(&bench.mirror.key(role), 3)).join("\n");
    with(nobody, "untrusted", &all("for which no trusted key vouches where 3 must"));
    let delete = format!("{GPG} --homedir {home} --yes --delete-keys {builder}");
    let line = format!("it is signed by the key {builder}, which is not in the keyring");
    with(delete, "unknown-key", &line);
    bench.altered(home, |_| drop(bench.must(&format!("rm -r {home}"))), "verify: looking for the keyring '");
    // Trust that nobody asked for, in the root's own keyring, counts for nothing here, and is said. What the root has for gpg to
    // read is not read.
    let home = "root/etc/pacman.d/gnupg";
    let line = format!("verify: checking the keyring: {stranger} (");
    bench.altered(
        home,
        |path| {
            bench.must(&format!(
                "{GPG} --homedir k --export {stranger} | {GPG} --homedir {home} --import
                 echo {stranger}:6: | {GPG} --homedir {home} --import-ownertrust
                 {GPG} --homedir {home} --check-trustdb"
            ));
            fs::write(path.join("gpg.conf"), "no-such-option\n").expect("ours");
        },
        &line,
    );
    // A keyring in the root with nothing in it, or none, is no finding: it is the machine's to make.
    bench.must(&format!("mv {home} away"));
    bench.good();
    bench.must(&format!("mv away {home}"));
}

/// Returns a script that has the builder's key certified anew by the masters, by the third with SHA-1 as in 2014.
fn sha1_instead_of(bench: &Bench, builder: &str, home: &str) -> String {
    let masters = ["/masters/0", "/masters/1", "/masters/2"].map(|role| bench.mirror.key(role));
    let sign = |master: &String, options: &str| {
        format!("{GPG} --homedir s --default-key {master} {options} --quick-sign-key {builder}\n")
    };
    let [one, two, three] = &masters;
    format!(
        "mkdir -m 700 s && cp -a k/private-keys-v1.d s/
         {GPG} --homedir k --export {one} {two} {three} | {GPG} --homedir s --import
         {GPG} --homedir k --export-options export-minimal --export {builder} | {GPG} --homedir s --import
         {}{}{}
         {GPG} --homedir {home} --yes --delete-keys {builder}
         {GPG} --homedir s --export {builder} | {GPG} --homedir {home} --import
         {GPG} --homedir {home} --check-trustdb
         rm -rf s",
        sign(one, ""),
        sign(two, ""),
        sign(three, "--cert-digest-algo SHA1 --allow-weak-key-signatures"),
    )
}

fn package_count(bench: &Bench) -> usize {
    let records = fs::read_dir(bench.path("root/var/lib/pacman/local")).expect("a database");
    records.count() - 1
}

/// pacman's own records in the root, which whoever changes a file could change too.
fn records(bench: &Bench) {
    let local = "root/var/lib/pacman/local";
    let record = fs::read_dir(bench.path(local)).expect("a database").flatten();
    let record = record.map(|e| e.file_name().to_string_lossy().into_owned());
    let record = record.into_iter().find(|n| n.starts_with("nano-")).expect("nano");
    let nano = bench.path("root/usr/bin/nano");
    let forged = format!("'var/lib/pacman/local/{record}/mtree' is changed (content)");
    let before = fs::read(&nano).expect("nano");
    // A changed program, and a record that says that it is as it should be.
    let forge = |path: &Path| {
        fs::write(&nano, "#!/bin/sh\n").expect("ours");
        let mtree = path.join("mtree");
        bench.must(&format!(
            "hash=$(sha256sum < root/usr/bin/nano | cut -d' ' -f1)
             zcat {m} | sed \"\\|^./usr/bin/nano |s/size=[0-9]*/size=10/; \\|^./usr/bin/nano |s/sha256digest=.*/sha256digest=$hash/\" > m
             gzip < m > {m}; rm m",
            m = mtree.display()
        ));
        // Without a signature to hold on to, there is nothing else to believe.
        bench.without("--no-signatures");
    };
    let document = bench.altered(&format!("{local}/{record}"), forge, &forged);
    let paths = package(&document, "nano")["changed"].as_array().expect("paths").clone();
    assert!(paths.iter().any(|c| c["path"] == "usr/bin/nano"), "{paths:?}");
    // A record that calls the program a configuration file.
    let line = "verify: verifying 'nano': 'usr/bin/nano' is changed (size)";
    let configure = |path: &Path| {
        let files = fs::read_to_string(path.join("files")).expect("a record");
        let (files, _) = files.split_once("%BACKUP%").unwrap_or((&files, ""));
        let files = format!("{files}%BACKUP%\nusr/bin/nano\t00000000000000000000000000000000\n");
        fs::write(path.join("files"), files).expect("ours");
        bench.without("--no-signatures");
    };
    bench.altered(&format!("{local}/{record}"), configure, line);
    fs::write(&nano, before).expect("ours");
    // Cut off, by a pacman that was killed.
    let line = format!("verify: verifying '{record}': its record is incomplete");
    let cut = |path: &Path| fs::remove_file(path.join("desc")).expect("ours");
    bench.altered(&format!("{local}/{record}"), cut, &line);
    let log = |path: &Path| {
        let text = fs::read_to_string(path).expect("a log");
        let text = text + "[2026-11-22T10:00:00+0000] [ALPM] transaction started\n";
        fs::write(path, text).expect("ours");
    };
    let line = "verify: verifying the last transaction: it was begun and not completed";
    let document = bench.altered("root/var/log/pacman.log", log, line);
    assert_eq!(document["verify"]["transaction"], "unfinished");
    // Several at once: the first is the failure, the others are warnings.
    fs::write(bench.path("root/var/lib/pacman/db.lck"), "").expect("ours");
    let ran = {
        let nano = fs::metadata(&nano).expect("nano").mode();
        fs::set_permissions(bench.path("root/usr/bin/nano"), fs::Permissions::from_mode(0o700)).expect("ours");
        let ran = bench.verify("");
        fs::set_permissions(bench.path("root/usr/bin/nano"), fs::Permissions::from_mode(nano)).expect("ours");
        ran
    };
    ran.failed(69, "'usr/bin/nano' is changed (mode) (and 1 more)");
    assert!(ran.stderr.contains("verify: warning: verifying the last transaction: "), "{}", ran.stderr);
    fs::remove_file(bench.path("root/var/lib/pacman/db.lck")).expect("ours");
}

/// With a clock that is behind, everything was signed in the future, and gpg has a word for each key and none for the cause.
#[test]
fn a_clock_that_is_behind_is_said_first() {
    let bench = Bench::new(Who::Root, Mirror::of("x86_64"), "bash grep nano");
    let then = |day: &str, command: &str| {
        bench.lab.sh(&format!(
            "unshare --mount --propagation private sh {}/tests/clock.sh {day} {command}",
            strapline_tests::top().display()
        ))
    };
    let clock = "reading the clock: it says 2020-02-29, and ";
    for (tool, command, line) in [
        ("strap", "strap --state doc.json --quiet sed", clock),
        ("verify", "verify --state doc.json --quiet", clock),
        ("keyring", "sh -c 'rm -r root/etc/pacman.d/gnupg; keyring --state doc.json --quiet'", clock),
        (
            "fetch-pacman",
            "sh -c 'rm -r fetched; fetch-pacman --state doc.json --quiet --cache-dir fetched --server $MIRROR'",
            "and for this host it is 2020-02-29: its clock is wrong",
        ),
    ] {
        let mirror = format!("{}/archlinuxcn/x86_64", bench.server.url());
        let ran = then("2020-02-29", &command.replace("$MIRROR", &mirror));
        ran.failed(69, line);
        let error = &ran.document()["error"];
        assert_eq!((&error["tool"], &error["code"]), (&tool.into(), &"not-verified".into()));
        assert!(error["hint"].as_str().is_some_and(|h| h.contains("set ")), "{error}");
    }
    assert!(!bench.path("root/usr/bin/sed").exists());
    assert!(!bench.path("root/etc/pacman.d/gnupg").exists());
}

#[test]
fn what_a_mirror_altered_went_in_loose_and_is_found() {
    for (kind, word, line) in [
        ("nano-bad-signature", "bad", "verify: verifying 'nano': it is not what the key "),
        ("nano-altered-unsigned", "missing", "verify: verifying 'nano': its archive has no signature"),
        ("nano-stranger-key", "unknown-key", "which is not in the keyring"),
        ("nano-retired-key", "disabled", "which is disabled: the distribution revoked it"),
    ] {
        let place = tempfile::tempdir().expect("a directory");
        let mirror = Mirror::of("x86_64").tampered(&place.path().join("mirror"), kind);
        let bench = Bench::new(Who::Root, mirror, "nano");
        assert!(bench.path("root/usr/share/nano/TAMPERED").exists(), "{kind}");
        let document = bench.bad(line);
        let nano = package(&document, "nano");
        assert_eq!((&nano["signature"], &nano["verified"]), (&word.into(), &false.into()), "{kind}");
        assert_eq!(package(&document, "ncurses")["verified"], true, "{kind}");
        // Nothing to fetch it from: then it may be there later.
        if kind == "nano-altered-unsigned" {
            bench.must("sed -i 's/127.0.0.1:[0-9]*/127.0.0.1:1/' root.strapline/pacman-strict.conf");
            let ran = bench.verify("");
            ran.failed(75, "verify: running pacman to download: ");
            assert_eq!(package(&ran.document(), "nano")["signature"], word);
        }
    }
}

/// What rules of packages, a scriptlet and another package make of a file, and what is nobody's.
#[test]
fn rules_are_compared_by_their_value() {
    for who in [Who::Root, Who::User] {
        let packages = "base libutempter ruled shared-two shared-one";
        let bench = Bench::new(who, Mirror::of("x86_64"), packages);
        // The real systemd-tmpfiles has applied them, as a hook of systemd's.
        let modes = bench.lab.sh(
            "enter --state doc.json -- stat -c '%a %U %G %n' /usr/lib/utempter/utempter /var/lib/ruled /var/lib/ruled/tree/data \
             /usr/lib/ruled/helper /usr/lib/ruled/one.sh /etc/ruled/app.ini /var/log/ruled/old/log /usr/lib/ruled/boot \
             /var/log/journal /usr/share/shared > modes",
        );
        assert_eq!(modes.status, 0, "{}", modes.stderr);
        assert_eq!(
            fs::read_to_string(bench.path("modes")).expect("ours"),
            "2755 root utmp /usr/lib/utempter/utempter\n750 daemon daemon /var/lib/ruled\n\
             660 root daemon /var/lib/ruled/tree/data\n711 root root /usr/lib/ruled/helper\n\
             2755 root wheel /usr/lib/ruled/one.sh\n660 root wheel /etc/ruled/app.ini\n660 root root /var/log/ruled/old/log\n\
             755 root root /usr/lib/ruled/boot\n2755 root systemd-journal /var/log/journal\n755 root root /usr/share/shared\n"
        );
        bench.good();
        if who == Who::User {
            continue;
        }
        let is = |path: &str, what: &str| format!(": '{path}' is changed ({what})");
        let mode = |mode| move |p: &Path| fs::set_permissions(p, fs::Permissions::from_mode(mode)).expect("ours");
        let owner = |uid, gid| move |p: &Path| lchown(p, uid, gid).expect("ours");
        let acl = |options: &'static str| {
            let bench = &bench;
            move |p: &Path| drop(bench.must(&format!("setfacl {options} '{}'", p.display())))
        };
        // Neither the package's value nor the rule's.
        for (path, set) in [
            ("usr/lib/utempter/utempter", 0o6755),
            ("usr/lib/utempter/utempter", 0o2775),
            ("var/lib/ruled", 0o770),
            ("var/lib/ruled/tree/data", 0o666),
            ("usr/lib/ruled/helper", 0o777),
            ("var/spool/ruled", 0o777),
            ("etc/ruled/app.ini", 0o666),
            ("var/log/journal", 0o2777),
            ("root", 0o777),
            ("var", 0o777),
            ("home", 0o777),
            ("usr/bin", 0o777),
            ("etc/passwd", 0o666),
            ("etc/shadow", 0o644),
        ] {
            bench.altered_mode(path, mode(set), &is(path, "mode"));
        }
        bench.altered_mode("root", owner(Some(1000), None), &is("root", "owner"));
        bench.altered_mode("etc/passwd", owner(Some(1000), None), &is("etc/passwd", "owner"));
        bench.altered_mode("var/lib/ruled", owner(None, Some(0)), &is("var/lib/ruled", "group"));
        bench.altered_mode("usr/lib", acl("-m d:u:1000:rwx"), &is("usr/lib", "acl"));
        bench.altered_mode("root", acl("-m u:1000:r-x"), &is("root", "acl"));
        bench.altered_mode("var/log/ruled", acl("-m g:998:r-x"), &is("var/log/ruled", "acl"));
        bench.altered_mode("usr/share/shared", mode(0o751), "'usr/share/shared' is changed (mode)");
        // The package's own value is right, the rule applied or not; so is the value at boot, and that of the other package.
        for (path, set) in [("usr/lib/ruled/helper", 0o755), ("usr/lib/ruled/boot", 0o700), ("usr/share/shared", 0o750)]
        {
            bench.unaltered(path, mode(set));
        }
        // Configuration may be kept from others, and no more.
        let document = bench.unaltered("etc/passwd", mode(0o600));
        let changed = package(&document, "filesystem")["configuration"].clone();
        assert!(changed.as_array().is_some_and(|list| list.contains(&"etc/passwd".into())), "{changed}");
        // Who owns a rule, and whether it is what the package brought.
        let rules = "root/usr/lib/tmpfiles.d";
        let line = is("usr/bin", "mode");
        for directory in [rules, "root/etc/tmpfiles.d", "root/run/tmpfiles.d"] {
            let own = |_: &Path| {
                fs::create_dir_all(bench.path(directory)).expect("ours");
                fs::write(bench.path(directory).join("own.conf"), "z /usr/bin 0777 - - -\nd /usr/bin 0777\n")
                    .expect("ours");
                mode(0o777)(&bench.path("root/usr/bin"));
            };
            bench.altered_mode("usr/bin", own, &line);
            fs::remove_file(bench.path(directory).join("own.conf")).expect("ours");
        }
        let more = |p: &Path| {
            let text = fs::read_to_string(p).expect("ours") + "z /usr/bin 0777 - - -\n";
            fs::write(p, text).expect("ours");
            mode(0o777)(&bench.path("root/usr/bin"));
        };
        bench.altered(&format!("{rules}/ruled.conf"), more, &line);
        mode(0o755)(&bench.path("root/usr/bin"));
        // An administrator's file of the same name permits nothing, and takes no rule away.
        bench.must("mkdir -p root/etc/tmpfiles.d; ln -s /dev/null root/etc/tmpfiles.d/libutempter.conf");
        bench.good();
        bench.must("rm root/etc/tmpfiles.d/libutempter.conf");
        bench.good();
    }
}

/// A scriptlet is a program: nothing says what it may change.
#[test]
fn what_a_scriptlet_changes_is_found() {
    let bench = Bench::new(Who::Root, Mirror::of("x86_64"), "base scripted");
    let document = bench.bad("verify: verifying 'scripted': 'usr/lib/scripted/tool' is changed (mode)");
    assert_eq!(document["verify"]["files"]["changed"], 1);
}

/// A package that the mirror does not have any more is one package.
#[test]
fn a_package_that_the_mirror_lacks_costs_no_other_one() {
    let bench = Bench::new(Who::Root, Mirror::of("x86_64"), "base nano sudo");
    let count = package_count(&bench);
    let place = tempfile::tempdir().expect("a directory");
    let mirror = Mirror::of("x86_64").tampered(&place.path().join("mirror"), "nano-removed");
    let lacking = Server::of(&mirror.www());
    bench.must(&format!("sed -i 's,{},{},' root.strapline/pacman-strict.conf", bench.server.url(), lacking.url()));
    let empty = "rm -rf packages/*";
    bench.must(&format!("{empty}; chmod 777 root/home"));
    let ran = bench.verify("");
    ran.failed(69, "verify: verifying 'filesystem': 'home' is changed (mode) (and 1 more)");
    // What is known to be wrong comes first, and everything is said.
    let nano = "verify: warning: verifying 'nano': its archive is not in the cache, and no repository has that version";
    assert!(ran.stderr.contains(nano), "{}", ran.stderr);
    let document = ran.document();
    let verify = &document["verify"];
    assert_eq!(
        [&verify["signatures"]["valid"], &verify["signatures"]["no-archive"], &verify["fetched"]],
        [&Value::from(count - 1), &1.into(), &Value::from(count - 1)]
    );
    assert_eq!(package(&document, "nano")["signature"], "no-archive");
    assert_eq!(package(&document, "nano")["files"], "intact");
    bench.must("chmod 755 root/home");
    bench.bad("verify: verifying 'nano': its archive is not in the cache");
    // Two of them, of three that are not in the cache.
    let other = Mirror { dir: place.path().join("mirror") };
    bench.must(&format!("{empty} && rm {}/www/x86_64/*/sudo-*.pkg.tar.*[!g]", other.dir.display()));
    let document = bench.bad("verify: verifying 'nano', 'sudo': its archive is not in the cache");
    assert_eq!(document["verify"]["signatures"]["valid"], count - 2);
    // Nobody answers: that is no finding, and may be another day.
    bench.must(&format!("{empty}; sed -i 's,127.0.0.1:[0-9]*,127.0.0.1:1,' root.strapline/pacman-strict.conf"));
    let ran = bench.verify("");
    ran.failed(75, "verify: running pacman to download: ");
    assert!(ran.stderr.contains(&format!("; {count} packages are not verified")), "{}", ran.stderr);
    assert!(!ran.stderr.contains("--loose"), "{}", ran.stderr);
    assert_eq!(ran.document()["verify"]["files"]["intact"], count);
    bench.must("chmod 777 root/home");
    let ran = bench.verify("");
    ran.failed(69, "verify: verifying 'filesystem': 'home' is changed (mode) (and 1 more)");
}
