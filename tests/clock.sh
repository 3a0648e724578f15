# `unshare --mount sh clock.sh DAY COMMAND...` runs a command, and all that it starts, with the host's clock at DAY.
#
# There is no namespace for this clock (time_namespaces(7) has others), and what our tools start gets an environment of
# their own, so no variable reaches it. So libfaketime is preloaded by a file, which only this mount namespace has: an
# overlay over /etc, with its upper side on a tmpfs over /mnt.
#
# `sh clock.sh --into ROOT` gives the programs of a root that clock, too, and `--out-of` takes it from them.
set -eu
case $1 in
--into)
    # Nobody's umask keeps the root's programs from them.
    install -m 644 /etc/faketimerc "$2/etc/faketimerc"
    install -m 755 "$(cat /etc/ld.so.preload)" "$2/.faketime.so"
    echo /.faketime.so | install -m 644 /dev/stdin "$2/etc/ld.so.preload"
    exit
    ;;
--out-of)
    rm "$2/etc/faketimerc" "$2/etc/ld.so.preload" "$2/.faketime.so"
    exit
    ;;
esac
library=$(ls /usr/lib/*/faketime/libfaketime.so.1) || { echo "clock.sh: hint: apt-get install libfaketime" >&2; exit 1; }
day=$1
shift
# What a process that was killed has left in there would be taken for its own by another with that number.
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /mnt
mkdir /mnt/new /mnt/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/mnt/new,workdir=/mnt/work /etc
echo "@$day 12:00:00" > /etc/faketimerc
echo "$library" > /etc/ld.so.preload
exec "$@"
