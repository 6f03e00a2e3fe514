package builder_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/kiln-build/kiln/builder"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/device"
	"github.com/kiln-build/kiln/builder/sandbox/sandboxtest"
	"github.com/moby/buildkit/client/llb"
)

// TestDevice runs a step with a device that has a node, a variable and a file, and
// looks for what is left of the file's place.
func TestDevice(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lib := filepath.Join(dir, "lib")
	if err := os.WriteFile(lib, []byte("of the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`{"cdiVersion": "0.6.0", "kind": "acme.com/card", "devices": [{"name": "a", "containerEdits": {
		"env": ["CARD=1"], "deviceNodes": [{"path": "/dev/card", "hostPath": "/dev/zero"}],
		"mounts": [{"hostPath": %q, "containerPath": "/opt/card/lib", "options": ["ro", "bind"]}]}}]}`, lib)
	if err := os.WriteFile(filepath.Join(dir, "acme.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	devices, err := device.Open(device.Config{Dirs: []string{dir}})
	if err != nil {
		t.Fatal(err)
	}
	b := open(t, func(c *builder.Config) {
		c.Devices, c.Entitlements = devices, []string{"device"}
		c.Runner, err = sandbox.New(sandbox.Config{
			Binary: sandboxtest.RuntimeBinary(t), StateDir: filepath.Join(c.Root, "sandbox"), Devices: devices,
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	script := `echo "card $CARD"; /bin/busybox head -c 3 /dev/card | /bin/busybox wc -c; /bin/cat /opt/card/lib`
	with := system(t).Run(llb.Args([]string{"/bin/sh", "-c", script}), llb.AddCDIDevice(llb.CDIDeviceName("acme.com/card=a"))).Root()
	left := with.Run(llb.Args([]string{"/bin/sh", "-c", "test -e /opt/card/lib && exit 3; test -e /dev/card && exit 4; true"})).Root()
	var out output
	if _, err := b.Build(t.Context(), builder.Request{Ref: "r", Definition: definition(t, left), Entitlements: []string{"device=acme.com/card"}}, &out); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.Contains(got, "card 1\n3\nof the host") {
		t.Errorf("output %q", got)
	}
	_, err = b.Build(t.Context(), builder.Request{Ref: "r", Definition: definition(t, with)}, event.Discard)
	if err == nil || !strings.Contains(err.Error(), "acme.com/card=a is requested by the build but not allowed") {
		t.Errorf("without the entitlement: %v", errors.Unwrap(err))
	}
}

// output keeps what steps write.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Emit(e event.Event) {
	if l, ok := e.(*event.Log); ok {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.text.Write(l.Data)
	}
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
