# `unshare --mount sh gpg.sh DIR COMMAND...` runs a command, and all that it starts, on a host whose gpg is the one in DIR, as
# tests/mirror/mkpacman unpacks it.
#
# gpg starts gpg-agent by the path that was written into it, and gpgme asks the gpgconf that it finds; so the programs lie where
# the host's own are.
set -eu
dir=$1
shift
for program in gpg gpg-agent gpg-connect-agent gpgconf; do
    mount --bind "$dir/$program" "/usr/bin/$program"
done
exec "$@"
