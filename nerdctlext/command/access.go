package command

import (
	"context"
	"fmt"
	"strings"

	"github.com/docker/cli/cli/config/types"
	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/spf13/pflag"

	"github.com/kiln-build/kiln/nerdctlext/perform"
	"github.com/kiln-build/kiln/nerdctlext/value"
)

// accessFlags say what the build may use: secrets, keys, accounts, privileges.
type accessFlags struct {
	secrets, ssh, allow []string
	policyFile          string
	authFile, account   string
	verify              string
}

func (a *accessFlags) register(flags *pflag.FlagSet) {
	flags.StringArrayVar(&a.secrets, "secret", nil, "secret, `id=NAME[,src=FILE|,env=VARIABLE]`")
	flags.StringArrayVar(&a.ssh, "ssh", nil, "agent or keys, default or `ID=SOCKET` or ID=KEY[,KEY]")
	flags.StringArrayVar(&a.allow, "allow", nil, "`privilege`: network.host, security.insecure or device[=NAME]")
	flags.StringVar(&a.policyFile, "source-policy-file", "", "`file` with a policy for sources, as JSON (default $EXPERIMENTAL_BUILDKIT_SOURCE_POLICY)")
	flags.StringVar(&a.authFile, "authfile", "", "`file` with registry accounts (default $REGISTRY_AUTH_FILE, else docker's configuration)")
	flags.StringVar(&a.account, "creds", "", "registry account, `USER[:PASSWORD]`, for all registries")
	flags.StringVar(&a.verify, "tls-verify", "true", "push to registries with a valid certificate only; `false` is to any, without TLS too")
	flags.Lookup("tls-verify").NoOptDefVal = "true"
}

func (a *accessFlags) apply(_ context.Context, p *plan) error {
	r := p.request
	var err error
	if r.Secrets, err = value.Secrets(lastOfID(a.secrets), p.env.Lookup); err != nil {
		return err
	}
	agents := a.ssh
	if len(agents) == 0 && needsAgent(r.Options["context"]) && p.env.Get("SSH_AUTH_SOCK") != "" {
		agents = []string{"default"}
	}
	if r.Agents, err = value.Agents(agents, p.env.Get("SSH_AUTH_SOCK")); err != nil {
		return err
	}
	if r.Entitlements, err = value.Entitlements(a.allow); err != nil {
		return err
	}
	policy := a.policyFile
	if policy == "" {
		policy = p.env.Get("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY")
	}
	if r.SourcePolicy, err = value.SourcePolicy(policy); err != nil {
		return err
	}
	switch a.verify {
	case "true":
	case "false":
		p.attrs["registry.insecure"] = "true"
	default:
		return fmt.Errorf("tls-verify is true or false, not %q", a.verify)
	}
	p.credentials, err = a.credentials(p)
	return err
}

// needsAgent tells whether a git repository is reached through ssh.
func needsAgent(context string) bool {
	return strings.HasPrefix(context, "ssh://") || strings.HasPrefix(context, "git@")
}

// lastOfID drops a secret that a later one replaces.
func lastOfID(list []string) []string {
	var out []string
	seen := map[string]int{}
	for _, text := range list {
		id := text
		for field := range strings.SplitSeq(text, ",") {
			if name, ok := strings.CutPrefix(field, "id="); ok {
				id = name
			}
		}
		if at, known := seen[id]; known {
			out[at] = text
			continue
		}
		seen[id] = len(out)
		out = append(out, text)
	}
	return out
}

func (a *accessFlags) credentials(p *plan) (authprovider.AuthConfigProvider, error) {
	if a.account != "" {
		user, password, _ := strings.Cut(a.account, ":")
		return func(context.Context, string, []string, authprovider.ExpireCachedAuthCheck) (types.AuthConfig, error) {
			return types.AuthConfig{Username: user, Password: password}, nil
		}, nil
	}
	file := a.authFile
	if file == "" {
		file = p.env.Get("REGISTRY_AUTH_FILE")
	}
	if file != "" {
		return perform.CredentialsFile(file)
	}
	return perform.Credentials(p.env), nil
}
