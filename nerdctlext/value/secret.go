package value

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/moby/buildkit/session/sshforward/sshprovider"

	"github.com/kiln-build/kiln/nerdctlext/build"
)

// Secrets reads --secret values. A secret with neither file nor variable is the variable
// called like its id, or else the file.
func Secrets(list []string, lookup func(string) (string, bool)) ([]build.Secret, error) {
	var out []build.Secret
	for _, text := range list {
		secret, err := secret(text)
		if err != nil {
			return nil, err
		}
		if secret.File == "" && secret.Env == "" {
			if _, ok := lookup(secret.ID); ok {
				secret.Env = secret.ID
			} else {
				secret.File = secret.ID
			}
		}
		out = append(out, secret)
	}
	return out, nil
}

func secret(text string) (build.Secret, error) {
	var secret build.Secret
	list, err := fields(text)
	if err != nil {
		return secret, fmt.Errorf("secret: %w", err)
	}
	kind := ""
	for _, f := range list {
		switch f.key {
		case "type":
			if kind = f.value; kind != "file" && kind != "env" {
				return secret, fmt.Errorf("secret: unsupported secret type %q: it is file or env", kind)
			}
		case "id":
			secret.ID = f.value
		case "source", "src":
			secret.File = f.value
		case "env":
			secret.Env = f.value
		default:
			return secret, fmt.Errorf("secret: unexpected key %q in %q: the keys are id, src, env and type", f.key, text)
		}
	}
	if secret.ID == "" {
		return secret, fmt.Errorf("secret: %q lacks id=NAME", text)
	}
	if kind == "env" && secret.Env == "" {
		secret.Env, secret.File = secret.File, ""
	}
	return secret, nil
}

// Agents reads --ssh values: ID, ID=SOCKET, ID=KEY,KEY… or ID=SOCKET,raw=true. defaultSocket
// is the one for an ID alone.
func Agents(list []string, defaultSocket string) ([]sshprovider.AgentConfig, error) {
	var out []sshprovider.AgentConfig
	for _, text := range list {
		id, rest, given := strings.Cut(text, "=")
		agent := sshprovider.AgentConfig{ID: id}
		if given {
			for part := range strings.SplitSeq(rest, ",") {
				flag, ok := strings.CutPrefix(part, "raw=")
				if !ok {
					agent.Paths = append(agent.Paths, part)
					continue
				}
				raw, err := strconv.ParseBool(flag)
				if err != nil {
					return nil, fmt.Errorf("ssh %s: raw: %w", id, err)
				}
				agent.Raw = raw
			}
		}
		if agent.Raw && len(agent.Paths) != 1 {
			return nil, fmt.Errorf("ssh %s: raw mode needs exactly one socket", id)
		}
		if len(agent.Paths) == 0 && defaultSocket != "" {
			agent.Paths = []string{defaultSocket}
		}
		if len(agent.Paths) == 0 {
			return nil, fmt.Errorf("ssh %s: there is no agent: start one so that SSH_AUTH_SOCK is set, or write %s=SOCKET or %s=KEYFILE", id, id, id)
		}
		out = append(out, agent)
	}
	return out, nil
}
