package upload

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// file is what becomes of the data. Its fields are those of BuildKit's key.
type file struct {
	Filename       string
	Perm, UID, GID int
	Checksum       digest.Digest

	want digest.Digest // "" is any
}

// defaultName is that of a file for which no name can be used, defaultPerm the
// mode of one for which none is asked for.
const (
	defaultName = "download"
	defaultPerm = 0o600
)

// parseFile reads the attributes of the source. Unknown ones are left alone.
func parseFile(u *url.URL, attrs map[string]string) (file, error) {
	f := file{Filename: safeName(attrs[pb.AttrHTTPFilename])}
	if attrs[pb.AttrHTTPFilename] == "" {
		f.Filename = safeName(u.Path)
	}
	for _, n := range []struct {
		attr string
		to   *int
		most uint64
	}{
		{pb.AttrHTTPPerm, &f.Perm, 0o7777}, {pb.AttrHTTPUID, &f.UID, 1<<31 - 1}, {pb.AttrHTTPGID, &f.GID, 1<<31 - 1},
	} {
		text, ok := attrs[n.attr]
		if !ok {
			continue
		}
		v, err := strconv.ParseUint(text, 0, 31)
		if err != nil || v > n.most {
			return f, fmt.Errorf("%s: %q is not a number up to %d: %w", n.attr, text, n.most, errdefs.ErrInvalidArgument)
		}
		*n.to = int(v)
	}
	if sum, ok := attrs[pb.AttrHTTPChecksum]; ok {
		var err error
		if f.want, err = digest.Parse(sum); err != nil || f.want.Algorithm() != digest.SHA256 {
			return f, fmt.Errorf("%s: %q is not a SHA-256 digest: %w", pb.AttrHTTPChecksum, sum, errdefs.ErrInvalidArgument)
		}
	}
	return f, nil
}

// safeName makes any text the name of a file in a directory.
func safeName(name string) string {
	name = path.Base(path.Clean("/" + strings.TrimSpace(name)))
	if name == "/" || len(name) > 255 || strings.ContainsFunc(name, unicode.IsControl) {
		return defaultName
	}
	return name
}

// key is BuildKit's for the file with the digest.
func (f file) key(d digest.Digest) (digest.Digest, error) {
	f.Checksum = d
	dt, err := json.Marshal(f)
	return digest.FromBytes(dt), err
}

// write makes the file. It is as old as all that comes from nowhere.
func (f file) write(name string, data io.Reader) error {
	out, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, data); err != nil {
		return err
	}
	if err := out.Chown(f.UID, f.GID); err != nil {
		return err
	}
	perm := f.Perm
	if perm == 0 {
		perm = defaultPerm
	}
	// os.Chmod has bits of its own for those above the permissions.
	mode := os.FileMode(perm & 0o777)
	for bit, m := range map[int]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
		if perm&bit != 0 {
			mode |= m
		}
	}
	if err := out.Chmod(mode); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	epoch := time.Unix(0, 0)
	return os.Chtimes(name, epoch, epoch)
}
