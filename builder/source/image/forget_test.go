package image

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/kiln-build/kiln/builder/session/registry/registrytest"
)

// blobCount is how many blobs the store has after a collection.
func (f *fixture) blobCount() (n int) {
	f.t.Helper()
	ctx := f.store.Context(f.t.Context())
	if err := f.store.GC(ctx); err != nil {
		f.t.Fatal(err)
	}
	err := f.store.Content.Walk(ctx, func(content.Info) error { n++; return nil })
	if err != nil {
		f.t.Fatal(err)
	}
	return n
}

func TestForget(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	srv := registrytest.Start(t, registrytest.Options{})
	srv.Push(nobody, "lib/x", "1", registrytest.NewImage(t, amd64, files("a", "1")))
	job, _ := jobFor()
	op := f.op("docker-image://"+srv.Host+"/lib/x:1", nil)
	if _, err := op.Key(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	if n := f.blobCount(); n == 0 {
		t.Error("what was looked at is not kept")
	}
	if err := f.Forget(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := f.blobCount(); n != 0 {
		t.Errorf("%d blobs are left", n)
	}
	// A build in the midst of it goes on.
	out, err := op.Run(f.leased(), job, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(out) != 1 || out[0] == nil {
		t.Errorf("results %v", out)
	}
}

// TestForgetMeanwhile: what is being fetched isn't forgotten.
func TestForgetMeanwhile(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	srv := registrytest.Start(t, registrytest.Options{})
	srv.Push(nobody, "lib/x", "1", registrytest.NewImage(t, amd64, files("a", "1")))
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := f.Forget(context.Background()); err != nil {
				t.Error(err)
			}
			if err := f.store.GC(context.Background()); err != nil {
				t.Error(err)
			}
		}
	}()
	for range 100 {
		job, _ := jobFor()
		if _, err := f.op("docker-image://"+srv.Host+"/lib/x:1", nil).Key(t.Context(), job); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	<-ended
}
