package build

import (
	"bytes"
	"context"
	"fmt"
	"io"
	gofs "io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/session/filesync"
	digest "github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"
)

func openLocals(locals map[string]Local) (filesync.StaticDirSource, error) {
	trees := filesync.StaticDirSource{}
	for name, local := range locals {
		tree, err := open(local)
		if err != nil {
			return nil, fmt.Errorf("local %q: %w", name, err)
		}
		// Whoever owns the files here means nothing to the build.
		trees[name], err = fsutil.NewFilterFS(tree, &fsutil.FilterOpt{
			Map: func(_ string, stat *fstypes.Stat) fsutil.MapResult {
				stat.Uid, stat.Gid = 0, 0
				return fsutil.MapResultKeep
			},
		})
		if err != nil {
			return nil, fmt.Errorf("local %q: %w", name, err)
		}
	}
	return trees, nil
}

func open(local Local) (fsutil.FS, error) {
	if local.Dir == "" {
		return memory{files: local.Files, modified: time.Now()}, nil
	}
	info, err := os.Stat(local.Dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", local.Dir)
	}
	return fsutil.NewFS(local.Dir)
}

// sharedKey names the directories of a client across builds, so that the daemon can
// send only what changed since the last one from the same place.
func sharedKey(locals map[string]Local) string {
	host, _ := os.Hostname() // without a name, clients of one daemon share keys: only slower
	parts := []string{host}
	for _, name := range slices.Sorted(maps.Keys(locals)) {
		dir, err := filepath.Abs(locals[name].Dir)
		if err != nil || locals[name].Dir == "" {
			continue
		}
		parts = append(parts, name, dir)
	}
	return digest.FromString(strings.Join(parts, "\x00")).Encoded()
}

// memory is a tree of one directory, whose files are held in memory. Their age is that
// of the tree: the daemon takes a file of the same size and age for unchanged.
type memory struct {
	files    map[string][]byte
	modified time.Time
}

func (m memory) Walk(_ context.Context, target string, fn gofs.WalkDirFunc) error {
	for _, name := range slices.Sorted(maps.Keys(m.files)) {
		if target != "" && target != "/" && target != name {
			continue
		}
		entry := &fsutil.DirEntryInfo{Stat: &fstypes.Stat{
			Path:    name,
			Mode:    0o644,
			Size:    int64(len(m.files[name])),
			ModTime: m.modified.UnixNano(),
		}}
		if err := fn(name, entry, nil); err != nil {
			return err
		}
	}
	return nil
}

func (m memory) Open(name string) (io.ReadCloser, error) {
	content, found := m.files[filepath.Clean(name)]
	if !found {
		return nil, &gofs.PathError{Op: "open", Path: name, Err: gofs.ErrNotExist}
	}
	return io.NopCloser(bytes.NewReader(content)), nil
}
