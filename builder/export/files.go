package export

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"

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

func (x *localExporter) Export(ctx context.Context, job schedule.Job, r Result) (Outcome, error) {
	client, files, done, err := x.open(ctx, x.Session, r, x.fileOptions)
	if err != nil {
		return Outcome{}, err
	}
	defer done()
	item := job.Progress.Begin("copying files")
	defer item.Done()
	to := session.Output{ID: x.ID, MultiPlatform: x.mirror}
	if err := client.SendDir(ctx, to, files, func(n int64) { item.Set(n, 0) }); err != nil {
		return Outcome{}, err
	}
	return Outcome{Release: func() {}}, nil
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

func (x *tarExporter) Export(ctx context.Context, job schedule.Job, r Result) (Outcome, error) {
	client, files, done, err := x.open(ctx, x.Session, r, x.fileOptions)
	if err != nil {
		return Outcome{}, err
	}
	defer done()
	err = sendFile(ctx, client, session.Output{ID: x.ID}, job.Progress, func(w io.Writer) error {
		return fsutil.WriteTar(ctx, files, w)
	})
	if err != nil {
		return Outcome{}, err
	}
	return Outcome{Release: func() {}}, nil
}

// open finds the client and gives the result as one tree. done, to be called
// once, ends the use of the tree.
func (e *Exporters) open(ctx context.Context, sessionID string, r Result, o fileOptions) (_ *session.Client, _ fsutil.FS, done func(), err error) {
	parts, err := r.parts()
	if err != nil {
		return nil, nil, nil, err
	}
	client, err := e.cfg.Sessions.Get(ctx, sessionID)
	if err != nil {
		return nil, nil, nil, err
	}
	var releases []func()
	done = func() {
		for _, release := range releases {
			release()
		}
	}
	dirs := make([]platformDir, len(parts))
	for i, p := range parts {
		tree, release, err := e.tree(ctx, p, r, o)
		if err != nil {
			done()
			return nil, nil, nil, fmt.Errorf("files for %s: %w", p.ID, err)
		}
		releases = append(releases, release)
		dirs[i] = tree
	}
	split := r.isMap()
	if o.split != nil {
		split = *o.split
	}
	files, err := join(dirs)
	if split {
		files, err = beside(dirs)
	}
	if err != nil {
		done()
		return nil, nil, nil, err
	}
	return client, files, done, nil
}

// platformDir is the tree for a platform. Its name is that of the platform's
// directory, should it get one.
type platformDir struct {
	id   string
	name string
	fsutil.FS
	epoch int64 // nanoseconds since 1970; 0: none
}

// tree mounts a platform's tree for reading.
func (e *Exporters) tree(ctx context.Context, p part, r Result, o fileOptions) (_ platformDir, release func(), err error) {
	d := platformDir{id: p.ID, name: dirName(p.ID)}
	at, err := o.epoch.of(p.Platform, r.Metadata)
	if err != nil {
		return d, nil, err
	}
	if at != nil {
		d.epoch = at.UnixNano()
	}
	dir, release, err := e.cfg.Layers.Mount(ctx, p.tree)
	if err != nil {
		return d, nil, err
	}
	var files fsutil.FS
	if files, err = fsutil.NewFS(dir); err == nil {
		d.FS = noSockets{files}
	}
	if err == nil && at != nil {
		d.FS, err = fsutil.NewFilterFS(d.FS, &fsutil.FilterOpt{Map: func(_ string, st *fstypes.Stat) fsutil.MapResult {
			st.ModTime = d.epoch
			return fsutil.MapResultKeep
		}})
	}
	if err != nil {
		release()
		return d, nil, err
	}
	return d, release, nil
}

// noSockets leaves sockets out, on which nobody listens any more; an image's
// layers don't have them either.
type noSockets struct{ fsutil.FS }

func (n noSockets) Walk(ctx context.Context, target string, fn fs.WalkDirFunc) error {
	return n.FS.Walk(ctx, target, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.Type()&fs.ModeSocket != 0 {
			return nil
		}
		return fn(path, d, err)
	})
}

// dirName makes a single file name of a platform's ID, which may be any text.
func dirName(id string) string {
	name := strings.NewReplacer("/", "_", `\`, "_", ":", "_", "\x00", "_").Replace(id)
	if name == "." || name == ".." {
		return strings.Repeat("_", len(name))
	}
	return name
}

// beside gives each tree a directory.
func beside(dirs []platformDir) (fsutil.FS, error) {
	all := make([]fsutil.Dir, len(dirs))
	taken := map[string]string{}
	for i, d := range dirs {
		if id, ok := taken[d.name]; ok {
			return nil, fmt.Errorf("platforms %q and %q would both get the directory %s: %w", id, d.id, d.name, errdefs.ErrInvalidArgument)
		}
		taken[d.name] = d.id
		all[i] = fsutil.Dir{FS: d.FS, Stat: &fstypes.Stat{
			Path: d.name, Mode: uint32(os.ModeDir | 0o755), ModTime: d.epoch,
		}}
	}
	return fsutil.SubDirFS(all)
}
