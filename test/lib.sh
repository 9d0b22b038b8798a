# Shared by the scripts of this folder: what a run needs of the machine.
# shellcheck shell=bash

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

# need_packages PROGRAM=PACKAGE...: installs the packages whose program is missing.
need_packages() {
	local missing=() pair
	for pair in "$@"; do
		command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
	done
	[ ${#missing[@]} -eq 0 ] && return
	if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
		echo "missing: ${missing[*]}. Install them (Debian's names), or run this as root where apt-get works." >&2
		return 1
	fi
	echo "installing ${missing[*]} with apt-get" >&2
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# need_stock: Debian's engine in $LIGHTER_STOCK. It is unpacked, not installed: no
# service is started and no program of that name is put on the machine's PATH.
need_stock() {
	local dir=${XDG_CACHE_HOME:-$HOME/.cache}/lighter-test/stock
	export LIGHTER_STOCK=$dir/bin
	[ -x "$dir/bin/dockerd" ] && return
	if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
		echo "missing: $dir/bin with the programs of Debian's docker.io, containerd, runc and tini" >&2
		return 1
	fi
	apt-get update -qq
	mkdir -p "$dir/deb" "$dir/bin"
	(cd "$dir/deb" && apt-get download -qq docker.io containerd runc tini)
	local deb
	for deb in "$dir"/deb/*.deb; do dpkg -x "$deb" "$dir/root"; done
	cp -rL "$dir"/root/usr/sbin/. "$dir"/root/usr/bin/. "$dir/bin/"
}
