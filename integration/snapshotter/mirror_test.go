package snapshotter

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kiln-build/kiln/integration/testbed"
)

// TestMirrors: of a registry that can't be reached, the first mirror is dead, the
// second one takes requests and never answers, and the third one serves. That goes for
// builds, and for the files of lazy layers, whoever pulls them.
func TestMirrors(t *testing.T) {
	t.Parallel()
	for name, configure := range map[string]func(t *testing.T, dir string, mirrors []string) (flags []string){
		"hosts.toml": func(_ *testing.T, dir string, _ []string) []string { return []string{"--certs-dir", dir} },
		"kilnd": func(t *testing.T, dir string, mirrors []string) []string {
			config := filepath.Join(dir, "kilnd.toml")
			text := fmt.Sprintf("[registry.\"images.example\"]\nmirrors = [%q, %q, %q]\n", mirrors[0], mirrors[1], mirrors[2])
			if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			return []string{"--config", config}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			silent := testbed.CountTo(registry.Host)
			silent.Hang(true)
			t.Cleanup(silent.Close)
			image := pushLazy(t, registry, testbed.EStargz)
			folder := t.TempDir()
			mirrors := []string{"127.0.0.1:1", silent.Host, image.Host}
			b := startOn(t, testbed.Containerd2, append(configure(t, folder, mirrors), "--lazy-background-fetch=false")...)
			b.hosts(folder, "images.example", mirrored(mirrors...))
			forCtr := t.TempDir() // which would wait for the silent one
			b.hosts(forCtr, "images.example", mirrored(mirrors[0], mirrors[2]))
			ref := "images.example/" + image.repo + ":1"
			begin := time.Now()
			b.build("FROM " + ref + "\nRUN wc -c /noise/1\n")
			t.Logf("built in %s", time.Since(begin))
			b.ctr("images", "pull", "--hosts-dir", forCtr, ref)
			t.Logf("and pulled in %s", time.Since(begin))
			if out := b.container(ref, "wc", "-c", "/noise/2"); out != "524288 /noise/2\n" {
				t.Errorf("the container says %q", out)
			}
			image.part(t, "from the mirror")
			if have := image.downloaded(b); len(have) > 0 {
				t.Errorf("layers %v were downloaded", have)
			}
			b.empty()
		})
	}
}

// mirrored is a hosts.toml of a registry that is dead, with mirrors.
func mirrored(mirrors ...string) string {
	text := "server = \"http://127.0.0.1:2\"\n"
	for _, m := range mirrors {
		text += fmt.Sprintf("[host.\"http://%s\"]\ncapabilities = [\"pull\", \"resolve\"]\n", m)
	}
	return text
}
