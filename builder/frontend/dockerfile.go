package frontend

import (
	"context"

	"github.com/moby/buildkit/frontend/dockerfile/builder"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
)

// Dockerfile is the frontend dockerfile.v0.
func Dockerfile(ctx context.Context, c gwclient.Client) (*gwclient.Result, error) {
	return builder.Build(ctx, c)
}
