package build

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/docker/cli/cli/config/types"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth/authprovider"
	digest "github.com/opencontainers/go-digest"
)

// auth offers the client's registry accounts. Using one shows once in the progress.
func (c *Client) auth(watch *watcher) session.Attachable {
	credentials := c.Credentials
	if credentials == nil {
		credentials = anonymous
	}
	return authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
		AuthConfigProvider: announced(credentials, watch),
		TLSConfigs:         c.RegistryTLS,
	})
}

func anonymous(context.Context, string, []string, authprovider.ExpireCachedAuthCheck) (types.AuthConfig, error) {
	return types.AuthConfig{}, nil
}

// announced reports each account and scope at its first use.
func announced(credentials authprovider.AuthConfigProvider, watch *watcher) authprovider.AuthConfigProvider {
	var seen sync.Map
	return func(ctx context.Context, host string, scopes []string, expired authprovider.ExpireCachedAuthCheck) (types.AuthConfig, error) {
		account, err := credentials(ctx, host, scopes, expired)
		if err != nil || len(scopes) == 0 || (account.Password == "" && account.IdentityToken == "") {
			return account, err
		}
		name := fmt.Sprintf("[auth] %s token for %s", strings.ReplaceAll(strings.Join(scopes, " "), "repository:", ""), host)
		if _, known := seen.LoadOrStore(name, true); !known {
			now := time.Now()
			watch.tell(&client.SolveStatus{Vertexes: []*client.Vertex{{
				Digest: digest.FromString(name), Name: name, Started: &now, Completed: &now,
			}}})
		}
		return account, nil
	}
}
