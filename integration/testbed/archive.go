package testbed

import (
	"archive/tar"
	"bytes"
	"maps"
	"slices"
)

// archive makes a tar of headers without content, and of executable files.
func archive(headers []tar.Header, contents map[string][]byte) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		h.ModTime = imageTime
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		h := &tar.Header{Name: name, Mode: 0o755, Size: int64(len(contents[name])), ModTime: imageTime}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(contents[name]); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return out.Bytes(), err
}
