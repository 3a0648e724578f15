# Each tool alone, its document in a file: a target is a document, and a document can sit here for a year.
#
#   make -f steps.mk DISTRO=archlinuxarm ARCH=aarch64 done.json
#
# A document is a plan and a record, never a handle: nothing is mounted and nothing runs between two targets, so make's
# idea of "up to date" is true. (A mount is never a target: after a reboot the file would be there and the mount not.)
# Each recipe is one stage. The document of one that failed is NAME.json.new, and never a target.

DISTRO   ?= archlinuxarm
ARCH     ?= aarch64
PACKAGES ?= nano vim sudo openssh
KEYRING  ?= archlinuxarm-keyring
# For a mirror of one's own: MIRROR=http://HOST, laid out as ARCH/REPO, with pacman-static in archlinuxcn/x86_64.
MIRROR   ?=

.DELETE_ON_ERROR:
.SUFFIXES:

done.json: base.json
	strap --state $< $(PACKAGES) > $@.new && mv $@.new $@

base.json: keyring.json
	strap --state $< base $(KEYRING) > $@.new && mv $@.new $@

keyring.json: config.json
	keyring --state $< > $@.new && mv $@.new $@

config.json: pacman.json
	mkconf --state $< --cache-dir $(CURDIR)/packages $(if $(MIRROR),--server '$(MIRROR)/$$arch/$$repo') > $@.new && mv $@.new $@

pacman.json: root.json
	fetch-pacman --state $< $(if $(MIRROR),--server '$(MIRROR)/archlinuxcn/x86_64') > $@.new && mv $@.new $@

root.json:
	mkroot --new root --arch $(ARCH) --distro $(DISTRO) > $@.new && mv $@.new $@

# Nothing is left to undo in the default modes; after 'mkroot --host' this takes the mounts down.
.PHONY: undo
undo:
	reap --new root | unmount root > /dev/null
