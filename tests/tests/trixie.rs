//! A keyring is written on one host and used by the programs of the root, which may be newer: gpg 2.4 and pacman 7.0 of
//! Debian trixie, in a root that the pipe made, judge what `keyring` wrote beside the host's 2.2 and 6.0.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use strapline_tests::gpg::{Odd, table};
use strapline_tests::{Lab, Mirror, Ran, Server, Who};

/// Where a root keeps its rings.
const RINGS: &str = "root/usr/share/pacman/keyrings";

/// A root with trixie's programs, and its document in `doc.json`.
struct Newer {
    lab: Lab,
    mirror: Mirror,
    server: Server,
}

impl Newer {
    fn new() -> Self {
        let (lab, mirror) = (Lab::new(Who::Root), Mirror::of_suite("x86_64", "trixie"));
        let server = Server::of(&mirror.www());
        let newer = Self { lab, mirror, server };
        let url = newer.server.url();
        let ran = newer.lab.sh(&format!(
            "mkroot root --arch x86_64 --distro {preset} \
             | fetch-pacman --cache-dir fetched --server {url}/archlinuxcn/x86_64 \
             | mkconf --server '{url}/$arch/$repo' --cache-dir packages \
             | keyring | strap pacman archlinux-keyring > doc.json; cat doc.json",
            preset = newer.mirror.preset().display()
        ));
        drop(ran.succeeded());
        // What all of this is for.
        let version = |program: &str| newer.inside(&format!("{program} --version")).stdout;
        assert!(version("gpg").starts_with("gpg (GnuPG) 2.4."), "{}", version("gpg"));
        assert!(version("pacman").contains("Pacman v7.0."), "{}", version("pacman"));
        newer
    }

    /// Runs a script in the root.
    fn inside(&self, script: &str) -> Ran {
        fs::write(self.lab.path().join("root/script"), script).expect("our own directory");
        self.lab.sh("enter --state doc.json sh -eu /script")
    }

    /// Makes `newer/gpg` a command of the host that is the root's gpg.
    fn gpg_for_the_host(&self) {
        let (directory, root) = (self.lab.path().join("newer"), self.lab.path().join("root"));
        let lib = root.join("usr/lib/x86_64-linux-gnu");
        fs::create_dir(&directory).expect("our own directory");
        let text = format!(
            "#!/bin/sh\nexec {lib}/ld-linux-x86-64.so.2 --library-path {lib} {root}/usr/bin/gpg \"$@\"\n",
            lib = lib.display(),
            root = root.display()
        );
        fs::write(directory.join("gpg"), text).expect("our own directory");
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(directory.join("gpg"), mode).expect("our own file");
        assert!(self.lab.sh("newer/gpg --version").stdout.contains(" 2.4."));
    }

    /// Builds the keyring of a ring anew, with a gpg in `PATH` that says how strict to be.
    fn build(&self, ring: &Ring, path: &str) {
        let trust: String = ring.masters.iter().map(|m| format!(" --trust {m}")).collect();
        let ran = self.lab.sh(&format!(
            "rm -r root/etc/pacman.d/gnupg; \
             PATH={path}$PATH keyring --state doc.json --populate {}{trust}",
            ring.name
        ));
        drop(ran.succeeded());
    }

    /// Returns what gpg lists in the root: of each key and name a line; and before that has it look again, if it is to.
    fn listing(&self, check: bool) -> BTreeSet<String> {
        // Without --yes a gpg with --batch does so only where the date for it has come.
        let gpg = "gpg --homedir /etc/pacman.d/gnupg --batch --yes --no-permission-warning";
        let check = if check { format!("{gpg} --check-trustdb\n") } else { String::new() };
        let list = format!("{check}{gpg} --no-auto-check-trustdb --with-colons --list-keys");
        let ran = self.inside(&list);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        let own = ran.stdout.lines().find(|l| l.starts_with("pub:u:")).expect("its own key");
        table(&ran.stdout, own.split(':').nth(4).expect("an id")).0
    }
}

/// A ring, as files with its name in the root.
struct Ring {
    name: &'static str,
    masters: Vec<String>,
    /// How many keys it has at least.
    keys: usize,
}

/// Puts every ring at hand into the root: the mirror's, which is there, the real Arch Linux's, and one of all kinds.
fn rings(newer: &Newer) -> Vec<Ring> {
    let path = |name: &str| newer.lab.path().join(RINGS).join(name);
    let masters = |trusted: &str| -> Vec<String> {
        let keys = trusted.lines().filter_map(|line| line.split(':').next());
        keys.map(str::to_owned).collect()
    };
    let own = fs::read_to_string(path("archlinux-trusted")).expect("the mirror's");
    for end in [".gpg", "-trusted", "-revoked"] {
        let from = format!("/usr/share/keyrings/archlinux{end}");
        let text = fs::read(&from).unwrap_or_else(|e| panic!("{from}: {e}; apt-get install archlinux-keyring"));
        fs::write(path(&format!("real{end}")), text).expect("our own root");
    }
    let real = fs::read_to_string(path("real-trusted")).expect("just written");
    let odd = Odd::make();
    fs::write(path("odd.gpg"), &odd.ring).expect("our own root");
    fs::write(path("odd-trusted"), odd.trusted()).expect("our own root");
    fs::write(path("odd-revoked"), odd.retired.join("\n")).expect("our own root");
    vec![
        Ring { name: "archlinux", masters: masters(&own), keys: 5 },
        Ring { name: "real", masters: masters(&real), keys: 150 },
        Ring { name: "odd", masters: odd.masters, keys: 25 },
    ]
}

/// The keys and names of a listing that have one of these validities.
fn valid<'a>(lines: &'a BTreeSet<String>, validity: &[char]) -> BTreeSet<&'a str> {
    let what = |line: &&'a String| line.splitn(3, ' ').nth(2).is_some_and(|rest| rest.starts_with(validity));
    lines.iter().filter(what).map(String::as_str).collect()
}

#[test]
fn a_newer_gpg_finds_nothing_to_change_in_what_was_written() {
    let newer = Newer::new();
    newer.gpg_for_the_host();
    for ring in rings(&newer) {
        let name = ring.name;
        newer.build(&ring, "$PWD/newer:");
        let before = newer.listing(false);
        let keys = before.iter().filter(|l| l.contains(" pub ")).count();
        assert!(keys >= ring.keys, "{name}: {keys} keys");
        assert!(valid(&before, &['f']).len() > ring.masters.len(), "{name}");
        assert_eq!(newer.listing(true), before, "{name}, built where gpg is as new");

        // On a host with an older gpg, which counts old signatures with SHA-1 (keyring(8)): what only those vouch for is the
        // one difference. Each gpg keeps its own opinion of a signature with the key, as it does after pacman-key.
        newer.build(&ring, "");
        let old = newer.listing(false);
        let new = newer.listing(true);
        if name != "odd" {
            assert_eq!(valid(&old, &['f', 'm', 'u']), valid(&new, &['f', 'm', 'u']), "{name}");
        }
        if name == "archlinux" {
            assert_eq!(old, new, "nobody in it uses SHA-1");
        }
    }
}

#[test]
fn a_newer_pacman_verifies_by_what_was_written() {
    let newer = Newer::new();
    for (kind, taken) in [("", true), ("nano-stranger-key", false), ("nano-bad-signature", false)] {
        let mirror = match kind {
            "" => newer.mirror.clone(),
            kind => newer.mirror.tampered(&newer.lab.path().join(kind), kind),
        };
        let server = Server::of(&mirror.www());
        let conf = format!(
            "[options]\nArchitecture = x86_64\nSigLevel = Required DatabaseOptional\n\
             [core]\nServer = {url}/$arch/$repo\n[extra]\nServer = {url}/$arch/$repo\n",
            url = server.url()
        );
        fs::write(newer.lab.path().join("root/conf"), conf).expect("our own root");
        let ran = newer.inside("pacman -Syy --noconfirm --config /conf nano");
        assert_eq!(ran.status == 0, taken, "{kind}: {}{}", ran.stdout, ran.stderr);
        let there = newer.inside("pacman -Q nano").status == 0;
        assert_eq!(there, taken, "{kind}");
        if taken {
            let text = newer.inside("pacman -Qi nano").stdout;
            assert!(text.lines().any(|l| l.starts_with("Validated By") && l.ends_with(": Signature")), "{text}");
            let ran = newer.inside("pacman -R --noconfirm nano; rm -f /var/cache/pacman/pkg/nano-*");
            assert_eq!(ran.status, 0, "{}", ran.stderr);
        }
        no_agent(&newer.lab.path().join("root"));
    }
}

/// Checks that nothing that gpg may have started is left.
fn no_agent(root: &Path) {
    assert_eq!(strapline_tests::lab::processes_below(root), Vec::<String>::new());
}
