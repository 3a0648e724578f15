//! The examples, run as they stand: what people start from must work.

use std::fs;
use std::path::Path;
use strapline_tests::{Lab, Mirror, Server, Who, top};

/// A laboratory with the examples in it, and the mirror's preset as `preset.toml`, with the server's address.
fn bench(who: Who, arch: &str) -> (Lab, Server) {
    let (mirror, lab) = (Mirror::of(arch), Lab::new(who));
    let server = Server::of(&mirror.www());
    let preset = fs::read_to_string(mirror.preset()).expect("a preset");
    let preset = preset.replace("http://127.0.0.1:8765", server.url());
    assert!(preset.contains(server.url()));
    fs::write(lab.path().join("preset.toml"), preset).expect("our own directory");
    let ran = lab.sh(&format!("cp -r {}/examples/. .", top().display()));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    (lab, server)
}

/// Two cards of the same lock, with the blobs where the board's ROM looks for them.
#[test]
fn a_card_for_an_orange_pi_5_comes_out_the_same_again() {
    let (lab, server) = bench(Who::User, "aarch64");
    for (file, byte) in [("idbloader.img", b'i'), ("u-boot.itb", b'u')] {
        fs::write(lab.path().join(file), [byte; 5000]).expect("our own directory");
    }
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHXSyBEXq2oN1VsKaQe1ZrQCk2p2Lh1kUJy1N0kEd0mN me";
    fs::write(lab.path().join("key.pub"), key).expect("our own directory");
    // The mirror's kernel has no devicetrees, and its openssh calls its unit as Debian does.
    let make = |target: &str| {
        let ran = lab.sh(&format!(
            "make --silent -f orange-pi-5.mk {target} MIRROR={} DISTRO=preset.toml KEY=key.pub DTB= SSHD=ssh \
             PACKAGES='nano sudo openssh'",
            server.url()
        ));
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        fs::read(lab.path().join(target)).expect("an image")
    };
    let card = make("alarm.img");
    assert_eq!(card[32 << 10..][..5000], [b'i'; 5000]);
    assert_eq!(card[8 << 20..][..5000], [b'u'; 5000]);
    let again = make("again.img");
    let first = card.iter().zip(&again).position(|(a, b)| a != b);
    assert_eq!((first, card.len()), (None, again.len()), "the images differ");
}

#[test]
fn a_base_image_for_containers() {
    let (lab, _server) = bench(Who::User, "x86_64");
    let ran = lab.sh("./container.sh preset.toml x86_64 bash nano");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let list = lab.sh("tar -tf preset-x86_64.oci.tar").stdout;
    for name in ["oci-layout", "index.json"] {
        assert!(list.lines().any(|line| line == name), "{list}");
    }
    // The public keys are in it, no secret one is.
    let layers = lab.sh("mkdir image && tar -xf preset-x86_64.oci.tar -C image \
         && for blob in image/blobs/sha256/*; do tar -tzf $blob 2> /dev/null || true; done");
    let has = |end: &str| layers.stdout.lines().any(|line| line.ends_with(end));
    assert!(has("etc/pacman.d/gnupg/pubring.gpg") && has("usr/bin/bash"), "{}", layers.stdout);
    assert!(!layers.stdout.contains("private-keys-v1.d/"), "{}", layers.stdout);
}

#[test]
fn a_distribution_of_ones_own() {
    let (lab, server) = bench(Who::Root, "x86_64");
    let script = "set -eu
        mkdir -m 700 gnupg && export GNUPGHOME=$PWD/gnupg
        gpg --batch --quiet --passphrase '' --quick-generate-key 'Me <me@example.org>' ed25519 sign 2y
        mkdir -p hello/usr/share/hello && echo hello > hello/usr/share/hello/world
        printf 'pkgname = hello\\npkgver = 1-1\\npkgdesc = Hello\\narch = any\\nsize = 6\\n' > hello/.PKGINFO
        (cd hello && bsdtar -cf - .PKGINFO usr) | zstd -q > hello-1-1-any.pkg.tar.zst
        mkdir -p www && ln -s ../preset.toml www/base.toml
        BASE=base.toml ARCH=x86_64 SERVER=SERVED my-distribution/publish.sh \\
            me@example.org www hello-1-1-any.pkg.tar.zst";
    let www = lab.path().join("www");
    fs::create_dir(&www).expect("our own directory");
    let mine = Server::of(&www);
    fs::write(lab.path().join("script"), script.replace("SERVED", mine.url())).expect("ours");
    // The agent that gpg starts ends with it.
    let ran = lab.sh("unshare --pid --fork --kill-child sh script");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let ran = lab.sh(&format!(
        "mkroot root --arch x86_64 --distro $PWD/www/mine.toml \
         | fetch-pacman --cache-dir fetched --server {}/archlinuxcn/x86_64 | mkconf --cache-dir $PWD/packages \
         | keyring | strap bash mine-keyring hello | verify",
        server.url()
    ));
    let document = ran.succeeded();
    let packages = document["packages"].as_array().expect("packages");
    let hello = packages.iter().find(|p| p["name"] == "hello").expect("hello");
    assert_eq!((&hello["verified"], &hello["repo"]), (&true.into(), &"mine".into()));
    assert_eq!(document["keyring"]["populated"], serde_json::json!(["archlinux", "mine"]));
    assert!(Path::new(&lab.path().join("root/usr/share/hello/world")).exists());
}

/// Two systems of one base, which is made once.
#[test]
fn boards_of_one_base() {
    let (lab, server) = bench(Who::User, "x86_64");
    let make = |target: &str| {
        let ran = lab.sh(&format!(
            "make --silent -f boards.mk {target} MIRROR={} DISTRO=preset.toml ARCH=x86_64 BASE='filesystem bash coreutils shadow'",
            server.url()
        ));
        assert_eq!(ran.status, 0, "{}", ran.stderr);
    };
    make("red.tar.zst");
    let base = fs::metadata(lab.path().join("base.json")).and_then(|meta| meta.modified()).expect("the base");
    make("blue.tar.zst blue=sudo");
    let still = fs::metadata(lab.path().join("base.json")).and_then(|meta| meta.modified()).expect("the base");
    assert_eq!(base, still, "the base was made again");
    let has = |name: &str, path: &str| lab.sh(&format!("tar -xOf {name}.tar.zst {path} | head -c 100")).stdout;
    assert_eq!(has("red", "etc/hostname"), "red\n");
    assert_eq!(has("blue", "etc/hostname"), "blue\n");
    assert!(!has("red", "usr/bin/nano").is_empty() && has("blue", "usr/bin/nano").is_empty());
    for root in ["base.root", "red.root", "blue.root", "red.root.strapline"] {
        assert!(!lab.path().join(root).exists(), "{root} is left");
    }
}
