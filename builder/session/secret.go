package session

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets"
)

// MaxSecret is how many bytes a secret may have.
const MaxSecret = 500 << 10

// Secret returns a secret of the client. It fails with errdefs.ErrNotFound
// where the client has none of that id, or no secrets at all.
func (c *Client) Secret(ctx context.Context, id string) ([]byte, error) {
	if !c.Supports(bksession.MethodURL(secrets.Secrets_ServiceDesc.ServiceName, "getsecret")) {
		return nil, noSecret(id)
	}
	ctx, cancel := call(ctx)
	defer cancel()
	resp, err := secrets.NewSecretsClient(c.cc).GetSecret(ctx, &secrets.GetSecretRequest{ID: id})
	if err := c.fail(err); err != nil {
		if errdefs.IsNotFound(err) || errdefs.IsNotImplemented(err) {
			return nil, noSecret(id)
		}
		return nil, fmt.Errorf("secret %s: %w", id, err)
	}
	if len(resp.Data) > MaxSecret {
		return nil, fmt.Errorf("secret %s has %d bytes, more than %d: %w", id, len(resp.Data), MaxSecret, errdefs.ErrInvalidArgument)
	}
	return resp.Data, nil
}

func noSecret(id string) error {
	return fmt.Errorf("secret %s: %w: give it to the build with --secret id=%s", id, errdefs.ErrNotFound, id)
}

// Secret asks the sessions one after the other; see [Client.Secret].
func (m *Manager) Secret(ctx context.Context, ids []string, id string) (data []byte, err error) {
	if len(ids) == 0 {
		return nil, noSecret(id)
	}
	err = m.Any(ctx, ids, func(c *Client) error {
		data, err = c.Secret(ctx, id)
		return err
	})
	return data, err
}
