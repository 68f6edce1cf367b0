# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# The artifact cache, and how scripts speak: sourced by every script in this folder.
#
# An artifact is a file or a folder named NAME-KEY in the cache, where KEY is a hash of
# everything it is made from. It is made in a temporary folder beside its final place and
# renamed when complete, under a lock: what exists is whole, and two makers never collide.
#
# Environment:
#   XDG_CACHE_HOME        the cache is $XDG_CACHE_HOME/hv-netvsc (default ~/.cache/hv-netvsc)

set -euo pipefail
shopt -s inherit_errexit

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034  # for those who source this
REPO=$(dirname "$SCRIPTS")
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/hv-netvsc
ME=${0##*/}
START=${START:-$SECONDS}
export LC_ALL=C.UTF-8

# say TEXT...: one progress line on standard error, with the seconds since this script began.
say() {
	printf '[%4ds] %s: %s\n' "$((SECONDS - START))" "$ME" "$*" >&2
}

# die TEXT...: the cause and the way out on one line; exit code 1.
die() {
	printf '%s: error: %s\n' "$ME" "$*" >&2
	exit 1
}

# usage_if_asked ARGS...: print the comment at the top of the script for -h or --help.
usage_if_asked() {
	case ${1:-} in
	-h | --help)
		sed -n '2,/^[^#]/{/^# SPDX/d;s/^# \{0,1\}//p}' "$0"
		exit 0
		;;
	esac
}

# as_root CMD...: run CMD as root, through sudo where we are somebody else.
as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo -- "$@"
	else
		die "'$1' needs root: run as root or install sudo"
	fi
}

# key_of TEXT-OR-@FILE...: 12 hexadecimal digits that stand for all of them.
key_of() {
	local part
	for part in "$@"; do
		case $part in
		@*) sha256sum <"${part#@}" ;;
		*) printf '%s\n' "$part" ;;
		esac
	done | sha256sum | cut -c1-12
}

# run_logged LOG CMD...: run CMD with its output in LOG; on failure show the tail and return its code.
run_logged() {
	local log=$1 code=0
	shift
	"$@" >"$log" 2>&1 </dev/null || code=$?
	if [ "$code" != 0 ]; then
		tail -n 25 "$log" >&2
		say "'$1' failed with exit code $code; all of its output: $log"
	fi
	return "$code"
}

# artifact NAME KEY WHAT MAKER: print the path of NAME-KEY, calling MAKER TEMPDIR first if it does
# not exist. MAKER leaves the artifact as TEMPDIR/out. WHAT tells the user what is being made.
artifact() {
	local name=$1 key=$2 what=$3 maker=$4
	local final=$CACHE/$name-$key
	if [ ! -e "$final" ]; then
		make_artifact "$name" "$final" "$what" "$maker"
	fi
	printf '%s\n' "$final"
}

drop_unfinished() {
	[ -e "$2" ] || say "$3: not made"
	as_root rm -rf --one-file-system "$1"
}

make_artifact() (
	name=$1 final=$2 what=$3 maker=$4
	mkdir -p "$CACHE/locks" "$CACHE/logs"
	exec 9>"$CACHE/locks/$name"
	if ! flock -n 9; then
		say "waiting for another run that makes $what"
		flock 9
	fi
	if [ -e "$final" ]; then exit 0; fi
	# The lock is ours: whatever an earlier, interrupted run left of this artifact is rubbish.
	for stale in "$CACHE/.making-$name".*; do
		if [ -e "$stale" ]; then as_root rm -rf --one-file-system "$stale"; fi
	done
	temp=$(mktemp -d "$CACHE/.making-$name.XXXXXX")
	chmod 755 "$temp"
	trap 'drop_unfinished "$temp" "$final" "$what"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	trap 'exit 129' HUP
	began=$SECONDS
	say "making $what"
	"$maker" "$temp"
	[ -e "$temp/out" ] || die "$what: the maker left nothing"
	# What was made by root under sudo can only be moved by root.
	if [ -O "$temp/out" ]; then mv -T "$temp/out" "$final"; else as_root mv -T "$temp/out" "$final"; fi
	say "made $what in $((SECONDS - began)) s: $final"
) </dev/null
