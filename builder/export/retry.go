package export

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"

	"github.com/kiln-build/kiln/builder/event"
)

// retry tries again what a registry was not able to do just now. The time
// between tries doubles.
type retry struct {
	first time.Duration
	tries int
}

var defaultRetry = retry{first: time.Second, tries: 5}

// do calls work until it succeeds, fails for good, or has failed too often.
func (r retry) do(ctx context.Context, progress event.Progress, work func() error) error {
	wait := r.first
	for n := 1; ; n++ {
		err := work()
		if err == nil || n == r.tries || ctx.Err() != nil || !isTemporary(err) {
			return err
		}
		progress.Log(event.Stderr, fmt.Appendf(nil, "error: %v\nretrying in %v\n", err, wait))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
		wait *= 2
	}
}

// isTemporary says whether the same request may succeed later.
func isTemporary(err error) bool {
	var status remoteserrors.ErrUnexpectedStatus
	if errors.As(err, &status) {
		return status.StatusCode >= http.StatusInternalServerError ||
			status.StatusCode == http.StatusTooManyRequests || status.StatusCode == http.StatusRequestTimeout
	}
	for _, broken := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, net.ErrClosed} {
		if errors.Is(err, broken) {
			return true
		}
	}
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout()
}

// maxBody bounds how much of a registry's answer is shown.
const maxBody = 256

// withDetails adds what the registry said to the bare status.
func withDetails(err error) error {
	var status remoteserrors.ErrUnexpectedStatus
	if !errors.As(err, &status) || len(status.Body) == 0 {
		return err
	}
	var said docker.Errors
	text := string(status.Body)
	if json.Unmarshal(status.Body, &said) == nil && len(said) > 0 {
		text = said.Error()
	} else if len(text) > maxBody {
		text = text[:maxBody] + "..."
	}
	return fmt.Errorf("%w: %s", err, strings.ToValidUTF8(strings.TrimSpace(text), "?"))
}
