package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/buildkit/session/filesync"
)

// exportStore is the name under which the daemon writes an output in OCI layout.
const exportStore = "export"

// outputs opens the receiving end of each output that comes back.
func (o *offer) outputs(outputs []Output, stdout io.Writer) error {
	var targets []filesync.FSSyncTarget
	for i, output := range outputs {
		switch {
		case output.File != "":
			file, err := newFileTarget(output.File, stdout)
			if err != nil {
				return fmt.Errorf("output %s: %w", output.Type, err)
			}
			targets = append(targets, filesync.WithFSSync(i, file.open))
			o.finishing = append(o.finishing, func(context.Context, map[string]string) error { return file.commit() })
			o.cleaning = append(o.cleaning, file.discard)
		case output.Dir != "" && output.Type != "local":
			if err := o.exportLayout(output.Dir); err != nil {
				return fmt.Errorf("output %s: %w", output.Type, err)
			}
		case output.Dir != "" && strings.EqualFold(strings.TrimSpace(output.Attrs["mode"]), "delete"):
			targets = append(targets, filesync.WithFSSyncDirDelete(i, output.Dir))
		case output.Dir != "":
			targets = append(targets, filesync.WithFSSyncDir(i, output.Dir))
		}
	}
	if len(targets) > 0 {
		o.services = append(o.services, filesync.NewFSSyncTarget(targets...))
	}
	return nil
}

func (o *offer) exportLayout(dir string) error {
	if _, taken := o.stores[exportStore]; taken {
		return errors.New("only one output of a build can be a directory in OCI layout")
	}
	store, err := newStore(dir)
	if err != nil {
		return err
	}
	o.stores[exportStore] = store
	o.finishing = append(o.finishing, func(_ context.Context, exported map[string]string) error {
		return indexExport(dir, exported)
	})
	o.cleaning = append(o.cleaning, func() { tidy(dir) })
	return nil
}

// fileTarget receives one stream. A regular file appears under its name when the build
// has succeeded, and not at all when it has not.
type fileTarget struct {
	path   string
	stdout io.Writer // set instead of path
	direct bool      // path is a device or a pipe
	partly string    // what has been written so far
}

func newFileTarget(path string, stdout io.Writer) (*fileTarget, error) {
	if path == "-" {
		return &fileTarget{stdout: stdout}, nil
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if parent, err := os.Stat(filepath.Dir(path)); err != nil {
			return nil, fmt.Errorf("destination file: %w", err)
		} else if !parent.IsDir() {
			return nil, fmt.Errorf("destination file %s: its parent is not a directory", path)
		}
	case err != nil:
		return nil, fmt.Errorf("destination file: %w", err)
	case info.IsDir():
		return nil, fmt.Errorf("destination file %s is a directory", path)
	default:
		return &fileTarget{path: path, direct: !info.Mode().IsRegular()}, nil
	}
	return &fileTarget{path: path}, nil
}

// open is called when the daemon begins to send.
func (f *fileTarget) open(map[string]string) (io.WriteCloser, error) {
	if f.stdout != nil {
		return unclosed{f.stdout}, nil
	}
	if f.direct {
		return os.OpenFile(f.path, os.O_WRONLY, 0)
	}
	name := fmt.Sprintf("%s.%s.partial", f.path, NewRef()[:8])
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return nil, err
	}
	f.partly = name
	return file, nil
}

func (f *fileTarget) commit() error {
	if f.partly == "" {
		return nil
	}
	if err := os.Rename(f.partly, f.path); err != nil {
		return err
	}
	f.partly = ""
	return nil
}

func (f *fileTarget) discard() {
	if f.partly != "" {
		os.Remove(f.partly)
	}
}

// unclosed keeps a stream open that is not the build's own.
type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }
