package sandbox

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestResourcesCheck(t *testing.T) {
	t.Parallel()
	for text, r := range map[string]Resources{
		"":              {Memory: 1, MemorySwap: -1, CPUShares: 2, CPUPeriod: 1000, CPUQuota: -1, CpusetCPUs: "0-2,7", CpusetMems: "0", Pids: 1, IOWeight: 10},
		"memory limit":  {Memory: -5},
		"swap":          {Memory: 10, MemorySwap: 5},
		"CPU shares":    {CPUShares: -1},
		"CPU period":    {CPUPeriod: 2_000_000},
		"CPU quota":     {CPUQuota: 5},
		"processes":     {Pids: -1},
		"I/O weight":    {IOWeight: 5000},
		`cpuset "a\nb"`: {CpusetCPUs: "a\nb"},
		`cpuset "0,"`:   {CpusetMems: "0,"},
	} {
		err := r.Check()
		if (err == nil) != (text == "") || err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("%+v: %v", r, err)
		}
		s := Spec{ID: "x", Root: "/", Args: []string{"x"}, Resources: r}
		if _, e := s.checked(); (e == nil) != (err == nil) {
			t.Errorf("%+v in a spec: %v", r, e)
		}
	}
}

func TestResourcesUnder(t *testing.T) {
	t.Parallel()
	daemon := Resources{Memory: 100, MemorySwap: 200, CPUQuota: 50000, CPUShares: 10, CpusetCPUs: "0", Pids: 10, IOWeight: 20, IO: []IOLimit{{Major: 1}}}
	for _, c := range []struct {
		name               string
		over, asked, wants Resources
	}{
		{"nothing", Resources{}, Resources{}, Resources{}},
		{"asked", Resources{}, Resources{Memory: 5, CPUQuota: 5000, Pids: 3}, Resources{Memory: 5, CPUQuota: 5000, Pids: 3}},
		{"the daemon's", daemon, Resources{}, daemon},
		{"too much asked", daemon, Resources{Memory: 1000, MemorySwap: -1, CPUQuota: 100000, CPUPeriod: 100000, Pids: 1000}, daemon},
		{"unlimited asked", daemon, Resources{CPUQuota: -1}, daemon},
		{"other period", Resources{CPUQuota: 50000}, Resources{CPUQuota: 90000, CPUPeriod: 1000000}, Resources{CPUQuota: 90000, CPUPeriod: 1000000}},
		{"other period, more", Resources{CPUQuota: 50000}, Resources{CPUQuota: 9000, CPUPeriod: 10000}, Resources{CPUQuota: 50000}},
		{"less swap", Resources{Memory: 100}, Resources{MemorySwap: 50}, Resources{Memory: 50, MemorySwap: 50}},
		{"choices", Resources{CPUShares: 10, CpusetCPUs: "0"}, Resources{CPUShares: 20, CpusetCPUs: "1", CpusetMems: "0"}, Resources{CPUShares: 20, CpusetCPUs: "1", CpusetMems: "0"}},
	} {
		if got := c.over.Under(c.asked); !reflect.DeepEqual(got, c.wants) {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.wants)
		}
	}
	if err := (Resources{Memory: 100}).Under(Resources{Memory: -7}).Check(); err == nil {
		t.Error("a negative limit was lost")
	}
}

func TestResourcesOCI(t *testing.T) {
	t.Parallel()
	r := Resources{CPUShares: 5, IOWeight: 20, IO: []IOLimit{{Major: 8, Minor: 16, ReadBytes: 1, WriteOps: 2}, {Major: 9, WriteBytes: 3, ReadOps: 4}}}
	got, err := json.Marshal(r.oci())
	want := `{"cpu":{"shares":5},"blockIO":{"weight":20,` +
		`"throttleReadBpsDevice":[{"major":8,"minor":16,"rate":1}],"throttleWriteBpsDevice":[{"major":9,"minor":0,"rate":3}],` +
		`"throttleReadIOPSDevice":[{"major":9,"minor":0,"rate":4}],"throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":2}]}}`
	if err != nil || string(got) != want {
		t.Errorf("error %v, got\n%s\nwant\n%s", err, got, want)
	}
}
