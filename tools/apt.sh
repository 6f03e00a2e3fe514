#!/bin/sh
# tools/apt.sh PACKAGE...: installs those of the named Debian packages that are
# missing. Does nothing, and needs neither root nor network, when all are there.
set -eu
missing=
for package in "$@"; do
	dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' ||
		missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "tools/apt.sh: not root; run: apt-get install$missing" >&2
	exit 1
fi
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get -o DPkg::Lock::Timeout=300 update -qq || echo "tools/apt.sh: apt-get update failed, trying the lists at hand" >&2
# shellcheck disable=SC2086 # one argument per package
apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends $missing
