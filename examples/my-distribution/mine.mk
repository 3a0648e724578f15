# One's own distribution: the packages of another one, packages of one's own that nobody signed, and a tree of files.
#
#   make -f mine.mk                         # mine.tar.zst, mine.json
#
# The packages are those that makepkg(8) left in built/. Signed ones come from a repository of one's own (README.md).

HERE     := $(dir $(lastword $(MAKEFILE_LIST)))
NAME      = mine
UNSIGNED  = $(wildcard $(HERE)built/*.pkg.tar.zst)
EARLY     = $(HERE)early
SETTINGS  = --hostname mine --user me:wheel --nopasswd me --enable app --mask systemd-boot-check-no-failures.service \
	    --os-release IMAGE_ID=mine --os-release IMAGE_VERSION=7

include $(HERE)../distribution.mk
