//! `mkroot --from`: a root that begins with an archive, of `pack` or of Arch Linux's shape; what is not the right archive, and
//! what a hostile one has.

use crate::pack;
use serde_json::Value;
use std::fs;
use std::path::Path;
use strapline_tests::{Lab, Mirror, Server, Who, gpg};
use tar::{Builder, EntryType, Header};

/// After the packages were built, and before today.
const EPOCH: &str = "export SOURCE_DATE_EPOCH=1750000000;";

/// The pipe from mkconf's place to the keyring.
fn middle(server: &Server) -> String {
    format!(
        "fetch-pacman --use /usr/bin/pacman | mkconf --server '{}/$arch/$repo' --cache-dir $PWD/packages | keyring",
        server.url()
    )
}

fn sha256(lab: &Lab, name: &str) -> String {
    package::digest::sha256_hex(fs::read(lab.path().join(name)).expect("an archive"))
}

#[test]
fn a_tree_of_everything_comes_back() {
    for who in [Who::Root, Who::User] {
        let lab = pack::make(who);
        for (options, again) in [("-o a.tar.zst", "-o b.tar.zst"), ("--sparse -o a.tar", "--sparse -o b.tar")] {
            let hash = pack::pack(&lab, options);
            let name = options.split(' ').next_back().expect("a name");
            let ran = lab.sh(&format!(
                "mkroot -q copy --arch $(uname -m) --distro archlinux --from {name} --sha256 {hash} > copy.json; cat copy.json"
            ));
            let document = ran.done();
            assert_eq!(document["base"]["sha256"], hash);
            assert_eq!(document["base"]["checked"], "sha256");
            let ran = lab.sh(&format!("SOURCE_DATE_EPOCH=1000000000 pack -q --state copy.json {again}"));
            assert_eq!(ran.done()["archives"][0]["sha256"], hash, "{who:?} {options}");
            assert_eq!(lab.sh("unmount --remove --quiet --new copy").status, 0);
        }
    }
}

#[test]
fn a_base_gives_the_same_bytes_as_the_whole() {
    let mirror = Mirror::of("x86_64");
    let server = Server::of(&mirror.www());
    for who in [Who::Root, Who::User] {
        let (lab, middle, preset) = (Lab::new(who), middle(&server), mirror.preset());
        let ran = lab.sh(&format!(
            "{EPOCH} mkroot whole --arch x86_64 --distro {} | {middle} | strap filesystem bash coreutils shadow \
             | keyring --strip | pack -o base.tar.zst > base.json && keyring --state base.json | strap nano \
             | keyring --strip | pack -o whole.tar > whole.json; cat whole.json",
            preset.display()
        ));
        drop(ran.succeeded());
        let ran = lab.sh(&format!(
            "{EPOCH} mkroot again --from base.tar.zst --receipt base.json > begun.json; \
             cat begun.json | {middle} | strap nano | verify > verified.json; \
             keyring --strip --state verified.json | pack -o again.tar"
        ));
        let last = ran.succeeded();
        assert_eq!(sha256(&lab, "whole.tar"), sha256(&lab, "again.tar"), "{who:?}");
        assert_eq!(last["base"]["checked"], "receipt");
        // What the receipt says of the packages, before anything was verified again.
        let begun: Value = serde_json::from_slice(&fs::read(lab.path().join("begun.json")).expect("it")).expect("JSON");
        let packages = begun["packages"].as_array().expect("packages");
        assert!(packages.len() >= 4 && packages.iter().all(|p| p["verified"] == true && p["sha256"].is_string()));
        let unowned = last["verify"]["unowned"]["paths"].as_array().expect("paths");
        assert!(!unowned.contains(&Value::from("usr/bin/nano")) && !unowned.is_empty(), "{unowned:?}");
    }
}

/// Archives of Arch Linux's shape: the root in a directory, every server commented out, an empty keyring.
const BOOTSTRAP: &str = "umask 022; mkdir top && enter --quiet --state made.json true \
    && cp -a root top/root.x86_64 && cd top && rm -rf root.x86_64/etc/pacman.d/gnupg \
    && mkdir -m 700 root.x86_64/etc/pacman.d/gnupg && echo '#Server = https://x/$repo' > root.x86_64/etc/pacman.d/mirrorlist \
    && echo evil > root.x86_64/etc/evil && echo changed >> root.x86_64/usr/bin/nano \
    && echo a > pkglist.x86_64.txt && tar --numeric-owner --acls --xattrs -cf - pkglist.x86_64.txt root.x86_64 \
    | zstd -q > ../bootstrap.tar.zst";

/// A gpg while which runs the archive is the signed one, and before and after that another one.
const SWAP: &str = r#"mkdir swap && gpg=$(command -v gpg) && echo evil > evil && tar -cf evil.tar evil \
    && cp evil.tar a.tar.zst && cp bootstrap.tar.zst.sig a.tar.zst.sig
    printf '#!/bin/sh
case " $* " in *" --verify "*)
    cp bootstrap.tar.zst a.tar.zst; : > swapped; %s "$@"; status=$?; cp evil.tar a.tar.zst; exit $status
esac
exec %s "$@"\n' $gpg $gpg > swap/gpg && chmod 755 swap/gpg;"#;

#[test]
fn a_bootstrap_archive_is_adopted_and_verified() {
    let mirror = Mirror::of("x86_64");
    let server = Server::of(&mirror.www());
    let (lab, middle, preset) = (Lab::new(Who::Root), middle(&server), mirror.preset());
    let made = lab.sh(&format!(
        "mkroot root --arch x86_64 --distro {} | {middle} | strap filesystem bash coreutils shadow nano \
         > made.json; cat made.json",
        preset.display()
    ));
    drop(made.succeeded());
    let ran = lab.sh(BOOTSTRAP);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let from = format!("mkroot adopted --distro {} --from bootstrap.tar.zst", preset.display());
    sign(&lab, &mirror);
    let ran = lab.sh(&format!("{SWAP} PATH=$PWD/swap:$PATH {}", from.replace("bootstrap", "a") + " --key key.asc"));
    assert_ne!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(ran.document()["error"]["code"], "not-verified", "{}", ran.stderr);
    assert!(lab.path().join("swapped").exists() && !lab.path().join("adopted").exists());
    lab.sh(&format!("{from} --key key.asc")).failed(69, "the root is not at its top");
    assert!(!lab.path().join("adopted").exists() && !lab.path().join("adopted.strapline").exists());
    let adopted = lab.sh(&format!(
        "mv bootstrap.tar.zst.sig moved; {from} --prefix root.x86_64 --key key.asc --signature moved > a.json; cat a.json"
    ));
    let adopted = adopted.succeeded();
    assert_eq!(adopted["base"]["checked"], "signature");
    assert_eq!(adopted["base"]["key"], mirror.key("/builder"));
    assert_eq!(adopted["arch"], "x86_64");
    let ran = lab.sh(&format!("cat a.json | {middle} | verify"));
    ran.failed(69, "'nano': 'usr/bin/nano' is changed");
    let verify = &ran.document()["verify"];
    assert!(verify["unowned"]["paths"].as_array().expect("paths").contains(&"etc/evil".into()), "{verify}");
    // pacman goes on with it; what its records say of themselves proves nothing where nobody knows who made them.
    assert_eq!(lab.sh("unmount --remove --quiet --new adopted").status, 0);
    let ran = lab.sh(&format!("{from} --prefix root.x86_64 --unverified | {middle} | strap sudo"));
    let packages = ran.succeeded()["packages"].as_array().expect("packages").clone();
    let verified = |name: &str| packages.iter().find(|p| p["name"] == name).expect(name)["verified"].clone();
    assert_eq!((verified("sudo"), verified("bash")), (true.into(), false.into()));
    assert!(ran.stderr.contains("mkroot: warning: nothing says who made"), "{}", ran.stderr);
    // And a receipt of it says no more.
    assert_eq!(lab.sh("unmount --remove --quiet --new adopted").status, 0);
    let ran = lab.sh(&format!(
        "mkdir -p late/etc && echo x > late/etc/laid; {from} --prefix root.x86_64 --unverified | pack -o p.tar \
         | configure --tree late > p.json && mkroot again --from p.tar --receipt p.json"
    ));
    let document = ran.succeeded();
    assert_eq!(document["base"]["checked"], "nothing");
    let tree = document["tree"].as_array().cloned().unwrap_or_default();
    assert!(tree.iter().all(|file| file["path"] != "etc/laid"), "it was laid after the archive was written: {tree:?}");
}

/// Signs the archive by the mirror's builder, with a copy of its keys.
fn sign(lab: &Lab, mirror: &Mirror) {
    let home = gpg::short();
    let copied =
        std::process::Command::new("cp").arg("-a").arg(mirror.dir.join("keys/gnupg/.")).arg(home.path()).status();
    assert!(copied.is_ok_and(|status| status.success()));
    let key = mirror.key("/builder");
    let at = |name: &str| lab.path().join(name);
    drop(gpg::run(gpg::gpg(home.path()).args(["--local-user", &key, "--detach-sign"]).arg(at("bootstrap.tar.zst"))));
    let exported = gpg::run(gpg::gpg(home.path()).args(["--armor", "--export", &key]));
    fs::write(at("key.asc"), exported).expect("our own directory");
    gpg::kill_agent(home.path());
}

/// A tar in the making, whose headers say what the test wants them to say.
struct Tape(Builder<Vec<u8>>);

impl Tape {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn add(mut self, kind: EntryType, path: &str, target: &str, data: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o4755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_cksum();
        self.0.append(&header, data).expect("memory");
        self
    }

    fn file(self, path: &str) -> Self {
        self.add(EntryType::Regular, path, "", b"evil")
    }

    fn write(self, to: &Path) {
        fs::write(to, self.0.into_inner().expect("memory")).expect("our own directory");
    }
}

#[test]
fn a_hostile_archive_leaves_nothing() {
    use EntryType::{Char, Link, Symlink};
    for who in [Who::Root, Who::User] {
        let lab = Lab::new(who);
        assert_eq!(lab.sh("mkdir outside && echo theirs > outside/file").status, 0);
        let outside = lab.path().join("outside").display().to_string();
        let new = Tape::new;
        let large = format!("65564 SCHILY.xattr.user.x={}\n", "a".repeat(65_537)).into_bytes();
        assert_eq!(large.len(), 65_564);
        let table = [
            (new().file("../outside/file"), "'..' in it"),
            (new().file(&format!("{outside}/file")), "its path is absolute"),
            (new().add(Symlink, "a", &outside, b"").file("a/file"), "is a symbolic link"),
            (new().add(Symlink, "a", "../../outside/file", b"").file("a"), "it is in the archive twice"),
            (new().add(Link, "a", "../outside/file", b""), "'..' in it"),
            (new().add(Symlink, "s", &outside, b"").add(Link, "a", "s/file", b""), "is a symbolic link"),
            (new().add(Link, "a", "b", b""), "a link to what does not come before it"),
            (new().file("a").file("a"), "it is in the archive twice"),
            (new().file("a").file("a/b"), "is a symbolic link or a file"),
            (new().add(Char, "usr/null", "", b""), "a device node that is not below 'dev'"),
            (new().add(EntryType::XHeader, "x", "", &large).file("a"), "an extended attribute that is longer"),
        ];
        for (tape, why) in table {
            tape.write(&lab.path().join("a.tar"));
            let ran = lab.sh("mkroot root --from a.tar --unverified");
            ran.failed(69, why);
            check_nothing_is_left(&lab, why);
        }
        // Junk, cut off, another one than was asked for.
        new().file("a").write(&lab.path().join("a.tar"));
        let cut = "head -c 1024 a.tar > b.tar; mkroot root --from b.tar --unverified";
        for (script, line) in [
            (cut, "the input ended early"),
            ("echo '<html>' > b.tar; mkroot root --from b.tar --unverified", "not an archive"),
            ("mkroot root --from a.tar --sha256 $(printf %064d 0)", "its SHA-256 is"),
            (
                "echo '{\"strapline\":1}' > r.json; mkroot root --from a.tar --receipt r.json",
                "the receipt has no archive",
            ),
            ("mkroot root --from a.tar --prefix b --unverified", "nothing is in it below 'b'"),
        ] {
            lab.sh(script).failed(69, line);
            check_nothing_is_left(&lab, line);
        }
        assert_eq!(lab.sh("mkroot root --from a.tar").status, 64);
        assert_eq!(lab.sh("mkroot root --from a.tar --unverified --key a.tar").status, 64);
        assert_eq!(lab.sh("mkroot root --prefix b").status, 64);
        lab.sh("mkroot a.tar --from a.tar --unverified").failed(69, "unpacking 'a.tar' to");
        let ran = lab.sh("mkdir root && touch root/mine; mkroot root --from a.tar --unverified");
        ran.failed(69, "it is not empty");
        assert!(lab.path().join("root/mine").exists());
    }
}

#[test]
fn a_mount_point_is_refused_before_the_archive() {
    let lab = Lab::new(Who::Root);
    let script = "mkdir root && mount -t tmpfs t root && exec mkroot root --from none.tar --unverified";
    let ran = lab.sh(&format!("exec unshare --mount --propagation private sh -c '{script}'"));
    ran.failed(69, "root': it is a mount point");
    assert!(!lab.path().join("root.strapline").exists());
}

#[track_caller]
fn check_nothing_is_left(lab: &Lab, why: &str) {
    for name in ["root", "root.strapline"] {
        assert!(!lab.path().join(name).exists(), "{why}: {name} is left");
    }
    let theirs = fs::read_to_string(lab.path().join("outside/file"));
    assert_eq!(theirs.expect("it is there"), "theirs\n", "{why}");
}

/// Killed at each of these calls, the same command makes the root when it runs again.
#[test]
fn a_killed_run_is_done_again() {
    for who in [Who::Root, Who::User] {
        let lab = pack::make(who);
        let hash = pack::pack(&lab, "-o a.tar");
        let made = "mkroot -q copy --arch $(uname -m) --distro archlinux --from a.tar";
        let (unverified, from) = (format!("{made} --unverified"), format!("{made} --sha256 {hash}"));
        // A set-uid newuidmap(1) cannot be traced, so of a user's run only the tool itself is.
        let inside = [("symlinkat", 2, "-f"), ("mknodat", 1, "-f")].into_iter().filter(|_| who == Who::Root);
        // At the last one the root has its name, and no document is written.
        for (call, when, follow) in inside.chain([("renameat", 1, ""), ("mkdirat", 3, "")]) {
            let killed = lab.sh(&format!(
                "strace {follow} -qq -o trace -e trace={call} -e inject={call}:signal=KILL:when={when} sh -c 'exec {unverified}'"
            ));
            assert_ne!(killed.status, 0, "{who:?} {call}: {killed:?}");
            assert_eq!(lab.path().join("copy/srv").exists(), call == "mkdirat", "{who:?} {call}");
            let ran = lab.sh(&format!("{from} > copy.json; cat copy.json"));
            let base = &ran.done()["base"];
            // It says what this run checked, and not the one before.
            assert_eq!((&base["sha256"], &base["checked"]), (&hash.clone().into(), &"sha256".into()), "{who:?} {call}");
            assert!(!lab.path().join("copy.strapline/root.new").exists(), "{who:?} {call}");
            let ran = lab.sh("SOURCE_DATE_EPOCH=1000000000 pack -q --state copy.json -o b.tar");
            assert_eq!(ran.done()["archives"][0]["sha256"], hash, "{who:?} {call}");
            assert_eq!(lab.sh("unmount --remove --quiet --new copy").status, 0);
        }
    }
}
