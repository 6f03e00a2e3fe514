package lazy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/containerd/errdefs"
)

// AskBroker gives an Authorize that asks the daemon whose Root it is.
func AskBroker(root string) Authorize {
	client := &http.Client{
		Timeout: authorizeTimeout,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", brokerSocket(root))
			},
		},
	}
	return func(ctx context.Context, c Challenge) (string, error) {
		body, err := json.Marshal(c)
		if err != nil {
			return "", err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://daemon/", bytes.NewReader(body))
		if err != nil {
			return "", err
		}
		resp, err := client.Do(req)
		if err != nil {
			return "", fmt.Errorf("the daemon can't be asked for credentials: %w: %w", err, errdefs.ErrNotFound)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		switch {
		case err != nil:
			return "", err
		case resp.StatusCode == http.StatusNotFound:
			return "", fmt.Errorf("%s: %w", text, errdefs.ErrNotFound)
		case resp.StatusCode != http.StatusOK:
			return "", fmt.Errorf("the daemon gives no credentials: %s", text)
		}
		return string(text), nil
	}
}
