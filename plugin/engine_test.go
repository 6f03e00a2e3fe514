package plugin

import (
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder"
	"github.com/kiln-build/kiln/plugin/config"
)

func TestDefaultPolicies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		disk                int64
		reserved, max, free int64
		ceiling             builder.Ceiling
	}{
		{50e9, 5e9, 40e9, 10e9, builder.Ceiling{MaxUsed: 40e9, MinFree: 500e6}},
		{1000e9, 10e9, 100e9, 200e9, builder.Ceiling{MaxUsed: 100e9, MinFree: 1e9}},
	} {
		got := policies(config.GC{Enabled: true}, c.disk)
		if len(got) != 4 {
			t.Fatalf("%d policies", len(got))
		}
		first := got[0]
		if len(first.Filters) != 3 || first.KeepDuration != 48*time.Hour || first.MaxUsedSpace != 512e6 || first.All {
			t.Errorf("disk of %d: first policy %+v", c.disk, first)
		}
		for i, p := range got[1:] {
			if p.ReservedSpace != c.reserved || p.MaxUsedSpace != c.max || p.MinFreeSpace != c.free || len(p.Filters) != 0 {
				t.Errorf("disk of %d: policy %d is %+v", c.disk, i+1, p)
			}
		}
		if got[1].KeepDuration != 60*24*time.Hour || got[2].KeepDuration != 0 || got[2].All || !got[3].All {
			t.Errorf("disk of %d: %+v", c.disk, got)
		}
		if got := ceiling(config.GC{Enabled: true}, c.disk); got != c.ceiling {
			t.Errorf("disk of %d: ceiling %+v", c.disk, got)
		}
	}
}

func TestCeiling(t *testing.T) {
	t.Parallel()
	bytes := func(n int64) config.Size { return config.Size{Bytes: n} }
	for name, c := range map[string]struct {
		gc   config.GC
		want builder.Ceiling
	}{
		"none": {config.GC{}, builder.Ceiling{}},
		"of a policy for all records": {config.GC{Enabled: true, Policies: []config.GCPolicy{
			{MaxUsedSpace: bytes(7e9)}, {Filters: []string{"type==regular"}, MaxUsedSpace: bytes(1e9)},
		}}, builder.Ceiling{MaxUsed: 7e9, MinFree: 1e9}},
		"what is reserved may be used": {config.GC{Enabled: true, MaxUsedSpace: bytes(7e9), ReservedSpace: bytes(9e9)}, builder.Ceiling{MaxUsed: 9e9, MinFree: 1e9}},
		"no maximum":                   {config.GC{Enabled: true, MinFreeSpace: bytes(50e9)}, builder.Ceiling{MinFree: 1e9}},
	} {
		if got := ceiling(c.gc, 200e9); got != c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
