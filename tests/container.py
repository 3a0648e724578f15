#!/usr/bin/env python3
"""Runs a program under the restrictions of a container, without a container: container.py SHAPE PROGRAM [ARG]...

The restrictions are the real ones, made of what the kernel has for them: namespaces, a bounding set, a seccomp(2) filter and
masked places below /proc and /sys, as moby (profiles/seccomp/default.json, daemon/pkg/oci/defaults.go) and podman set them.
Left out are the image (the root is the host's), limits of cgroups, and AppArmor, which needs a kernel that has it.

  docker             root with docker's 14 capabilities, its filter, and masked places
  unconfined         the same without the filter: --security-opt seccomp=unconfined
  sys-admin          docker's, with --cap-add SYS_ADMIN, to which its filter is tied
  privileged         every capability, no filter, nothing masked: --privileged
  podman             podman's, rootless: as docker's, in a user namespace with the ids 0 to 65535
  podman-poor        without the filter, for a user without subordinate ids: root is the only one
  podman-unconfined  podman's without the filter: --security-opt seccomp=unconfined
  podman-privileged  podman's with --privileged --network host, and so with the host's /sys

It needs root. No mount is made outside of the namespaces, which end with the program.
"""

import ctypes
import os
import platform
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)

NEWNS, NEWCGROUP, NEWUSER, NEWPID, NEWNET = 0x20000, 0x2000000, 0x10000000, 0x20000000, 0x40000000
NEW_ANY = 0x7E020000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
EPERM, ENOSYS = 1, 38

# Capabilities of docker's default, by number: chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service
# net_raw sys_chroot mknod audit_write setfcap. podman's are fewer, and all are in these.
DOCKER = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}
PODMAN = DOCKER - {13, 27, 29}
SYS_ADMIN = 21

MASKED = ["acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "scsi", "timer_list", "timer_stats", "sched_debug"]
READ_ONLY = ["bus", "fs", "irq", "sys", "sysrq-trigger"]

# Numbers of x86_64 and aarch64; those from 424 on are the same everywhere.
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CALLS = {
    "x86_64": {"clone": 56, "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155,
               "add_key": 248, "request_key": 249, "keyctl": 250, "bpf": 321, "perf_event_open": 298,
               "open_by_handle_at": 304, "userfaultfd": 323, "quotactl": 179},
    "aarch64": {"clone": 220, "unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41,
                "add_key": 217, "request_key": 218, "keyctl": 219, "bpf": 280, "perf_event_open": 241,
                "open_by_handle_at": 265, "userfaultfd": 282, "quotactl": 60},
}
NEW_CALLS = {"open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
             "mount_setattr": 442, "clone3": 435, "statmount": 457, "listmount": 458}
# What the filter permits with SYS_ADMIN only.
OF_SYS_ADMIN = {"unshare", "setns", "mount", "umount2", "bpf", "perf_event_open", "quotactl", "open_tree", "move_mount", "fsopen",
                "fsconfig", "fsmount", "fspick", "mount_setattr"}


def check(result, doing):
    """Ends the program where a call of the C library failed."""
    if result == -1:
        error = ctypes.get_errno()
        sys.exit(f"container: {doing}: {os.strerror(error)}")


def mount(source, target, kind, flags, data=""):
    words = [w.encode() if w else None for w in (source, target, kind)]
    check(LIBC.mount(*words, ctypes.c_ulong(flags), data.encode()), f"mounting {kind or source} on {target}")


def bind(source, target, flags=0):
    mount(source, target, "", MS_BIND | MS_REC)
    if flags:
        mount("", target, "", MS_BIND | MS_REMOUNT | flags)


def mask(path):
    """Hides a file behind /dev/null, and a directory behind an empty one that nobody can write."""
    if os.path.isdir(path):
        mount("tmpfs", path, "tmpfs", MS_RDONLY, "size=0")
    elif os.path.exists(path):
        bind("/dev/null", path)


def furnish(root, masked, host_sys):
    """Makes `root` a root of its own: the host's files, and /proc, /sys and /dev as a container has them."""
    bind("/", root)
    mount("", root, "", MS_PRIVATE | MS_REC)
    safe = MS_NOSUID | MS_NODEV | MS_NOEXEC
    for place in ("proc", "sys", "dev"):
        # The host's would stay visible below ours, and permit what a container forbids.
        if not (host_sys and place == "sys"):
            LIBC.umount2(f"{root}/{place}".encode(), MNT_DETACH)
    mount("proc", f"{root}/proc", "proc", safe)
    if not host_sys:
        mount("sysfs", f"{root}/sys", "sysfs", safe | (MS_RDONLY if masked else 0))
    mount("tmpfs", f"{root}/dev", "tmpfs", MS_NOSUID, "mode=755")
    for node in ("null", "zero", "full", "random", "urandom", "tty"):
        open(f"{root}/dev/{node}", "w").close()
        bind(f"/dev/{node}", f"{root}/dev/{node}")
    for link, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("ptmx", "pts/ptmx")):
        os.symlink(target, f"{root}/dev/{link}")
    for directory, kind, data in (("pts", "devpts", "newinstance,ptmxmode=0666"), ("shm", "tmpfs", "mode=1777")):
        os.mkdir(f"{root}/dev/{directory}")
        mount(kind, f"{root}/dev/{directory}", kind, MS_NOSUID, data)
    os.chdir(root)
    check(LIBC.pivot_root(b".", b"."), "making it the root")
    check(LIBC.umount2(b".", MNT_DETACH), "leaving the host's root")
    os.chdir("/")
    if masked:
        for name in MASKED:
            mask(f"/proc/{name}")
        mask("/sys/firmware")
        for name in READ_ONLY:
            if os.path.exists(f"/proc/{name}"):
                bind(f"/proc/{name}", f"/proc/{name}", safe | MS_RDONLY)


def filter_calls(sys_admin):
    """Sets a seccomp(2) filter with the rules of moby's default that bear on namespaces, mounts and keys."""
    machine = platform.machine()
    calls = {**CALLS[machine], **NEW_CALLS}
    errors = {number: EPERM for name, number in calls.items() if name != "clone"}
    errors[calls["clone3"]] = ENOSYS
    errors[calls["statmount"]] = errors[calls["listmount"]] = ENOSYS
    if sys_admin:
        for name in OF_SYS_ADMIN:
            del errors[calls[name]]
        del errors[calls["clone3"]]
    load, equal, bits, give = 0x20, 0x15, 0x45, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000
    code = [(load, 0, 0, 4), (equal, 1, 0, AUDIT_ARCH[machine]), (give, 0, 0, allow), (load, 0, 0, 0)]
    for number, error in errors.items():
        code += [(equal, 0, 1, number), (give, 0, 0, refuse | error)]
    if not sys_admin:
        # The flags of clone(2) are its first argument, of which the lower half is read.
        code += [(equal, 0, 3, calls["clone"]), (load, 0, 0, 16), (bits, 0, 1, NEW_ANY), (give, 0, 0, refuse | EPERM)]
    code.append((give, 0, 0, allow))
    program = b"".join(struct.pack("HBBI", *line) for line in code)
    held = ctypes.create_string_buffer(program)
    head = struct.pack("HxxxxxxP", len(code), ctypes.addressof(held))
    set_seccomp, by_filter = 22, 2
    check(LIBC.prctl(set_seccomp, by_filter, ctypes.create_string_buffer(head), 0, 0), "setting the seccomp filter")


def bound(capabilities):
    """Drops every capability but these from the bounding set, and so from what is run next."""
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last = int(file.read())
    capbset_drop = 24
    for number in range(last + 1):
        if number not in capabilities:
            check(LIBC.prctl(capbset_drop, number, 0, 0, 0), f"dropping capability {number}")


def map_ids(ranges):
    """Enters a user namespace with these ids. Root inside is root outside, for who starts this; podman's is its user."""
    ready = os.pipe()
    me = os.getpid()
    helper = os.fork()
    if helper == 0:
        os.read(ready[0], 1)
        for kind in ("uid_map", "gid_map"):
            with open(f"/proc/{me}/{kind}", "w") as file:
                file.write(ranges)
        os._exit(0)
    check(LIBC.unshare(NEWUSER), "making a user namespace")
    os.write(ready[1], b".")
    _, status = os.waitpid(helper, 0)
    if status:
        sys.exit("container: writing the id maps failed")
    for end in ready:
        os.close(end)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    shape, program = sys.argv[1], sys.argv[2:]
    podman = shape.startswith("podman")
    everything = set(range(64))
    capabilities, filtered, masked = {
        "docker": (DOCKER, True, True),
        "unconfined": (DOCKER, False, True),
        "sys-admin": (DOCKER | {SYS_ADMIN}, True, True),
        "privileged": (everything, False, False),
        "podman": (PODMAN, True, True),
        "podman-poor": (PODMAN, False, True),
        "podman-unconfined": (PODMAN, False, True),
        "podman-privileged": (everything, False, False),
    }[shape]
    here = os.getcwd()
    root = os.path.join(here, ".container")
    os.makedirs(root, exist_ok=True)
    if podman:
        map_ids("0 0 1\n" + ("" if shape == "podman-poor" else "1 1900000000 65535\n"))
    network = NEWNET if podman and shape != "podman-privileged" else 0
    check(LIBC.unshare(NEWNS | NEWPID | NEWCGROUP | network), "making namespaces")
    child = os.fork()
    if child == 0:
        mount("", "/", "", MS_PRIVATE | MS_REC)
        furnish(root, masked, shape == "podman-privileged")
        os.chdir(here)
        bound(capabilities)
        if filtered:
            filter_calls(SYS_ADMIN in capabilities)
        os.execvp(program[0], program)
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status) % 256)


main()
