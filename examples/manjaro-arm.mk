# As Manjaro ARM is made: its own packages and Arch Linux ARM's in one set of repositories, and the keys of three keyrings.
#
#   make -f manjaro-arm.mk                  # manjaro-arm.tar.zst, manjaro-arm.json

HERE     := $(dir $(lastword $(MAKEFILE_LIST)))
NAME      = manjaro-arm
ARCH      = aarch64
DISTRO   ?= manjaro-arm
SSHD     ?= sshd
SETTINGS  = --hostname manjaro-arm --user manjaro:wheel --nopasswd manjaro --network dhcp --enable systemd-networkd \
	    --enable $(SSHD) --disable systemd-networkd-wait-online --os-release VARIANT_ID=minimal

include $(HERE)distribution.mk
