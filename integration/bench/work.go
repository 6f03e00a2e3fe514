package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// work is the place of one sample: a daemon, a context of its own and names
// that nothing built before has used.
type work struct {
	*base
	daemon  *daemon
	context string // an empty folder
	nonce   string // makes steps new to every cache
	dir     string
	// after is what is left to do once the time is taken; nil functions are none.
	after      []func() error
	containers int
}

func newWork(b *base, d *daemon) (*work, error) {
	dir, err := os.MkdirTemp(b.dir, "work-")
	if err != nil {
		return nil, err
	}
	w := &work{base: b, daemon: d, context: filepath.Join(dir, "context"), dir: dir}
	w.nonce = strconv.FormatInt(time.Now().UnixNano(), 36)
	return w, os.Mkdir(w.context, 0o755)
}

func (w *work) remove() { os.RemoveAll(w.dir) }

// finish does what is left to do.
func (w *work) finish() error {
	var errs []error
	for _, fn := range w.after {
		if fn != nil {
			errs = append(errs, fn())
		}
	}
	w.after = nil
	return errors.Join(errs...)
}

// build builds a Dockerfile with the sample's context. In its text, BASE and
// DATA stand for the registry's images, COLD for DATA where what is fetched is
// counted, LAZY for the same that kilnd can pull lazily, and NONCE for the sample's
// nonce.
func (w *work) build(ctx context.Context, dockerfile string, args ...string) error {
	return w.buildIn(ctx, w.context, dockerfile, args...)
}

// buildIn is build with another context.
func (w *work) buildIn(ctx context.Context, tree, dockerfile string, args ...string) error {
	dir, err := os.MkdirTemp(w.dir, "dockerfile-")
	if err != nil {
		return err
	}
	lazy := w.counted.Host + "/data"
	if w.daemon.name == "kilnd" {
		lazy = w.counted.Host + "/lazy"
	}
	text := strings.NewReplacer("COLD", w.counted.Host+"/data", "LAZY", lazy, "BASE", w.host+"/base", "DATA", w.host+"/data", "NONCE", w.nonce).Replace(dockerfile)
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		return err
	}
	return w.daemon.buildctl(ctx, append([]string{
		"build", "--progress=plain", "--frontend=dockerfile.v0",
		"--local=context=" + tree, "--local=dockerfile=" + dir,
	}, args...)...)
}
