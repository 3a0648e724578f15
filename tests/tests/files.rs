//! `strap` with package files: paths and URLs, signed and not, in one transaction with packages of the repositories; what the
//! document, `--locked`, `--offline` and `verify` know of them; and what is no such file.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use strapline_tests::{Lab, Mirror, Ran, Server, Who, pacmans, tier};

/// The pipe up to a keyring.
fn begin(root: &str, cache: &str, mirror: &Mirror, url: &str, pacman: &Path) -> String {
    format!(
        "mkroot {root} --arch x86_64 --distro {} | fetch-pacman --quiet --use {} \
         | mkconf --quiet --server '{url}/$arch/$repo' --cache-dir $PWD/{cache} | keyring --quiet",
        mirror.preset().display(),
        pacman.display(),
    )
}

/// Returns the archive of a package of a mirror, below its `www`.
fn archive(mirror: &Mirror, name: &str) -> PathBuf {
    let repos = ["core", "extra"].map(|repo| mirror.www().join("x86_64").join(repo));
    let files = repos.iter().flat_map(|repo| fs::read_dir(repo).expect("a mirror")).map(|e| e.expect("a file").path());
    let is = |path: &PathBuf| {
        let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let rest = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) && !file.ends_with(".sig")
    };
    files.into_iter().find(is).unwrap_or_else(|| panic!("no {name}"))
}

/// Copies a package's archive and its signature to a laboratory; returns the file's name.
fn take(lab: &Lab, from: &Path) -> String {
    let file = from.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    for end in ["", ".sig"] {
        let from = format!("{}{end}", from.display());
        fs::copy(&from, lab.path().join(format!("{file}{end}"))).expect("our own directory");
    }
    file
}

/// Makes a package that nobody signed.
fn make(lab: &Lab, arch: &str, text: &str) -> String {
    let file = format!("hello-1-1-{arch}.pkg.tar.zst");
    let made = lab.sh(&format!(
        "mkdir -p hello/usr/share && echo {text} > hello/usr/share/hello \
         && printf 'pkgname = hello\\npkgver = 1-1\\narch = {arch}\\nsize = 6\\ndepend = sed\\n' > hello/.PKGINFO \
         && (cd hello && bsdtar -cf - .PKGINFO usr) | zstd -q > {file} && echo '{{\"strapline\":1}}'"
    ));
    assert_eq!(made.status, 0, "{made:?}");
    file
}

fn of<'a>(document: &'a Value, name: &str) -> &'a Value {
    let packages = document["packages"].as_array().expect("packages");
    packages.iter().find(|p| p["name"] == name).unwrap_or_else(|| panic!("no {name} in {document}"))
}

/// A plan of package files leaves the cache as it is: it may have a signed archive of that name.
#[test]
fn a_plan_of_files_copies_none() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::User));
    let server = Server::of(&mirror.www());
    let file = take(&lab, &archive(&mirror, "nano"));
    let hello = make(&lab, "any", "one");
    let begun = lab.sh(&begin("root", "cache", &mirror, server.url(), Path::new("/usr/bin/pacman"))).succeeded();
    fs::write(lab.path().join("begun.json"), begun.to_string()).expect("our own directory");
    assert_eq!(
        lab.sh("strap --quiet --state begun.json --download-only nano > /dev/null; printf x >> nano-*.zst").status,
        0
    );
    let look =
        || lab.sh("find root/var cache -mindepth 1 -printf '%P %s %T@\n' | sort; sha256sum cache/*.pkg.*").stdout;
    let before = look();
    assert!(before.contains(&format!("{file}.sig")) && !before.contains("hello"), "{before}");
    let planned =
        lab.sh(&format!("strap --quiet --state begun.json --plan --unsigned {file} --unsigned {hello}")).done();
    let packages = planned["planned"]["packages"].as_array().expect("packages");
    for name in ["nano", "hello"] {
        let one = packages.iter().find(|package| package["name"] == name).expect(name);
        assert_eq!((&one["repo"], &one["download"]), (&"strapline-unsigned".into(), &0.into()));
    }
    assert_eq!(look(), before);
    let signed = lab.sh(&format!("strap --quiet --state begun.json --plan ./{hello}"));
    signed.failed(69, "there is no signature beside it");
    assert_eq!(look(), before);
}

/// It went in without its signature, and a repository that offers the same package has that.
#[test]
fn a_loose_file_is_verified_by_the_signature_of_a_repository() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::User));
    let server = Server::of(&mirror.www());
    let file = take(&lab, &archive(&mirror, "nano"));
    let begun = lab.sh(&begin("root", "cache", &mirror, server.url(), Path::new("/usr/bin/pacman"))).succeeded();
    fs::write(lab.path().join("root.json"), begun.to_string()).expect("our own directory");
    let script = format!("rm {file}.sig; strap --quiet --state root.json --loose ./{file} | verify --quiet");
    let document = lab.sh(&script).done();
    let nano = of(&document, "nano");
    assert_eq!((&nano["repo"], nano.get("pgpsig")), (&"strapline-local".into(), None));
    assert_eq!((&nano["signature"], &nano["files"]), (&"valid".into(), &"intact".into()));
}

/// A package that a key of the keyring has signed is not what was asked for.
#[test]
fn a_server_cannot_send_another_package() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::User));
    let (nano, sudo) = (archive(&mirror, "nano"), archive(&mirror, "sudo"));
    let name = nano.file_name().and_then(|name| name.to_str()).expect("a name");
    let www = lab.path().join("www");
    fs::create_dir(&www).expect("our own directory");
    for end in ["", ".sig"] {
        fs::copy(format!("{}{end}", sudo.display()), www.join(format!("{name}{end}"))).expect("our own directory");
    }
    let (server, own) = (Server::of(&mirror.www()), Server::of(&www));
    let begun = lab.sh(&begin("root", "cache", &mirror, server.url(), Path::new("/usr/bin/pacman"))).succeeded();
    fs::write(lab.path().join("root.json"), begun.to_string()).expect("our own directory");
    let ran = lab.sh(&format!("strap --quiet --state root.json {}/{name}", own.url()));
    assert_eq!(ran.status, 69, "{}", ran.stderr);
    assert!(ran.stderr.contains("the server sent the package 'sudo'"), "{}", ran.stderr);
    assert!(!lab.path().join("cache").join(name).exists());
    assert!(!lab.path().join("root/usr/bin").exists(), "nothing is installed");
}

#[test]
fn files_urls_and_names_in_one_transaction() {
    for (who, pacman) in
        tier::sample([Who::Root, Who::User], 2, 0).flat_map(|who| pacmans().into_iter().map(move |p| (who, p)))
    {
        let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(who));
        let server = Server::of(&mirror.www());
        let begun = |root: &str, cache: &str| {
            let text = lab.sh(&begin(root, cache, &mirror, server.url(), &pacman)).succeeded().to_string();
            fs::write(lab.path().join(format!("{root}.json")), text).expect("our own directory");
        };
        let nano = take(&lab, &archive(&mirror, "nano"));
        let sudo = archive(&mirror, "sudo");
        let url = format!("{}/{}", server.url(), sudo.strip_prefix(mirror.www()).expect("in it").display());
        let hello = make(&lab, "any", "one");
        begun("root", "cache");
        let targets = format!("./{nano} {url} --unsigned {hello} bash");
        let receipt = lab.sh(&format!("strap --quiet --state root.json {targets}")).done();
        let here = |file: &str| lab.path().join(file).display().to_string();
        for (name, repo, origin, verified) in [
            ("nano", "strapline-local", Some(here(&nano)), true),
            ("sudo", "strapline-local", Some(url.clone()), true),
            ("hello", "strapline-unsigned", Some(here(&hello)), false),
            ("bash", "core", None, true),
        ] {
            let package = of(&receipt, name);
            assert_eq!((&package["repo"], &package["reason"]), (&repo.into(), &"explicit".into()), "{name}");
            assert_eq!(
                (package["origin"].as_str(), &package["verified"]),
                (origin.as_deref(), &verified.into()),
                "{name}"
            );
            assert_eq!(package["pgpsig"].is_string(), verified, "{name}");
        }
        // What it depends on came from a repository.
        assert_eq!(of(&receipt, "sed")["reason"], "dependency");
        assert_eq!(fs::read_to_string(lab.path().join("root/usr/share/hello")).expect("a file"), "one\n");
        fs::write(lab.path().join("receipt.json"), receipt.to_string()).expect("our own directory");
        let verified = lab.sh("verify --quiet --state receipt.json").succeeded();
        assert_eq!(of(&verified, "hello")["signature"], "unsigned");
        assert_eq!(verified["verify"]["signatures"]["unsigned"], 1);
        // Nothing is left of the repositories.
        assert_eq!(lab.sh("find cache root/var/lib/pacman/sync -name 'files-*' -o -name 'strapline-*.db'").stdout, "");
        let checked = |root: &str| lab.sh(&format!("cd {root}/var/lib/pacman/local && grep -A1 VALID */desc")).stdout;
        assert!(checked("root").contains("/desc-sha256\n"), "{}", checked("root"));
        // The cache has it all, also when the files are gone; and without the cache they are fetched from where they were.
        for (root, cache, options) in [("second", "cache", "--offline"), ("third", "other", "")] {
            begun(root, cache);
            if cache == "cache" {
                fs::rename(lab.path().join(&nano), lab.path().join("moved")).expect("our own file");
            } else {
                fs::rename(lab.path().join("moved"), lab.path().join(&nano)).expect("our own file");
            }
            let again = lab.sh(&format!("strap --quiet --state {root}.json {options} --locked receipt.json")).done();
            assert_eq!(again["packages"], receipt["packages"], "{root}");
            // pacman's own records say the same, too.
            assert_eq!(checked(root), checked("root"), "{root}");
        }
        // One that was built again under the same version is installed again; the same one is not.
        make(&lab, "any", "two");
        let again = format!("strap --quiet --state receipt.json --unsigned {hello}");
        let ran = lab.sh(&again);
        let warned = format!("strap: warning: '{hello}' in the cache was another archive, and is replaced\n");
        assert_eq!((ran.status, ran.stderr), (0, warned));
        assert_ne!(
            of(&serde_json::from_str(&ran.stdout).expect("a document"), "hello")["sha256"],
            of(&receipt, "hello")["sha256"]
        );
        assert_eq!(fs::read_to_string(lab.path().join("root/usr/share/hello")).expect("a file"), "two\n");
        fs::write(lab.path().join("receipt.json"), &ran.stdout).expect("our own directory");
        let log = || fs::read_to_string(lab.path().join("root/var/log/pacman.log")).expect("a log");
        let before = log().matches("reinstalled hello").count();
        drop(lab.sh(&again).done());
        assert_eq!(log().matches("reinstalled hello").count(), before);
    }
}

/// The root and its document, and a run of `strap` with a file.
fn refuse(lab: &Lab, targets: &str, status: i32, code: &str, message: &str, hint: Option<&str>) {
    let ran: Ran = lab.sh(&format!("strap --quiet --state root.json {targets}"));
    let document = ran.document();
    let error = &document["error"];
    assert_eq!((ran.status, error["code"].as_str()), (status, Some(code)), "{targets}: {}", ran.stderr);
    let said = error["message"].as_str().expect("a message");
    let fits = message.split('…').try_fold(said, |rest, part| rest.split_once(part).map(|(_, rest)| rest));
    assert!(fits.is_some(), "{targets}: {said}");
    if let Some(hint) = hint {
        assert!(error["hint"].as_str().is_some_and(|is| is.contains(hint)), "{targets}: {}", error["hint"]);
    }
    assert_eq!(document.get("packages"), None, "{targets}");
    let left = lab.sh("find root/var/lib/pacman/sync cache -name 'strapline-*.db' -o -name '.*' -o -name 'files-*'");
    assert_eq!(left.stdout, "", "{targets}");
}

#[test]
fn what_is_no_package_for_this_root_is_named() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let server = Server::of(&mirror.www());
    let url = server.url();
    let begun = lab.sh(&begin("root", "cache", &mirror, url, Path::new("/usr/bin/pacman"))).succeeded().to_string();
    fs::write(lab.path().join("root.json"), begun).expect("our own directory");
    let stranger = mirror.tampered(&lab.path().join("stranger"), "nano-stranger-key");
    let nano = take(&lab, &archive(&stranger, "nano"));
    let other = make(&lab, "aarch64", "one");
    let hello = make(&lab, "any", "one");
    assert_eq!(lab.sh("mkfifo fifo.pkg.tar.zst && mkdir dir.pkg.tar.zst && echo junk > junk.pkg.tar.zst && cp hello-1-1-any.pkg.tar.zst twin.pkg.tar.zst && echo x > twin.pkg.tar.zst.sig").status, 0);
    let unsigned = |file: &str| format!("--unsigned {file}");
    let file_says = |file: &str, why: &str| format!("installing '{file}': {why}");
    for (targets, status, code, message, hint) in [
        (format!("./{nano}"), 69, "not-verified", "checking 'nano': …, which is not in the keyring".to_owned(), None),
        (
            format!("./{hello}"),
            69,
            "not-verified",
            file_says(&format!("./{hello}"), "there is no signature beside it"),
            Some("--unsigned"),
        ),
        ("twin.pkg.tar.zst".to_owned(), 69, "not-verified", "checking 'hello': ".to_owned(), None),
        (
            unsigned(&other),
            69,
            "failed",
            "package hello-1-1-aarch64 does not have a valid architecture".to_owned(),
            None,
        ),
        (
            unsigned("junk.pkg.tar.zst"),
            69,
            "failed",
            file_says("junk.pkg.tar.zst", "reading archive: not an archive"),
            None,
        ),
        (unsigned("fifo.pkg.tar.zst"), 64, "usage", file_says("fifo.pkg.tar.zst", "is not a regular file"), None),
        (unsigned("dir.pkg.tar.zst"), 64, "usage", file_says("dir.pkg.tar.zst", "is not a regular file"), None),
        ("./none.pkg.tar.zst".to_owned(), 64, "usage", file_says("./none.pkg.tar.zst", "No such file"), None),
        ("./hello".to_owned(), 64, "usage", file_says("./hello", "this is not the name of a package file"), None),
        (
            "ftp://h/a-1-1-any.pkg.tar.zst".to_owned(),
            64,
            "usage",
            "only URLs with https, http and file are fetched".to_owned(),
            None,
        ),
        (format!("{url}/none-1-1-any.pkg.tar.zst"), 75, "network", "none-1-1-any.pkg.tar.zst".to_owned(), None),
        (
            format!("--offline {url}/none-1-1-any.pkg.tar.zst"),
            69,
            "not-found",
            "it is not in the cache".to_owned(),
            None,
        ),
        (
            format!("--unsigned {hello} --unsigned twin.pkg.tar.zst"),
            64,
            "usage",
            "is package 'hello', too".to_owned(),
            None,
        ),
    ] {
        refuse(&lab, &targets, status, code, &message, hint);
    }
}
