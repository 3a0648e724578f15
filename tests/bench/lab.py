"""What rows are run in: mirrors, file systems and namespaces of their own, and a clock."""
import contextlib
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

import database
from rows import BEGIN, MORE, STAGES, WATCHED

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BIN = os.environ.get("STRAPLINE_BIN_DIR") or os.path.join(TOP, "target/release")
# An ordinary user cannot run a Python of root's.
PYTHON = "/usr/bin/python3"
UID, SUBIDS = 64001, 1900000000
# The longest that a row may take, in seconds.
LONGEST = 900
HANDLER = (r":bench:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:"
           r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/usr/bin/qemu-aarch64-static:OCPF")


class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass


def serve(directory):
    """Serves a directory as long as this program runs; returns the address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: Quiet(*args, directory=directory))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return "http://127.0.0.1:%d" % server.server_port


def enter_namespace():
    """Begins again in a mount namespace: what is mounted here ends with this program. One that is told to end removes its
    directories, too."""
    if not os.environ.get("STRAPLINE_BENCH"):
        command = ["unshare", "--mount", "--propagation", "private", sys.executable] + sys.argv
        os.execvpe("unshare", command, {**os.environ, "STRAPLINE_BENCH": "1"})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


class Mirror:
    """The offline mirror of an architecture, and a server of it at a new directory: there a database is as large as Arch's."""

    def __init__(self, arch, at):
        self.arch, self.dir = arch, os.path.join(TOP, "build/mirror-" + arch)
        subprocess.run([os.path.join(TOP, "tests/mirror/mkmirror"), "--arch", arch, self.dir], check=True)
        self.url = serve(database.like_a_distribution(os.path.join(self.dir, "www"), arch, at))
        self.keyring = {"x86_64": "archlinux-keyring", "aarch64": "archlinuxarm-keyring"}[arch]
        self.repos = ["core", "extra"] if arch == "x86_64" else ["core", "extra", "alarm", "aur"]


def pacman_conf(mirror, cache, home):
    """A configuration of pacman's with the keyring that `keyring` made before: the same verified state."""
    repos = "".join(f"[{repo}]\nServer = {mirror.url}/$arch/$repo\n" for repo in mirror.repos)
    return (f"[options]\nArchitecture = {mirror.arch}\nSigLevel = Required DatabaseOptional\nCacheDir = {cache}\n"
            f"GPGDir = {home}\n{repos}")


@contextlib.contextmanager
def file_system(kind):
    """A new file system, mounted in this namespace only."""
    at = tempfile.mkdtemp(prefix="strapline-bench-", dir="/var/tmp")
    image = at + ".img"
    try:
        if kind == "tmpfs":
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755,size=80%", "bench", at], check=True)
        else:
            with open(image, "wb") as file:
                file.truncate(8 << 30)
            subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image], check=True)
            subprocess.run(["mount", "-o", "loop", image, at], check=True)
        yield at
    finally:
        subprocess.run(["umount", "-R", at], check=False)
        os.rmdir(at)
        if os.path.exists(image):
            os.remove(image)


def as_user(at, command):
    """The command as an ordinary user with subordinate ids, as the tests have one."""
    etc = os.path.join(at, ".etc")
    os.makedirs(etc, exist_ok=True)
    line = f"strapper:x:{UID}:{UID}::{at}:/bin/sh\n"
    for name, text in [("passwd", open("/etc/passwd").read() + line), ("group", open("/etc/group").read() + f"strapper:x:{UID}:\n"),
                       ("subuid", f"strapper:{SUBIDS}:65536\n"), ("subgid", f"strapper:{SUBIDS}:65536\n")]:
        with open(os.path.join(etc, name), "w") as file:
            file.write(text)
    os.chown(at, UID, UID)
    become = open(os.path.join(TOP, "tests/become.sh")).read()
    return ["sh", "-c", become, "sh", TOP, etc, str(UID)] + command


# Registers the emulator as a host of that procedure has it, in a table of the user namespace's own.
REGISTER = """set -e
mount -t proc proc /proc
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
printf '%s' "$HANDLER" > /proc/sys/fs/binfmt_misc/register
exec "$@" sh -ec "$SCRIPT"
"""


def enter_ids(child, ready):
    """Maps every id to itself in the child's user namespace, and lets it go on."""
    os.read(ready, 1)
    for kind in ("uid_map", "gid_map"):
        with open(f"/proc/{child.pid}/{kind}", "w") as file:
            file.write("0 0 65536")
    child.stdin.write(b"go\n")
    child.stdin.close()


def measure(script, at, who, emulated=False, longest=LONGEST, started=lambda pid: None):
    """Runs a script, in namespaces that end with it; `started` gets its process id, which is its session's. Returns wall and processor time in seconds, and the peak memory of the
    largest of its processes in bytes."""
    ready, told = os.pipe()
    figures, written = os.pipe()
    with open(os.path.join(HERE, "clock.py")) as file:
        code = file.read()
    clock = [PYTHON, "-IS", "-c", code, str(written)]
    env = {"PATH": BIN + ":" + os.environ["PATH"], "HOME": at, "LC_ALL": "C.UTF-8", "SCRIPT": script, "HANDLER": HANDLER}
    namespaces = ["unshare", "--mount", "--propagation", "private"]
    if who == "user":
        command = namespaces + as_user(at, clock + ["sh", "-ec", script])
    elif emulated:
        # unshare(1) leaves the maps to newuidmap(1), which gives root no identity map: so we write it.
        wait = f'echo > /proc/self/fd/{told}; read go; exec sh -c "$0" sh "$@" < /dev/null'
        command = ["unshare", "--user", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", wait, REGISTER] + clock
    else:
        command = namespaces + ["--pid", "--fork", "--kill-child", "--mount-proc"] + clock + ["sh", "-ec", script]
    with open(os.path.join(at, ".log"), "wb") as log:
        stdin = subprocess.PIPE if emulated else subprocess.DEVNULL
        child = subprocess.Popen(command, cwd=at, env=env, stdin=stdin, stdout=log, stderr=log, start_new_session=True,
                                 pass_fds=(told, written))
        os.close(told)
        os.close(written)
        try:
            started(child.pid)
            if emulated:
                enter_ids(child, ready)
            child.wait(timeout=longest)
        except BaseException as error:
            # Its session is its own.
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise RuntimeError(f"killed after {longest} s") from error
            raise
        finally:
            os.close(ready)
            with open(figures, "rb") as file:
                text = file.read()
    if child.returncode:
        with open(os.path.join(at, ".log"), errors="replace") as log:
            last = "\n".join(log.read().splitlines()[-4:])
            raise RuntimeError(f"exit status {child.returncode}: {last}")
    wall, cpu, peak = text.split()
    return float(wall), float(cpu), int(peak) << 10


class Watch:
    """Looks at the processes of a session while it runs: the most memory of a program, and which locks somebody waits for."""

    def __init__(self, program):
        self.program, self.peak, self.locks, self.pid = program, 0, {}, None
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.look)

    def __call__(self, pid):
        self.pid = pid
        self.thread.start()

    def end(self):
        self.ended.set()
        if self.pid:
            self.thread.join()

    def look(self):
        while not self.ended.wait(0.05):
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    if os.getsid(int(pid)) == self.pid and open(f"/proc/{pid}/comm").read().strip() == self.program:
                        found = re.search(r"VmHWM:\s+(\d+)", open(f"/proc/{pid}/status").read())
                        self.peak = max(self.peak, int(found[1]) << 10 if found else 0)
                except (OSError, ValueError):
                    continue                        # it has ended
            for line in open("/proc/locks").read().splitlines():
                if "->" in line:
                    kind = line.split("->")[1].split()[0]
                    self.locks[kind] = self.locks.get(kind, 0) + 1


def watched(script, at, who, program):
    """measure() with a Watch: returns that, too."""
    watch = Watch(program)
    try:
        figures = measure(script, at, who, started=watch)
    finally:
        watch.end()
    return figures, watch


def size(path):
    out = subprocess.run(["du", "-s", "--apparent-size", "--block-size=1", path], capture_output=True, text=True, check=False)
    return int(out.stdout.split()[0]) if out.stdout else 0


def fill(script, mirror, kept, cache, home=""):
    """The script, with the words of this place."""
    words = {"arch": mirror.arch, "preset": mirror.dir + "/preset.toml", "cache": cache, "home": home, "url": mirror.url,
             "keyring": mirror.keyring, "more": MORE, "here": HERE, "python": PYTHON, "base": os.path.join(kept, "base.tar.zst"),
             "full": kept}
    return re.sub(r"\{(" + "|".join(words) + r")\}", lambda match: words[match[1]], script)


def prepare(mirror, at):
    """Makes what the rows begin with: a full cache, a verified keyring, the base that the second board begins with, and a root."""
    os.makedirs(at)
    script = (BEGIN + " | strap base {keyring} vim sudo openssh | keyring --strip | pack -o base.tar.zst > base.tar.zst.json && "
              "keyring --state base.tar.zst.json | strap nano > all.json && cp -a root.strapline/gnupg gnupg")
    measure(fill(script, mirror, at, at + "/cache"), at, "root", longest=4 * LONGEST)
    os.chmod(at, 0o755)


def run_cell(cell, mirror, kept):
    """Runs a cell once, in a new file system; returns what measure() does, and the size of the root that it made."""
    with file_system(cell.fs) as at:
        cache, home = os.path.join(at, "cache"), os.path.join(at, "gnupg")
        if cell.cache == "warm":
            shutil.copytree(os.path.join(kept, "cache"), cache)
        else:
            os.mkdir(cache)
        shutil.copytree(os.path.join(kept, "gnupg"), home)
        with open(os.path.join(at, "pacman.conf"), "w") as file:
            file.write(pacman_conf(mirror, cache, home))
        if cell.who == "user":
            subprocess.run(["chown", "-R", f"{UID}:{UID}", cache], check=True)
        before, _, script = fill(cell.script, mirror, kept, cache, home).rpartition("\n---\n")
        if before:
            measure(before, at, cell.who)
        if cell.name in WATCHED:
            (wall, cpu, _), watch = watched(script, at, cell.who, WATCHED[cell.name])
            return (wall, cpu, watch.peak), size(os.path.join(at, "root"))
        return measure(script, at, cell.who, emulated=cell.is_emulated()), size(os.path.join(at, "root"))


def stages(mirror, kept):
    """Where the time goes: each stage alone, and in a second pass its system calls with those of what it runs."""
    rows = {name: [] for name, _ in STAGES}
    for traced in (False, True):
        with file_system("tmpfs") as at:
            cache = os.path.join(at, "cache")
            shutil.copytree(os.path.join(kept, "cache"), cache)
            for name, script in STAGES:
                script = fill(script, mirror, kept, cache)
                if not traced:
                    wall, cpu, peak = measure(script, at, "root")
                    rows[name] += [f"{wall:.2f}", f"{cpu:.2f}", f"{peak >> 20}"]
                    continue
                measure("strace -f -c -S calls -o trace " + script, at, "root")
                with open(os.path.join(at, "trace")) as file:
                    lines = [line.split() for line in file.read().splitlines()[2:]]
                calls = [(words[-1], int(words[3])) for words in lines if len(words) > 4 and words[3].isdigit()]
                total = sum(count for name, count in calls if name != "total")
                rows[name] += [f"{total:,}".replace(",", " "), ", ".join(f"{name} {count}" for name, count in calls[:3])]
    lines = ["| | wall, s | user + sys, s | peak, MiB | system calls | most of them |", "|---|---|---|---|---|---|"]
    return "\n".join(lines + ["| " + " | ".join([name] + cells) + " |" for name, cells in rows.items()]) + "\n"
