package export

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// platformDir is the tree for a platform. Its name is that of the platform's
// directory, should it get one.
type platformDir struct {
	id   string
	name string
	fsutil.FS
	epoch int64 // nanoseconds since 1970; 0: none
}

// newPlatformDir reads the tree below root, with all times at one if it isn't
// nil.
func newPlatformDir(id, root string, at *time.Time) (platformDir, error) {
	d := platformDir{id: id, name: dirName(id)}
	files, err := fsutil.NewFS(root)
	if err != nil {
		return d, err
	}
	d.FS = noSockets{files}
	if at == nil {
		return d, nil
	}
	d.epoch = at.UnixNano()
	d.FS, err = fsutil.NewFilterFS(d.FS, &fsutil.FilterOpt{Map: func(_ string, st *fstypes.Stat) fsutil.MapResult {
		st.ModTime = d.epoch
		return fsutil.MapResultKeep
	}})
	return d, err
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
