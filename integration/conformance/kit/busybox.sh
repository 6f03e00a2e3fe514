#!/bin/sh
# busybox.sh WORK OUT: builds a static busybox with its default configuration
# from the source package of this Debian release, in the folder WORK. (The
# packaged one lacks applets' options that tests use, nc -s for one.)
set -eu
work=$1 out=$2
. /etc/os-release
rm -rf "$work"
mkdir -p "$work/lists/partial" "$work/src"

# From the mirror that apt uses for the release; lists of our own, so that the
# machine's stay as they are.
mirror=$(apt-get indextargets --format '$(SITE) $(RELEASE) $(CREATED_BY)' |
	awk -v release="$VERSION_CODENAME" '$2 == release && $3 == "Packages" { print $1; exit }')
[ -n "$mirror" ] || { echo "busybox.sh: apt has no source for $VERSION_CODENAME" >&2; exit 1; }
echo "deb-src $mirror $VERSION_CODENAME main" >"$work/sources.list"
apt() {
	apt-get -qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::State::Lists="$work/lists" -o Dir::Cache::srcpkgcache= -o Dir::Cache::pkgcache= \
		-o APT::Sandbox::User=root "$@"
}
cd "$work"
apt update
apt source --download-only busybox

cd src
tar --strip-components=1 -xjf ../busybox_*.orig.tar.bz2
tar -xJf ../busybox_*.debian.tar.xz
sed -n 's/^\([^# ][^ ]*\).*/\1/p' debian/patches/series | while read -r name; do
	patch -p1 -s <"debian/patches/$name"
done
make -s defconfig
# tc does not compile against present kernel headers
sed -i 's/^# CONFIG_STATIC is not set/CONFIG_STATIC=y/; s/^CONFIG_TC=y/# CONFIG_TC is not set/' .config
make -s -j2 busybox
cp busybox "$out"
