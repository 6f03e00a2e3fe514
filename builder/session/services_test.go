package session_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/kiln-build/kiln/builder/session/sessiontest"
	bksession "github.com/moby/buildkit/session"
	sessioncontent "github.com/moby/buildkit/session/content"
	"github.com/moby/buildkit/session/exporter"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/sshforward"
	"github.com/moby/buildkit/session/upload/uploadprovider"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

type service func(*grpc.Server)

func (s service) Register(srv *grpc.Server) { s(srv) }

// secretServer answers as the test says.
type secretServer func(id string) ([]byte, error)

func (s secretServer) GetSecret(_ context.Context, r *secrets.GetSecretRequest) (*secrets.GetSecretResponse, error) {
	data, err := s(r.ID)
	return &secrets.GetSecretResponse{Data: data}, err
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	srv := secretServer(func(id string) ([]byte, error) {
		switch id {
		case "empty":
			return nil, nil
		case "max":
			return make([]byte, session.MaxSecret), nil
		case "big":
			return make([]byte, session.MaxSecret+1), nil
		case "unimplemented":
			return nil, status.Error(codes.Unimplemented, "no")
		case "broken":
			return nil, status.Error(codes.Internal, "store is locked")
		}
		return nil, status.Error(codes.NotFound, "nope")
	})
	c, _ := sessiontest.Open(t, session.NewManager(), "", service(func(s *grpc.Server) { secrets.RegisterSecretsServer(s, srv) }))
	for id, want := range map[string]string{
		"empty": "", "max": "", "big": "more than", "unimplemented": "secret unimplemented: not found",
		"broken": "secret broken: store is locked", "else": "secret else: not found",
	} {
		_, err := c.Secret(t.Context(), id)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

func TestFilesHeaders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, f := range []string{"größe.txt", "b.md", "c.go"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte(f), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dirFS, err := fsutil.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, _ := sessiontest.Open(t, session.NewManager(), "", filesync.NewFSSyncProvider(filesync.StaticDirSource{"kontext ä": dirFS}))
	stats := func(req session.FileRequest) (paths []string, err error) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s, err := c.Files(ctx, req)
		if err != nil {
			return nil, err
		}
		for {
			p, err := s.Recv()
			if err != nil || p.Stat == nil {
				return paths, c.Fail(err)
			}
			paths = append(paths, p.Stat.Path)
		}
	}
	for _, tc := range []struct {
		req  session.FileRequest
		want string
	}{
		{session.FileRequest{Name: "kontext ä"}, "[b.md c.go größe.txt]"},
		{session.FileRequest{Name: "kontext ä", Include: []string{"größe*", "*.go"}}, "[c.go größe.txt]"},
		{session.FileRequest{Name: "kontext ä", Exclude: []string{"größe*", "a%41"}}, "[b.md c.go]"},
	} {
		got, err := stats(tc.req)
		if err != nil || fmt.Sprint(got) != tc.want {
			t.Errorf("%+v: %v, %v", tc.req, got, err)
		}
	}
	if _, err := stats(session.FileRequest{Name: "other"}); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), `"other"`) {
		t.Errorf("unknown directory: %v", err)
	}
}

type sink struct {
	bytes.Buffer
	closed bool
}

func (s *sink) Close() error { s.closed = true; return nil }

func TestSendFile(t *testing.T) {
	t.Parallel()
	var out sink
	var md map[string]string
	full := errors.New("disk full")
	target := filesync.NewFSSyncTarget(
		filesync.WithFSSync(0, func(m map[string]string) (io.WriteCloser, error) { md = m; return &out, nil }),
		filesync.WithFSSync(1, func(map[string]string) (io.WriteCloser, error) { return nil, nil }),
		filesync.WithFSSync(2, func(map[string]string) (io.WriteCloser, error) { return nil, full }),
	)
	c, _ := sessiontest.Open(t, session.NewManager(), "", target)
	send := func(o session.Output, data []byte) error {
		w, err := c.SendFile(t.Context(), o)
		if err != nil {
			return err
		}
		_, err = w.Write(data)
		return errors.Join(err, w.Close())
	}
	data := make([]byte, 8<<20)
	rand.Read(data)
	if err := send(session.Output{ID: 0, Metadata: map[string]string{"containerimage.digest": "sha256:x"}}, data); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), data) || !out.closed {
		t.Error("the file differs")
	}
	if md["containerimage.digest"] != "sha256:x" {
		t.Errorf("metadata %v", md)
	}
	if err := send(session.Output{ID: 1}, data); !errdefs.IsAlreadyExists(err) {
		t.Errorf("existing file: %v", err)
	}
	if err := send(session.Output{ID: 2}, data); err == nil || !strings.Contains(err.Error(), "disk full") || !strings.Contains(err.Error(), "output 2") {
		t.Errorf("failing file: %v", err)
	}
}

func TestSendDir(t *testing.T) {
	t.Parallel()
	src, dst := t.TempDir(), t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(src, "d/e"), 0o755))
	big := make([]byte, 1<<20)
	rand.Read(big)
	must(os.WriteFile(filepath.Join(src, "d/big"), big, 0o600))
	must(os.Link(filepath.Join(src, "d/big"), filepath.Join(src, "d/link")))
	must(os.Symlink("../x", filepath.Join(src, "d/e/sym")))
	for i := range 300 {
		must(os.WriteFile(filepath.Join(src, "d/e", fmt.Sprint(i)), []byte(fmt.Sprint(i)), 0o644))
	}
	c, _ := sessiontest.Open(t, session.NewManager(), "", filesync.NewFSSyncTarget(filesync.WithFSSyncDir(3, dst)))
	dir, err := fsutil.NewFS(src)
	must(err)
	var last int64
	must(c.SendDir(t.Context(), session.Output{ID: 3}, dir, func(n int64) { last = n }))
	if last < 1<<20 {
		t.Errorf("progress ended at %d", last)
	}
	got, err := os.ReadFile(filepath.Join(dst, "d/link"))
	must(err)
	if !bytes.Equal(got, big) {
		t.Error("the linked file differs")
	}
	if l, err := os.Readlink(filepath.Join(dst, "d/e/sym")); err != nil || l != "../x" {
		t.Errorf("symlink %q, %v", l, err)
	}
	for i := range 300 {
		b, err := os.ReadFile(filepath.Join(dst, "d/e", fmt.Sprint(i)))
		if err != nil || string(b) != fmt.Sprint(i) {
			t.Fatalf("file %d: %q, %v", i, b, err)
		}
	}
}

// fileTaker is a client that takes directories in its own way.
type fileTaker func(filesync.FileSend_DiffCopyServer) error

func (f fileTaker) DiffCopy(s filesync.FileSend_DiffCopyServer) error { return f(s) }

func TestSendDirToHostileClients(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	for i := range 500 {
		if err := os.WriteFile(filepath.Join(src, fmt.Sprint(i)), make([]byte, 100<<10), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := fsutil.NewFS(src)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(s filesync.FileSend_DiffCopyServer, ids ...uint32) error {
		for {
			var p types.Packet
			if err := s.RecvMsg(&p); err != nil {
				return err
			}
			if p.Stat == nil {
				break
			}
		}
		for _, id := range ids {
			if err := s.SendMsg(&types.Packet{Type: types.PACKET_REQ, ID: id}); err != nil {
				return err
			}
		}
		return nil
	}
	all := make([]uint32, 500)
	for i := range all {
		all[i] = uint32(i)
	}
	for name, tc := range map[string]struct {
		take fileTaker
		want string
	}{
		"leaves at once":  {func(filesync.FileSend_DiffCopyServer) error { return nil }, "output 0"},
		"fails at once":   {func(filesync.FileSend_DiffCopyServer) error { return errors.New("read-only") }, "read-only"},
		"unknown id":      {func(s filesync.FileSend_DiffCopyServer) error { ask(s, 1<<31); <-s.Context().Done(); return nil }, "not announced"},
		"same id twice":   {func(s filesync.FileSend_DiffCopyServer) error { ask(s, 1, 1); <-s.Context().Done(); return nil }, "not announced"},
		"asks and leaves": {func(s filesync.FileSend_DiffCopyServer) error { return ask(s, all...) }, "output 0"},
		"asks and complains": {func(s filesync.FileSend_DiffCopyServer) error {
			ask(s, all...)
			return s.SendMsg(&types.Packet{Type: types.PACKET_ERR, Data: []byte("no space")})
		}, "no space"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, _ := sessiontest.Open(t, session.NewManager(), "",
				service(func(s *grpc.Server) { filesync.RegisterFileSendServer(s, tc.take) }))
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err := c.SendDir(ctx, session.Output{}, dir, nil)
			if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// echoAgent answers each connection with what it says, in upper case.
type echoAgent struct{}

func (echoAgent) CheckAgent(_ context.Context, r *sshforward.CheckAgentRequest) (*sshforward.CheckAgentResponse, error) {
	if r.ID != "default" {
		return nil, fmt.Errorf("unset ssh forward key %s", r.ID)
	}
	return &sshforward.CheckAgentResponse{}, nil
}

func (echoAgent) ForwardAgent(s sshforward.SSH_ForwardAgentServer) error {
	md, _ := metadata.FromIncomingContext(s.Context())
	if got := md.Get(sshforward.KeySSHID); len(got) != 1 || got[0] != "default" {
		return fmt.Errorf("wrong id %v", got)
	}
	for {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		if err := s.Send(&sshforward.BytesMessage{Data: bytes.ToUpper(m.Data)}); err != nil {
			return err
		}
	}
}

func TestSSH(t *testing.T) {
	t.Parallel()
	c, stop := sessiontest.Open(t, session.NewManager(), "", service(func(s *grpc.Server) { sshforward.RegisterSSHServer(s, echoAgent{}) }))
	if _, err := c.ForwardSSH(t.Context(), session.SSHOptions{ID: "other", Dir: t.TempDir()}); !errdefs.IsNotFound(err) ||
		!strings.Contains(err.Error(), `no SSH key "other"`) {
		t.Errorf("unknown agent: %v", err)
	}
	dir := t.TempDir()
	a, err := c.ForwardSSH(t.Context(), session.SSHOptions{Dir: dir, UID: os.Getuid(), GID: os.Getgid(), Mode: 0o600})
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(a.Path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v", fi, err)
	}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			conn, err := net.Dial("unix", a.Path)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprintf(conn, "hello %d", i)
			b := make([]byte, 100)
			n, err := conn.Read(b)
			if want := fmt.Sprintf("HELLO %d", i); err != nil || string(b[:n]) != want {
				t.Errorf("answer %q, %v", b[:n], err)
			}
		})
	}
	wg.Wait()
	open, err := net.Dial("unix", a.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	fmt.Fprint(open, "x")
	open.Read(make([]byte, 1))
	stop()
	if _, err := open.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives the session")
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestUpload(t *testing.T) {
	t.Parallel()
	up := uploadprovider.New()
	raw := up.Add(io.NopCloser(strings.NewReader(strings.Repeat("abc", 1<<20))))
	c, _ := sessiontest.Open(t, session.NewManager(), "", up)
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Upload(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || len(b) != 3<<20 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	u.Path = "/other"
	r2, err := c.Upload(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	defer r2.Close()
	if b, err := io.ReadAll(r2); err == nil {
		t.Errorf("unknown upload gave %d bytes", len(b))
	}
}

func TestContentStore(t *testing.T) {
	t.Parallel()
	store, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	blob := []byte("a blob")
	desc := ocispec.Descriptor{Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	if err := content.WriteBlob(t.Context(), store, "x", bytes.NewReader(blob), desc); err != nil {
		t.Fatal(err)
	}
	c, _ := sessiontest.Open(t, session.NewManager(), "", sessioncontent.NewAttachable(map[string]content.Store{"oci:a": store}))
	cs, err := c.Content("oci:a")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := content.ReadBlob(t.Context(), cs, desc); err != nil || !bytes.Equal(got, blob) {
		t.Errorf("%q, %v", got, err)
	}
	other, err := c.Content("oci:b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := content.ReadBlob(t.Context(), other, desc); !errdefs.IsNotFound(err) {
		t.Errorf("unknown store: %v", err)
	}
}

type exporters struct{ final map[string]string }

func (e *exporters) FindExporters(_ context.Context, r *exporter.FindExportersRequest) (*exporter.FindExportersResponse, error) {
	return &exporter.FindExportersResponse{Exporters: []*exporter.ExporterRequest{
		{Type: "image", Attrs: map[string]string{"name": string(r.Metadata["n"]) + r.Refs[0]}},
	}}, nil
}

func (e *exporters) FinalizeExport(_ context.Context, r *exporter.FinalizeExportRequest) (*exporter.FinalizeExportResponse, error) {
	e.final = r.ExporterResponse
	return &exporter.FinalizeExportResponse{}, nil
}

func TestExporters(t *testing.T) {
	t.Parallel()
	var e exporters
	c, _ := sessiontest.Open(t, session.NewManager(), "", service(func(s *grpc.Server) { exporter.RegisterExporterServer(s, &e) }))
	got, err := c.FindExporters(t.Context(), map[string][]byte{"n": []byte("x")}, []string{"ref"})
	if err != nil || len(got) != 1 || got[0].Type != "image" || got[0].Attrs["name"] != "xref" {
		t.Errorf("%v, %v", got, err)
	}
	if err := c.FinalizeExport(t.Context(), map[string]string{"a": "b"}); err != nil || e.final["a"] != "b" {
		t.Errorf("%v, %v", e.final, err)
	}
}

var _ bksession.Attachable = service(nil)
