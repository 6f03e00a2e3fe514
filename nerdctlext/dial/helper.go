package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"

	"github.com/docker/cli/cli/connhelper/commandconn"
)

var identifier = regexp.MustCompile(`^[-a-z0-9.]+$`)

// helper returns the command line whose standard streams reach the daemon at address.
func helper(address *url.URL) ([]string, error) {
	switch address.Scheme {
	case "docker-container":
		return container(address, "docker", "context")
	case "podman-container":
		return container(address, "podman", "")
	case "nerdctl-container":
		return container(address, "nerdctl", "namespace")
	case "kube-pod":
		return pod(address)
	case "ssh":
		return remote(address)
	case "":
		return nil, errors.New("no scheme: write unix:///path/to.sock or tcp://host:port")
	}
	return nil, fmt.Errorf("scheme %q is not known; use unix, tcp, docker-container, podman-container, nerdctl-container, kube-pod or ssh", address.Scheme)
}

// container runs the engine's exec, with the one global flag that the engine knows given
// as the query parameter of the same name.
func container(address *url.URL, engine, flag string) ([]string, error) {
	name := address.Hostname()
	if err := notAnOption("container", name); err != nil {
		return nil, err
	}
	argv := []string{engine}
	if flag != "" {
		if value := address.Query().Get(flag); value != "" {
			argv = append(argv, "--"+flag+"="+value)
		}
	}
	return append(argv, "exec", "-i", name, "buildctl", "dial-stdio"), nil
}

func pod(address *url.URL) ([]string, error) {
	query := address.Query()
	named := map[string]string{"pod": address.Hostname()}
	argv := []string{"kubectl"}
	if kubeContext := query.Get("context"); kubeContext != "" {
		argv = append(argv, "--context="+kubeContext)
	}
	if namespace := query.Get("namespace"); namespace != "" {
		named["namespace"] = namespace
		argv = append(argv, "--namespace="+namespace)
	}
	argv = append(argv, "exec")
	if inner := query.Get("container"); inner != "" {
		named["container"] = inner
		argv = append(argv, "--container="+inner)
	}
	for what, name := range named {
		if !identifier.MatchString(name) {
			return nil, fmt.Errorf("unsupported %s name: %q", what, name)
		}
		if err := notAnOption(what, name); err != nil {
			return nil, err
		}
	}
	return append(argv, "-i", address.Hostname(), "--", "buildctl", "dial-stdio"), nil
}

func remote(address *url.URL) ([]string, error) {
	if _, given := address.User.Password(); given {
		return nil, errors.New("an ssh address cannot hold a password")
	}
	if address.RawQuery != "" || address.Fragment != "" {
		return nil, errors.New("an ssh address has no query and no fragment")
	}
	host := address.Hostname()
	if err := notAnOption("host", host); err != nil {
		return nil, err
	}
	argv := []string{"ssh"}
	if port := address.Port(); port != "" {
		argv = append(argv, "-p", port)
	}
	if user := address.User.Username(); user != "" {
		argv = append(argv, "-l", user)
	}
	argv = append(argv, "--", host, "buildctl")
	if address.Path != "" {
		argv = append(argv, "--addr", "unix://"+address.Path)
	}
	return append(argv, "dial-stdio"), nil
}

func notAnOption(what, name string) error {
	if name == "" {
		return fmt.Errorf("the address lacks the name of the %s", what)
	}
	if name[0] == '-' {
		return fmt.Errorf("the name of the %s must not begin with a dash: %q", what, name)
	}
	return nil
}

// command is a dialer whose connection is a process. It lives as long as the
// connection, longer than the dialling's context.
func command(argv []string) dialer {
	return func(ctx context.Context, _ string) (net.Conn, error) {
		return commandconn.New(context.WithoutCancel(ctx), argv[0], argv[1:]...)
	}
}
