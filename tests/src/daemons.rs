//! Daemons that are for one test: Debian's own dockerd and what else a script starts.

use crate::Lab;
use std::fs;

/// Where daemons run, and end with the script: their sockets, keys and addresses are no others'.
const NAMESPACES: &str =
    "exec unshare --net --mount --propagation private --pid --fork --kill-child --mount-proc sh -euc '
    export group=$(basename $PWD)
    mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /etc/docker && busybox ip link set lo up && sh -eu ./script
    find /sys/fs/cgroup -depth -type d -path \"*/$group*\" -exec rmdir {} +'";

/// Starts dockerd in the laboratory, and waits until it answers. A container's cgroup is `--cgroup-parent $group`.
pub const DOCKERD: &str = "export DOCKER_HOST=unix://$PWD/docker.sock DOCKER_CONFIG=$PWD/docker DOCKER_BUILDKIT=0
    dockerd --storage-driver=vfs --iptables=false --bridge=none --exec-opt native.cgroupdriver=cgroupfs \\
        --data-root $PWD/data --exec-root $PWD/exec --pidfile $PWD/docker.pid -H $DOCKER_HOST > docker.log 2>&1 & daemon=$!
    until docker version > version 2>&1; do kill -0 $daemon; done";

/// Runs a script beside its daemons. Returns what it printed.
///
/// # Panics
///
/// Where it fails.
#[must_use]
#[track_caller]
pub fn beside_daemons(lab: &Lab, script: &str) -> String {
    fs::write(lab.path().join("script"), script).expect("our own directory");
    let ran = lab.sh(NAMESPACES);
    assert_eq!(ran.status, 0, "{}\n{}", ran.stdout, ran.stderr);
    ran.stdout
}
