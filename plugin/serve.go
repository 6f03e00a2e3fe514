package plugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/containerd/log"
	"github.com/kiln-build/kiln/plugin/config"
)

// drainTime is how long builds have to end once they are cancelled, and
// goodbye how long clients then have to read their last messages.
const (
	drainTime = 15 * time.Second
	goodbye   = 2 * time.Second
)

// Serve serves the API until ctx ends or a listener fails. Then it takes no
// more calls, cancels all builds, and returns when they have ended and their
// clients know; or at once when force ends.
func (d *Daemon) Serve(ctx, force context.Context, sd config.Systemd) error {
	listeners, err := listen(ctx, d.cfg, sd)
	if err != nil {
		return err
	}
	stopDebug, err := d.serveDebug(ctx)
	if err != nil {
		closeAll(listeners)
		return err
	}
	defer stopDebug()
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { failed <- d.grpc.Serve(d.conns.track(l)) }()
		log.G(ctx).Infof("serving on %s", describe(l))
	}
	if err := notify(sd, "READY=1"); err != nil {
		log.G(ctx).WithError(err).Warn("systemd was not told that the daemon is ready")
	}
	select {
	case err = <-failed:
		err = fmt.Errorf("serving the API: %w", err)
	case <-ctx.Done():
	}
	return errors.Join(err, d.drain(force, sd))
}

func describe(l net.Listener) string { return l.Addr().Network() + "://" + l.Addr().String() }

// drain ends what is served.
func (d *Daemon) drain(force context.Context, sd config.Systemd) error {

	_ = notify(sd, "STOPPING=1")
	defer d.grpc.Stop()
	defer d.conns.close()
	drained := make(chan struct{})
	go func() {
		d.grpc.GracefulStop()
		close(drained)
	}()
	d.conns.closeSilent()
	ctx, cancel := context.WithTimeout(force, drainTime)
	defer cancel()
	if err := d.control.Close(ctx); err != nil {
		return err
	}
	d.history.Close()
	select {
	case <-drained:
	case <-time.After(goodbye):
	case <-ctx.Done():
	}
	return nil
}

// notify tells systemd about the daemon's state.
func notify(sd config.Systemd, state string) error {
	if sd.NotifySocket == "" {
		return nil
	}
	// A name that begins with @ is in the abstract namespace, as Go has it too.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: sd.NotifySocket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state))
	return err
}
