//! In a container's restrictions: what works, and what is said where it does not.
//!
//! The restrictions are the real ones, without the container (`tests/container.py` says which); what is missing is
//! AppArmor's part. The mirror is a directory, because some of these have no network.

use std::path::Path;
use strapline_tests::{Lab, Mirror, Ran, Who, lab, top};

/// Runs a script in such restrictions.
fn contained(lab: &Lab, shape: &str, script: &str) -> Ran {
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
