# A card for an Orange Pi 5 with Arch Linux ARM, as 7Ji/orangepi5-archlinuxarm builds it: the kernel of 7Ji's repository, which
# the built system keeps; no root, no loop device, no chroot.
#
#   make -f orange-pi-5.mk KEY=$HOME/.ssh/id_ed25519.pub
#   sudo dd if=alarm.img of=/dev/mmcblkX bs=4M conv=fsync
#
# UBOOT comes out of a build of U-Boot for the board; 'mkdisk --board' knows where on the card it goes. KERNEL is the board's.
#
# At first boot the root takes the rest of the card, and the card gets keys of its own for pacman and sshd. 'ssh alarm@ADDRESS' with
# the key then works, and 'sudo': there is no password.

HERE     := $(dir $(lastword $(MAKEFILE_LIST)))
NAME      = alarm
ARCH      = aarch64
DISTRO   ?= archlinuxarm
OVERLAYS ?= 7Ji
KERNEL   ?= linux-aarch64-7ji
BOARD    ?= orangepi-5
UBOOT    ?= u-boot-rockchip.bin
SSHD     ?= sshd
KEY      ?= $(HOME)/.ssh/id_ed25519.pub
PACKAGES  = $(KERNEL)
NEEDS     = $(KEY) $(UBOOT)
LISTS    ?= $(HERE)orange-pi-5.packages
SETTINGS  = --hostname orangepi5 --user alarm:wheel --ssh-key alarm:$(KEY) --sudo --nopasswd alarm --enable $(SSHD) \
	    --network dhcp --enable systemd-networkd --enable systemd-resolved --fstab --board $(BOARD)
OUTPUT    = mkdisk --board $(BOARD) --blob u-boot=$(UBOOT)
SUFFIX    = .img

include $(HERE)distribution.mk
