// Package perform is what both of kiln's command lines do around a request: show the
// progress, write the files that were asked for, print errors so that their cause is
// seen, and end on a signal.
package perform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/continuity"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session/auth/authprovider"
	"google.golang.org/grpc"

	"github.com/kiln-build/kiln/nerdctlext"
	"github.com/kiln-build/kiln/nerdctlext/build"
	"github.com/kiln-build/kiln/nerdctlext/progress"
)

// Job is a request together with how its progress is shown and what is written down.
type Job struct {
	Env     nerdctlext.Environment
	Conn    grpc.ClientConnInterface
	Request *build.Request

	Credentials authprovider.AuthConfigProvider
	RegistryTLS map[string]*authprovider.AuthTLSConfig

	// Progress is one of progress.Modes.
	Progress string
	// TraceFile receives every update as JSON, RefFile the build's ref even when it fails,
	// MetadataFile what the exporters answered. Empty is none.
	TraceFile, RefFile, MetadataFile string
	// Metrics counts cache hits; it may be nil.
	Metrics *progress.CacheMetrics
	// ListWarnings has the warnings summed up after the build.
	ListWarnings bool
}

// Build runs the job. Progress goes to standard error.
func (j Job) Build(ctx context.Context) (result *build.Result, err error) {
	var sinks []func(*client.SolveStatus)
	if j.TraceFile != "" {
		trace, err := os.OpenFile(j.TraceFile, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return nil, fmt.Errorf("trace: %w", err)
		}
		defer trace.Close()
		encoder := json.NewEncoder(trace)
		sinks = append(sinks, func(status *client.SolveStatus) { _ = encoder.Encode(status) })
	}
	if j.Metrics != nil {
		sinks = append(sinks, j.Metrics.Observe)
	}
	if j.RefFile != "" {
		defer func() {
			err = errors.Join(err, continuity.AtomicWriteFile(j.RefFile, []byte(j.Request.Ref), 0o666))
		}()
	}
	shown, err := progress.Start(j.Env.Stderr, j.Progress, sinks...)
	if err != nil {
		return nil, err
	}
	builder := &build.Client{
		Conn:        j.Conn,
		Stdout:      j.Env.Stdout,
		Lookup:      j.Env.Lookup,
		Credentials: j.Credentials,
		RegistryTLS: j.RegistryTLS,
		Observe:     shown.Observe,
		Warn:        func(message string) { Warn(j.Env.Stderr, message) },
	}
	result, err = builder.Build(ctx, j.Request)
	warnings, showErr := shown.Close()
	if j.ListWarnings {
		progress.PrintWarnings(j.Env.Stderr, warnings)
	}
	if err == nil {
		err = showErr
	}
	if err != nil {
		return nil, err
	}
	if j.MetadataFile != "" {
		if err := writeMetadata(j.MetadataFile, result.Exported); err != nil {
			return nil, fmt.Errorf("metadata file: %w", err)
		}
	}
	return result, nil
}

// Warn prints something that is wrong but not fatal.
func Warn(out io.Writer, message string) { fmt.Fprintf(out, "warning: %s\n", message) }
