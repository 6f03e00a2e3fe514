package history

import (
	"os"
	"path/filepath"
	"slices"
	"time"
)

func (h *History) retainLoop() {
	defer close(h.stopped)
	for {
		h.retain(time.Now())
		select {
		case <-time.After(retainEvery):
		case <-h.stop:
			return
		}
	}
}

// retain removes records that are beyond both limits. Errors leave records for
// the next time.
func (h *History) retain(now time.Time) {
	if !h.anyExpired(now) {
		return
	}
	recs, err := h.records()
	if err != nil {
		return
	}
	recs = slices.DeleteFunc(recs, func(rec *record) bool { return rec.Pinned })
	slices.SortFunc(recs, func(a, b *record) int { return b.CompletedAt.AsTime().Compare(a.CompletedAt.AsTime()) })
	for i, rec := range recs {
		if i >= h.cfg.MaxEntries && now.Sub(rec.CompletedAt.AsTime()) > h.cfg.MaxAge {
			_ = h.Delete(rec.Ref)
		}
	}
}

// anyExpired looks at the files' times only, so that mostly no record has to be
// read.
func (h *History) anyExpired(now time.Time) bool {
	entries, err := os.ReadDir(h.cfg.Root)
	if err != nil || len(entries) <= h.cfg.MaxEntries {
		return false
	}
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		if isRunning(e) {
			return false
		}
		info, err := os.Stat(filepath.Join(h.cfg.Root, e.Name(), recordName))
		return err == nil && now.Sub(info.ModTime()) > h.cfg.MaxAge
	})
}
