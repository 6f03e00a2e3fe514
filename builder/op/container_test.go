package op

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/sandboxtest"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/session/sessiontest"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// execBench runs processes on a real store, by what starts them where nothing else is
// configured.
type execBench struct {
	*fileBench
	cfg *ExecConfig
	job schedule.Job
	// root is a tree with a busybox.
	root *layer.Layer
}

var cgroups atomic.Int64

func newExecBench(t *testing.T) *execBench {
	b := newFileBench(t)
	parent := fmt.Sprintf("kiln-op-test-%d-%d", os.Getpid(), cgroups.Add(1))
	runner, err := sandbox.New(sandbox.Config{
		Init: sandboxtest.InitBinary(t), Binary: sandboxtest.RuntimeBinary(t), StateDir: t.TempDir(), CgroupParent: parent,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := runner.Close(); err != nil {
			t.Error(err)
		}
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + parent + "/kiln")
		for _, dir := range dirs {
			os.Remove(dir)
			os.Remove(filepath.Dir(dir))
		}
	})
	sessions := session.NewManager()
	client, _ := sessiontest.Open(t, sessions, "", secretsprovider.FromMap(map[string][]byte{"s": []byte("hidden")}))
	return &execBench{
		fileBench: b,
		cfg: &ExecConfig{
			Layers: b.layers, Runner: runner, Sessions: sessions, Caches: NewCacheMounts(b.layers, keepNothing{}), Dir: t.TempDir(),
		},
		job:  schedule.Job{Sessions: func() []string { return []string{client.ID()} }},
		root: b.busybox(t),
	}
}

// keepNothing leaves cache mounts on the lease of whoever uses them.
type keepNothing struct{}

func (keepNothing) Keep(ctx context.Context, _, _ string) (context.Context, func(), error) {
	return ctx, func() {}, nil
}
func (keepNothing) Drop(context.Context, string) error { return nil }

func (b *fileBench) busybox(t *testing.T) *layer.Layer {
	t.Helper()
	w, err := b.layers.NewWorkspace(b.ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := w.Dir(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", sandboxtest.NewRoot(t)+"/.", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l, err := w.Commit(b.ctx, layer.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func bind(dest string, input int64) *pb.Mount {
	return &pb.Mount{Dest: dest, Input: input, Output: -1}
}

// container makes one with the busybox tree as input 0.
func (b *execBench) container(spec ContainerSpec) (*Container, error) {
	spec.Inputs = append([]*layer.Layer{b.root}, spec.Inputs...)
	return b.cfg.NewContainer(b.ctx, b.job, spec)
}

func (b *execBench) mustContainer(spec ContainerSpec) *Container {
	b.t.Helper()
	c, err := b.container(spec)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

// sh runs a script and returns what it prints.
func sh(c *Container, script string) (string, error) {
	return output(c, Process{Args: []string{"/bin/sh", "-c", script}})
}

func output(c *Container, p Process) (string, error) {
	var stdout, stderr bytes.Buffer
	err := c.Run(context.Background(), p, sandbox.IO{Stdout: &stdout, Stderr: &stderr})
	return strings.TrimSpace(stdout.String() + stderr.String()), err
}

// background starts the first process of a container and waits until it runs.
func background(t *testing.T, c *Container) (end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx, Process{Args: []string{"/bin/sleep", "60"}}, sandbox.IO{}) }()
	select {
	case <-c.Up():
	case err := <-ended:
		t.Fatal(err)
	}
	return func() error { cancel(); return <-ended }
}

func TestContainer(t *testing.T) {
	t.Parallel()
	b := newExecBench(t)
	data := b.must(fileStep(0, mkdir(-1, -1, "d", nil), mkfile(0, 0, "d/f", "data")))
	before := b.snapshots()
	c := b.mustContainer(ContainerSpec{
		Mounts: []*pb.Mount{
			{Dest: "/data", Input: 1, Output: -1, Readonly: true, Selector: "d"},
			bind("/", 0),
			bind("/new", -1),
			{Dest: "/tmp", Input: -1, Output: -1, MountType: pb.MountType_TMPFS},
			{Dest: "/cache", Input: -1, Output: -1, MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "c"}},
			{Dest: "/run/s", Input: -1, Output: -1, MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "s", Mode: 0o400}},
		},
		Inputs:   []*layer.Layer{data},
		Hostname: "box", ExtraHosts: []*pb.HostIP{{Host: "other", IP: "192.0.2.7"}},
	})
	end := background(t, c)
	for script, want := range map[string]string{
		"cat /data/f /run/s":                                    "datahidden",
		"echo x > /data/f || echo refused":                      "refused\n/bin/sh: can't create /data/f: Read-only file system",
		"hostname; grep -c 192.0.2.7 /etc/hosts":                "box\n1",
		"pwd; echo $PATH":                                       "/\n" + defaultPath,
		"echo 1 > /root-file; echo 2 > /new/f; echo 3 > /tmp/f": "",
		"ps | grep -c '[s]leep 60'":                             "1",
	} {
		if got, err := sh(c, script); err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", script, got, err, want)
		}
	}
	for mount, want := range map[int]string{0: "f", 1: "root-file", 2: "f"} {
		dir, err := c.Dir(mount)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, want)); err != nil {
			t.Errorf("mount %d: %v", mount, err)
		}
	}
	for _, mount := range []int{-1, 3, 5, 6} {
		if dir, err := c.Dir(mount); !errdefs.IsInvalidArgument(err) {
			t.Errorf("mount %d lies at %q, %v", mount, dir, err)
		}
	}
	if err := end(); !errors.Is(err, context.Canceled) {
		t.Errorf("the first process ended with %v", err)
	}
	if _, err := sh(c, "true"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a process after the first one's end: %v", err)
	}
	c.Close(b.ctx)
	// The cache mount stays.
	if left := b.snapshots() - before; left != 1 {
		t.Errorf("%d snapshots are left", left)
	}
	b.nothingMounted()
}

// nothingMounted checks that all mounts but those of idle layers are gone.
func (b *execBench) nothingMounted() {
	b.t.Helper()
	if err := b.layers.Settle(); err != nil {
		b.t.Error(err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		for _, dir := range []string{filepath.Dir(b.cfg.Dir), b.cfg.Dir} {
			if strings.Contains(line, " "+dir+"/") {
				b.t.Errorf("mounted: %s", line)
			}
		}
	}
	if entries, err := os.ReadDir(b.cfg.Dir); err != nil || len(entries) > 0 {
		b.t.Errorf("left in the directory of secrets and sockets: %v, %v", entries, err)
	}
}

func TestContainerProcesses(t *testing.T) {
	t.Parallel()
	b := newExecBench(t)
	first := func(spec ContainerSpec, p Process) (string, error) {
		spec.Mounts = []*pb.Mount{bind("/", 0)}
		c := b.mustContainer(spec)
		defer c.Close(b.ctx)
		return output(c, p)
	}
	env := Process{Args: []string{"/bin/sh", "-c", "echo $PATH $TERM $SECRET $A"}}
	with := func(change func(*Process)) Process {
		p := env
		change(&p)
		return p
	}
	for name, c := range map[string]struct {
		spec ContainerSpec
		p    Process
		want string
	}{
		"defaults":     {p: env, want: defaultPath},
		"other system": {spec: ContainerSpec{Platform: ocispec.Platform{OS: "windows"}}, p: env, want: defaultWindowsPath},
		"own values":   {p: with(func(p *Process) { p.Env = []string{"PATH=/x", "A=1"} }), want: "/x 1"},
		"terminal":     {p: with(func(p *Process) { p.Terminal = true }), want: defaultPath + " xterm"},
		"own terminal": {p: with(func(p *Process) { p.Terminal, p.Env = true, []string{"TERM=vt"} }), want: defaultPath + " vt"},
		"secrets": {p: with(func(p *Process) {
			p.SecretEnv = []*pb.SecretEnv{{ID: "s", Name: "SECRET"}, {ID: "absent", Name: "A", Optional: true}}
		}), want: defaultPath + " hidden"},
		"user":      {p: Process{Args: []string{"/bin/id", "-u"}, User: "7:8"}, want: "7"},
		"directory": {p: Process{Args: []string{"/bin/pwd"}, Cwd: "/made"}, want: "/made"},
	} {
		if got, err := first(c.spec, c.p); err != nil || strings.TrimSpace(strings.ReplaceAll(got, "  ", " ")) != c.want {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, c.want)
		}
	}
	_, err := first(ContainerSpec{}, with(func(p *Process) { p.SecretEnv = []*pb.SecretEnv{{ID: "absent"}} }))
	if !errdefs.IsNotFound(err) {
		t.Errorf("an absent secret: %v", err)
	}
	_, err = first(ContainerSpec{}, with(func(p *Process) { p.Security = 2 }))
	if err == nil || !strings.Contains(err.Error(), "invalid security mode") {
		t.Errorf("an unknown security mode: %v", err)
	}
	_, err = first(ContainerSpec{}, Process{})
	if err == nil || !strings.Contains(err.Error(), "no command") {
		t.Errorf("no command: %v", err)
	}
}

func TestContainerFirstFails(t *testing.T) {
	t.Parallel()
	b := newExecBench(t)
	c := b.mustContainer(ContainerSpec{Mounts: []*pb.Mount{bind("/", 0)}})
	defer c.Close(b.ctx)
	_, err := output(c, Process{Args: []string{"/absent"}})
	var start *sandbox.StartError
	if !errors.As(err, &start) {
		t.Errorf("got %v", err)
	}
	if _, err := sh(c, "true"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a process after the first one's failure: %v", err)
	}
	select {
	case <-c.Up():
		t.Error("it ran")
	default:
	}
}

func TestContainerSignals(t *testing.T) {
	t.Parallel()
	b := newExecBench(t)
	c := b.mustContainer(ContainerSpec{Mounts: []*pb.Mount{bind("/", 0)}})
	defer c.Close(b.ctx)
	end := background(t, c)
	signals := make(chan syscall.Signal, 1)
	ready, out, _ := os.Pipe()
	ended := make(chan error, 1)
	go func() {
		script := "trap 'exit 9' HUP; echo ready; while :; do sleep 0.1; done"
		ended <- c.Run(context.Background(), Process{Args: []string{"/bin/sh", "-c", script}}, sandbox.IO{Stdout: out, Signal: signals})
		out.Close()
	}()
	if _, err := ready.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	signals <- syscall.SIGHUP
	var exit *sandbox.ExitError
	if err := <-ended; !errors.As(err, &exit) || exit.Code != 9 {
		t.Errorf("got %v", err)
	}
	// One that waits for nothing dies with the first one.
	go func() {
		_, err := sh(c, "sleep 60")
		ended <- err
	}()
	time.Sleep(100 * time.Millisecond)
	end()
	if err := <-ended; err == nil {
		t.Error("a process outlived the first one")
	}
}

func TestBadContainers(t *testing.T) {
	t.Parallel()
	b := newExecBench(t)
	before := b.snapshots()
	for name, c := range map[string]struct {
		spec ContainerSpec
		want string
	}{
		"nothing":            {ContainerSpec{}, "root mount is required"},
		"no root":            {ContainerSpec{Mounts: []*pb.Mount{bind("/x", 0)}}, "root mount is required"},
		"root of other type": {ContainerSpec{Mounts: []*pb.Mount{{Dest: "/", MountType: pb.MountType_TMPFS}}}, "invalid mount type TMPFS for /"},
		"network":            {ContainerSpec{Mounts: []*pb.Mount{bind("/", 0)}, Network: 9}, "invalid network mode 9"},
		"mount type":         {ContainerSpec{Mounts: []*pb.Mount{bind("/", 0), {Dest: "/x", MountType: 99, Input: -1}}}, "type 99 is not known"},
		"selector":           {ContainerSpec{Mounts: []*pb.Mount{bind("/", 0), {Dest: "/x", Input: 0, Selector: "../absent"}}}, `mount /x: "/absent": not found`},
		"secret":             {ContainerSpec{Mounts: []*pb.Mount{bind("/", 0), {Dest: "/x", Input: -1, MountType: pb.MountType_SECRET}}}, "secret mount without options"},
		"ssh":                {ContainerSpec{Mounts: []*pb.Mount{bind("/", 0), {Dest: "/x", Input: -1, MountType: pb.MountType_SSH}}}, "ssh mount without options"},
	} {
		if _, err := b.container(c.spec); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
	if left := b.snapshots() - before; left != 0 {
		t.Errorf("%d snapshots are left", left)
	}
	b.nothingMounted()
}

func TestEnvironmentIsNotShared(t *testing.T) {
	t.Parallel()
	vars := slices.Grow([]string{"A=1"}, 10)
	first, second := withDefault(vars, "PATH", "x"), withDefault(vars, "PATH", "y")
	if !slices.Equal(first, []string{"A=1", "PATH=x"}) || !slices.Equal(second, []string{"A=1", "PATH=y"}) {
		t.Errorf("got %v and %v", first, second)
	}
	got := proxies(&pb.ProxyEnv{HttpProxy: "h", NoProxy: "n"})
	if want := []string{"HTTP_PROXY=h", "http_proxy=h", "NO_PROXY=n", "no_proxy=n"}; !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}
