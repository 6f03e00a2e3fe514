// Package changes writes what one file tree changes in another as the tar of
// an image layer: added and modified files, and whiteouts for removed ones. The
// bytes are those that containerd writes for the same trees, and depend on
// nothing but the trees.
package changes

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/pkg/archive"
)

// Compare writes what the tree below upper changes in the tree below lower by
// walking both; lower "" is the empty tree.
func Compare(ctx context.Context, w io.Writer, lower, upper string) error {
	if err := archive.WriteDiff(ctx, cancellable{ctx, w}, lower, upper); err != nil {
		return fmt.Errorf("compare trees: %w", err)
	}
	return nil
}

// cancellable makes the writing of a large file end with the context.
type cancellable struct {
	ctx context.Context
	w   io.Writer
}

func (c cancellable) Write(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.w.Write(p)
}
