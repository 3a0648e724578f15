# A card for an Orange Pi 5 with Arch Linux ARM, as 7Ji/orangepi5-archlinuxarm builds it: the kernel of 7Ji's repository, which
# the built system keeps; no root, no loop device, no chroot.
#
#   make -f orange-pi-5.mk KEY=$HOME/.ssh/id_ed25519.pub
#   sudo dd if=alarm.img of=/dev/mmcblkX bs=4M conv=fsync
#
# The two blobs come out of a build of U-Boot for the board: put idbloader.img and u-boot.itb beside orange-pi-5.toml, which
# says where on the card they go. KERNEL and DTB are the board's.

HERE     := $(dir $(lastword $(MAKEFILE_LIST)))
NAME      = alarm
ARCH      = aarch64
DISTRO   ?= archlinuxarm
OVERLAYS ?= 7Ji
KERNEL   ?= linux-aarch64-7ji
DTB      ?= rockchip/rk3588s-orangepi-5.dtb
SSHD     ?= sshd
KEY      ?= $(HOME)/.ssh/id_ed25519.pub
PACKAGES  = $(KERNEL)
LISTS    ?= $(HERE)orange-pi-5.packages
LAYOUT    = $(HERE)orange-pi-5.toml
SETTINGS  = --hostname orangepi5 --user alarm:wheel --ssh-key alarm:$(KEY) --sudo --nopasswd alarm --enable $(SSHD) \
	    --network dhcp --enable systemd-networkd --fstab --layout $(LAYOUT)
OUTPUT    = mkdisk --layout $(LAYOUT) $(if $(DTB),--dtb $(DTB)) --cmdline 'console=ttyS2,1500000'
SUFFIX    = .img

include $(HERE)distribution.mk
