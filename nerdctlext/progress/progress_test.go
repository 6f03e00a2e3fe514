package progress_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/console"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/kiln-build/kiln/nerdctlext/progress"
)

// steps are updates about steps that all have run, by name; a star means cached.
func steps(names ...string) *client.SolveStatus {
	at := time.Now()
	status := &client.SolveStatus{}
	for i, name := range names {
		at := at.Add(time.Duration(i) * time.Millisecond) // they are shown in this order
		plain, cached := strings.CutSuffix(name, "*")
		status.Vertexes = append(status.Vertexes, &client.Vertex{
			Digest: digest.FromString(plain), Name: plain, Started: &at, Completed: &at, Cached: cached,
		})
	}
	return status
}

func TestPlain(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	var sunk int
	p, err := progress.Start(&out, "plain", func(*client.SolveStatus) { sunk++ })
	if err != nil {
		t.Fatal(err)
	}
	p.Observe(steps("[1/2] FROM a", "[2/2] RUN b*"))
	p.Observe(&client.SolveStatus{Warnings: []*client.VertexWarning{{Vertex: digest.FromString("[2/2] RUN b"), Short: []byte("careful")}}})
	warnings, err := p.Close()
	if err != nil || len(warnings) != 1 || sunk != 2 {
		t.Errorf("%v, %d warnings, %d updates", err, len(warnings), sunk)
	}
	for _, want := range []string{"#1 [1/2] FROM a", "#2 [2/2] RUN b", "#2 CACHED"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, out.String())
		}
	}
}

func TestRawJSONIsOneObjectInALine(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p, err := progress.Start(&out, "rawjson")
	if err != nil {
		t.Fatal(err)
	}
	p.Observe(steps("a"))
	p.Observe(steps("b"))
	if _, err := p.Close(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines:\n%s", len(lines), out.String())
	}
	for _, line := range lines {
		var status client.SolveStatus
		if err := json.Unmarshal([]byte(line), &status); err != nil || len(status.Vertexes) != 1 {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func TestTTYDrawsOnATerminal(t *testing.T) {
	t.Parallel()
	pty, path, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer pty.Close()
	terminal, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	if err := pty.Resize(console.WinSize{Width: 80, Height: 25}); err != nil {
		t.Fatal(err)
	}
	drawn := make(chan string, 1)
	go func() {
		var all strings.Builder
		buffer := make([]byte, 4096)
		for {
			n, err := pty.Read(buffer)
			all.Write(buffer[:n])
			if err != nil || strings.Contains(all.String(), "[1/1] RUN a") && strings.Contains(all.String(), "FINISHED") {
				drawn <- all.String()
				return
			}
		}
	}()
	p, err := progress.Start(terminal, "tty")
	if err != nil {
		t.Fatal(err)
	}
	p.Observe(steps("[1/1] RUN a"))
	if _, err := p.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case text := <-drawn:
		if !strings.Contains(text, "[+] Building") {
			t.Errorf("drawn: %q", text)
		}
	case <-time.After(10 * time.Second):
		t.Error("nothing was drawn")
	}
}

func TestModesThatAreRefused(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"tty", "fancy"} { // a buffer is no terminal
		if _, err := progress.Start(&bytes.Buffer{}, mode); err == nil {
			t.Errorf("%s: no error", mode)
		}
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	at := &pb.Range{Start: &pb.Position{Line: 2}, End: &pb.Position{Line: 2}}
	info := &pb.SourceInfo{Filename: "Dockerfile", Data: []byte("FROM a\nrun b\nRUN c\n")}
	var out bytes.Buffer
	progress.PrintWarnings(&out, nil)
	if out.Len() > 0 {
		t.Errorf("printed without warnings: %q", out.String())
	}
	progress.PrintWarnings(&out, []client.VertexWarning{
		{Short: []byte("casing"), URL: "http://rule", Detail: [][]byte{[]byte("use one")}, SourceInfo: info, Range: []*pb.Range{at}},
		{Short: []byte("without a place"), SourceInfo: info, Range: []*pb.Range{{}}}, // as a hostile daemon may send it
	})
	for _, want := range []string{"2 warnings found", "casing (http://rule)", "   use one", ">>> run b", "without a place"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, out.String())
		}
	}
}

func TestCacheMetrics(t *testing.T) {
	t.Parallel()
	metrics := progress.NewCacheMetrics()
	metrics.Observe(steps("[internal] load build definition", "[auth] x", "importing cache manifest", "exporting to image"))
	metrics.Observe(steps("[a 1/3] FROM b", "[a 2/3] RUN hit*"))
	metrics.Observe(&client.SolveStatus{Vertexes: []*client.Vertex{{Digest: digest.FromString("[a 3/3] RUN miss"), Name: "[a 3/3] RUN miss"}}})
	metrics.Observe(steps("[a 3/3] RUN miss"))
	var out bytes.Buffer
	if err := metrics.Print(&out); err != nil {
		t.Fatal(err)
	}
	missed, object, _ := strings.Cut(out.String(), "\n")
	if missed != "cache miss: [a 3/3] RUN miss" {
		t.Errorf("first line %q", missed)
	}
	var got map[string]int64
	if err := json.Unmarshal([]byte(object), &got); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]int64{
		"total": 7, "completed": 7, "user_total": 3, "user_cached": 1, "user_completed": 3, "user_cacheable": 2, "from": 1, "miss": 1,
	} {
		if got[key] != want {
			t.Errorf("%s is %d, want %d", key, got[key], want)
		}
	}
	if err := metrics.Print(failing{}); err == nil {
		t.Error("an error of writing was lost")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("full") }
