package registry

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	dockerconfig "github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
)

const (
	pullOnly   = docker.HostCapabilityPull | docker.HostCapabilityResolve
	everything = pullOnly | docker.HostCapabilityPush | docker.HostCapabilityReferrers
)

// configure gives a registry's hosts without authorizers.
func configure(cfg Config, name string) ([]docker.RegistryHost, error) {
	hosts, err := configureHosts(cfg, name)
	if err != nil {
		return nil, fmt.Errorf("configuration of registry %s: %w", name, err)
	}
	for i := range hosts {
		c := *hosts[i].Client
		t := &retryTransport{next: c.Transport, retry: cfg.Retry, wait: answerTimeout}
		c.Transport = t
		if i < len(hosts)-1 {
			t.wait = mirrorTimeout
			c.Transport = &mirrorTransport{next: t} // as long as the settings count
		}
		hosts[i].Client = &c
	}
	return hosts, nil
}

func configureHosts(cfg Config, name string) ([]docker.RegistryHost, error) {
	settings, ok := cfg.Hosts[name]
	if !ok {
		for _, dir := range cfg.HostDirs {
			find := dockerconfig.HostDirFromRoot(dir)
			if _, err := find(name); err == nil {
				return dockerconfig.ConfigureHosts(context.Background(), dockerconfig.HostOptions{HostDir: find})(name)
			} else if !errdefs.IsNotFound(err) {
				return nil, err
			}
		}
	}
	var hosts []docker.RegistryHost
	for _, m := range settings.Mirrors {
		mirror, sub, _ := strings.Cut(strings.TrimSuffix(m, "/"), "/")
		h, err := newHost(mirror, cfg.Hosts[mirror])
		if err != nil {
			return nil, fmt.Errorf("mirror %s: %w", m, err)
		}
		h.Path = path.Join("/v2", sub)
		h.Capabilities = pullOnly
		hosts = append(hosts, h)
	}
	if name == "docker.io" {
		name = "registry-1.docker.io"
	}
	h, err := newHost(name, settings)
	if err != nil {
		return nil, err
	}
	return append(hosts, h), nil
}

// newHost gives the host with all that it could do.
func newHost(name string, s Host) (docker.RegistryHost, error) {
	h := docker.RegistryHost{Host: name, Scheme: "https", Path: "/v2", Capabilities: everything}
	plain := isThisMachine(name)
	if s.HTTP != nil {
		plain = *s.HTTP
	}
	tlsConfig, err := s.tls()
	if err != nil {
		return h, err
	}
	tr := newTransport()
	tr.TLSClientConfig = tlsConfig
	h.Client = &http.Client{Transport: tr}
	switch {
	case plain && s.Insecure:
		h.Client.Transport = docker.NewHTTPFallback(tr)
	case plain:
		h.Scheme = "http"
	}
	return h, nil
}

// newTransport speaks HTTP/1.1 only: the flow control of HTTP/2, which can't be
// tuned, slows large uploads down.
func newTransport() *http.Transport {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 60 * time.Second}).DialContext,
		MaxIdleConns:          32,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       120 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: 5 * time.Second,
		Protocols:             p,
	}
}

func isThisMachine(name string) bool {
	host := name
	if h, _, err := net.SplitHostPort(name); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
