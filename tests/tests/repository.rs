//! `strapline repository` beside the real repo-add(8), and what pacman makes of its repositories.

use crate::faults::Fault;
use crate::supervisor;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use strapline_tests::trial::redirected;
use strapline_tests::{Lab, Mirror, PACMAN, Who, lab, pacmans, tier};

/// Returns the package files of the mirror.
fn packages(mirror: &Mirror) -> Vec<PathBuf> {
    let repos =
        ["core", "extra"].map(|repo| fs::read_dir(mirror.www().join("x86_64").join(repo)).expect("a repository"));
    let files = repos.into_iter().flatten().map(|entry| entry.expect("a name").path());
    files.filter(|path| matches!(path.extension().and_then(|end| end.to_str()), Some("xz" | "zst"))).collect()
}

/// Returns the lines of sh(1) that make the package `hello`, of this version, with a file of this content.
fn hello(version: &str, content: &str) -> String {
    format!(
        "mkdir -p t/usr/share/hello && echo {content} > t/usr/share/hello/world
         printf 'pkgname = hello\\npkgver = {version}\\npkgdesc = Hello\\narch = any\\nsize = 6\\n' > t/.PKGINFO
         (cd t && bsdtar -cf - .PKGINFO usr) | zstd -q -f -o hello-{version}-any.pkg.tar.zst\n"
    )
}

/// The lines that make a key of one's own: its home `gnupg`, the file `mine.asc`, and `$key`.
const KEY: &str = "mkdir -m 700 gnupg
    gpg --homedir $PWD/gnupg --batch --quiet --passphrase '' --quick-generate-key 'Me <me@example.org>' ed25519 sign 2y
    key=$(gpg --homedir $PWD/gnupg --batch --with-colons --list-keys | sed -n 's/^fpr:*\\([0-9A-F]*\\):$/\\1/p' | head -n 1)
    gpg --homedir $PWD/gnupg --armor --export $key > mine.asc\n";

/// Returns the members of a database and their content.
fn members(database: &Path) -> BTreeMap<String, String> {
    let directory = tempfile::tempdir().expect("room");
    let unpacked = Command::new("bsdtar").arg("-xf").arg(database).arg("-C").arg(directory.path()).status();
    assert!(unpacked.is_ok_and(|status| status.success()), "{}", database.display());
    let mut members = BTreeMap::new();
    for entry in fs::read_dir(directory.path()).expect("entries") {
        let entry = entry.expect("an entry");
        for file in fs::read_dir(entry.path()).expect("a directory") {
            let file = file.expect("a file").path();
            let name = file.strip_prefix(directory.path()).expect("below it").display().to_string();
            members.insert(name, fs::read_to_string(&file).expect("text"));
        }
    }
    members
}

/// pacman 6.0 writes MD5SUM, which later ones do not.
fn without_md5(text: &str) -> String {
    let sections = text.split_inclusive("\n\n");
    sections.filter(|section| !section.starts_with("%MD5SUM%")).collect()
}

#[test]
fn the_databases_are_those_of_repo_add() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    // One that lists what is escaped, and says what repo-add makes one space of.
    let odd = "mkdir -p 't/usr/share/a b' && : > 't/usr/share/a b/x\\x2dy' && : > t/usr/share/caf\u{e9}
         printf '# x\\npkgname = odd\\npkgbase = odd\\nxdata = pkgtype=pkg\\npkgver = 1:1-1\\npkgdesc = An   odd\\tone \\n\
         arch = any\\nsize = 0\\nlicense = A\\nlicense = B\\ndepend = c>=1\\noptdepend = d: for e\\n' > t/.PKGINFO
         : > t/.MTREE; (cd t && bsdtar -cf - .PKGINFO .MTREE usr) | gzip > odd-1:1-1-any.pkg.tar.gz\n";
    let files: Vec<String> = packages(&mirror).iter().map(|path| path.display().to_string()).collect();
    assert!(files.len() > 100, "{} packages", files.len());
    let files = files.join(" ");
    let repo_add = if tier::soak() { "repo-add" } else { "repo-add -q" };
    drop(lab.run_script(&format!(
        "{odd}mkdir theirs && cp {files} odd-* theirs && for f in {files}; do cp $f.sig theirs; done
         strapline repository ours/x.db {files} odd-1:1-1-any.pkg.tar.gz
         cd theirs && LC_ALL=C.UTF-8 {repo_add} x.db.tar.gz *.gz *.xz *.zst > /dev/null 2>&1"
    )));
    for (database, count) in [("x.db", 1), ("x.files", 2)] {
        let ours = members(&lab.path().join("ours").join(database));
        let theirs = members(&lab.path().join("theirs").join(database));
        assert_eq!(ours.len(), count * (files.split(' ').count() + 1));
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
        for (name, text) in &ours {
            assert_eq!(*text, without_md5(&theirs[name]), "{name}");
        }
    }
}

#[test]
fn each_pacman_reads_them() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let files: Vec<String> = packages(&mirror).iter().map(|path| path.display().to_string()).collect();
    drop(lab.run_script(&format!(
        "{}strapline repository mine/mine.db {} hello-1-1-any.pkg.tar.zst",
        hello("1-1", "a"),
        files.join(" ")
    )));
    let listed =
        lab.run_script("bsdtar --exclude '^.*' -tf $(ls mine/systemd-[0-9]* | grep -v sig) | LC_ALL=C sort -u");
    for pacman in pacmans() {
        let here = lab.path().display();
        let config = format!(
            "[options]\nRootDir = {here}/r\nDBPath = {here}/r/db\nCacheDir = {here}/r/cache\nLogFile = {here}/r/log\n\
             Architecture = x86_64\nSigLevel = Never\n[mine]\nServer = file://{here}/mine\n"
        );
        fs::write(lab.path().join("conf"), config).expect("our own directory");
        let ask = format!("LC_ALL=C {} --config conf", pacman.display());
        let out = lab.run_script(&format!(
            "rm -rf r && mkdir -p r/db r/cache && {ask} -Fy > /dev/null && {ask} -Sy > /dev/null
             {ask} -Sp --print-format '%n %v' hello && {ask} -Slq | wc -l && {ask} -Flq systemd"
        ));
        let mut lines = out.lines();
        assert_eq!(lines.next(), Some("hello 1-1"));
        assert_eq!(lines.next(), Some(&*(files.len() + 1).to_string()));
        // What is not a directory.
        let listed = listed.lines().filter(|line| !line.ends_with('/'));
        assert_eq!(lines.filter(|line| !line.ends_with('/')).collect::<Vec<_>>(), listed.collect::<Vec<_>>());
    }
}

/// What one run downloaded, and a package of one's own, are installed by another one that has no network.
#[test]
fn a_run_from_what_another_one_downloaded() {
    let mirror = Mirror::of("x86_64");
    for pacman in pacmans() {
        let lab = Lab::new(Who::Root);
        let begin = |root: &str| {
            let (preset, pacman) = (mirror.preset().display().to_string(), pacman.display());
            format!("mkroot {root} --arch x86_64 --distro {preset} | fetch-pacman --use {pacman}")
        };
        let server = format!("file://{}/$arch/$repo", mirror.www().display());
        let there = "mine=file://$PWD/mine,\"siglevel=Required DatabaseRequired\"";
        let again =
            format!("mkconf --server file://$PWD/repo --repo {there} --cache-dir $PWD/other | keyring --key mine.asc");
        // The agent that gpg starts ends with the script.
        let out = lab.run_script(&format!(
            "{KEY}{hello}
             {one} | mkconf --server '{server}' --cache-dir $PWD/packages | keyring | strap base archlinux-keyring > r.json
             strapline repository --from r.json repo/core.db > /dev/null && strapline repository repo/extra.db > /dev/null
             strapline repository mine/mine.db hello-1-1-any.pkg.tar.zst --sign $key --gpgdir gnupg > /dev/null
             echo '{two} | {again} | strap base hello | verify' > again; unshare --net sh again > a.json
             echo '{three} | {again} --offline | strap --offline base hello | verify' > again; unshare --net sh again",
            hello = hello("1-1", "a"),
            one = begin("one"),
            two = begin("two"),
            three = begin("three"),
        ));
        let first: serde_json::Value =
            serde_json::from_slice(&fs::read(lab.path().join("a.json")).expect("a.json")).expect("JSON");
        for document in [first, serde_json::from_str(&out).expect("a document")] {
            assert_eq!(document.get("error"), None);
            let packages = document["packages"].as_array().expect("packages");
            assert!(packages.len() > 90, "{} packages", packages.len());
            assert!(packages.iter().all(|package| package["signature"] == "valid"));
            let hello = packages.iter().find(|package| package["name"] == "hello").expect("hello");
            assert_eq!((&hello["repo"], &hello["verified"]), (&"mine".into(), &true.into()));
        }
    }
}

#[test]
fn what_is_signed_and_when() {
    let lab = Lab::new(Who::Root);
    let out = lab.run_script(&format!(
        "{KEY}{}{}strapline repository d/m.db hello-1-1-any.pkg.tar.zst --sign $key --gpgdir gnupg
         sha256sum d/m.db d/*.zst.sig > before
         strapline repository d/m.db --sign $key --gpgdir gnupg && sha256sum -c --quiet before
         for f in d/m.db d/m.files d/hello-1-1-any.pkg.tar.zst; do gpg --homedir $PWD/gnupg --verify $f.sig $f; done
         ! strapline repository d/m.db hello-1-2-any.pkg.tar.zst 2> err || exit 1
         cat err; ls d | tr '\\n' ' '
         strapline repository d/m.db hello-1-2-any.pkg.tar.zst --sign $key --gpgdir gnupg
         gpg --homedir $PWD/gnupg --verify d/m.db.sig d/m.db; bsdtar -tf d/m.db
         export SOURCE_DATE_EPOCH=$(date +%s); for d in e f; do
             strapline repository $d/m.db hello-1-1-any.pkg.tar.zst --sign $key --gpgdir gnupg > /dev/null
         done; diff -r e f && ls e | wc -l",
        hello("1-1", "a"),
        hello("1-2", "b"),
    ));
    // A refused run has changed nothing.
    let there = "hello-1-1-any.pkg.tar.zst hello-1-1-any.pkg.tar.zst.sig m.db m.db.sig m.files m.files.sig ";
    assert!(out.contains("'d/m.files.sig' is signed, and would not be"), "{out}");
    assert!(out.contains(there), "{out}");
    assert!(out.ends_with("'d/m.db': 1 package\nhello-1-2/desc\n6\n"), "{out}");
}

#[test]
fn nothing_is_signed_that_nobody_verified() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let out = lab.run_script(&format!(
        "{KEY}mkroot root --arch x86_64 --distro {preset} | fetch-pacman --use {PACMAN} \
         | mkconf --server 'file://{www}/$arch/$repo' --cache-dir $PWD/packages | strap --loose bash > r.json
         rm -f packages/*.sig
         python3 -c 'import json; r = json.load(open(\"r.json\")); [p.pop(\"pgpsig\", 0) for p in r[\"packages\"]]; \
         json.dump(r, open(\"bare.json\", \"w\"))'
         ! strapline repository --from bare.json d/m.db --sign $key --gpgdir gnupg 2>&1 || exit 1
         ls d; strapline repository --from bare.json d/m.db; ls d | grep -c sig || true
         rm -r d; strapline repository --from r.json d/m.db --sign $key --gpgdir gnupg
         gpg --homedir $PWD/gnupg --verify d/m.db.sig d/m.db; ls d/bash-*.sig | wc -l",
        preset = mirror.preset().display(),
        www = mirror.www().display(),
    ));
    assert!(out.contains("nobody verified it when it was installed"), "{out}");
    let (_, rest) = out.split_once('\n').expect("a line");
    // Without a key all are unsigned; and what the receipt has a signature of keeps that.
    let lines: Vec<&str> = rest.lines().filter(|line| !line.starts_with("strapline: hint: ")).collect();
    let count = lines.first().copied().unwrap_or_default();
    assert_eq!(lines, [count, "0", count, "1"]);
    assert!(count.starts_with("'d/m.db': ") && count.ends_with(" packages"), "{count}");
}

#[test]
fn a_killed_run_leaves_the_old_or_the_new() {
    let lab = Lab::new(Who::Root);
    drop(lab.run_script(&format!(
        "{}{}mkdir .trial && strapline repository old/m.db hello-1-1-any.pkg.tar.zst && cp -r old new
         strapline repository new/m.db hello-1-2-any.pkg.tar.zst",
        hello("1-1", "a"),
        hello("1-2", "b"),
    )));
    let read = |name: &str| fs::read(lab.path().join(name)).expect("a database");
    let (old, new) = (read("old/m.db"), read("new/m.db"));
    assert_ne!(old, new);
    let command = "strapline repository d/m.db hello-1-2-any.pkg.tar.zst";
    let again = || drop(lab.run_script("rm -rf d && cp -r old d"));
    again();
    let calls = supervisor::run_tool(&lab, command, &mut |_| None).calls.len();
    assert!(read("d/m.db") == new && calls > 20, "{calls} calls");
    let (mut olds, mut news) = (0, 0);
    for call in tier::sample(1..calls, calls / 12, 0) {
        again();
        let mut count = 0;
        supervisor::run_tool(&lab, command, &mut |_| {
            count += 1;
            (count == call).then_some(Fault::KillTool)
        });
        match read("d/m.db") {
            is if is == old => olds += 1,
            is if is == new => news += 1,
            _ => panic!("call {call} of {calls}: neither"),
        }
        let ran = lab::run(lab.command("sh").args(["-c", &redirected(command)]));
        assert_eq!(ran.status, 0);
        assert!(read("d/m.db") == new && read("d/m.files") == read("new/m.files"));
        let mut names: Vec<_> =
            fs::read_dir(lab.path().join("d")).expect("d").map(|e| e.expect("a name").file_name()).collect();
        names.sort();
        assert_eq!(names, ["hello-1-1-any.pkg.tar.zst", "hello-1-2-any.pkg.tar.zst", "m.db", "m.files"]);
    }
    assert!(olds > 0, "{olds} old, {news} new");
}

#[test]
fn what_is_no_repository_is_refused() {
    let lab = Lab::new(Who::User);
    let script = format!(
        "{}cp hello-1-1-any.pkg.tar.zst first.pkg.tar.zst; {}echo x > broken.pkg.tar.zst; mkdir dir.pkg.tar.zst
         printf -- '-----BEGIN PGP SIGNATURE-----\\n' > first.pkg.tar.zst.sig; mkfifo fifo.pkg.tar.zst; echo '{{}}' > r.json
         echo '{{\"strapline\":1,\"config\":{{\"strict\":\"/s\",\"loose\":\"/l\",\"cache\":\"/c\"}},\
         \"packages\":[{{\"name\":\"a\",\"version\":\"1-1\",\"arch\":\"any\",\"verified\":true}}]}}' > known.json",
        hello("1-1", "a"),
        hello("1-1", "b")
    );
    assert_eq!(lab.sh(&script).status, 0);
    for (words, status, line) in [
        ("d/m", 64, "making the repository 'd/m': this is no NAME.db"),
        ("d/-m.db", 64, "this is no NAME.db"),
        ("d/local.db", 64, "this is no NAME.db"),
        ("d/m.db ./none.pkg.tar.zst", 64, "reading the package './none.pkg.tar.zst': No such file"),
        ("d/m.db dir.pkg.tar.zst", 64, "is not a regular file"),
        ("d/m.db fifo.pkg.tar.zst", 64, "is not a regular file"),
        ("d/m.db t", 64, "adding 't': this is not the name of a package file"),
        ("d/m.db broken.pkg.tar.zst", 69, "reading the package 'broken.pkg.tar.zst': "),
        ("d/m.db first.pkg.tar.zst", 69, "it is not a signature, or it is armoured"),
        ("d/m.db --sign ABC", 64, "'ABC' is not a fingerprint"),
        ("d/m.db --gpgdir .", 64, "--sign"),
        ("d/m.db --sign 0000000000000000000000000000000000000000 --gpgdir .", 69, "looking for the secret key 0000"),
        ("d/m.db --from none.json", 64, "opening the document 'none.json'"),
        ("d/m.db --from r.json", 65, "reading the document"),
        ("d/m.db --from known.json", 69, "it does not know the archive of 'a'"),
        ("hello-1-1-any.pkg.tar.zst", 64, "this is no NAME.db"),
        ("t/.PKGINFO/m.db", 69, "making the directory 't/.PKGINFO'"),
    ] {
        let ran = lab.sh(&format!("strapline repository {words}"));
        assert_eq!((ran.status, ran.stdout.as_str()), (status, ""), "{words}: {}", ran.stderr);
        assert!(ran.stderr.contains(line), "{words}: {}", ran.stderr);
        assert!(!lab.path().join("d/m.db").exists(), "{words}");
    }
    // Two files of one version: by another name, and by the same.
    let out =
        lab.sh("rm first.pkg.tar.zst.sig; strapline repository d/m.db first.pkg.tar.zst hello-1-1-any.pkg.tar.zst");
    assert_eq!(out.status, 69);
    assert!(out.stderr.contains("it is another file of 'hello' 1-1 than"), "{}", out.stderr);
    let out = lab.sh("strapline repository d/m.db first.pkg.tar.zst && cp hello-1-1-any.pkg.tar.zst other.pkg.tar.zst \
         && mkdir e && cp hello-1-1-any.pkg.tar.zst e/first.pkg.tar.zst && strapline repository d/m.db e/first.pkg.tar.zst");
    assert_eq!((out.status, out.stdout.as_str()), (69, "'d/m.db': 1 package\n"), "{}", out.stderr);
    assert_eq!(
        fs::read(lab.path().join("d/first.pkg.tar.zst")).ok(),
        fs::read(lab.path().join("first.pkg.tar.zst")).ok()
    );
}
