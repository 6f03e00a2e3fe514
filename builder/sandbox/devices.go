package sandbox

import (
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// spareLoops is how many loop devices an Insecure process has beyond the first free one.
const spareLoops = 7

const loopMajor = 7

// loopDevices are the loop devices up to some beyond the first free one.
func loopDevices() []specs.LinuxDevice {
	var devices []specs.LinuxDevice
	for i := range freeLoop() + spareLoops + 1 {
		devices = append(devices, specs.LinuxDevice{
			Path: fmt.Sprintf("/dev/loop%d", i), Type: "b", Major: loopMajor, Minor: int64(i),
		})
	}
	return devices
}

// freeLoop is the number of a free loop device, 0 if the host has none.
func freeLoop() int {
	f, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return 0
	}
	defer f.Close()
	n, err := unix.IoctlRetInt(int(f.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return 0
	}
	return n
}

// mountFlags are the flags of a mount that the kernel locks for user namespaces,
// by their mount(8) names.
var mountFlags = []struct {
	flag int64
	name string
}{
	{unix.ST_RDONLY, "ro"},
	{unix.ST_NOSUID, "nosuid"},
	{unix.ST_NODEV, "nodev"},
	{unix.ST_NOEXEC, "noexec"},
	{unix.ST_NOATIME, "noatime"},
	{unix.ST_NODIRATIME, "nodiratime"},
	{unix.ST_RELATIME, "relatime"},
}

// lockedFlags are those of the mount that source lies on.
func lockedFlags(source string) []string {
	var st unix.Statfs_t
	if err := unix.Statfs(source, &st); err != nil {
		return nil // the engine says what is wrong with source
	}
	var names []string
	for _, f := range mountFlags {
		if st.Flags&f.flag != 0 {
			names = append(names, f.name)
		}
	}
	return names
}
