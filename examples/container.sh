#!/bin/sh
# A base image for containers, out of packages: container.sh DISTRO ARCH [PACKAGE]...
#
#   ./container.sh archlinuxarm aarch64 base archlinuxarm-keyring
#   podman load -i archlinuxarm-aarch64.oci.tar && podman run --rm -it archlinuxarm:aarch64 bash
#
# A container has no first boot, so the public keys stay: pacman in it verifies packages, and to add a key it makes its own
# first ('pacman-key --init'). With SOURCE_DATE_EPOCH and 'keyring --strip' the image would be the same bytes each time.
set -eu
distro=$1 arch=$2
shift 2
[ $# -gt 0 ] || set -- base
name=$(basename "$distro" .toml)-$arch

# What a run before left is removed: its packages would be there, and nobody's record of where they are from.
[ ! -e "$name.root" ] || unmount --new --quiet --remove "$name.root" > /dev/null
mkroot --new "$name.root" --arch "$arch" --distro "$distro" | fetch-pacman | mkconf | keyring | strap "$@" \
    | keyring --strip=secret | pack --format oci --name "$(basename "$distro" .toml):$arch" -o "$name.oci.tar" \
    | reap | unmount > "$name.failed.json"
# The document of a run that failed stays there, and the receipt of the run before as it is.
mv "$name.failed.json" "$name.json"
