//! The whole pipe with each pacman that people have: 6.0 of Debian 12, which is this host's, 7.0 of trixie and 7.1 of sid, the
//! real programs with their own libraries (tests/mirror/mkpacman); and with a static one, as archlinuxcn has it
//! (tests/mirror/mkpacman-static).

use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use strapline_tests::{Lab, Mirror, Server, Who, pacman_of, pacmans, small, static_pacman, tier};

/// A pacman, and what its version begins with. Sid's moves on.
type Row = (fn() -> PathBuf, &'static [&'static str]);

const PACMANS: [Row; 3] = [
    (|| PathBuf::from("/usr/bin/pacman"), &["6."]),
    (|| pacman_of("trixie"), &["7.0."]),
    (|| pacman_of("sid"), &["7.", "8."]),
];

/// The pipe up to a keyring.
fn begin(mirror: &Mirror, server: &Server, pacman: &Path) -> String {
    format!(
        "mkroot root --arch x86_64 --distro {} | fetch-pacman --use {} \
         | mkconf --server '{}/$arch/$repo' --cache-dir $PWD/packages | keyring",
        mirror.preset().display(),
        pacman.display(),
        server.url()
    )
}

fn whole_pipe(who: Who, (pacman, versions): Row) {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(who));
    let server = Server::of(&mirror.www());
    let begin = begin(&mirror, &server, &pacman());
    let ran = lab
        .sh(&format!("{begin} | strap base archlinux-keyring | strap nano vim sudo openssh | verify | reap | unmount"));
    let receipt = ran.succeeded();
    let version = receipt["pacman"]["version"].as_str().expect("a version");
    assert!(versions.iter().any(|v| version.starts_with(v)), "{version} is none of {versions:?}");
    // A word that this pacman does not know is a warning of it.
    let unknown: Vec<_> = ran.stderr.lines().filter(|l| l.contains("not recognized")).collect();
    assert_eq!(unknown, Vec::<&str>::new());
    check_configuration(&receipt);
    let packages = receipt["packages"].as_array().expect("packages");
    assert!(packages.len() >= 100, "{} packages", packages.len());
    let unverified: Vec<_> = packages.iter().filter(|p| p["verified"] != true).collect();
    assert_eq!(unverified, Vec::<&Value>::new());
    fs::write(lab.path().join("receipt.json"), &ran.stdout).expect("our own directory");
    let check = lab.sh("enter --state receipt.json pacman -Qk");
    assert_eq!(check.status, 0, "{}", check.stderr);
    let missing: Vec<_> = check.stdout.lines().filter(|l| !l.ends_with(" 0 missing files")).collect();
    assert_eq!(missing, Vec::<&str>::new());
    assert_eq!(check.stdout.lines().count(), packages.len());
}

/// What decides whether pacman 7 takes a configuration: neither a user of the host's nor a table of mounts is asked for, and
/// the directories that 7.1 resolves are there.
fn check_configuration(receipt: &Value) {
    for level in ["strict", "loose"] {
        let file = receipt["config"][level].as_str().expect("a configuration");
        let text = fs::read_to_string(file).expect(file);
        for key in ["DownloadUser", "CheckSpace", "DisableSandbox"] {
            assert!(!text.contains(key), "{file} has {key}");
        }
        for key in ["DBPath", "CacheDir", "GPGDir", "HookDir"] {
            let line = text.lines().find_map(|l| l.strip_prefix(key));
            let path = line.and_then(|l| l.trim().strip_prefix("= ")).expect(key);
            assert!(Path::new(path).is_dir(), "{key} {path}");
        }
    }
}

#[test]
fn the_pipe_as_root_with_each() {
    for row in tier::sample(PACMANS, 2, 0) {
        whole_pipe(Who::Root, row);
    }
}

#[test]
fn the_pipe_as_an_ordinary_user_with_each() {
    for row in tier::sample(PACMANS, 2, 1) {
        whole_pipe(Who::User, row);
    }
}

/// A package with a name that is not ASCII, and one behind it.
fn with_hello(mirror: &Mirror, lab: &Lab) -> Mirror {
    let hello = json!({"name": "hello", "version": "1",
        "files": {"usr/share/hello/a": "1", "usr/share/hello/caf\u{e9}": "2", "usr/share/hello/last": "3"}});
    let description = json!({"repos": {"extra": {"packages": [hello]}}});
    mirror.extended(&lab.path().join("mirror"), &description)
}

/// The kind of pacman that fetch-pacman is for: it needs nothing of the host's, not even a locale. The root is of another
/// architecture.
#[test]
fn the_pipe_with_a_static_one_that_is_fetched() {
    let mirror = Mirror::with_static_pacman("aarch64");
    for who in tier::sample([Who::User, Who::Root], 2, 0) {
        let lab = Lab::new(who);
        let mirror = with_hello(&mirror, &lab);
        let server = Server::of(&mirror.www());
        let pipe = format!(
            "mkroot root --arch aarch64 --distro {} | fetch-pacman --cache-dir fetched --server {url}/archlinuxcn/x86_64 \
             | mkconf --server '{url}/$arch/$repo' --cache-dir $PWD/packages | keyring \
             | strap base archlinuxarm-keyring | strap nano hello | verify | reap | unmount",
            mirror.preset().display(),
            url = server.url()
        );
        fs::write(lab.path().join("pipe"), pipe).expect("our own directory");
        let without = "mount -t tmpfs t /usr/lib/locale && exec sh ./pipe";
        let ran = match who {
            Who::Root => lab.sh(&format!("unshare --mount --propagation private sh -c '{without}'")),
            _ => lab.sh("sh ./pipe"),
        };
        let receipt = ran.succeeded();
        let program = receipt["pacman"]["path"].as_str().expect("a path");
        let headers = lab.sh(&format!("readelf -lW '{program}'"));
        assert!(headers.stdout.contains("LOAD") && !headers.stdout.contains("INTERP"), "{}", headers.stdout);
        let packages = receipt["packages"].as_array().expect("packages");
        let verified = packages.iter().filter(|p| p["verified"] == true).count();
        assert_eq!((verified, packages.len() > 40), (packages.len(), true));
        let hello = lab.path().join("root/usr/share/hello");
        assert_eq!(small::names(&hello), ["a", "caf\u{e9}", "last"]);
    }
}

/// Linked with musl, a pacman in the locale C changes such a name and exits 0, and no two of its words say so.
#[test]
fn a_static_one_that_loses_names_is_refused() {
    let lab = Lab::new(Who::Root);
    let mirror = with_hello(&Mirror::of("x86_64"), &lab);
    let server = Server::of(&mirror.www());
    let program = lab.path().join("pacman");
    let text = format!(
        "#!/bin/sh\n[ ! -e {}/lose ] || export LC_ALL=C\nexec {} \"$@\"\n",
        lab.path().display(),
        static_pacman().display()
    );
    fs::write(&program, text).expect("our own directory");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("our own file");
    let begin = begin(&mirror, &server, &program);
    assert_eq!(lab.sh(&format!("{begin} > begun.json && touch lose")).status, 0);
    let ran = lab.sh("strap --state begun.json --quiet hello");
    ran.failed(69, "installing 'hello': 1 of its 6 files are not there, such as 'usr/share/hello/caf\u{e9}'");
    let ran = lab.sh(&format!("fetch-pacman --new --use {}", program.display()));
    ran.failed(69, "it leaves out files whose names are not ASCII");
    // It does not where it is asked to work as we have it work.
    drop(lab.sh("rm lose && strap --state begun.json --quiet sed | verify").succeeded());
    assert!(lab.path().join("root/usr/share/hello/caf\u{e9}").exists());
}

#[test]
fn each_refuses_a_package_without_a_signature() {
    for pacman in pacmans() {
        let lab = Lab::new(Who::Root);
        let kind = "nano-altered-unsigned";
        let mirror = Mirror::of("x86_64").tampered(&lab.path().join("m"), kind);
        let server = Server::of(&mirror.www());
        let begin = begin(&mirror, &server, &pacman);
        let ran = lab.sh(&format!("{begin} | strap nano | reap | unmount"));
        ran.failed(69, "the mirror has no signature for 'nano-");
        assert_eq!(ran.document()["error"]["code"], "not-verified");
        assert!(!lab.path().join("root/usr/bin/nano").exists());
    }
}

/// A pacman of before the patch (Debian bug 1139622) with a curl of 8.20 or later, and a server that is a name: libalpm's child
/// for a scriptlet waits for a thread of curl's that looks names up and that fork(2) did not copy. In one step, as
/// `pacman -Sy bash coreutils`, this very program hangs for ever (curl 8.23, 3 of 3 runs); downloads that come first, in a
/// process of their own, leave nothing to wait for.
#[test]
fn a_pacman_that_hangs_in_one_step_does_not_in_two() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let server = Server::of(&mirror.www());
    let pacman = lab.path().join("pacman");
    let trees = ["trixie", "sid"].map(|suite| {
        let program = pacman_of(suite);
        program.parent().expect("its directory").join("tree")
    });
    let [old, new] = trees.map(|tree| tree.display().to_string());
    let libraries = "usr/lib/x86_64-linux-gnu";
    let text = format!(
        "#!/bin/sh\nexec {new}/lib64/ld-linux-x86-64.so.2 --library-path {new}/{libraries}:{old}/{libraries} \
         --argv0 pacman {old}/usr/bin/pacman \"$@\"\n"
    );
    fs::write(&pacman, text).expect("our own directory");
    fs::set_permissions(&pacman, fs::Permissions::from_mode(0o755)).expect("our own file");
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let hosts = format!("{hosts}\n127.0.0.1 mirror.test\n");
    fs::write(lab.path().join("hosts"), hosts).expect("our own directory");
    let begin = begin(&mirror, &server, &pacman).replace("127.0.0.1", "mirror.test");
    let script =
        format!("mount --bind hosts /etc/hosts\n{begin} | strap --timeout 60 bash coreutils | reap | unmount\n");
    fs::write(lab.path().join("script"), script).expect("our own directory");
    drop(lab.sh("unshare --mount sh ./script").succeeded());
}
