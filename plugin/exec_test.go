package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client/llb"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func busybox(t *testing.T) llb.State {
	t.Helper()
	name, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	dt, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	files := llb.Mkdir("/bin", 0o755).Mkfile("/bin/busybox", 0o755, dt).Mkdir("/etc", 0o755)
	for _, name := range []string{"sh", "cat", "sleep", "head", "wc"} {
		files = files.Symlink("busybox", "/bin/"+name)
	}
	return llb.Scratch().File(files)
}

// shell is a container on a busybox tree, with a stream for its processes.
type shell struct {
	*running
	t      *testing.T
	ctx    context.Context
	stream gwpb.LLBBridge_ExecProcessClient
	got    map[string][]*gwpb.ExecMessage
}

func openShell(t *testing.T) *shell {
	t.Helper()
	d := start(t)
	ctx, _ := d.drive(t, &controlapi.SolveRequest{Ref: "r"})
	solved, err := d.bridge.Solve(ctx, &gwpb.SolveRequest{Definition: marshal(t, busybox(t)), AllowResultReturn: true, AllowResultArrayRef: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.bridge.NewContainer(ctx, &gwpb.NewContainerRequest{
		ContainerID: "c", Mounts: []*pb.Mount{{Dest: "/", ResultID: solved.Result.GetRef().Id}},
	}); err != nil {
		t.Fatal(err)
	}
	stream, err := d.bridge.ExecProcess(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &shell{running: d, t: t, ctx: ctx, stream: stream, got: map[string][]*gwpb.ExecMessage{}}
}

func (s *shell) send(id string, m *gwpb.ExecMessage) {
	s.t.Helper()
	m.ProcessID = id
	if err := s.stream.Send(m); err != nil {
		s.t.Fatal(err)
	}
}

// run starts a script that is connected to the stream with the descriptors.
func (s *shell) run(id, script string, fds ...uint32) {
	s.t.Helper()
	s.send(id, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_Init{Init: &gwpb.InitMessage{
		ContainerID: "c", Meta: &pb.Meta{Args: []string{"sh", "-c", script}}, Fds: fds,
	}}})
}

func (s *shell) write(id, data string, eof bool) {
	s.t.Helper()
	s.send(id, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_File{File: &gwpb.FdMessage{Data: []byte(data), EOF: eof}}})
}

// ended is a process as its messages show it.
type ended struct {
	order  string // the messages' kinds
	output map[uint32]string
	exit   *gwpb.ExitMessage
}

// wait reads the stream until the process is done.
func (s *shell) wait(id string) ended {
	s.t.Helper()
	e := ended{output: map[uint32]string{}}
	for {
		for _, m := range s.got[id] {
			switch x := m.Input.(type) {
			case *gwpb.ExecMessage_Started:
				e.order += "started "
			case *gwpb.ExecMessage_File:
				e.output[x.File.Fd] += string(x.File.Data)
				if x.File.EOF {
					e.order += fmt.Sprint("eof", x.File.Fd, " ")
				}
			case *gwpb.ExecMessage_Exit:
				e.order += "exit "
				e.exit = x.Exit
			case *gwpb.ExecMessage_Done:
				e.order += "done"
				return e
			}
		}
		s.got[id] = nil
		m, err := s.stream.Recv()
		if err != nil {
			s.t.Fatalf("process %s: %v", id, err)
		}
		s.got[m.ProcessID] = append(s.got[m.ProcessID], m)
	}
}

// started waits until the process has begun.
func (s *shell) started(id string) {
	s.t.Helper()
	for len(s.got[id]) == 0 {
		m, err := s.stream.Recv()
		if err != nil {
			s.t.Fatal(err)
		}
		s.got[m.ProcessID] = append(s.got[m.ProcessID], m)
	}
}

func TestExecProcess(t *testing.T) {
	t.Parallel()
	s := openShell(t)
	s.run("first", "cat; echo end >&2; exit 5", 0, 1, 2)
	s.started("first")
	s.run("second", "cat > /f; cat /f; wc -c < /f", 0, 1)
	big := strings.Repeat("0123456789abcde\n", 5<<20/16)
	for i := 0; i < len(big); i += 1 << 20 {
		s.write("second", big[i:i+1<<20], i+1<<20 == len(big))
	}
	second := s.wait("second")
	if want := big + fmt.Sprintln(len(big)); second.output[1] != want || second.order != "started eof1 exit done" || second.exit.Code != 0 || second.exit.Error != nil {
		t.Errorf("second: %s, %d bytes, exit %v", second.order, len(second.output[1]), second.exit)
	}
	s.write("first", "hello\n", true)
	first := s.wait("first")
	if first.output[1] != "hello\n" || first.output[2] != "end\n" || first.order != "started eof1 eof2 exit done" {
		t.Errorf("first: %s, output %v", first.order, first.output)
	}
	if first.exit.Code != 5 || first.exit.Error == nil || !strings.Contains(first.exit.Error.Message, "exit code: 5") {
		t.Errorf("first: exit %v", first.exit)
	}
	// What comes late for a process is no harm to others.
	s.write("first", "too late", false)
	s.run("third", "true")
	if third := s.wait("third"); third.exit.Code != gwpb.UnknownExitStatus || third.order != "started exit done" {
		t.Errorf("a process after the first one's end: %s, exit %v", third.order, third.exit)
	}
	s.send("fourth", &gwpb.ExecMessage{Input: &gwpb.ExecMessage_Init{Init: &gwpb.InitMessage{ContainerID: "absent", Meta: &pb.Meta{Args: []string{"x"}}}}})
	if fourth := s.wait("fourth"); fourth.exit.Code != gwpb.UnknownExitStatus || codes.Code(fourth.exit.Error.Code) != codes.NotFound {
		t.Errorf("a process in an unknown container: exit %v", fourth.exit)
	}
	if err := s.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if m, err := s.stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ends with %v, %v", m, err)
	}
}

func TestExecSignals(t *testing.T) {
	t.Parallel()
	s := openShell(t)
	s.run("first", "sleep 60")
	s.started("first")
	for name, code := range map[string]uint32{"TERM": 4, "SIGTERM": 4, "KILL": 137} {
		s.run(name, "trap 'exit 4' TERM; echo ready; while :; do sleep 0.1; done", 0, 1)
		// It doesn't read its input; that holds up nothing.
		s.write(name, strings.Repeat("x", 2<<20), false)
		for !strings.Contains(fmt.Sprint(s.got[name]), "ready") {
			m, err := s.stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			s.got[m.ProcessID] = append(s.got[m.ProcessID], m)
			if f := m.GetFile(); f != nil && string(f.Data) == "ready\n" {
				break
			}
		}
		s.send(name, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_Signal{Signal: &gwpb.SignalMessage{Name: "no such signal"}}})
		s.send(name, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_Signal{Signal: &gwpb.SignalMessage{Name: name}}})
		if e := s.wait(name); e.exit.Code != code {
			t.Errorf("%s: exit %v", name, e.exit)
		}
	}
	_, err := s.bridge.ReleaseContainer(s.ctx, &gwpb.ReleaseContainerRequest{ContainerID: "c"})
	if status.Code(err) != codes.Canceled {
		t.Errorf("release while it runs: %v", err)
	}
	if e := s.wait("first"); e.exit.Code == 0 || !strings.Contains(e.exit.Error.GetMessage(), "context canceled") {
		t.Errorf("a process that was released: exit %v", e.exit)
	}
	if _, err := s.bridge.ReleaseContainer(s.ctx, &gwpb.ReleaseContainerRequest{ContainerID: "c"}); status.Code(err) != codes.NotFound {
		t.Errorf("second release: %v", err)
	}
}

func TestExecTerminal(t *testing.T) {
	t.Parallel()
	s := openShell(t)
	s.send("p", &gwpb.ExecMessage{Input: &gwpb.ExecMessage_Init{Init: &gwpb.InitMessage{
		ContainerID: "c", Meta: &pb.Meta{Args: []string{"sh"}}, Fds: []uint32{0, 1}, Tty: true,
	}}})
	s.send("p", &gwpb.ExecMessage{Input: &gwpb.ExecMessage_Resize{Resize: &gwpb.ResizeMessage{Rows: 33, Cols: 77}}})
	s.write("p", "until busybox stty size | busybox grep '33 77'; do sleep 0.1; done; exit 6\n", false)
	if e := s.wait("p"); e.exit.Code != 6 || !strings.Contains(e.output[1], "33 77\r\n") {
		t.Errorf("exit %v, output %q", e.exit, e.output[1])
	}
}

// TestExecStreamBreaks: processes don't outlive the stream that started them.
func TestExecStreamBreaks(t *testing.T) {
	t.Parallel()
	s := openShell(t)
	ctx, cancel := context.WithCancel(s.ctx)
	stream, err := s.bridge.ExecProcess(ctx)
	if err != nil {
		t.Fatal(err)
	}
	own := s.stream
	s.stream = stream
	s.run("p", "echo 1 > /alive; sleep 60")
	s.started("p")
	read := func() string {
		f, err := s.bridge.ReadFileContainer(s.ctx, &gwpb.ReadFileRequest{Ref: "c", FilePath: "/alive"})
		if err != nil {
			return ""
		}
		return string(f.Data)
	}
	for read() != "1\n" {
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	s.stream, s.got = own, map[string][]*gwpb.ExecMessage{}
	for n := 0; ; n++ {
		id := fmt.Sprint("again", n)
		s.run(id, "true")
		if e := s.wait(id); e.exit.Code != 0 {
			break // the first process has gone
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestBadExecMessages(t *testing.T) {
	t.Parallel()
	s := openShell(t)
	// Nothing of this is an error, or does anything.
	for _, m := range []*gwpb.ExecMessage{
		{Input: nil},
		{Input: &gwpb.ExecMessage_File{}},
		{Input: &gwpb.ExecMessage_Signal{}},
		{Input: &gwpb.ExecMessage_Resize{}},
		{Input: &gwpb.ExecMessage_Done{}},
	} {
		s.send("unknown", m)
	}
	s.run("p", "echo fine", 1, 1, 99)
	if e := s.wait("p"); e.exit.Code != 0 || e.output[1] != "fine\n" {
		t.Errorf("exit %v, output %v", e.exit, e.output)
	}
	good := &gwpb.InitMessage{ContainerID: "c", Meta: &pb.Meta{Args: []string{"sleep", "60"}}}
	for name, c := range map[string]struct {
		messages []*gwpb.ExecMessage
		want     codes.Code
	}{
		"no process": {[]*gwpb.ExecMessage{{}}, codes.InvalidArgument},
		"no meta":    {[]*gwpb.ExecMessage{{ProcessID: "p", Input: &gwpb.ExecMessage_Init{Init: &gwpb.InitMessage{}}}}, codes.InvalidArgument},
		"same twice": {[]*gwpb.ExecMessage{
			{ProcessID: "p", Input: &gwpb.ExecMessage_Init{Init: good}}, {ProcessID: "p", Input: &gwpb.ExecMessage_Init{Init: good}},
		}, codes.AlreadyExists},
	} {
		stream, err := s.bridge.ExecProcess(s.ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range c.messages {
			if err := stream.Send(m); err != nil {
				t.Fatal(err)
			}
		}
		for err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, req := range map[string]*gwpb.NewContainerRequest{
		"no id":     {},
		"no mounts": {ContainerID: "x"},
		"nil mount": {ContainerID: "x", Mounts: []*pb.Mount{nil}},
		"nil host":  {ContainerID: "x", Mounts: []*pb.Mount{{Dest: "/"}}, ExtraHosts: []*pb.HostIP{nil}, Network: 99},
		"unknown":   {ContainerID: "x", Mounts: []*pb.Mount{{Dest: "/", ResultID: "x"}}},
		"same id":   {ContainerID: "c", Mounts: []*pb.Mount{{Dest: "/"}}},
	} {
		if _, err := s.bridge.NewContainer(s.ctx, req); err == nil || status.Code(err) == codes.Internal {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, req := range map[string]*gwpb.ReadFileRequest{
		"no container": {FilePath: "/x"}, "no file": {Ref: "c", FilePath: "/x"}, "no mount": {Ref: "c", MountIndex: 5}, "negative": {Ref: "c", MountIndex: -1},
	} {
		if _, err := s.bridge.ReadFileContainer(s.ctx, req); err == nil || status.Code(err) == codes.Internal {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestContainerFiles(t *testing.T) {
	t.Parallel()
	s := openShell(t)
	dir, err := s.bridge.ReadDirContainer(s.ctx, &gwpb.ReadDirRequest{Ref: "c", DirPath: "/bin", IncludePattern: "s*"})
	if err != nil || len(dir.Entries) != 2 {
		t.Errorf("directory %v, %v", dir, err)
	}
	stat, err := s.bridge.StatFileContainer(s.ctx, &gwpb.StatFileRequest{Ref: "c", Path: "/bin/sh"})
	if err != nil || stat.Stat.Size < 100000 {
		t.Errorf("stat %v, %v", stat, err)
	}
}

// TestFailedStep: the error of a step has what a client needs to look into it.
func TestFailedStep(t *testing.T) {
	t.Parallel()
	s := openShell(t)
	def := marshal(t, busybox(t).Run(llb.Args([]string{"sh", "-c", "echo why > /reason; exit 3"})).Root())
	_, err := s.bridge.Solve(s.ctx, &gwpb.SolveRequest{Definition: def, Evaluate: true, AllowResultReturn: true, AllowResultArrayRef: true})
	var failed *bkerrdefs.SolveError
	if err := grpcerrors.FromGRPC(err); !errors.As(err, &failed) || len(failed.MountIDs) != 1 {
		t.Fatal(err)
	}
	if args := failed.Op.GetExec().GetMeta().GetArgs(); len(args) != 3 {
		t.Errorf("operation %v", failed.Op)
	}
	if _, err := s.bridge.NewContainer(s.ctx, &gwpb.NewContainerRequest{
		ContainerID: "why", Mounts: []*pb.Mount{{Dest: "/", ResultID: failed.MountIDs[0], Readonly: true}},
	}); err != nil {
		t.Fatal(err)
	}
	f, err := s.bridge.ReadFileContainer(s.ctx, &gwpb.ReadFileRequest{Ref: "why", FilePath: "reason"})
	if err != nil || string(f.Data) != "why\n" {
		t.Errorf("read %v, %v", f, err)
	}
}
