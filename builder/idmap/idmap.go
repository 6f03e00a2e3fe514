// Package idmap is about processes whose users are others on the host: root in a user
// namespace is an ordinary user with a high number.
//
// What they read and write lies on disk with the numbers that they see. So nothing
// that is made of a tree (a digest, a layer, an image) depends on whether its writer
// was remapped, and trees needn't be copied. A mount shows them their files: the kernel
// maps the owners of a bind mount, and of the layers of an overlay ([Map.Bind]).
package idmap

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/user"
)

// minIDs is how many ids, from 0 on, have to be mapped: images have users up to
// 65534 (nobody).
const minIDs = 1 << 16

// Map says which users and groups of the host those of user namespaces are. It is safe
// for concurrent use. A nil Map is of processes that aren't remapped.
type Map struct {
	uids, gids []syscall.SysProcIDMap
	namespace  *os.File // a user namespace with the map, in which no process is
}

// Open makes the map that spec names: of all subordinate ids of a user, "NAME" or
// "NAME:GROUP" (the group means nothing; buildkitd takes it), which is looked up in
// /etc/passwd, /etc/subuid and /etc/subgid; or of ranges, "INSIDE:HOST:SIZE,…", of
// users as well as groups. Close it when no process is left.
func Open(spec string) (*Map, error) {
	m, err := parse(spec)
	if err != nil {
		return nil, err
	}
	for what, ids := range map[string][]syscall.SysProcIDMap{"users": m.uids, "groups": m.gids} {
		if err := check(ids); err != nil {
			return nil, fmt.Errorf("remap %s to %q: %w", what, spec, err)
		}
	}
	if m.namespace, err = mount.GetUsernsFD(format(m.uids), format(m.gids)); err != nil {
		return nil, fmt.Errorf("remap users to %q: make a user namespace: %w", spec, err)
	}
	return m, nil
}

func parse(spec string) (*Map, error) {
	switch strings.Count(spec, ":") {
	case 0, 1:
		name, _, _ := strings.Cut(spec, ":")
		ids, err := user.LoadIdentityMapping(name)
		if err != nil {
			return nil, fmt.Errorf("remap users to those of %q: %w; add a line such as %s:100000:65536 to /etc/subuid and /etc/subgid", name, err, name)
		}
		return &Map{uids: fromLibrary(ids.UIDMaps), gids: fromLibrary(ids.GIDMaps)}, nil
	}
	var ids []syscall.SysProcIDMap
	for part := range strings.SplitSeq(spec, ",") {
		var numbers [3]int
		fields := strings.Split(part, ":")
		if len(fields) != len(numbers) {
			return nil, fmt.Errorf("remap users to %q: %q is not INSIDE:HOST:SIZE, such as 0:100000:65536", spec, part)
		}
		for i, f := range fields {
			n, err := strconv.ParseUint(f, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("remap users to %q: %q is not INSIDE:HOST:SIZE, such as 0:100000:65536: %w", spec, part, err)
			}
			numbers[i] = int(n)
		}
		ids = append(ids, syscall.SysProcIDMap{ContainerID: numbers[0], HostID: numbers[1], Size: numbers[2]})
	}
	return &Map{uids: ids, gids: ids}, nil
}

func fromLibrary(ids []user.IDMap) []syscall.SysProcIDMap {
	var out []syscall.SysProcIDMap
	for _, r := range ids {
		out = append(out, syscall.SysProcIDMap{ContainerID: int(r.ID), HostID: int(r.ParentID), Size: int(r.Count)})
	}
	return out
}

// check refuses ranges with a hole that usual images would fall into, and ones with
// the host's root.
func check(ids []syscall.SysProcIDMap) error {
	sorted := slices.SortedFunc(slices.Values(ids), func(a, b syscall.SysProcIDMap) int { return a.ContainerID - b.ContainerID })
	next := 0
	for _, r := range sorted {
		if r.HostID == 0 {
			return errors.New("the host's id 0 is among them; give subordinate ids, such as 100000 and up")
		}
		if r.HostID+r.Size > math.MaxUint32 || r.ContainerID+r.Size > math.MaxUint32 {
			return fmt.Errorf("%d:%d:%d goes beyond the highest id", r.ContainerID, r.HostID, r.Size)
		}
		if r.ContainerID != next && next < minIDs {
			break
		}
		next = r.ContainerID + r.Size
	}
	if next < minIDs {
		return fmt.Errorf("only %d ids, from 0 on, are mapped, and images need %d; give a larger range, such as 100000:%d in /etc/subuid and /etc/subgid", next, minIDs, minIDs)
	}
	return nil
}

func format(ids []syscall.SysProcIDMap) string {
	var parts []string
	for _, r := range ids {
		parts = append(parts, fmt.Sprintf("%d:%d:%d", r.ContainerID, r.HostID, r.Size))
	}
	return strings.Join(parts, ",")
}

// Close forgets the map. Mounts that were made with it stay as they are.
func (m *Map) Close() error {
	if m == nil {
		return nil
	}
	return m.namespace.Close()
}

// UIDs are the ranges of users, as new namespaces take them.
func (m *Map) UIDs() []syscall.SysProcIDMap { return m.uids }

// GIDs are the ranges of groups.
func (m *Map) GIDs() []syscall.SysProcIDMap { return m.gids }

// Host gives the host's ids for a user and a group of the namespace. It fails if one
// of them isn't mapped: no process can have it.
func (m *Map) Host(uid, gid int) (hostUID, hostGID int, err error) {
	if m == nil {
		return uid, gid, nil
	}
	var ok bool
	if hostUID, ok = host(m.uids, uid); !ok {
		return 0, 0, fmt.Errorf("user %d has no number on the host: it is outside of the range that users are remapped to", uid)
	}
	if hostGID, ok = host(m.gids, gid); !ok {
		return 0, 0, fmt.Errorf("group %d has no number on the host: it is outside of the range that groups are remapped to", gid)
	}
	return hostUID, hostGID, nil
}

func host(ids []syscall.SysProcIDMap, id int) (int, bool) {
	for _, r := range ids {
		if id >= r.ContainerID && id-r.ContainerID < r.Size {
			return r.HostID + id - r.ContainerID, true
		}
	}
	return 0, false
}

// overflow is the id that the kernel shows in the place of one that isn't mapped.
const overflow = 65534

// Inside gives the ids in the namespace for those of the host.
func (m *Map) Inside(uid, gid int) (insideUID, insideGID int) {
	if m == nil {
		return uid, gid
	}
	return inside(m.uids, uid), inside(m.gids, gid)
}

func inside(ids []syscall.SysProcIDMap, id int) int {
	for _, r := range ids {
		if id >= r.HostID && id-r.HostID < r.Size {
			return r.ContainerID + id - r.HostID
		}
	}
	return overflow
}
