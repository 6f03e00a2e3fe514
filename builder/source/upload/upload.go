// Package upload takes files that clients send through their sessions
// ("http://buildkit-session/ID" sources), such as a build context that was
// piped into the client. The client sends a file once only.
package upload

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/session"
	digest "github.com/opencontainers/go-digest"
)

// prefix is how the identifiers of uploads begin.
const prefix = "http://buildkit-session/"

// Is tells whether a source is an upload.
func Is(identifier string) bool { return strings.HasPrefix(identifier, prefix) }

// Config is what a Source stands on.
type Config struct {
	// Dir is where files are between their arrival and the step that makes a
	// layer of them. They have no name there, so nothing of them outlives the
	// process.
	Dir      string
	Layers   *layer.Store
	Sessions *session.Manager
}

// Source takes uploads. It is safe for concurrent use.
type Source struct{ cfg Config }

// New returns a source. It makes its directory if that is absent.
func New(cfg Config) (*Source, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("uploads: %w", err)
	}
	return &Source{cfg}, nil
}

// Op makes the op of a step whose source is an upload. The result is a tree
// with the file, a *layer.Layer.
func (s *Source) Op(step *graph.Step) (schedule.Op, error) {
	src := step.Op.GetSource()
	u, err := url.Parse(src.GetIdentifier())
	if err != nil || !Is(src.GetIdentifier()) {
		return nil, fmt.Errorf("source %q is not an upload: %w", src.GetIdentifier(), errdefs.ErrInvalidArgument)
	}
	f, err := parseFile(u, src.Attrs)
	if err != nil {
		return nil, fmt.Errorf("source %s: %w", u, err)
	}
	return &op{s: s, url: u, file: f}, nil
}

type op struct {
	s    *Source
	url  *url.URL
	file file

	data *os.File // once Key has been called
	size int64
}

// Key takes the file from the client. Equal files have the same key.
func (o *op) Key(ctx context.Context, job schedule.Job) (schedule.Key, error) {
	d, err := o.receive(ctx, job)
	if err != nil {
		return schedule.Key{}, fmt.Errorf("upload %s: %w", o.url, err)
	}
	key, err := o.file.key(d)
	return schedule.Key{
		Digest: key,
		Parts: []cache.Part{
			{Name: "file", Value: o.file.Filename},
			{Name: "content", Value: d.String()},
		},
		Record: cache.Description{Kind: cache.Regular, Text: "upload of " + o.file.Filename},
		Worked: true,
	}, err
}

// receive copies the file here and gives its digest.
func (o *op) receive(ctx context.Context, job schedule.Job) (digest.Digest, error) {
	data, err := os.CreateTemp(o.s.cfg.Dir, "")
	if err != nil {
		return "", err
	}
	if err := os.Remove(data.Name()); err != nil {
		data.Close()
		return "", err
	}
	h := sha256.New()
	item := job.Progress.Begin("downloading " + o.file.Filename)
	defer item.Done()
	err = o.s.cfg.Sessions.Any(ctx, job.Sessions(), func(c *session.Client) error {
		r, err := c.Upload(ctx, o.url)
		if err != nil {
			return err
		}
		defer r.Close()
		if o.size, err = io.Copy(io.MultiWriter(data, h, &counter{item: item}), r); err != nil {
			return err
		}
		c.OnDone(func() { data.Close() })
		return nil
	})
	if err != nil {
		data.Close()
		return "", err
	}
	o.data = data
	d := digest.NewDigest(digest.SHA256, h)
	if want := o.file.want; want != "" && d != want {
		return "", fmt.Errorf("digest mismatch: %s (expected: %s): %w", d, want, errdefs.ErrFailedPrecondition)
	}
	return d, nil
}

// counter reports what goes through it.
type counter struct {
	item *event.Item
	n    int64
}

func (c *counter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	c.item.Set(c.n, 0)
	return len(b), nil
}

// Run makes a layer with the file.
func (o *op) Run(ctx context.Context, _ schedule.Job, _ []schedule.Result) (_ []schedule.Result, err error) {
	if o.data == nil {
		return nil, fmt.Errorf("upload %s was not received: %w", o.url, errdefs.ErrFailedPrecondition)
	}
	w, err := o.s.cfg.Layers.NewWorkspace(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.Discard(context.WithoutCancel(ctx))) }()
	dir, err := w.Dir(ctx)
	if err != nil {
		return nil, err
	}
	if err := o.file.write(filepath.Join(dir, o.file.Filename), io.NewSectionReader(o.data, 0, o.size)); err != nil {
		return nil, fmt.Errorf("upload %s: %w", o.url, err)
	}
	l, err := w.Commit(ctx, layer.Meta{Created: time.Now(), Description: "upload of " + o.file.Filename})
	if err != nil {
		return nil, err
	}
	return []schedule.Result{l}, nil
}
