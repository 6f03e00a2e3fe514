package snapshotter

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/integration/testbed"
)

var ann = testbed.Account{User: "ann", Password: "secret"}

// private makes images in registries that let only ann in: by her password, and by
// a token that it gets her.
func private(t *testing.T) (basic, token *lazyImage) {
	t.Helper()
	start := func(start func(string, testbed.Account) (*testbed.Registry, error)) *lazyImage {
		r, err := start(testbed.Dir(t), ann)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Stop() }) // there is nothing that it could lose
		return pushLazy(t, r, testbed.EStargz)
	}
	return start(testbed.StartBasicRegistry), start(testbed.StartTokenRegistry)
}

// dockerConfig makes a folder as Docker's clients have it: with the account for the
// first host in its file, and for the second one with a program that tells it. The
// result are variables for those who are to use it.
func dockerConfig(t *testing.T, inFile, byProgram string) (env []string) {
	t.Helper()
	dir := t.TempDir()
	config := fmt.Sprintf(`{"auths":{%q:{"auth":%q}},"credHelpers":{%q:"of-kilns-tests"}}`,
		inFile, base64.StdEncoding.EncodeToString([]byte(ann.User+":"+ann.Password)), byProgram)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	program := fmt.Sprintf("#!/bin/sh\nread host\n[ \"$1 $host\" = \"get %s\" ] || { echo credentials not found in native keychain; exit 1; }\n"+
		"echo '{\"ServerURL\":\"%[1]s\",\"Username\":\"%s\",\"Secret\":\"%s\"}'\n", byProgram, ann.User, ann.Password)
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-of-kilns-tests"), []byte(program), 0o700); err != nil {
		t.Fatal(err)
	}
	return []string{"DOCKER_CONFIG=" + dir, "PATH=" + dir + ":" + os.Getenv("PATH")}
}

// TestDockerCredentials: the daemon's own Docker configuration opens what
// containerd pulls. Without it, layers are unpacked.
func TestDockerCredentials(t *testing.T) {
	t.Parallel()
	basic, token := private(t)
	_, unknown := private(t)
	dir, plugin, flags := setup(t)
	b := &bed{TB: t, containerd: testbed.StartContainerdIn(t, testbed.Dir(t), plugin)}
	b.daemon = testbed.NewDaemon(dir, append(flags, "--containerd-address", b.containerd.Socket, "--lazy-background-fetch=false")...)
	b.daemon.Env = dockerConfig(t, basic.Host, token.Host)
	b.daemon.Start(t)
	for _, i := range []*lazyImage{basic, token, unknown} {
		if _, err := b.try(b.onKiln(b.containerd.Ctr("images", "pull", "--plain-http", i.ref()))); err == nil {
			t.Error("pulled without credentials")
		}
		b.ctr("images", "pull", "--plain-http", "--user", ann.User+":"+ann.Password, i.ref())
		if out := b.container(i.ref(), "wc", "-c", "/noise/1"); out != "524288 /noise/1\n" {
			t.Errorf("the container says %q", out)
		}
	}
	for name, i := range map[string]*lazyImage{"in the file": basic, "by the program": token} {
		i.part(t, name)
		if have := i.downloaded(b); len(have) > 0 {
			t.Errorf("%s: layers %v were downloaded", name, have)
		}
	}
	// The layer below the noise is that of the others.
	if have := unknown.downloaded(b); len(have) != 1 {
		t.Errorf("without credentials of the daemon layers %v were downloaded", have)
	}
	b.empty()
}

// TestClientCredentials: what a build's client knows, of either kind, opens the
// base and the registry that the result is pushed to.
func TestClientCredentials(t *testing.T) {
	t.Parallel()
	basic, token := private(t)
	b := startOn(t, testbed.Containerd2, "--lazy-background-fetch=false")
	env := append(os.Environ(), dockerConfig(t, basic.Host, token.Host)...)
	for _, i := range []*lazyImage{basic, token} {
		text := "FROM " + i.ref() + "\nRUN wc -c /noise/1\n"
		name := i.Host + "/" + i.repo + "/app:1"
		build := b.building(text, "--tag", name, "--push")
		build.Env = append(os.Environ(), "DOCKER_CONFIG="+t.TempDir())
		if _, err := b.try(build); err == nil || !strings.Contains(err.Error(), i.Host) {
			t.Errorf("without credentials: %v", err)
		}
		build = b.building(text, "--tag", name, "--push")
		build.Env = env
		if out := b.run(build); !strings.Contains(out.stderr, "524288 /noise/1") {
			t.Errorf("the build says\n%s", out.stderr)
		}
		i.part(t, i.Host)
		if have := i.downloaded(b); len(have) > 0 {
			t.Errorf("layers %v were downloaded", have)
		}
	}
	b.empty()
}

// TestKubeletCredentials: what a kubelet sends with a request for an image opens
// its layers.
func TestKubeletCredentials(t *testing.T) {
	t.Parallel()
	basic, token := private(t)
	home := testbed.Dir(t)
	socket, config := filepath.Join(home, "cri.sock"), filepath.Join(home, "kilnd.toml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "[snapshots.lazy]\nbackgroundFetch = false\ndockerConfig = false\ncriAddress = %q\n", socket), 0o600); err != nil {
		t.Fatal(err)
	}
	b := startCRI(t, testbed.Containerd2, []string{basic.Host, token.Host}, "--config", config)
	image := func(args ...string) []string {
		return append([]string{"--image-endpoint", "unix://" + socket}, args...)
	}
	pod := b.pod("private")
	for name, i := range map[string]*lazyImage{"basic": basic, "token": token} {
		if _, err := b.try(b.crictlCmd(image("pull", i.ref())...)); err == nil {
			t.Errorf("%s: pulled without credentials", name)
		}
		b.crictl(image("pull", "--creds", ann.User+":"+ann.Password, i.ref())...)
		if out := b.crictl(image("images", "-q", i.ref())...); out == "" {
			t.Errorf("%s: no image", name)
		}
		if have := i.downloaded(b); len(have) > 0 {
			t.Errorf("%s: layers %v were downloaded", name, have)
		}
		if out := pod.says(i.ref(), "wc -c /noise/1"); out != "524288 /noise/1" {
			t.Errorf("%s: the container says %q", name, out)
		}
		i.part(t, name)
	}
	pod.end()
	b.empty()
}
