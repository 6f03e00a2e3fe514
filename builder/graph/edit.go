package graph

import (
	"context"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
)

// Edits change a definition on its way to a graph. What is changed, and all steps
// that need it, have other digests than the definition says.
type Edits struct {
	// Source may change the source of an operation that has one, or refuse it. It
	// is called for all of a definition's at the same time; nil leaves them.
	Source func(context.Context, *pb.Op) error
	// Proxy: processes that have a network reach it through a proxy.
	Proxy bool
}

// maxEdits bounds how many sources are looked at at once.
const maxEdits = 100

// sources edits all sources.
func (e Edits) sources(ctx context.Context, l *loader) error {
	if e.Source == nil {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxEdits)
	for _, op := range l.ops {
		if op.GetSource() == nil {
			continue
		}
		group.Go(func() error {
			if err := checkSource(op.GetSource()); err != nil {
				return invalid(err)
			}
			before := op.GetSource().CloneVT()
			err := e.Source(ctx, op.Op)
			if !before.EqualVT(op.GetSource()) {
				op.bytes = nil
			}
			return err
		})
	}
	return group.Wait()
}

// hasNetwork tells whether op is a process that has one.
func hasNetwork(op *pb.Op) bool {
	return op.GetExec() != nil && op.GetExec().Network != pb.NetMode_NONE
}

// proxyMark follows the operation in the digest of a step whose network is a proxy,
// as in BuildKit.
const proxyMark = "\x00buildkit.proxy-network.v0"

// digest is that of the step; d is what the definition calls it.
func (op *operation) digest(d digest.Digest, proxied bool) (digest.Digest, error) {
	if op.bytes != nil && !proxied {
		return d, nil
	}
	dt := op.bytes
	if dt == nil {
		var err error
		if dt, err = (proto.MarshalOptions{Deterministic: true}).Marshal(op.Op); err != nil {
			return "", err
		}
	}
	if proxied {
		dt = append(dt[:len(dt):len(dt)], proxyMark...)
	}
	return digest.FromBytes(dt), nil
}
