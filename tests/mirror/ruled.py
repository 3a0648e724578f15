"""Packages whose files are not what the packages say once they are installed: rules of tmpfiles.d(5) give them another
owner, mode or ACL, a scriptlet does, or another package has the same directory.
"""
from mirrorlib import Package

# As its package on Arch: set-gid by a rule, as the number of the group is not known when it is built.
UTEMPTER = "z /usr/lib/utempter/utempter 2755 root utmp\n"

# One line for each kind of rule, on files and directories. The last two change nothing here: what is there keeps its
# owner and mode, and the root was not booted.
RULES = """\
d /var/lib/ruled 0750 daemon daemon -
Z /var/lib/ruled/tree ~2770 - daemon -
m /usr/lib/ruled/helper 0711 - - -
z /usr/lib/ruled/*.sh 2755 root wheel -
z /etc/ruled 0755 root wheel -
z /etc/ruled/app.ini 0660 root wheel -
a+ /var/log/ruled - - - - d:group:adm:r-x,group:adm:r-x
A+ /var/log/ruled/old - - - - user:daemon:rw-
d /var/spool/ruled :0700 :mail :mail -
z! /usr/lib/ruled/boot 0700 - - -
"""


def packages():
    """[(repository, Package)]"""
    utempter = Package("libutempter", "1.2.1", desc="Set-gid by a rule")
    utempter.file("usr/lib/utempter/utempter", "#!/bin/sh\n", 0o755)
    utempter.file("usr/lib/tmpfiles.d/libutempter.conf", UTEMPTER)

    ruled = Package("ruled", "1", desc="A rule of each kind")
    for path in ("etc/ruled", "var/lib/ruled", "var/lib/ruled/tree/below", "var/log/ruled/old", "var/spool/ruled"):
        ruled.dir(path)
    ruled.dir("var/log/journal", 0o2755)            # as systemd has it on Arch: the rule is systemd's
    for path, mode in (("etc/ruled/app.ini", 0o644), ("var/lib/ruled/tree/data", 0o644),
                       ("var/lib/ruled/tree/below/run", 0o755), ("usr/lib/ruled/helper", 0o755),
                       ("usr/lib/ruled/one.sh", 0o755), ("usr/lib/ruled/boot", 0o755),
                       ("var/log/ruled/old/log", 0o640)):
        ruled.file(path, path + "\n", mode)
    ruled.file("usr/lib/tmpfiles.d/ruled.conf", RULES)
    ruled.backup = ["etc/ruled/app.ini"]

    scripted = Package("scripted", "1", desc="A scriptlet that changes the mode of a packaged file")
    scripted.file("usr/lib/scripted/tool", "#!/bin/sh\n", 0o755)
    scripted.install = "post_install() {\n  chmod 4755 usr/lib/scripted/tool\n}\n"

    shared = []
    for name, mode in (("shared-one", 0o750), ("shared-two", 0o755)):
        p = Package(name, "1", desc="A directory that another package has too, with another mode")
        p.dir("usr/share/shared", mode)
        p.file(f"usr/share/shared/{name}", name + "\n")
        shared.append(p)
    return [("extra", p) for p in (utempter, ruled, scripted, *shared)]
