package value_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/nerdctlext/internal/golden"
	"github.com/kiln-build/kiln/nerdctlext/value"
)

// TestValues reads cases of the form KIND VALUE…, with the environment before them.
func TestValues(t *testing.T) {
	golden.Run(t, "testdata/values.txt", func(t *testing.T, input string) string {
		env, words := golden.Case(input, nil, nil)
		values := words[1:]
		var got any
		var err error
		switch words[0] {
		case "output":
			got, err = value.Outputs(values, func() bool { return env.Get("TERMINAL") != "" })
		case "export-cache":
			got, err = value.CacheExports(values, env.Lookup)
		case "import-cache":
			got, err = value.CacheImports(values, env.Lookup)
		case "secret":
			got, err = value.Secrets(values, env.Lookup)
		case "ssh":
			got, err = value.Agents(values, env.Get("SSH_AUTH_SOCK"))
		case "opt":
			got, err = value.Options(values, env.Lookup)
		case "pairs":
			got, err = value.Pairs(values)
		case "allow":
			got, err = value.Entitlements(values)
		case "tls":
			got, err = value.RegistryTLS(values)
		default:
			t.Fatalf("no kind %q", words[0])
		}
		if err != nil {
			return "error: " + err.Error()
		}
		text, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	})
}

func TestSourcePolicy(t *testing.T) {
	t.Parallel()
	policy, err := value.SourcePolicy("testdata/policy.json")
	if err != nil || len(policy.GetRules()) != 1 || policy.Rules[0].GetSelector().GetIdentifier() != "docker-image://docker.io/library/a:latest" {
		t.Errorf("%v, %v", policy, err)
	}
	if policy, err := value.SourcePolicy(""); policy != nil || err != nil {
		t.Errorf("no file: %v, %v", policy, err)
	}
	for _, path := range []string{"testdata/none.json", "testdata/values.txt"} {
		if _, err := value.SourcePolicy(path); err == nil || !strings.Contains(fmt.Sprint(err), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
