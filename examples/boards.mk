# Systems of one base: the base is installed once, and each system begins with its archive.
#
#   make -f boards.mk red.tar.zst blue.tar.zst
#
# A second system costs what it has besides, and a changed list of packages the systems that have it. Delete base.json to
# have the base of today.

DISTRO   ?= archlinuxarm
ARCH     ?= aarch64
BASE     ?= base archlinuxarm-keyring openssh
# What each system has besides.
red      ?= nano
blue     ?= vim sudo
# For a mirror of one's own: MIRROR=http://HOST, laid out as ARCH/REPO, with pacman-static in archlinuxcn/x86_64.
MIRROR   ?=
# --chroot where there are no namespaces: a pod, a step of docker build.
MODE     ?=

# Without keys in the root, scriptlets of keyring packages do nothing, which saves most where they run emulated: keyring(8).
MIDDLE = fetch-pacman $(if $(MIRROR),--server '$(MIRROR)/archlinuxcn/x86_64') \
	  | mkconf --cache-dir $(CURDIR)/packages $(if $(MIRROR),--server '$(MIRROR)/$$arch/$$repo') | keyring | keyring --strip
# $(1) is the system, and $(2) its archive. What a run that failed left of the root is removed first.
BEGIN  = { [ ! -e $(1).root ] || unmount --new --quiet --remove $(1).root > /dev/null; } && mkroot --new $(1).root $(MODE)
# The root is in the archive by then. The document of a run that failed is NAME.failed.json, and the old NAME.json stays.
FINISH = keyring --strip | pack -o $(2) | reap | unmount --remove > $(1).failed.json && mv $(1).failed.json $(1).json

.DELETE_ON_ERROR:
.SUFFIXES:

# --new, as make -j gives all but one recipe a stdin that nothing comes from.
base.json:
	$(call BEGIN,base) --arch $(ARCH) --distro $(DISTRO) | $(MIDDLE) | strap $(BASE) | $(call FINISH,base,base.tar.zst)

%.tar.zst: base.json
	$(call BEGIN,$*) --from base.tar.zst --receipt base.json | $(MIDDLE) | strap $($*) | configure --hostname $* | verify \
	  | $(call FINISH,$*,$@)
