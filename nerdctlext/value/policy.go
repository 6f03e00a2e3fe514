package value

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"github.com/moby/buildkit/session/auth/authprovider"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/util/entitlements"
)

// Entitlements checks --allow values.
func Entitlements(list []string) ([]string, error) {
	for _, text := range list {
		if _, _, err := entitlements.Parse(text); err != nil {
			return nil, fmt.Errorf("allow: %w: it is network.host, security.insecure or device[=NAME]", err)
		}
	}
	return list, nil
}

// SourcePolicy reads the JSON file of a source policy; no path is no policy.
func SourcePolicy(path string) (*spb.Policy, error) {
	if path == "" {
		return nil, nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("source policy: %w", err)
	}
	policy := &spb.Policy{}
	if err := json.Unmarshal(content, policy); err != nil {
		return nil, fmt.Errorf("source policy %s: %w", path, err)
	}
	return policy, nil
}

// RegistryTLS reads --registry-auth-tlscontext values: how to reach the token servers of
// registries from this side, by host.
func RegistryTLS(list []string) (map[string]*authprovider.AuthTLSConfig, error) {
	out := map[string]*authprovider.AuthTLSConfig{}
	for _, text := range list {
		all, err := fields(text)
		if err != nil {
			return nil, fmt.Errorf("registry-auth-tlscontext: %w", err)
		}
		given := map[string]string{}
		for _, f := range all {
			given[f.key] = f.value
		}
		insecure, _ := strconv.ParseBool(given["insecure"])
		host, ca, cert, key := given["host"], given["ca"], given["cert"], given["key"]
		switch {
		case host == "":
			return nil, fmt.Errorf("--registry-auth-tlscontext requires host=<host>: %q", text)
		case (cert == "") != (key == ""):
			return nil, fmt.Errorf("--registry-auth-tlscontext requires both cert=<cert>,key=<key> or none: %q", text)
		case ca == "" && cert == "" && !insecure:
			return nil, fmt.Errorf("--registry-auth-tlscontext requires ca=<ca> or cert=<cert>,key=<key> or insecure=true: %q", text)
		}
		config := out[host]
		if config == nil {
			config = &authprovider.AuthTLSConfig{}
			out[host] = config
		}
		config.Insecure = config.Insecure || insecure
		if ca != "" {
			config.RootCAs = append(config.RootCAs, ca)
		}
		if cert != "" {
			config.KeyPairs = append(config.KeyPairs, authprovider.TLSKeyPair{Certificate: cert, Key: key})
		}
	}
	return out, nil
}
