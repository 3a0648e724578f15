# A card for an Orange Pi 5 with Arch Linux ARM, as 7Ji/orangepi5-archlinuxarm builds it: no root, no loop device, no chroot.
#
#   make -f orange-pi-5.mk alarm.img KEY=$HOME/.ssh/id_ed25519.pub
#   sudo dd if=alarm.img of=/dev/mmcblkX bs=4M conv=fsync
#
# The two blobs come out of a build of U-Boot for the board: put idbloader.img and u-boot.itb beside orange-pi-5.toml, which
# says where on the card they go. KERNEL and DTB are the board's: a package of the repositories, or of one of your own
# (my-distribution/).
#
# At first boot the root takes the rest of the card, and the card gets keys of its own for pacman and sshd. 'ssh alarm@ADDRESS' with
# the key then works, and 'sudo': there is no password.
#
# root.json is a lock: keep it and packages/, and 'make -f orange-pi-5.mk again.img' makes the same card on another day.

KEY      ?= $(HOME)/.ssh/id_ed25519.pub
KERNEL   ?= linux-aarch64
DTB      ?= rockchip/rk3588s-orangepi-5.dtb
CONSOLE  ?= ttyS2,1500000
PACKAGES ?= vim nano sudo openssh linux-firmware
HERE     := $(dir $(lastword $(MAKEFILE_LIST)))
# For a mirror of one's own: MIRROR=http://HOST, laid out as ARCH/REPO, with pacman-static in archlinuxcn/x86_64.
MIRROR   ?=
SERVER   := $(if $(MIRROR),--server '$(MIRROR)/$$arch/$$repo')
DISTRO   ?= archlinuxarm
# With this in the environment the same packages give the same bytes.
export SOURCE_DATE_EPOCH ?= 1700000000

BEGIN = mkroot $@.root --arch aarch64 --distro $(DISTRO) \
	  | fetch-pacman $(if $(MIRROR),--server '$(MIRROR)/archlinuxcn/x86_64') \
	  | mkconf --cache-dir $(CURDIR)/packages $(SERVER) | keyring
FINISH = configure --hostname orangepi5 --locale en_US.UTF-8 --timezone UTC --user alarm:wheel --ssh-key alarm:$(KEY) \
	    --nopasswd alarm --enable $(SSHD) --network dhcp --enable systemd-networkd --enable systemd-resolved --fstab --layout $(HERE)orange-pi-5.toml --first-boot-keyring \
	  | verify | keyring --strip \
	  | mkdisk --layout $(HERE)orange-pi-5.toml $(if $(DTB),--dtb $(DTB)) --cmdline 'console=$(CONSOLE)' -o
SSHD  ?= sshd

.DELETE_ON_ERROR:
.SUFFIXES:

alarm.img:
	$(BEGIN) | strap base archlinuxarm-keyring $(KERNEL) $(PACKAGES) | $(FINISH) $@ | reap | unmount > root.json

again.img: root.json
	$(BEGIN) | strap --locked root.json | $(FINISH) $@ | reap | unmount > again.json
