package config

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestBuildkitdWorkers(t *testing.T) {
	t.Parallel()
	none := environment()
	none.HasProgram = func(string) bool { return false }
	for _, c := range []struct {
		env  Environment
		toml string
		args []string
		want Backend
	}{
		{env: environment(), want: BackendEmbedded},
		{env: none, want: BackendHost},
		{env: none, args: []string{"--oci-worker=true"}, want: BackendEmbedded},
		{env: environment(), args: []string{"--oci-worker=true", "--containerd-worker=true"}, want: BackendEmbedded},
		{env: environment(), args: []string{"--oci-worker=false", "--containerd-worker=true"}, want: BackendHost},
		{env: environment(), toml: "worker.oci.enabled = false", want: BackendHost},
		{env: environment(), toml: "worker.oci.enabled = false", args: []string{"--oci-worker=auto"}, want: BackendEmbedded},
	} {
		inv := mustParse(t, c.toml, c.env, append([]string{"buildkitd"}, c.args...)...)
		if inv.Config.Backend != c.want {
			t.Errorf("%q %q: backend %s", c.toml, c.args, inv.Config.Backend)
		}
	}
	_, err := parse(t, "", environment(), "buildkitd", "--oci-worker=false", "--containerd-worker=false")
	if err == nil || !strings.Contains(err.Error(), "--oci-worker=true") {
		t.Errorf("no worker: %v", err)
	}
}

// These are the command lines with which BuildKit's own tests and nerdctl's
// installer start it.
func TestBuildkitdCommandLines(t *testing.T) {
	t.Parallel()
	c := mustParse(t, `
insecure-entitlements = ["network.host"]
provenanceEnvDir = "/tmp/provenance"
[worker.oci]
  networkMode = "host"
  max-parallelism = 1
[dns]
  nameservers = ["10.11.0.1"]
[history]
  maxEntries = 0
[registry."docker.io"]
mirrors=["localhost:5000"]
[otel]
  socketPath = "/tmp/root/otel-grpc.sock"
[cdi]
  specDirs = ["/tmp/cdi"]
`, environment("BUILDKITD_DEBUGADDR=unix:///tmp/root/debug.sock", "BUILDKIT_STEP_LOG_MAX_SIZE=-1", "BUILDKIT_STEP_LOG_MAX_SPEED=nonsense"),
		"buildkitd", "--oci-worker=true", "--containerd-worker=false", "--oci-worker-gc=false",
		"--oci-worker-labels=org.mobyproject.buildkit.worker.sandbox=true", "--root", "/tmp/root",
		"--addr", "unix:///tmp/root/buildkitd.sock", "--debug")
	want := Default(environment())
	want.Root = "/tmp/root"
	want.Addresses = []string{"unix:///tmp/root/buildkitd.sock"}
	want.DebugAddress = "unix:///tmp/root/debug.sock"
	want.Log = Log{Format: "text", Level: "debug", StepSize: -1, StepSpeed: 200 << 10}
	want.Backend, want.NameImages = BackendEmbedded, false
	want.Containerd.Namespace = "buildkit"
	want.Labels = map[string]string{"org.mobyproject.buildkit.worker.sandbox": "true"}
	want.Entitlements = []string{"network.host"}
	want.Sandbox.MaxParallelism = 1
	want.Network = Network{Mode: "host", CNIConfig: "/etc/buildkit/cni.json", CNIBinDir: "/opt/cni/bin"}
	want.CDI.SpecDirs = []string{"/tmp/cdi"}
	want.DNS.Nameservers = []string{"10.11.0.1"}
	want.Registries = map[string]Registry{"docker.io": {Mirrors: []string{"localhost:5000"}}}
	want.CertsDirs = nil
	want.GC = GC{}
	want.History.MaxEntries = 0
	if !reflect.DeepEqual(c.Config, want) {
		t.Errorf("\n got %+v\nwant %+v", c.Config, want)
	}
	if wantWarnings := []string{"setting otel.socketPath has no effect", "setting provenanceEnvDir has no effect"}; !slices.Equal(c.Warnings, wantWarnings) {
		t.Errorf("warnings %q", c.Warnings)
	}

	host := mustParse(t, "", environment(), "buildkitd", "--oci-worker=false", "--containerd-worker=true",
		"--containerd-worker-addr", "/run/c.sock", "--containerd-worker-namespace=nerdctl", "--containerd-worker-snapshotter=stargz",
		"--containerd-worker-labels=a=b,c=d", "--containerd-worker-gc-keepstorage=10,,30", "--addr=fd://", "--containerd-worker-platform=linux/arm64")
	h := host.Config
	if h.Containerd != (Containerd{Address: "/run/c.sock", Namespace: "nerdctl"}) || h.Snapshotter != "stargz" || h.Labels["a"] != "b,c=d" {
		t.Errorf("containerd worker: %+v", h)
	}
	if (h.GC.ReservedSpace != Size{Bytes: 10e6} || h.GC.MinFreeSpace != Size{} || h.GC.MaxUsedSpace != Size{Bytes: 30e6}) {
		t.Errorf("gc: %+v", h.GC)
	}
	if !slices.Equal(h.Addresses, []string{"fd://"}) || !slices.Equal(h.Platforms, []string{"linux/arm64"}) {
		t.Errorf("addresses %v, platforms %v", h.Addresses, h.Platforms)
	}
}

func TestBuildkitdFile(t *testing.T) {
	t.Parallel()
	inv := mustParse(t, `
debug = true
proxyNetwork = true
future = 1
[log]
  level = "warning"
[grpc]
  address = ["tcp://127.0.0.1:1234"]
  uid = 1001
  gid = 1000
  [grpc.tls]
    cert = "c"
    key = "k"
    ca = "a"
[history]
  maxAge = 172800
  maxEntries = 5
[frontend."dockerfile.v0"]
  enabled = false
[frontend."gateway.v0"]
  allowedRepositories = ["example.com/f"]
[worker.oci]
  gckeepstorage = "1GB"
  snapshotter = "native"
  defaultCgroupParent = "builds"
  [[worker.oci.gcpolicy]]
    keepBytes = "10%"
    keepDuration = "48h"
    filters = ["type==source.local"]
  [[worker.oci.gcpolicy]]
    all = true
    reservedSpace = 10
    keepDuration = 60
`, environment(), "buildkitd")
	c := inv.Config
	if len(inv.Warnings) != 1 || !strings.Contains(inv.Warnings[0], "future (line 4)") {
		t.Errorf("warnings %q", inv.Warnings)
	}
	if c.Log.Level != "warn" || c.User != "1001" || c.Group != "1000" || c.Addresses[0] != "tcp://127.0.0.1:1234" || c.TLS != (TLS{"c", "k", "a"}) {
		t.Errorf("log %+v, group %s, addresses %v, tls %+v", c.Log, c.Group, c.Addresses, c.TLS)
	}
	if !c.Network.Proxy {
		t.Error("no proxy network")
	}
	if c.History != (History{MaxAge: Duration{48 * time.Hour}, MaxEntries: 5}) {
		t.Errorf("history %+v", c.History)
	}
	if c.Frontends.Dockerfile || !c.Frontends.Gateway || !slices.Equal(c.Frontends.GatewayRepositories, []string{"example.com/f"}) {
		t.Errorf("frontends %+v", c.Frontends)
	}
	if c.Snapshotter != "native" || c.Sandbox.CgroupParent != "builds" || c.GC.ReservedSpace != (Size{Bytes: 1 << 30}) {
		t.Errorf("snapshotter %s, sandbox %+v, gc %+v", c.Snapshotter, c.Sandbox, c.GC)
	}
	want := []GCPolicy{
		{Filters: []string{"type==source.local"}, KeepDuration: Duration{48 * time.Hour}, ReservedSpace: Size{Percent: 10}},
		{All: true, KeepDuration: Duration{time.Minute}, ReservedSpace: Size{Bytes: 10}},
	}
	if !reflect.DeepEqual(c.GC.Policies, want) {
		t.Errorf("policies %+v", c.GC.Policies)
	}
}

func TestBuildkitdMissingFileIsEmpty(t *testing.T) {
	t.Parallel()
	if _, err := Parse([]string{"buildkitd", "--config=/nonexistent/buildkitd.toml"}, environment()); err != nil {
		t.Error(err)
	}
}

func TestBuildkitdRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ toml, want string }{
		{"worker.oci.noProcessSandbox = true", "hostPID"},
		{"worker.oci.proxySnapshotterPath = \"/x\"", "proxy plugin"},
		{"worker.oci.networkMode = \"token-ring\"", "network.mode"},
		{"worker.oci.gckeepstorage = \"x\"", "gckeepstorage"},
		{"insecure-entitlements = [\"x\"]", "entitlements"},
		{"root = []", "root"},
	} {
		if _, err := parse(t, c.toml, environment(), "buildkitd"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v", c.toml, err)
		}
	}
	if _, err := parse(t, "", environment(), "buildkitd", "--oci-worker-gc-keepstorage=1,2,3,4"); err == nil {
		t.Error("four sizes to keep: no error")
	}
}

func TestBuildkitdSandbox(t *testing.T) {
	t.Parallel()
	c := mustParse(t, "worker.oci.selinux = true\nsystem.platformsCacheMaxAge = \"3s\"\ncdi.disabled = true\n", environment("BUILDKIT_SETUP_CGROUPV2_ROOT=1"), "buildkitd", "--oci-worker=true").Config
	if !c.Sandbox.SELinux || !c.Sandbox.SetupCgroup || !c.CDI.Disabled || c.PlatformsMaxAge.Duration != 3*time.Second {
		t.Errorf("got %+v", c)
	}
	if c := mustParse(t, "", environment("BUILDKIT_SETUP_CGROUPV2_ROOT=maybe"), "buildkitd", "--oci-worker=true").Config; c.Sandbox.SetupCgroup {
		t.Error("nonsense is taken for true")
	}
}

func TestBuildkitdBridgeByEnvironment(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ variable, flag, want string }{
		{"1", "", "bridge"}, {"0", "", "cni-or-host"}, {"nonsense", "", "cni-or-host"}, {"true", "--oci-worker-net=host", "host"},
	} {
		args := []string{"buildkitd", "--oci-worker=true"}
		if c.flag != "" {
			args = append(args, c.flag)
		}
		got := mustParse(t, "", environment("BUILDKIT_NETWORK_BRIDGE_AUTO="+c.variable), args...)
		if got.Config.Network.Mode != c.want {
			t.Errorf("%+v: got %s", c, got.Config.Network.Mode)
		}
	}
}

func TestBuildkitdRuntime(t *testing.T) {
	t.Parallel()
	args := []string{"buildkitd", "--oci-worker=false", "--containerd-worker=true"}
	c := mustParse(t, "[worker.containerd.runtime]\nname = \"io.containerd.runsc.v1\"\npath = \"/shim\"\n[worker.containerd.runtime.options]\nConfigPath = \"/x\"\n", environment(), args...).Config.Sandbox
	if !c.Shim() || c.Runtime != "io.containerd.runsc.v1" || c.RuntimePath != "/shim" || c.RuntimeOptions["ConfigPath"] != "/x" {
		t.Errorf("%+v", c)
	}
	if c := mustParse(t, "", environment(), args...).Config.Sandbox; c.Runtime != "" {
		t.Errorf("nothing asked for: %+v", c)
	}
	_, err := parse(t, "[sandbox]\nruntime = \"runc\"\nruntimePath = \"/x\"\n", environment(), "kilnd")
	if err == nil || !strings.Contains(err.Error(), "sandbox.runtimePath") {
		t.Errorf("error %v", err)
	}
}

func TestBuildkitdUserRemap(t *testing.T) {
	t.Parallel()
	c := mustParse(t, "[worker.oci]\nenabled = true\nuserRemapUnsupported = \"somebody\"\n", environment(), "buildkitd").Config.Sandbox
	if c.UserRemap != "somebody" {
		t.Errorf("users are remapped to %q", c.UserRemap)
	}
}
