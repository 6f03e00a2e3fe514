package sandbox

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// bundles are the files in which programs look for certificates that they trust.
var bundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Alpine, Arch
	"/etc/ssl/cert.pem",                                 // Alpine, BSDs
	"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora
	"/etc/pki/tls/cacert.pem",                           // OpenELEC
	"/etc/ssl/ca-bundle.pem",                            // SUSE
}

// maxBundle bounds what a bundle may be, in bytes; a usual one has 200 KB.
const maxBundle = 10 << 20

// What is added to a bundle stands between these lines, which are BuildKit's.
const (
	trustBegin = "\n# buildkit proxy CA begin\n"
	trustEnd   = "# buildkit proxy CA end\n"
)

// trusted is a bundle to which a certificate was added.
type trusted struct {
	sum          [sha256.Size]byte // of what it was
	atime, mtime time.Time
}

// trust adds a certificate to the bundles of the tree, until distrust. A process may
// replace them, or make others with it: so distrust looks at all anew. One that is as
// it was also has its times again, so that no change is to be seen.
func (t *tree) trust(cert []byte) (distrust func() error, _ error) {
	added := map[string]trusted{}
	block := slices.Concat([]byte(trustBegin), cert, []byte(trustEnd))
	distrust = func() error { return t.distrust(added, block) }
	for _, path := range t.bundles() {
		text, info, err := t.readBundle(path)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("add the proxy's certificate: %w", err), distrust())
		}
		at, mt := accessed(info), info.ModTime()
		added[path] = trusted{sum: sha256.Sum256(text), atime: at, mtime: mt}
		if err := t.writeBundle(path, append(text, block...)); err != nil {
			return nil, errors.Join(fmt.Errorf("add the proxy's certificate: %w", err), distrust())
		}
	}
	return distrust, nil
}

func (t *tree) distrust(added map[string]trusted, block []byte) error {
	var errs []error
	for _, path := range t.bundles() {
		if err := t.distrustOne(path, added[path], block); err != nil {
			errs = append(errs, fmt.Errorf("failed to clean up proxy CA: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (t *tree) distrustOne(path string, was trusted, block []byte) error {
	text, _, err := t.readBundle(path)
	if err != nil {
		return err
	}
	clean := bytes.ReplaceAll(text, block, nil)
	// Programs that merge bundles leave out comments.
	cert := block[len(trustBegin) : len(block)-len(trustEnd)]
	clean = bytes.ReplaceAll(clean, cert, nil)
	if len(clean) == len(text) {
		return nil
	}
	if err := t.writeBundle(path, clean); err != nil || sha256.Sum256(clean) != was.sum {
		return err
	}
	return t.root.Chtimes(local(path), was.atime, was.mtime)
}

// showTrust shows the process of r, whose root can't be written to, bundles with the
// certificate in the place of those that there are.
func (t *tree) showTrust(r *run) error {
	for i, path := range t.bundles() {
		text, _, err := t.readBundle(path)
		if err != nil {
			return fmt.Errorf("add the proxy's certificate: %w", err)
		}
		hidden := func(m Mount) bool { return below(path, m.Target) }
		if slices.ContainsFunc(r.Mounts, hidden) {
			continue
		}
		name := "trust" + strconv.Itoa(i)
		if err := r.writeShared(name, string(append(text, r.Proxy.Certificate()...))); err != nil {
			return err
		}
		r.Mounts = append(slices.Clip(r.Mounts), Mount{Target: path, Source: filepath.Join(r.bundle, name), Type: "bind", Options: []string{"ro"}})
	}
	return nil
}

// bundles are the resolved paths of those that there are in the tree.
func (t *tree) bundles() []string {
	var found []string
	for _, name := range bundles {
		path, err := t.resolve(name)
		if err != nil {
			continue
		}
		info, err := t.root.Lstat(local(path))
		if err == nil && info.Mode().IsRegular() && !slices.Contains(found, path) {
			found = append(found, path)
		}
	}
	return found
}

func (t *tree) readBundle(path string) ([]byte, fs.FileInfo, error) {
	f, err := t.openRegular(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, cause(err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxBundle+1))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, cause(err))
	}
	if len(text) > maxBundle {
		return nil, nil, fmt.Errorf("%s exceeds %d bytes", path, maxBundle)
	}
	return text, info, nil
}

// writeBundle replaces the content of a file, which stays the same otherwise.
func (t *tree) writeBundle(path string, text []byte) error {
	f, err := t.root.OpenFile(local(path), os.O_WRONLY|os.O_TRUNC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", path, cause(err))
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("%s: %w", path, cause(err))
	}
	return nil
}

func accessed(info fs.FileInfo) time.Time {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(st.Atim.Unix())
	}
	return info.ModTime()
}
