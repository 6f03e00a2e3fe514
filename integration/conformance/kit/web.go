package kit

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// packages are what tests install with alpine's apk: programs of this machine,
// which come with their libraries.
var packages = map[string][]string{
	"curl":                   {"curl"},
	"git":                    {"git"},
	"openssh":                {"ssh", "ssh-add", "ssh-keygen", "ssh-keyscan"},
	"openssh-client-default": {"ssh", "ssh-add", "ssh-keygen", "ssh-keyscan"},
}

// makeWeb makes the web server's folder: a page, and the packages.
func (k *Kit) makeWeb(ctx context.Context) error {
	dir := k.fresh("www")
	if err := os.MkdirAll(filepath.Join(dir, "apk"), 0o755); err != nil {
		return err
	}
	for name, programs := range packages {
		files, err := withLibraries(ctx, programs)
		if err == nil {
			err = writePackage(filepath.Join(dir, "apk", name+".tar.gz"), files)
		}
		if err != nil {
			return fmt.Errorf("package %s: %w", name, err)
		}
	}
	return os.WriteFile(filepath.Join(dir, "index.html"), []byte("example\n"), 0o644)
}

var absolutePath = regexp.MustCompile(`/\S+`)

// withLibraries finds the programs on PATH and what the loader adds to them.
func withLibraries(ctx context.Context, programs []string) ([]string, error) {
	var files []string
	for _, program := range programs {
		path, err := exec.LookPath(program)
		if err != nil {
			return nil, err
		}
		libraries, err := run(ctx, "", nil, "ldd", path)
		if err != nil {
			return nil, err
		}
		files = append(append(files, path), absolutePath.FindAllString(libraries, -1)...)
	}
	slices.Sort(files)
	return slices.Compact(files), nil
}

// writePackage writes files, and what links lead to in place of links, into an
// archive that is to be unpacked at /.
func writePackage(name string, files []string) error {
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(out)
	w := tar.NewWriter(z)
	for _, file := range files {
		if err := addFile(w, file); err != nil {
			return errors.Join(err, out.Close())
		}
	}
	return errors.Join(w.Close(), z.Close(), out.Close())
}

func addFile(w *tar.Writer, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	header := &tar.Header{
		Name: strings.TrimPrefix(name, "/"), Size: info.Size(),
		Mode: int64(info.Mode().Perm()), ModTime: layerTime, Typeflag: tar.TypeReg,
	}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}
