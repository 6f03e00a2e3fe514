package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/docker/cli/cli/config/configfile"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// kubeSecrets are the registry credentials in a cluster's secrets, of all
// namespaces. stargz-snapshotter's keychain for them would watch the cluster, and
// make the program twice as large; these are looked at when they are wanted.
type kubeSecrets struct {
	kubeconfig string // path; the file may come later

	mu      sync.Mutex
	read    time.Time
	configs []*configfile.ConfigFile
}

// secretsLife is how long a list of secrets is good for.
const secretsLife = 30 * time.Second

// maxSecrets bounds the list, in bytes.
const maxSecrets = 32 << 20

// dockerHub is what Docker's files call docker.io.
const dockerHub = "https://index.docker.io/v1/"

// find gives the credentials for a host; "" for none.
func (k *kubeSecrets) find(ctx context.Context, host string) (user, secret string, _ error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var err error
	if time.Since(k.read) > secretsLife {
		var fresh []*configfile.ConfigFile
		if fresh, err = k.list(ctx); err == nil {
			k.configs, k.read = fresh, time.Now()
		}
	}
	if host == "docker.io" || host == "registry-1.docker.io" {
		host = dockerHub
	}
	for _, c := range k.configs {
		a, ok := c.AuthConfigs[host]
		if !ok {
			a = c.AuthConfigs["https://"+host]
		}
		if a.IdentityToken != "" {
			return "", a.IdentityToken, nil
		}
		if a.Username != "" || a.Password != "" {
			return a.Username, a.Password, nil
		}
	}
	return "", "", err
}

// list asks the cluster's API for secrets of type kubernetes.io/dockerconfigjson.
func (k *kubeSecrets) list(ctx context.Context) ([]*configfile.ConfigFile, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", k.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", k.kubeconfig, err)
	}
	defer client.CloseIdleConnections()
	server := cfg.Host
	if !strings.Contains(server, "://") {
		server = "https://" + server
	}
	query := url.Values{"fieldSelector": {"type=kubernetes.io/dockerconfigjson"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(server, "/")+"/api/v1/secrets?"+query.Encode(), nil)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", k.kubeconfig, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("secrets of the cluster: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("secrets of the cluster: %s", resp.Status)
	}
	var list struct {
		Items []struct {
			Data map[string][]byte `json:"data"`
		} `json:"items"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxSecrets)).Decode(&list); err != nil {
		return nil, fmt.Errorf("secrets of the cluster: %w", err)
	}
	var found []*configfile.ConfigFile
	for _, s := range list.Items {
		c := configfile.New("")
		if lerr := c.LoadFromReader(bytes.NewReader(s.Data[".dockerconfigjson"])); lerr != nil {
			err = errors.Join(err, lerr)
			continue // others may be whole
		}
		found = append(found, c)
	}
	if len(found) == 0 && err != nil {
		return nil, fmt.Errorf("secrets of the cluster: %w", err)
	}
	return found, nil
}
