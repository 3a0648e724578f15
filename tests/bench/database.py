"""A repository database as large as that of Arch's extra: the entries of the mirror's, and 14 500 more, which nobody installs.

Their text is made up, and shaped as Arch's is in length, in what compresses and in what does not: 35 MB, of which 9 are left.
"""
import base64
import gzip
import hashlib
import io
import os
import random
import tarfile

ENTRIES = 14500
SYLLABLES = ["lib", "py", "thon", "ha", "sk", "ell", "per", "gnu", "net", "tex", "live", "qt", "font", "ru", "by", "kde", "go", "data", "x", "tools"]


def add(tar, name, text=None):
    member = tarfile.TarInfo(name)
    if text is None:
        member.type, member.mode = tarfile.DIRTYPE, 0o755
    else:
        member.size = len(text)
    tar.addfile(member, None if text is None else io.BytesIO(text))


def desc(dice, name, version, names):
    depends = dice.sample(names, dice.randint(0, 12))
    fields = {
        "FILENAME": f"{name}-{version}-x86_64.pkg.tar.zst", "NAME": name, "BASE": name, "VERSION": version,
        "DESC": " ".join(dice.choice(SYLLABLES) for _ in range(12)), "CSIZE": str(dice.randint(10_000, 9_000_000)),
        "ISIZE": str(dice.randint(30_000, 30_000_000)), "MD5SUM": hashlib.md5(name.encode()).hexdigest(),
        "SHA256SUM": hashlib.sha256(name.encode()).hexdigest(),
        # Of RSA with 4096 bits, or of Ed25519.
        "PGPSIG": base64.b64encode(dice.randbytes(566 if dice.random() < 0.66 else 119)).decode(),
        "URL": f"https://{name}.example.org/", "LICENSE": "GPL-2.0-or-later", "ARCH": "x86_64", "BUILDDATE": "1700000000",
        "PACKAGER": "A Packager <packager@example.org>", "DEPENDS": "\n".join(depends), "MAKEDEPENDS": "\n".join(depends[:3]),
    }
    return "".join(f"%{key}%\n{value}\n\n" for key, value in fields.items() if value).encode()


def enlarge(source, target):
    """Writes the database at source with all these entries to target."""
    dice, out = random.Random(1), io.BytesIO()
    names = sorted({"".join(dice.choice(SYLLABLES) for _ in range(4)) + f"-{n}" for n in range(ENTRIES)})
    with tarfile.open(source) as old, tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as new:
        for member in old:
            new.addfile(member, old.extractfile(member) if member.isreg() else None)
        for name in names:
            version = f"{dice.randint(0, 30)}.{dice.randint(0, 30)}-{dice.randint(1, 9)}"
            add(new, f"{name}-{version}")
            add(new, f"{name}-{version}/desc", desc(dice, name, version, names))
    with open(target, "wb") as file:
        file.write(gzip.compress(out.getvalue(), 6, mtime=0))


def like_a_distribution(www, arch, at):
    """Makes a mirror at a new directory: that of www, but for its large database."""
    os.makedirs(os.path.join(at, arch, "extra"))
    for name in os.listdir(www):
        if name != arch:
            os.symlink(os.path.join(www, name), os.path.join(at, name))
    for repo in os.listdir(os.path.join(www, arch)):
        if repo != "extra":
            os.symlink(os.path.join(www, arch, repo), os.path.join(at, arch, repo))
    extra = os.path.join(www, arch, "extra")
    for name in os.listdir(extra):
        if not name.startswith("extra.db"):
            os.symlink(os.path.join(extra, name), os.path.join(at, arch, "extra", name))
    enlarge(os.path.join(extra, "extra.db"), os.path.join(at, arch, "extra", "extra.db"))
    return at
