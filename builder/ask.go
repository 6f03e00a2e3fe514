package builder

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/export"
	"github.com/kiln-build/kiln/builder/export/assemble"
	"github.com/kiln-build/kiln/builder/frontend"
	"github.com/kiln-build/kiln/builder/session"
	digest "github.com/opencontainers/go-digest"
)

// sessionExporters asks the client, which can look at the result, what more is
// to be made of it.
func (b *Builder) sessionExporters(ctx context.Context, req Request, res *frontend.Result) ([]export.Exporter, error) {
	if req.SessionTarget == nil || req.Session == "" {
		return nil, nil
	}
	client, err := b.cfg.Sessions.Get(ctx, req.Session)
	if err != nil {
		return nil, err
	}
	found, err := client.FindExporters(ctx, res.Metadata, refIDs(res))
	if err := unlessOptional(client, err); err != nil {
		return nil, err
	}
	targets := make([]export.Target, len(found))
	for i, f := range found {
		t := *req.SessionTarget
		t.ID, t.Type, t.Attrs = t.ID+i, f.Type, maps.Clone(t.Attrs)
		if t.Attrs == nil {
			t.Attrs = map[string]string{}
		}
		maps.Copy(t.Attrs, f.Attrs)
		targets[i] = t
	}
	return b.resolveExporters(ctx, targets)
}

// tellSession tells the client, if it wanted to be asked, what the exporters
// say.
func (b *Builder) tellSession(ctx context.Context, req Request, resp *Response) error {
	if req.SessionTarget == nil || req.Session == "" {
		return nil
	}
	client, err := b.cfg.Sessions.Get(ctx, req.Session)
	if err != nil {
		return err
	}
	return unlessOptional(client, client.FinalizeExport(ctx, resp.Exporter))
}

// unlessOptional is err unless it says that the client, which is there, doesn't
// care to answer.
func unlessOptional(c *session.Client, err error) error {
	if errdefs.IsNotImplemented(err) {
		return nil
	}
	select {
	case <-c.Done():
		return err
	default:
	}
	if errdefs.IsUnavailable(err) {
		return nil
	}
	return err
}

// refIDs are the ids of the result's trees, in the order of the platforms'.
func refIDs(res *frontend.Result) (ids []string) {
	if res.Ref != nil {
		ids = append(ids, res.Ref.ID())
	}
	for _, k := range slices.Sorted(maps.Keys(res.Refs)) {
		if ref := res.Refs[k]; ref != nil {
			ids = append(ids, ref.ID())
		}
	}
	return ids
}

// checkPlatforms tells the user if the result isn't for the platforms that were
// asked for.
func checkPlatforms(sink event.Sink, req Request, res *frontend.Result, what export.Result) error {
	if _, ok := res.Metadata[assemble.KeyPlatforms]; !ok && res.IsEmpty() {
		return nil
	}
	asked := []string{platforms.Format(platforms.Normalize(platforms.DefaultSpec()))}
	if text, ok := req.Attrs["platform"]; ok {
		asked = strings.Split(text, ",")
	}
	warnings, err := what.CheckPlatforms(asked)
	if err != nil {
		return fmt.Errorf("verify the result's platforms: %w", err)
	}
	if len(warnings) == 0 {
		return nil
	}
	return frontend.Vertex(sink, digest.FromString(rand.Text()), "verifying build result", func(p event.Progress) error {
		for _, w := range warnings {
			p.Warn(w)
		}
		return nil
	})
}
