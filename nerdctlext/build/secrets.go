package build

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
)

// secretStore answers the daemon's wishes for secrets from the request alone. Files are
// read when they are asked for, so that a build that uses none reads none.
type secretStore struct {
	byID   map[string]Secret
	lookup func(string) (string, bool)
}

func openSecrets(list []Secret, lookup func(string) (string, bool)) (*secretStore, error) {
	store := &secretStore{byID: map[string]Secret{}, lookup: lookup}
	for _, secret := range list {
		if secret.ID == "" {
			return nil, errors.New("a secret has no id")
		}
		if secret.Env == "" {
			info, err := os.Stat(secret.File)
			if err != nil {
				return nil, fmt.Errorf("secret %q: %w", secret.ID, err)
			}
			if info.Size() > secretsprovider.MaxSecretSize {
				return nil, tooBig(secret.ID)
			}
		}
		store.byID[secret.ID] = secret
	}
	return store, nil
}

func tooBig(id string) error {
	return fmt.Errorf("secret %q is larger than %d bytes", id, secretsprovider.MaxSecretSize)
}

// GetSecret returns secrets.ErrNotFound for an id that the request does not name.
func (s *secretStore) GetSecret(_ context.Context, id string) ([]byte, error) {
	secret, found := s.byID[id]
	if !found {
		return nil, fmt.Errorf("secret %q: %w", id, secrets.ErrNotFound)
	}
	var value []byte
	if secret.Env != "" {
		text, _ := s.lookup(secret.Env)
		value = []byte(text)
	} else {
		var err error
		if value, err = os.ReadFile(secret.File); err != nil {
			return nil, fmt.Errorf("secret %q: %w", id, err)
		}
	}
	if len(value) > secretsprovider.MaxSecretSize {
		return nil, tooBig(id)
	}
	return value, nil
}
