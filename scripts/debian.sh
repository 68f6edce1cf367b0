# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Debian packages of the suite our kernel and toolchain come from, with signatures checked, and
# without touching the machine's own apt configuration. Sourced after cache.sh.
#
# Environment:
#   HV_NETVSC_MIRROR      base address of a Debian mirror (default: the machine's own apt sources)
#   HV_NETVSC_SUITE       suite (default: forky)

SUITE=${HV_NETVSC_SUITE:-forky}
APT=$CACHE/apt-$SUITE
DEBS=$APT/cache/archives
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# mirror_of_machine: the first Debian mirror that the machine's own apt knows; empty if it knows none.
mirror_of_machine() {
	# shellcheck disable=SC2016  # the dollars are apt's
	apt-get indextargets --format '$(CREATED_BY) $(ORIGIN) $(LABEL) $(REPO_URI)' 2>/dev/null |
		awk '$1 == "Packages" && $2 == "Debian" && $3 == "Debian" { print $4; exit }' || true
}

# update_machine: the machine's own 'apt-get update'; a fresh machine may never have had one.
update_machine() {
	mkdir -p "$CACHE/logs"
	say "reading the machine's own package index"
	as_root apt-get -q update >"$CACHE/logs/apt-update-machine" 2>&1 </dev/null ||
		say "'apt-get update' failed: see $CACHE/logs/apt-update-machine"
}

# debian_mirror: the base address to fetch from.
debian_mirror() {
	local mirror=${HV_NETVSC_MIRROR:-}
	[ -n "$mirror" ] || mirror=$(mirror_of_machine)
	if [ -z "$mirror" ]; then
		update_machine
		mirror=$(mirror_of_machine)
	fi
	[ -n "$mirror" ] || die "no Debian mirror in the machine's apt sources: set HV_NETVSC_MIRROR"
	printf '%s\n' "$mirror"
}

# base_suite: the suite that $SUITE only adds to, or $SUITE itself.
base_suite() {
	case $SUITE in
	experimental) printf 'sid\n' ;;
	*-backports) printf '%s\n' "${SUITE%-backports}" ;;
	*) printf '%s\n' "$SUITE" ;;
	esac
}

# debian_sources: the lines of a sources.list for the suite and its base.
debian_sources() {
	local mirror base suite
	mirror=$(debian_mirror)
	base=$(base_suite)
	for suite in "$base" "$SUITE"; do
		printf 'deb [signed-by=%s] %s %s main\n' "$KEYRING" "$mirror" "$suite"
	done | sort -u
}

# apt_here COMMAND ARGS...: an apt tool that sees only the suite, and keeps its state in the cache.
apt_here() {
	APT_CONFIG=$APT/apt.conf "$@"
}

# apt_update: make or refresh the private apt state. An expired index is accepted (mirrors may lag),
# an unsigned one is not.
apt_update() {
	command -v apt-get >/dev/null || die "no apt-get: these scripts need Debian 12 or newer, or a derivative"
	[ -r "$KEYRING" ] || die "$KEYRING is missing: apt-get install debian-archive-keyring"
	mkdir -p "$APT/lists/partial" "$DEBS/partial" "$CACHE/logs"
	debian_sources >"$APT/sources.list"
	cat >"$APT/apt.conf" <<-CONF
		Dir::Etc::SourceList "$APT/sources.list";
		Dir::Etc::SourceParts "-";
		Dir::State::Lists "$APT/lists";
		Dir::State::Status "/dev/null";
		Dir::State::extended_states "$APT/extended_states";
		Dir::Cache "$APT/cache";
		APT::Architecture "amd64";
		APT::Architectures "amd64";
		APT::Install-Recommends "false";
		APT::Sandbox::User "$(id -un)";
		Acquire::Check-Valid-Until "false";
		Acquire::Languages "none";
		Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
		Acquire::Retries "5";
		Debug::NoLocking "true";
	CONF
	say "reading the package index of $SUITE"
	run_logged "$CACHE/logs/apt-update" apt_here apt-get -q update ||
		die "cannot read the package index of $SUITE from $(debian_mirror) (network? HV_NETVSC_MIRROR?)"
}

# with_apt_lock CMD...: one apt at a time; the private state has no lock of its own.
with_apt_lock() {
	mkdir -p "$CACHE/locks"
	(
		exec 8>"$CACHE/locks/apt-$SUITE"
		flock 8
		[ -e "$APT/apt.conf" ] || apt_update
		"$@"
	)
}

# fetch_debs PACKAGE[=VERSION]...: the packages with all they depend on, into $DEBS. A download that
# was interrupted goes on where it stopped.
fetch_debs() {
	say "fetching packages of $SUITE"
	with_apt_lock run_logged "$CACHE/logs/apt-fetch" \
		apt_here apt-get -q -y --download-only --allow-downgrades install "$@" ||
		die "cannot fetch packages of $SUITE: if the mirror has moved on, '$SCRIPTS/kernel-release --refresh'"
}

# deb_file PACKAGE VERSION: the path of a package that fetch_debs fetched.
deb_file() {
	local record file
	record=$(with_apt_lock apt_here apt-cache show "$1=$2") ||
		die "$1 $2 is not in $SUITE any more: '$SCRIPTS/kernel-release --refresh' picks a newer kernel"
	# In the archive's cache an epoch's colon is written %3a.
	file=$DEBS/$1_${2//:/%3a}_$(awk '$1 == "Architecture:" { print $2; exit }' <<<"$record").deb
	[ -f "$file" ] || die "$file was not fetched"
	printf '%s\n' "$file"
}
