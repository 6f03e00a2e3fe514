package lazy_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/stargz-snapshotter/estargz"

	"github.com/kiln-build/kiln/snapshotter/lazy"
)

var quiet = lazy.Settings{NoBackgroundFetch: true, MountTimeout: 10 * time.Second}

func TestFormats(t *testing.T) {
	t.Parallel()
	f, root := start(t, quiet, nil)
	for name, b := range map[string]blob{"eStargz": pack(t, files()), "zstd:chunked": pack(t, files(), zstdChunked())} {
		t.Run(name, func(t *testing.T) {
			reg := startRegistry(t, b)
			for kind, labels := range map[string]map[string]string{"default": reg.labels(b), "cri": {
				"containerd.io/snapshot/cri.image-ref": reg.host + "/a:2", "containerd.io/snapshot/cri.layer-digest": b.digest().String(),
				estargz.TOCJSONDigestAnnotation: b.toc.String(),
			}} {
				dir := shown(t, f, root)
				if err := f.Mount(t.Context(), dir, labels); err != nil {
					t.Fatalf("%s: %v", kind, err)
				}
				read(t, dir, "hello", "hello\n")
				read(t, dir, "dir/other", "other\n")
				if err := f.Check(t.Context(), dir, labels); err != nil {
					t.Errorf("%s: %v", kind, err)
				}
				if err := f.Unmount(t.Context(), dir); err != nil {
					t.Errorf("%s: %v", kind, err)
				}
				if err := f.Unmount(t.Context(), dir); err != nil {
					t.Errorf("%s: twice: %v", kind, err)
				}
			}
			if n, all := reg.sent.Load(), int64(len(b.data)); n > all/2 {
				t.Errorf("%d bytes fetched of %d", n, all)
			}
		})
	}
}

func TestDeclined(t *testing.T) {
	t.Parallel()
	b := pack(t, files())
	other := pack(t, map[string][]byte{"hello": []byte("evil\n")})
	swapped := blob{other.data, b.toc}
	reg := startRegistry(t, b, other)
	f, root := start(t, quiet, nil)
	without := func(key string) map[string]string {
		l := reg.labels(b)
		delete(l, key)
		return l
	}
	asked := atomic.Int64{}
	reg.setCheck(func(http.ResponseWriter, *http.Request) bool { asked.Add(1); return true })
	dir := shown(t, f, root)
	if err := f.Mount(t.Context(), dir, without(estargz.TOCJSONDigestAnnotation)); !errdefs.IsNotImplemented(err) || asked.Load() > 0 {
		t.Errorf("plain: %v, %d requests", err, asked.Load())
	}
	for name, labels := range map[string]map[string]string{
		"swapped TOC":  reg.labels(swapped),
		"no reference": without("containerd.io/snapshot/remote/stargz.reference"),
		"no digest":    without("containerd.io/snapshot/remote/stargz.digest"),
		"not there":    reg.labels(blob{[]byte("no such blob"), b.toc}),
	} {
		if err := f.Mount(t.Context(), dir, labels); err == nil {
			t.Errorf("%s: mounted", name)
		}
		if mounted, err := lazy.Mounted(dir); mounted || err != nil {
			t.Errorf("%s: left mounted", name)
		}
	}
	// The library verifies what it has at hand only once.
	if err := f.Mount(t.Context(), dir, reg.labels(b)); err != nil {
		t.Fatal(err)
	}
	again := shown(t, f, root)
	if err := f.Mount(t.Context(), again, reg.labels(blob{b.data, other.toc})); err == nil {
		t.Error("another TOC: mounted")
	}
}

func TestCorrupt(t *testing.T) {
	t.Parallel()
	b := pack(t, map[string][]byte{"hello": bytes.Repeat([]byte("hello\n"), 100000)})
	reg := startRegistry(t, b)
	evil := bytes.Clone(b.data)
	evil[len(evil)/4] ^= 0x55
	reg.blobs[b.digest().String()] = blob{evil, b.toc}
	f, root := start(t, quiet, nil)
	dir := shown(t, f, root)
	if err := f.Mount(t.Context(), dir, reg.labels(b)); err != nil {
		return // so much the better
	}
	if got, err := os.ReadFile(filepath.Join(dir, "hello")); err == nil {
		t.Errorf("%d bytes read of a file that was changed", len(got))
	}
}

func TestProcessDies(t *testing.T) {
	t.Parallel()
	b := pack(t, files())
	reg := startRegistry(t, b)
	f, root := start(t, lazy.Settings{NoBackgroundFetch: true, MountTimeout: 3 * time.Second}, nil)
	dir := shown(t, f, root)
	if err := f.Mount(t.Context(), dir, reg.labels(b)); err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
		if err := syscall.Kill(pid(root), sig); err != nil {
			t.Fatal(err)
		}
		if err := f.Check(t.Context(), dir, reg.labels(b)); err != nil {
			t.Errorf("%s: %v", sig, err)
		}
		read(t, dir, "hello", "hello\n")
	}
}

// A caller without time for an answer doesn't have the process killed.
func TestNoTimeToLook(t *testing.T) {
	t.Parallel()
	b := pack(t, files())
	reg := startRegistry(t, b)
	f, root := start(t, quiet, nil)
	dir := shown(t, f, root)
	if err := f.Mount(t.Context(), dir, reg.labels(b)); err != nil {
		t.Fatal(err)
	}
	was := pid(root)
	if err := f.Close(); err != nil { // the next call looks for the process
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Check(ctx, dir, reg.labels(b)); err == nil {
		t.Error("no error")
	}
	read(t, dir, "hello", "hello\n")
	if now := pid(root); now != was {
		t.Errorf("process %d was replaced by %d", was, now)
	}
	if err := f.Check(t.Context(), dir, reg.labels(b)); err != nil {
		t.Error(err)
	}
}

// Many notice at the same time that the process has gone.
func TestProcessDiesUnderMany(t *testing.T) {
	t.Parallel()
	b := pack(t, files())
	reg := startRegistry(t, b)
	f, root := start(t, quiet, nil)
	var dirs []string
	for range 6 {
		dirs = append(dirs, shown(t, f, root))
		if err := f.Mount(t.Context(), dirs[len(dirs)-1], reg.labels(b)); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 {
		if err := syscall.Kill(pid(root), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for _, dir := range dirs {
			wg.Go(func() {
				if err := f.Check(t.Context(), dir, reg.labels(b)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
}

// What kubelets are pointed at is there as long as the daemon is, whatever becomes of
// the process, and no longer.
func TestServedForKubelets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	socket := filepath.Join(dir, "cri.sock")
	settings := quiet
	settings.CRI = lazy.CRI{Socket: socket, Image: filepath.Join(dir, "containerd.sock")}
	f, root := start(t, settings, nil)
	answers := func() error {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	if err := answers(); err != nil {
		t.Fatal(err)
	}
	was := pid(root)
	if err := syscall.Kill(was, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if now := pid(root); now == was || now == 0 {
			return fmt.Errorf("process %d serves", now)
		}
		return answers()
	})
	time.Sleep(5 * time.Second) // longer than an idle process lives
	if err := answers(); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := gone(root); err != nil {
		t.Error(err)
	}
}

func TestDaemonRestarts(t *testing.T) {
	t.Parallel()
	b := pack(t, files())
	reg := startRegistry(t, b)
	f, root := start(t, quiet, nil)
	dir := shown(t, f, root)
	if err := f.Mount(t.Context(), dir, reg.labels(b)); err != nil {
		t.Fatal(err)
	}
	was := pid(root)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(4 * time.Second) // longer than an idle process lives
	read(t, dir, "hello", "hello\n")
	again := open(t, root, lazy.Settings{NoBackgroundFetch: true, PrefetchSize: 1}, nil)
	if err := again.Check(t.Context(), dir, reg.labels(b)); err != nil || pid(root) != was {
		t.Errorf("process %d, then %d: %v", was, pid(root), err)
	}
	read(t, dir, "dir/other", "other\n")
	if err := again.Unmount(t.Context(), dir); err != nil {
		t.Error(err)
	}
}

func TestDeadRegistry(t *testing.T) {
	t.Parallel()
	b := pack(t, files())
	good := startRegistry(t, b)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	f, root := start(t, lazy.Settings{NoBackgroundFetch: true, MountTimeout: time.Second}, nil)
	for name, host := range map[string]string{"silent": silent.Addr().String(), "refused": "127.0.0.1:1"} {
		labels := good.labels(b)
		labels["containerd.io/snapshot/remote/stargz.reference"] = host + "/a:1"
		dir := shown(t, f, root)
		begin := time.Now()
		err := f.Mount(context.Background(), dir, labels)
		if d := time.Since(begin); err == nil || d > 5*time.Second || !strings.Contains(err.Error(), host) {
			t.Errorf("%s: after %s: %v", name, d, err)
		}
	}
	dir := shown(t, f, root)
	if err := f.Mount(t.Context(), dir, good.labels(b)); err != nil {
		t.Fatal(err)
	}
	good.setCheck(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusNotFound); return false })
	if _, err := os.ReadFile(filepath.Join(dir, "big/1")); err == nil {
		t.Error("read from a dead registry")
	}
	good.setCheck(nil)
	if err := f.Check(t.Context(), dir, good.labels(b)); err != nil {
		t.Error(err)
	}
	read(t, dir, "big/1", string(files()["big/1"]))
}

func TestGrants(t *testing.T) {
	t.Parallel()
	b := pack(t, files())
	reg := startRegistry(t, b)
	reg.setCheck(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == "Bearer right" {
			return true
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return false
	})
	var ended atomic.Bool
	f, root := start(t, quiet, func(_ context.Context, c lazy.Challenge) (string, error) {
		if c.Grant != "ann" || ended.Load() {
			return "", fmt.Errorf("grant %s: %w", c.Grant, errdefs.ErrNotFound)
		}
		if len(c.Challenges) != 1 || !strings.HasPrefix(c.URL, reg.URL) {
			return "", fmt.Errorf("a strange challenge: %+v", c)
		}
		return "Bearer right", nil
	})
	with := func(grant string) map[string]string {
		l := reg.labels(b)
		if grant != "" {
			l[lazy.LabelGrant] = grant
		}
		return l
	}
	for _, grant := range []string{"", "bob"} {
		dir := shown(t, f, root)
		if err := f.Mount(t.Context(), dir, with(grant)); err == nil {
			t.Errorf("%q: mounted", grant)
		}
	}
	dir := shown(t, f, root)
	if err := f.Mount(t.Context(), dir, with("ann")); err != nil {
		t.Fatal(err)
	}
	ended.Store(true)
	read(t, dir, "big/1", string(files()["big/1"])) // what the registry was shown still does
}

func TestBackgroundAndCache(t *testing.T) {
	t.Parallel()
	b := pack(t, files(), zstdChunked())
	reg := startRegistry(t, b)
	const limit = 1 << 20
	f, root := start(t, lazy.Settings{CacheSize: limit}, nil)
	dir := shown(t, f, root)
	if err := f.Mount(t.Context(), dir, reg.labels(b)); err != nil {
		t.Fatal(err)
	}
	read(t, dir, "hello", "hello\n")
	eventually(t, func() error {
		if n := reg.sent.Load(); n < int64(len(b.data)) {
			return fmt.Errorf("%d bytes of %d were fetched in the background", n, len(b.data))
		}
		return nil
	})
	eventually(t, func() error {
		if n := diskUsage(root); n > limit {
			return fmt.Errorf("%d bytes on disk", n)
		}
		return nil
	})
	for i := range 40 {
		name := fmt.Sprintf("big/%d", i)
		read(t, dir, name, string(files()[name]))
	}
}

func TestPrefetch(t *testing.T) {
	t.Parallel()
	first := estargz.WithPrioritizedFiles([]string{"big/1", "big/2"})
	for name, b := range map[string]blob{"eStargz": pack(t, files(), first), "zstd:chunked": pack(t, files(), first, zstdChunked())} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := startRegistry(t, b)
			f, root := start(t, quiet, nil)
			dir := shown(t, f, root)
			if err := f.Mount(t.Context(), dir, reg.labels(b)); err != nil {
				t.Fatal(err)
			}
			if err := f.Check(t.Context(), dir, reg.labels(b)); err != nil { // waits for it
				t.Fatal(err)
			}
			before := reg.sent.Load()
			if before > int64(len(b.data))/2 {
				t.Errorf("%d bytes of %d fetched", before, len(b.data))
			}
			read(t, dir, "big/1", string(files()["big/1"]))
			read(t, dir, "big/2", string(files()["big/2"]))
			if n := reg.sent.Load() - before; n > 0 {
				t.Errorf("%d bytes fetched of what comes before the landmark", n)
			}
		})
	}
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Error(err)
}

func diskUsage(root string) (n int64) {
	_ = filepath.WalkDir(filepath.Join(root, "fs", "cache"), func(name string, d os.DirEntry, _ error) error {
		var st syscall.Stat_t
		if d != nil && d.Type().IsRegular() && syscall.Lstat(name, &st) == nil {
			n += st.Blocks * 512
		}
		return nil
	})
	return n
}

// TestRootIsRemoved: whoever removes the root has taken everything off by force.
func TestRootIsRemoved(t *testing.T) {
	t.Parallel()
	b := pack(t, map[string][]byte{"hello": []byte("hello\n")})
	reg := startRegistry(t, b)
	f, root := start(t, quiet, nil)
	dir := shown(t, f, root)
	if err := f.Mount(t.Context(), dir, reg.labels(b)); err != nil {
		t.Fatal(err)
	}
	if err := lazy.Detach(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(root, "fs")); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if n := pid(root); n != 0 {
			return fmt.Errorf("process %d is left", n)
		}
		return nil
	})
}
