package builder

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/sandbox/device"
	"github.com/moby/buildkit/solver/pb"
)

const described = `
cdiVersion: "0.6.0"
kind: "acme.com/card"
devices:
- {name: a, containerEdits: {env: [A=1]}}
- {name: b, containerEdits: {env: [B=1]}, annotations: {org.mobyproject.buildkit.device.autoallow: "true"}}
- {name: c, containerEdits: {env: [C=1]}, annotations: {org.mobyproject.buildkit.device.class: cards}}
`

func TestUseDevices(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "acme.yaml"), []byte(described), 0o644); err != nil {
		t.Fatal(err)
	}
	devices, err := device.Open(device.Config{Dirs: []string{dir}})
	if err != nil {
		t.Fatal(err)
	}
	b := &Builder{cfg: Config{Entitlements: []string{"device"}, Devices: devices}}
	off := &Builder{}
	dev := func(name string) *pb.CDIDevice { return &pb.CDIDevice{Name: name} }
	optional := func(name string) *pb.CDIDevice { return &pb.CDIDevice{Name: name, Optional: true} }
	for _, c := range []struct {
		name  string
		b     *Builder
		allow []string
		asked []*pb.CDIDevice
		want  []string
		fails string
	}{
		{"none", b, nil, nil, nil, ""},
		{"not allowed", b, nil, []*pb.CDIDevice{dev("acme.com/card=a")}, nil, "device acme.com/card=a is requested by the build but not allowed"},
		{"two not allowed", b, nil, []*pb.CDIDevice{dev("acme.com/card=*")}, nil, "devices acme.com/card=a, acme.com/card=c are requested by the build but not allowed"},
		{"allowed to all", b, nil, []*pb.CDIDevice{dev("acme.com/card=b")}, []string{"acme.com/card=b"}, ""},
		{"all allowed", b, []string{"device"}, []*pb.CDIDevice{dev("acme.com/card=*"), dev("acme.com/card=a")}, []string{"acme.com/card=a", "acme.com/card=b", "acme.com/card=c"}, ""},
		{"allowed by name", b, []string{"device=acme.com/card=a"}, []*pb.CDIDevice{dev("acme.com/card=a")}, []string{"acme.com/card=a"}, ""},
		{"another allowed", b, []string{"device=acme.com/card=a"}, []*pb.CDIDevice{dev("acme.com/card=c")}, nil, "not allowed"},
		{"allowed by kind", b, []string{"device=acme.com/card"}, []*pb.CDIDevice{dev("acme.com/card=a")}, []string{"acme.com/card=a"}, ""},
		{"allowed by class", b, []string{"device=cards"}, []*pb.CDIDevice{dev("acme.com/card=c")}, []string{"acme.com/card=c"}, ""},
		{"two allowed", b, []string{"device=acme.com/card=a", "device=cards"}, []*pb.CDIDevice{dev("cards"), dev("acme.com/card=a")}, []string{"acme.com/card=a", "acme.com/card=c"}, ""},
		{"an alias", b, []string{"device=acme.com/card=c,alias=mine"}, []*pb.CDIDevice{dev("mine")}, []string{"acme.com/card=c"}, ""},
		{"an alias allows nothing else", b, []string{"device=acme.com/card=c,alias=mine"}, []*pb.CDIDevice{dev("acme.com/card=a")}, nil, "not allowed"},
		{"not there", b, []string{"device"}, []*pb.CDIDevice{dev("acme.com/card=z")}, nil, `required device "acme.com/card=z" is not registered`},
		{"optional and not there", b, nil, []*pb.CDIDevice{optional("acme.com/card=z"), nil}, nil, ""},
		{"optional and not allowed", b, nil, []*pb.CDIDevice{optional("acme.com/card=a")}, nil, "not allowed"},
		{"disabled", off, nil, []*pb.CDIDevice{dev("acme.com/card=a")}, nil, "CDI device support is disabled"},
		{"disabled and optional", off, nil, []*pb.CDIDevice{optional("acme.com/card=a")}, nil, ""},
	} {
		p, err := c.b.grant(c.allow)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		op := &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{CdiDevices: c.asked}}}
		got, err := p.use(op)
		if !slices.Equal(got, c.want) || (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
			t.Errorf("%s: got %v, error %v", c.name, got, err)
		}
		if e := p.check(op); (e == nil) != (err == nil) {
			t.Errorf("%s: check says %v", c.name, e)
		}
		if strings.Contains(c.fails, "not allowed") && !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s: error %v", c.name, err)
		}
	}
	if _, err := off.grant([]string{"device"}); err == nil {
		t.Error("devices were granted although they are disabled")
	}
}
