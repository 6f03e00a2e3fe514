package bridge

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// zones is a firewalld that only keeps books.
type zones struct {
	mu    sync.Mutex
	of    map[string]string // by interface
	calls int
}

func (z *zones) zone(bridge string) (string, *dbus.Error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.of[bridge], nil
}

func (z *zones) change(zone, bridge string) (string, *dbus.Error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.calls++
	if bridge == "refused" {
		return "", dbus.MakeFailedError(errors.New("not this one"))
	}
	z.of[bridge] = zone
	return zone, nil
}

func (z *zones) remove(zone, bridge string) (string, *dbus.Error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.of[bridge] != zone {
		return "", dbus.MakeFailedError(errors.New("it is in another zone"))
	}
	delete(z.of, bridge)
	return zone, nil
}

// want checks in which zone a bridge is, and how often that was changed.
func (z *zones) want(t *testing.T, bridge, zone string, calls int) {
	t.Helper()
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.of[bridge] != zone || z.calls != calls {
		t.Errorf("zones %v after %d changes; %s should be in %q after %d", z.of, z.calls, bridge, zone, calls)
	}
}

// bus starts a bus, and gives connections to it.
func bus(t *testing.T) func(context.Context) (*dbus.Conn, error) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "bus")
	cmd := exec.Command("dbus-daemon", "--session", "--nofork", "--nopidfile", "--address=unix:path="+socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the bus does not start")
		}
	}
	return func(ctx context.Context) (*dbus.Conn, error) {
		return dbus.Connect("unix:path="+socket, dbus.WithContext(ctx))
	}
}

func TestFirewalld(t *testing.T) {
	t.Parallel()
	f := firewalld{connect: bus(t)}
	if err := f.trust(t.Context(), "b"); err != nil {
		t.Errorf("where there is no firewalld: %v", err)
	}
	conn, err := f.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	z := &zones{of: map[string]string{"moved": "public"}}
	err = conn.ExportMethodTable(map[string]any{
		"getZoneOfInterface": z.zone, "changeZoneOfInterface": z.change, "removeInterface": z.remove,
	}, firewalldPath, firewalldZone)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.RequestName(firewalldName, dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.trust(t.Context(), "b"); err != nil {
			t.Error(err)
		}
		z.want(t, "b", trusted, 1)
	}
	for _, bridge := range []string{"b", "b", "moved"} {
		if err := f.forget(t.Context(), bridge); err != nil {
			t.Error(err)
		}
	}
	z.want(t, "b", "", 1)
	z.want(t, "moved", "public", 1)
	if err := f.trust(t.Context(), "refused"); err == nil || !strings.Contains(err.Error(), "not this one") {
		t.Errorf("got %v", err)
	}
}
