package snapshotter

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kiln-build/kiln/integration/testbed"
)

// lazyImage is an image that can be pulled lazily, behind what counts its bytes.
type lazyImage struct {
	*testbed.Counter
	repo    string
	digests []string
	size    int64
}

// pushLazy puts an image into a registry, with 40 files of noise of 512 KiB that no
// other image here has.
func pushLazy(t *testing.T, r *testbed.Registry, format testbed.LazyFormat) *lazyImage {
	t.Helper()
	i := &lazyImage{Counter: r.Count()}
	_, port, _ := strings.Cut(i.Host, ":")
	i.repo = strings.ToLower(strings.NewReplacer("/", "-", "#", "-", ".", "-").Replace(t.Name() + "-" + port))
	t.Cleanup(i.Close)
	img, err := testbed.Busybox()
	if err == nil {
		img, err = testbed.WithOtherNoise(img, int64(crc32.ChecksumIEEE([]byte(i.Host))), 40, 512<<10)
	}
	if err == nil {
		img, err = testbed.Lazy(img, format)
	}
	if err == nil {
		err = r.PushImage(i.repo+":1", img)
	}
	if err == nil {
		i.digests, i.size, err = testbed.LayerDigests(img)
	}
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func (i *lazyImage) ref() string { return i.Host + "/" + i.repo + ":1" }

// part fails if more than a quarter of the image was fetched.
func (i *lazyImage) part(t testing.TB, what string) {
	t.Helper()
	n := i.Fetched(i.digests...)
	t.Logf("%s: %d bytes of %d fetched", what, n, i.size)
	if n == 0 || n > i.size/4 {
		t.Errorf("%s: %d bytes of the image's %d were fetched", what, n, i.size)
	}
}

// downloaded tells which layers containerd's content store has.
func (i *lazyImage) downloaded(b *bed) (have []string) {
	b.Helper()
	all := b.ctr("content", "ls", "-q")
	for _, d := range i.digests {
		if strings.Contains(all, d) {
			have = append(have, d)
		}
	}
	return have
}

// lazyBed is a bed with a base image that can be pulled lazily.
type lazyBed struct {
	*bed
	*lazyImage
}

func startLazy(t *testing.T, format testbed.LazyFormat) *lazyBed {
	t.Helper()
	return startLazyOn(t, format, func(t *testing.T, _ string) *bed {
		return startOn(t, testbed.Containerd2, "--lazy-background-fetch=false")
	})
}

// startLazyOn is startLazy on a containerd and a daemon of start's, which is given
// the base's registry.
func startLazyOn(t *testing.T, format testbed.LazyFormat, start func(_ *testing.T, host string) *bed) *lazyBed {
	t.Helper()
	image := pushLazy(t, registry, format)
	return &lazyBed{start(t, image.Host), image}
}

func (b *lazyBed) part(what string) {
	b.Helper()
	b.lazyImage.part(b, what)
}

// notDownloaded fails if the content store has a layer of the base.
func (b *lazyBed) notDownloaded() {
	b.Helper()
	if have := b.downloaded(b.bed); len(have) > 0 {
		b.Errorf("layers %v of the base were downloaded", have)
	}
}

// shower is the process that shows lazy layers.
func (b *lazyBed) shower() int {
	b.Helper()
	procs, err := testbed.Processes(b.daemon.Dir)
	b.must(err)
	for _, p := range procs {
		var pid int
		if _, err := fmt.Sscan(p, &pid); err == nil && strings.Contains(p, "serve-lazy-layers") {
			return pid
		}
	}
	b.Fatalf("no process shows lazy layers, there are %v", procs)
	return 0
}

func TestLazyPull(t *testing.T) {
	t.Parallel()
	for _, format := range []testbed.LazyFormat{testbed.EStargz, testbed.ZstdChunked} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			b := startLazy(t, format)
			b.ctr("images", "pull", "--plain-http", b.ref())
			if out := b.container(b.ref(), "echo", "pulled"); out != "pulled\n" {
				t.Errorf("the container says %q", out)
			}
			b.part("pull and run")
			b.ctr("run", "--detach", b.ref(), b.name(), "sleep", "1000")
			shower := b.shower()
			b.must(b.daemon.Kill())
			if out := b.ctr("tasks", "exec", "--exec-id", "x", b.name(), "wc", "-c", "/noise/7"); !strings.HasPrefix(out, "524288 ") {
				t.Errorf("without the daemon: %q", out)
			}
			b.daemon.Start(t)
			if out := b.ctr("tasks", "exec", "--exec-id", "y", b.name(), "wc", "-c", "/noise/8"); !strings.HasPrefix(out, "524288 ") {
				t.Errorf("with another daemon: %q", out)
			}
			if now := b.shower(); now != shower {
				t.Errorf("process %d shows the layers, it was %d", now, shower)
			}
			b.end()
			// What shows the layers dies: the next container has them again.
			b.must(syscall.Kill(b.shower(), syscall.SIGKILL))
			if out := b.container(b.ref(), "wc", "-c", "/noise/9"); !strings.HasPrefix(out, "524288 ") {
				t.Errorf("after a crash: %q", out)
			}
			b.empty()
		})
	}
}

// TestLazyDeadRegistry: a registry that is dead, or takes requests and doesn't answer
// them, fails those who need it, and nobody else meanwhile.
func TestLazyDeadRegistry(t *testing.T) {
	t.Parallel()
	for name, kill := range map[string]func(*lazyBed, bool){
		"hangs up": func(b *lazyBed, dead bool) { b.Kill(dead) },
		"silent":   func(b *lazyBed, dead bool) { b.Hang(dead) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := filepath.Join(t.TempDir(), "kilnd.toml")
			if err := os.WriteFile(config, []byte("[snapshots.lazy]\nbackgroundFetch = false\nmountTimeout = \"8s\"\nfetchTimeout = \"8s\"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			b := startLazyOn(t, testbed.EStargz, func(t *testing.T, _ string) *bed { return startOn(t, testbed.Containerd2, "--config", config) })
			b.ctr("images", "pull", "--plain-http", b.ref())
			kill(b, true)
			pull := b.onKiln(b.containerd.Ctr("images", "pull", "--plain-http", b.Host+"/other:1"))
			b.must(pull.Start())
			begin := time.Now()
			read := make(chan error, 1)
			go func() { read <- second(b.try(b.running(b.ref(), "cat", "/noise/1"))) }()
			// Others aren't concerned.
			busybox := registry.Host + "/busybox:latest"
			b.ctr("images", "pull", "--plain-http", busybox)
			if out := b.container(busybox, "echo", "alive"); out != "alive\n" {
				t.Errorf("the container says %q", out)
			}
			b.build(app)
			t.Logf("others had what they wanted after %s", time.Since(begin))
			if d := time.Since(begin); d > 15*time.Second {
				t.Errorf("others had to wait for %s", d)
			}
			if err := <-read; err == nil {
				t.Error("read from a dead registry")
			} else {
				t.Logf("after %s: %s", time.Since(begin), last(err.Error()))
			}
			if d := time.Since(begin); d > time.Minute {
				t.Errorf("it took %s", d)
			}
			kill(b, false)
			if err := pull.Wait(); err == nil { // which has ended, or goes on now
				t.Error("pulled what there isn't")
			}
			if out := b.container(b.ref(), "wc", "-c", "/noise/1"); !strings.HasPrefix(out, "524288 ") {
				t.Errorf("when the registry is back: %q", out)
			}
			b.empty()
		})
	}
}

// TestLazyInBackground: what nobody has read is fetched meanwhile, so that all can be
// read when the registry has gone; what is kept of it is bounded.
func TestLazyInBackground(t *testing.T) {
	t.Parallel()
	sum := "cat /noise/* | wc -c"
	t.Run("fetch", func(t *testing.T) {
		t.Parallel()
		b := startLazyOn(t, testbed.ZstdChunked, func(t *testing.T, _ string) *bed { return start(t) })
		b.ctr("images", "pull", "--plain-http", b.ref())
		b.must(testbed.Eventually(time.Minute, func() error {
			if n := b.Fetched(b.digests...); n < b.size {
				return fmt.Errorf("%d bytes of %d were fetched", n, b.size)
			}
			return nil
		}))
		b.notDownloaded()
		// What was verified is kept, what came over the network is not.
		cache := filepath.Join(b.daemon.Root, "snapshots", "lazy", "cache")
		b.must(testbed.Eventually(20*time.Second, func() error {
			if n := kept(filepath.Join(cache, "fscache")); n < 40*512<<10 {
				return fmt.Errorf("%d bytes are kept", n)
			}
			return nil
		}))
		raw, err := filepath.Glob(filepath.Join(cache, "httpcache", "*", "??"))
		b.must(err)
		for _, dir := range raw {
			b.must(os.RemoveAll(dir))
		}
		b.Kill(true)
		if out := b.container(b.ref(), "sh", "-c", sum); out != "20971520\n" {
			t.Errorf("without the registry: %q", out)
		}
		b.Kill(false)
		b.empty()
	})
	t.Run("bound", func(t *testing.T) {
		t.Parallel()
		const limit = 4 << 20
		b := startLazyOn(t, testbed.EStargz, func(t *testing.T, _ string) *bed {
			return startOn(t, testbed.Containerd2, "--lazy-cache-size", fmt.Sprint(limit))
		})
		b.ctr("images", "pull", "--plain-http", b.ref())
		for range 2 {
			if out := b.container(b.ref(), "sh", "-c", sum); out != "20971520\n" {
				t.Errorf("the container says %q", out)
			}
			b.must(testbed.Eventually(30*time.Second, func() error {
				if n := kept(filepath.Join(b.daemon.Root, "snapshots", "lazy", "cache")); n > limit || n == 0 {
					return fmt.Errorf("%d bytes are kept", n)
				}
				return nil
			}))
		}
		b.empty()
	})
}

// kept is what the files below a folder take on disk.
func kept(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(name string, d os.DirEntry, _ error) error { // files go meanwhile
		var st syscall.Stat_t
		if d != nil && d.Type().IsRegular() && syscall.Lstat(name, &st) == nil {
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum
}

func TestLazyBuild(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) *lazyBed{
		"estargz":     func(t *testing.T) *lazyBed { return startLazy(t, testbed.EStargz) },
		"zstdchunked": func(t *testing.T) *lazyBed { return startLazy(t, testbed.ZstdChunked) },
		"1.7": func(t *testing.T) *lazyBed {
			return startLazyOn(t, testbed.EStargz, func(t *testing.T, _ string) *bed {
				return startOn(t, testbed.Containerd17, "--lazy-background-fetch=false")
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t)
			b.buildAndPush()
			b.empty()
		})
	}
}

// buildAndPush builds on the base, which nobody fetches for that.
func (b *lazyBed) buildAndPush() {
	b.Helper()
	app := "FROM " + b.ref() + " AS base\nRUN echo built > /app && rm /noise/3\nFROM " + b.ref() + "\nCOPY --from=base /app /bin/sh /copied/\nRUN cat /copied/app\nCMD cat /copied/app\n"
	name := b.Host + "/app-" + b.repo + ":1"
	begin := time.Now()
	b.build(app, "--output", "type=image,push=true,name="+name)
	b.Logf("built and pushed in %s", time.Since(begin))
	b.part("build and push")
	if out := b.build(app); strings.Count(out, "CACHED") < 3 {
		b.Errorf("built again:\n%s", out)
	}
	pushed, err := registry.Image("app-" + b.repo + ":1")
	b.must(err)
	digests, _, err := testbed.LayerDigests(pushed)
	b.must(err)
	if len(digests) != len(b.digests)+2 || strings.Join(digests[:len(b.digests)], " ") != strings.Join(b.digests, " ") {
		b.Errorf("layers %v, the base has %v", digests, b.digests)
	}
	b.notDownloaded()
	if out := b.container(name); out != "built\n" {
		b.Errorf("the container says %q", out)
	}
	b.part("with a container of the result")
	// An archive is complete.
	tar := filepath.Join(b.TempDir(), "app.tar")
	b.build(app, "--output", "type=oci,name=example.test/app:1,dest="+tar)
	list := b.run(exec.Command("tar", "tf", tar)).stdout
	for _, d := range b.digests {
		if !strings.Contains(list, strings.TrimPrefix(d, "sha256:")) {
			b.Errorf("the archive lacks layer %s", d)
		}
	}
}

func TestLazyBaseIsLost(t *testing.T) {
	t.Parallel()
	b := startLazy(t, testbed.EStargz)
	b.build("FROM " + b.ref() + "\nRUN true\n")
	b.must(syscall.Kill(b.shower(), syscall.SIGKILL))
	b.build("FROM " + b.ref() + "\nRUN wc -c /noise/1\n")
	// During a step: the first run of it loses its base.
	dir := b.TempDir()
	b.must(os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM "+b.ref()+"\nRUN sleep 4; wc -c /noise/2 # "+b.repo+"\n"), 0o600))
	cmd := b.daemon.Client("kiln", "build", dir)
	done := make(chan string, 1)
	go func() {
		out, err := b.try(cmd)
		if err != nil {
			out.stderr = err.Error()
		}
		done <- out.stderr
	}()
	b.must(testbed.Eventually(time.Minute, func() error { return running("wc -c /noise/2 # " + b.repo) }))
	b.must(syscall.Kill(b.shower(), syscall.SIGKILL))
	if out := <-done; !strings.Contains(out, "524288 /noise/2") {
		t.Errorf("the build says\n%s", out)
	}
	b.empty()
}

// running fails unless there is a process with the text in its arguments.
func running(text string) error {
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if line, rerr := os.ReadFile(p); rerr == nil && strings.Contains(string(line), text) {
			return nil
		}
	}
	return errors.Join(err, fmt.Errorf("no process runs %q", text))
}

// TestLazyCredentials: what a session's credentials opened is read on with them,
// and they open nothing for those who have none.
func TestLazyCredentials(t *testing.T) {
	t.Parallel()
	b := startLazy(t, testbed.EStargz)
	b.Protect("ann", "secret")
	home := b.TempDir()
	b.must(os.WriteFile(filepath.Join(home, "config.json"), fmt.Appendf(nil, `{"auths":{%q:{"username":"ann","password":"secret"}}}`, b.Host), 0o600))
	build := func(step string, env ...string) (ran, error) {
		cmd := b.building("FROM " + b.ref() + "\nRUN " + step + "\n")
		cmd.Env = append(append(os.Environ(), "DOCKER_CONFIG="+b.TempDir()), env...)
		return b.try(cmd)
	}
	ann := "DOCKER_CONFIG=" + home
	if _, err := build("true"); err == nil {
		t.Error("built on a private image without credentials")
	}
	if _, err := build("wc -c /noise/1", ann); err != nil {
		t.Error(err)
	}
	b.part("with credentials")
	if _, err := build("wc -c /noise/2"); err == nil {
		t.Error("another one's credentials opened a private image")
	}
	// The process that knew what the registry was shown has gone.
	b.must(syscall.Kill(b.shower(), syscall.SIGKILL))
	if _, err := build("wc -c /noise/3"); err == nil {
		t.Error("another one's credentials opened a private image")
	}
	if out, err := build("wc -c /noise/4", ann); err != nil || !strings.Contains(out.stderr, "524288 /noise/4") {
		t.Errorf("%v\n%s", err, out.stderr)
	}
	b.part("again with credentials")
	b.empty()
}

// TestOthersLazySnapshotter builds on the lazy snapshotter of somebody else.
func TestOthersLazySnapshotter(t *testing.T) {
	t.Parallel()
	for _, format := range []testbed.LazyFormat{testbed.EStargz, testbed.ZstdChunked} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			b := startLazyOn(t, format, stargz)
			b.buildAndPush()
			for image := range strings.FieldsSeq(b.ctr("images", "ls", "-q")) {
				b.ctr("images", "rm", "--sync", image)
			}
			b.kiln("prune", "--all")
			b.must(testbed.Eventually(20*time.Second, func() error {
				b.collect()
				if left := b.ctr("snapshots", "ls"); strings.Count(left, "\n") > 1 {
					return fmt.Errorf("left:\n%s", left)
				}
				return nil
			}))
		})
	}
}

// TestLazyLayerOfTwoRegistries: a layer that two registries have is shown once. What
// is pushed to the other one has it from there.
func TestLazyLayerOfTwoRegistries(t *testing.T) {
	t.Parallel()
	other, err := testbed.StartRegistry(testbed.Dir(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Stop() }) // there is nothing that it could lose
	b := startLazy(t, testbed.EStargz)
	for _, i := range []*lazyImage{b.lazyImage, pushLazy(t, other, testbed.EStargz), b.lazyImage} {
		b.build("FROM "+i.ref()+"\nRUN wc -c /noise/1\n", "--tag", i.Host+"/app-"+i.repo+":1", "--push")
		i.part(t, i.Host)
	}
	b.notDownloaded()
	b.empty()
}
