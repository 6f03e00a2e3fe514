package testbed

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Cluster is the API server of a Kubernetes cluster without nodes, and its etcd.
type Cluster struct {
	URL    string
	admin  string // token
	client *http.Client
}

// StartCluster starts a cluster. Users are known by the tokens, which map to names.
func StartCluster(t testing.TB, users map[string]string) *Cluster {
	t.Helper()
	dir := Dir(t)
	c := &Cluster{admin: rand.Text(), client: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}} //nolint:gosec // it makes its certificate itself
	t.Cleanup(c.client.CloseIdleConnections)
	var addresses [3]string
	for i := range addresses {
		var err error
		if addresses[i], err = FreeAddress(); err != nil {
			t.Fatal(err)
		}
	}
	etcd := "http://" + addresses[0]
	StartServer(t, dir, func() error { return answersOK(http.DefaultClient, etcd+"/health") }, "etcd", "--data-dir", filepath.Join(dir, "etcd"), "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
		"--listen-peer-urls", "http://"+addresses[1], "--unsafe-no-fsync")
	tokens := fmt.Sprintf("%s,admin,admin,system:masters\n", c.admin)
	for token, name := range users {
		tokens += fmt.Sprintf("%s,%s,%[2]s\n", token, name)
	}
	key, err := accountKey()
	for name, data := range map[string][]byte{"tokens.csv": []byte(tokens), "account.key": key} {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o600)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(addresses[2])
	c.URL = "https://" + addresses[2]
	StartServer(t, dir, func() error { return answersOK(c.client, c.URL+"/readyz") }, "kube-apiserver", "--etcd-servers", etcd, "--bind-address", "127.0.0.1", "--secure-port", port,
		"--advertise-address", "192.0.2.1", "--endpoint-reconciler-type", "none", "--cert-dir", filepath.Join(dir, "certs"),
		"--token-auth-file", filepath.Join(dir, "tokens.csv"), "--authorization-mode", "RBAC", "--service-cluster-ip-range", "198.51.100.0/24",
		"--service-account-key-file", filepath.Join(dir, "account.key"), "--service-account-signing-key-file", filepath.Join(dir, "account.key"),
		"--service-account-issuer", "https://cluster.test")
	return c
}

func answersOK(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}

// accountKey makes a key for the tokens of service accounts, of which there are none.
func accountKey() ([]byte, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), nil
}

// Create makes an object, in JSON, at a path of the API, as an administrator.
func (c *Cluster) Create(path, object string) error {
	req, err := http.NewRequest(http.MethodPost, c.URL+path, strings.NewReader(object))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.admin)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		said, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s: %s: %s", path, resp.Status, said)
	}
	return nil
}

// Kubeconfig is a file's content for whoever has a token.
func (c *Cluster) Kubeconfig(token string) []byte {
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: %q}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, c.URL, token)
}
