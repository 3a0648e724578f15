#!/bin/sh
# The procedure that strapline(7) follows step for step, as a shell does it, for comparison: loose base, pacman-key in the root, strict rest.
#
#   procedure.sh ROOT CACHE MIRROR
#
# To be run in namespaces of its own (tests/bench/run does), with a binfmt handler registered, as its `umount -R` has
# nothing else to stand on. What the text gets wrong is mended: absolute paths, modes, a strict file that is strict.
set -eu
root=$1 cache=$2 mirror=$3
umask 022
mkdir -p "$root" "$cache"
mount --bind "$root" "$root"
for d in dev dev/pts dev/shm etc etc/pacman.d etc/pacman.d/hooks etc/pacman.d/gnupg run var/cache/pacman/pkg var/lib/pacman var/log; do mkdir -p "$root/$d"; done
mkdir -p -m 1777 "$root/tmp"
mkdir -p -m 555 "$root/proc" "$root/sys"
mount proc "$root/proc" -t proc -o nosuid,noexec,nodev
mount --rbind /sys "$root/sys"
mount dev "$root/dev" -t tmpfs -o mode=0755,nosuid
for n in null zero full random urandom tty; do : > "$root/dev/$n"; mount --bind /dev/$n "$root/dev/$n"; done
mkdir "$root/dev/pts" "$root/dev/shm"
mount devpts "$root/dev/pts" -t devpts -o mode=0620,gid=5,nosuid,noexec
mount shm "$root/dev/shm" -t tmpfs -o mode=1777,nosuid,nodev
mount run "$root/run" -t tmpfs -o nosuid,nodev,mode=0755
mount tmp "$root/tmp" -t tmpfs -o mode=1777,nodev,nosuid
conf() { # SIGLEVEL
    printf '[options]\nRootDir = %s\nDBPath = %s/var/lib/pacman/\nCacheDir = %s\nLogFile = %s/var/log/pacman.log\n' "$root" "$root" "$cache" "$root"
    printf 'GPGDir = %s/etc/pacman.d/gnupg/\nHookDir = %s/etc/pacman.d/hooks/\nArchitecture = aarch64\nSigLevel = %s\n' "$root" "$root" "$1"
    for repo in core extra alarm aur; do printf '[%s]\nServer = %s/$arch/$repo\n' $repo "$mirror"; done
}
conf Never > "$cache/loose.conf"
conf 'Required DatabaseOptional' > "$cache/strict.conf"
export LC_ALL=C.UTF-8
pacman -Sy --config "$cache/loose.conf" --noconfirm base archlinuxarm-keyring
chroot "$root" pacman-key --init
chroot "$root" pacman-key --populate archlinuxarm
pacman -Syu --config "$cache/strict.conf" --noconfirm nano vim sudo openssh
