package config

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// environment is made of NAME=VALUE.
func environment(vars ...string) Environment {
	return Environment{
		Lookup: func(name string) (string, bool) {
			for _, v := range vars {
				if value, ok := strings.CutPrefix(v, name+"="); ok {
					return value, true
				}
			}
			return "", false
		},
		HasProgram: func(name string) bool { return name == "runc" },
	}
}

func file(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// parse adds a configuration file to the arguments.
func parse(t *testing.T, toml string, env Environment, args ...string) (Invocation, error) {
	t.Helper()
	return Parse(append(args[:1:1], append([]string{"--config", file(t, toml)}, args[1:]...)...), env)
}

func mustParse(t *testing.T, toml string, env Environment, args ...string) Invocation {
	t.Helper()
	inv, err := parse(t, toml, env, args...)
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	const toml = `root = "/from/file"`
	variable := environment("KILN_ROOT=/from/env")
	for _, c := range []struct {
		toml string
		env  Environment
		args []string
		want string
	}{
		{"", environment(), nil, "/var/lib/kiln"},
		{toml, environment(), nil, "/from/file"},
		{toml, variable, nil, "/from/env"},
		{toml, variable, []string{"--root=/from/flag"}, "/from/flag"},
		{"", environment("KILN_ROOT="), []string{"--root", "/first", "--root", "/last"}, "/last"},
	} {
		inv := mustParse(t, c.toml, c.env, append([]string{"kilnd"}, c.args...)...)
		if inv.Config.Root != c.want {
			t.Errorf("%+v: root %s", c, inv.Config.Root)
		}
	}
}

func TestFlagsAndVariables(t *testing.T) {
	t.Parallel()
	byFlag := mustParse(t, "", environment(), "kilnd",
		"--addr=unix:///a.sock,tcp://:1", "--addr", "fd://", "--label=a=b", "--label=c=d=e", "--gc=false",
		"--history-max-age=90", "--gc-max-used-space", "10%", "--entitlement=network.host", "--rootless", "--max-parallelism=3",
		"--step-log-size=-1").Config
	byVariable := mustParse(t, "", environment(
		"KILN_ADDR=unix:///a.sock,tcp://:1,fd://", "KILN_LABEL=a=b,c=d=e", "KILN_GC=false",
		"KILN_HISTORY_MAX_AGE=90s", "KILN_GC_MAX_USED_SPACE=10%", "KILN_ENTITLEMENT=network.host", "KILN_ROOTLESS=true",
		"KILN_MAX_PARALLELISM=3", "KILN_STEP_LOG_SIZE=-1"), "kilnd").Config
	byFile := mustParse(t, `
address = ["unix:///a.sock", "tcp://:1", "fd://"]
entitlements = ["network.host"]
labels = {a = "b", c = "d=e"}
gc.enabled = false
gc.maxUsedSpace = "10%"
history.maxAge = 90
sandbox = {rootless = true, maxParallelism = 3}
log.stepSize = -1
`, environment(), "kilnd").Config
	want := Default(environment())
	want.Addresses = []string{"unix:///a.sock", "tcp://:1", "fd://"}
	want.Entitlements = []string{"network.host"}
	want.Labels = map[string]string{"a": "b", "c": "d=e"}
	want.GC = GC{MaxUsedSpace: Size{Percent: 10}}
	want.History.MaxAge = Duration{90 * time.Second}
	want.Sandbox.Rootless, want.Sandbox.MaxParallelism = true, 3
	want.Log.StepSize = -1
	for name, got := range map[string]Config{"flags": byFlag, "variables": byVariable, "file": byFile} {
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, want)
		}
	}
}

func TestExampleHasAllDefaults(t *testing.T) {
	t.Parallel()
	example, err := os.ReadFile("../../config.toml.example")
	if err != nil {
		t.Fatal(err)
	}
	got := mustParse(t, string(example), environment(), "kilnd").Config
	want := Default(environment())
	for _, list := range []*[]string{&want.Platforms, &want.Entitlements, &want.CDI.AutoAllowed, &want.DNS.Nameservers, &want.DNS.Options, &want.DNS.SearchDomains, &want.Frontends.GatewayRepositories} {
		*list = []string{}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the example means\n     %+v\nnot  %+v", got, want)
	}
	all := mustParse(t, uncommented(string(example)), environment(), "kilnd").Config
	r := all.Registries["registry.example.com:5000"]
	if r.HTTP == nil || !*r.HTTP || len(r.KeyPairs) != 1 || len(all.GC.Policies) != 1 || all.Labels["com.example.rack"] != "7" {
		t.Errorf("what is commented out means %+v", all)
	}
}

// uncommented has the keys that are commented out, too.
func uncommented(example string) string {
	var keys []string
	for line := range strings.Lines(example) {
		key := strings.TrimSpace(strings.TrimPrefix(line, "#"))
		if strings.HasPrefix(key, "[") || strings.Contains(key, " = ") {
			keys = append(keys, key)
		}
	}
	return strings.Join(keys, "\n")
}

func TestEveryKeyIsExplained(t *testing.T) {
	t.Parallel()
	example, err := os.ReadFile("../../config.toml.example")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	if err := toml.Unmarshal([]byte(uncommented(string(example))), &all); err != nil {
		t.Fatal(err)
	}
	for _, key := range absent("", reflect.TypeFor[Config](), []any{all}) {
		t.Errorf("key %s is not in config.toml.example", key)
	}
}

// absent are the keys of a type that none of the values has. values are what the
// example has at prefix.
func absent(prefix string, typ reflect.Type, values []any) (keys []string) {
	switch typ.Kind() {
	case reflect.Pointer:
		return absent(prefix, typ.Elem(), values)
	case reflect.Slice, reflect.Map:
		var elements []any
		for _, v := range values {
			switch v := v.(type) {
			case []any:
				elements = append(elements, v...)
			case map[string]any:
				elements = slices.AppendSeq(elements, maps.Values(v))
			}
		}
		return absent(prefix, typ.Elem(), elements)
	case reflect.Struct:
		for i := range typ.NumField() {
			name := typ.Field(i).Tag.Get("toml")
			if name == "" {
				continue
			}
			var found []any
			for _, v := range values {
				if table, ok := v.(map[string]any); ok && table[name] != nil {
					found = append(found, table[name])
				}
			}
			if len(found) == 0 {
				keys = append(keys, prefix+name)
			}
			keys = append(keys, absent(prefix+name+".", typ.Field(i).Type, found)...)
		}
	}
	return keys
}

func TestErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		toml string
		args []string
		want []string
	}{
		{toml: "\nrot = \"/x\"\n[log]\nlevvel = 1", want: []string{"config.toml", "rot (line 2)", "log.levvel (line 4)", "config.toml.example"}},
		{toml: "root = 3", want: []string{"config.toml", "line 1", "root"}},
		{toml: "gc.maxUsedSpace = \"much\"", want: []string{"config.toml", "line 1", `"much" is not a size`}},
		{toml: "history.maxAge = \"long\"", want: []string{`"long" is not a duration`}},
		{toml: "[", want: []string{"config.toml", "line 1"}},
		{toml: "backend = \"docker\"", want: []string{"backend", "docker", "auto, host, embedded"}},
		{toml: "address = []", want: []string{"address", "empty"}},
		{toml: "[sandbox.limits]\nmemory = \"10%\"", want: []string{"sandbox.limits.memory", "percentage"}},
		{toml: "[[sandbox.limits.io]]\ndevice = \"sda\"", want: []string{"sandbox.limits.io.device", "sda"}},
		{args: []string{"--addr=/run/x.sock"}, want: []string{"address", "unix://"}},
		{args: []string{"--addr=unix://x.sock"}, want: []string{"address", "absolute"}},
		{args: []string{"--addr=tcp://host"}, want: []string{"address", "port"}},
		{args: []string{"--entitlement=all"}, want: []string{"entitlement", "network.host"}},
		{args: []string{"--platform=a/b/c/d/e"}, want: []string{"platforms"}},
		{args: []string{"--dns=ns1"}, want: []string{"dns.nameservers", "ns1"}},
		{args: []string{"--tls-cert=x"}, want: []string{"tls", "both"}},
		{args: []string{"--tls-ca=x"}, want: []string{"tls.ca", "tls.cert"}},
		{args: []string{"--host-pid"}, want: []string{"sandbox.hostPID", "rootless"}},
		{args: []string{"--user-remap=x", "--rootless"}, want: []string{"sandbox.userRemap", "rootless"}},
		{args: []string{"--user-remap=x", "--runtime=io.containerd.runc.v2"}, want: []string{"sandbox.userRemap", "sandbox.runtime"}},
		{args: []string{"--max-parallelism=-1"}, want: []string{"maxParallelism", "-1"}},
		{args: []string{"--max-parallelism=x"}, want: []string{"--max-parallelism", "x", "not a number"}},
		{args: []string{"--gc=maybe"}, want: []string{"--gc", "maybe"}},
		{args: []string{"--label=x"}, want: []string{"--label", "KEY=VALUE"}},
		{args: []string{"--nonsense"}, want: []string{"--nonsense"}},
		{args: []string{"serve"}, want: []string{"serve", "--help"}},
		{args: []string{"--config=/nonexistent/config.toml"}, want: []string{"/nonexistent/config.toml"}},
	} {
		_, err := parse(t, c.toml, environment(), append([]string{"kilnd"}, c.args...)...)
		if err == nil {
			t.Errorf("%q %q: no error", c.toml, c.args)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q %q: error %q does not contain %q", c.toml, c.args, err, want)
			}
		}
	}
}

func TestErrorsNameVariables(t *testing.T) {
	t.Parallel()
	_, err := parse(t, "", environment("KILN_GC=maybe"), "kilnd")
	if err == nil || !strings.Contains(err.Error(), "KILN_GC") {
		t.Errorf("error %v", err)
	}
}

func TestHelpAndVersion(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"kilnd", "/usr/bin/buildkitd"} {
		inv, err := Parse([]string{program, "--help"}, environment())
		if err != nil || !strings.Contains(inv.Help, "--root") || inv.Program != filepath.Base(program) {
			t.Errorf("%s --help: %+v, error %v", program, inv, err)
		}
		for _, flag := range []string{"--version", "-v"} {
			if inv, err := Parse([]string{program, flag}, environment()); err != nil || !inv.Version {
				t.Errorf("%s %s: error %v", program, flag, err)
			}
		}
	}
}

func TestUserNamespace(t *testing.T) {
	t.Parallel()
	env := environment("HOME=/home/me", "XDG_RUNTIME_DIR=/run/user/1")
	env.UserNamespace = true
	c := mustParse(t, "", env, "kilnd").Config
	if c.Root != "/home/me/.local/share/kiln" || c.Addresses[0] != "unix:///run/user/1/kiln/kilnd.sock" || !c.Sandbox.Rootless {
		t.Errorf("kilnd: %+v", c)
	}
	c = mustParse(t, "", env, "buildkitd").Config
	if c.Root != "/home/me/.local/share/buildkit" || c.Addresses[0] != "unix:///run/user/1/buildkit/buildkitd.sock" || !c.Sandbox.Rootless {
		t.Errorf("buildkitd: %+v", c)
	}
}
