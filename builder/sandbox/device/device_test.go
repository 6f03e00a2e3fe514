package device

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const vendor1 = `
cdiVersion: "0.6.0"
kind: "vendor1.com/device"
annotations: {org.mobyproject.buildkit.device.class: both}
devices:
- name: b
  containerEdits: {env: [B=1]}
- name: a
  containerEdits: {env: [A=1], deviceNodes: [{path: /dev/null2, hostPath: /dev/null}]}
  annotations: {org.mobyproject.buildkit.device.class: one, org.mobyproject.buildkit.device.autoallow: "true"}
`

const vendor2 = `
cdiVersion: "0.6.0"
kind: "vendor2.com/gpu"
devices:
- name: all
  containerEdits: {env: [C=1]}
`

func open(t *testing.T) (*Devices, string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"1.yaml": vendor1, "2.yaml": vendor2, "broken.yaml": "}{", "other.txt": "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d, err := Open(Config{Dirs: []string{dir, filepath.Join(dir, "not-there")}, AutoAllowed: []string{"vendor2.com/gpu"}})
	if err != nil {
		t.Fatal(err)
	}
	return d, dir
}

func names(devices []Device) (all []string) {
	for _, d := range devices {
		all = append(all, d.Name)
	}
	return all
}

func TestFind(t *testing.T) {
	t.Parallel()
	d, _ := open(t)
	for name, want := range map[string][]string{
		"vendor1.com/device=b": {"vendor1.com/device=b"},
		"vendor1.com/device":   {"vendor1.com/device=a"},
		"vendor1.com/device=*": {"vendor1.com/device=a", "vendor1.com/device=b"},
		"vendor2.com/gpu=all":  {"vendor2.com/gpu=all"},
		"one":                  {"vendor1.com/device=a"},
		"both":                 {"vendor1.com/device=b"},
		"vendor1.com/device=x": nil,
		"vendor1.com/dev":      nil,
		"vendor3.com/device":   nil,
		"":                     nil,
		"=":                    nil,
		"*":                    nil,
		"\x00/\xff=../..":      nil,
	} {
		got, err := d.Find(name)
		if !slices.Equal(names(got), want) || (err == nil) != (want != nil) || err != nil && !errdefs.IsNotFound(err) {
			t.Errorf("%q: %v, %v", name, names(got), err)
		}
	}
	if _, err := d.Find("no"); err == nil || !strings.Contains(err.Error(), `required device "no" is not registered`) {
		t.Errorf("error %v", err)
	}
	var none *Devices
	if _, err := none.Find("no"); err == nil || !strings.Contains(err.Error(), "disabled") || none.List() != nil {
		t.Errorf("disabled: %v", err)
	}
}

func TestListFollowsTheDirectories(t *testing.T) {
	t.Parallel()
	d, dir := open(t)
	var auto []string
	for _, dev := range d.List() {
		if dev.AutoAllow {
			auto = append(auto, dev.Name)
		}
	}
	if want := []string{"vendor1.com/device=a", "vendor2.com/gpu=all"}; !slices.Equal(auto, want) {
		t.Errorf("allowed to all: %v", auto)
	}
	if err := os.Remove(filepath.Join(dir, "1.yaml")); err != nil {
		t.Fatal(err)
	}
	if got := names(d.List()); !slices.Equal(got, []string{"vendor2.com/gpu=all"}) {
		t.Errorf("after a description was removed: %v", got)
	}
}

func TestAdd(t *testing.T) {
	t.Parallel()
	d, _ := open(t)
	shared := []string{"X=1"}
	s := &specs.Spec{Process: &specs.Process{Env: shared}}
	if err := d.Add(s, []string{"vendor1.com/device=a", "vendor1.com/device=b"}); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(s.Process.Env, "A=1") || !slices.Contains(s.Process.Env, "B=1") || len(s.Linux.Devices) != 1 || s.Linux.Devices[0].Path != "/dev/null2" {
		t.Errorf("env %v, devices %+v", s.Process.Env, s.Linux.Devices)
	}
	if err := d.Add(s, []string{"vendor1.com/device=gone"}); err == nil {
		t.Error("a device that isn't there was added")
	}
	if err := (*Devices)(nil).Add(s, nil); err != nil {
		t.Error(err)
	}
}
