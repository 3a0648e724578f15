#!/bin/sh
# publish.sh KEY DIR PACKAGE...: makes DIR a repository 'mine' of packages that KEY signs, with its keyring package and the
# preset that pins it. Needs gpg, bsdtar and zstd. Run it again to add packages.
#
# BASE is the distribution that it is laid over, ARCH its architecture, SERVER where DIR will be served.
set -eu
key=$1 dir=$2
shift 2
: "${BASE:=archlinuxarm}" "${ARCH:=aarch64}" "${SERVER:=https://example.org/mine}"

fingerprint=$(gpg --batch --with-colons --list-keys "$key" | sed -n 's/^fpr:*\([0-9A-F]*\):$/\1/p' | head -n 1)
[ -n "$fingerprint" ] || { echo "publish.sh: there is no key '$key'" >&2; exit 1; }
mkdir -p "$dir"

# The keyring package: the key, that it may vouch for others (4: marginally, as every master), and nobody revoked.
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
rings=$work/usr/share/pacman/keyrings
mkdir -p "$rings"
gpg --batch --export "$fingerprint" > "$rings/mine.gpg"
echo "$fingerprint:4:" > "$rings/mine-trusted"
: > "$rings/mine-revoked"
version=$(date -u +%Y%m%d)-1
cat > "$work/.PKGINFO" << END
pkgname = mine-keyring
pkgver = $version
pkgdesc = The key of our own packages
arch = any
size = $(du -sb "$work/usr" | cut -f 1)
END
ring=$dir/mine-keyring-$version-any.pkg.tar.zst
(cd "$work" && bsdtar --uid 0 --gid 0 -cf - .PKGINFO usr) | zstd -q -f -o "$ring"
rm -f "$ring.sig"

strapline repository --sign "$fingerprint" "$dir/mine.db" "$@" "$ring"

cat > "$dir/mine.toml" << END
name = "mine"
title = "Mine, over $BASE"
extends = "$BASE"

[arch.$ARCH]
servers = ["$SERVER"]
add = [{ name = "mine" }]           # the last; with before = "core" it would come first

[keyring]
packages = ["mine-keyring"]
populate = ["mine"]

[[keyring.trusted]]
fingerprint = "$fingerprint"
source = "the owner of $key, by hand"
date = "$(date -u +%Y-%m-%d)"
END
echo "publish.sh: '$dir/mine.toml' pins $fingerprint"
