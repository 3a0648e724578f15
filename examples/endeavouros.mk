# As EndeavourOS is made: one repository before Arch's, a list of packages, a name of its own, services on.
#
#   make -f endeavouros.mk                  # endeavouros.tar.zst, endeavouros.json

HERE     := $(dir $(lastword $(MAKEFILE_LIST)))
NAME      = endeavouros
OVERLAYS ?= endeavouros
SSHD     ?= sshd
SETTINGS  = --hostname endeavour --user liveuser:wheel --nopasswd %wheel --network dhcp --enable systemd-networkd \
	    --enable $(SSHD) --mask systemd-networkd-wait-online --os-release IMAGE_ID=endeavouros

include $(HERE)distribution.mk
