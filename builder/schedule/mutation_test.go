//go:build mutation

package schedule

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mutants are faults that the tests of this package must find.
var mutants = []struct{ name, file, old, new string }{
	{"a run's own record is not acquired", "scheduler.go", "append(slices.Clone(w.parents), w.id)", "slices.Clone(w.parents)[:0]"},
	{"a build doesn't keep what it runs", "scheduler.go", "\tb.acquire(w.id)\n", ""},
	{"what was looked up is not released", "build.go", "\tb.acquired[id]++\n", "\tb.acquired[id] = 1\n"},
	{"the last to leave doesn't end the run", "scheduler.go", "if r.waiters--; r.waiters == 0 {", "if r.waiters--; r.waiters < 0 {"},
	{"the first to leave ends the run", "scheduler.go", "if r.waiters--; r.waiters == 0 {", "if r.waiters--; r.waiters >= 0 {"},
	{"a run that was given up is joined", "scheduler.go", "if r != nil && r.waiters == 0 {", "if r != nil && r.waiters < 0 {"},
	{"a run belongs to its first build's context", "scheduler.go", "context.WithCancel(s.ctx)\n\t\tr =", "context.WithCancel(b.ctx)\n\t\tr ="},
	{"a failure for a leader who left is everybody's", "scheduler.go", "r.deserted(err) &&", "false &&"},
	{"what a lost session failed is everybody's", "scheduler.go", " || errdefs.IsUnavailable(err)", ""},
	{"a finished run is run again", "scheduler.go", "!errdefs.IsNotFound(err) {\n\t\treturn results, err", "false {\n\t\treturn results, err"},
	{"runs are not shared", "scheduler.go", "\t\ts.runs[w.id] = r\n", ""},
	{"a failed run is not aborted", "scheduler.go", "s.records.Abort(w.id, err)", ""},
	{"a panic is not recovered", "scheduler.go", "\tdefer w.rescue(&err)\n", ""},
	{"late joiners miss the output so far", "hub.go", "for _, e := range h.past {", "for _, e := range h.past[:0] {"},
	{"output goes to a step of another build", "hub.go", "\tcase *event.Log:\n\t\tc := *e\n\t\tc.Vertex = vertex\n", "\tcase *event.Log:\n\t\tc := *e\n"},
	{"a build that left gets events", "hub.go", "if m.count--; m.count == 0 {", "if m.count--; m.count < 0 {"},
	{"selectors are not in the keys", "plan.go", ", Selector: n.key.Inputs[i].Selector}", "}"},
	{"outputs are not in the keys", "plan.go", "Output: n.step.Inputs[i].Index, ", ""},
	{"the content of another input is digested", "plan.go", "result := in.results[n.step.Inputs[i].Index]", "result := n.inputs[0].results[0]; _ = in"},
	{"the content of another output is digested", "plan.go", "result := in.results[n.step.Inputs[i].Index]", "result := in.results[0]"},
	{"a definition key isn't bound to what its content led to", "plan.go", "p.b.s.records.Bind(id, n.defKey)", "error(nil)"},
	{"a run's definition key isn't bound", "plan.go", "[]cache.Key{n.defKey, cache.Key(n.id)}", "[]cache.Key{cache.Key(n.id)}"},
	{"fresh results aren't bound to the step's own keys", "plan.go", "keys := []cache.Key{n.defKey, cache.Key(n.id)}\n\tif n.countedByContent() {", "keys := []cache.Key{cache.Key(n.id)}\n\tif !n.step.Meta.IgnoreCache {\n\t\tkeys = append(keys, n.defKey)\n\t}\n\tif n.countedByContent() && !n.step.Meta.IgnoreCache {"},
	{"ignoring the cache is not done", "build.go", "if s.Meta.IgnoreCache {", "if false {"},
	{"fresh results are shared between builds", "build.go", "cache.FreshKey(key, b.cfg.ID)", "cache.FreshKey(key, \"\")"},
	{"inputs are made before they are needed", "plan.go", "\t\tp.identified(n, id, true)\n\t\treturn nil\n\t}\n\tif counted {", "\t\tp.identified(n, id, true)\n\t\tfor _, in := range n.inputs {\n\t\t\tp.want(in)\n\t\t}\n\t\treturn nil\n\t}\n\tif counted {"},
	{"steps are made one after the other", "plan.go", "\t\tp.foresee(n)\n", ""},
	{"what is not needed is made beside the rest", "plan.go", "!n.stalled || !n.pinned", "!n.pinned"},
	{"what has a record is made beside the rest", "plan.go", "in.state >= stateIdentified && !in.hit {", "in.state >= stateIdentified {"},
	{"a record that vanished fails the build", "plan.go", "if err != nil && !errdefs.IsNotFound(err) {\n\t\t\treturn err\n\t\t}\n\t\tn.hit", "if err != nil {\n\t\t\treturn err\n\t\t}\n\t\tn.hit"},
	{"a plan ends before its jobs", "plan.go", "\tfor range p.answers {\n\t}\n", "\tgo func() {\n\t\tfor range p.answers {\n\t\t}\n\t}()\n"},
	{"a plan doesn't end its jobs", "plan.go", "\tcancel()\n\tgo func() {\n\t\tp.jobs.Wait()", "\tgo func() {\n\t\tp.jobs.Wait()\n\t\tcancel()"},
	{"what is unfinished at the end stays open", "vertex.go", "if x.Started != nil && x.Completed == nil {\n\t\t\tx.Completed, x.Error", "if false {\n\t\t\tx.Completed, x.Error"},
	{"a step that runs is reported as cached", "vertex.go", "x.Completed != nil || v.running[d] > 0", "x.Completed != nil"},
	{"a finished step is finished again", "vertex.go", "\t\tdelete(v.running, d)\n\t\tif x.Completed != nil {\n\t\t\treturn false\n\t\t}\n", "\t\tdelete(v.running, d)\n"},
	{"steps are reported after the end", "vertex.go", "\tv.ended = true\n", "\tgo v.emit(&event.Vertex{})\n"},
	{"what was begun ahead is reported as cancelled", "plan.go", "\t\t\tp.b.vertices.spare(n.step.Digest)\n", ""},
	{"what one graph doesn't need is given up for all", "vertex.go", "if v.running[d]--; v.running[d] > 0 {", "if v.running[d]--; false {"},
	{"runs may wait for each other in a circle", "inside.go", "if r == other {", "if false {"},
	{"sources are not waited for at the end", "build.go", "\tb.work.Wait()\n", ""},
	{"a result can be asked for after the end", "build.go", "if b.closed {", "if false {"},
}

// TestMutants runs the package's tests with each of the mutants, and expects
// them to fail.
func TestMutants(t *testing.T) {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			overlay := mutate(t, filepath.Join(dir, m.file), m.old, m.new)
			out, err := exec.Command("go", "test", "-overlay", overlay, "-failfast", "-count=1", "-timeout=2m", "-model.builds=60000", ".").CombinedOutput()
			switch {
			case strings.Contains(string(out), "[build failed]") || strings.Contains(string(out), "[setup failed]"):
				t.Fatalf("it does not compile:\n%s", out)
			case err == nil:
				t.Error("the tests don't find it")
			}
		})
	}
}

// mutate writes a copy of a file with one text replaced, and gives the name of
// an overlay by which the go command takes it for the file.
func mutate(t *testing.T, file, old, new string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), old); n != 1 {
		t.Fatalf("%s has the text %d times:\n%s", file, n, old)
	}
	dir := t.TempDir()
	changed, overlay := filepath.Join(dir, "mutant.go"), filepath.Join(dir, "overlay.json")
	dt, err := json.Marshal(map[string]map[string]string{"Replace": {file: changed}})
	if err != nil {
		t.Fatal(err)
	}
	for name, dt := range map[string][]byte{changed: []byte(strings.Replace(string(text), old, new, 1)), overlay: dt} {
		if err := os.WriteFile(name, dt, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return overlay
}
