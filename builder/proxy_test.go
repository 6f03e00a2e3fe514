package builder_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kiln-build/kiln/builder"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/moby/buildkit/client/llb"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	digest "github.com/opencontainers/go-digest"
)

// fetches keeps what steps fetched and wrote.
type fetches struct {
	watch
	mu  sync.Mutex
	all []event.Fetch
	log strings.Builder
}

func (f *fetches) Emit(e event.Event) {
	f.watch.Emit(e)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch e := e.(type) {
	case *event.Fetches:
		f.all = append(f.all, e.All...)
	case *event.Log:
		f.log.Write(e.Data)
	}
}

// origin serves its paths as content and counts requests.
func origin(t *testing.T) (url string, hits *atomic.Int32) {
	t.Helper()
	hits = new(atomic.Int32)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		fmt.Fprint(w, r.URL.Path)
	}))
	t.Cleanup(s.Close)
	return s.URL, hits
}

// fetch is a step that gets a URL on the system with wget.
func fetch(t *testing.T, url string, opts ...llb.RunOption) llb.State {
	t.Helper()
	st := system(t).File(llb.Symlink("busybox", "/bin/wget"))
	script := "no_proxy= NO_PROXY= wget -q -O /out " + url
	return st.Run(append(opts, llb.Args([]string{"sh", "-c", script}), llb.AddEnv("PATH", "/bin"))...).Root()
}

func TestProxyNetwork(t *testing.T) {
	t.Parallel()
	url, hits := origin(t)
	b := open(t, nil)
	build := func(ref string, st llb.State, change func(*builder.Request)) (*fetches, error) {
		req := builder.Request{Ref: ref, Definition: definition(t, st), ProxyNetwork: true}
		if change != nil {
			change(&req)
		}
		f := &fetches{}
		_, err := b.Build(t.Context(), req, f)
		return f, err
	}
	f, err := build("proxied", fetch(t, url+"/a"), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := event.Fetch{Method: "GET", URL: url + "/a", Status: 200, Digest: digest.FromString("/a")}
	if len(f.all) != 1 || f.all[0] != want {
		t.Errorf("fetched %+v, want %+v", f.all, want)
	}
	if text := "proxy network requests:\n- GET " + url + "/a -> 200\n"; !strings.Contains(f.log.String(), text) {
		t.Errorf("log %q", f.log.String())
	}
	deny := rules(rule(spb.PolicyAction_DENY, url+"/a", ""))
	for _, c := range []struct {
		name   string
		change func(*builder.Request)
		hits   int32 // more
		fails  bool
	}{
		{"the same", nil, 0, false},
		{"without a proxy", func(r *builder.Request) { r.ProxyNetwork = false }, 1, false},
		{"denied, although it is known", func(r *builder.Request) { r.SourcePolicy = deny }, 0, true},
		{"replaced", func(r *builder.Request) { r.SourcePolicy = rules(rule(spb.PolicyAction_CONVERT, url+"/a", url+"/b")) }, 1, false},
	} {
		before := hits.Load()
		f, err := build(c.name, fetch(t, url+"/a"), c.change)
		var exit *gwpb.ExitError
		if c.fails != errors.As(err, &exit) || !c.fails && err != nil || hits.Load()-before != c.hits {
			t.Errorf("%s: error %v, %d requests", c.name, err, hits.Load()-before)
		}
		if c.name == "replaced" && (len(f.all) != 1 || f.all[0].URL != url+"/b") {
			t.Errorf("%s: fetched %+v", c.name, f.all)
		}
		if c.fails && (len(f.all) != 1 || f.all[0].Status != http.StatusForbidden) {
			t.Errorf("%s: fetched %+v", c.name, f.all)
		}
	}
	if _, err := build("none", fetch(t, url+"/a", llb.Network(llb.NetModeNone)), nil); err == nil {
		t.Error("a step without a network has a proxy")
	}
}

// TestProxyNetworkOfDaemon: containers have proxies, too, and a configuration is
// enough.
func TestProxyNetworkOfDaemon(t *testing.T) {
	t.Parallel()
	url, _ := origin(t)
	b := open(t, func(cfg *builder.Config) { cfg.ProxyNetwork = true })
	bridge, end := drive(t, b, builder.Request{Ref: "r", SourcePolicy: rules(rule(spb.PolicyAction_DENY, url+"/denied", ""))})
	defer end()
	c := container(t, bridge, "c", on(solve(t, bridge, system(t))))
	first := begin(t, c, gwclient.StartRequest{Args: []string{"sleep", "60"}})
	for path, want := range map[string]string{"/ok": "/ok", "/denied": ""} {
		got, err := say(t, c, "no_proxy= NO_PROXY= busybox wget -q -O- "+url+path)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %q, %v", path, got, err)
		}
	}
	if err := c.Release(t.Context()); err == nil {
		t.Error("the first process has ended by itself")
	}
	first.Wait() //nolint:errcheck // it was killed
}
