# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What scripts that configure and build kernels share. Sourced after cache.sh.

# setting NAME FILE: the value of a configuration option.
setting() {
	sed -n "s/^CONFIG_$1=//p" "$2"
}

# kernel_make LOG SOURCE OUT ARGUMENT...: make in the toolchain root, in the background's priority.
kernel_make() {
	local log=$CACHE/logs/$1 source=$2 out=$3
	shift 3
	run_logged "$log" "$SCRIPTS/in-root" nice make -C "$source" O="$out" -j"$(nproc)" "$@" ||
		die "the kernel in $source cannot be built (all of the output: $log)"
}

# move_names FROM TO: a build directory is about to be renamed, and its Makefiles and notes for make name it.
move_names() {
	grep -rIlZ --include=Makefile --include='.*.cmd' -F "$1" "$1" | xargs -0 -r sed -i "s|$1|$2|g"
}

# compiler_versions: the packages that decide what a kernel build gives, with their versions, one a line.
compiler_versions() {
	local root
	root=$("$SCRIPTS/toolchain-root")
	awk '$1 == "Package:" { name = $2 }
		$1 == "Version:" && name ~ /^(rustc|rust-src|bindgen|clang|lld|llvm|pahole|gcc(-[0-9]+)?|binutils)$/ { print name, $2 }' \
		"$root/var/lib/dpkg/status" | sort
}
