package layer

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// probeTime is how long a filesystem may take to say that it has no such file.
const probeTime = 5 * time.Second

// Stale tells whether the workspace's tree is mounted and can't be read any more,
// because what showed a layer below it has gone. The tree is lost; a new
// workspace on the same layer shows it again.
func (w *Workspace) Stale() bool {
	w.tree.mu.Lock()
	dir := w.tree.dir
	w.tree.mu.Unlock()
	return dir != "" && stale(dir)
}

// stale looks for a file that isn't there, for which an overlay asks all of its
// layers.
func stale(dir string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), probeTime)
	defer cancel()
	answer := make(chan error, 1)
	go func() {
		_, err := os.Lstat(filepath.Join(dir, ".kiln-"+rand.Text()))
		answer <- err
	}()
	select {
	case err := <-answer:
		return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.ESTALE) || errors.Is(err, unix.EIO)
	case <-ctx.Done():
		return true
	}
}
