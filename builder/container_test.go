package builder_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder"
	"github.com/kiln-build/kiln/builder/frontend"
	"github.com/kiln-build/kiln/builder/store"
	"github.com/moby/buildkit/client/llb"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
)

// system is a tree with a shell.
func system(t *testing.T) llb.State {
	t.Helper()
	name, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	files := llb.Mkdir("/bin", 0o755).Mkfile("/bin/busybox", 0o755, busybox).Mkdir("/etc", 0o755)
	for _, name := range []string{"sh", "cat", "sleep", "echo", "stty"} {
		files = files.Symlink("busybox", "/bin/"+name)
	}
	return llb.Scratch().File(files, llb.WithCustomName("system"))
}

// drive begins a build that is driven through its bridge. end ends it and waits
// until nothing of it is left.
func drive(t *testing.T, b *builder.Builder, req builder.Request) (_ *frontend.Bridge, end func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := b.Build(context.Background(), req, &watch{})
		done <- err
	}()
	bridge, err := b.Bridge(t.Context(), req.Ref)
	if err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		bridge.Return(nil, nil)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	return bridge, end
}

func solve(t *testing.T, bridge *frontend.Bridge, st llb.State) *frontend.Ref {
	t.Helper()
	res, err := bridge.Solve(t.Context(), gwclient.SolveRequest{Definition: definition(t, st)})
	if err != nil {
		t.Fatal(err)
	}
	return res.Ref
}

// on is a container's request with a writable system at /.
func on(root *frontend.Ref, mounts ...gwclient.Mount) gwclient.NewContainerRequest {
	return gwclient.NewContainerRequest{Mounts: append([]gwclient.Mount{{Dest: "/", Ref: root}}, mounts...)}
}

func container(t *testing.T, bridge *frontend.Bridge, id string, req gwclient.NewContainerRequest) *frontend.Container {
	t.Helper()
	c, err := bridge.NewContainer(t.Context(), id, req)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

type buffer struct{ bytes.Buffer }

func (*buffer) Close() error { return nil }

func begin(t *testing.T, c *frontend.Container, req gwclient.StartRequest) gwclient.ContainerProcess {
	t.Helper()
	p, err := c.Start(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// say runs a script and returns what it prints.
func say(t *testing.T, c *frontend.Container, script string) (string, error) {
	t.Helper()
	var out buffer
	err := begin(t, c, gwclient.StartRequest{Args: []string{"sh", "-c", script}, Stdout: &out}).Wait()
	return strings.TrimSpace(out.String()), err
}

// leases counts all leases of the store.
func leases(t *testing.T, st *store.Store) int {
	t.Helper()
	all, err := st.Leases.List(st.Context(context.Background()))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// openStore is open, and gives the builder's store as well.
func openStore(t *testing.T) (*builder.Builder, *store.Store) {
	t.Helper()
	var st *store.Store
	return open(t, func(cfg *builder.Config) { st = cfg.Store }), st
}

func TestContainer(t *testing.T) {
	t.Parallel()
	b, st := openStore(t)
	bridge, end := drive(t, b, builder.Request{Ref: "r"})
	root, data := solve(t, bridge, system(t)), solve(t, bridge, files())
	c := container(t, bridge, "c", on(root,
		gwclient.Mount{Dest: "/data", ResultID: data.ID(), Selector: "a", Readonly: true},
		gwclient.Mount{Dest: "/tmp", MountType: pb.MountType_TMPFS},
	))
	before := leases(t, st)
	if got, err := bridge.Container("c"); got != c || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := bridge.NewContainer(t.Context(), "c", on(root)); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a second container of that id: %v", err)
	}
	first := begin(t, c, gwclient.StartRequest{Args: []string{"sleep", "60"}})
	if got, err := say(t, c, "cat /data/hello; echo made > /made; echo hidden > /tmp/f"); err != nil || got != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
	dt, err := c.ReadFile(t.Context(), gwclient.ReadContainerRequest{ReadRequest: gwclient.ReadRequest{Filename: "/made"}})
	if err != nil || string(dt) != "made\n" {
		t.Errorf("read %q, %v", dt, err)
	}
	stat, err := c.StatFile(t.Context(), gwclient.StatContainerRequest{StatRequest: gwclient.StatRequest{Path: "hello"}, MountIndex: 1})
	if err != nil || stat.Size != 5 {
		t.Errorf("stat %v, %v", stat, err)
	}
	list, err := c.ReadDir(t.Context(), gwclient.ReadDirContainerRequest{ReadDirRequest: gwclient.ReadDirRequest{Path: "/bin", IncludePattern: "s*"}})
	if err != nil || len(list) != 3 {
		t.Errorf("list %v, %v", list, err)
	}
	if _, err := c.ReadDir(t.Context(), gwclient.ReadDirContainerRequest{MountIndex: 2}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("listed a tmpfs: %v", err)
	}
	var exit *gwpb.ExitError
	if _, err := say(t, c, "exit 7"); !errors.As(err, &exit) || exit.ExitCode != 7 {
		t.Errorf("exit %v", err)
	}

	if err := c.Release(t.Context()); !errors.Is(err, context.Canceled) {
		t.Errorf("release of a container that runs: %v", err)
	}
	if err := first.Wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("the first process ended with %v", err)
	}
	if err := first.Signal(t.Context(), syscall.SIGHUP); err != nil {
		t.Errorf("signal after the end: %v", err)
	}
	if _, err := c.Start(t.Context(), gwclient.StartRequest{Args: []string{"true"}}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("start after the release: %v", err)
	}
	if _, err := c.ReadDir(t.Context(), gwclient.ReadDirContainerRequest{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("read after the release: %v", err)
	}
	if err := c.Release(t.Context()); !errors.Is(err, context.Canceled) {
		t.Errorf("second release: %v", err)
	}
	if _, err := bridge.Container("c"); !errdefs.IsNotFound(err) {
		t.Errorf("after the release: %v", err)
	}
	if n := leases(t, st); n != before-1 {
		t.Errorf("%d leases before the release, %d after", before, n)
	}
	// What the container wrote is not in the tree.
	if _, err := root.StatFile(t.Context(), gwclient.StatRequest{Path: "/made"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the container changed its tree: %v", err)
	}
	end()
	if _, err := bridge.NewContainer(t.Context(), "late", on(root)); err == nil {
		t.Error("a container after the end of the build")
	}
}

func TestContainerTerminal(t *testing.T) {
	t.Parallel()
	b, _ := openStore(t)
	bridge, _ := drive(t, b, builder.Request{Ref: "r"})
	c := container(t, bridge, "c", on(solve(t, bridge, system(t))))
	typed, keyboard := io.Pipe()
	screen, out := io.Pipe()
	p := begin(t, c, gwclient.StartRequest{Args: []string{"sh"}, Tty: true, Stdin: typed, Stdout: out})
	if err := p.Resize(t.Context(), gwclient.WinSize{Rows: 40, Cols: 90}); err != nil {
		t.Fatal(err)
	}
	var shown strings.Builder
	expect := func(want string) {
		t.Helper()
		buf := make([]byte, 1000)
		for !strings.Contains(shown.String(), want) {
			n, err := screen.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			shown.Write(buf[:n])
		}
	}
	// The runtime passes the size on when the shell may be running already.
	fmt.Fprintln(keyboard, `while [ -z "$(stty size 2>&-)" ]; do sleep 0.1; done; stty size`)
	expect("40 90")
	fmt.Fprintln(keyboard, "exit 3")
	go io.Copy(io.Discard, screen) //nolint:errcheck // ends with the test
	var exit *gwpb.ExitError
	if err := p.Wait(); !errors.As(err, &exit) || exit.ExitCode != 3 {
		t.Errorf("exit %v", err)
	}
	if err := c.Release(t.Context()); err != nil {
		t.Errorf("release of a container that has ended: %v", err)
	}
	out.Close()
}

func TestContainerEnds(t *testing.T) {
	t.Parallel()
	b, st := openStore(t)
	bridge, end := drive(t, b, builder.Request{Ref: "r"})
	root := solve(t, bridge, system(t))
	ctx, cancel := context.WithCancel(t.Context())
	c := container(t, bridge, "a", on(root))
	p, err := c.Start(ctx, gwclient.StartRequest{Args: []string{"sleep", "60"}})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := p.Wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("a process whose starter has left: %v", err)
	}
	other := begin(t, container(t, bridge, "b", on(root)), gwclient.StartRequest{Args: []string{"sleep", "60"}})
	container(t, bridge, "never used", on(root))
	before := leases(t, st)
	end()
	if err := other.Wait(); err == nil {
		t.Error("a process outlived its build")
	}
	if n := leases(t, st); n != before-3 {
		t.Errorf("%d leases before the end, %d after", before, n)
	}
}

func TestContainerEntitlements(t *testing.T) {
	t.Parallel()
	b, _ := openStore(t)
	bridge, _ := drive(t, b, builder.Request{Ref: "r"})
	root := solve(t, bridge, system(t))
	host := on(root)
	host.NetMode = pb.NetMode_HOST
	for name, c := range map[string]struct {
		req      gwclient.NewContainerRequest
		security pb.SecurityMode
		want     string
	}{
		"network":  {host, pb.SecurityMode_SANDBOX, "network.host is not allowed"},
		"security": {on(root), pb.SecurityMode_INSECURE, "security.insecure is not allowed"},
		"unknown":  {on(root), 2, "invalid security mode 2"},
	} {
		ctr := container(t, bridge, name, c.req)
		err := begin(t, ctr, gwclient.StartRequest{Args: []string{"true"}, SecurityMode: c.security}).Wait()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	unknown := on(root)
	unknown.NetMode = 7
	if _, err := bridge.NewContainer(t.Context(), "x", unknown); !errdefs.IsInvalidArgument(err) {
		t.Errorf("unknown network: %v", err)
	}
	if _, err := bridge.NewContainer(t.Context(), "x", on(root, gwclient.Mount{Dest: "/x", ResultID: "nobody's"})); !errdefs.IsNotFound(err) {
		t.Errorf("unknown result: %v", err)
	}
	if _, err := bridge.NewContainer(t.Context(), "x", on(root, make([]gwclient.Mount, 2000)...)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("too many mounts: %v", err)
	}
}

// TestContainerRaces starts and releases, reads and ends at the same time. It
// runs alone, to see whose goroutines are left.
func TestContainerRaces(t *testing.T) {
	b, st := openStore(t)
	bridge, end := drive(t, b, builder.Request{Ref: "r"})
	root := solve(t, bridge, system(t))
	if err := root.Evaluate(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := leases(t, st)
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			c, err := bridge.NewContainer(t.Context(), fmt.Sprint(i), on(root))
			if err != nil {
				return // the build has ended
			}
			for range 3 {
				wg.Go(func() {
					if p, err := c.Start(t.Context(), gwclient.StartRequest{Args: []string{"sleep", "60"}}); err == nil {
						if p.Wait() == nil {
							t.Error("a process was not killed")
						}
					}
				})
				wg.Go(func() { _, _ = c.ReadDir(t.Context(), gwclient.ReadDirContainerRequest{}) })
			}
			time.Sleep(time.Duration(i) * 20 * time.Millisecond)
			if i%2 == 0 {
				_ = c.Release(t.Context())
			}
		})
	}
	time.Sleep(150 * time.Millisecond)
	end()
	wg.Wait()
	if n := leases(t, st); n != before {
		t.Errorf("%d leases before, %d after", before, n)
	}
	var stacks strings.Builder
	for range 100 {
		stacks.Reset()
		if err := pprof.Lookup("goroutine").WriteTo(&stacks, 2); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(stacks.String(), "builder/frontend.") && !strings.Contains(stacks.String(), "builder/sandbox.") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("goroutines are left: %s", stacks.String())
}

func failing(t *testing.T, script string) llb.State {
	t.Helper()
	run := system(t).Run(llb.Args([]string{"/bin/sh", "-c", script}), llb.WithCustomName("failing"))
	run.AddMount("/out", files())
	return run.Root()
}

// fail evaluates a step that fails and returns what the error tells of it.
func fail(t *testing.T, bridge *frontend.Bridge, st llb.State) *bkerrdefs.SolveError {
	t.Helper()
	err := solve(t, bridge, st).Evaluate(t.Context())
	var failed *bkerrdefs.SolveError
	if !errors.As(err, &failed) {
		t.Fatalf("failed with %#v", err)
	}
	return failed
}

// look mounts a tree and runs a script that sees it at /t.
func look(t *testing.T, bridge *frontend.Bridge, id, script string) string {
	t.Helper()
	c := container(t, bridge, "look at "+id, on(solve(t, bridge, system(t)), gwclient.Mount{Dest: "/t", ResultID: id}))
	defer c.Release(t.Context()) //nolint:errcheck // nothing runs
	out, err := say(t, c, script)
	if err != nil {
		t.Errorf("%s: %v", script, err)
	}
	return out
}

func TestFailedExec(t *testing.T) {
	t.Parallel()
	b, st := openStore(t)
	bridge, end := drive(t, b, builder.Request{Ref: "r"})
	if err := solve(t, bridge, system(t)).Evaluate(t.Context()); err != nil {
		t.Fatal(err)
	}
	failed := fail(t, bridge, failing(t, "echo 1 > /made; echo 2 > /out/made; exit 9"))
	if failed.Op.GetExec() == nil || failed.Subject != nil || len(failed.InputIDs) != 2 || len(failed.MountIDs) != 2 {
		t.Fatalf("failure %v", failed)
	}
	if slices.Contains(append(failed.InputIDs, failed.MountIDs...), "") {
		t.Errorf("ids %v %v", failed.InputIDs, failed.MountIDs)
	}
	if got := look(t, bridge, failed.MountIDs[0], "cat /t/made"); got != "1" {
		t.Errorf("the root is left with %q", got)
	}
	if got := look(t, bridge, failed.MountIDs[1], "cat /t/made /t/a/hello"); got != "2\nhello" {
		t.Errorf("the mount is left with %q", got)
	}
	if got := look(t, bridge, failed.InputIDs[1], "cat /t/a/hello; test -e /t/made || echo clean"); got != "helloclean" {
		t.Errorf("the input has %q", got)
	}
	if _, err := bridge.Ref(failed.MountIDs[0]); !errdefs.IsNotFound(err) {
		t.Errorf("what a failed step left is a result: %v", err)
	}
	// A second failure of the same step leaves trees of its own.
	again := fail(t, bridge, failing(t, "echo 1 > /made; echo 2 > /out/made; exit 9"))
	if got := look(t, bridge, again.MountIDs[0], "cat /t/made"); got != "1" || again.MountIDs[0] == failed.MountIDs[0] {
		t.Errorf("the second root is left with %q", got)
	}
	if got := look(t, bridge, failed.MountIDs[1], "cat /t/made"); got != "2" {
		t.Errorf("afterwards, the first mount is left with %q", got)
	}
	before := leases(t, st)
	end()
	if n := leases(t, st); n != before-2 {
		t.Errorf("%d leases before the end of the build, %d after", before, n)
	}
}

func TestFailedFileAction(t *testing.T) {
	t.Parallel()
	b, _ := openStore(t)
	bridge, _ := drive(t, b, builder.Request{Ref: "r"})
	failed := fail(t, bridge, files().File(llb.Mkfile("/made", 0o644, []byte("1")).Rm("/absent").Rm("/a")))
	subject, ok := failed.Subject.(*bkerrdefs.Solve_File)
	if !ok || subject.File.Index != 1 || len(failed.InputIDs) != 1 || len(failed.MountIDs) != 3 {
		t.Fatalf("failure %v", failed)
	}
	if got := look(t, bridge, failed.MountIDs[1], "cat /t/made /t/a/hello"); got != "1hello" {
		t.Errorf("it has left %q", got)
	}
}

func TestFailedContent(t *testing.T) {
	t.Parallel()
	b, _ := openStore(t)
	bridge, _ := drive(t, b, builder.Request{Ref: "r"})
	run := system(t).Run(llb.Args([]string{"true"}), llb.AddMount("/in", files(), llb.SourcePath("/absent"), llb.Readonly))
	failed := fail(t, bridge, run.Root())
	subject, ok := failed.Subject.(*bkerrdefs.Solve_Cache)
	if !ok || subject.Cache.Index != 1 || len(failed.InputIDs) != 1 || len(failed.MountIDs) != 0 || failed.Op.GetExec() == nil {
		t.Fatalf("failure %v", failed)
	}
	if got := look(t, bridge, failed.InputIDs[0], "cat /t/a/hello"); got != "hello" {
		t.Errorf("the input has %q", got)
	}
}

// TestFailureOfTwoBuilds: what a run of both has left is there for either, also
// when the other has ended.
func TestFailureOfTwoBuilds(t *testing.T) {
	t.Parallel()
	b, st := openStore(t)
	one, endOne := drive(t, b, builder.Request{Ref: "one"})
	two, endTwo := drive(t, b, builder.Request{Ref: "two"})
	if err := solve(t, one, system(t)).Evaluate(t.Context()); err != nil {
		t.Fatal(err)
	}
	script := failing(t, "echo 1 > /made; sleep 1; exit 9")
	var failures [2]*bkerrdefs.SolveError
	var wg sync.WaitGroup
	for i, bridge := range []*frontend.Bridge{one, two} {
		wg.Go(func() { failures[i] = fail(t, bridge, script) })
	}
	wg.Wait()
	if failures[0].MountIDs[0] != failures[1].MountIDs[0] {
		t.Fatal("the builds did not share the run")
	}
	endOne()
	if err := st.GC(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := look(t, two, failures[1].MountIDs[0], "cat /t/made"); got != "1" {
		t.Errorf("the root is left with %q", got)
	}
	before := leases(t, st)
	endTwo()
	if n := leases(t, st); n != before-1 {
		t.Errorf("%d leases before the end of the second build, %d after", before, n)
	}
}

// TestFrontendContainer: a frontend in the builder has containers too.
func TestFrontendContainer(t *testing.T) {
	t.Parallel()
	var out buffer
	asks := func(ctx context.Context, c gwclient.Client) (*gwclient.Result, error) {
		res, err := c.Solve(ctx, gwclient.SolveRequest{Definition: definition(t, system(t))})
		if err != nil {
			return nil, err
		}
		if _, err := c.NewContainer(ctx, gwclient.NewContainerRequest{}); err == nil {
			t.Error("a container without a root")
		}
		ctr, err := c.NewContainer(ctx, gwclient.NewContainerRequest{Mounts: []gwclient.Mount{{Dest: "/", Ref: res.Ref}}})
		if err != nil {
			return nil, err
		}
		p, err := ctr.Start(ctx, gwclient.StartRequest{Args: []string{"echo", "inside"}, Stdout: &out})
		if err != nil {
			return nil, err
		}
		return res, p.Wait()
	}
	b := open(t, func(cfg *builder.Config) { cfg.Frontends["asks"] = asks })
	if _, err := b.Build(t.Context(), builder.Request{Ref: "r", Frontend: "asks"}, &watch{}); err != nil {
		t.Fatal(err)
	}
	if out.String() != "inside\n" {
		t.Errorf("got %q", out.String())
	}
}
