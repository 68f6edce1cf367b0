# SPDX-License-Identifier: GPL-2.0
#
# What people type. The kernel module's own build is Kbuild; each target here is one script of scripts/.

# The build directory of the kernel to build for; empty means the running kernel's.
KDIR ?=
# What end-to-end runs use: DRIVER=rust|c|both, SCENARIO=name (a trailing * stands for anything), KERNEL=stock|debug.
DRIVER ?= rust
SCENARIO ?=
KERNEL ?= stock
export DRIVER SCENARIO
export SEED KERNEL

scripts := $(dir $(lastword $(MAKEFILE_LIST)))scripts

# Kbuild and cargo bring their own flags; those of this make are not for them.
MAKEFLAGS += --no-print-directory
unexport MAKEFLAGS MFLAGS MAKELEVEL

.PHONY: all module kdir install demo shell e2e kunit selftests soak bench test fuzz census lint check check-full rust-analyzer clean clean-cache help

all: module

## module: hv_netvsc.ko for the running kernel, or for KDIR=, into build/RELEASE/ (plain 'make' does this)
module:
	@$(scripts)/build-module $(KDIR)

## kdir: a build directory with Rust metadata for a stock Debian kernel (HV_NETVSC_KERNEL=release chooses which)
kdir:
	@kdir=$$($(scripts)/kdir) && echo "now: make KDIR=$$kdir"

## install: put the module where depmod prefers it to the kernel's own
install:
	@$(scripts)/install-module $(KDIR)

## demo: boot a stock kernel as a Hyper-V guest and show the driver at work
demo:
	@$(scripts)/e2e demo

## shell: a console in a Hyper-V guest with the driver loaded (DRIVER=rust|c)
shell:
	@$(scripts)/e2e shell

## check: all tests; the last line is 'N passed, N failed'
check:
	@$(scripts)/check

## check-full: check, with the scenarios that take long
check-full:
	@$(scripts)/check --full

## test: unit and property tests
test:
	@$(scripts)/test-units

## fuzz: fuzz formats and state machines for TIME seconds (default 60; TARGET=name, ARGS=more, as in ARGS=--help)
fuzz:
	@$(scripts)/fuzz $(if $(TIME),--time $(TIME)) $(if $(TARGET),--target $(TARGET)) $(ARGS)

## census: unsafe code by folder, C, long functions and files (ARGS=--list names them)
census:
	@$(scripts)/census $(ARGS)

## lint: formatting, clippy on both sides, shell scripts, what the module must not contain
lint:
	@$(scripts)/lint

## kunit: suites that need a kernel, on the debug kernel under QEMU
kunit:
	@$(scripts)/kunit $(ARGS)

## e2e: end-to-end scenarios (DRIVER=rust|c|both, SCENARIO=name, KERNEL=stock|debug, ARGS=more, as in ARGS=--list)
e2e:
	@$(scripts)/e2e --kernel $(KERNEL) $(ARGS)

## selftests: the kernel's own tests for network drivers, in a guest (DRIVER=rust|c; ARGS='--test NAME')
selftests:
	@$(scripts)/e2e selftests $(ARGS)

## soak: random operations and mishaps on two NICs (TIME=seconds, default 600; SEED=n repeats; KERNEL=stock|debug)
soak:
	@$(scripts)/soak $(TIME)

## bench: the C driver and ours side by side, into build/bench (QUICK=1: under ten minutes)
bench:
	@$(scripts)/e2e bench $(if $(QUICK),--quick) $(ARGS)

## rust-analyzer: describe kernel side and host side to editors
rust-analyzer:
	@$(scripts)/rust-analyzer $(KDIR)

## clean: remove what was built here (the cache stays)
clean:
	@$(scripts)/clean

## clean-cache: remove kernels, images and the toolchain root, too
clean-cache:
	@$(scripts)/clean --cache

## help: this list
help:
	@sed -n 's/^## //p' $(lastword $(MAKEFILE_LIST)) | awk -F': ' '{ printf "make %-14s %s\n", $$1, $$2 }'
