package sandbox

import (
	"fmt"
	"path"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/systemd"
)

// scope is a cgroup that systemd makes and removes, a unit PREFIX-NAME.scope in a slice.
// OCI runtimes have the notation SLICE:PREFIX:NAME for it. A cgroup parent is one without
// a name.
type scope struct{ slice, prefix, name string }

// parseScope tells whether a cgroup, or the parent of one, is in that notation, which
// begins with the name of a slice.
func parseScope(cgroup string) (s scope, ok bool) {
	f := strings.Split(cgroup, ":")
	if len(f) != 3 || !strings.HasSuffix(f[0], ".slice") {
		return s, false
	}
	return scope{slice: f[0], prefix: f[1], name: f[2]}, true
}

// dir is where systemd puts it, below the root of each hierarchy.
func (s scope) dir() (string, error) {
	slice, err := systemd.ExpandSlice(s.slice)
	if err != nil {
		return "", err
	}
	if strings.Contains(s.prefix, "/") {
		return "", fmt.Errorf("invalid name of a scope: %q", s.prefix)
	}
	return path.Join(slice, s.prefix+"-"+s.name+".scope"), nil
}

// cgroup is the scope as the library takes it.
func (s scope) cgroup() *cgroups.Cgroup {
	return &cgroups.Cgroup{Systemd: true, Parent: s.slice, ScopePrefix: s.prefix, Name: s.name}
}

// cgroupPath is the cgroup of a run: PARENT/kiln/ID, or a scope for a parent in systemd's
// notation. Where systemd doesn't run, it is the directory that would be the scope's.
func (l *Local) cgroupPath(s Spec) string {
	parent := l.cfg.CgroupParent
	if s.CgroupParent != "" {
		parent = s.CgroupParent
	}
	sc, ok := parseScope(parent)
	if !ok {
		return path.Join("/", parent, "kiln", s.ID)
	}
	if systemd.IsRunningSystemd() {
		return parent + s.ID
	}
	sc.name = s.ID
	dir, _ := sc.dir() //nolint:errcheck // checkCgroupParent has called it
	return dir
}

// cgroupDir is where a cgroup of cgroupPath's lies, below the root of each hierarchy.
func cgroupDir(cgroup string) string {
	if sc, ok := parseScope(cgroup); ok {
		dir, _ := sc.dir() //nolint:errcheck // see above
		return dir
	}
	return cgroup
}

// ofRun tells whether a cgroup is that of a run.
func ofRun(cgroup, id string) bool {
	base := path.Base(cgroupDir(cgroup))
	return base == id || strings.HasSuffix(base, "-"+id+".scope")
}
