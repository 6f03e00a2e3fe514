package layer

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
)

// TestManyLayers mounts more layers than fit into mount(2)'s page of options.
func TestManyLayers(t *testing.T) {
	for _, backend := range []string{"overlayfs", "host"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			ctx, s := openOn(t, backend)
			const n = 200
			var l *Layer
			for i := range n {
				l = build(t, ctx, s, l, func(dir string) { write(t, fmt.Sprint(dir, "/", i), fmt.Sprint(i)) })
			}
			dir, release, err := s.Mount(ctx, l)
			if err != nil {
				t.Fatal(err)
			}
			defer release()
			for i := range n {
				if read(t, fmt.Sprint(dir, "/", i)) != fmt.Sprint(i) {
					t.Errorf("layer %d is wrong", i)
				}
			}
			if err := os.WriteFile(dir+"/x", nil, 0o600); err == nil {
				t.Error("a mounted layer can be written to")
			}
		})
	}
}

func TestMountFailures(t *testing.T) {
	dir := t.TempDir()
	long := "lowerdir=" + dir
	for range os.Getpagesize() / len(dir) {
		long += ":" + dir + "/none"
	}
	for name, mounts := range map[string][]mount.Mount{
		"no such directory": {{Type: "bind", Source: dir + "/none", Options: []string{"rbind"}}},
		"second fails": {
			{Type: "bind", Source: dir, Options: []string{"rbind"}},
			{Type: "nosuchfs", Source: "x"},
		},
		"long overlay":      {{Type: "overlay", Source: "overlay", Options: []string{long}}},
		"long, bad options": {{Type: "overlay", Source: "overlay", Options: []string{long, "nosuchoption"}}},
	} {
		if err := mountAll(mounts, dir); err == nil {
			t.Errorf("%s: mounted", name)
		}
	}
	if left := mountsBelow(t, dir[:len(dir)-1]); len(left) > 0 {
		t.Errorf("still mounted: %v", left)
	}
	for range 2 { // also where nothing is mounted
		if err := unmountDir(dir); err != nil {
			t.Error(err)
		}
	}
}

// TestSettled: what was mounted leaves nothing in the lease that kept it.
func TestSettled(t *testing.T) {
	for _, backend := range []string{"overlayfs", "host"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			ctx, s := openOn(t, backend)
			l := build(t, ctx, s, nil, func(dir string) { write(t, dir+"/f", "1") })
			_, release, err := s.Mount(ctx, l)
			if err != nil {
				t.Fatal(err)
			}
			kept := func() int {
				t.Helper()
				all, err := s.store.Leases.ListResources(ctx, leases.Lease{ID: s.lease})
				if err != nil {
					t.Fatal(err)
				}
				return len(all)
			}
			if n := kept(); n != 1 {
				t.Errorf("%d resources of one mount", n)
			}
			release()
			if err := s.Settle(); err != nil {
				t.Fatal(err)
			}
			if n := kept(); n != 0 {
				t.Errorf("%d resources are left", n)
			}
		})
	}
}

// TestSettleWaits expects Settle to wait for what is being unmounted already.
func TestSettleWaits(t *testing.T) {
	root := t.TempDir()
	st := openStore(t, "overlayfs", root)
	defer st.Close()
	ctx := lease(t, context.Background(), st)
	s, err := New(ctx, st, Config{Root: root + "/layers", Linger: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(ctx)
	l := build(t, ctx, s, nil, func(dir string) { write(t, dir+"/a", "1") })
	for range 50 {
		_, release, err := s.Mount(ctx, l)
		if err != nil {
			t.Fatal(err)
		}
		release()
		if err := s.Settle(); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(root + "/layers/mounts"); err != nil || len(left) > 0 {
			t.Fatalf("left: %v, %v", left, err)
		}
	}
}
