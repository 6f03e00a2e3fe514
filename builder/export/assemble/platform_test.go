package assemble

import (
	"strings"
	"testing"

	"github.com/containerd/platforms"
)

func TestPlatforms(t *testing.T) {
	t.Parallel()
	ps, err := Platforms(map[string][]byte{KeyPlatforms: []byte(
		`{"Platforms":[{"ID":"../b","Platform":{"os":"linux","architecture":"aarch64"}},{"ID":"a","Platform":{"os":"linux","architecture":"arm"}}]}`)})
	if err != nil {
		t.Fatal(err)
	}
	if len(ps) != 2 || ps[0].ID != "../b" || platforms.FormatAll(ps[0].Platform) != "linux/arm64" || platforms.FormatAll(ps[1].Platform) != "linux/arm/v7" {
		t.Errorf("%+v", ps)
	}
}

func TestPlatformOfConfig(t *testing.T) {
	t.Parallel()
	for config, want := range map[string]string{
		"": platforms.FormatAll(platforms.Normalize(platforms.DefaultSpec())),
		`{"os":"linux","architecture":"arm64","variant":"v8"}`: "linux/arm64",
	} {
		ps, err := Platforms(map[string][]byte{KeyConfig: []byte(config)})
		if err != nil || len(ps) != 1 || ps[0].ID != want {
			t.Errorf("%s: %+v, %v", config, ps, err)
		}
	}
}

func TestBadPlatforms(t *testing.T) {
	t.Parallel()
	for doc, want := range map[string]string{
		"":                 "invalid empty platforms index",
		`{}`:               "invalid empty platforms index",
		`{"Platforms":[]}`: "invalid empty platforms index",
		`{"Platforms":7}`:  "refs.platforms from the frontend",
		`{"Platforms":[{"ID":"","Platform":{"os":"linux","architecture":"amd64"}}]}`: "invalid empty platform key",
		`{"Platforms":[{"ID":"a","Platform":{"os":"linux"}}]}`:                       "invalid platform value",
	} {
		_, err := Platforms(map[string][]byte{KeyPlatforms: []byte(doc)})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", doc, err, want)
		}
	}
	many := `{"Platforms":[` + strings.Repeat("{},", maxPlatforms) + `{}]}`
	if _, err := Platforms(map[string][]byte{KeyPlatforms: []byte(many)}); err == nil || !strings.Contains(err.Error(), "more than 1000") {
		t.Error(err)
	}
	if _, err := Platforms(map[string][]byte{KeyConfig: []byte(`{"os":"linux"}`)}); err == nil {
		t.Error("accepted a config with half a platform")
	}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	meta := map[string][]byte{"k": []byte("all"), "k/a": []byte("a"), "k/e": {}}
	for id, want := range map[string]string{"a": "a", "b": "all", "e": ""} {
		if got := string(Platform{ID: id}.Lookup(meta, "k")); got != want {
			t.Errorf("%s: %q, want %q", id, got, want)
		}
	}
}
