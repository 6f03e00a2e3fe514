package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"

	"github.com/moby/buildkit/client/llb"
)

var graphCases = []benchCase{
	{name: "graph-chain", what: "400 file operations, each on the one before",
		prepare: restart, timed: buildGraph(chain, 400)},
	{name: "graph-wide", what: "5,000 file operations, copied into one tree by 100 more",
		prepare: restart, timed: buildGraph(wide, 5000)},
	{name: "graph-cached", what: "the graph of 5,000 file operations and 100 more again",
		prepare: buildGraph(wide, 5000), timed: buildGraph(wide, 5000)},
}

// The scale of graphs: what they take for ten times as many steps. The last is
// nearly as large as BuildKit's messages can be, which have 16 MiB: some 84,000
// such operations.
func init() {
	cases = append(cases, graphCases...)
	for _, n := range []int{1000, 10000, 80000} {
		c := benchCase{
			name: fmt.Sprint("scale-", n), what: fmt.Sprintf("%d file operations, copied into one tree by %d more", n, n/100),
			prepare: restart, timed: buildGraph(lean, n),
		}
		again := c
		again.name, again.what = c.name+"-cached", "the same again, by a daemon just started"
		again.prepare = func(ctx context.Context, w *work) error {
			if err := c.timed(ctx, w); err != nil {
				return err
			}
			return restart(ctx, w)
		}
		if n > 10000 { // the other takes an hour
			c.only, again.only = "kilnd", "kilnd"
		}
		cases = append(cases, c, again)
	}
}

// chain is a tree that n operations have made, one after the other.
func chain(nonce string, n int) llb.State {
	st := llb.Scratch()
	for i := range n / 2 {
		dir := fmt.Sprintf("/%s-%d", nonce, i)
		st = st.File(llb.Mkdir(dir, 0o755)).File(llb.Mkfile(dir+"/file", 0o644, []byte(dir)))
	}
	return st
}

// wide is a tree of files that n operations have made, each on nothing.
func wide(nonce string, n int) llb.State { return together(nonce, n, 50) }

// lean is wide with little text and many files copied by one operation.
func lean(nonce string, n int) llb.State { return together(nonce, n, 100) }

func together(nonce string, n, together int) llb.State {
	st := llb.Scratch()
	var copies *llb.FileAction
	for i := range n {
		made := llb.Scratch().File(llb.Mkfile("/f", 0o644, fmt.Appendf(nil, "%s-%d", nonce, i)))
		to := fmt.Sprintf("/%d", i)
		if copies == nil {
			copies = llb.Copy(made, "/f", to)
		} else {
			copies = copies.Copy(made, "/f", to)
		}
		if i%together == together-1 || i == n-1 {
			st, copies = st.File(copies), nil
		}
	}
	return st
}

// buildGraph is a timed or prepare function for a graph of n operations.
func buildGraph(make func(nonce string, n int) llb.State, n int) func(context.Context, *work) error {
	return func(ctx context.Context, w *work) error {
		def, err := make(w.nonce, n).Marshal(ctx)
		if err != nil {
			return err
		}
		def.Metadata, def.Source = nil, nil // as large again
		var text bytes.Buffer
		if err := llb.WriteTo(def, &text); err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, "buildctl", "--addr", w.daemon.addr, "build", "--progress=plain")
		cmd.Stdin = &text
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
}
