package session

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

const headerHealthTimeout = "X-Buildkit-Session-Health-Custom-Timeout"

// health says how a client is watched. The times are long on purpose: a client
// that sends much over a slow link answers late.
type health struct {
	interval time.Duration
	timeout  time.Duration
	failures int // in a row, that end the session
}

func healthFromHeaders(h http.Header) health {
	ms, err := strconv.ParseInt(h.Get(headerHealthTimeout), 10, 32)
	if err != nil || ms <= 0 {
		return health{interval: 5 * time.Second, timeout: 15 * time.Second, failures: 2}
	}
	d := max(time.Duration(ms)*time.Millisecond, time.Second)
	return health{interval: d, timeout: d, failures: 1}
}

// watchHealth returns when the session ends; it ends the session of a client
// that doesn't answer.
func watchHealth(c *Client, h health) {
	ticker := time.NewTicker(h.interval)
	defer ticker.Stop()
	failed := 0
	var last time.Duration
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-ticker.C:
		}
		begin := time.Now()
		err := checkHealth(c, max(h.timeout, last*3/2))
		last = time.Since(begin)
		if err == nil {
			failed = 0
			continue
		}
		if failed++; failed >= h.failures {
			c.close(fmt.Errorf("the client doesn't answer: %w", err))
			return
		}
	}
}

func checkHealth(c *Client, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(c.ctx, timeout)
	defer cancel()
	_, err := grpc_health_v1.NewHealthClient(c.cc).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if status.Code(err) == codes.Unimplemented {
		return nil // that is an answer
	}
	return err
}
