package control

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/kiln-build/kiln/builder/cache"
	controlapi "github.com/moby/buildkit/api/services/control"
)

func TestInfo(t *testing.T) {
	t.Parallel()
	f := serve(t, &script{})
	resp, err := f.Info(t.Context(), &controlapi.InfoRequest{})
	if v := resp.GetBuildkitVersion(); err != nil || v.Package != "example.com/pkg" || v.Version != "v1.2.3" || v.Revision != "abc" {
		t.Errorf("version %v, error %v", v, err)
	}
}

func TestListWorkers(t *testing.T) {
	t.Parallel()
	f := serve(t, &script{})
	for filter, want := range map[string]int{
		"":                                    1,
		"id==w1":                              1,
		"id==w2":                              0,
		"id~=w":                               1,
		"platforms~=arm64":                    1,
		"platforms~=riscv":                    0,
		`labels."com.example.rack"==7`:        1,
		`labels."com.example.rack"==8`:        0,
		`id==w1,labels."com.example.rack"!=7`: 0,
	} {
		req := &controlapi.ListWorkersRequest{}
		if filter != "" {
			req.Filter = []string{filter}
		}
		resp, err := f.ListWorkers(t.Context(), req)
		if err != nil || len(resp.Record) != want {
			t.Errorf("%q: %v, error %v", filter, resp, err)
			continue
		}
		if want == 1 {
			w := resp.Record[0]
			if len(w.Platforms) != 2 || w.Platforms[0].Architecture != "amd64" || w.BuildkitVersion.Version != "v1.2.3" {
				t.Errorf("worker %v", w)
			}
			if len(w.GCPolicy) != 1 || w.GCPolicy[0].MaxUsedSpace != 5 || time.Duration(w.GCPolicy[0].KeepDuration) != time.Hour {
				t.Errorf("policies %v", w.GCPolicy)
			}
		}
	}
	if _, err := f.ListWorkers(t.Context(), &controlapi.ListWorkersRequest{Filter: []string{"id="}}); err == nil {
		t.Error("a bad filter: no error")
	}
}

func TestDiskUsageAndPrune(t *testing.T) {
	t.Parallel()
	lately, longAgo := time.Now().Add(-time.Minute), time.Now().Add(-time.Hour)
	b := &script{usage: []cache.Usage{
		{ID: "a", Size: 5, Parents: []string{"p"}, Created: longAgo, LastUsed: &lately, UsageCount: 2, Description: "bad \xff", Type: "regular"},
		{ID: "b", Size: 6, Mutable: true, InUse: true, Shared: true, Created: longAgo, LastUsed: &longAgo},
		{ID: "c"},
	}}
	f := serve(t, b)
	resp, err := f.DiskUsage(t.Context(), &controlapi.DiskUsageRequest{})
	if err != nil || len(resp.Record) != 3 {
		t.Fatalf("%v, error %v", resp, err)
	}
	if r := resp.Record[0]; r.ID != "a" || r.Size != 5 || r.Parents[0] != "p" || r.UsageCount != 2 || !r.LastUsedAt.AsTime().Equal(lately) || r.RecordType != "regular" {
		t.Errorf("record %v", r)
	}
	if r := resp.Record[1]; !r.Mutable || !r.InUse || !r.Shared {
		t.Errorf("record %v", r)
	}
	old, err := f.DiskUsage(t.Context(), &controlapi.DiskUsageRequest{AgeLimit: int64(10 * time.Minute)})
	if err != nil || len(old.Record) != 2 {
		t.Errorf("older than 10 minutes: %v, error %v", old, err)
	}
	stream, err := f.Prune(t.Context(), &controlapi.PruneRequest{Filter: []string{"x"}, All: true, KeepDuration: 1, ReservedSpace: 2, MaxUsedSpace: 3, MinFreeSpace: 4})
	if err != nil {
		t.Fatal(err)
	}
	removed := 0
	for {
		_, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		removed++
	}
	if p := b.pruned; removed != 3 || len(p.Filters) != 1 || !p.All || p.KeepDuration != 1 || p.ReservedSpace != 2 || p.MaxUsedSpace != 3 || p.MinFreeSpace != 4 {
		t.Errorf("removed %d by %+v", removed, p)
	}
}
