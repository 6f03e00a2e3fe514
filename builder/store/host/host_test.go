package host

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/builder/store/storetest"
)

func TestSuite(t *testing.T) {
	t.Parallel()
	new, old := storetest.Containerd(t), storetest.OldContainerd(t)
	for _, c := range []struct{ name, address, snapshotter string }{
		{"overlayfs", new, "overlayfs"}, {"native", new, "native"}, {"1.7", old, "overlayfs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			storetest.Suite(t, func(t *testing.T) *store.Store {
				// Each test has a namespace of its own.
				ns := strings.Map(func(r rune) rune {
					if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
						return r
					}
					return '-'
				}, strings.ToLower(t.Name()))
				st, err := Open(context.Background(), Config{Address: "unix://" + c.address, Namespace: ns, Snapshotter: c.snapshotter})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { st.Close() })
				return st
			})
		})
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	address := storetest.Containerd(t)
	st, err := Open(ctx, Config{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if st.Namespace != DefaultNamespace || st.Snapshotter != DefaultSnapshotter {
		t.Errorf("namespace %q, snapshotter %q", st.Namespace, st.Snapshotter)
	}
	if h := st.Host; h == nil || h.Address != address || h.UUID == "" || h.Version == "" {
		t.Errorf("host %+v", h)
	}
	if _, err := Open(ctx, Config{Address: address, Snapshotter: "none"}); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "overlayfs") {
		t.Errorf("a snapshotter that isn't there: %v", err)
	}
	if _, err := Open(ctx, Config{Address: address, Namespace: "../x"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a bad namespace: %v", err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	start := time.Now()
	address := filepath.Join(t.TempDir(), "none.sock")
	_, err := Open(ctx, Config{Address: address})
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), address) || !strings.Contains(err.Error(), "start containerd") {
		t.Errorf("no socket: %v", err)
	}
	silent := filepath.Join(t.TempDir(), "silent.sock")
	l, err := net.Listen("unix", silent)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err = Open(ctx, Config{Address: silent}); !errdefs.IsUnavailable(err) {
		t.Errorf("a silent socket: %v", err)
	}
	if d := time.Since(start); d > 3*dialTimeout {
		t.Errorf("it took %s", d)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err = Open(ended, Config{Address: silent}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestTooOld(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{
		"v1.6.36": true, "1.6.20~ds1": true, "v0.2.9": true, "v1.7.35": false, "1.7.2": false, "v1.10.0": false,
		"v2.4.2": false, "v3.0.0-beta.0": false, "": false, "unknown": false,
	} {
		if got := tooOld(version); got != want {
			t.Errorf("%q: %v", version, got)
		}
	}
}
