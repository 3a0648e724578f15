# become.sh TOP ETC UID COMMAND [ARG]...
#
# Runs a command as an ordinary user that the host does not have. To be run by root in a mount namespace of its own, so that
# nothing of this is seen outside: the user's lines are bound over /etc, where newuidmap(1) reads them, and where the
# source tree TOP lies behind a directory that others may not search (a home, /root), that is hidden by an empty one
# with nothing but the tree in it.
set -e
top=$1 etc=$2 uid=$3
shift 3

hidden=
above=$top
while [ "$above" != / ]; do
    above=$(dirname "$above")
    case $(stat -c %a "$above") in *[1357]) ;; *) hidden=$above ;; esac
done
if [ -n "$hidden" ]; then
    here=$(pwd)
    mkdir -p "$etc/top"
    mount --bind "$top" "$etc/top"
    mount -t tmpfs -o mode=755 tmpfs "$hidden"
    mkdir -p "$top"
    mount --bind "$etc/top" "$top"
    cd "$here"
fi
for file in passwd group subuid subgid; do
    [ -e /etc/$file ] || : > /etc/$file
    mount --bind "$etc/$file" /etc/$file
done
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups -- "$@"
