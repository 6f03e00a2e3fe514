package dial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
)

// Stdio joins two streams to the unix socket at address until both directions have
// ended: what a helper scheme starts on the other side. The end of in is passed on as a
// half-close. Nothing but the daemon's bytes is written to out.
func Stdio(ctx context.Context, address string, in io.Reader, out io.Writer) error {
	parsed, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("address of the daemon: %w", err)
	}
	if parsed.Scheme != "unix" {
		return fmt.Errorf("dial-stdio reaches unix sockets only, not %q", address)
	}
	conn, err := network("unix", parsed.Path)(ctx, "")
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, in)
		if half, ok := conn.(*net.UnixConn); ok {
			err = errors.Join(err, half.CloseWrite())
		}
		sent <- err
	}()
	if _, err := io.Copy(out, conn); err != nil {
		return err
	}
	// The daemon has closed: what may still come from in has nowhere to go.
	select {
	case err := <-sent:
		return err
	default:
		return nil
	}
}
