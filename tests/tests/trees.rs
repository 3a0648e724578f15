//! Trees of the builder's own files, through the whole pipe: `mkroot --tree` before packages and `configure --tree` after them,
//! for root and for an ordinary user. verify knows them, two builds of one tree are the same, and a file that a package has is
//! for `configure`.

use crate::faults::Fault;
use crate::supervisor;
use serde_json::Value;
use strapline_tests::{Lab, Mirror, Ran, Server, Who, tier};

/// Files before packages, files after them, and the list of owners of the latter.
fn trees(lab: &Lab) {
    let script = r"
        mkdir -p early/etc/mkinitcpio.conf.d early/etc/pacman.d/hooks late/etc/systemd/system late/usr/local/bin late/home/ann/.config
        echo 'MODULES=(virtio_blk)' > early/etc/mkinitcpio.conf.d/own.conf
        ln -s /dev/null early/etc/pacman.d/hooks/own.hook
        echo '# of the builder' > late/etc/bash.bashrc
        printf '#!/bin/bash\necho hello\n' > late/usr/local/bin/hello
        echo s > late/home/ann/.config/secret
        printf '[Service]\nExecStart=/usr/local/bin/hello\n[Install]\nWantedBy=multi-user.target\n' > late/etc/systemd/system/own.service
        echo 'Z /home/ann - ann ann' > late.owners
        echo 'z /home/ann 0700 - -' >> late.owners
        echo 'z /home/ann/.config/secret 0600 - -' >> late.owners
        echo elevated > late/usr/local/bin/elevated
        echo 'z /usr/local/bin/elevated 4755 - -' >> late.owners
        chmod 600 early/etc/mkinitcpio.conf.d/own.conf
        chmod 4775 late/usr/local/bin/hello
        chmod 700 late early";
    assert_eq!(lab.sh(script).stderr, "");
}

/// The pipe up to where the trees are laid.
fn build(lab: &Lab, root: &str, (mirror, url): (&Mirror, &str), early: &str, strap: &str) -> Ran {
    lab.sh(&format!(
        "mkroot {root} --arch x86_64 --distro {preset} --tree {early} \
         | fetch-pacman --quiet --use $(command -v pacman) \
         | mkconf --quiet --server '{url}/$arch/$repo' --cache-dir $PWD/packages | keyring --quiet \
         | strap --quiet {strap} > {root}.json; status=$?; cat {root}.json; exit $status",
        preset = mirror.preset().display(),
    ))
}

fn tree_of(document: &Value) -> Vec<(String, String)> {
    let tree = document["tree"].as_array().expect("a tree");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    tree.iter().map(|file| (text(&file["path"]), text(&file["mode"]))).collect()
}

fn laid(who: Who) {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(who));
    let server = Server::of(&mirror.www());
    trees(&lab);
    let late = "configure --quiet --tree late --user ann --enable own";
    let configure = |root: &str| {
        lab.sh(&format!(
            "configure --quiet --state {root}.json {} > {root}.2; status=$?; mv {root}.2 {root}.json; cat {root}.json; exit $status",
            &late[17..]
        ))
    };
    let hash = |root: &str| {
        let packed = lab.sh(&format!(
            "keyring --quiet --strip --state {root}.json | SOURCE_DATE_EPOCH=1700000000 pack --quiet -o {root}.tar"
        ));
        packed.succeeded()["archives"][0]["sha256"].clone()
    };
    drop(build(&lab, "one", (&mirror, server.url()), "early", "base").succeeded());
    let document = configure("one").succeeded();
    let tree = tree_of(&document);
    let has = |path: &str, mode: &str| tree.contains(&(path.to_owned(), mode.to_owned()));
    for (path, mode) in [
        ("etc/mkinitcpio.conf.d/own.conf", "0644"),
        ("etc/pacman.d/hooks/own.hook", ""),
        ("etc/bash.bashrc", "0644"),
        ("usr/local/bin/hello", "0755"),
        ("usr/local/bin/elevated", "4755"),
        ("home/ann", "0700"),
        ("home/ann/.config/secret", "0600"),
    ] {
        assert!(has(path, mode), "{path} {mode}: {tree:?}");
    }
    let inside = lab.sh("enter --state one.json bash -c 'hello; stat -c %U:%a /home/ann /home/ann/.config/secret /usr/local/bin/hello /usr/local/bin/elevated; systemctl is-enabled own'");
    assert_eq!(inside.stdout, "hello\nann:700\nann:600\nroot:755\nroot:4755\nenabled\n");
    // Nothing is changed by a second run, and verify finds nothing.
    let again = configure("one").succeeded();
    assert_eq!((again["configured"]["changed"].to_string(), &again["tree"]), ("{}".to_owned(), &document["tree"]));
    let verified = lab.sh("verify --quiet --state one.json > v.json; status=$?; cat v.json; exit $status").succeeded();
    assert_eq!(verified["verify"]["tree"]["intact"], tree.len());
    // The same from the lock, with the same trees.
    let locked = build(&lab, "two", (&mirror, server.url()), "early", "--locked one.json");
    assert_eq!(locked.stderr, "");
    let second = configure("two").succeeded();
    assert_eq!(second["tree"], document["tree"]);
    assert_eq!(hash("one"), hash("two"));
    asked(&lab);
    changed(&lab);
}

/// What the receipt answers, with the root.
fn asked(lab: &Lab) {
    for (what, answers) in [
        ("bash", &["brought by     base > bash", "repository     core", "verified       yes"][..]),
        ("/bin/bash", &["is             /usr/bin/bash", "of package     bash"]),
        ("/etc/bash.bashrc", &["laid by        configure, from 'late'", "in place of that of bash"]),
        (
            "/etc/pacman.d/hooks/own.hook",
            &["laid by        mkroot, from 'early'", "as             link to /dev/null, owner 0:0"],
        ),
    ] {
        let ran = lab.sh(&format!("strapline receipt why {what} v.json"));
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        for answer in answers {
            assert!(ran.stdout.contains(&format!("  {answer}\n")), "{answer}: {}", ran.stdout);
        }
    }
    let key = lab.sh("strapline receipt why bash v.json | sed -n 's/^  signed by *//p'").stdout;
    assert!(key.len() == 41 && key.trim().bytes().all(|b| b.is_ascii_hexdigit()), "{key}");
    assert_eq!(lab.sh("strapline receipt why /etc/nosuch v.json").status, 69);
    let same = lab.sh("strapline receipt diff one.json two.json");
    assert_eq!((same.status, same.stdout.as_str()), (0, ""), "{}", same.stderr);
}

/// What somebody changes afterwards is found, and what was the builder's is not taken for the package's.
fn changed(lab: &Lab) {
    let change = "enter --state one.json bash -c 'echo x >> /etc/bash.bashrc; chmod 4755 /usr/local/bin/hello; rm /etc/mkinitcpio.conf.d/own.conf'";
    assert_eq!(lab.sh(change).status, 0);
    let ran = lab.sh("verify --quiet --state one.json");
    ran.failed(69, "verifying the tree: 'etc/bash.bashrc' is changed (size), 'usr/local/bin/hello' is changed (mode), 'etc/mkinitcpio.conf.d/own.conf' is missing");
    let document = ran.document();
    assert_eq!(document["verify"]["tree"]["missing"], serde_json::json!(["etc/mkinitcpio.conf.d/own.conf"]));
    let packages = document["packages"].as_array().expect("packages");
    assert!(packages.iter().all(|package| package["files"] == "intact"));
}

#[test]
fn trees_of_root() {
    laid(Who::Root);
}

#[test]
fn trees_of_an_ordinary_user() {
    laid(Who::User);
}

#[test]
fn what_packages_have_is_for_configure() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let server = Server::of(&mirror.www());
    trees(&lab);
    let ran = build(&lab, "one", (&mirror, server.url()), "late", "bash");
    ran.failed(69, "home/ann': the root has no user 'ann'");
    assert_eq!(lab.sh("find one").stdout, "");
    let clash = "mkdir -p clash/usr/lib clash/etc && echo x | tee clash/etc/bash.bashrc clash/usr/lib/os-release";
    assert_eq!(lab.sh(clash).status, 0);
    let ran = build(&lab, "two", (&mirror, server.url()), "clash", "bash");
    ran.failed(69, "usr/lib/os-release exists in filesystem");
    assert!(
        ran.stderr.contains("strap: hint: what packages have as well is not for 'mkroot --tree'"),
        "{}",
        ran.stderr
    );
    // Without that it is installed. A configuration file stays the tree's, and the package's is beside it.
    assert_eq!(lab.sh("rm -r clash/usr").status, 0);
    let document = build(&lab, "three", (&mirror, server.url()), "clash", "bash").succeeded();
    let expected =
        [("etc", "0755"), ("etc/bash.bashrc", "0644")].map(|(path, mode)| (path.to_owned(), mode.to_owned()));
    assert_eq!(tree_of(&document), expected);
    assert_eq!(lab.sh("cat three/etc/bash.bashrc; ls three/etc/*.pacnew").stdout, "x\nthree/etc/bash.bashrc.pacnew\n");
    drop(lab.sh("verify --quiet --state three.json").succeeded());
    // A lock that was made with another tree is named, and is a lock all the same.
    assert_eq!(lab.sh("echo y > clash/etc/bash.bashrc").status, 0);
    let ran = build(&lab, "four", (&mirror, server.url()), "clash", "--locked three.json");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let warning =
        "strap: warning: the lock 'three.json' was made with another 'mkroot --tree': 'etc/bash.bashrc' differs\n";
    assert_eq!(ran.stderr, warning);
}

/// Killed anywhere, the next run makes it whole, and nothing half made is left.
#[test]
fn a_killed_run_is_completed() {
    let lab = Lab::new(Who::Root);
    trees(&lab);
    let begin = "mkdir .trial tmp; echo 'z /etc/mkinitcpio.conf.d 0700 5 6' > early.owners";
    assert_eq!(lab.sh(begin).status, 0);
    let run = |root: &str, kill: Option<usize>| {
        let command = format!("mkroot --new {root} --tree early");
        let mut call = 0;
        supervisor::run_tool(&lab, &command, &mut |_| {
            call += 1;
            (Some(call) == kill).then_some(Fault::KillTool)
        })
    };
    let look = |root: &str| lab.sh(&format!("find {root} -printf '%P %y %m %U %G %l\\n' | sort")).stdout;
    let calls = run("whole", None).calls.len();
    let whole = look("whole");
    assert!(whole.contains("\netc/mkinitcpio.conf.d d 700 5 6 \n"), "{whole}");
    let moments = tier::times(6, 48);
    let mut killed = 0;
    for number in 0..moments {
        let root = format!("root{number}");
        // The tree is the last that is done.
        let status = run(&root, Some(calls * (moments + number) / (2 * moments))).status;
        killed += usize::from(status == 137);
        let again = lab.sh(&format!("mkroot --new {root} --tree early")).succeeded();
        assert_eq!(again["tree"].as_array().map(Vec::len), Some(6), "{number}");
        assert_eq!(look(&root), whole, "{number}");
    }
    assert!(killed > moments / 2, "{killed} of {moments} runs were killed");
}
