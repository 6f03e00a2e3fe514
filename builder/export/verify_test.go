package export

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/kiln-build/kiln/builder/layer"
)

// platformResult is a map of platforms, or with one config a single tree.
func platformResult(platforms ...string) Result {
	r := Result{Refs: map[string]*layer.Layer{}, Metadata: map[string][]byte{}}
	var docs []string
	for _, p := range platforms {
		fields := append(strings.Split(p, "/"), "")
		docs = append(docs, fmt.Sprintf(`{"ID":%q,"Platform":{"os":%q,"architecture":%q,"variant":%q}}`, p, fields[0], fields[1], fields[2]))
		r.Refs[p] = nil
	}
	r.Metadata["refs.platforms"] = []byte(`{"Platforms":[` + strings.Join(docs, ",") + `]}`)
	return r
}

func singleResult(config string) Result {
	r := Result{Refs: map[string]*layer.Layer{"": nil}, Metadata: map[string][]byte{}}
	if config != "" {
		r.Metadata["containerimage.config"] = []byte(config)
	}
	return r
}

func TestCheckPlatforms(t *testing.T) {
	t.Parallel()
	arm := singleResult(`{"os":"linux","architecture":"arm64"}`)
	for _, c := range []struct {
		result Result
		asked  string
		want   []string
	}{
		{arm, "linux/arm64", nil},
		{arm, "linux/arm64/v8", nil},
		{singleResult(`{"os":"windows","architecture":"amd64","os.version":"10.0.1"}`), "windows/amd64", nil},
		{arm, "linux/amd64", []string{`Requested platform "linux/amd64" does not match result platform "linux/arm64"`}},
		{arm, "linux/amd64,linux/arm64", []string{"Multiple platforms requested but result is not multi-platform"}},
		{platformResult("linux/amd64", "linux/arm/v7"), "linux/arm/v7,linux/amd64", nil},
		{platformResult("linux/arm64"), "linux/arm64", nil},
		{platformResult("linux/amd64", "linux/arm64"), "linux/amd64", []string{"Requested platforms linux/amd64 do not match result platforms linux/amd64,linux/arm64"}},
		{platformResult("linux/s390x", "linux/arm64"), "linux/amd64,linux/arm64", []string{"Requested platforms linux/amd64,linux/arm64 do not match result platforms linux/arm64,linux/s390x"}},
		{arm, "linux/arm64,linux/arm64/v8", []string{`Duplicate platform result requested "linux/arm64/v8"`}},
	} {
		got, err := c.result.CheckPlatforms(strings.Split(c.asked, ","))
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s of %s: got %q, %v, want %q", c.asked, c.result.Metadata, got, err, c.want)
		}
	}
	if got, err := arm.CheckPlatforms([]string{"a b"}); err != nil || len(got) != 1 || !strings.HasPrefix(got[0], `Invalid platform result requested "a b": `) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestCheckPlatformsRefuses(t *testing.T) {
	t.Parallel()
	unnamed := platformResult("linux/amd64", "linux/arm64")
	delete(unnamed.Metadata, "refs.platforms")
	for want, r := range map[string]Result{
		"build result contains multiple refs without platforms mapping": unnamed,
		"invalid empty platforms index for exporter":                    platformResult(),
		"os and architecture must be specified together":                singleResult(`{"os":"linux"}`),
	} {
		if _, err := r.CheckPlatforms([]string{"linux/amd64"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
