#!/bin/sh
# The guest's first process: mounts what a distribution's would, runs the script on
# the second disk and says how that ended. With kiln.systemd on the kernel's command
# line it leaves the latter to systemd, which runs this as a service.
export PATH=/kiln/bin:/kiln/bin/tools:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
if [ $$ = 1 ]; then
	mount -t proc proc /proc
	mount -t sysfs sysfs /sys
	mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
	mount -t securityfs securityfs /sys/kernel/security
	mkdir /dev/pts /dev/shm /dev/mqueue
	mount -t devpts -o mode=0620,ptmxmode=0666 devpts /dev/pts
	mount -t mqueue mqueue /dev/mqueue
	mount -t tmpfs -o mode=1777 tmpfs /dev/shm
	mount -t tmpfs -o mode=0755 tmpfs /run
	ln -s /proc/self/fd /dev/fd
	ln -s /proc/self/fd/0 /dev/stdin
	ln -s /proc/self/fd/1 /dev/stdout
	ln -s /proc/self/fd/2 /dev/stderr
	mkdir /run/lock /run/netns
	hostname kiln-vm
	ip link set lo up
	modprobe -a loop fuse overlay
	mount /dev/vdb /kiln
	grep -q kiln.systemd /proc/cmdline && exec /lib/systemd/systemd --unit=kiln.service
fi
VERDICT=/dev/$(basename "$(dirname "$(grep -lx verdict /sys/class/virtio-ports/*/name)")")
export VERDICT
echo up > "$VERDICT"
setsid sh -c 'cd /kiln && exec ./run' < /dev/null > /dev/hvc0 2>&1
code=$?
dmesg > /dev/ttyS0
echo "exit $code" > "$VERDICT"
sync
busybox poweroff -f
