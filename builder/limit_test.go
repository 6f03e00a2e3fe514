package builder

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kiln-build/kiln/builder/schedule"
)

// slowOp counts how many of it run at the same time.
type slowOp struct {
	schedule.Op
	running, most *atomic.Int32
}

func (o slowOp) Run(context.Context, schedule.Job, []schedule.Result) ([]schedule.Result, error) {
	n := o.running.Add(1)
	defer o.running.Add(-1)
	for m := o.most.Load(); n > m && !o.most.CompareAndSwap(m, n); m = o.most.Load() {
	}
	time.Sleep(time.Second)
	return nil, nil
}

func TestLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := make(limit, 3)
		op := slowOp{running: new(atomic.Int32), most: new(atomic.Int32)}
		begun := time.Now()
		var all sync.WaitGroup
		for range 9 {
			all.Go(func() {
				if _, err := l.wrap(op).Run(context.Background(), schedule.Job{}, nil); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		if _, err := l.wrap(op).Run(ctx, schedule.Job{}, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one that waits in vain: %v", err)
		}
		all.Wait()
		if n, took := op.most.Load(), time.Since(begun); n != 3 || took != 3*time.Second {
			t.Errorf("%d ran at the same time, for %v", n, took)
		}
	})
}
