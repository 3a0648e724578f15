//! What a root, a package or the host can put where gpg looks: none of it runs on the host, and none of it is trusted.

use std::fs;
use std::path::PathBuf;
use strapline_tests::{Lab, Mirror, Ran, Server, Who};

/// A picture as gpg takes one for a user id (JPEG File Interchange Format): its first bytes.
const PICTURE: &str = r"printf '\377\330\377\340\000\020JFIF\000\001\001\000\000\001\000\001\000\000\377\331' > picture.jpg";

/// gpg in a script, as the tests use it.
const GPG: &str = "gpg --batch --quiet --no-tty --no-permission-warning --yes";

/// A laboratory with a mirror, and a pipe in it.
struct Bench {
    lab: Lab,
    mirror: Mirror,
    server: Server,
}

impl Bench {
    fn new() -> Self {
        let (lab, mirror) = (Lab::new(Who::Root), Mirror::of("x86_64"));
        let server = Server::of(&mirror.www());
        Self {
            lab,
            mirror,
            server,
        }
    }

    /// Runs a pipe that begins a root and ends with `rest`; the document is in doc.json.
    fn pipe(&self, rest: &str) -> Ran {
        let ran = self.lab.sh(&format!(
            "mkroot root --arch x86_64 --distro {preset} \
             | fetch-pacman --cache-dir fetched --server {url}/archlinuxcn/x86_64 \
             | mkconf --server '{url}/$arch/$repo' --cache-dir $PWD/packages | {rest}",
            preset = self.mirror.preset().display(),
            url = self.server.url(),
        ));
        fs::write(self.path("doc.json"), &ran.stdout).expect("our own directory");
        ran
    }

    fn path(&self, below: &str) -> PathBuf {
        self.lab.path().join(below)
    }

    /// Runs a script that must succeed. An agent that gpg starts ends with it.
    #[track_caller]
    fn must(&self, script: &str) -> String {
        self.lab.run_script(script)
    }

    /// Makes `evil`, a program that leaves the file `marker`, and returns its path. Where pacman is run only the root and the
    /// cache can be written to, so it leaves one there, too.
    fn evil(&self) -> String {
        let evil = self.path("evil");
        self.must(&format!(
            "printf '#!/bin/sh\\ntouch {lab}/marker\\n[ ! -d {lab}/root ] || touch {lab}/root/marker\\n' > evil
             chmod 755 evil; [ ! -d root ] || cp -a evil root/evil",
            lab = self.lab.path().display()
        ));
        evil.display().to_string()
    }

    #[track_caller]
    fn nothing_ran(&self, when: &str) {
        assert!(
            !self.path("marker").exists() && !self.path("root/marker").exists(),
            "a program that the root's configuration names ran on the host: {when}"
        );
    }
}

/// The root's gpg.conf has gpg show the picture of whoever signed, by a program of the root's choice; the keys are the
/// distribution's own, and one of them has a picture.
#[test]
fn no_program_of_the_host_reads_the_roots_gpg_conf() {
    let bench = Bench::new();
    drop(bench.pipe("keyring | strap filesystem ncurses").succeeded());
    let evil = bench.evil();
    let builder = bench.mirror.key("/builder");
    bench.must(&format!(
            "mkdir -m 700 k && cp -a {keys}/gnupg/. k/ && rm -f k/S.*
             {PICTURE}
             printf 'addphoto\\n%s\\ny\\nsave\\n' $PWD/picture.jpg \
               | gpg --homedir k --no-tty --quiet --no-permission-warning --command-fd 0 --edit-key {builder}
             {GPG} --homedir k --list-options show-photos --with-colons --list-keys {builder} | grep -q ^uat:
             home=root/etc/pacman.d/gnupg
             {GPG} --homedir k --export {builder} > builder.gpg
             {GPG} --homedir $home --import builder.gpg
             for file in gpg.conf gpg-agent.conf common.conf dirmngr.conf; do : > $home/$file; done
             printf '%s\\n' 'verify-options show-photos' 'list-options show-photos' 'photo-viewer \"{evil}\"' \
               'agent-program {evil}' 'dirmngr-program {evil}' > $home/gpg.conf
             printf '%s\\n' 'pinentry-program {evil}' 'scdaemon-program {evil}' > $home/gpg-agent.conf
             printf '%s\\n' use-keyboxd 'keyboxd-program {evil}' > $home/common.conf",
            keys = bench.mirror.dir.join("keys").display(),
        ));
    // The trap works: gpg in that home runs it.
    bench.must(&format!(
        "cp -a root/etc/pacman.d/gnupg trap && rm -f trap/S.* trap/common.conf
             set -- packages/ncurses-*.zst
             {GPG} --homedir trap --verify \"$1.sig\" \"$1\" 2> said || :
             test -e marker && rm marker root/marker"
    ));
    // And a gpg that reads an option that it does not know ends over it.
    bench.must("cp -a root/etc/pacman.d/gnupg/gpg.conf evil.conf; echo no-such-option > root/etc/pacman.d/gnupg/gpg.conf");
    for command in [
        "strap --state doc.json --download-only sed",
        "rm -r packages; verify --state doc.json",
    ] {
        drop(bench.lab.sh(command).succeeded());
    }
    bench.must("cp evil.conf root/etc/pacman.d/gnupg/gpg.conf");
    for command in [
        "strap --state doc.json --download-only nano",
        "strap --state doc.json nano",
        "rm -r packages; verify --state doc.json",
        "keyring --state doc.json --extend",
        "keyring --state doc.json",
        "verify --state doc.json --offline",
    ] {
        let ran = bench.lab.sh(command);
        drop(ran.succeeded());
        bench.nothing_ran(command);
    }
    let ran = bench.lab.sh("keyring --state doc.json --strip");
    drop(ran.succeeded());
    bench.nothing_ran("keyring --strip");
    assert!(!bench.path("root/etc/pacman.d/gnupg/common.conf").exists());
}

/// A mirror alters one package, which brings a keyring in which the attacker is trusted, and all else by which a file of a
/// package can gain something. It goes in loose; then the keyring is built from the pins, and verify finds it.
#[test]
fn a_package_that_went_in_loose_brings_no_trust_along() {
    let bench = Bench::new();
    let evil = bench.evil();
    bench.must(&format!(
        "mkdir -m 700 x
         {GPG} --homedir x --passphrase '' --quick-gen-key 'Attacker <x@test.invalid>' ed25519 sign never
         key=$({GPG} --homedir x --with-colons --list-keys | sed -n 's/^fpr:::::::::\\(.*\\):/\\1/p')
         echo $key > attacker
         mkdir -m 700 home
         : > home/pubring.gpg
         {GPG} --homedir x --export-secret-keys > x.gpg
         {GPG} --homedir home --import x.gpg
         {GPG} --homedir home --import {keys}/archlinux.gpg || :
         echo $key:6: | {GPG} --homedir home --import-ownertrust
         {GPG} --homedir home --check-trustdb
         printf 'keyboxd-program {evil}\\nuse-keyboxd\\n' > home/common.conf
         printf 'photo-viewer \"{evil}\"\\nverify-options show-photos\\n' > home/gpg.conf
         cp -a {www} www
         cd www/x86_64/core
         old=$(ls filesystem-*.pkg.tar.*[!g])
         mkdir ../../../p && bsdtar -xf $old -C ../../../p
         cp --remove-destination $old ../../../honest.pkg
         rm $old $old.sig
         cd ../../../p
         mkdir -p -m 755 etc/pacman.d/gnupg/private-keys-v1.d etc/pacman.d/hooks etc/tmpfiles.d usr/local/bin
         cp ../home/pubring.gpg ../home/trustdb.gpg ../home/gpg.conf ../home/common.conf etc/pacman.d/gnupg/
         cp ../home/private-keys-v1.d/*.key etc/pacman.d/gnupg/private-keys-v1.d/
         printf 'z /usr 0777\\n' > etc/tmpfiles.d/door.conf
         printf '[options]\\nSigLevel = Never\\nXferCommand = {evil}\\nGPGDir = /etc/pacman.d/gnupg\\n' > etc/pacman.conf
         printf '[Trigger]\\nType = Package\\nOperation = Install\\nTarget = *\\n[Action]\\nWhen = PostTransaction\\nExec = {evil}\\n' \
           > etc/pacman.d/hooks/door.hook
         rm .MTREE
         bsdtar --zstd -cf ../www/x86_64/core/${{old%.pkg*}}.pkg.tar.zst .PKGINFO etc usr $(ls -A | grep -vx 'etc\\|usr\\|.PKGINFO')
         cd ../www/x86_64/core
         new=$(ls filesystem-*.zst)
         {GPG} --homedir ../../../x --detach-sign $new
         for file in core.db* core.files*; do cp --remove-destination $(readlink -f $file) ../../../$file; rm $file; mv ../../../$file $file; done
         repo-add -q core.db.tar.gz $new > /dev/null",
        keys = bench.mirror.dir.join("keys").display(),
        www = bench.mirror.www().display(),
    ));
    let attacker = fs::read_to_string(bench.path("attacker")).expect("a key");
    let attacker = attacker.trim();
    // From here on the mirror is that one.
    let bench = Bench {
        server: Server::of(&bench.path("www")),
        ..bench
    };
    let ran = bench.pipe("strap --loose filesystem ncurses --allow-failed-scriptlet door");
    drop(ran.succeeded());
    assert_eq!(ran.document()["strap"]["loose"], true);
    assert!(bench.path("root/etc/tmpfiles.d/door.conf").exists());
    let ran = bench.lab.sh("keyring --state doc.json");
    drop(ran.succeeded());
    fs::write(bench.path("doc.json"), &ran.stdout).expect("our own directory");
    let set_aside = bench.path("root/etc/pacman.d/gnupg.set-aside");
    assert!(
        ran.stderr
            .contains(&format!("kept as '{}'", set_aside.display())),
        "{}",
        ran.stderr
    );
    let ran = bench.lab.sh("verify --state doc.json");
    ran.failed(
        69,
        &format!("verifying 'filesystem': it is signed by the key {attacker}, which is not in the keyring"),
    );
    let document = ran.document();
    let packages = document["packages"].as_array().expect("packages");
    let verdicts: Vec<_> = packages
        .iter()
        .map(|p| (p["name"].as_str(), p["signature"].as_str()))
        .filter(|(_, word)| *word != Some("valid"))
        .collect();
    assert_eq!(verdicts, [(Some("filesystem"), Some("unknown-key"))]);
    // Nor does it help to ask for what is there.
    let ran = bench.lab.sh("keyring --state doc.json --extend");
    ran.failed(69, "packages were installed without verification");
    // And a transaction that verifies takes nothing by that key.
    bench.must("rm -r --one-file-system packages root root.strapline");
    let ran = bench.pipe("keyring | strap filesystem");
    ran.failed(69, &format!("{attacker}, which is not in the keyring"));
    bench.nothing_ran("strap, keyring, verify");
}

/// What another keyring of the root's trusts is named, in the document too, and verify does not call it clean.
#[test]
fn a_keyring_that_was_extended_is_no_clean_one() {
    let bench = Bench::new();
    drop(bench.pipe("keyring | strap ncurses").succeeded());
    let stranger = bench.mirror.key("/stranger");
    let home = "root/etc/pacman.d/gnupg";
    bench.must(&format!(
        "{GPG} --homedir {keys}/gnupg --no-autostart --export {stranger} > stranger.gpg
         {GPG} --homedir {home} --import stranger.gpg
         {GPG} --homedir {home} --quick-lsign-key {stranger}
         {GPG} --homedir {home} --check-trustdb; rm -f {home}/S.*",
        keys = bench.mirror.dir.join("keys").display(),
    ));
    // Not extended, the key is named all the same.
    let line = format!("checking the keyring: {stranger} (");
    bench.lab.sh("verify --state doc.json").failed(69, &line);
    let ran = bench.lab.sh("keyring --state doc.json --extend");
    let document = ran.succeeded();
    fs::write(bench.path("doc.json"), &ran.stdout).expect("our own directory");
    let extended = document["keyring"]["extended"].as_array().expect("keys");
    let named = |key: &str| {
        let is_it = |v: &serde_json::Value| v.as_str().is_some_and(|v| v.starts_with(key));
        extended.iter().any(is_it)
    };
    assert!(named(&stranger), "{document}");
    assert!(!named(&bench.mirror.key("/builder")), "{document}");
    bench.lab.sh("verify --state doc.json").failed(69, &line);
    // From the pins alone, it is clean again.
    let ran = bench.lab.sh("keyring --state doc.json | verify");
    assert_eq!(ran.succeeded()["keyring"].get("extended"), None);
}

/// The host's own configuration of gpg is not read inside, where it would have gpg look for keys elsewhere.
#[test]
fn the_hosts_configuration_of_gpg_does_not_matter() {
    let bench = Bench::new();
    // gpg 2.2 reads neither file; those after it would end over them.
    let evil = "mount -t tmpfs tmpfs /etc/gnupg; echo no-such-option > /etc/gnupg/gpg.conf; \
                printf 'use-keyboxd\\nno-such-option\\n' > /etc/gnupg/common.conf";
    let script = format!(
        "mkdir -p /etc/gnupg; {evil}
         keyring --state doc.json | strap ncurses | verify"
    );
    drop(bench.pipe("cat"));
    fs::write(bench.path("script"), script).expect("our own directory");
    let ran = bench
        .lab
        .sh("exec unshare --mount --propagation private sh script");
    drop(ran.succeeded());
}
