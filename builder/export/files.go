package export

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/tonistiigi/fsutil"

	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/session"
)

// fileOptions are the attributes of exporters of files:
//
//	platform-split      a directory for each platform (default: if the result
//	                    is a map)
//	source-date-epoch   the time of all files
//	attestation-prefix
type fileOptions struct {
	split *bool
	epoch epochAttr
}

func (a *attrs) fileOptions() fileOptions {
	a.text("attestation-prefix") // there are no attestations
	o := fileOptions{epoch: a.epoch()}
	if v, ok := a.take("platform-split"); ok {
		b, err := strconv.ParseBool(v)
		if err != nil {
			a.fail("non-bool value for platform-split: %s", v)
		}
		o.split = &b
	}
	return o
}

// localExporter sends files into a directory of the client. Beside those of
// [fileOptions] it takes the attribute
//
//	mode   copy (default) or delete, which removes what isn't in the result
type localExporter struct {
	*Exporters
	fileOptions
	Target
	mirror bool
}

func newLocal(e *Exporters, t Target) (Exporter, error) {
	a := newAttrs(t.Attrs)
	x := &localExporter{Exporters: e, Target: t, fileOptions: a.fileOptions()}
	switch mode := a.text("mode"); strings.ToLower(strings.TrimSpace(mode)) {
	case "", "copy":
	case "delete":
		x.mirror = true
	default:
		a.fail("invalid local exporter mode %q", mode)
	}
	return x, a.err
}

func (x *localExporter) Name() string { return "exporting to client directory" }

func (x *localExporter) Files() bool { return true }

func (x *localExporter) Export(ctx context.Context, job schedule.Job, r Result) (Outcome, error) {
	err := x.withFiles(ctx, x.Target, r, x.fileOptions, func(client *session.Client, files fsutil.FS) error {
		item := job.Progress.Begin("copying files")
		defer item.Done()
		to := session.Output{ID: x.ID, MultiPlatform: x.mirror}
		return client.SendDir(ctx, to, files, func(n int64) { item.Set(n, 0) })
	})
	return Outcome{Release: func() {}}, err
}

// tarExporter sends the client a tar of files. It takes the attributes of
// [fileOptions].
type tarExporter struct {
	*Exporters
	fileOptions
	Target
}

func newTar(e *Exporters, t Target) (Exporter, error) {
	a := newAttrs(t.Attrs)
	return &tarExporter{Exporters: e, Target: t, fileOptions: a.fileOptions()}, a.err
}

func (x *tarExporter) Name() string { return "exporting to client tarball" }

func (x *tarExporter) Files() bool { return true }

func (x *tarExporter) Export(ctx context.Context, job schedule.Job, r Result) (Outcome, error) {
	err := x.withFiles(ctx, x.Target, r, x.fileOptions, func(client *session.Client, files fsutil.FS) error {
		return sendFile(ctx, client, session.Output{ID: x.ID}, job.Progress, func(w io.Writer) error {
			return fsutil.WriteTar(ctx, files, w)
		})
	})
	return Outcome{Release: func() {}}, err
}

// withFiles finds the client and shows it to use together with the result as
// one tree.
func (e *Exporters) withFiles(ctx context.Context, t Target, r Result, o fileOptions, use func(*session.Client, fsutil.FS) error) error {
	parts, err := r.parts()
	if err != nil {
		return err
	}
	client, err := e.cfg.Sessions.Get(ctx, t.Session)
	if err != nil {
		return err
	}
	dirs := make([]platformDir, len(parts))
	for i, p := range parts {
		at, err := o.epoch.of(p.Platform, r.Metadata)
		if err != nil {
			return err
		}
		root, release, err := e.cfg.Layers.Mount(ctx, p.tree)
		if err != nil {
			return fmt.Errorf("files for %s: %w", p.ID, err)
		}
		defer release()
		if dirs[i], err = newPlatformDir(p.ID, root, at); err != nil {
			return fmt.Errorf("files for %s: %w", p.ID, err)
		}
	}
	split := r.isMap()
	if o.split != nil {
		split = *o.split
	}
	files := join(dirs)
	if split {
		if files, err = beside(dirs); err != nil {
			return err
		}
	}
	return use(client, files)
}
