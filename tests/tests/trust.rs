//! What a root, a package or the host can put where gpg looks: none of it runs on the host, and none of it is trusted.

use std::fs;
use std::path::PathBuf;
use strapline_tests::{Lab, Mirror, Ran, Server, Who, lab, top};

/// A picture as gpg takes one for a user id (JPEG File Interchange Format): its first bytes.
const PICTURE: &str =
    r"printf '\377\330\377\340\000\020JFIF\000\001\001\000\000\001\000\001\000\000\377\331' > picture.jpg";

/// gpg in a script, as the tests use it.
const GPG: &str = "gpg --batch --quiet --no-tty --no-permission-warning --yes";

/// A laboratory with a mirror, and a pipe in it.
struct Bench {
    lab: Lab,
    mirror: Mirror,
    server: Server,
    /// The directory of the gpg that lies where the host has its own; none is the host's own.
    gpg: Option<PathBuf>,
}

impl Bench {
    fn new() -> Self {
        let (lab, mirror) = (Lab::new(Who::Root), Mirror::of("x86_64"));
        let server = Server::of(&mirror.www());
        Self { lab, mirror, server, gpg: None }
    }

    /// One on a host with gpg 2.4.
    fn with_newer_gpg() -> Self {
        let gpg = Some(strapline_tests::gpg_of("trixie"));
        let bench = Self { gpg, ..Self::new() };
        let version = bench.sh("gpg --version").stdout;
        assert!(version.starts_with("gpg (GnuPG) 2.4."), "{version}");
        bench
    }

    /// Runs a script of sh(1), in a mount namespace of its own.
    fn sh(&self, script: &str) -> Ran {
        let mut command = self.lab.command("unshare");
        command.args(["--mount", "--propagation", "private", "env"]);
        if let Some(gpg) = &self.gpg {
            command.arg("sh").arg(top().join("tests/gpg.sh")).arg(gpg);
        }
        lab::run(command.args(["sh", "-c", script]))
    }

    /// Runs a pipe that begins a root and ends with `rest`; the document is in doc.json.
    fn pipe(&self, rest: &str) -> Ran {
        self.pipe_after("", rest)
    }

    /// Runs it after a script.
    fn pipe_after(&self, script: &str, rest: &str) -> Ran {
        let ran = self.sh(&format!(
            "{script}mkroot root --arch x86_64 --distro {preset} \
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

/// Replaces the signature of the picture in a ring by one that does not hold, and puts behind it what gpg notes in a ring of
/// one that does (a ring trust packet): whoever writes a ring can do that, and has no secret key.
fn forge(ring: &mut Vec<u8>, picture: &[u8]) {
    // All of the picture: two of its bytes may stand in a key.
    let start = ring.windows(picture.len()).position(|w| w == picture);
    let signature = start.expect("the picture") + picture.len();
    assert_eq!(ring[signature], 0x89, "a signature, and two bytes of length");
    let length = u16::from_be_bytes([ring[signature + 1], ring[signature + 2]]);
    let end = signature + 3 + usize::from(length);
    ring[end - 1] ^= 1;
    ring.splice(end..end, *b"\xb0\x06\0\x03gpg\0");
}

/// Puts into the root's keyring everything by which gpg can be told to run a program: the keys are the distribution's own, and
/// one of them has a picture, to be shown by a program of the root's choice.
fn lay_traps(bench: &Bench, evil: &str) {
    let builder = bench.mirror.key("/builder");
    bench.must(&format!(
        "mkdir -m 700 k && cp -a {keys}/gnupg/. k/ && rm -f k/S.*
         {PICTURE}
         printf 'addphoto\\n%s\\ny\\nsave\\n' $PWD/picture.jpg \
           | gpg --homedir k --no-tty --quiet --no-permission-warning --command-fd 0 --edit-key {builder}
         {GPG} --homedir k --export {builder} > builder.gpg",
        keys = bench.mirror.dir.join("keys").display(),
    ));
    let file = bench.path("builder.gpg");
    let mut ring = fs::read(&file).expect("just written");
    forge(&mut ring, &fs::read(bench.path("picture.jpg")).expect("just written"));
    fs::write(&file, ring).expect("our own directory");
    // gpg takes the options of a directory that others may read only where it is told not to care.
    bench.must(&format!(
        "home=root/etc/pacman.d/gnupg
         {GPG} --homedir $home --delete-keys {builder}
         cat builder.gpg >> $home/pubring.gpg
         for file in gpg.conf gpg-agent.conf common.conf dirmngr.conf; do : > $home/$file; done
         printf '%s\\n' no-permission-warning 'verify-options show-photos' 'list-options show-photos' \
           'photo-viewer \"{evil}\"' 'agent-program {evil}' 'dirmngr-program {evil}' > $home/gpg.conf
         printf '%s\\n' 'pinentry-program {evil}' 'scdaemon-program {evil}' > $home/gpg-agent.conf
         printf '%s\\n' use-keyboxd 'keyboxd-program {evil}' > $home/common.conf"
    ));
}

/// No program of the host reads what the root has beside its keys. `trap` is what is laid out for gpg in a home that is a copy of
/// the root's, to see that the trap works: gpg runs what it finds there.
fn no_trap_closes(bench: &Bench, trap: &str) {
    drop(bench.pipe("keyring | strap filesystem ncurses").succeeded());
    let evil = bench.evil();
    lay_traps(bench, &evil);
    let ran = bench.sh(&format!(
        "cp -a root/etc/pacman.d/gnupg trap && rm -f trap/S.* && {trap}
         set -- packages/ncurses-*.zst
         gpg --homedir trap --batch --verify \"$1.sig\" \"$1\" 2>&1
         test -e marker && rm marker root/marker"
    ));
    assert_eq!(ran.status, 0, "{ran:?}");
    for command in [
        "rm -r packages; verify --state doc.json",
        "strap --state doc.json --download-only nano",
        "rm packages/nano-*; strap --state doc.json nano",
    ] {
        drop(bench.sh(command).succeeded());
        bench.nothing_ran(command);
    }
    // And a gpg that reads an option that it does not know ends over it.
    bench.must(
        "for file in gpg.conf common.conf; do
             cp root/etc/pacman.d/gnupg/$file $file; echo no-such-option >> root/etc/pacman.d/gnupg/$file
         done",
    );
    for command in ["strap --state doc.json --download-only sed", "rm -r packages; verify --state doc.json"] {
        drop(bench.sh(command).succeeded());
    }
    bench.must("cp gpg.conf common.conf root/etc/pacman.d/gnupg/");
    for command in
        ["keyring --state doc.json --extend", "keyring --state doc.json", "verify --state doc.json --offline"]
    {
        drop(bench.sh(command).succeeded());
        bench.nothing_ran(command);
    }
    drop(bench.sh("keyring --state doc.json --strip").succeeded());
    bench.nothing_ran("keyring --strip");
    assert!(!bench.path("root/etc/pacman.d/gnupg/common.conf").exists());
}

#[test]
fn no_program_of_the_host_reads_the_roots_gpg_conf() {
    no_trap_closes(&Bench::new(), "rm trap/common.conf");
}

#[test]
fn gpg_2_4_does_not_read_the_roots_common_conf() {
    no_trap_closes(&Bench::with_newer_gpg(), "rm trap/gpg.conf");
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
         printf 'no-permission-warning\\nphoto-viewer \"{evil}\"\\nverify-options show-photos\\n' > home/gpg.conf
         cp -a {www} www
         cd www/x86_64/core
         old=$(ls filesystem-*.pkg.tar.*[!g])
         mkdir ../../../p && bsdtar -xf $old -C ../../../p
         cp --remove-destination $old ../../../honest.pkg
         rm $old $old.sig
         cd ../../../p
         mkdir -p -m 755 etc/pacman.d/gnupg/private-keys-v1.d etc/pacman.d/hooks etc/tmpfiles.d usr/local/bin usr/lib
         printf '%s\\n' '#include <stdlib.h>' \
           '__attribute__((constructor)) static void door(void) {{ if (system(\"exec {evil}\")) return; }}' \
           | cc -shared -fPIC -o usr/lib/door.so -xc -
         echo /usr/lib/door.so > etc/ld.so.preload
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
    let bench = Bench { server: Server::of(&bench.path("www")), ..bench };
    let ran = bench.pipe("strap --loose filesystem ncurses --allow-failed-scriptlet door");
    drop(ran.succeeded());
    assert_eq!(ran.document()["strap"]["loose"], true);
    assert!(bench.path("root/etc/tmpfiles.d/door.conf").exists());
    // The programs of the root load what ld.so.preload names.
    let loaded =
        bench.must("lib=usr/lib/x86_64-linux-gnu; chroot root $lib/ld-linux-x86-64.so.2 --list $lib/libc.so.6");
    assert!(loaded.contains("/usr/lib/door.so"), "{loaded}");
    let ran = bench.sh("keyring --state doc.json");
    drop(ran.succeeded());
    fs::write(bench.path("doc.json"), &ran.stdout).expect("our own directory");
    let set_aside = bench.path("root/etc/pacman.d/gnupg.set-aside");
    assert!(ran.stderr.contains(&format!("kept as '{}'", set_aside.display())), "{}", ran.stderr);
    let ran = bench.sh("verify --state doc.json");
    ran.failed(69, &format!("verifying 'filesystem': it is signed by the key {attacker}, which is not in the keyring"));
    let document = ran.document();
    let packages = document["packages"].as_array().expect("packages");
    let verdicts: Vec<_> = packages
        .iter()
        .map(|p| (p["name"].as_str(), p["signature"].as_str()))
        .filter(|(_, word)| *word != Some("valid"))
        .collect();
    assert_eq!(verdicts, [(Some("filesystem"), Some("unknown-key"))]);
    // Nor does it help to ask for what is there.
    let ran = bench.sh("keyring --state doc.json --extend");
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
    bench.sh("verify --state doc.json").failed(69, &line);
    let ran = bench.sh("keyring --state doc.json --extend");
    let document = ran.succeeded();
    fs::write(bench.path("doc.json"), &ran.stdout).expect("our own directory");
    let extended = document["keyring"]["extended"].as_array().expect("keys");
    let named = |key: &str| {
        let is_it = |v: &serde_json::Value| v.as_str().is_some_and(|v| v.starts_with(key));
        extended.iter().any(is_it)
    };
    assert!(named(&stranger), "{document}");
    assert!(!named(&bench.mirror.key("/builder")), "{document}");
    bench.sh("verify --state doc.json").failed(69, &line);
    // From the pins alone, it is clean again.
    let ran = bench.sh("keyring --state doc.json | verify");
    assert_eq!(ran.succeeded()["keyring"].get("extended"), None);
}

/// The host's own configuration of gpg is not read inside, where it would have gpg look for keys elsewhere or end. gpg 2.2 reads
/// gpg.conf only where nobody says --no-options.
#[test]
fn the_hosts_configuration_of_gpg_does_not_matter() {
    for bench in [Bench::new(), Bench::with_newer_gpg()] {
        drop(bench.pipe("cat").succeeded());
        for line in ["use-keyboxd", "no-such-option"] {
            let ran = bench.sh(&format!(
                "{HOST}; echo {line} > /etc/gnupg/common.conf; echo no-such-option > /etc/gnupg/gpg.conf
                 keyring --state doc.json | strap ncurses | verify"
            ));
            drop(ran.succeeded());
        }
    }
}

/// What there is in the place of the root's keyring, and gpg cannot list, is named, and the packages are looked at all the same.
#[test]
fn a_keyring_in_the_root_that_cannot_be_read_is_named() {
    let bench = Bench::new();
    drop(bench.pipe("keyring | strap ncurses").succeeded());
    let home = "root/etc/pacman.d/gnupg";
    for (script, line) in [
        ("mkdir public-keys.d", "checking the keyring: the root's has keys in a database of keyboxd's"),
        (
            "rmdir public-keys.d; cp pubring.gpg kept; head -c 999 /dev/zero > pubring.gpg",
            "checking the keyring: the root's is invalid: listing the keys",
        ),
    ] {
        bench.must(&format!("cd {home}; {script}"));
        let ran = bench.sh("verify --state doc.json");
        ran.failed(69, line);
        let document = ran.document();
        let packages = document["packages"].as_array().expect("packages");
        assert!(packages.iter().all(|p| p["signature"] == "valid"), "{packages:?}");
    }
    // gpg leaves a keybox with a header alone where it looked for one; it is none.
    bench.must(&format!("cd {home}; rm pubring.gpg; {GPG} --homedir . --list-keys; test -s pubring.kbx"));
    drop(bench.sh("verify --state doc.json").succeeded());
}

/// A directory for the configuration of the host's gpg, in a mount namespace.
const HOST: &str = "mkdir -p /etc/gnupg; mount -t tmpfs tmpfs /etc/gnupg";

/// fetch-pacman has no namespaces for its gpg, which reads the host's common.conf: what comes of that is not the package's fault.
#[test]
fn a_common_conf_that_keeps_gpg_from_its_keys_is_named() {
    for (line, why) in
        [("use-keyboxd", "\"use-keyboxd\""), ("no-such-option", "/etc/gnupg/common.conf:1: invalid option")]
    {
        let bench = Bench::with_newer_gpg();
        let script = format!("{HOST}; echo {line} > /etc/gnupg/common.conf\n");
        let ran = bench.pipe_after(&script, "keyring");
        ran.failed(69, why);
        assert!(ran.stderr.contains("hint: 'use-keyboxd'"), "{}", ran.stderr);
        assert!(!ran.stderr.contains("--unsigned"), "{}", ran.stderr);
        assert_eq!(ran.document()["error"]["code"], "child-failed");
    }
}

/// Has the host's gpg in /opt alone, in a mount namespace. Its gpg-agent stays where this gpg starts it.
const IN_OPT: &str = r#"mount -t tmpfs tmpfs /opt; mkdir -p /opt/gnupg/bin; : > none
cp /usr/bin/gpg /opt/gnupg/bin; cp /usr/bin/gpgconf /opt/gnupg/conf
for program in gpg gpgconf; do mount --bind none /usr/bin/$program; done
"#;

/// And a gpgconf beside it, which pacman asks where it is.
const WITH_GPGCONF: &str = r#"PATH=/opt/gnupg/bin:$PATH
printf '#!/bin/sh\n/opt/gnupg/conf "$@" | sed s,:/usr/bin/gpg$,:/opt/gnupg/bin/gpg,\n' > /opt/gnupg/bin/gpgconf
chmod 755 /opt/gnupg/bin/gpgconf
"#;

#[test]
fn a_gpg_in_no_usual_place_is_used_by_all() {
    for pacman in ["", "fetch-pacman --use /usr/bin/pacman | "] {
        let bench = Bench::new();
        let script = format!("{IN_OPT}{WITH_GPGCONF}");
        let rest = format!("{pacman}keyring | strap ncurses | verify");
        drop(bench.pipe_after(&script, &rest).succeeded());
    }
}

/// What nobody can look at is no finding: no package is to blame, none leaves the cache, and nobody is told to do without.
#[test]
fn where_there_is_no_gpg_that_works_no_package_is_to_blame() {
    let bench = Bench::new();
    drop(bench.pipe("keyring | strap ncurses").succeeded());
    // The gpgconf that lies there says that gpg is in /usr/bin.
    let wrong = "cp /opt/gnupg/conf /opt/gnupg/bin/gpgconf; PATH=/opt/gnupg/bin:$PATH";
    let none = "looking for gpg on this host: there is none in PATH";
    let not_there = "GPGME error: Invalid crypto engine";
    for (script, command, line) in [
        (wrong, "strap --state doc.json nano", not_there),
        (wrong, "keyring --state doc.json", not_there),
        ("", "strap --state doc.json nano", none),
        ("", "keyring --state doc.json", none),
        ("", "verify --state doc.json", none),
        ("", "fetch-pacman --new --cache-dir other", none),
    ] {
        let before = bench.must("ls packages");
        let ran = bench.sh(&format!("{IN_OPT}{script}\n{command}"));
        ran.failed(69, line);
        assert_eq!(ran.document()["error"]["code"], "not-found", "{ran:?}");
        for word in ["--loose", "--unsigned", "--no-signatures"] {
            assert!(!ran.stderr.contains(word), "{}", ran.stderr);
        }
        let after = bench.must("ls packages");
        let gone: Vec<_> = before.lines().filter(|file| !after.lines().any(|f| f == *file)).collect();
        assert_eq!(gone, Vec::<&str>::new(), "{command}");
    }
    // What pacman fetched and could not look at is there, and is good.
    assert!(bench.must("ls packages").contains("nano-"));
    drop(bench.sh("strap --state doc.json --offline nano").succeeded());
}
