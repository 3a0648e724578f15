//! `pack` on a tree with everything that a file system can have, made inside by root and by an ordinary user: both give the
//! same bytes, and what other people's programs unpack is what there was: tar, bsdtar, busybox, skopeo, umoci, podman, and a
//! dockerd with a registry.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use strapline_tests::daemons::{DOCKERD, beside_daemons};
use strapline_tests::{Lab, Who};

/// What runs inside, as root there.
const MAKE: &str = r#"
    set -eu
    mkdir -p /srv/etc && cd /srv
    cp /usr/bin/true capped && setcap cap_net_raw+ep capped
    echo hard > hard1 && ln hard1 hard2 && setfattr -n user.note -v hello hard1
    chown 81:82 hard1 && chmod 6755 hard1
    truncate -s 64M sparse && printf abc | dd of=sparse bs=1 seek=5000000 conv=notrunc status=none
    truncate -s 8M hole_first && printf abc >> hole_first && truncate -s 8M all_hole
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
    sha256sum sparse hole_first all_hole
    readlink longlink out absolute
    cat d*/d*/f* r*.d/* r*m?
"#;

/// Returns a laboratory with the tree of `MAKE` in `root`, and its document in `begun.json`.
pub(crate) fn make(who: Who) -> Lab {
    let lab = Lab::new(who);
    fs::write(lab.path().join("make"), MAKE).expect("our own directory");
    let ran = lab.sh("umask 022; mkroot root --arch $(uname -m) --distro archlinux --bind /usr:usr -q > begun.json \
         && for link in bin sbin lib lib64; do ln -s usr/$link root/$link; done \
         && enter --quiet --state begun.json --bind $PWD/make:tmp/make -- sh /tmp/make; cat begun.json");
    drop(ran.succeeded());
    assert_eq!(ran.stderr, "");
    lab
}

/// Packs it, and returns the archive's SHA-256.
pub(crate) fn pack(lab: &Lab, options: &str) -> String {
    let ran = lab.sh(&format!("SOURCE_DATE_EPOCH=1000000000 pack --state begun.json -q {options}"));
    let document = ran.succeeded();
    document["archives"][0]["sha256"].as_str().expect("a hash").to_owned()
}

/// What `LOOK` says of the root itself, as it is inside.
fn expected(lab: &Lab) -> String {
    fs::write(lab.path().join("look"), LOOK).expect("our own directory");
    let ran = lab.sh("enter --quiet --state begun.json --bind $PWD/look:tmp/look -- sh /tmp/look / 2>&1");
    assert_eq!(ran.status, 0, "{}", ran.stdout);
    ran.stdout
}

#[test]
fn a_tree_of_everything_unpacks_to_what_it_was() {
    let (root, user) = (make(Who::Root), make(Who::User));
    for options in ["-o a.tar", "-o a.tar.zst", "-o a.tar.xz", "-o a.tar.gz", "-o a.oci --format oci"] {
        let hashes = [&root, &user].map(|lab| pack(lab, options));
        assert_eq!(hashes[0], hashes[1], "{options}");
    }
    // On the disk they are not the same at all.
    let owner = |lab: &Lab| fs::metadata(lab.path().join("root/srv/hard1")).expect("it is there").uid();
    assert_eq!(owner(&root), 81);
    assert_ne!(owner(&user), 81);

    let said = expected(&root);
    for line in ["capped cap_net_raw=ep", "user.note=\"hello\"", "6755 81:82 2 regular file", "-100"] {
        assert!(said.lines().any(|l| l == line), "{line}: {said}");
    }
    // From the user's archive, by root: as docker, podman and systemd-nspawn do.
    fs::copy(user.path().join("a.tar.xz"), root.path().join("user.tar.xz")).expect("our own directory");
    for unpack in ["tar --numeric-owner --acls --xattrs --xattrs-include='*' -xpf", "bsdtar --numeric-owner -xpf"] {
        let ran = root.sh(&format!("rm -rf out && mkdir out && {unpack} user.tar.xz -C out && sh look out"));
        assert_eq!(ran.status, 0, "{unpack}: {}", ran.stderr);
        assert_eq!(ran.stdout, said, "{unpack}");
        let fifo = fs::symlink_metadata(root.path().join("out/srv/fifo"));
        assert!(fifo.expect("it is there").file_type().is_fifo(), "{unpack}");
    }
    check_image(&root, &said);
    // Programs that know less of the format get all the files, but not all that is said of them.
    let look = "cd out/srv && stat -c '%a %u:%g %h' hard2 && sha256sum sparse hole_first all_hole";
    for unpack in
        ["busybox tar -xpf a.tar -C out", "python3 -c 'import tarfile; tarfile.open(\"a.tar\").extractall(\"out\")'"]
    {
        let ran = root.sh(&format!("rm -rf out && mkdir out && {unpack} && {look}"));
        assert_eq!(ran.status, 0, "{unpack}: {}", ran.stderr);
        let mut lines = ran.stdout.lines();
        assert_eq!(lines.next(), Some("6755 81:82 2"), "{unpack}");
        assert!(lines.all(|line| said.contains(line)), "{unpack}: {}", ran.stdout);
    }
}

/// Checks that the image is what the containers' own programs take: skopeo(1), which checks each hash and reads what the image
/// says of itself, and umoci(1), which unpacks with what docker and podman unpack with.
fn check_image(lab: &Lab, said: &str) {
    let ran = lab.sh("skopeo --insecure-policy inspect --config oci-archive:a.oci");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let config: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    assert_eq!(config["architecture"], arch);
    assert_eq!(config["created"], "2001-09-09T01:46:40Z");
    assert_eq!(config["config"]["Cmd"], serde_json::Value::Null, "its shell is the host's");
    let ran = lab.sh("skopeo --insecure-policy copy -q oci-archive:a.oci oci:layout:it");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(unpacked(lab), said);
}

/// Returns what the image `it` of `layout` looks like, unpacked by umoci.
fn unpacked(lab: &Lab) -> String {
    let ran = lab.sh("umoci unpack --image layout:it unpacked > /dev/null && sh look unpacked/rootfs");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    ran.stdout
}

/// A program that runs by itself in a container: busybox, and what it is linked with.
const PROGRAM: &str = "mkdir -p root/usr/bin root/usr/lib root/usr/lib64 && cp $(command -v busybox) root/usr/bin \
    && cp -L --parents $(ldd root/usr/bin/busybox | grep -o '/[^ ]*') root";

/// What runs in a container: that the layer is whole, and that it is the root's.
const INSIDE: &str =
    "busybox sh -c 'cd /srv && busybox stat -c %s:%u:%a sparse hard2 && busybox tr -d \"\\0\" < sparse && echo'";

/// Makes the tree with a program in it, packs it as both, and returns it with what it looks like.
fn contained() -> (Lab, String) {
    let lab = make(Who::Root);
    let ran = lab.sh(PROGRAM);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    drop(pack(&lab, "-o a.oci --format oci"));
    drop(pack(&lab, "-o a.tar"));
    let said = expected(&lab);
    (lab, said)
}

/// What docker and podman make of it: what is older than 1970 is of 1970.
fn since_1970(said: &str) -> String {
    said.replace("\n-100\n", "\n0\n")
}

#[test]
fn dockerd_loads_imports_runs_saves_and_pushes_it() {
    let (lab, said) = contained();
    fs::write(
        lab.path().join("registry.yml"),
        "{version: 0.1, log: {level: error}, storage: {filesystem: {rootdirectory: pushed}}, \
         http: {addr: 127.0.0.1:5000}}",
    )
    .expect("our own directory");
    let printed = beside_daemons(
        &lab,
        &format!(
            r#"
        docker-registry serve registry.yml > registry.log 2>&1 & registry=$!
        {DOCKERD}
        docker load -q -i a.oci
        sh look data/vfs/dir/* > loaded
        docker run --rm --network none --cgroup-parent $group archlinux {INSIDE}
        docker import a.tar imported > id
        docker run --rm --network none --cgroup-parent $group imported {INSIDE}
        docker save archlinux imported -o saved.tar
        until busybox wget -q -O ping http://127.0.0.1:5000/v2/; do kill -0 $registry; done
        for image in archlinux imported; do
            docker tag $image 127.0.0.1:5000/$image
            docker push -q 127.0.0.1:5000/$image > id
        done
        skopeo --insecure-policy copy -q --src-tls-verify=false docker://127.0.0.1:5000/archlinux oci:layout:it
    "#
        ),
    );
    let lines: Vec<_> = printed.lines().collect();
    let inside = ["67108864:0:644", "5:81:6755", "abc"];
    let loaded = ["Loaded image: archlinux:latest"];
    assert_eq!(lines, [&loaded[..], &inside, &inside].concat());
    let loaded = fs::read_to_string(lab.path().join("loaded")).expect("it was written");
    assert_eq!(loaded, since_1970(&said));
    assert_eq!(unpacked(&lab), said, "from the registry");
}

#[test]
fn podman_loads_imports_runs_saves_and_pushes_it() {
    let (lab, said) = contained();
    drop(pack(
        &lab,
        "-o b.oci --format oci --name changed --change 'ENTRYPOINT [\"busybox\", \"sh\", \"-c\"]' --change 'ENV A=\"b c\"' \
         --change 'WORKDIR /srv/etc' --change 'USER 1234' --change 'LABEL a.b=c' --change 'STOPSIGNAL SIGTERM' \
         --change 'EXPOSE 80'",
    ));
    let printed = beside_daemons(
        &lab,
        &format!(
            r#"
        p="podman --root $PWD/images --runroot $PWD/running --storage-driver vfs --cgroup-manager cgroupfs --events-backend file"
        $p load -q -i a.oci
        sh look $($p image mount archlinux) > loaded
        $p run --rm --network none --cgroups no-conmon --cgroup-parent /$group archlinux {INSIDE}
        $p load -q -i b.oci
        $p run --rm --network none --cgroups no-conmon --cgroup-parent /$group changed 'echo $A; pwd; busybox id -u'
        $p image inspect changed --format '{{{{.Config.Labels}}}} {{{{.Config.StopSignal}}}} {{{{.Config.ExposedPorts}}}} {{{{.Config.Cmd}}}}'
        $p import -q a.tar imported > id
        $p run --rm --network none --cgroups no-conmon --cgroup-parent /$group imported {INSIDE}
        for image in archlinux imported; do
            $p save -q -o $image.docker.tar $image
            $p save -q --format oci-archive -o $image.oci.tar $image
            $p push -q $image dir:$PWD/dir
            $p push -q $image oci-archive:pushed.tar
            skopeo --insecure-policy copy -q oci-archive:pushed.tar oci:layout:it && mv layout $image && rm pushed.tar
        done
        mv archlinux layout
        $p image unmount --all > unmounted
    "#
        ),
    );
    let inside = ["67108864:0:644", "5:81:6755", "abc"];
    let loaded = ["Loaded image: localhost/archlinux:latest"];
    let changed =
        ["Loaded image: localhost/changed:latest", "b c", "/srv/etc", "1234", "map[a.b:c] SIGTERM map[80/tcp:{}] []"];
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines, [&loaded[..], &inside, &changed, &inside].concat());
    let loaded = fs::read_to_string(lab.path().join("loaded")).expect("it was written");
    assert_eq!(loaded, since_1970(&said));
    assert_eq!(unpacked(&lab), said, "as it was pushed");
}

#[test]
fn podman_makes_one_image_of_two_architectures() {
    let lab = Lab::new(Who::Root);
    let printed = beside_daemons(
        &lab,
        r#"
        for arch in x86_64:archlinux aarch64:archlinuxarm; do
            mkroot ${arch%:*} --arch ${arch%:*} --distro ${arch#*:} -q > begun.json
            pack --state begun.json -q --format oci -o ${arch%:*}.oci > packed.json
        done
        p="podman --root $PWD/images --runroot $PWD/running --storage-driver vfs --events-backend file"
        $p manifest create both oci-archive:x86_64.oci > id
        $p manifest add both oci-archive:aarch64.oci > id
        $p manifest push -q --all both oci-archive:both.oci > id
        for arch in amd64 arm64; do
            skopeo --override-arch $arch inspect --config oci-archive:both.oci | grep '"architecture"'
        done
    "#,
    );
    let found: Vec<_> = printed.lines().map(|line| line.trim().trim_end_matches(',')).collect();
    assert_eq!(found, [r#""architecture": "amd64""#, r#""architecture": "arm64""#]);
}

#[test]
fn holes_are_kept_where_that_is_asked_for_and_cost_nothing() {
    let lab = Lab::new(Who::Root);
    let ran = lab.sh("mkroot root --arch $(uname -m) --distro archlinux -q > begun.json && mkdir -p root/srv \
         && printf begin > root/srv/huge && truncate -s 9G root/srv/huge && printf end >> root/srv/huge");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    drop(pack(&lab, "-o a.tar.zst --sparse"));
    for unpack in ["tar -xf", "bsdtar -xf"] {
        let ran = lab.sh(&format!(
            "rm -rf out && mkdir out && {unpack} a.tar.zst -C out && cd out/srv \
             && stat -c '%s %b' huge && head -c 5 huge && tail -c 3 huge"
        ));
        assert_eq!(ran.status, 0, "{unpack}: {}", ran.stderr);
        let (stat, text) = ran.stdout.split_once('\n').expect("a line");
        let (size, blocks) = stat.split_once(' ').expect("two numbers");
        assert_eq!((size, text), ("9663676419", "beginend"), "{unpack}");
        assert!(blocks.parse::<u64>().is_ok_and(|b| b < 1000), "{unpack}: {stat}");
    }
    // Nor do they cost room where they are not compressed.
    let ran = lab.sh(
        "truncate -s 256M root/srv/last && pack --state begun.json -q --exclude srv/huge -o a.tar > /dev/null \
         && tar -tvf a.tar | grep -c ' 268435456 .* srv/last$' && test $(stat -c %b a.tar) -lt 10000 && rm root/srv/last",
    );
    assert_eq!((ran.status, &*ran.stdout), (0, "1\n"), "{}", ran.stderr);
    // As zeros they have the same length for who reads sizes of more than 8 GiB in the one way or in the other.
    drop(pack(&lab, "-o dense.tar.zst"));
    let ran = lab.sh("zstd -dc dense.tar.zst | head -c 1M > begin; { tar -tvf begin; bsdtar -tvf begin; } 2> cut_off \
         | grep -c ' 9663676419 .* srv/huge$'");
    assert_eq!((ran.status, ran.stdout.trim()), (0, "2"), "{}", ran.stderr);
    let ran = lab.sh("pack --state begun.json --sparse --format oci -o a.oci");
    ran.failed(64, "reading '--sparse': ");
}

#[test]
fn what_a_layer_would_lose_is_refused() {
    let lab = Lab::new(Who::Root);
    let ran = lab.sh("mkroot root --arch $(uname -m) --distro archlinux -q > begun.json");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    for (make, name, format) in [
        ("echo x >", ".wh.x", "oci"),
        ("mkdir", ".wh..wh..opq", "oci"),
        ("mknod -m 644 zero c 0 0 && mv zero", "zero0", "oci"),
        ("echo x > x && setfattr -n user.a%3Db x && mv x", "attribute", "tar"),
        ("echo x > x && setfattr -n user.a=b x && mv x", "other", "tar.zst"),
    ] {
        let ran = lab.sh(&format!("mkdir -p root/srv && cd root/srv && {make} {name}"));
        assert_eq!(ran.status, 0, "{make}: {}", ran.stderr);
        let ran = lab.sh(&format!("pack --state begun.json --format {format} -o a"));
        ran.failed(69, &format!("/root/srv/{name}': "));
        let hint = ran.document()["error"]["hint"].clone();
        assert!(hint.as_str().is_some_and(|h| h.contains("--exclude")), "{hint}");
        assert!(!lab.path().join("a").exists());
        let ran = lab.sh(&format!(
            "pack --state begun.json --format {format} -o a --exclude srv/{name} && rm a && rm -r root/srv"
        ));
        assert_eq!(ran.status, 0, "{name}: {}", ran.stderr);
    }
    let ran = lab.sh("mkdir root/srv && truncate -s 65G root/srv/x && pack --state begun.json -o a.tar.gz");
    ran.failed(69, "/root/srv/x': with it there are more than 64 GiB of holes");
    let ran = lab.sh("pack --state begun.json --sparse -o a.tar.gz -q && rm -r root/srv");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    // In an archive it is a file like others, for all but those who take it for a layer.
    let ran = lab.sh("mkdir root/srv && echo x > root/srv/.wh.x && pack --state begun.json -o a.tar");
    drop(ran.succeeded());
    let warning = "'docker import' and 'podman import' lose files of the archive: 'srv/.wh.x'";
    assert!(ran.stderr.contains(warning), "{}", ran.stderr);
    assert!(lab.sh("tar -tf a.tar").stdout.contains("srv/.wh.x"));
}

#[test]
fn on_the_host_what_is_mounted_over_the_root_is_not_packed() {
    let lab = Lab::new(Who::Root);
    let ran = lab
        .sh("unshare --mount --propagation private sh -c 'mkroot root --host --distro archlinux -q > begun.json \
         && touch root/dev/mark root/tmp/mark root/etc/mark && pack --state begun.json -q -o a.tar' && tar -tf a.tar");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let members: Vec<_> = ran.stdout.lines().filter(|l| l.contains("mark") || l.starts_with("proc/")).collect();
    assert_eq!(members, ["etc/mark", "proc/"]);
}

#[test]
fn what_root_put_into_a_users_root_is_refused() {
    let lab = make(Who::User);
    let stray = lab.path().join("root/srv/stray");
    fs::write(&stray, "root's").expect("our own directory");
    let ran = lab.sh("pack --state begun.json -o a.tar");
    ran.failed(69, "root/srv/stray': its owner is not in the id map of the root");
    let hint = ran.document()["error"]["hint"].clone();
    assert!(
        hint.as_str().is_some_and(|h| h.starts_with("give it to the user that made the root: 'sudo chown")),
        "{hint}"
    );
    assert!(!Path::new(&lab.path().join("a.tar")).exists());
}
