package op

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/moby/buildkit/solver/pb"
)

// The PATH of a process whose environment has none.
const (
	defaultPath        = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	defaultWindowsPath = `c:\Windows\System32;c:\Windows;C:\Windows\System32\WindowsPowerShell\v1.0`
)

// environment is what a process finds in its environment.
type environment struct {
	vars    []string // NAME=VALUE
	path    string   // if vars have none
	secrets []*pb.SecretEnv
}

// environment asks the clients for the secrets, which come last.
func (cfg *ExecConfig) environment(ctx context.Context, job schedule.Job, e environment) ([]string, error) {
	env := withDefault(e.vars, "PATH", e.path)
	for _, s := range e.secrets {
		name := s.GetName()
		if name == "" {
			name = s.GetID()
		}
		value, err := cfg.Sessions.Secret(ctx, job.Sessions(), s.GetID())
		if err != nil {
			if s.GetOptional() && isAbsent(err) {
				continue
			}
			return nil, fmt.Errorf("variable %s: %w", name, err)
		}
		env = append(env, name+"="+string(value))
	}
	return env, nil
}

// withDefault gives the variables, and the named one if they lack it.
func withDefault(vars []string, name, value string) []string {
	vars = slices.Clone(vars)
	if slices.ContainsFunc(vars, func(v string) bool { return strings.HasPrefix(v, name+"=") }) {
		return vars
	}
	return append(vars, name+"="+value)
}

// proxies gives the variables by which programs find their proxies.
func proxies(p *pb.ProxyEnv) []string {
	var vars []string
	for _, v := range []struct{ name, value string }{
		{"HTTP_PROXY", p.GetHttpProxy()},
		{"HTTPS_PROXY", p.GetHttpsProxy()},
		{"FTP_PROXY", p.GetFtpProxy()},
		{"NO_PROXY", p.GetNoProxy()},
		{"ALL_PROXY", p.GetAllProxy()},
	} {
		if v.value != "" {
			vars = append(vars, v.name+"="+v.value, strings.ToLower(v.name)+"="+v.value)
		}
	}
	return vars
}
