"""What is measured: scripts of sh(1), each run in a file system of its own, and the bars that the figures are held to."""

# What stands before a line of dashes is not timed. {begin} is our pipe up to the keyring, {full} a directory with a finished root
# and its document, {cache} a package cache, {home} the keyring that `keyring` made.
MORE = "nano vim sudo openssh"
BEGIN = ("mkroot root --arch {arch} --distro {preset} | fetch-pacman --use /usr/bin/pacman "
         "| mkconf --server '{url}/$arch/$repo' --cache-dir {cache} | keyring")
STRAP = BEGIN + " | strap base {keyring} {more}"
# What pacman alone and pacstrap leave: a root without a keyring, as an image has it.
FOR_IMAGE = BEGIN + " | keyring --strip | strap base {keyring} {more}"
AGAIN = ("mkroot root --from {base} --receipt {base}.json | fetch-pacman --use /usr/bin/pacman "
         "| mkconf --server '{url}/$arch/$repo' --cache-dir {cache} | keyring | strap nano")
BARE = ("mkdir -p root/dev root/proc root/sys root/run root/tmp root/var/lib/pacman root/var/log && mount -t proc proc root/proc && "
        "mount -t tmpfs dev root/dev && for n in null zero urandom random; do : >root/dev/$n; mount --bind /dev/$n root/dev/$n; done && "
        "pacman -Sy --root root --dbpath root/var/lib/pacman --logfile root/var/log/pacman.log --hookdir root/etc/pacman.d/hooks "
        "--config pacman.conf --noconfirm base {keyring} {more}")
PACSTRAP = "mkdir root && pacstrap -C pacman.conf -G -M root base {keyring} {more}"
# pacman-key reads rings from a directory that its distributor chose.
PACMAN_KEY = "bash pacman-key --config pacman.conf --gpgdir $PWD/g --init && bash pacman-key --config pacman.conf --gpgdir $PWD/g --populate archlinux"
PACSTRAP_WITH_KEYRING = """mkdir ring && bsdtar -xf $(ls {cache}/archlinux-keyring-*.pkg.tar.* | grep -v 'sig$') -C ring usr/share/pacman/keyrings
sed "s,KEYRING_IMPORT_DIR=.*,KEYRING_IMPORT_DIR='$PWD/ring/usr/share/pacman/keyrings'," /usr/bin/pacman-key > pacman-key
sed -i "s,^GPGDir = .*,GPGDir = $PWD/g," pacman.conf
---
""" + PACMAN_KEY + " && " + PACSTRAP
# Arch Linux's ring of Debian's archlinux-keyring, as a preset that pins its masters, in a new root.
RING = """{ printf 'name = "bench"\\ntitle = "Bench"\\n[keyring]\\npopulate = ["archlinux"]\\n'
  awk -F: '{ printf "[[keyring.trusted]]\\nfingerprint = \\"%s\\"\\nsource = \\"bench\\"\\ndate = \\"2026-11-22\\"\\n", $1 }' \
    /usr/share/keyrings/archlinux-trusted
  printf '[arch.x86_64]\\nservers = ["http://127.0.0.1:9/"]\\nrepos = ["core"]\\n'; } > bench.toml
mkroot root --arch x86_64 --distro bench.toml > begun.json
mkdir -p root/usr/share/pacman/keyrings && cp /usr/share/keyrings/archlinux[.-]* root/usr/share/pacman/keyrings
---
keyring --state begun.json"""
THEIR_RING = """sed "s,KEYRING_IMPORT_DIR=.*,KEYRING_IMPORT_DIR='/usr/share/keyrings'," /usr/bin/pacman-key > pacman-key
---
""" + PACMAN_KEY
# pacman -Qkk fails where a file differs, as of those that scriptlets change.
QKK = """pacman -Qkk --root {full}/root --dbpath {full}/root/var/lib/pacman --config pacman.conf > checked 2>&1 || test $? = 1
for file in {cache}/*.sig; do gpg --homedir {home} --batch --quiet --no-tty --verify $file ${file%.sig} 2>> checked; done"""
PACK = "pack --state {full}/all.json --keep-keyring -o root.tar"
ZSTD = "tar -C {full}/root -cf root.tar .\n---\nzstd -q -T0 -3 root.tar -o root.tar.zst"
MKDISK = "mkdisk --state {full}/all.json --keep-keyring --bootloader none -o disk.img"
SIZED = MKDISK + " --size "
MKE2FS = "mke2fs -q -t ext4 -d {full}/root disk.img $(du -sm {full}/root | awk '{ print int($1 * 1.4) }')M"
MILLION = """mkroot root --arch {arch} --distro {preset} > begun.json
{python} -IS -c '
import os
for n in range(1000):
    os.makedirs("root/opt/%d" % n)
    for m in range(1000):
        with open("root/opt/%d/a-file-with-a-name-%d" % (n, m), "w") as file:
            if m % 100 == 0: file.write("x")
'
---
pack --state begun.json --keep-keyring -o root.tar"""
BWRAP = ("for n in $(seq 100); do bwrap --bind {full}/root / --proc /proc --dev /dev --ro-bind /sys /sys --tmpfs /run --tmpfs /tmp "
         "--unshare-pid true; done")

BOTH, PC, ROOT, ALL, WARM = ["x86_64", "aarch64"], ["x86_64"], ["root"], ["root", "user"], ["warm"]
PIPE, ALONE, PROCEDURE = "ours: mkroot to strap", "pacman alone, into a prepared root", "the shell procedure"
ITSELF = "ours: strap itself, in mkroot to strap"
IMAGE = "ours: mkroot to strap, with no keyring in the root"
KEYED, SECOND = "pacman-key, and pacstrap with its keyring", "ours, a second board from the base of the first"
OUR_RING, OTHER_RING = "ours: keyring, Arch Linux's ring", "pacman-key, Arch Linux's ring"
VERIFY, OTHER_VERIFY = "ours: verify", "pacman -Qkk, and gpg for each package"
PACKED, ZSTD_ALONE = "ours: pack", "zstd -T0 -3 of its tar"
TAR, MILLION_TAR = "ours: pack, not compressed", "ours: pack, not compressed, a million files"
DISK, OTHER_DISK = "ours: mkdisk", "mke2fs -d"
DISK_64, DISK_2 = "ours: mkdisk --size 64G", "ours: mkdisk --size 2G"
VERSION, TRUE = "ours: 'strap --version', 100 times", "'/bin/true', 100 times"
ENTER, STATE_ENTER = "ours: 'enter ROOT true', 100 times", "ours: 'enter --state FILE true', 100 times"
OTHER_ENTER = "'bwrap true', 100 times"

ROWS = [
    # name, architectures, by whom, caches, script
    (ALONE, BOTH, ROOT, WARM, BARE),
    (ALONE, PC, ROOT, ["cold"], BARE),
    ("pacstrap, keyring given", PC, ROOT, WARM, PACSTRAP),
    (KEYED, PC, ROOT, WARM, PACSTRAP_WITH_KEYRING),
    (PROCEDURE, ["aarch64"], ROOT, WARM, "sh {here}/procedure.sh $PWD/root {cache} {url}"),
    (PIPE, BOTH, ALL, WARM, STRAP),
    (PIPE, PC, ROOT, ["cold"], STRAP),
    (IMAGE, BOTH, ALL, WARM, FOR_IMAGE),
    (ITSELF, PC, ROOT, WARM, STRAP),
    (SECOND, BOTH, ALL, WARM, AGAIN),
    ("ours, and pack", BOTH, ALL, WARM, STRAP + " | keyring --strip | pack -o root.tar.zst"),
    ("ours, and mkdisk", PC, ALL, WARM, STRAP + " | keyring --strip | mkdisk --bootloader none -o disk.img"),
    (OUR_RING, PC, ROOT, WARM, RING),
    (OTHER_RING, PC, ROOT, WARM, THEIR_RING),
    (VERIFY, PC, ROOT, WARM, "verify --state {full}/all.json"),
    (OTHER_VERIFY, PC, ROOT, WARM, QKK),
    (PACKED, PC, ROOT, WARM, PACK + ".zst"),
    (ZSTD_ALONE, PC, ROOT, WARM, ZSTD),
    (TAR, PC, ROOT, WARM, PACK),
    (MILLION_TAR, PC, ROOT, WARM, MILLION),
    (DISK, PC, ROOT, WARM, MKDISK),
    (OTHER_DISK, PC, ROOT, WARM, MKE2FS),
    (DISK_64, PC, ROOT, WARM, SIZED + "64G"),
    (DISK_2, PC, ROOT, WARM, SIZED + "2G"),
    (VERSION, PC, ROOT, WARM, "for n in $(seq 100); do strap --version; done"),
    (TRUE, PC, ROOT, WARM, "for n in $(seq 100); do /bin/true; done"),
    (ENTER, PC, ROOT, WARM, "for n in $(seq 100); do enter {full}/root true; done"),
    (OTHER_ENTER, PC, ROOT, WARM, BWRAP),
    (STATE_ENTER, PC, ROOT, WARM, "for n in $(seq 100); do enter --state {full}/all.json true; done"),
    ("mmdebstrap, Debian's minbase", PC, ROOT, ["cold"], "mmdebstrap --quiet --variant=minbase bookworm root"),
    ("mkosi, Debian's smallest", PC, ROOT, ["cold"],
     "mkosi --distribution debian --release bookworm --format directory --output root --force"),
]

# What takes long and is no matter of time, or depends on somebody's network, is run once.
ONCE = [ITSELF, MILLION_TAR, "mmdebstrap, Debian's minbase", "mkosi, Debian's smallest"]
# Of these the peak is that of the program's own processes; the largest of all is pacman.
WATCHED = {ITSELF: "strap"}
# These are measured on ext4, too.
ON_EXT4 = [(ALONE, "root"), (PIPE, "root")]
# What a row needs besides pacman and gpg.
NEEDS = {"pacstrap, keyring given": ["pacstrap"], KEYED: ["pacstrap", "pacman-key", "bsdtar"], OTHER_RING: ["pacman-key"],
         OTHER_ENTER: ["bwrap"], ZSTD_ALONE: ["zstd", "tar"], OTHER_DISK: ["mke2fs"], "mmdebstrap, Debian's minbase": ["mmdebstrap"],
         "mkosi, Debian's smallest": ["mkosi"], PROCEDURE: ["qemu-aarch64-static"]}

# A bar: a row of ours, what of it, the row that it is compared with, how, and the most that is allowed. All are with a warm cache, on
# tmpfs; a row with itself is that of an ordinary user with that of root, all others are of root.
BARS = [
    (IMAGE, "x86_64", "median", ALONE, "ratio", 1.10),
    (PIPE, "x86_64", "median", ALONE, "ratio", 1.10),
    (PIPE, "x86_64", "median", KEYED, "ratio", 1.00),
    (IMAGE, "aarch64", "median", ALONE, "ratio", 1.20),
    (IMAGE, "aarch64", "median", PROCEDURE, "ratio", 0.45),
    (PIPE, "aarch64", "median", ALONE, "ratio", 1.20),
    (PIPE, "aarch64", "median", PROCEDURE, "ratio", 0.45),
    (PIPE, "x86_64", "median", PIPE, "ratio", 1.05),
    (PIPE, "aarch64", "median", PIPE, "ratio", 1.05),
    (SECOND, "x86_64", "median", PIPE, "ratio", 0.25),
    (OUR_RING, "x86_64", "median", OTHER_RING, "ratio", 0.25),
    (VERIFY, "x86_64", "median", None, "s", 0.25),
    (VERIFY, "x86_64", "median", OTHER_VERIFY, "ratio", 0.20),
    (PACKED, "x86_64", "median", ZSTD_ALONE, "ratio", 1.05),
    (DISK, "x86_64", "median", OTHER_DISK, "ratio", 1.00),
    (DISK_64, "x86_64", "median", DISK_2, "ratio", 1.10),
    (VERSION, "x86_64", "median", TRUE, "ms more each", 1.0),
    (ENTER, "x86_64", "median", OTHER_ENTER, "ratio", 1.00),
    (STATE_ENTER, "x86_64", "median", OTHER_ENTER, "ratio", 1.00),
    (ITSELF, "x86_64", "peak", None, "MiB", 32),
    (VERIFY, "x86_64", "peak", None, "MiB", 32),
    (DISK, "x86_64", "peak", None, "MiB", 32),
    (TAR, "x86_64", "peak", None, "MiB", 32),
    (MILLION_TAR, "x86_64", "peak", None, "MiB", 32),
]

STAGES = [
    ("mkroot", "mkroot root --arch {arch} --distro {preset} > 1"),
    ("fetch-pacman `--use`", "fetch-pacman --use /usr/bin/pacman < 1 > 2"),
    ("mkconf", "mkconf --server '{url}/$arch/$repo' --cache-dir {cache} < 2 > 3"),
    ("keyring", "keyring < 3 > 4"),
    ("strap", "strap base {keyring} {more} < 4 > 5"),
    ("verify", "verify < 5 > 6"),
    ("keyring `--strip`", "keyring --strip < 6 > 7"),
    ("pack", "pack -o root.tar.zst < 7 > 8"),
    ("mkdisk", "mkdisk --bootloader none -o disk.img < 7 > 9"),
    ("mkroot `--from`", "mkroot again --from root.tar.zst --receipt 8 > 10"),
]
