package sandbox

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// maxHostname is the kernel's limit for a host name, in bytes.
const maxHostname = 64

var validID = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,127}$`)

// checked returns s with its defaults filled in and its paths cleaned, or says
// what is wrong with it.
func (s Spec) checked() (Spec, error) {
	if !validID.MatchString(s.ID) {
		return s, fmt.Errorf("invalid id %q: want up to 128 of a-z, 0-9 and '-'", s.ID)
	}
	if !filepath.IsAbs(s.Root) {
		return s, fmt.Errorf("root %q is not an absolute path", s.Root)
	}
	if !s.Network.valid() {
		return s, fmt.Errorf("unknown network mode %v", s.Network)
	}
	if !s.Security.valid() {
		return s, fmt.Errorf("unknown security mode %v", s.Security)
	}
	if s.Hostname == "" {
		s.Hostname = DefaultHostname
	}
	if len(s.Hostname) > maxHostname || !word(s.Hostname) {
		return s, fmt.Errorf("invalid hostname %.80q: want up to %d characters without spaces", s.Hostname, maxHostname)
	}
	if err := checkCommand(s.Args, s.Env); err != nil {
		return s, err
	}
	var err error
	if s.Cwd, err = checkedCwd(s.Cwd); err != nil {
		return s, err
	}
	if s.Mounts, err = checkedMounts(s.Mounts); err != nil {
		return s, err
	}
	if err := checkCgroupParent(s.CgroupParent); err != nil {
		return s, err
	}
	return s, errors.Join(s.Resources.Check(), checkHosts(s.ExtraHosts))
}

func checkCommand(args, env []string) error {
	if len(args) == 0 || args[0] == "" {
		return errors.New("no command to run")
	}
	for _, list := range [][]string{args, env} {
		for _, s := range list {
			if strings.ContainsRune(s, 0) {
				return fmt.Errorf("argument or variable %.80q has a NUL byte", s)
			}
		}
	}
	return nil
}

func checkedCwd(cwd string) (string, error) {
	if cwd == "" {
		return "/", nil
	}
	if !path.IsAbs(cwd) || strings.ContainsRune(cwd, 0) {
		return "", fmt.Errorf("working directory %q is not an absolute path", cwd)
	}
	return path.Clean(cwd), nil
}

// checkedMounts cleans the targets and lets the last mount of a target take the
// place of the first.
func checkedMounts(mounts []Mount) ([]Mount, error) {
	var out []Mount
	place := map[string]int{}
	for _, m := range mounts {
		if !path.IsAbs(m.Target) || strings.ContainsRune(m.Target, 0) {
			return nil, fmt.Errorf("mount target %q is not an absolute path", m.Target)
		}
		m.Target = path.Clean(m.Target)
		if m.Target == "/" {
			return nil, errors.New("mount target is /: the root is given by Root")
		}
		if i, ok := place[m.Target]; ok {
			out[i] = m
			continue
		}
		place[m.Target] = len(out)
		out = append(out, m)
	}
	return out, nil
}

// checkCgroupParent refuses a parent that leads out of the cgroup tree.
func checkCgroupParent(parent string) error {
	for part := range strings.SplitSeq(parent, "/") {
		if part == ".." || strings.ContainsAny(part, "\x00\n") {
			return fmt.Errorf("invalid cgroup parent %q", parent)
		}
	}
	if !strings.Contains(parent, ".slice") || !strings.HasSuffix(parent, ":") {
		return nil
	}
	sc, ok := parseScope(parent)
	if !ok || sc.name != "" {
		return fmt.Errorf("invalid cgroup parent %q: it is not of the form SLICE:PREFIX: that systemd's have", parent)
	}
	if _, err := sc.dir(); err != nil {
		return fmt.Errorf("invalid cgroup parent %q: %w", parent, err)
	}
	return nil
}

func checkHosts(hosts []Host) error {
	for _, h := range hosts {
		if !word(h.Name) {
			return fmt.Errorf("invalid name of extra host %q", h.Name)
		}
		if _, err := netip.ParseAddr(h.IP); err != nil {
			return fmt.Errorf("address of extra host %q: %w", h.Name, err)
		}
	}
	return nil
}

// word tells whether s can stand in a line of /etc/hosts as one field.
func word(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' })
}
