package sandbox

import (
	"fmt"
	"path/filepath"

	"github.com/kiln-build/kiln/builder/sandbox/inside"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountOptions are those that are not the filesystem's, with what they set or clear
// of a mount's attributes.
var mountOptions = map[string]struct{ set, clear uint64 }{
	"defaults": {}, "loud": {}, "async": {},
	"ro": {set: unix.MOUNT_ATTR_RDONLY}, "rw": {clear: unix.MOUNT_ATTR_RDONLY},
	"nosuid": {set: unix.MOUNT_ATTR_NOSUID}, "suid": {clear: unix.MOUNT_ATTR_NOSUID},
	"nodev": {set: unix.MOUNT_ATTR_NODEV}, "dev": {clear: unix.MOUNT_ATTR_NODEV},
	"noexec": {set: unix.MOUNT_ATTR_NOEXEC}, "exec": {clear: unix.MOUNT_ATTR_NOEXEC},
	"nosymfollow": {set: unix.MOUNT_ATTR_NOSYMFOLLOW}, "symfollow": {clear: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"nodiratime": {set: unix.MOUNT_ATTR_NODIRATIME}, "diratime": {clear: unix.MOUNT_ATTR_NODIRATIME},
	"noatime": {set: unix.MOUNT_ATTR_NOATIME}, "strictatime": {set: unix.MOUNT_ATTR_STRICTATIME},
	"atime": {}, "relatime": {}, "norelatime": {}, "nostrictatime": {}, // what is usual
}

// propagations are options that say what mounts tell each other.
var propagations = map[string]uint64{
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC,
	"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
	"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC,
	"unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// forRuntimes are options that only runtimes know, or that have no place in a bind
// mount's attributes.
var forRuntimes = map[string]bool{
	"remount": true, "tmpcopyup": true, "idmap": true, "ridmap": true, "rro": true, "rrw": true, "rnosuid": true,
	"rsuid": true, "rnodev": true, "rdev": true, "rnoexec": true, "rexec": true, "rnodiratime": true, "rdiratime": true,
	"rrelatime": true, "rnorelatime": true, "rnoatime": true, "ratime": true, "rstrictatime": true,
	"rnostrictatime": true, "rnosymfollow": true, "rsymfollow": true,
}

// orderMount reads a mount as runtimes do: options that mount(8) knows are its own,
// the rest the filesystem's.
func orderMount(m specs.Mount) (inside.Mount, error) {
	out := inside.Mount{Target: filepath.Clean("/" + m.Destination), Type: m.Type, Source: m.Source}
	if len(m.UIDMappings) > 0 || len(m.GIDMappings) > 0 {
		return out, fmt.Errorf("ids of mount %s: %w", m.Destination, errUnsupported)
	}
	for _, o := range m.Options {
		attrs, known := mountOptions[o]
		propagation := propagations[o]
		switch {
		case forRuntimes[o]:
			return out, fmt.Errorf("option %s of mount %s: %w", o, m.Destination, errUnsupported)
		case o == "bind":
			out.Type = "bind"
		case o == "rbind":
			out.Type, out.Recursive = "bind", true
		case known:
			out.Set = out.Set&^attrs.clear | attrs.set
			out.Clear = out.Clear&^attrs.set | attrs.clear
		case propagation != 0:
			out.Propagation = propagation
		default:
			out.Data = append(out.Data, o)
		}
	}
	if out.Type == "bind" && len(out.Data) > 0 {
		return out, fmt.Errorf("option %s of mount %s: %w", out.Data[0], m.Destination, errUnsupported)
	}
	return out, nil
}
