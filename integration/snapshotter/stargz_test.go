package snapshotter

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/stargz-snapshotter/fs/config"
	"github.com/containerd/stargz-snapshotter/service"
	"google.golang.org/grpc"

	"github.com/kiln-build/kiln/integration/testbed"
)

// stargz starts stargz-snapshotter as its own daemon does (whose module can't be
// installed: it replaces others), a containerd on it, and kilnd on that.
func stargz(t *testing.T, _ string) *bed {
	t.Helper()
	dir := testbed.Dir(t)
	sn, err := service.NewStargzSnapshotterService(context.Background(), filepath.Join(dir, "stargz"), &service.Config{
		Config: config.Config{NoPrometheus: true, NoBackgroundFetch: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "stargz.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(sn))
	go server.Serve(l) //nolint:errcheck // until Stop
	t.Cleanup(func() {
		server.Stop()
		if err := sn.Close(); err != nil {
			t.Error(err)
		}
	})
	c := testbed.StartContainerdIn(t, testbed.Dir(t), noKubernetes+fmt.Sprintf("[proxy_plugins.stargz]\ntype = \"snapshot\"\naddress = %q\n", socket))
	d := testbed.StartDaemonIn(t, testbed.Dir(t), "--backend", "host", "--snapshotter", "stargz", "--containerd-address", c.Socket)
	return &bed{TB: t, daemon: d, containerd: c, env: []string{"CONTAINERD_SNAPSHOTTER=stargz"}}
}
