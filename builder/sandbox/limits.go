package sandbox

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var rlimits = map[string]int{
	"AS": unix.RLIMIT_AS, "CORE": unix.RLIMIT_CORE, "CPU": unix.RLIMIT_CPU, "DATA": unix.RLIMIT_DATA,
	"FSIZE": unix.RLIMIT_FSIZE, "LOCKS": unix.RLIMIT_LOCKS, "MEMLOCK": unix.RLIMIT_MEMLOCK,
	"MSGQUEUE": unix.RLIMIT_MSGQUEUE, "NICE": unix.RLIMIT_NICE, "NOFILE": unix.RLIMIT_NOFILE,
	"NPROC": unix.RLIMIT_NPROC, "RSS": unix.RLIMIT_RSS, "RTPRIO": unix.RLIMIT_RTPRIO,
	"RTTIME": unix.RLIMIT_RTTIME, "SIGPENDING": unix.RLIMIT_SIGPENDING, "STACK": unix.RLIMIT_STACK,
}

// ociRlimits checks limits against those of this process, which it can only raise
// with CAP_SYS_RESOURCE in the first user namespace.
func (l *Local) ociRlimits(limits []Ulimit) ([]specs.POSIXRlimit, error) {
	var out []specs.POSIXRlimit
	for _, u := range limits {
		name := strings.ToUpper(u.Name)
		resource, ok := rlimits[name]
		if !ok {
			known := strings.ToLower(strings.Join(slices.Sorted(maps.Keys(rlimits)), ", "))
			return nil, fmt.Errorf("unknown ulimit %.40q: there are %s", u.Name, known)
		}
		if u.Soft < -1 || u.Hard < -1 {
			return nil, fmt.Errorf("ulimit %s: negative limit", u.Name)
		}
		soft, hard := uint64(u.Soft), uint64(u.Hard) // -1 is RLIM_INFINITY
		if soft > hard {
			return nil, fmt.Errorf("ulimit %s: soft limit %s is above the hard limit %s", u.Name, limitText(soft), limitText(hard))
		}
		var own unix.Rlimit
		if err := unix.Getrlimit(resource, &own); err != nil {
			return nil, fmt.Errorf("ulimit %s: %w", u.Name, err)
		}
		if hard > own.Max && !l.mayRaiseLimits() {
			return nil, fmt.Errorf("ulimit %s: hard limit %s is above that of the build daemon, %s, and the daemon has no CAP_SYS_RESOURCE: lower the one or raise the other",
				u.Name, limitText(hard), limitText(own.Max))
		}
		out = append(out, specs.POSIXRlimit{Type: "RLIMIT_" + name, Soft: soft, Hard: hard})
	}
	return out, nil
}

func (l *Local) mayRaiseLimits() bool {
	return !l.cfg.Rootless && slices.Contains(l.base.allCaps, "CAP_SYS_RESOURCE")
}

func limitText(v uint64) string {
	if v == math.MaxUint64 {
		return "unlimited"
	}
	return fmt.Sprint(v)
}
