"""neighbours.py LAB HOME: processes that a tool could take for ones that live in LAB/root, and that do not.

It is PID 1 of a PID namespace, prints a line when all are there, and ends them when its stdin ends. A line on stdin starts one more:
a daemon of another mount namespace that uses the root itself.
"""

import ctypes
import os
import signal
import subprocess
import sys

LAB, HOME = sys.argv[1:]
ROOT = LAB + "/root"
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18
libc = ctypes.CDLL(None, use_errno=True)


def call(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def own_mounts():
    """Goes into another mount namespace."""
    call(libc.unshare(CLONE_NEWNS))
    call(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))


def same_name():
    """Has another directory of the root's name, in another mount namespace."""
    own_mounts()
    call(libc.mount(b"neighbour", LAB.encode(), b"tmpfs", 0, None))
    os.makedirs(ROOT)


def chroot(path):
    os.chroot(path)
    os.chdir("/")


def removed():
    """A chroot that was removed before the root was made."""
    os.mkdir(ROOT)
    os.chdir(ROOT)
    os.rmdir(ROOT)
    os.chroot(".")


def odd():
    """A chroot whose name is what the kernel shows for a root that was removed."""
    os.mkdir(ROOT + " (deleted)")
    chroot(ROOT + " (deleted)")


def hidden():
    """A chroot of that name that cannot be reached from here."""
    same_name()
    chroot(ROOT)


def daemon():
    """A daemon that uses a directory of that name."""
    same_name()
    os.chdir(ROOT)
    os.open("open", os.O_CREAT | os.O_RDWR)


def user():
    """A daemon that uses the root itself, as it is seen in another mount namespace."""
    own_mounts()
    os.chdir(ROOT)
    os.open(".", os.O_RDONLY | os.O_DIRECTORY)


def agent(home):
    """GnuPG's own agent, which goes into the background."""
    os.makedirs(home, 0o700, exist_ok=True)
    subprocess.run(["gpg-agent", "--homedir", home, "--daemon", "--quiet"], stdout=subprocess.DEVNULL, check=True)


def elsewhere():
    """One for a keyring of the root's name."""
    same_name()
    agent(ROOT + "/etc/pacman.d/gnupg")


def another():
    """Another user's process, beside the root."""
    os.chdir(LAB + "/rooted")
    os.setgid(65534)
    os.setuid(65534)


def start(shape):
    """Starts one, and waits until it is where it is to be."""
    reads, writes = os.pipe()
    if os.fork() == 0:
        shape()
        os.write(writes, b"\n")
        os.close(writes)
        while True:
            signal.pause()
    os.close(writes)
    if os.read(reads, 1) != b"\n":
        sys.exit(f"neighbours: {shape.__name__} is not there")
    os.close(reads)


for one in (removed, odd, hidden, daemon, elsewhere, lambda: agent(HOME), another):
    start(one)
print(flush=True)
while sys.stdin.readline():
    start(user)
    print(flush=True)
# Agents take their sockets along.
os.kill(-1, signal.SIGTERM)
try:
    while True:
        os.wait()
except ChildProcessError:
    pass
