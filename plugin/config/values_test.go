package config

import (
	"reflect"
	"testing"
	"time"
)

func TestSize(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		disk int64
		want int64
	}{
		{"1024", 0, 1024},
		{"512MB", 0, 512 << 20},
		{`"2GiB"`, 0, 2 << 30},
		{"10%", 1000, 100},
		{"10%", 0, 2e9},
		{"0%", 0, 0},
	} {
		var s Size
		if err := s.UnmarshalText([]byte(c.text)); err != nil || s.Of(c.disk) != c.want {
			t.Errorf("%s of %d: %d, error %v", c.text, c.disk, s.Of(c.disk), err)
		}
	}
	for _, text := range []string{"", "x", "-1%", "101%", "%", "1.5.2MB"} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is %+v", text, s)
		}
	}
}

func TestDuration(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{"60": time.Minute, `"90"`: 90 * time.Second, "48h": 48 * time.Hour, "1m30s": 90 * time.Second} {
		var d Duration
		if err := d.UnmarshalText([]byte(text)); err != nil || d.Duration != want {
			t.Errorf("%s: %v, error %v", text, d, err)
		}
	}
	for _, text := range []string{"", "x", "2 days", "99999999999999"} {
		var d Duration
		if err := d.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is %v", text, d)
		}
	}
}

func TestEffectivePolicies(t *testing.T) {
	t.Parallel()
	if p := (GC{}).EffectivePolicies(1e12); p != nil {
		t.Errorf("disabled: %v", p)
	}
	for _, c := range []struct {
		gc                   GC
		disk                 int64
		reserved, most, free int64
	}{
		{GC{Enabled: true}, 1e12, 10e9, 100e9, 200e9},
		{GC{Enabled: true}, 50e9, 5e9, 40e9, 10e9},
		{GC{Enabled: true}, 0, 2e9, 2e9, 2e9},
		{GC{Enabled: true, ReservedSpace: Size{Bytes: 5}}, 1e12, 5, 0, 0},
	} {
		got := c.gc.EffectivePolicies(c.disk)
		if len(got) != 4 {
			t.Fatalf("%d policies", len(got))
		}
		limits := GCPolicy{ReservedSpace: Size{Bytes: c.reserved}, MaxUsedSpace: Size{Bytes: c.most}, MinFreeSpace: Size{Bytes: c.free}}
		if !reflect.DeepEqual(got[2], limits) {
			t.Errorf("%+v on %d bytes: %+v", c.gc, c.disk, got[2])
		}
		if got[0].MaxUsedSpace.Bytes != 512e6 || len(got[0].Filters) != 3 || !got[3].All || got[1].KeepDuration.Duration != 1440*time.Hour {
			t.Errorf("policies %+v", got)
		}
	}
	own := GC{Enabled: true, Policies: []GCPolicy{{All: true, MaxUsedSpace: Size{Percent: 50}}}}
	if got := own.EffectivePolicies(1000); len(got) != 1 || got[0].MaxUsedSpace != (Size{Bytes: 500}) || !got[0].All {
		t.Errorf("own policies: %+v", got)
	}
}
