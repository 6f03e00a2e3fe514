package snapshotter

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kiln-build/kiln/integration/testbed"
)

// lazyBed is a bed with a base image that can be pulled lazily.
type lazyBed struct {
	*bed
	*testbed.Counter
	repo    string // of the base
	digests []string
	size    int64
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
	b := &lazyBed{Counter: registry.Count()}
	b.repo = strings.ToLower(strings.NewReplacer("/", "-", "#", "-", ".", "-").Replace(t.Name()))
	t.Cleanup(b.Close)
	img, err := testbed.Busybox()
	if err == nil {
		img, err = testbed.WithNoise(img, 40, 512<<10)
	}
	if err == nil {
		img, err = testbed.Lazy(img, format)
	}
	if err == nil {
		err = registry.PushImage(b.repo+":1", img)
	}
	if err == nil {
		b.digests, b.size, err = testbed.LayerDigests(img)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.bed = start(t, b.Host)
	return b
}

func (b *lazyBed) base() string { return b.Host + "/" + b.repo + ":1" }

// part fails if more than a quarter of the base was fetched.
func (b *lazyBed) part(what string) {
	b.Helper()
	n := b.Fetched(b.digests...)
	b.Logf("%s: %d bytes of %d fetched", what, n, b.size)
	if n == 0 || n > b.size/4 {
		b.Errorf("%s: %d bytes of the base's %d were fetched", what, n, b.size)
	}
}

// notDownloaded fails if the content store has a layer of the base.
func (b *lazyBed) notDownloaded() {
	b.Helper()
	have := b.ctr("content", "ls", "-q")
	for _, d := range b.digests {
		if strings.Contains(have, d) {
			b.Errorf("layer %s of the base was downloaded", d)
		}
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
			b.ctr("images", "pull", "--plain-http", b.base())
			if out := b.container(b.base(), "echo", "pulled"); out != "pulled\n" {
				t.Errorf("the container says %q", out)
			}
			b.part("pull and run")
			b.ctr("run", "--detach", b.base(), b.name(), "sleep", "1000")
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
			if out := b.container(b.base(), "wc", "-c", "/noise/9"); !strings.HasPrefix(out, "524288 ") {
				t.Errorf("after a crash: %q", out)
			}
			b.empty()
		})
	}
}

func TestLazyDeadRegistry(t *testing.T) {
	t.Parallel()
	b := startLazy(t, testbed.EStargz)
	b.ctr("images", "pull", "--plain-http", b.base())
	b.Kill(true)
	begin := time.Now()
	if _, err := b.try(b.onKiln(b.containerd.Ctr("images", "pull", "--plain-http", b.Host+"/other:1"))); err == nil {
		t.Error("pulled from a dead registry")
	}
	if _, err := b.try(b.running(b.base(), "cat", "/noise/1")); err == nil {
		t.Error("read from a dead registry")
	}
	// Others aren't concerned.
	busybox := registry.Host + "/busybox:latest"
	b.ctr("images", "pull", "--plain-http", busybox)
	if out := b.container(busybox, "echo", "alive"); out != "alive\n" {
		t.Errorf("the container says %q", out)
	}
	if d := time.Since(begin); d > time.Minute {
		t.Errorf("it took %s", d)
	}
	b.Kill(false)
	if out := b.container(b.base(), "wc", "-c", "/noise/1"); !strings.HasPrefix(out, "524288 ") {
		t.Errorf("when the registry is back: %q", out)
	}
	b.empty()
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
	app := "FROM " + b.base() + " AS base\nRUN echo built > /app && rm /noise/3\nFROM " + b.base() + "\nCOPY --from=base /app /bin/sh /copied/\nRUN cat /copied/app\nCMD cat /copied/app\n"
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
	b.build("FROM " + b.base() + "\nRUN true\n")
	b.must(syscall.Kill(b.shower(), syscall.SIGKILL))
	b.build("FROM " + b.base() + "\nRUN wc -c /noise/1\n")
	// During a step: the first run of it loses its base.
	dir := b.TempDir()
	b.must(os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM "+b.base()+"\nRUN sleep 4; wc -c /noise/2 # "+b.repo+"\n"), 0o600))
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
		cmd := b.building("FROM " + b.base() + "\nRUN " + step + "\n")
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
