package cache

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// TestNothingIsRemovedUnseen: where a policy removes something, neither its bound
// nor the records without their sizes say that it doesn't.
func TestNothingIsRemovedUnseen(t *testing.T) {
	now := time.Unix(1e9, 0)
	kinds := []string{Regular, Internal, Frontend, Local, CacheMount}
	filters := [][]string{nil, {"type==regular"}, {"shared"}, {"private"}, {"type==source.local", "private,type==exec.cachemount"}}
	bytes := func() int64 { return rand.Int64N(40) * rand.Int64N(2) }
	removed, held, without := 0, 0, 0
	for range 20_000 {
		var all, entries []Usage
		var total int64
		for i := range rand.IntN(5) {
			last := now.Add(-time.Duration(rand.IntN(100)))
			u := Usage{
				ID: fmt.Sprint(i), Size: rand.Int64N(20), Shared: rand.IntN(3) == 0, InUse: rand.IntN(3) == 0,
				Type: kinds[rand.IntN(len(kinds))], LastUsed: &last,
			}
			if i > 0 && rand.IntN(2) == 0 {
				u.Parents = []string{fmt.Sprint(i - 1)}
			}
			all = append(all, u)
			total += u.Size
			u.Size, u.Shared = 0, false
			entries = append(entries, u)
		}
		p := Policy{
			Filters: filters[rand.IntN(len(filters))], All: rand.IntN(2) == 0, KeepDuration: time.Duration(rand.IntN(100)),
			ReservedSpace: bytes(), MaxUsedSpace: bytes(), MinFreeSpace: bytes(),
		}
		disk := Disk{Free: rand.Int64N(40)}
		chosen, err := Select(all, p, disk, now)
		if err != nil {
			t.Fatal(err)
		}
		some, err := Candidates(entries, p, now)
		if err != nil {
			t.Fatal(err)
		}
		holds := p.Holds(total+rand.Int64N(10), disk)
		if len(chosen) > 0 && (holds || !some) {
			t.Fatalf("%+v removes %+v of %+v: holds %v, candidates %v", p, chosen, all, holds, some)
		}
		if len(chosen) > 0 {
			removed++
		}
		if holds {
			held++
		}
		if !some {
			without++
		}
	}
	if removed < 1000 || held < 1000 || without < 1000 {
		t.Errorf("too few: %d remove something, %d hold, %d have no candidates", removed, held, without)
	}
}
