# A card for an Orange Pi 5 with Arch Linux ARM, as 7Ji/orangepi5-archlinuxarm builds it: no root, no loop device, no chroot.
#
#   make -f orange-pi-5.mk alarm.img KEY=$HOME/.ssh/id_ed25519.pub
#   sudo dd if=alarm.img of=/dev/mmcblkX bs=4M conv=fsync
#
# UBOOT comes out of a build of U-Boot for the board, and 'mkdisk --board orangepi-5' knows where on the card it goes. KERNEL is the
# board's: a package of the repositories, or of one of your own (my-distribution/).
#
# root.json is a lock: keep it and packages/, and 'make -f orange-pi-5.mk again.img' makes the same card on another day.

KEY      ?= $(HOME)/.ssh/id_ed25519.pub
BOARD    ?= orangepi-5
KERNEL   ?= linux-aarch64
UBOOT    ?= u-boot-rockchip.bin
PACKAGES ?= vim nano sudo openssh linux-firmware
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
	    --sudo --enable $(SSHD) --network dhcp --enable systemd-networkd --fstab --board $(BOARD) --first-boot-keyring \
	  | verify | keyring --strip \
	  | mkdisk --board $(BOARD) --blob u-boot=$(UBOOT) -o
SSHD  ?= sshd

.DELETE_ON_ERROR:
.SUFFIXES:

alarm.img:
	$(BEGIN) | strap base archlinuxarm-keyring $(KERNEL) $(PACKAGES) | $(FINISH) $@ | reap | unmount > root.json

again.img: root.json
	$(BEGIN) | strap --locked root.json | $(FINISH) $@ | reap | unmount > again.json
