package layer

import (
	"fmt"
	"testing"

	"github.com/kiln-build/kiln/builder/event"
)

// TestViewsOfAKilledProcess: containerd may still know views of an earlier
// process that the snapshotter doesn't list any more.
func TestViewsOfAKilledProcess(t *testing.T) {
	ctx, s := open(t)
	l, err := s.Unpack(ctx, testImage(t, ctx, s), event.Progress{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if _, err := s.store.Snapshots.View(ctx, fmt.Sprintf("kiln-view-%s-%d", s.ID(), i), l.Name); err != nil {
			t.Fatal(err)
		}
	}
	_, release, err := s.Mount(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	release()
}
