package snapshotter

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// The tests that containerd has for snapshotters.
func TestContainerdSuite(t *testing.T) {
	t.Run("in-process", func(t *testing.T) {
		testsuite.SnapshotterSuite(t, "overlayfs", func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
			s, err := Open(ctx, Config{Root: root})
			if err != nil {
				return nil, nil, err
			}
			return s, s.Close, nil
		})
	})
	t.Run("private", func(t *testing.T) {
		testsuite.SnapshotterSuite(t, "overlayfs", func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
			s, err := Open(ctx, Config{Root: root})
			if err != nil {
				return nil, nil, err
			}
			return s.Private(), s.Close, nil
		})
	})
	t.Run("socket", func(t *testing.T) {
		testsuite.SnapshotterSuite(t, "overlayfs", func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
			s, err := Open(ctx, Config{Root: root})
			if err != nil {
				return nil, nil, err
			}
			sn, stop := dial(t, s)
			return sn, func() error { stop(); return s.Close() }, nil
		})
	})
}

// dial serves the snapshotter on a socket and reaches it there, as containerd
// does.
func dial(t *testing.T, s *Snapshotter) (sn snapshots.Snapshotter, stop func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer(s)
	served := make(chan struct{})
	go func() { defer close(served); srv.Serve(l) }()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	return proxy.NewSnapshotter(api.NewSnapshotsClient(conn), "kiln"), func() { conn.Close(); srv.Stop(); <-served }
}
