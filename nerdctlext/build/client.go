package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth/authprovider"
	"google.golang.org/grpc"
)

// Client builds over one connection.
type Client struct {
	Conn grpc.ClientConnInterface
	// Stdout receives what an Output with the file "-" streams.
	Stdout io.Writer
	// Lookup finds the variables that secrets name.
	Lookup func(name string) (value string, found bool)
	// Credentials finds the account for a registry; nil is anonymous.
	Credentials authprovider.AuthConfigProvider
	// RegistryTLS is used for fetching registry tokens on this side, by host.
	RegistryTLS map[string]*authprovider.AuthTLSConfig
	// Observe is told of progress, one call at a time. It may be nil.
	Observe func(*client.SolveStatus)
	// Warn is told what went wrong without failing the build. It may be nil.
	Warn func(message string)
}

// Build runs the request to its end. When ctx is cancelled the daemon is told so, and
// the last of its progress is still observed before Build returns.
func (c *Client) Build(ctx context.Context, request *Request) (*Result, error) {
	if request.Frontend == "" && request.Definition == nil {
		return nil, errors.New("a build needs a frontend or a definition")
	}
	watch := newWatcher(c.Observe)
	offer, err := c.offer(request, watch)
	if err != nil {
		return nil, err
	}
	defer offer.discard()

	shared, err := session.NewSession(ctx, sharedKey(request.Locals))
	if err != nil {
		return nil, fmt.Errorf("opening a session: %w", err)
	}
	for _, service := range offer.services {
		shared.Allow(service)
	}
	solve, bridge := wire(request, offer, shared.ID())
	r := run{
		control: controlapi.NewControlClient(c.Conn),
		bridge:  gatewaypb.NewLLBBridgeClient(c.Conn),
		session: shared,
		watch:   watch,
		warn:    c.warn,
	}
	result, err := r.do(ctx, solve, bridge)
	if err != nil {
		return nil, err
	}
	if err := offer.finish(ctx, result.Exported); err != nil {
		return nil, err
	}
	return result, nil
}

func (c *Client) warn(message string) {
	if c.Warn != nil {
		c.Warn(message)
	}
}

// wire writes the two requests of a build: the one that stays open until everything is
// exported, and the one that computes the result inside it.
func wire(request *Request, offer *offer, sessionID string) (*controlapi.SolveRequest, *gatewaypb.SolveRequest) {
	options := maps.Clone(request.Options)
	if options == nil {
		options = map[string]string{}
	}
	maps.Copy(options, offer.options)
	imports := make([]*controlapi.CacheOptionsEntry, len(offer.imports))
	bridged := make([]*gatewaypb.CacheOptionsEntry, len(offer.imports))
	for i, from := range offer.imports {
		imports[i] = &controlapi.CacheOptionsEntry{Type: from.Type, Attrs: from.Attrs}
		bridged[i] = &gatewaypb.CacheOptionsEntry{Type: from.Type, Attrs: from.Attrs}
	}
	if len(imports) > 0 {
		// Cannot fail: strings and maps of strings.
		encoded, _ := json.Marshal(imports)
		options["cache-imports"] = string(encoded)
	}
	cache := &controlapi.CacheOptions{Imports: imports}
	for _, to := range request.CacheExports {
		cache.Exports = append(cache.Exports, &controlapi.CacheOptionsEntry{Type: to.Type, Attrs: to.Attrs})
	}

	solve := &controlapi.SolveRequest{
		Ref:           request.Ref,
		Session:       sessionID,
		FrontendAttrs: options,
		Cache:         cache,
		Entitlements:  request.Entitlements,
		SourcePolicy:  request.SourcePolicy,
		ProxyNetwork:  request.ProxyNetwork,
	}
	for i, output := range request.Outputs {
		if i == 0 { // for daemons that know only one exporter
			solve.ExporterDeprecated, solve.ExporterAttrsDeprecated = output.Type, output.Attrs
		}
		solve.Exporters = append(solve.Exporters, &controlapi.Exporter{Type: output.Type, Attrs: output.Attrs})
	}
	return solve, &gatewaypb.SolveRequest{
		Definition:          request.Definition,
		Frontend:            request.Frontend,
		FrontendOpt:         options,
		CacheImports:        bridged,
		AllowResultReturn:   true,
		AllowResultArrayRef: true,
	}
}
