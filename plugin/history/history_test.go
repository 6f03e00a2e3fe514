package history

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func open(t *testing.T, cfg Config) *History {
	t.Helper()
	if cfg.Root == "" {
		cfg.Root = t.TempDir()
	}
	h, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

func begin(t *testing.T, h *History, ref string) *Build {
	t.Helper()
	b, err := h.Begin(&record{Ref: ref, CreatedAt: timestamppb.Now()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// add records a build that ended some time ago.
func add(t *testing.T, h *History, ref string, ago time.Duration) {
	t.Helper()
	b := begin(t, h, ref)
	if _, err := b.Log().WriteString("log of " + ref); err != nil {
		t.Fatal(err)
	}
	at := timestamppb.New(time.Now().Add(-ago))
	if err := b.Complete(&record{Ref: ref, CreatedAt: at, CompletedAt: at}, "test/log"); err != nil {
		t.Fatal(err)
	}
}

func refs(t *testing.T, h *History, req *controlapi.BuildHistoryRequest) []string {
	t.Helper()
	req.EarlyExit = true
	var out []string
	err := h.Listen(context.Background(), req, func(e *controlapi.BuildHistoryEvent) error {
		out = append(out, e.Record.Ref)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func read(t *testing.T, h *History, d *controlapi.Descriptor) string {
	t.Helper()
	ra, err := h.ReaderAt(context.Background(), ocispec.Descriptor{Digest: digest.Digest(d.GetDigest())})
	if err != nil {
		t.Fatal(err)
	}
	defer ra.Close()
	data, err := io.ReadAll(content.NewReader(ra))
	if err != nil {
		t.Fatal(err)
	}
	if ra.Size() != d.Size || int64(len(data)) != d.Size {
		t.Errorf("size %d, read %d, descriptor says %d", ra.Size(), len(data), d.Size)
	}
	return string(data)
}

func TestRecordsSurvive(t *testing.T) {
	t.Parallel()
	cfg := Config{Root: t.TempDir(), MaxEntries: 10, MaxAge: time.Hour}
	h := open(t, cfg)
	b := begin(t, h, "../../ref")
	if _, err := b.Log().WriteString("what happened"); err != nil {
		t.Fatal(err)
	}
	failure, err := b.Blob("test/error", []byte("why"))
	if err != nil {
		t.Fatal(err)
	}
	rec := &record{Ref: "../../ref", CreatedAt: timestamppb.Now(), CompletedAt: timestamppb.Now(), ExternalError: failure}
	if err := b.Complete(rec, "test/log"); err != nil {
		t.Fatal(err)
	}
	interrupted := begin(t, h, "interrupted")
	h.Close()

	h = open(t, cfg)
	got, err := h.Get("../../ref")
	if err != nil {
		t.Fatal(err)
	}
	if got.Logs.GetMediaType() != "test/log" || read(t, h, got.Logs) != "what happened" || read(t, h, got.ExternalError) != "why" {
		t.Errorf("record %v", got)
	}
	if info, err := h.Info(context.Background(), digest.Digest(got.Logs.Digest)); err != nil || info.Size != got.Logs.Size {
		t.Errorf("info %v, error %v", info, err)
	}
	if _, err := h.Get("interrupted"); !errdefs.IsNotFound(err) {
		t.Errorf("an interrupted build: %v", err)
	}
	if left := files(t, cfg.Root); len(left) != 1 {
		t.Errorf("left in the folder: %v", left)
	}
	// The log stays readable for those who follow it.
	data := make([]byte, 4)
	if _, err := b.Log().ReadAt(data, 0); err != nil || string(data) != "what" {
		t.Errorf("log %q, error %v", data, err)
	}
	interrupted.Discard()
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestSpoiledRecordsAreDropped(t *testing.T) {
	t.Parallel()
	cfg := Config{Root: t.TempDir(), MaxEntries: 10}
	h := open(t, cfg)
	for _, ref := range []string{"good", "empty", "torn"} {
		add(t, h, ref, 0)
	}
	h.Close()
	for ref, content := range map[string]string{"empty": "", "torn": "\x0a\x7f"} {
		if err := os.WriteFile(filepath.Join(h.dir(ref), recordName), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h = open(t, cfg)
	if got := refs(t, h, &controlapi.BuildHistoryRequest{}); !slices.Equal(got, []string{"good"}) {
		t.Errorf("records %v", got)
	}
	if left := files(t, cfg.Root); len(left) != 1 {
		t.Errorf("left in the folder: %v", left)
	}
}

func TestARefCanBeUsedAgain(t *testing.T) {
	t.Parallel()
	h := open(t, Config{MaxEntries: 10})
	add(t, h, "a", time.Hour)
	first, err := h.Get("a")
	if err != nil {
		t.Fatal(err)
	}
	add(t, h, "a", 0)
	second, err := h.Get("a")
	if err != nil {
		t.Fatal(err)
	}
	if !second.CompletedAt.AsTime().After(first.CompletedAt.AsTime()) {
		t.Error("the second record did not replace the first")
	}
}

func TestNothingIsRecordedOfHiddenBuilds(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(*History) (*Build, error){
		"hidden":   func(h *History) (*Build, error) { return h.BeginHidden() },
		"disabled": func(h *History) (*Build, error) { return h.Begin(&record{Ref: "a"}) },
	} {
		h := open(t, Config{})
		b, err := begin(h)
		if err != nil {
			t.Fatal(err)
		}
		if !b.Hidden() {
			t.Errorf("%s: not hidden", name)
		}
		if _, err := b.Log().WriteString("log"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if left := files(t, h.cfg.Root); len(left) != 0 {
			t.Errorf("%s: left in the folder: %v", name, left)
		}
		b.Discard()
		if err := b.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUpdateAndDelete(t *testing.T) {
	t.Parallel()
	h := open(t, Config{MaxEntries: 10})
	add(t, h, "a", time.Minute)
	if err := h.Update("a", func(rec *record) { rec.Pinned = true }); err != nil {
		t.Fatal(err)
	}
	if rec, err := h.Get("a"); err != nil || !rec.Pinned || rec.Generation != 1 {
		t.Errorf("record %v, error %v", rec, err)
	}
	if err := h.Delete("a"); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"Get":    func() error { _, err := h.Get("a"); return err }(),
		"Update": h.Update("a", func(*record) {}),
		"Delete": h.Delete("a"),
	} {
		if !errdefs.IsNotFound(err) {
			t.Errorf("%s of a deleted record: %v", name, err)
		}
	}
	if left := files(t, h.cfg.Root); len(left) != 0 {
		t.Errorf("left in the folder: %v", left)
	}
}

func TestRetention(t *testing.T) {
	t.Parallel()
	h := open(t, Config{MaxEntries: 2, MaxAge: time.Hour})
	add(t, h, "new1", 0)
	add(t, h, "new2", time.Minute)
	add(t, h, "new3", 2*time.Minute)
	add(t, h, "old", 2*time.Hour)
	add(t, h, "older, pinned", 3*time.Hour)
	if err := h.Update("older, pinned", func(rec *record) { rec.Pinned = true }); err != nil {
		t.Fatal(err)
	}
	h.retain(time.Now())
	if got, want := refs(t, h, &controlapi.BuildHistoryRequest{}), []string{"new1", "new2", "new3", "older, pinned"}; !slices.Equal(got, want) {
		t.Errorf("kept %v, want %v", got, want)
	}
	few := open(t, Config{MaxEntries: 2, MaxAge: time.Hour})
	add(t, few, "old1", 2*time.Hour)
	add(t, few, "old2", 2*time.Hour)
	few.retain(time.Now())
	if got := refs(t, few, &controlapi.BuildHistoryRequest{}); len(got) != 2 {
		t.Errorf("of few records only %v are left", got)
	}
}

func TestUnknownBlobs(t *testing.T) {
	t.Parallel()
	h := open(t, Config{MaxEntries: 1})
	add(t, h, "a", 0)
	if _, err := h.Info(context.Background(), digest.FromString("other")); !errdefs.IsNotFound(err) {
		t.Errorf("an unknown blob: %v", err)
	}
	for _, d := range []digest.Digest{"", "../record", "sha256:../../../etc/passwd"} {
		if _, err := h.ReaderAt(context.Background(), ocispec.Descriptor{Digest: d}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("blob %q: %v", d, err)
		}
	}
}
