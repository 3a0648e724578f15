//! The examples, run as they stand: what people start from must work.

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use strapline_tests::{Lab, Mirror, Server, Who, tier, top};

/// A laboratory with the examples in it, and the mirror's preset as `preset.toml`, with the server's address.
pub(crate) fn bench(who: Who, arch: &str) -> (Lab, Server) {
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

/// A preset of ours as it stands, but for who serves it and who signs: its hosts are the server, its pins are these keys, and what it
/// extends is the mirror's.
fn preset_of(name: &str, server: &Server, pins: &[String]) -> String {
    let text = fs::read_to_string(top().join(format!("presets/{name}.toml"))).expect("a preset");
    let (mut rest, _) = text.split_once("[[keyring.trusted]]").expect("pins");
    let mut served = String::new();
    while let Some(start) = rest.find("\"http") {
        let (before, address) = rest.split_at(start + 1);
        served += &format!("{before}{}/", server.url());
        rest = address.splitn(4, '/').nth(3).expect("a path");
    }
    served += rest;
    for base in ["archlinux", "archlinuxarm"] {
        served = served.replace(&format!("extends = \"{base}\""), "extends = \"preset.toml\"");
    }
    for pin in pins {
        served +=
            &format!("[[keyring.trusted]]\nfingerprint = \"{pin}\"\nsource = \"a test\"\ndate = \"2026-11-29\"\n\n");
    }
    served
}

#[test]
fn a_run_that_fails_keeps_the_receipt_of_the_one_before() {
    let lab = Lab::new(Who::User);
    let ran = lab.sh(&format!("cp -r {}/examples/. .", top().display()));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let read = |name: &str| fs::read_to_string(lab.path().join(name)).expect(name);
    for (name, status, script) in [
        ("mine", 2, "make -f distribution.mk NAME=mine LISTS=/dev/null DISTRO=no-such mine.tar.zst"),
        ("base", 2, "make -B -f boards.mk DISTRO=no-such base.json"),
        ("no-such-aarch64", 64, "./container.sh no-such aarch64"),
    ] {
        let ran = lab.sh(&format!("echo before > {name}.json && {script}"));
        assert_eq!(ran.status, status, "{script}\n{}", ran.stderr);
        assert_eq!(read(&format!("{name}.json")), "before\n", "{script}");
        let failed: Value = serde_json::from_str(&read(&format!("{name}.failed.json"))).expect("a document");
        assert_eq!((&failed["error"]["tool"], &failed["error"]["code"]), (&json!("mkroot"), &json!("usage")));
    }
}

/// What the receipt has for the repository of a package file that nobody signed.
const UNSIGNED: &str = "strapline-unsigned";

/// A laboratory with the examples, a mirror that has what an example installs, and presets of ours laid over it.
pub(crate) struct Bench {
    pub(crate) lab: Lab,
    mirror: Mirror,
    pub(crate) server: Server,
    /// The table of its static pacman, for a preset that extends none.
    pacman: String,
}

impl Bench {
    fn new(who: Who, base: &Mirror, description: &Value) -> Self {
        let lab = Lab::new(who);
        let mirror = base.extended(&lab.path().join("mirror"), description);
        let server = Server::of(&mirror.www());
        let preset = fs::read_to_string(mirror.preset()).expect("a preset");
        let (_, pacman) = preset.split_once("[pacman]").expect("a pacman");
        let pacman = format!("[pacman]{pacman}").replace("http://127.0.0.1:8765", server.url());
        let bench = Self { lab, mirror, server, pacman };
        bench.write("preset.toml", &preset.replace("http://127.0.0.1:8765", bench.server.url()));
        let ran = bench.lab.sh(&format!("cp -r {}/examples/. .", top().display()));
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        bench.write("key.pub", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHXSyBEXq2oN1VsKaQe1ZrQCk2p2Lh1kUJy1N0kEd0mN me");
        bench
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.lab.path().join(name), text).expect("our own directory");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.lab.path().join(name)).expect(name)
    }

    /// Returns the fingerprint of an overlay's key.
    fn key(&self, overlay: &str) -> String {
        let keys: Value =
            serde_json::from_slice(&fs::read(self.mirror.dir.join("overlays.json")).expect("keys")).expect("JSON");
        keys[overlay].as_str().expect("a key").to_owned()
    }

    /// Runs make(1), and returns the receipt.
    #[track_caller]
    pub(crate) fn make(&self, words: &str, receipt: &str) -> Value {
        let ran = self.lab.sh(&format!("make --silent {words}"));
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let document: Value = serde_json::from_str(&self.read(receipt)).expect("JSON");
        strapline_tests::schema::check(&document);
        assert_eq!(document.get("error"), None);
        document
    }

    /// Checks what all of them promise: the repositories in this order, in the built system as well; these packages from these
    /// repositories, and those and no others unverified; no secret key; a keyring that the first boot makes.
    #[track_caller]
    fn check(&self, root: &str, document: &Value, repos: &[&str], packages: &[(&str, &str)]) {
        let names = |list: &Value| -> Vec<String> {
            list.as_array()
                .expect("a list")
                .iter()
                .map(|one| one["name"].as_str().expect("a name").to_owned())
                .collect()
        };
        assert_eq!(names(&document["config"]["repositories"]), repos);
        let conf = self.read(&format!("{root}/etc/pacman.conf"));
        let sections: Vec<_> = conf.lines().filter_map(|line| line.strip_prefix('[')?.strip_suffix(']')).collect();
        let kept: Vec<_> = sections.into_iter().filter(|section| repos.contains(section)).collect();
        assert_eq!(kept, repos);
        let installed = document["packages"].as_array().expect("packages");
        for (name, repo) in packages {
            let found = installed.iter().find(|p| p["name"] == *name).expect(name);
            assert_eq!(found["repo"].as_str().unwrap_or_default(), *repo, "{name}");
            assert_eq!(found["verified"], *repo != UNSIGNED, "{name}");
        }
        let unverified = installed.iter().filter(|p| p["verified"] != true).count();
        assert_eq!(unverified, packages.iter().filter(|(_, repo)| *repo == UNSIGNED).count());
        assert_eq!(document["verify"]["packages"], installed.len());
        let root = self.lab.path().join(root);
        assert!(root.join("etc/systemd/system/first-boot-keyring.service").exists());
        assert!(!root.join("etc/pacman.d/gnupg/pubring.gpg").exists(), "the keyring is stripped");
    }

    /// Returns what a command prints inside.
    fn inside(&self, receipt: &str, command: &str) -> String {
        let ran = self.lab.sh(&format!("enter --state {receipt} {command} < /dev/null"));
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        ran.stdout.trim().to_owned()
    }
}

/// A kernel as a repository has one beside the distribution's own.
fn kernel(name: &str) -> Value {
    let modules = format!("usr/lib/modules/6.12-{name}");
    let mut files = serde_json::Map::new();
    for (path, text) in
        [("pkgbase", format!("{name}\n")), ("vmlinuz", "a kernel".to_owned()), ("modules.order", String::new())]
    {
        files.insert(format!("{modules}/{path}"), text.into());
    }
    files.insert(format!("boot/vmlinuz-{name}"), "a kernel".into());
    json!({"name": name, "version": "6.12", "files": files, "depend": ["mkinitcpio", "kmod"]})
}

fn package(name: &str) -> Value {
    json!({"name": name, "version": "1", "files": {format!("usr/share/{name}"): name}})
}

/// What orange-pi-5.mk needs, of a mirror.
pub(crate) fn orange_pi(base: &Mirror) -> Bench {
    let at = "7Ji/archrepo/releases/download/aarch64";
    let packages = [kernel("linux-aarch64-7ji"), package("7ji-tool")];
    let overlay = json!({"at": at, "package": "7ji-keyring", "packages": packages});
    let bench = Bench::new(Who::User, base, &json!({"overlays": {"7Ji": overlay}}));
    bench.write("7Ji.toml", &preset_of("7Ji", &bench.server, &[bench.key("7Ji")]));
    bench.write("u-boot-rockchip.bin", &"u".repeat(5000));
    bench
}

/// A card, and by night a second one of the same lock, with the blobs where the board's ROM looks for them.
#[test]
fn a_card_for_an_orange_pi_5_twice() {
    let bench = orange_pi(&Mirror::of("aarch64"));
    // The mirror's kernel has no devicetrees, so U-Boot takes its own.
    let board = fs::read_to_string(top().join("boards/orangepi-5.toml")).expect("a board");
    let board: String =
        board.lines().filter(|line| !line.starts_with("dtb = ")).map(|line| format!("{line}\n")).collect();
    bench.write("board.toml", &board);
    // The mirror's openssh calls its unit as Debian does, and resolved is a package of its own.
    let words = "-f orange-pi-5.mk DISTRO=preset.toml OVERLAYS=7Ji.toml KEY=key.pub BOARD=board.toml SSHD=ssh \
                 PACKAGES='linux-aarch64-7ji systemd-resolved'";
    let ran = bench.lab.sh(&format!("make --silent {words} UBOOT=none.bin"));
    assert!(ran.status == 2 && ran.stderr.contains("'none.bin', needed by 'alarm.img'"), "{}", ran.stderr);
    assert!(!bench.lab.path().join("alarm.root").exists(), "what is missing is named first");
    let document = bench.make(words, "alarm.json");
    let repos = ["core", "extra", "alarm", "aur", "7Ji"];
    bench.check(
        "alarm.root",
        &document,
        &repos,
        &[("linux-aarch64-7ji", "7Ji"), ("7ji-keyring", "7Ji"), ("nano", "extra")],
    );
    assert_eq!(bench.inside("alarm.json", "sudo -u alarm sudo id -u"), "0", "sudo without a password");
    let root = &document["disks"][0]["partitions"][1];
    assert_eq!(document["configured"]["login"], json!({"ssh": ["alarm"]}));
    assert_eq!(document["filesystems"][0]["grows"], root["type"]);
    let show =
        |request: &str| bench.lab.sh(&format!("debugfs -R '{request}' 'alarm.img?offset={}'", root["start"])).stdout;
    for (path, text) in [
        ("/etc/repart.d/50-configure-000.conf", root["type"].as_str().expect("a GUID")),
        ("/etc/systemd/system/systemd-repart.service.d/50-configure.conf", "--discard=no"),
        ("/etc/fstab", " / ext4 rw,relatime,x-systemd.growfs 0 1\n"),
        ("/home/alarm/.ssh/authorized_keys", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5"),
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
    let card = fs::read(bench.lab.path().join("alarm.img")).expect("an image");
    assert_eq!(card[32 << 10..][..5000], [b'u'; 5000]);
    // That a lock gives the same disk is `reproducible::one_lock_makes_one_archive_and_one_disk` by day.
    if !tier::soak() {
        return;
    }
    drop(bench.make(&format!("{words} again"), "again.json"));
    let again = fs::read(bench.lab.path().join("again.img")).expect("an image");
    let first = card.iter().zip(&again).position(|(a, b)| a != b);
    assert_eq!((first, card.len()), (None, again.len()), "the images differ");
}

#[test]
fn as_endeavouros_is_made() {
    let overlay = json!({"at": "endeavouros/repo/endeavouros/x86_64",
        "packages": [package("eos-hooks"), package("endeavouros-mirrorlist"), {"copy": "extra/nano-7.2-1-x86_64.pkg.tar.zst"}]});
    let bench = Bench::new(Who::Root, &Mirror::of("x86_64"), &json!({"overlays": {"endeavouros": overlay}}));
    bench.write("endeavouros.toml", &preset_of("endeavouros", &bench.server, &[bench.key("endeavouros")]));
    let words = "-f endeavouros.mk DISTRO=preset.toml OVERLAYS=endeavouros.toml SSHD=ssh";
    let document = bench.make(words, "endeavouros.json");
    let own = [("eos-hooks", "endeavouros"), ("nano", "endeavouros"), ("sudo", "extra"), ("linux", "core")];
    bench.check("endeavouros.root", &document, &["endeavouros", "core", "extra"], &own);
    assert_eq!(document["keyring"]["populated"], json!(["archlinux", "endeavouros"]));
    assert_eq!(
        bench.inside("endeavouros.json", "sh -c '. /etc/os-release && echo $ID $IMAGE_ID'"),
        "endeavouros endeavouros"
    );
    assert_eq!(bench.inside("endeavouros.json", "sudo -u liveuser sudo id -u"), "0");
    let root = bench.lab.path().join("endeavouros.root/etc/systemd/system");
    assert_eq!(
        fs::read_link(root.join("systemd-networkd-wait-online.service")).expect("masked"),
        Path::new("/dev/null")
    );
    let list = bench.lab.sh("tar -tf endeavouros.tar.zst").stdout;
    assert!(list.lines().any(|line| line.ends_with("usr/share/eos-hooks")), "{list}");
}

/// What cachyos-v3.mk needs, of a mirror.
pub(crate) fn cachyos(base: &Mirror) -> Bench {
    let fast = |name: &str| {
        json!({"name": name, "version": "2", "arch": "x86_64_v3", "signer": "cachyos",
        "files": {format!("usr/share/{name}-v3"): name}})
    };
    let repo = |name: &str, packages: Value| json!({"at": format!("repo/x86_64_v3/{name}"), "signed": "cachyos", "packages": packages});
    let own = json!({"at": "repo/x86_64/cachyos", "signed": "cachyos",
        "packages": [package("cachyos-mirrorlist"), package("cachyos-settings"), kernel("linux-cachyos")]});
    let bench = Bench::new(
        Who::User,
        base,
        &json!({"overlays": {"cachyos": own}, "repos": {
            "cachyos-v3": repo("cachyos-v3", json!([fast("cachyos-fast")])),
            "cachyos-core-v3": repo("cachyos-core-v3", json!([fast("gettext")])),
            "cachyos-extra-v3": repo("cachyos-extra-v3", json!([fast("nano")])),
        }}),
    );
    bench.write("cachyos.toml", &preset_of("cachyos", &bench.server, &[bench.key("cachyos")]));
    bench
}

/// pacman takes packages of two architectures, and those of the more demanding one come first.
#[test]
fn as_cachyos_is_made_for_v3() {
    let bench = cachyos(&Mirror::of("x86_64"));
    let document = bench
        .make("-f cachyos-v3.mk DISTRO=cachyos.toml KEY=key.pub SSHD=ssh BOOT='--bootloader extlinux'", "cachyos.json");
    let repos = ["cachyos-v3", "cachyos-core-v3", "cachyos-extra-v3", "cachyos", "core", "extra"];
    let own =
        [("nano", "cachyos-extra-v3"), ("gettext", "cachyos-core-v3"), ("linux-cachyos", "cachyos"), ("sudo", "extra")];
    bench.check("cachyos.root", &document, &repos, &own);
    assert_eq!(document["config"]["architecture"], json!(["x86_64", "x86_64_v3"]));
    let conf = bench.read("cachyos.root/etc/pacman.conf");
    assert!(conf.contains("\nArchitecture = x86_64 x86_64_v3\n"), "{conf}");
    assert!(conf.contains("[cachyos-v3]\nSigLevel = Required"), "{conf}");
    assert_eq!(bench.inside("cachyos.json", "pacman -Q nano"), "nano 2-1");
    assert!(fs::metadata(bench.lab.path().join("cachyos.img")).expect("an image").len() > 64 << 20);
}

/// Three publishers' keys in one keyring, for one set of repositories.
#[test]
fn as_manjaro_arm_is_made() {
    let at = |repo: &str| format!("repo/arm-stable/{repo}/aarch64");
    let by = |name: &str, signer: &str| json!({"name": name, "version": "1", "signer": signer});
    let community = json!([{"keyring": "manjaro"}, {"keyring": "manjaro-arm"}, by("manjaro-release", "manjaro-arm"), by("pamac", "manjaro")]);
    let unused = json!({"at": "unused"});
    let bench = Bench::new(
        Who::Root,
        &Mirror::of("aarch64"),
        &json!({
            "overlays": {"manjaro": unused, "manjaro-arm": unused},
            "repos": {"community": {"at": at("community"), "packages": community}},
        }),
    );
    for repo in ["core", "extra"] {
        let below = bench.mirror.www().join(at(repo));
        fs::create_dir_all(below.parent().expect("a directory")).expect("our own mirror");
        std::os::unix::fs::symlink(bench.mirror.www().join("aarch64").join(repo), below).expect("our own mirror");
    }
    let masters = ["/masters/0", "/masters/1", "/masters/2"].map(|role| Mirror::of("aarch64").key(role));
    let pins = [&masters[..], &[bench.key("manjaro"), bench.key("manjaro-arm")]].concat();
    let preset = preset_of("manjaro-arm", &bench.server, &pins);
    bench.write("manjaro-arm.toml", &format!("{preset}{}", bench.pacman));
    let document = bench.make("-f manjaro-arm.mk DISTRO=manjaro-arm.toml PACKAGES=pamac SSHD=ssh", "manjaro-arm.json");
    let own = [
        ("manjaro-release", "community"),
        ("pamac", "community"),
        ("manjaro-arm-keyring", "community"),
        ("bash", "core"),
    ];
    bench.check("manjaro-arm.root", &document, &["core", "extra", "community"], &own);
    assert_eq!(document["keyring"]["populated"], json!(["archlinuxarm", "manjaro", "manjaro-arm"]));
    assert_eq!(bench.inside("manjaro-arm.json", "uname -m"), "aarch64");
    assert_eq!(bench.inside("manjaro-arm.json", "sudo -u manjaro sudo id -u"), "0");
}

/// Packages that nobody signed, below a tree before them and a tree over them.
#[test]
fn a_distribution_of_files_and_packages() {
    let bench = Bench::new(Who::User, &Mirror::of("x86_64"), &json!({}));
    let ran = bench.lab.sh("mkdir -p my-distribution/built p/usr/bin && cd p && printf '#!/bin/sh\\n' > usr/bin/tool && chmod 755 usr/bin/tool \
         && printf 'pkgname = tool\\npkgver = 1-1\\npkgdesc = A tool\\narch = any\\nsize = 10\\n' > .PKGINFO \
         && bsdtar --uid 0 --gid 0 -cf - .PKGINFO usr | zstd -q > ../my-distribution/built/tool-1-1-any.pkg.tar.zst");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let document = bench.make("-f my-distribution/mine.mk DISTRO=preset.toml", "mine.json");
    bench.check("mine.root", &document, &["core", "extra"], &[("tool", UNSIGNED), ("linux", "core")]);
    let tree: Vec<_> =
        document["tree"].as_array().expect("files").iter().map(|file| file["path"].as_str().expect("a path")).collect();
    for path in
        ["etc/mkinitcpio.conf.d/board.conf", "etc/systemd/system/app.service", "usr/local/bin/app", "etc/os-release"]
    {
        assert!(tree.contains(&path), "{tree:?}");
    }
    assert_eq!(
        bench.inside("mine.json", "stat -c %U:%a /etc/app/app.conf /usr/local/bin/app /usr/bin/tool"),
        "me:600\nroot:755\nroot:755"
    );
    assert!(bench.lab.path().join("mine.root/etc/systemd/system/multi-user.target.wants/app.service").is_symlink());
    assert_eq!(bench.inside("mine.json", "sudo -u me sudo id -u"), "0");
    let again = bench.make("-f my-distribution/mine.mk DISTRO=preset.toml again", "again.json");
    let hashes = |document: &Value| -> Vec<Value> {
        let packages = document["packages"].as_array().expect("packages");
        packages.iter().flat_map(|p| [p["name"].clone(), p["sha256"].clone()]).collect()
    };
    assert_eq!((hashes(&again), &again["tree"]), (hashes(&document), &document["tree"]));
}

#[test]
fn a_base_image_for_containers() {
    let (lab, _server) = bench(Who::User, "x86_64");
    // The second time over what the first one left: its receipt knows as much.
    for _ in 0..2 {
        let ran = lab.sh("./container.sh preset.toml x86_64 bash nano");
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let receipt = fs::read_to_string(lab.path().join("preset-x86_64.json")).expect("a receipt");
        let receipt: Value = serde_json::from_str(&receipt).expect("a document");
        let packages = receipt["packages"].as_array().expect("packages");
        assert!(packages.iter().all(|package| package["sha256"].is_string()), "{receipt}");
    }
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

/// The real makepkg builds it; fakeroot, which the mirror does not have, is this host's.
#[test]
fn a_package_of_a_pkgbuild() {
    let (lab, _server) = bench(Who::Root, "x86_64");
    let script = "set -eu
        mkdir -m 700 gnupg && export GNUPGHOME=$PWD/gnupg
        gpg --batch --quiet --passphrase '' --quick-generate-key 'Me <me@example.org>' ed25519 sign 2y
        key=$(gpg --batch --with-colons --list-keys | sed -n 's/^fpr:*\\([0-9A-F]*\\):$/\\1/p' | head -n 1)
        gpg --export --armor $key > mine.asc
        mkdir -p fakeroot/usr/bin && cp -L /usr/bin/fakeroot-sysv fakeroot/usr/bin/fakeroot
        cp /usr/bin/faked-sysv fakeroot/usr/bin
        mkdir -p fakeroot/usr/lib/x86_64-linux-gnu && cp -r /usr/lib/x86_64-linux-gnu/libfakeroot fakeroot/usr/lib/x86_64-linux-gnu
        printf 'pkgname = fakeroot\\npkgver = 1-1\\narch = x86_64\\nsize = 1\\n' > fakeroot/.PKGINFO
        (cd fakeroot && bsdtar -cf - .PKGINFO usr) | zstd -q > fakeroot-1-1-x86_64.pkg.tar.zst
        DISTRO=preset.toml DEVEL='base --unsigned ./fakeroot-1-1-x86_64.pkg.tar.zst' \\
            pkgbuild/build.sh $key repo/mine.db pkgbuild/hello
        mkroot root --arch x86_64 --distro preset.toml | fetch-pacman | mkconf --repo mine=file://$PWD/repo \\
            | keyring --key mine.asc | strap bash hello | verify > receipt.json
        enter --state receipt.json hello; stat -c '%u:%g %a' root/usr/bin/hello; ls repo";
    fs::write(lab.path().join("script"), script).expect("our own directory");
    // The agent that gpg starts ends with it.
    let ran = lab.sh("exec unshare --mount --propagation private --pid --fork --mount-proc --kill-child sh script");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let out = ran.stdout;
    assert!(
        out.ends_with(
            "hello-1-1-any.pkg.tar.gz\nhello-1-1-any.pkg.tar.gz.sig\nmine.db\nmine.db.sig\nmine.files\nmine.files.sig\n"
        ),
        "{out}"
    );
    assert!(out.contains("'repo/mine.db': 1 package\nHello from arch\n0:0 755\n"), "{out}");
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
    // Two at once: make gives the second a stdin that is no document.
    make("-j2 blue.tar.zst green.tar.zst blue=sudo green=sudo");
    let still = fs::metadata(lab.path().join("base.json")).and_then(|meta| meta.modified()).expect("the base");
    assert_eq!(base, still, "the base was made again");
    let has = |name: &str, path: &str| lab.sh(&format!("tar -xOf {name}.tar.zst {path} | head -c 100")).stdout;
    assert_eq!(has("red", "etc/hostname"), "red\n");
    assert_eq!(has("blue", "etc/hostname"), "blue\n");
    assert_eq!(has("green", "etc/hostname"), "green\n");
    assert!(!has("red", "usr/bin/nano").is_empty() && has("blue", "usr/bin/nano").is_empty());
    for root in ["base.root", "red.root", "blue.root", "red.root.strapline"] {
        assert!(!lab.path().join(root).exists(), "{root} is left");
    }
}
