# The steps that custom distributions have in common. A file of one sets what differs, and includes this one:
# orange-pi-5.mk, endeavouros.mk, cachyos-v3.mk, manjaro-arm.mk, my-distribution/mine.mk. Each is used as
#
#   PATH=$(strapline path):$PATH make -f endeavouros.mk
#
# which makes NAME.tar.zst, or another OUTPUT, and NAME.json. That is the receipt, and a lock, too: keep it and packages/, and
# 'make -f endeavouros.mk again' makes again.tar.zst of the same packages on another day. The document of a run that failed is
# NAME.failed.json, and the old NAME.json stays.

# What it is: its name, the distribution with its architecture, and presets that are laid over it, in order. Each may be a file.
NAME     ?= mine
ARCH     ?= x86_64
DISTRO   ?= archlinux
OVERLAYS ?=
# Repositories of one's own, as of mkconf --repo, and files with their keys.
REPOS    ?=
KEYS     ?=
# What is installed: lists of names, more names, and package files that nobody signed.
LISTS    ?= $(HERE)$(NAME).packages
PACKAGES ?=
UNSIGNED ?=
# Trees of files: below the packages, and over them.
EARLY    ?=
TREES    ?= $(wildcard $(HERE)$(NAME).tree)
# Files that later steps read: make looks for them first.
NEEDS    ?=
# More options of configure(8), and what is made of the root: a tool with its options but -o, and the suffix.
SETTINGS ?=
OUTPUT   ?= pack
SUFFIX   ?= .tar.zst
# With this in the environment the same packages give the same bytes.
export SOURCE_DATE_EPOCH ?= 1700000000

ROOT  = $(@:$(SUFFIX)=)
# What a run before left is removed: its packages would be there, and nobody's record of where they are from.
BEGIN = { [ ! -e $(ROOT).root ] || unmount --new --quiet --remove $(ROOT).root > /dev/null; } \
	  && mkroot --new $(ROOT).root --arch $(ARCH) --distro $(DISTRO) $(OVERLAYS:%=--overlay %) $(EARLY:%=--tree %) \
	  | fetch-pacman | mkconf --cache-dir $(CURDIR)/packages $(REPOS:%=--repo '%') | keyring $(KEYS:%=--key %)
# The built system has all of these repositories, and makes its own keyring when it boots.
END   = configure $(TREES:%=--tree %) --locale en_US.UTF-8 --timezone UTC $(SETTINGS) --repositories --first-boot-keyring \
	  | verify | keyring --strip | $(OUTPUT) -o $@ | reap | unmount > $(ROOT).failed.json \
	  && mv $(ROOT).failed.json $(ROOT).json

.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: all again

all: $(NAME)$(SUFFIX)
again: again$(SUFFIX)

$(NAME)$(SUFFIX): | $(NEEDS)
	$(BEGIN) | strap $(LISTS:%=--packages-from %) $(UNSIGNED:%=--unsigned %) $(PACKAGES) | $(END)

again$(SUFFIX): $(NAME).json | $(NEEDS)
	$(BEGIN) | strap --locked $< | $(END)
