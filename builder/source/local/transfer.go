package local

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/tonistiigi/fsutil/types"
)

// transfer brings the directory here. The build has it until ctx ends.
func (s *Source) transfer(ctx context.Context, job schedule.Job, c *session.Client, req request) (*result, error) {
	ctx = s.cfg.Store.Context(ctx)
	sctx, cancel := context.WithCancel(ctx)
	defer cancel()
	files, err := c.Files(sctx, req.FileRequest)
	if err != nil {
		return nil, err
	}
	st := &stream{s: files, cancel: cancel, explain: c.Fail, item: job.Progress.Begin("transferring " + req.Name + ":")}
	defer st.item.Done()

	base, full := req.keys(c.SharedKey())
	previous, err := s.shelf.take(ctx, base, full)
	if err != nil {
		return nil, err
	}
	defer s.shelf.giveBack(previous)
	entries, err := announced(st, req)
	if err != nil {
		st.fail(err)
		return nil, err
	}
	if previous != nil && !req.always {
		recall(entries, previous.index)
	}
	t := &transfer{s: s, st: st, req: req, full: full, base: base, previous: previous, entries: entries}
	return t.run(ctx)
}

// announced reads the list of what the client has.
func announced(st *stream, req request) ([]entry, error) {
	c := &catalog{}
	if !req.listing {
		err := st.announcements(func(s *types.Stat) error {
			_, err := c.add(s)
			return err
		})
		return c.entries, err
	}
	l := &lister{catalog: c, req: req}
	if err := st.announcements(l.add); err != nil {
		return nil, err
	}
	return l.entries(), nil
}

// hand gives a kept transfer to the build, which has it until ctx ends.
func (s *Source) hand(ctx context.Context, k *kept) (*result, error) {
	tree, digest, err := k.index.checksums(ctx)
	if err != nil {
		return nil, err
	}
	if k.layer == nil {
		return &result{digest: digest}, nil
	}
	s.cfg.Layers.SetTree(k.layer.Name, tree)
	s.shelf.lend(ctx, k)
	return &result{layer: k.layer, digest: digest}, nil
}

// transfer is one on its way.
type transfer struct {
	s          *Source
	st         *stream
	req        request
	base, full string
	previous   *kept // nil: the first one
	entries    []entry
}

// run gets what is missing. Where nothing is, the previous transfer is as good.
func (t *transfer) run(ctx context.Context) (*result, error) {
	if t.previous != nil && len(plan(t.entries, t.previous.index)) == 0 {
		if err := t.nothingMissing(); err != nil {
			return nil, err
		}
		return t.s.hand(ctx, t.previous)
	}
	if len(t.entries) == 0 {
		if err := t.nothingMissing(); err != nil {
			return nil, err
		}
		return t.s.hand(ctx, &kept{index: &index{}})
	}
	lease, err := t.s.shelf.newLease(ctx, t.full)
	if err != nil {
		return nil, err
	}
	defer t.s.shelf.release(lease)
	k, err := t.write(leases.WithLease(ctx, lease), lease)
	if err == nil && k.Lease == lease {
		err = t.s.shelf.put(ctx, k)
	}
	if err != nil || k.Lease != lease {
		t.s.shelf.dropLease(ctx, lease)
	}
	if err != nil {
		return nil, err
	}
	return t.s.hand(ctx, k)
}

func (t *transfer) nothingMissing() error {
	if err := t.st.finish(); err != nil {
		return err
	}
	return t.st.untilEnd(nil)
}

// write makes a layer on top of the foundation. If nothing but times has
// changed, the previous transfer stays, with the times.
func (t *transfer) write(ctx context.Context, lease string) (k *kept, err error) {
	below := t.s.shelf.foundation(t.previous)
	w, err := t.s.cfg.Layers.NewWorkspace(ctx, below.layer)
	if err != nil {
		return nil, err
	}
	defer func() {
		if derr := w.Discard(ctx); err == nil { // does nothing after Commit
			err = derr
		}
	}()
	dir, err := w.Dir(ctx)
	if err != nil {
		return nil, err
	}
	steps := plan(t.entries, below.index)
	if err := t.fill(ctx, dir, steps); err != nil {
		return nil, err
	}
	if t.previous != nil && sameContent(t.entries, t.previous.index.entries) {
		k := &kept{state: t.previous.state, layer: t.previous.layer, index: &index{entries: t.entries}}
		return k, t.s.shelf.setIndex(k.Layer, k.index)
	}
	l, err := w.Commit(ctx, layer.Meta{Description: "local source for " + t.req.Name})
	if err != nil {
		return nil, err
	}
	return t.newKept(l, lease, below, bytesOf(steps)), nil
}

// bytesOf is what the files have that the steps write.
func bytesOf(steps []step) (n int64) {
	for _, s := range steps {
		if s.do == fetch || s.do == duplicate || s.do == fill {
			n += s.e.Size
		}
	}
	return n
}

// fill takes the steps below the directory.
func (t *transfer) fill(ctx context.Context, dir string, steps []step) error {
	tr, err := openTree(dir)
	if err != nil {
		return err
	}
	defer tr.close()
	a := &applier{tree: tr, touched: map[string]bool{}}
	if t.previous != nil {
		var release func()
		if a.previous, release, err = t.openPrevious(ctx); err != nil {
			return err
		}
		defer release()
	}
	err = t.st.receive(ctx, func(ctx context.Context, want func(*os.File, *entry) error) error {
		a.want = want
		return a.apply(ctx, steps)
	})
	if err != nil {
		return err
	}
	return a.finish(t.entries)
}

func (t *transfer) openPrevious(ctx context.Context) (*os.Root, func(), error) {
	dir, release, err := t.s.cfg.Layers.Mount(ctx, t.previous.layer)
	if err != nil {
		return nil, nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		release()
		return nil, nil, fmt.Errorf("previous transfer: %w", err)
	}
	return root, func() { root.Close(); release() }, nil
}
