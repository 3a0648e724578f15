# As CachyOS is made for x86-64-v3: its repositories before Arch's, and pacman takes packages of either architecture. It is
# built on processors that have AVX2 and the rest of that level: on others mkroot says what is missing.
#
#   make -f cachyos-v3.mk KEY=key.pub       # cachyos.img, cachyos.json: a disk for UEFI

HERE     := $(dir $(lastword $(MAKEFILE_LIST)))
NAME      = cachyos
ARCH      = x86_64_v3
DISTRO   ?= cachyos
KERNEL   ?= linux-cachyos
SSHD     ?= sshd
KEY      ?= $(HOME)/.ssh/id_ed25519.pub
PACKAGES  = $(KERNEL)
NEEDS     = $(KEY)
SETTINGS  = --hostname cachyos --user me:wheel --ssh-key me:$(KEY) --sudo --nopasswd me --enable $(SSHD) --network dhcp \
	    --enable systemd-networkd --fstab --os-release VARIANT_ID=x86_64_v3
# Another boot loader than the systemd-boot of the root: --bootloader NAME.
BOOT     ?=
OUTPUT    = mkdisk $(BOOT)
SUFFIX    = .img

include $(HERE)distribution.mk
