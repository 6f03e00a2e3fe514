package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

var graphCases = []benchCase{
	{name: "graph-chain", what: "400 file operations, each on the one before",
		prepare: anew, timed: buildGraph(chain, 400)},
	{name: "graph-wide", what: "5,000 file operations, copied into one tree by 100 more",
		prepare: anew, timed: buildGraph(wide, 5000)},
	{name: "graph-cached", what: "the graph of 5,000 file operations and 100 more again",
		prepare: buildGraph(wide, 5000), timed: buildGraph(wide, 5000)},
}

// The scale of graphs: what they take for ten times as many steps.
func init() {
	cases = append(cases, graphCases...)
	for _, n := range []int{1000, 10000, 100000} {
		c := benchCase{
			name: fmt.Sprint("scale-", n), what: fmt.Sprintf("%d file operations, copied into one tree by %d more", n, n/100),
			prepare: anew, timed: buildGraph(lean, n),
		}
		again := c
		again.name, again.what = c.name+"-cached", "the same again, by a daemon just started"
		again.prepare = func(ctx context.Context, w *work) error {
			if err := c.timed(ctx, w); err != nil {
				return err
			}
			return restart(ctx, w)
		}
		if n > 10000 { // the other takes no message of that size, and would take an hour
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
		return w.daemon.solve(ctx, def.ToPB())
	}
}

// solve builds a definition as buildctl does, which sends no larger ones than 16 MiB.
func (d *daemon) solve(ctx context.Context, def *pb.Definition) error {
	ref := rand.Text()
	conn, err := grpc.NewClient(d.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	control := controlapi.NewControlClient(conn)
	progress, err := control.Status(ctx, &controlapi.StatusRequest{Ref: ref})
	if err != nil {
		return err
	}
	eg, ctx := errgroup.WithContext(ctx)
	eg.Go(func() error {
		for {
			if _, err := progress.Recv(); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
		}
	})
	eg.Go(func() error {
		_, err := control.Solve(ctx, &controlapi.SolveRequest{Ref: ref, Definition: def})
		return err
	})
	return eg.Wait()
}
