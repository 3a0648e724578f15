//! In a container's restrictions: what works, and what is said where it does not.
//!
//! The restrictions are the real ones, without the container (`tests/container.py` says which); what is missing is
//! AppArmor's part. The mirror is a directory, because some of these have no network. The last test has a real dockerd.

use std::path::Path;
use strapline_tests::daemons::{DOCKERD, beside_daemons};
use strapline_tests::{Lab, Mirror, Ran, Who, bin_dir, lab, top};

/// Runs a script in such restrictions.
pub(crate) fn contained(lab: &Lab, shape: &str, script: &str) -> Ran {
    let mut command = lab.command("python3");
    command.arg(top().join("tests/container.py"));
    command.args([shape, "sh", "-c", script]);
    lab::run(&mut command)
}

/// The small pipe: a root with bash, for an architecture.
fn pipe(mirror: &Mirror, arch: &str) -> String {
    format!(
        "mkroot root --quiet --arch {arch} --distro {preset} \
         | fetch-pacman --quiet --use $(command -v pacman) \
         | mkconf --quiet --server 'file://{www}/$arch/$repo' --cache-dir $PWD/packages \
         | keyring --quiet | strap --quiet bash coreutils | reap --quiet | unmount --quiet",
        preset = mirror.preset().display(),
        www = mirror.www().display(),
    )
}

/// Checks that doctor promises it, and that the pipe keeps the promise.
fn works(shape: &str, arch: &str) {
    let (mirror, lab) = (Mirror::of(arch), Lab::new(Who::Root));
    let doctor = contained(&lab, shape, &format!("doctor --quiet --arch {arch}"));
    assert_eq!(doctor.status, 0, "{shape}: {doctor:?}");
    let ran = contained(&lab, shape, &pipe(&mirror, arch));
    let receipt = ran.succeeded();
    assert_eq!(receipt["mode"], "root", "{shape}");
    let packages = receipt["packages"].as_array().expect("packages");
    assert!(packages.iter().all(|p| p["verified"] == true), "{shape}");
    std::fs::write(lab.path().join("receipt.json"), receipt.to_string()).expect("our own directory");
    // Programs of the root run in it, with a /proc, and any owner can be given to a file.
    let inside = "enter --state receipt.json bash -c \
                  'touch /root/of; chown 60000:81 /root/of; read -r name < /proc/self/comm; \
                  echo $name $UID $(stat -c %u:%g:%a /root/of /etc/shadow)'";
    let ran = contained(&lab, shape, inside);
    assert_eq!((ran.status, ran.stdout.trim()), (0, "bash 0 60000:81:644 0:0:600"), "{shape}: {}", ran.stderr);
}

/// Checks that doctor names what mends it, and that the first tool fails with the same and touches nothing more.
fn refused(shape: &str, fix: &str) {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let doctor = contained(&lab, shape, "doctor --quiet --arch x86_64");
    assert_eq!(doctor.status, 69, "{shape}: {doctor:?}");
    let fixes: Vec<_> = doctor.stdout.lines().filter_map(|line| line.trim().strip_prefix("fix: ")).collect();
    assert!(!fixes.is_empty(), "{shape}: {doctor:?}");
    assert!(fixes.iter().all(|f| f.contains(fix)), "{shape}: {fixes:?}");
    let ran = contained(&lab, shape, &pipe(&mirror, "x86_64"));
    ran.failed(77, "mkroot: ");
    let hint = ran.stderr.lines().find(|l| l.starts_with("mkroot: hint: "));
    assert!(hint.is_some_and(|hint| hint.contains(fix)), "{shape}: {}", ran.stderr);
    let root = lab.path().join("root");
    assert!(!root.exists(), "{shape}: {} is left", root.display());
    assert!(!Path::new(&lab.path().join("packages")).exists(), "{shape}");
}

#[test]
fn dockers_default_forbids_it_and_the_one_option_is_named() {
    refused("docker", "--security-opt seccomp=unconfined");
}

#[test]
fn docker_without_its_filter_is_enough() {
    works("unconfined", "x86_64");
}

#[test]
fn docker_without_its_filter_runs_foreign_programs() {
    works("unconfined", "aarch64");
}

#[test]
fn docker_with_sys_admin_or_privileged_is_enough() {
    works("sys-admin", "x86_64");
    works("privileged", "x86_64");
}

#[test]
fn rootless_podmans_default_forbids_it() {
    refused("podman", "--security-opt seccomp=unconfined");
}

#[test]
fn rootless_podman_without_its_filter_is_enough() {
    works("podman-unconfined", "x86_64");
}

#[test]
fn rootless_podman_with_all_privileges_is_enough() {
    works("podman-privileged", "x86_64");
}

#[test]
fn a_container_without_ids_is_told_to_get_some() {
    refused("podman-poor", "range of ids");
}

#[test]
fn no_name_in_a_shared_directory_can_be_guessed() {
    let lab = Lab::new(Who::Root);
    // The same process id each time, and a refusal that says where the trial was.
    let name = || {
        let ran = contained(&lab, "docker", "exec doctor");
        let (_, rest) = ran.stdout.split_once("/strapline-doctor-").expect("a place");
        rest.chars().take_while(|c| *c != '\'').collect::<String>()
    };
    let (first, second) = (name(), name());
    assert!(first.len() >= 6, "{first}");
    assert_ne!(first, second);
}

/// Makes the files of an image: programs of this host with what they are linked with, ours, and the mirror.
const IMAGE: &str = r#"
    set -eu
    mkdir -p image/tmp image/root image/etc image/mirror
    programs="sh bash cat cp grep head ls mkdir rm sleep stat tar tr sort find test true pacman gpg gpg-agent gpgconf"
    for program in $programs; do
        path=$(readlink -f /usr/bin/$program)
        cp -L --parents $path $(ldd $path | grep -o '/[^ ]*') image
        mkdir -p image/usr/bin && test -e image/usr/bin/$program || cp -L $path image/usr/bin/$program
    done
    test -e image/bin || ln -s usr/bin image/bin
    mkdir -p image/usr/lib/locale && cp -rL /usr/lib/locale/C.utf8 image/usr/lib/locale
    grep -E '^(root|nobody):' /etc/passwd > image/etc/passwd && grep -E '^(root|nogroup):' /etc/group > image/etc/group
    for tool in mkroot fetch-pacman mkconf keyring strap configure reap unmount verify pack enter doctor; do
        strip -o image/usr/bin/$tool $BIN/$tool
    done
    cp -r $MIRROR/. image/mirror
    chmod 1777 image/tmp
"#;

/// What `docker build` runs.
const BUILD: &str = r#"
    set -eu
    mkdir /build && cd /build
    doctor --quiet > doctor 2>&1 && exit 9
    grep -q "'mkroot --chroot' works here" doctor
    mkroot default > default.json 2> refused && exit 9
    grep -q "'mkroot --chroot'" refused
    mkroot root --chroot --arch x86_64 --distro /mirror/preset.toml | fetch-pacman --use /usr/bin/pacman \
        | mkconf --server 'file:///mirror/www/$arch/$repo' --cache-dir $PWD/packages | keyring \
        | strap filesystem bash coreutils shadow | configure --hostname x --user ann | reap | unmount > receipt.json
    verify --state receipt.json > verified.json
    keyring --strip=secret --state receipt.json | pack -o a.tar > packed.json
    enter --state receipt.json true
    enter --state receipt.json bash -c 'sleep 1000 & (setsid sleep 1001 &); exit 3' && exit 9
    cat /proc/[0-9]*/comm | grep sleep && exit 9
    grep /build /proc/self/mounts && exit 9
    test -z "$(find root/dev root/proc root/run root/sys root/tmp -mindepth 1)"
    find root \( -type b -o -type c -o -type s -o -type p \) | grep . && exit 9
    rm -r packages
"#;

#[test]
fn the_pipe_in_a_docker_build() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    std::fs::write(lab.path().join("build.sh"), BUILD).expect("our own directory");
    let make = format!("BIN={} MIRROR={}; {IMAGE} cp build.sh image", bin_dir().display(), mirror.dir.display());
    let ran = lab.sh(&make);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let printed = beside_daemons(
        &lab,
        &format!(
            r#"
        {DOCKERD}
        tar -C image -c . | docker import - base > id
        mkdir context && printf 'FROM base\nRUN bash -x /build.sh\n' > context/Dockerfile
        docker build --network none --cgroup-parent $group -t built context > build.log 2>&1 || {{ cat build.log; exit 1; }}
        run="docker run --rm --network none --cgroup-parent $group built"
        $run cat /build/receipt.json
        # In another container the root is a copy, and so has a document of its own.
        $run sh -c 'cd /build && mkroot root --quiet --chroot --distro /mirror/preset.toml 2> warned \
            | enter --quiet -- bash -c "echo 1 > /dev/null; echo inside >&2" 2>&1 > entered && ls root/dev'
    "#
        ),
    );
    let (receipt, rest) = printed.split_once('\n').expect("a line");
    assert_eq!(rest, "inside\n");
    let receipt: serde_json::Value = serde_json::from_str(receipt).expect("a document");
    strapline_tests::schema::check(&receipt);
    assert_eq!((&receipt["mode"], receipt.get("error")), (&"chroot".into(), None));
    let packages = receipt["packages"].as_array().expect("packages");
    assert!(packages.len() > 5 && packages.iter().all(|p| p["verified"] == true), "{packages:?}");
}
