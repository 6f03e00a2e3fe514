package server

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/containerd/stargz-snapshotter/fs/source"

	"github.com/kiln-build/kiln/snapshotter/lazy"
)

// requestTimeout bounds a request that has no body to speak of.
const requestTimeout = 20 * time.Second

// hostsFor gives a registry's hosts as somebody with the grant may speak to them;
// "" is nobody but this machine.
func (b *backend) hostsFor(grant string) source.RegistryHosts {
	return func(ref reference.Spec) ([]docker.RegistryHost, error) {
		known, err := b.hosts(ref.Hostname())
		if err != nil {
			return nil, err
		}
		hosts := make([]docker.RegistryHost, 0, len(known))
		for _, h := range known {
			client := *h.Client
			client.Timeout = requestTimeout
			if client.Transport == nil {
				client.Transport = http.DefaultTransport
			}
			h.Client = &client
			machine := docker.NewDockerAuthorizer(docker.WithAuthClient(&client), docker.WithAuthCreds(func(host string) (string, string, error) {
				return b.keys.credentials(host, ref)
			}))
			h.Authorizer = &authorizer{ask: b.ask, grant: grant, repository: ref.Locator, machine: machine}
			hosts = append(hosts, h)
		}
		return hosts, nil
	}
}

// authorizer answers with the credentials of whoever has the grant, as long as
// those do, else with those of this machine.
type authorizer struct {
	ask        lazy.Authorize
	grant      string
	repository string
	machine    docker.Authorizer

	mu     sync.Mutex
	header string // what the one with the grant may send
	fell   bool   // back to the machine's
}

// Authorize adds credentials to a request.
func (a *authorizer) Authorize(ctx context.Context, req *http.Request) error {
	a.mu.Lock()
	header, fell := a.header, a.fell
	a.mu.Unlock()
	switch {
	case fell || a.grant == "":
		return a.machine.Authorize(ctx, req)
	case header != "":
		req.Header.Set("Authorization", header)
	}
	return nil
}

// AddResponses takes a refusal and says whether to try again.
func (a *authorizer) AddResponses(ctx context.Context, responses []*http.Response) error {
	if a.grant == "" {
		return a.machine.AddResponses(ctx, responses)
	}
	last := responses[len(responses)-1]
	header, err := a.ask(ctx, lazy.Challenge{
		Grant: a.grant, Repository: a.repository, URL: last.Request.URL.String(), Scopes: docker.GetTokenScopes(ctx, nil),
		Challenges: last.Header.Values("WWW-Authenticate"), Refused: last.Request.Header.Get("Authorization"),
	})
	a.mu.Lock()
	a.header, a.fell = header, err != nil
	a.mu.Unlock()
	if err == nil {
		return nil
	}
	if merr := a.machine.AddResponses(ctx, responses); merr != nil {
		return errors.Join(err, merr)
	}
	return nil
}
