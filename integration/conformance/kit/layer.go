package kit

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"slices"
	"strings"
	"time"
)

// tree is the content of a layer.
type tree struct{ entries []entry }

// entry is a file, a link, or, when the name ends with a slash, a folder.
type entry struct {
	name     string
	mode     int64
	uid, gid int
	body     []byte
	hardlink string // a name that sorts before this one
	symlink  string
}

func (t *tree) add(e entry) { t.entries = append(t.entries, e) }

// layerTime is the time of all files, so that digests are the same every time.
var layerTime = time.Unix(1700000000, 0)

// tar returns the tree as a tar archive, folders before what is in them.
func (t *tree) tar() ([]byte, error) {
	slices.SortFunc(t.entries, func(a, b entry) int { return cmp.Compare(a.name, b.name) })
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range t.entries {
		h := &tar.Header{Name: e.name, Mode: e.mode, Uid: e.uid, Gid: e.gid, ModTime: layerTime, Size: int64(len(e.body))}
		switch {
		case e.hardlink != "":
			h.Typeflag, h.Linkname = tar.TypeLink, e.hardlink
		case e.symlink != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.symlink
		case strings.HasSuffix(e.name, "/"):
			h.Typeflag = tar.TypeDir
		default:
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.body); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return out.Bytes(), err
}

func gzipped(data []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	err = w.Close()
	return out.Bytes(), err
}
