package plugin

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/containerd/log"
	"github.com/kiln-build/kiln/plugin/config"
	"github.com/kiln-build/kiln/snapshotter"
	"google.golang.org/grpc"
)

// snapshots is kiln's snapshotter, served to containerd.
type snapshots struct {
	*snapshotter.Snapshotter
	server *grpc.Server
	ended  chan error
}

// openSnapshots serves the snapshotter, if it is to be: from now on, since the
// engine reaches it through containerd. It returns nil if not.
func openSnapshots(ctx context.Context, cfg config.Config) (*snapshots, error) {
	if !cfg.Snapshots.Enabled {
		return nil, nil
	}
	root := cfg.Snapshots.Root
	if root == "" {
		root = filepath.Join(cfg.Root, "snapshots")
	}
	sn, err := snapshotter.Open(ctx, snapshotter.Config{Root: root})
	if err != nil {
		return nil, err
	}
	l, err := listenUnix(cfg.Snapshots.Address, "")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("snapshots.address %s: %w", cfg.Snapshots.Address, err), sn.Close())
	}
	s := &snapshots{Snapshotter: sn, server: snapshotter.NewServer(sn), ended: make(chan error, 1)}
	go func() { s.ended <- s.server.Serve(l) }()
	log.G(ctx).Infof("serving snapshots on %s", describe(l))
	return s, nil
}

// close ends the calls under way and closes the snapshotter.
func (s *snapshots) close() error {
	s.server.Stop()
	return errors.Join(<-s.ended, s.Close())
}
