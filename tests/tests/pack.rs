//! `pack` on a tree with everything that a file system can have, made inside by root and by an ordinary user: both give the
//! same bytes, and what other people's programs unpack is what there was.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use strapline_tests::{Lab, Who};

/// What runs inside, as root there.
const MAKE: &str = r#"
    set -eu
    mkdir -p /srv/etc && cd /srv
    cp /usr/bin/true capped && setcap cap_net_raw+ep capped
    echo hard > hard1 && ln hard1 hard2 && setfattr -n user.note -v hello hard1
    chown 81:82 hard1 && chmod 6755 hard1
    truncate -s 100M sparse && printf abc | dd of=sparse bs=1 seek=5000000 conv=notrunc status=none
    d=$(printf 'd%.0s' $(seq 90)) && mkdir -p $d/$d && echo long > $d/$d/$(printf 'f%.0s' $(seq 200))
    r=$(printf 'r\351sum\351') && echo raw > "$r" && mkdir "$r.d" && echo raw > "$r.d/$(printf 'g\377%.0s' $(seq 120))"
    ln -s $(printf 'l%.0s' $(seq 150)) longlink && chown -h 33:33 longlink
    ln -s ../../../../../etc/shadow out && ln -s /etc absolute
    setfacl -m u:1234:rwx,g:55:r-x etc && setfacl -d -m u:1234:rwx etc
    mkfifo -m 620 fifo
    touch -d @-100 old && chown 65534:65533 old
    mkdir -m 1777 sticky
"#;

/// What is asked of the unpacked tree, as other people's programs say it.
const LOOK: &str = r#"
    set -eu
    cd "$1/srv"
    getcap capped
    getfattr --absolute-names -d -m - hard1
    getfacl -nc etc
    stat -c '%a %u:%g %h %F' hard1 hard2 fifo sticky old longlink
    stat -c %Y old
    stat -c %s sparse
    test "${2-}" = dense || test "$(stat -c %b sparse)" -lt 100
    tr -d '\0' < sparse; echo
    readlink longlink out absolute
    cat d*/d*/f* r*.d/* r*m?
"#;

fn make(who: Who) -> Lab {
    let lab = Lab::new(who);
    fs::write(lab.path().join("make"), MAKE).expect("our own directory");
    let ran = lab.sh(
        "umask 022; mkroot root --arch $(uname -m) --distro archlinux --bind /usr:usr -q > begun.json \
         && for link in bin sbin lib lib64; do ln -s usr/$link root/$link; done \
         && enter --state begun.json --bind $PWD/make:tmp/make -- sh /tmp/make; cat begun.json",
    );
    drop(ran.succeeded());
    assert_eq!(ran.stderr, "");
    lab
}

fn pack(lab: &Lab, options: &str) -> String {
    let ran = lab.sh(&format!(
        "SOURCE_DATE_EPOCH=1000000000 pack --state begun.json -q {options}"
    ));
    let document = ran.succeeded();
    document["archives"][0]["sha256"]
        .as_str()
        .expect("a hash")
        .to_owned()
}

/// What `LOOK` says of the root itself, as it is inside.
fn expected(lab: &Lab) -> String {
    fs::write(lab.path().join("look"), LOOK).expect("our own directory");
    let ran = lab.sh("enter --state begun.json --bind $PWD/look:tmp/look -- sh /tmp/look / 2>&1");
    assert_eq!(ran.status, 0, "{}", ran.stdout);
    ran.stdout
}

#[test]
fn a_tree_of_everything_is_the_same_from_root_and_from_a_user_and_unpacks_to_what_it_was() {
    let (root, user) = (make(Who::Root), make(Who::User));
    for options in [
        "-o a.tar",
        "-o a.tar.zst",
        "-o a.tar.xz",
        "-o a.tar.gz",
        "-o a.oci --format oci",
    ] {
        let hashes = [&root, &user].map(|lab| pack(lab, options));
        assert_eq!(hashes[0], hashes[1], "{options}");
    }
    // On the disk they are not the same at all.
    let owner = |lab: &Lab| {
        fs::metadata(lab.path().join("root/srv/hard1"))
            .expect("it is there")
            .uid()
    };
    assert_eq!(owner(&root), 81);
    assert_ne!(owner(&user), 81);

    let said = expected(&root);
    for line in [
        "capped cap_net_raw=ep",
        "user.note=\"hello\"",
        "6755 81:82 2 regular file",
        "-100",
    ] {
        assert!(said.lines().any(|l| l == line), "{line}: {said}");
    }
    // From the user's archive, by root: as docker, podman and systemd-nspawn do.
    fs::copy(
        user.path().join("a.tar.xz"),
        root.path().join("user.tar.xz"),
    )
    .expect("our own directory");
    for unpack in [
        "tar --numeric-owner --acls --xattrs --xattrs-include='*' -xpf",
        "bsdtar --numeric-owner -xpf",
    ] {
        let ran = root.sh(&format!(
            "rm -rf out && mkdir out && {unpack} user.tar.xz -C out && sh look out"
        ));
        assert_eq!(ran.status, 0, "{unpack}: {}", ran.stderr);
        assert_eq!(ran.stdout, said, "{unpack}");
        let fifo = fs::symlink_metadata(root.path().join("out/srv/fifo"));
        assert!(fifo.expect("it is there").file_type().is_fifo(), "{unpack}");
    }
    check_image(&root, &said);
    // Programs that know less of the format get all that is no sparse file.
    for unpack in [
        "busybox tar -xpf a.tar -C out",
        "python3 -c 'import tarfile; tarfile.open(\"a.tar\").extractall(\"out\")'",
    ] {
        let ran = root.sh(&format!(
            "rm -rf out && mkdir out && {unpack} && stat -c '%a %u:%g %h' out/srv/hard2"
        ));
        assert_eq!(ran.status, 0, "{unpack}: {}", ran.stderr);
        assert_eq!(ran.stdout.trim(), "6755 81:82 2", "{unpack}");
    }
}

/// Checks that the image is what the containers' own programs take: skopeo(1), which checks each hash and reads what the image
/// says of itself, and umoci(1), which unpacks with what docker and podman unpack with.
fn check_image(lab: &Lab, said: &str) {
    let ran = lab.sh("skopeo --insecure-policy inspect --config oci-archive:a.oci");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let config: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let arch = if cfg!(target_arch = "x86_64") {
        "amd64"
    } else {
        "arm64"
    };
    assert_eq!(config["architecture"], arch);
    assert_eq!(config["created"], "2001-09-09T01:46:40Z");
    assert_eq!(
        config["config"]["Cmd"],
        serde_json::Value::Null,
        "its shell is the host's"
    );
    let ran = lab.sh(
        "skopeo --insecure-policy copy -q oci-archive:a.oci oci:layout:it \
         && umoci unpack --image layout:it unpacked > /dev/null && sh look unpacked/rootfs dense",
    );
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(ran.stdout, said);
}

#[test]
fn on_the_host_what_is_mounted_over_the_root_is_not_packed() {
    let lab = Lab::new(Who::Root);
    let ran = lab.sh(
        "unshare --mount --propagation private sh -c 'mkroot root --host --distro archlinux -q > begun.json \
         && touch root/dev/mark root/tmp/mark root/etc/mark && pack --state begun.json -q -o a.tar' && tar -tf a.tar",
    );
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let members: Vec<_> = ran
        .stdout
        .lines()
        .filter(|l| l.contains("mark") || l.starts_with("proc/"))
        .collect();
    assert_eq!(members, ["etc/mark", "proc/"]);
}

#[test]
fn what_roots_own_hands_put_into_a_users_root_is_refused_and_not_nobodys() {
    let lab = make(Who::User);
    let stray = lab.path().join("root/srv/stray");
    fs::write(&stray, "root's").expect("our own directory");
    let ran = lab.sh("pack --state begun.json -o a.tar");
    ran.failed(
        69,
        "root/srv/stray': it belongs to a user of the host whom the root's id map does not have",
    );
    let hint = ran.document()["error"]["hint"].clone();
    assert!(
        hint.as_str()
            .is_some_and(|h| h.starts_with("give it to the user that made the root: 'sudo chown")),
        "{hint}"
    );
    assert!(!Path::new(&lab.path().join("a.tar")).exists());
}
