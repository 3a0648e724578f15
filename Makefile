# strapline: build it, try it, test it, and the recipe that people copy.
#
#   make demo    on a fresh Debian or Ubuntu: installs what the host lacks, builds, makes an offline mirror, bootstraps an
#                aarch64 root through the whole pipe, enters it and prints what it is
#   make         builds all tools, small and fast, into target/release; make install installs them, make uninstall removes them
#   make dist    packs them, linked statically, for any Linux; make deb and make arch-package make packages of them
#   make check   formatting, lints, documentation, licences, and the tests of each tool and library: before each commit
#   make test    whole pipelines, on samples: before a pull request
#   make soak    the same on whole tables, 50 kills of each tool, boots, and a fault at every 100th system call: a night
#                (STRAPLINE_TORTURE=N: at every N-th; 1 takes days)
#   make fresh   follows the README on newly made Debian 12 and 13 systems, as root and as a user; RELEASES="ubuntu-24.04" on others
#   make picture draws the demo as its user sees it: docs/demo.svg
#   make root DISTRO=archlinuxarm ARCH=aarch64 ROOT=/srv/alarm      the real thing, from the real mirrors
#
# One recipe is one pipe, from mkroot to unmount: a mount is never a target. The last exit status of the pipe is the first
# failure's, so no pipefail is needed and plain sh will do.

DISTRO   ?= archlinuxarm
ARCH     ?= aarch64
ROOT     ?= build/$(DISTRO)-$(ARCH)
PACKAGES ?= base $(KEYRING)
# What is to be installed is built small, which takes minutes; what is to be tried is built quickly.
PROFILE  ?= release
quick demo demo-mirror picture root clean-demo: PROFILE = quick
PREFIX   ?= /usr/local

# Where a distribution's keyring package is not called after it.
KEYRING_archriscv := archlinux-keyring
KEYRING  ?= $(or $(KEYRING_$(DISTRO)),$(DISTRO)-keyring)

TOOLS := $(filter-out strapline,$(notdir $(wildcard tools/*)))
# What the demo and a root run; and doctor, for when they fail.
QUICK := mkroot fetch-pacman mkconf keyring strap reap unmount enter doctor strapline
BIN    = $(CURDIR)/target/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
# Root does without sudo, and a container often has none.
SUDO  := $(if $(filter 0,$(shell id -u)),,sudo)
HOST_PATH := $(PATH)
export PATH = $(BIN):$(HOST_PATH)

.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: all build quick rust host-demo host host-soak demo-mirror demo picture root check test soak fresh bench bench-scale fuzz install uninstall source dist deb arch-package clean clean-demo help

all: build

rust:
	@tests/host-packages rust
build: rust
	cargo build $(addprefix -p ,$(TOOLS) strapline) --bins --profile $(PROFILE) $(CARGOFLAGS)
quick: rust
	cargo build $(addprefix -p ,$(QUICK)) --bins --profile $(PROFILE)

# What the host needs beside Rust and make: programs that the suite runs, and those that its mirror and its tests need.
host-demo:
	tests/host-packages --install demo
host:
	tests/host-packages --install
host-soak:
	tests/host-packages --install soak

# The pipe, against the offline mirror. MIRROR is the address that with-mirror serves it at.
DEMO := build/demo
define PIPE
mkroot $(DEMO)/root --arch aarch64 --distro build/mirror-aarch64/preset.toml |
  fetch-pacman --server $$MIRROR/archlinuxcn/x86_64 |
  mkconf --server $$MIRROR/'$$arch/$$repo' --cache-dir $(DEMO)/packages |
  keyring | strap base archlinuxarm-keyring |
  strap nano vim sudo openssh | reap | unmount > $(DEMO)/receipt.json
endef
export PIPE
WITH_MIRROR := tests/mirror/with-mirror build/mirror-aarch64/www
demo: demo-mirror
	mkdir -p $(DEMO)
	$(WITH_MIRROR) sh -c "$$PIPE"
	@echo
	@printf 'uname -m          '; enter --state $(DEMO)/receipt.json uname -m
	@printf 'pacman -Q | wc -l '; enter --state $(DEMO)/receipt.json pacman -Q | wc -l
	@strapline receipt $(DEMO)/receipt.json

demo-mirror: host-demo
	$(MAKE) --no-print-directory PROFILE=$(PROFILE) quick
	tests/mirror/mkmirror build/mirror-aarch64

# The picture of it in README.
picture: demo-mirror
	$(MAKE) --no-print-directory PROFILE=$(PROFILE) clean-demo
	mkdir -p $(DEMO)
	$(WITH_MIRROR) docs/picture docs/demo.svg "$$PIPE" "enter --state $(DEMO)/receipt.json uname -m"

# The real mirrors.
root: quick
	mkdir -p $(dir $(ROOT))
	mkroot $(ROOT) --arch $(ARCH) --distro $(DISTRO) | fetch-pacman | mkconf | keyring \
	  | strap $(PACKAGES) | reap | unmount > $(ROOT).json
	@strapline receipt $(ROOT).json

# Tests make namespaces, and an ordinary user out of nothing: they run as root, what they test as root and as a user. What the
# caller ignores (nohup, a background job) the tools would ignore too.
HOST   := $(shell rustc -vV 2> /dev/null | sed -n 's/^host: //p')
RUNNER := CARGO_TARGET_$(shell echo $(HOST) | tr a-z- A-Z_)_RUNNER
# Twice as many at once as processors: half of their time is spent on waiting.
AS_ROOT := $(if $(SUDO),sudo -E,env)
TEST     = RUST_TEST_THREADS=$(shell echo $$((2 * $$(nproc)))) env --default-signal $(RUNNER)="$(AS_ROOT) $(WITHIN)" cargo test --no-fail-fast

# The tests of libraries and tools; the pipelines are --test suite. Always of the whole workspace: so all is built once, with the
# same features.
UNITS := --lib --bins $(addprefix --test ,$(sort $(basename $(notdir $(wildcard lib/*/tests/*.rs tools/*/tests/*.rs)))))

# What `make test` runs is not among it.
check: host
	@command -v cargo-deny > /dev/null || { echo "make: cargo-deny is missing: cargo install --locked cargo-deny" >&2; exit 1; }
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
	cargo deny check bans licenses sources
	$(TEST) --workspace $(UNITS)

# From the directory of their package.
test: WITHIN = ./on-tmpfs
test: host
	cargo build --workspace --all-targets
	$(TEST) --workspace --test suite

# The whole of what `make test` has samples of, and the README on fresh machines.
soak: host-soak
	cargo build --workspace --all-targets
	mkdir -p build
	{ STRAPLINE_SOAK=1 STRAPLINE_TORTURE=$(or $(STRAPLINE_TORTURE),100) $(TEST) --workspace --test suite --test rings \
	    -- --nocapture --include-ignored --skip takes_on_the_filter 2>&1 || echo "make: a test failed"; } | tee build/soak.log
	@awk '/ injections/ { for (i = 2; i <= NF; i++) if ($$i ~ /^injections/) n += $$(i - 1); else if ($$i == "leaks") l += $$(i - 1) } \
	  END { print n + 0 " injections, " l + 0 " leaks" }' build/soak.log
	@! grep -q '^make: a test failed$$' build/soak.log
	$(MAKE) --no-print-directory fresh

# One format, with libFuzzer: fuzz/README.md. What it makes of the corpus stays out of the source tree.
TARGET  ?= document
SECONDS ?= 60
fuzz:
	@command -v cargo-fuzz > /dev/null || { echo "make: cargo-fuzz is missing: cargo install cargo-fuzz --locked, and a nightly toolchain" >&2; exit 1; }
	mkdir -p fuzz/target/corpus/$(TARGET)
	cargo +nightly fuzz run --sanitizer none $(TARGET) fuzz/target/corpus/$(TARGET) fuzz/corpus/$(TARGET) -- \
	  -max_total_time=$(SECONDS) -max_len=8192 -timeout=20 -print_final_stats=1

# The systems are made by root, and see the Rust of who calls make.
fresh: rust
	cargo fetch --locked
	$(SUDO) env "PATH=$$PATH" "CARGO_HOME=$${CARGO_HOME:-$$HOME/.cargo}" tests/fresh $(RELEASES)

# As root, which the programs that it compares with need. BENCH: options, as '--runs 3 --fs tmpfs --only x86_64'.
bench: build
	tests/bench/run --keep $(BENCH)
bench-scale: build
	tests/bench/scale --keep $(BENCH)

# What 'make build' made, by a user who need not have Rust. The tools have short names that other packages have, too: only
# strapline is in PATH, and pages are called after it.
LIB  := $(DESTDIR)$(PREFIX)/lib/strapline
MAN  := $(DESTDIR)$(PREFIX)/share/man
REFS := $(foreach tool,$(TOOLS),-e 's/^\.Xr $(tool) 8/.Xr strapline-$(tool) 8/')
PAGE  = man$(subst .,,$(suffix $(1)))/$(if $(filter strapline%,$(1)),$(1),strapline-$(1))
PAGES := $(notdir $(wildcard man/*.[578]))

install:
	@[ -x $(BIN)/strapline ] || { echo "make: there is no $(BIN)/strapline" >&2; \
	  echo "make: hint: build it first, without sudo: 'make build'" >&2; exit 1; }
	install -d $(DESTDIR)$(PREFIX)/bin $(LIB) $(addprefix $(MAN)/man,5 7 8)
	install -m 755 $(addprefix $(BIN)/,$(TOOLS)) $(LIB)
	install -m 755 $(BIN)/strapline $(DESTDIR)$(PREFIX)/bin
	@$(foreach page,$(PAGES),sed $(REFS) man/$(page) > $(MAN)/$(call PAGE,$(page)) &&) chmod 644 $(foreach page,$(PAGES),$(MAN)/$(call PAGE,$(page)))

uninstall:
	rm -f $(addprefix $(LIB)/,$(TOOLS)) $(DESTDIR)$(PREFIX)/bin/strapline $(foreach page,$(PAGES),$(MAN)/$(call PAGE,$(page)))
	[ ! -d $(LIB) ] || rmdir $(LIB)

# Packages of these tools: for any Linux of an architecture, for Debian, for Arch. The programs of the first two are linked
# statically: they need no C library of the host's, and load none of its modules. TRIPLE may be another architecture's
# (docs/cross.md): nothing that was built is run. Its linker is the compiler that Debian calls by it, or the one of cargo's variable.
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
TRIPLE  ?= $(HOST)
TARGET_ := CARGO_TARGET_$(shell echo $(TRIPLE) | tr a-z- A-Z_)_
ifneq ($(firstword $(subst -, ,$(TRIPLE))),$(firstword $(subst -, ,$(HOST))))
export $(TARGET_)LINKER ?= $(subst riscv64gc,riscv64,$(subst armv7,arm,$(subst -unknown,,$(TRIPLE))))-gcc
endif
BUILT    = $(CURDIR)/target/$(TRIPLE)/$(notdir $(BIN))
STAGE   := build/package
NAME     = strapline-$(VERSION)-$(firstword $(subst -, ,$(TRIPLE)))
source:
	mkdir -p build
	git archive --format=tar.gz --prefix=strapline-$(VERSION)/ -o build/strapline-$(VERSION).tar.gz HEAD
dist: rust source
	@command -v $(or $($(TARGET_)LINKER),true) > /dev/null || { \
	  echo "make: linking for $(TRIPLE): $($(TARGET_)LINKER) is missing" >&2; \
	  echo "make: hint: see docs/cross.md; $(TARGET_)LINKER names another" >&2; exit 1; }
	$(if $(RUSTFLAGS),,$(TARGET_))RUSTFLAGS="$(RUSTFLAGS) -C target-feature=+crt-static" \
	  $(MAKE) --no-print-directory PROFILE=$(PROFILE) CARGOFLAGS="--locked --target $(TRIPLE)" build
	rm -rf $(STAGE) && mkdir -p $(STAGE)
	$(MAKE) --no-print-directory BIN=$(BUILT) DESTDIR=$(STAGE)/$(NAME) PREFIX= install
	install -m 644 LICENSE-MIT LICENSE-APACHE $(STAGE)/$(NAME)
	tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$$(git log -1 --format=%ct)" -C $(STAGE) -cJf build/$(NAME).tar.xz $(NAME)
	cd build && sha256sum $(NAME).tar.xz strapline-$(VERSION).tar.gz > $(NAME).sha256
deb: dist
	@command -v cargo-deb > /dev/null || { echo "make: cargo-deb is missing: cargo install --locked cargo-deb" >&2; exit 1; }
	$(MAKE) --no-print-directory BIN=$(BUILT) DESTDIR=$(STAGE)/deb PREFIX=/usr install
	gzip -9n $(STAGE)/deb/usr/share/man/*/*
	printf 'strapline (%s-1) unstable; urgency=medium\n\n  * See CHANGELOG.md of the source.\n\n -- %s  %s\n' "$(VERSION)" \
	  "$$(sed -n 's/^maintainer = "\(.*\)"/\1/p' tools/strapline/Cargo.toml)" "$$(git log -1 --format=%cD)" > $(STAGE)/deb/changelog
	cargo deb -p strapline --no-build --no-strip --target $(TRIPLE) -o build/
# makepkg refuses to run as root.
arch-package: source
	mkdir -p $(STAGE)/arch
	cp build/strapline-$(VERSION).tar.gz $(STAGE)/arch
	sed -e "s/^pkgver=.*/pkgver=$(VERSION)/" -e "s/(SKIP)/($$(sha256sum < build/strapline-$(VERSION).tar.gz | cut -d' ' -f1))/" \
	  packaging/PKGBUILD > $(STAGE)/arch/PKGBUILD
	cd $(STAGE)/arch && PROFILE=$(PROFILE) PKGDEST=$(CURDIR)/build makepkg --force $(MAKEPKGFLAGS)

# What was built. The roots and packages of 'make root' and 'make demo' are in build/, which stays.
clean:
	cargo clean

# The demo's root may have files of subordinate ids, which only the user namespace that has them may delete.
clean-demo:
	@[ ! -d $(DEMO)/root ] || command -v unmount > /dev/null || { \
	  echo "make: the tools are not built, and $(DEMO)/root may have files of others" >&2; echo "make: hint: make quick clean-demo" >&2; exit 1; }
	if [ -d $(DEMO)/root ]; then unmount --new --remove $(DEMO)/root > /dev/null; fi
	rm -rf --one-file-system $(DEMO)

help:
	@sed -n 's/^#   //p' Makefile
