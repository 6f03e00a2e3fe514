package op

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

func ownerText(t *testing.T, p string) string {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(p, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

func fileKey(t testing.TB, b *fileBench, step *graph.Step) schedule.Key {
	t.Helper()
	var layers *layer.Store
	if b != nil {
		layers = b.layers
	}
	k, err := NewFile(layers, step).Key(t.Context(), schedule.Job{})
	if err != nil {
		t.Fatal(err)
	}
	if len(k.Inputs) != len(step.Inputs) || k.Record.Text != step.Meta.Name || len(k.Parts) != len(step.Op.GetFile().Actions) {
		t.Errorf("got %+v", k)
	}
	return k
}

// content digests an input as the step sees it.
func (b *fileBench) content(step *graph.Step, input int, l *layer.Layer) (digest.Digest, error) {
	b.t.Helper()
	k := fileKey(b.t, b, step)
	if k.Inputs[input].Content == nil {
		b.t.Fatalf("input %d does not count by content", input)
	}
	var r schedule.Result
	if l != nil {
		r = l
	}
	return k.Inputs[input].Content(b.ctx, schedule.Job{}, r)
}

func TestFileKeyDiffers(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for name, step := range map[string]*graph.Step{
		"file":          fileStep(1, mkfile(0, 0, "f", "1")),
		"content":       fileStep(1, mkfile(0, 0, "f", "2")),
		"directory":     fileStep(1, mkdir(0, 0, "f", nil)),
		"owner":         fileStep(1, mkdir(0, 0, "f", &pb.ChownOpt{User: named("u", 0)})),
		"other owner":   fileStep(1, mkdir(0, 0, "f", &pb.ChownOpt{User: named("v", 0)})),
		"from scratch":  fileStep(1, mkdir(-1, 0, "f", nil)),
		"two":           fileStep(1, mkdir(0, -1, "f", nil), mkfile(1, 0, "f", "1")),
		"two outputs":   fileStep(1, mkdir(0, 1, "f", nil), mkfile(1, 0, "f", "1")),
		"copy":          fileStep(2, copyFrom(0, 1, 0, "/a/x", "/")),
		"other name":    fileStep(2, copyFrom(0, 1, 0, "/a/y", "/")),
		"other dir":     fileStep(2, copyFrom(0, 1, 0, "/b/x", "/")),
		"from itself":   fileStep(1, copyFrom(0, 0, 0, "/a/x", "/")),
		"from itself 2": fileStep(1, copyFrom(0, 0, 0, "/b/x", "/")),
	} {
		k := fileKey(t, nil, step)
		text := k.Digest.String()
		for _, in := range k.Inputs {
			text += " " + in.Selector
		}
		if other := seen[text]; other != "" {
			t.Errorf("%s and %s have the same key", name, other)
		}
		seen[text] = name
	}
}

// TestFileKeyOfCopy has two copies that differ in where the content comes from
// only.
func TestFileKeyOfCopy(t *testing.T) {
	t.Parallel()
	one, other := fileKey(t, nil, fileStep(2, copyFrom(0, 1, 0, "/a/x", "/"))), fileKey(t, nil, fileStep(2, copyFrom(0, 1, 0, "/b/x", "/")))
	if one.Digest != other.Digest {
		t.Error("the directory of a copied file counts")
	}
	if one.Inputs[0].Content != nil || one.Inputs[0].Selector != "" {
		t.Error("what is written on counts by content")
	}
	if fileKey(t, nil, fileStep(1, copyFrom(0, 0, 0, "/a/x", "/"))).Inputs[0].Content != nil {
		t.Error("what is written on and copied from counts by content")
	}
}

func TestFileKeyRefuses(t *testing.T) {
	t.Parallel()
	for _, o := range []*pb.ChownOpt{
		{User: named("u", -1)}, {Group: named("u", 1)}, {User: &pb.UserOpt{User: &pb.UserOpt_ByName{}}},
	} {
		if _, err := NewFile(nil, fileStep(1, mkdir(0, 0, "d", o))).Key(t.Context(), schedule.Job{}); err == nil {
			t.Errorf("%v was accepted", o)
		}
	}
	for _, o := range []*pb.ChownOpt{{}, {User: &pb.UserOpt{}}, {User: named("", 0)}} {
		fileKey(t, nil, fileStep(1, mkdir(0, 0, "d", o)))
	}
}

func TestFileContent(t *testing.T) {
	t.Parallel()
	b := newFileBench(t)
	tree := func(unselected string) *layer.Layer {
		return b.must(fileStep(0, mkdir(-1, -1, "a", nil), mkfile(0, -1, "a/x", "1"), mkfile(1, 0, "other", unselected)))
	}
	one, other := tree("1"), tree("2")
	step := fileStep(2, copyFrom(0, 1, 0, "/a", "/"))
	d1, err := b.content(step, 1, one)
	if err != nil {
		t.Fatal(err)
	}
	if d2, err := b.content(step, 1, other); err != nil || d1 != d2 {
		t.Errorf("what is not copied counts: %s, %s, %v", d1, d2, err)
	}
	all := fileStep(2, copyFrom(0, 1, 0, "/", "/"))
	d1, err = b.content(all, 1, one)
	if err != nil {
		t.Fatal(err)
	}
	if d2, err := b.content(all, 1, other); err != nil || d1 == d2 {
		t.Errorf("what is copied does not count: %s, %s, %v", d1, d2, err)
	}
	_, err = b.content(fileStep(2, copyFrom(0, 1, 0, "/missing", "/")), 1, one)
	if want := fmt.Sprintf("failed to calculate checksum of ref %s: %q: not found", one.Name, "/missing"); err == nil || err.Error() != want || !errdefs.IsNotFound(err) {
		t.Errorf("got %v, want %s", err, want)
	}
	owned := fileStep(2, mkdir(0, 0, "d", &pb.ChownOpt{User: named("u", 1)}))
	if _, err := b.content(owned, 1, one); err == nil || !errdefs.IsNotFound(err) {
		t.Errorf("without /etc/passwd: %v", err)
	}
}

func TestFileContentOfNothing(t *testing.T) {
	t.Parallel()
	b := newFileBench(t)
	if _, err := b.content(fileStep(1, copyFrom(-1, 0, 0, "/", "/")), 0, nil); err != nil {
		t.Error(err)
	}
	step := fileStep(1, copyFrom(-1, 0, 0, "/foo", "/"))
	if _, err := b.content(step, 0, nil); err == nil || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "lstat /foo: no such file") {
		t.Errorf("without a tree: %v", err)
	}
	step.Inputs[0].Step = &graph.Step{Op: &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "local://context"}}}}
	_, err := b.content(step, 0, nil)
	if want := `failed to calculate checksum of ref scratch: "/foo": not found`; err == nil || err.Error() != want || !errdefs.IsNotFound(err) {
		t.Errorf("in an empty directory: %v, want %s", err, want)
	}
	step = fileStep(1, copyFrom(-1, 0, 0, "/foo*", "/"))
	step.Op.GetFile().Actions[0].GetCopy().AllowWildcard = true
	if _, err := b.content(step, 0, nil); err != nil {
		t.Errorf("a pattern without matches: %v", err)
	}
}
