#!/bin/sh
# Installs the Debian packages of the testbed, the compiler of crun's tests, and the browser
# that opens the bench report in a test, when root; otherwise says which.
set -eu
packages="qemu-system-x86 acpica-tools busybox-static mmdebstrap e2fsprogs kmod xz-utils gcc libc6-dev chromium"

missing=
for p in $packages; do
	dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
# The testbed downloads its kernel by apt-get, which needs package lists.
if [ -n "$missing" ] || ! apt-cache show linux-image-amd64 >/dev/null 2>&1; then
	if [ "$(id -u)" != 0 ]; then
		echo "testbed: as root, run: apt-get update && apt-get install$missing" >&2
		exit 1
	fi
	apt-get update -qq
fi
if [ -n "$missing" ]; then
	echo "testbed: installing$missing"
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
echo "testbed: has $packages"
