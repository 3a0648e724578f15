#!/bin/sh
# build.sh KEY REPOSITORY DIR...: builds the package of each DIR/PKGBUILD in a root that is made for it, and adds it to a repository,
# signed by KEY, a fingerprint.
#
#   ./build.sh $KEY repo/mine.db hello
#   gpg --export --armor $KEY > mine.asc
#   mkroot root ... | mkconf --repo mine=file://$PWD/repo | keyring --key mine.asc | strap base hello
#
# DISTRO and ARCH say for what, DEVEL which packages the root has: what the PKGBUILDs have in makedepends, too. Sources are files
# beside the PKGBUILD; makepkg downloads the others, where there is a network.
set -eu
key=$1 repository=$2
shift 2
: "${DISTRO:=archlinux}" "${ARCH:=x86_64}" "${DEVEL:=base-devel}"

work=$(mktemp -d)
# Where the root cannot be removed, nothing is.
trap '{ [ ! -e "$work/root" ] || unmount --remove --quiet "$work/root" > /dev/null; } && rm -r "$work"' EXIT
# $DEVEL is words.
mkroot "$work/root" --arch "$ARCH" --distro "$DISTRO" | fetch-pacman | mkconf | keyring \
    | strap $DEVEL > "$work/root.json"

for sources in "$@"; do
    rm -rf "$work/packages" && mkdir "$work/packages"
    # makepkg refuses root, and what it makes belongs to a user of the root: so the packages come out as a tar.
    enter --state "$work/root.json" --bind "$(realpath "$sources"):/run/sources" --user nobody bash -euc '
        cp -r /run/sources /tmp/build && mkdir /tmp/packages && cd /tmp/build
        PKGDEST=/tmp/packages HOME=/tmp makepkg >&2
        cd /tmp/packages && tar -cf - *' > "$work/packages.tar"
    tar -xf "$work/packages.tar" -C "$work/packages" --no-same-owner
    strapline repository --sign "$key" "$repository" "$work/packages"/*
done
