//! Whole pipelines: the shell procedure of strapline(7) and the suite's own, as root, as an ordinary user and on the host, against the
//! offline mirror, with real foreign programs.

use serde_json::Value;
use std::path::Path;
use strapline_tests::{Lab, Mirror, Ran, Server, Who, lab, tier};

/// The pipe up to where packages are installed.
fn begin(mirror: &Mirror, server: &Server, options: &str) -> String {
    let (preset, url) = (mirror.preset(), server.url());
    format!(
        "mkroot root {options} --distro {p} \
         | fetch-pacman --cache-dir fetched --server {url}/archlinuxcn/x86_64 \
         | mkconf --server '{url}/$arch/$repo' --cache-dir $PWD/packages",
        p = preset.display()
    )
}

/// Checks a finished root: what the issue asks of every way to make one.
fn check_root(lab: &Lab, receipt: &Value, verified: bool) {
    let packages = receipt["packages"].as_array().expect("packages");
    assert!(packages.len() >= 100, "{} packages", packages.len());
    if verified {
        let unverified: Vec<_> = packages.iter().filter(|p| p["verified"] != true).collect();
        assert_eq!(unverified, Vec::<&Value>::new());
    }
    for package in packages {
        assert!(package["sha256"].is_string(), "{package}");
    }
    std::fs::write(lab.path().join("receipt.json"), receipt.to_string()).expect("our own directory");
    let inside = |command: &str| lab.sh(&format!("enter --state receipt.json {command}"));
    let arch = receipt["arch"].as_str().expect("arch");
    assert_eq!(inside("bash -c 'uname -m'").stdout.trim(), arch);
    // By the directory alone, with the caller's input and the command's status.
    let alone = |words: &str| lab.sh(&format!("echo input | enter ./root {words}"));
    assert_eq!(alone("bash -c 'uname -m; cat'").stdout, format!("{arch}\ninput\n"));
    assert_eq!(alone("bash -c 'exit 7'").status, 7);
    assert_eq!(lab.sh("enter root bash -c 'exit 7' < /dev/null").status, 7);
    let count = inside("pacman -Q").stdout.lines().count();
    assert_eq!(count, packages.len());
    let check = inside("pacman -Qk");
    assert_eq!(check.status, 0, "{}", check.stderr);
    let missing: Vec<_> = check.stdout.lines().filter(|l| !l.ends_with(" 0 missing files")).collect();
    assert_eq!(missing, Vec::<&str>::new());
    // Owners and modes, inside: sudo is set-uid root, shadow is nobody's to read, journal's group is foreign.
    assert_eq!(inside("stat -c %u:%g:%a /usr/bin/sudo").stdout.trim(), "0:0:4755");
    assert_eq!(inside("stat -c %u:%a /etc/shadow").stdout.trim(), "0:600");
    assert_eq!(inside("sudo -u nobody id -u").stdout.trim(), "65534", "set-uid programs work");
    check_modes(&lab.path().join("root"));
    check_keyring(&lab.path().join("root"));
}

/// Modes on disk, which only show when nothing is mounted over them.
fn check_modes(root: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for (path, mode) in [("tmp", 0o1777), ("proc", 0o555), ("sys", 0o555), ("root", 0o750), ("", 0o755)] {
        let meta = std::fs::metadata(root.join(path)).expect(path);
        assert_eq!(meta.permissions().mode() & 0o7777, mode, "{path}");
    }
    assert!(!root.join("dev/null").exists(), "a node was made in the image");
}

/// No socket of an agent stays in the image.
fn check_keyring(root: &Path) {
    use std::os::unix::fs::FileTypeExt;
    for entry in std::fs::read_dir(root.join("etc/pacman.d/gnupg")).expect("a keyring").flatten() {
        let socket = entry.file_type().is_ok_and(|t| t.is_socket());
        assert!(!socket, "{} is left", entry.path().display());
    }
}

fn receipt(ran: &Ran) -> Value {
    let receipt = ran.succeeded();
    assert_eq!(receipt["strapline"], 1);
    receipt
}

const REST: &str = "| keyring | strap base archlinuxarm-keyring | strap nano vim sudo openssh | reap | unmount";

#[test]
fn the_pipe_as_root() {
    let (mirror, lab) = (Mirror::of("aarch64"), Lab::new(Who::Root));
    let server = Server::of(&mirror.www());
    let ran = lab.sh(&format!("{} {REST}", begin(&mirror, &server, "--arch aarch64")));
    let receipt = receipt(&ran);
    assert_eq!(receipt["mode"], "root");
    let tools: Vec<_> = receipt["steps"].as_array().expect("steps").iter().map(|s| s["tool"].clone()).collect();
    assert_eq!(tools, ["mkroot", "fetch-pacman", "mkconf", "keyring", "strap", "strap", "reap", "unmount"]);
    check_root(&lab, &receipt, true);
}

#[test]
fn the_pipe_as_an_ordinary_user() {
    let (mirror, lab) = (Mirror::of("aarch64"), Lab::new(Who::User));
    let server = Server::of(&mirror.www());
    let ran = lab.sh(&format!("{} {REST}", begin(&mirror, &server, "--arch aarch64")));
    let receipt = receipt(&ran);
    assert_eq!(receipt["mode"], "user");
    check_root(&lab, &receipt, true);
    // On disk root's files are the user's, and everybody else's are in the range of subordinate ids.
    use std::os::unix::fs::MetadataExt;
    let owner = |path: &str| {
        let meta = std::fs::symlink_metadata(lab.path().join("root").join(path)).expect(path);
        (meta.uid(), meta.gid())
    };
    assert_eq!(owner("usr/bin/bash"), (lab::UID, lab::UID));
    assert_eq!(owner("usr/bin/sudo"), (lab::UID, lab::UID));
    let foreign = lab.sh("find root -xdev -gid +1900000000 -print -quit").stdout;
    assert!(!foreign.is_empty(), "no file has a foreign group");
}

#[test]
fn the_pipe_with_mounts_on_the_host() {
    let (arch, keyring, _) = tier::architecture();
    let (mirror, lab) = (Mirror::of(arch), Lab::new(Who::Root));
    let server = Server::of(&mirror.www());
    let begin = begin(&mirror, &server, &format!("--arch {arch} --host"));
    let live = lab.sh(&format!("{begin} | keyring | strap base {keyring} | strap nano vim sudo openssh"));
    let document = live.succeeded();
    assert_eq!(document["mode"], "host");
    let mounts = lab::Host::look().mounts_below(lab.path());
    assert!(mounts.iter().any(|m| m.ends_with("/root/proc")), "{mounts:?}");
    std::fs::write(lab.path().join("live.json"), live.stdout).expect("our own directory");
    let ran = lab.sh("reap --state live.json | unmount");
    let receipt = receipt(&ran);
    assert_eq!(lab::Host::look().mounts_below(lab.path()), Vec::<String>::new());
    check_root(&lab, &receipt, true);
}

#[test]
fn the_order_of_the_shell_procedure() {
    let (arch, keyring, kernel) = tier::architecture();
    let (mirror, lab) = (Mirror::of(arch), Lab::new(Who::Root));
    let server = Server::of(&mirror.www());
    let begin = begin(&mirror, &server, &format!("--arch {arch}"));
    let ran = lab.sh(&format!(
        "{begin} | strap --loose base {keyring} | keyring --in-root \
         | strap nano vim sudo openssh {kernel} linux-firmware | reap | unmount"
    ));
    let receipt = receipt(&ran);
    let verified = |name: &str| {
        let packages = receipt["packages"].as_array().expect("packages");
        packages.iter().find(|p| p["name"] == name).expect(name)["verified"].clone()
    };
    assert_eq!(verified("bash"), false, "the base went in loose");
    assert_eq!(verified("nano"), true, "the rest went in strict");
    check_root(&lab, &receipt, false);
    assert!(lab.path().join("root/boot/initramfs-linux.img").exists(), "mkinitcpio's hook ran");
}

/// The maker of the initramfs sees the devices of this machine, which is not the one that the root is for.
#[test]
fn the_initramfs_is_for_any_machine() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::User));
    let server = Server::of(&mirror.www());
    let begin = begin(&mirror, &server, "--arch x86_64");
    let modules = || {
        let ran = lab.sh("tar -xOzf root/boot/initramfs-linux.img modules/names");
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        ran.stdout
    };
    let ran = lab.sh(&format!("{begin} | keyring | strap base archlinux-keyring linux"));
    let made = receipt(&ran);
    assert!(modules().contains("nvme\nahci\nsdhci_pci\ncontroller_of_another_machine\n"), "{}", modules());
    for ours in ["etc/initcpio", "etc/dracut.conf.d", "etc/strapline-made"] {
        assert!(!lab.path().join("root").join(ours).exists(), "{ours}");
    }
    std::fs::write(lab.path().join("made.json"), made.to_string()).expect("our own directory");
    receipt(&lab.sh("strap --initramfs host linux-firmware < made.json | reap | unmount"));
    assert!(modules().contains("ext4\n") && !modules().contains("another_machine"), "{}", modules());
}

#[test]
fn a_root_of_this_hosts_own_architecture() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::User));
    let server = Server::of(&mirror.www());
    let begin = begin(&mirror, &server, "--arch x86_64");
    let ran =
        lab.sh(&format!("{begin} | keyring | strap base archlinux-keyring nano vim sudo openssh | reap | unmount"));
    let receipt = receipt(&ran);
    assert_eq!(receipt["binfmt"]["kind"], "native");
    check_root(&lab, &receipt, true);
    // A copy lies beside the root, and is what is left where the shell emptied the document.
    let copy = |lab: &Lab| std::fs::read_to_string(lab.path().join("root.strapline/document.json")).expect("a copy");
    assert_eq!(copy(&lab), ran.stdout);
    let emptied = lab.sh("cp root.strapline/document.json r.json; verify --state r.json > r.json");
    assert_eq!(emptied.status, 64, "{emptied:?}");
    let reason = "verify: reading the document 'r.json': it is stdout, too, and the shell has emptied it\n";
    assert!(emptied.stderr.starts_with(reason), "{emptied:?}");
    assert!(emptied.stderr.contains("hint: a copy is ROOT.strapline/document.json: copy it back"), "{emptied:?}");
    assert_eq!(copy(&lab), ran.stdout);
    // Also the files of subordinate ids go, by the directory alone.
    let owners = lab.sh("find root ! -group $(id -g) | wc -l");
    assert_ne!(owners.stdout.trim(), "0");
    assert_eq!(lab.sh("unmount --remove root").succeeded()["unmount"]["removed"], true);
    assert!(!lab.path().join("root").exists() && !lab.path().join("root.strapline").exists());
}

#[test]
fn each_tool_alone_with_its_document_in_a_file() {
    let (mirror, lab) = (Mirror::of("aarch64"), Lab::new(Who::User));
    let server = Server::of(&mirror.www());
    let makefile = strapline_tests::top().join("examples/steps.mk");
    let make = |target: &str| {
        lab.sh(&format!(
            "make -f {} DISTRO={} ARCH=aarch64 MIRROR={} {target}",
            makefile.display(),
            mirror.preset().display(),
            server.url()
        ))
    };
    // Every target is a make(1) of its own: nothing lives between two of them.
    for target in ["root.json", "pacman.json", "config.json", "keyring.json", "base.json", "done.json"] {
        let ran = make(target);
        assert_eq!(ran.status, 0, "{target}: {}", ran.stderr);
        assert_eq!(lab::processes_below(lab.path()), Vec::<String>::new(), "{target}");
    }
    let again = make("done.json");
    assert!(again.stdout.contains("up to date"), "{again:?}");
    let text = std::fs::read_to_string(lab.path().join("done.json")).expect("done.json");
    let document: Value = serde_json::from_str(&text).expect("a document");
    assert_eq!(document.get("error"), None);
    assert!(document["packages"].as_array().is_some_and(|p| p.len() > 100));
}

#[test]
fn a_failed_scriptlet_or_hook_is_named() {
    let lab = Lab::new(Who::Root);
    for (kind, package, line) in [
        (
            "scriptlet-fails",
            "badscript",
            "strap: running the scriptlet of 'badscript': command failed to execute correctly",
        ),
        ("hook-fails", "badhook", "strap: running the hook '"),
    ] {
        let mirror = Mirror::of("x86_64").tampered(&lab.path().join(kind), kind);
        let server = Server::of(&mirror.www());
        let begin = begin(&mirror, &server, "--arch x86_64").replace("mkroot root", &format!("mkroot {package}"));
        let ran = lab.sh(&format!(
            "{begin} | keyring | strap bash coreutils | tee before.json | strap {package} | reap | unmount"
        ));
        ran.failed(69, line);
        assert_eq!(ran.document()["error"]["tool"], "strap");
        // The same, allowed: a hook runs by its own name.
        let name = if kind == "hook-fails" {
            ran.document()["error"]["message"].as_str().and_then(|m| m.split('\'').nth(1)).map(str::to_owned)
        } else {
            Some(package.to_owned())
        };
        let name = name.expect("a hook's name");
        let ran = lab.sh(&format!("strap --state before.json --allow-failed-scriptlet {name} {package}"));
        assert_eq!(ran.status, 0, "{}", ran.stderr);
    }
}
