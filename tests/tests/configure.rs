//! `configure` on roots that the whole pipe made, with real foreign programs: what it was asked for is so when looked at
//! from inside, a second run changes nothing, a killed one leaves nothing half done, and the keyring of the first boot
//! verifies what pacman installs.

use crate::faults::Fault;
use crate::supervisor;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use strapline_tests::{Lab, Mirror, Ran, Server, Who, tier};

/// Everything that can be asked for of the mirror's root.
const ALL: &str = "--hostname alarm.example.org --locale en_US.UTF-8 --locale C.UTF-8 --timezone Europe/Berlin \
    --user ann:wheel,video --user bob --shell ann:/bin/bash --password-file ann:password \
    --password-hash-file bob:hash --ssh-key ann:key.pub --sudo --enable ssh --enable getty@tty2 --fstab \
    --resolv-conf 9.9.9.9 --first-boot-keyring --group app:700 --group log --user bob:app --nopasswd bob --nopasswd %app \
    --mask systemd-networkd --enable-global gpg-agent.socket --default-target multi-user --os-release IMAGE_ID=own \
    --os-release 'VARIANT=My \"own\"' --network dhcp";

const PASSWORD: &str = "correct horse";
const HASH: &str = "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHXSyBEXq2oN1VsKaQe1ZrQCk2p2Lh1kUJy1N0kEd0mN ann@home";

/// A root in a laboratory, with its document in `doc.json`.
struct Bench {
    lab: Lab,
    server: Server,
}

impl Bench {
    fn new(who: Who, arch: &str, packages: &str) -> Self {
        let (mirror, lab) = (Mirror::of(arch), Lab::new(who));
        let server = Server::of(&mirror.www());
        for (file, text) in [("password", PASSWORD), ("hash", HASH), ("key.pub", KEY)] {
            fs::write(lab.path().join(file), format!("{text}\n")).expect("our own directory");
        }
        let ran = lab.sh(&format!(
            "mkroot root --arch {arch} --distro {preset} \
             | fetch-pacman --cache-dir fetched --server {url}/archlinuxcn/x86_64 \
             | mkconf --server '{url}/$arch/$repo' --cache-dir $PWD/packages \
             | keyring | strap --quiet {packages} > doc.json; cat doc.json",
            preset = mirror.preset().display(),
            url = server.url(),
        ));
        drop(ran.succeeded());
        Self { lab, server }
    }

    fn configure(&self, options: &str) -> Ran {
        self.lab.sh(&format!("configure --quiet --state doc.json {options}"))
    }

    /// What a shell in the root prints.
    #[track_caller]
    fn inside(&self, script: &str) -> String {
        let file = self.lab.path().join("script");
        fs::write(&file, script).expect("our own directory");
        let ran = self.lab.sh("enter --state doc.json bash -ec \"$(cat script)\"");
        assert_eq!(ran.status, 0, "{script}: {}", ran.stderr);
        ran.stdout
    }

    fn root(&self) -> PathBuf {
        self.lab.path().join("root")
    }

    /// All files of the root: which, how, whose, and when they were changed.
    fn picture(&self) -> BTreeMap<PathBuf, [i64; 7]> {
        let mut found = BTreeMap::new();
        let mut left = vec![self.root()];
        while let Some(path) = left.pop() {
            let meta = fs::symlink_metadata(&path).expect("it is there");
            if meta.is_dir() {
                let entries = fs::read_dir(&path).expect("a directory");
                left.extend(entries.map(|e| e.expect("an entry").path()));
            }
            let number = |n: u64| i64::try_from(n).expect("no file is so large");
            let facts = [
                number(meta.ino()),
                meta.mode().into(),
                meta.uid().into(),
                meta.gid().into(),
                number(meta.size()),
                meta.mtime(),
                meta.mtime_nsec(),
            ];
            found.insert(path, facts);
        }
        found
    }
}

/// Compares two pictures, and names what differs.
#[track_caller]
fn same(before: &BTreeMap<PathBuf, [i64; 7]>, after: &BTreeMap<PathBuf, [i64; 7]>) {
    let differs = |(path, facts): &(&PathBuf, &[i64; 7])| before.get(*path) != Some(facts);
    let changed: Vec<&Path> = after.iter().filter(differs).map(|(p, _)| p.as_path()).collect();
    assert_eq!(changed, Vec::<&Path>::new());
    assert_eq!(before.len(), after.len(), "something is gone");
}

/// Returns the commands of a unit as systemd runs them (systemd.service(5)): `$$` is `$` and `%%` is `%`.
pub(crate) fn commands_of(unit: &str) -> String {
    let commands = unit.lines().filter_map(|line| {
        let (key, command) = line.split_once('=')?;
        let command = command.replace("$$", "$").replace("%%", "%");
        match command.strip_prefix('-') {
            Some(command) if key.starts_with("Exec") => Some(format!("{command} || true\n")),
            _ => key.starts_with("Exec").then(|| format!("{command}\n")),
        }
    });
    commands.collect()
}

/// A program of the root that waits for nobody is given up with its name, and the next run does the work.
#[test]
fn a_program_that_waits_or_talks_for_ever_is_given_up() {
    for who in [Who::Root, Who::User] {
        let bench = Bench::new(who, "x86_64", "bash coreutils shadow");
        bench.inside(
            "cp /usr/bin/chpasswd /usr/bin/true-one; printf '#!/bin/bash\\nexec sleep infinity\\n' > /usr/bin/chpasswd",
        );
        let options = "--user ann --password-file ann:password";
        let ran = bench.configure(&format!("{options} --timeout 2"));
        ran.failed(75, "nothing happened for 2 s: ");
        assert_eq!(ran.document()["error"]["code"], "hung");
        assert!(ran.stderr.contains("'sleep infinity' sleeps in "), "{}", ran.stderr);
        // One that never stops is no better, and costs no memory.
        bench.inside("printf '#!/bin/bash\\nexec yes\\n' > /usr/bin/chpasswd");
        let ran = bench.configure(options);
        ran.failed(69, "reading what 'chpasswd' prints: more than 16777216 bytes");
        bench.inside("mv /usr/bin/true-one /usr/bin/chpasswd");
        drop(bench.configure(options).succeeded());
        let status = bench.inside("passwd --status ann");
        assert!(status.starts_with("ann P "), "{status}");
    }
}

/// An emulated one by day: `examples::a_card_for_an_orange_pi_5_twice`.
fn everything(who: Who) {
    let (arch, keyring, _) = tier::architecture();
    let bench = Bench::new(who, arch, &format!("base {keyring} openssh sudo"));
    assert!(bench.inside("passwd --status root").starts_with("root NP "), "the mirror's root is open");
    let mirror = format!("--mirror '{}/$arch/$repo'", bench.server.url());
    let document = bench.configure(&format!("{ALL} {mirror}")).succeeded();
    check_inside(&bench);
    check_document(&document, keyring.trim_end_matches("-keyring"));

    // Again, with the document that the first run read, and with the one that it wrote.
    let before = bench.picture();
    for input in [None, Some(&document)] {
        if let Some(document) = input {
            fs::write(bench.lab.path().join("doc.json"), document.to_string()).expect("our own directory");
        }
        let ran = bench.configure(&format!("{ALL} {mirror}"));
        assert_eq!(ran.stderr, "");
        let again = ran.succeeded();
        same(&before, &bench.picture());
        assert_eq!(again["configured"]["changed"], json!({}));
        assert_eq!(again["filesystems"], document["filesystems"]);
    }
    check_refusals(&bench);
    same(&before, &bench.picture());
    // What was changed is what is there to be changed.
    drop(bench.lab.sh("verify --quiet --state doc.json").succeeded());
    check_first_boot(&bench);
    let disabled = bench.configure("--disable getty@tty2").succeeded();
    assert_eq!(bench.inside("systemctl is-enabled getty@tty2 || true"), "disabled\n");
    let link = "/etc/systemd/system/getty.target.wants/getty@tty2.service";
    assert_eq!(disabled["configured"]["changed"]["disabled"], json!([link]));
    let ended = bench.lab.sh("reap --state doc.json | unmount");
    drop(ended.succeeded());
}

fn check_inside(bench: &Bench) {
    for (script, expected) in [
        ("cat /etc/hostname", "alarm.example.org\n"),
        ("getent hosts alarm | awk '{print $1}'", "127.0.1.1\n"),
        ("locale -a | grep en_US", "en_US.utf8\n"),
        ("cat /etc/locale.conf", "LANG=en_US.UTF-8\n"),
        ("readlink /etc/localtime", "../usr/share/zoneinfo/Europe/Berlin\n"),
        ("date --date @1700000000 +%Z", "CET\n"),
        ("id --name --groups --zero ann | tr '\\0' ' '", "ann wheel video "),
        ("id --name --groups bob", "bob app\n"),
        ("getent group app log | cut -d: -f1,3", "app:700\nlog:1000\n"),
        (
            "systemctl is-enabled systemd-networkd || systemctl --global is-enabled gpg-agent.socket",
            "masked\nenabled\n",
        ),
        ("systemctl get-default", "multi-user.target\n"),
        ("stat -c '%u:%g:%a' /etc/sudoers.d/20-nopasswd", "0:0:440\n"),
        ("sudo --list --other-user=bob 2> /dev/null | grep --count 'NOPASSWD: ALL'", "2\n"),
        (
            ". /etc/os-release && echo $IMAGE_ID $VARIANT ${ID%arm} && stat -c %F:%a /etc/os-release",
            "own My \"own\" arch\nregular file:644\n",
        ),
        ("getent passwd ann | cut -d: -f6,7", "/home/ann:/bin/bash\n"),
        ("stat -c '%U %G %a' /home/ann /home/ann/.bashrc", "ann ann 700\nann ann 644\n"),
        ("stat -c '%U %a' /home/ann/.ssh /home/ann/.ssh/authorized_keys", "ann 700\nann 600\n"),
        ("passwd --status root | cut -d' ' -f2", "L\n"),
        ("passwd --status ann | cut -d' ' -f2", "P\n"),
        ("printf 'correct horse\\0' | unix_chkpwd ann nonull; echo $?", "0\n"),
        ("printf 'Tr0ub4dor&3\\0' | unix_chkpwd ann nonull || echo no", "no\n"),
        ("getent shadow bob | cut -d: -f2", &format!("{HASH}\n")),
        ("systemctl is-enabled ssh sshd getty@tty2 first-boot-keyring", "enabled\nalias\nenabled\nenabled\n"),
        ("visudo -cq && stat -c '%u:%g:%a' /etc/sudoers.d/10-wheel", "0:0:440\n"),
        ("sudo --list --other-user=ann 2> /dev/null | tail -n 1 | tr -d ' '", "(ALL:ALL)ALL\n"),
        ("stat -c %s:%a /etc/machine-id", "0:444\n"),
        ("findmnt --fstab --noheadings --output TARGET,FSTYPE --raw", "/ ext4\n/boot vfat\n"),
        ("pwck --read-only --quiet && grpck --read-only", ""),
        ("find / -xdev -name '.*.new'", ""),
    ] {
        assert_eq!(bench.inside(script), expected, "{script}");
    }
    let unit = "systemd-analyze verify --man=no /etc/systemd/system/first-boot-keyring.service 2>&1";
    assert_eq!(bench.inside(unit), "");
}

fn check_document(document: &Value, ring: &str) {
    let configured = &document["configured"];
    for (member, value) in [
        ("hostname", json!("alarm.example.org")),
        ("locales", json!(["en_US.UTF-8", "C.UTF-8"])),
        ("root", json!("locked")),
        ("sudo", json!("wheel")),
        ("units", json!(["ssh.service", "getty@tty2.service"])),
        ("masked", json!(["systemd-networkd.service"])),
        ("global_units", json!(["gpg-agent.socket"])),
        ("default_target", json!("multi-user.target")),
        ("groups", json!(["app", "log"])),
        ("nopasswd", json!(["bob", "%app"])),
        ("network", json!(["dhcp"])),
        ("os_release", json!({"IMAGE_ID": "own", "VARIANT": "My \"own\""})),
        ("first_boot_keyring", json!([ring])),
        ("fstab", json!(["/", "/boot"])),
    ] {
        assert_eq!(configured[member], value);
    }
    let changed = configured["changed"].as_object().expect("an object");
    let steps: Vec<&str> = changed.keys().map(String::as_str).collect();
    let expected = "default_target first_boot_keyring fstab global_units growth hostname locales machine_id masked mirrors network nopasswd os_release \
                    resolv_conf sudo timezone units users";
    assert_eq!(steps.join(" "), expected);
    assert!(changed["units"].to_string().contains("/multi-user.target.wants/ssh.service"));
    assert!(changed["users"].to_string().contains("\"/home/bob\""));
    let text = document.to_string();
    for secret in [PASSWORD, HASH, "AAAAC3Nza"] {
        assert!(!text.contains(secret));
    }
}

/// What only the root's own programs know to be wrong.
fn check_refusals(bench: &Bench) {
    for (options, line) in [
        ("--enable nosuch", "looking for the unit 'nosuch.service'"),
        ("--enable basic.target", "enabling the unit 'basic.target': it has nothing to enable"),
        ("--locale xx_XX.UTF-8", "looking for the locale 'xx_XX.UTF-8'"),
        ("--disable nosuch", "looking for the unit 'nosuch.service'"),
        ("--mask nosuch.socket", "looking for the unit 'nosuch.socket'"),
        ("--enable-global ssh", "looking for the unit 'ssh.service'"),
        ("--default-target nosuch", "looking for the unit 'nosuch.target'"),
        ("--enable systemd-networkd", "enabling the unit 'systemd-networkd.service': it is masked"),
        ("--nopasswd nosuch", "allowing sudo without a password: the root has no user 'nosuch'"),
        ("--nopasswd %nosuch", "allowing sudo without a password: the root has no group 'nosuch'"),
        ("--group wheel:5", "making the group 'wheel': it has the id "),
        ("--timezone Mars/Phobos", "looking for the time zone 'Mars/Phobos'"),
        ("--user eve:nosuch", "looking for the group 'nosuch'"),
        ("--user users", "adding the user 'users': there is a group"),
        ("--resolv-conf resolved", "the root has no systemd-resolved"),
    ] {
        bench.configure(&format!("--hostname other {options}")).failed(69, line);
    }
}

/// The unit's own conditions and commands, in a root without a keyring, and then pacman with signatures required.
fn check_first_boot(bench: &Bench) {
    let unit = bench.inside("cat /etc/systemd/system/first-boot-keyring.service");
    let conditions = unit.lines().filter(|l| l.starts_with("Condition"));
    let conditions: String = conditions.map(|l| format!(" '{l}'")).collect();
    let would_run = || {
        let ask = format!("systemd-analyze condition {conditions} 2> /dev/null && echo yes || echo no");
        bench.inside(&ask) == "yes\n"
    };
    assert!(!would_run(), "there is a keyring with a secret key");
    drop(bench.lab.sh("keyring --quiet --state doc.json --strip").succeeded());
    assert!(would_run(), "there is none any more");
    let commands = commands_of(&unit);
    assert_eq!(commands.lines().count(), 6, "{commands}");
    // The power goes in the middle, and takes a file that was not on the disk; then all of it is done again.
    let before = "find /etc/pacman.d/gnupg -type f -exec sha256sum {} + | sort";
    let untouched = bench.inside(before);
    let populate = "/usr/bin/pacman-key --gpgdir /etc/pacman.d/gnupg.new --populate";
    let (begun, _) = commands.split_once(populate).expect("it populates");
    bench.inside(&format!("{begun} rm /etc/pacman.d/gnupg.new/pubring.*"));
    assert!(would_run(), "it was not done");
    assert_eq!(bench.inside(before), untouched);
    // It goes where there is neither the one keyring nor the other.
    let (made, last) = commands.trim_end().rsplit_once('\n').expect("lines");
    let (half, _) = last.split_once(" && mv gnupg.new").expect("it is put in place");
    bench.inside(&format!("{made}\n{half}'; [ ! -e /etc/pacman.d/gnupg ]"));
    assert!(would_run(), "it was not done");
    bench.inside(&format!("{commands}exit 0"));
    assert!(!would_run(), "it is done");
    let keys = bench.inside("ls /etc/pacman.d/gnupg/private-keys-v1.d | wc -l; ls /etc/pacman.d | grep gnupg");
    assert_eq!(keys, "1\ngnupg\n");
    let strict = bench.inside("grep -x 'SigLevel = Required DatabaseOptional' /etc/pacman.conf");
    assert!(!strict.is_empty());
    bench.inside("pacman -Sy --noconfirm nano");
    let validated = bench.inside("pacman -Qi nano | grep Validated");
    assert!(validated.trim_end().ends_with(": Signature"), "{validated}");
}

#[test]
fn everything_as_root() {
    everything(Who::Root);
}

#[test]
fn everything_as_an_ordinary_user() {
    everything(Who::User);
}

/// Users are made of six files, a directory and a password: killed anywhere, the next run makes them whole.
#[test]
fn a_user_is_never_left_half_made() {
    let bench = Bench::new(Who::Root, "x86_64", "base");
    assert_eq!(bench.lab.sh("mkdir .trial tmp").status, 0);
    let options = |number| {
        format!(
            "--user u{number}:wheel,video --password-file u{number}:password --ssh-key u{number}:key.pub --shell u{number}:/bin/bash"
        )
    };
    let run = |number, kill: Option<usize>| {
        let command = format!("configure --quiet --state doc.json {}", options(number));
        let mut call = 0;
        supervisor::run_tool(&bench.lab, &command, &mut |_| {
            call += 1;
            (Some(call) == kill).then_some(Fault::KillTool)
        })
    };
    // Any moment will do: spread over the calls that a run makes.
    let moments = tier::times(4, 24);
    let calls = run(moments, None).calls.len();
    let mut killed = 0;
    for number in 0..moments {
        let status = run(number, Some(calls * (number + 1) / (moments + 1))).status;
        killed += usize::from(status == 137);
        drop(bench.configure(&options(number)).succeeded());
        let user = format!("u{number}");
        let said = bench.inside(&format!(
            "pwck --read-only --quiet; grpck --read-only; id --name --groups {user}; stat -c %U /home/{user}/.bashrc \
             /home/{user}/.ssh/authorized_keys; passwd --status {user} | cut -d' ' -f2; find / -xdev -name '.*.new'"
        ));
        assert_eq!(said, format!("{user} wheel video\n{user}\n{user}\nP\n"), "{number}");
    }
    assert!(killed > moments / 2, "{killed} of {moments} runs were killed");
}
