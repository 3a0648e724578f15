# clock: runs a command, and writes to a descriptor what it and all that it left behind took until it ended: wall time and
# processor time in seconds, and the peak of the largest process in KiB. It is small, as a process begins with the peak of the one
# that started it.
#
#   python3 -IS clock.py FD COMMAND...
import ctypes
import os
import sys
import time

# PR_SET_CHILD_SUBREAPER: gpgme leaves the gpg that it starts to init.
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
begun = time.perf_counter()
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
cpu, peak, code, wall = 0.0, 0, None, 0.0
while True:
    try:
        pid, status, used = os.wait4(-1, 0 if code is None else os.WNOHANG)
    except ChildProcessError:
        break
    if pid == 0:
        break
    if pid == child:
        wall, code = time.perf_counter() - begun, os.waitstatus_to_exitcode(status)
    cpu += used.ru_utime + used.ru_stime
    peak = max(peak, used.ru_maxrss)
os.write(int(sys.argv[1]), b"%.6f %.6f %d" % (wall, cpu, peak))
sys.exit(code if code >= 0 else 128 - code)
