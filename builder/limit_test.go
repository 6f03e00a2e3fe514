package builder

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kiln-build/kiln/builder/schedule"
)

func TestLimit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		size int // 0: no limit
		most int
		took time.Duration
	}{
		{3, 3, 3 * time.Second},
		{0, 9, time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			var l limit
			if c.size > 0 {
				l = make(limit, c.size)
			}
			begun := time.Now()
			if n := runAll(l.wrap, 9); n != c.most || time.Since(begun) != c.took {
				t.Errorf("%d of at most %d ran at the same time, for %v", n, c.most, time.Since(begun))
			}
		})
	}
}

func TestLimitReached(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		full := make(limit, 1)
		full <- struct{}{}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := full.wrap(&sleeper{}).Run(ctx, schedule.Job{}, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one that waits in vain: %v", err)
		}
	})
}
