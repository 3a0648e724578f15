//! The examples, run as they stand: what people start from must work.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
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

/// Makes a card for an Orange Pi 5, with the key in `key.pub` and blobs that are letters.
fn card(lab: &Lab, server: &Server, target: &str, more: &str) -> PathBuf {
    for (file, byte) in [("idbloader.img", b'i'), ("u-boot.itb", b'u')] {
        fs::write(lab.path().join(file), [byte; 5000]).expect("our own directory");
    }
    // The mirror's kernel has no devicetrees, its openssh calls its unit as Debian does, and resolved is a package of its own.
    let ran = lab.sh(&format!(
        "make --silent -f orange-pi-5.mk {target} MIRROR={} DISTRO=preset.toml KEY=key.pub DTB= SSHD=ssh \
         PACKAGES='nano sudo openssh systemd-resolved' {more}",
        server.url()
    ));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    lab.path().join(target)
}

/// Asserts that the blobs are where the board's ROM looks for them.
#[track_caller]
fn has_its_blobs(card: &Path) {
    let mut bytes = [0; 5000];
    for (offset, byte) in [(32 << 10, b'i'), (8 << 20, b'u')] {
        fs::File::open(card).and_then(|file| file.read_exact_at(&mut bytes, offset)).expect("a card");
        assert!(bytes == [byte; 5000], "the blob at {offset} is gone");
    }
}

/// Two cards of the same lock, and what the first boot needs.
#[test]
fn a_card_for_an_orange_pi_5_comes_out_the_same_again() {
    let (lab, server) = bench(Who::User, "aarch64");
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHXSyBEXq2oN1VsKaQe1ZrQCk2p2Lh1kUJy1N0kEd0mN me";
    fs::write(lab.path().join("key.pub"), key).expect("our own directory");
    let [card, again] = ["alarm.img", "again.img"].map(|target| card(&lab, &server, target, ""));
    has_its_blobs(&card);
    let receipt = fs::read_to_string(lab.path().join("root.json")).expect("a receipt");
    let receipt: serde_json::Value = serde_json::from_str(&receipt).expect("a document");
    let root = &receipt["disks"][0]["partitions"][1];
    assert_eq!(receipt["configured"]["login"], serde_json::json!({"ssh": ["alarm"]}));
    assert_eq!(receipt["filesystems"][0]["grows"], root["type"]);
    let show = |request: &str| lab.sh(&format!("debugfs -R '{request}' 'alarm.img?offset={}'", root["start"])).stdout;
    for (path, text) in [
        ("/etc/repart.d/50-configure-000.conf", root["type"].as_str().expect("a GUID")),
        ("/etc/systemd/system/systemd-repart.service.d/50-configure.conf", "--discard=no"),
        ("/etc/fstab", " / ext4 rw,relatime,x-systemd.growfs 0 1\n"),
        ("/home/alarm/.ssh/authorized_keys", key),
        ("/etc/sudoers.d/20-nopasswd", "alarm "),
        ("/etc/systemd/network/20-wired.network", "DHCP=yes"),
    ] {
        assert!(show(&format!("cat {path}")).contains(text), "{path}");
    }
    let link = show("stat /etc/resolv.conf");
    assert!(link.contains("../run/systemd/resolve/stub-resolv.conf"), "{link}");
    for (directory, others) in [("/etc/ssh", "ssh_host_"), ("/etc/pacman.d/gnupg", "private-keys")] {
        let names = show(&format!("ls -p {directory}"));
        assert!(names.contains("/..//") && !names.contains(others), "{names}");
    }
    let [first, second] = [&card, &again].map(|card| fs::read(card).expect("an image"));
    let differs = first.iter().zip(&second).position(|(a, b)| a != b);
    assert_eq!((differs, first.len()), (None, second.len()), "the images differ");
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
