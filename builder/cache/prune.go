package cache

import (
	"cmp"
	"container/heap"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/errdefs"
)

// Filter returns the function that tells whether a record matches one of the
// expressions, in containerd's filter syntax; without any, all match. The
// fields are id, parents, description, inuse, mutable, immutable, type, shared
// and private.
func Filter(expressions []string) (func(Usage) bool, error) {
	f, err := filters.ParseAll(expressions...)
	if err != nil {
		return nil, fmt.Errorf("filter %q: %w: %w", expressions, err, errdefs.ErrInvalidArgument)
	}
	return func(u Usage) bool { return f.Match(adapt(u)) }, nil
}

func adapt(u Usage) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		if len(path) != 1 {
			return "", false
		}
		switch path[0] {
		case "id":
			return u.ID, u.ID != ""
		case "parents":
			return strings.Join(u.Parents, ";"), len(u.Parents) > 0
		case "description":
			return u.Description, u.Description != ""
		case "inuse":
			return "", u.InUse
		case "mutable":
			return "", u.Mutable
		case "immutable":
			return "", !u.Mutable
		case "type":
			return u.Type, u.Type != ""
		case "shared":
			return "", u.Shared
		case "private":
			return "", !u.Shared
		}
		return "", false
	})
}

// Disk is the filesystem that the records are on, in bytes.
type Disk struct{ Total, Free int64 }

// Select returns which of all records the policy removes, in that order.
// A record goes only after all that stand on it. Records in use stay.
func Select(all []Usage, p Policy, disk Disk, now time.Time) ([]Usage, error) {
	match, err := Filter(p.Filters)
	if err != nil {
		return nil, err
	}
	var total int64
	children := map[string]int{}
	for _, u := range all {
		if !u.Shared {
			total += u.Size
		}
		for _, parent := range u.Parents {
			children[parent]++
		}
	}
	keep := p.keep(total, disk)
	candidates := slices.DeleteFunc(slices.Clone(all), func(u Usage) bool { return !p.removable(u, now) || !match(u) })
	byUsefulness(candidates, now)
	rank := make(map[string]int, len(candidates))
	var free ranks // of the candidates that nothing stands on
	for i, u := range candidates {
		rank[u.ID] = i
		if children[u.ID] == 0 {
			heap.Push(&free, i)
		}
	}
	var out []Usage
	for len(free) > 0 && exceeds(total, keep) {
		u := candidates[heap.Pop(&free).(int)]
		out = append(out, u)
		if !u.Shared {
			total -= u.Size
		}
		for _, parent := range u.Parents {
			children[parent]--
			if i, ok := rank[parent]; ok && children[parent] == 0 {
				heap.Push(&free, i)
			}
		}
	}
	return out, nil
}

// Holds says whether the policy removes nothing, whatever the records are, as long
// as they don't take more than so many bytes together.
func (p Policy) Holds(atMost int64, disk Disk) bool { return !exceeds(atMost, p.keep(atMost, disk)) }

// Candidates says whether the policy may remove any of the records, if there is
// no room for them. Of these, sizes and what is shared need not be known.
func Candidates(all []Usage, p Policy, now time.Time) (bool, error) {
	match, err := Filter(p.Filters)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(all, func(u Usage) bool {
		u.Shared = false
		if !p.removable(u, now) {
			return false
		}
		private := match(u)
		u.Shared = true
		return private || match(u) && p.removable(u, now)
	}), nil
}

// ranks is a heap, the lowest first.
type ranks []int

func (r ranks) Len() int           { return len(r) }
func (r ranks) Less(i, j int) bool { return r[i] < r[j] }
func (r ranks) Swap(i, j int)      { r[i], r[j] = r[j], r[i] }
func (r *ranks) Push(x any)        { *r = append(*r, x.(int)) }
func (r *ranks) Pop() any {
	last := len(*r) - 1
	x := (*r)[last]
	*r = (*r)[:last]
	return x
}

// keep is how many bytes may stay; -1 means that nothing has to.
func (p Policy) keep(total int64, disk Disk) int64 {
	if p.ReservedSpace == 0 && p.MaxUsedSpace == 0 && p.MinFreeSpace == 0 {
		return -1
	}
	keep := total
	if p.MaxUsedSpace > 0 {
		keep = min(keep, p.MaxUsedSpace)
	} else if p.MinFreeSpace == 0 {
		keep = 0
	}
	if missing := p.MinFreeSpace - disk.Free; p.MinFreeSpace > 0 && missing > 0 {
		keep = min(keep, max(0, total-missing))
	}
	return max(keep, p.ReservedSpace)
}

func exceeds(total, keep int64) bool { return keep < 0 || total > keep }

func (p Policy) removable(u Usage, now time.Time) bool {
	if u.InUse {
		return false
	}
	if !p.All && (u.Shared || u.Type == Internal || u.Type == Frontend) {
		return false
	}
	return p.KeepDuration <= 0 || now.Sub(lastUse(u)) >= p.KeepDuration
}

func lastUse(u Usage) time.Time {
	if u.LastUsed != nil {
		return *u.LastUsed
	}
	return u.Created
}

// byUsefulness sorts what was of the least use first: what was last used long
// ago, and seldom; both count the same.
func byUsefulness(all []Usage, now time.Time) {
	var oldest time.Duration
	most := 1
	for _, u := range all {
		oldest = max(oldest, now.Sub(lastUse(u)))
		most = max(most, u.UsageCount)
	}
	score := func(u Usage) float64 {
		age := float64(now.Sub(lastUse(u))) / float64(max(oldest, 1))
		return float64(u.UsageCount)/float64(most) - age
	}
	slices.SortStableFunc(all, func(a, b Usage) int { return cmp.Compare(score(a), score(b)) })
}

// ParseSize reads a size in bytes, with an optional binary unit, or a
// percentage of the disk.
func ParseSize(s string, disk Disk) (int64, error) {
	bad := fmt.Errorf("size %q: want bytes, a number with a unit such as 512MB, or a percentage: %w", s, errdefs.ErrInvalidArgument)
	s = strings.TrimSpace(s)
	if p, ok := strings.CutSuffix(s, "%"); ok {
		n, err := strconv.ParseFloat(p, 64)
		if err != nil || n < 0 || n > 100 {
			return 0, bad
		}
		return int64(n / 100 * float64(disk.Total)), nil
	}
	upper := strings.TrimSuffix(strings.ToUpper(s), "B")
	upper = strings.TrimSuffix(upper, "I")
	shift := 0
	if upper != "" {
		if i := strings.IndexByte("KMGTP", upper[len(upper)-1]); i >= 0 {
			shift, upper = 10*(i+1), upper[:len(upper)-1]
		}
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(upper), 64)
	if err != nil || n < 0 || n*float64(int64(1)<<shift) > 1<<62 {
		return 0, bad
	}
	return int64(n * float64(int64(1)<<shift)), nil
}
