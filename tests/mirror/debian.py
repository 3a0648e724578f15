"""Debian's archive: a private apt, the dependencies of packages, and their .debs, each verified.

What mkmirror makes a mirror of, mkpacman unpacks, and mkpacman-static builds from.
"""
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

from mirrorlib import Failed, run

DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEBIAN_ARCHIVE = "http://deb.debian.org/debian"     # what comes from it is verified by that keyring


def archive_uris():
    """{label: base URI} of what this host's own apt is set up with: Debian, Debian-Security.

    Another distribution's apt has none of it, and an apt without lists knows no labels: then it is Debian's own archive."""
    lines = run("asking apt for its archives", "apt-get", "indextargets", "--format",
                "$(LABEL) $(REPO_URI)", "Created-By: Packages").splitlines()
    uris = dict(reversed([x.split() for x in lines if len(x.split()) == 2]))
    return uris if "Debian" in uris else {"Debian": DEBIAN_ARCHIVE}


class Apt:
    """A private apt, of a foreign architecture where that is wanted, in a folder of its own.

    `fresh` asks for lists that have not expired. Sid's do after a week, and an archive that is a copy of some day has no
    newer ones; the signature is checked all the same. `kind` is deb-src where source packages are wanted.
    """

    def __init__(self, d, deb_arch, sources, fresh=True, kind="deb"):
        self.dir, self.debs, self.index = d / "apt", d / "debs", {"deb": "Packages", "deb-src": "Sources"}[kind]
        for sub in ("state/lists/partial", "cache/archives/partial", "etc"):
            (self.dir / sub).mkdir(parents=True, exist_ok=True)
        self.debs.mkdir(exist_ok=True)
        (self.dir / "state/status").touch()
        (self.dir / "etc/sources.list").write_text("".join(
            f"{kind} [signed-by={DEBIAN_KEYRING}] {uri} {suite} main\n" for uri, suite in sources))
        self.options = [x for k, v in {
            "Dir::State": self.dir / "state", "Dir::State::status": self.dir / "state/status",
            "Dir::Cache": self.dir / "cache", "Dir::Etc": self.dir / "etc",
            "Dir::Etc::sourcelist": self.dir / "etc/sources.list", "Dir::Etc::sourceparts": "-",
            "Dir::Etc::parts": "-", "APT::Architecture": deb_arch, "APT::Architectures": deb_arch,
            "Acquire::GzipIndexes": "false", "Acquire::Languages": "none", "APT::Sandbox::User": "root",
            "APT::Update::Error-Mode": "any", "Acquire::Retries": "2",
            "Acquire::Check-Valid-Until": str(fresh).lower(),
        }.items() for x in ("-o", f"{k}={v}")]

    def fetch(self, doing, *args, **kw):
        """Run apt-get, and tell in its own words how much it fetched."""
        told = run(doing, "apt-get", *self.options, *args, env={**os.environ, "LC_ALL": "C"}, **kw)
        for line in re.findall(r"^Fetched .*", told, re.M):
            print(f"apt-get {args[0]}: {line}", file=sys.stderr, flush=True)

    def update(self):
        try:
            self.fetch("reading the Debian archive", "update",
                hint="give --suite SUITE and --archive URI; or, where the network is the reason, again when there "
                     "is one: later runs need none")
        except Failed as e:
            if not self.lists():
                raise
            print(f"warning: {e}; going on with the lists of an earlier run", file=sys.stderr, flush=True)

    def lists(self):
        return sorted((self.dir / "state/lists").glob(f"*_{self.index}"))

    def unpack_sources(self, names, into):
        """Unpack source packages, patched as Debian has them, each into a directory of its name. apt compares each file
        with its hash in the signed index, those of an earlier run too."""
        source = ["apt-get", *self.options, "source", "--only-source"]
        run("downloading sources", *source, "--download-only", *names, cwd=self.debs)
        # In a directory without them, as it leaves out what is there.
        told = run("asking apt for the files of the sources", *source, "--print-uris", *names, cwd=self.dir / "etc")
        for dsc in re.findall(r"^'\S+' (\S+\.dsc) ", told, re.M):
            run(f"unpacking '{self.debs / dsc}'", "dpkg-source", "-x", self.debs / dsc, into / dsc.partition("_")[0])

    def local(self, stanza):
        version = stanza["Version"].replace(":", "%3a")
        return self.debs / f"{stanza['Package']}_{version}_{stanza['Architecture']}.deb"

    def download(self, stanzas):
        """All .debs, each compared with its hash in the signed index."""
        missing = [f"{s['Package']}={s['Version']}" for s in stanzas if not self.local(s).exists()]
        if missing:
            self.fetch("downloading packages", "download", *missing, cwd=self.debs)
        for s in stanzas:
            deb = self.local(s)
            if hashlib.sha256(deb.read_bytes()).hexdigest() != s["SHA256"]:
                deb.unlink()
                raise Failed(f"checking '{deb}': its hash is not the index's", "run it again")


class Index:
    """The newest stanza of each Debian package, parsed only when it is asked for. `ignored` counts as there."""

    def __init__(self, files, ignored=frozenset()):
        self.ignored = ignored
        self.raw, self.parsed, self.virtual = {}, {}, {}
        for f in files:
            for text in f.read_text().split("\n\n"):
                if text.startswith("Package: "):
                    name = text[9:text.index("\n")]
                    self.raw.setdefault(name, []).append(text)
                    start = text.find("\nProvides: ")
                    if start >= 0:
                        for p in text[start + 11:].partition("\n")[0].split(","):
                            self.virtual.setdefault(bare(p), []).append(name)

    def __contains__(self, name):
        return name in self.raw

    def __getitem__(self, name):
        if name not in self.parsed:
            best, *rest = (dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", t, re.M)) for t in self.raw[name])
            for s in rest:
                if s["Version"] != best["Version"] and newer(s["Version"], best["Version"]):
                    best = s
            self.parsed[name] = best
        return self.parsed[name]

    def pick(self, group, have):
        """The package that meets one dependency `a | b`, or None where it counts as met."""
        options = [r for n in group for r in ([n] if n in self else self.virtual.get(n, []))]
        if self.ignored.intersection(group + options):
            return None
        return next((n for n in options if n in have), options[0] if options else None)

    def needs(self, name, have):
        s = self[name]
        fields = ",".join(s[k] for k in ("Pre-Depends", "Depends") if k in s)
        groups = ([bare(x) for x in g.split("|")] for g in fields.split(",") if g.strip())
        return {p for p in (self.pick(g, have) for g in groups) if p}

    def closure(self, roots):
        """{package: those it needs} for all that is reached from roots."""
        have, todo = set(), [r for r in roots if r in self]
        while todo:
            name = todo.pop()
            if name not in have:
                have.add(name)
                todo += sorted(self.needs(name, have))
        return {n: self.needs(n, have) for n in have}


def bare(dependency):
    return re.sub(r"[(:\[].*", "", dependency.strip()).strip()


def newer(a, b):
    return subprocess.run(["dpkg", "--compare-versions", a, "gt", b], check=False).returncode == 0
