package export

import (
	"bytes"
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"

	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/export/assemble"
)

// write puts the image's documents into the content store. Labels tie each to
// what it refers to, so that whoever keeps the root keeps the image.
func (e *Exporters) write(ctx context.Context, progress event.Progress, b *built) error {
	refs := map[string]string{}
	for i, p := range b.platforms {
		if err := e.writeManifest(ctx, progress, p); err != nil {
			return err
		}
		refs[fmt.Sprintf("%s.m.%d", labelContent, i)] = p.Manifest.Desc.Digest.String()
	}
	if b.index == nil {
		return nil
	}
	return e.writeDocument(ctx, progress.Begin("exporting manifest list "+b.root.Digest.String()), *b.index, refs)
}

func (e *Exporters) writeManifest(ctx context.Context, progress event.Progress, p platformImage) error {
	refs := map[string]string{}
	if p.snapshot != "" {
		refs[labelSnapshot+e.cfg.Store.Snapshotter] = p.snapshot
	}
	config := progress.Begin("exporting config " + p.Config.Desc.Digest.String())
	if err := e.writeDocument(ctx, config, p.Config, refs); err != nil {
		return err
	}
	refs = map[string]string{labelContent + ".config": p.Config.Desc.Digest.String()}
	for i, l := range p.Layers {
		refs[fmt.Sprintf("%s.l.%d", labelContent, i)] = l.Digest.String()
	}
	return e.writeDocument(ctx, progress.Begin("exporting manifest "+p.Manifest.Desc.Digest.String()), p.Manifest, refs)
}

// The labels by which containerd's garbage collector finds what content needs.
const (
	labelContent  = "containerd.io/gc.ref.content"
	labelSnapshot = "containerd.io/gc.ref.snapshot." // and the snapshotter's name
)

// writeDocument writes content with labels, which it gets too if it was there.
func (e *Exporters) writeDocument(ctx context.Context, item *event.Item, d assemble.Document, labels map[string]string) error {
	defer item.Done()
	cs, name := e.cfg.Store.Content, d.Desc.Digest
	err := content.WriteBlob(ctx, cs, "export-"+name.String(), bytes.NewReader(d.Data), d.Desc, content.WithLabels(labels))
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	info, err := cs.Info(ctx, name)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	var missing []string
	for k, v := range labels {
		if info.Labels[k] != v {
			missing = append(missing, "labels."+k)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if _, err := cs.Update(ctx, content.Info{Digest: name, Labels: labels}, missing...); err != nil {
		return fmt.Errorf("label %s: %w", name, err)
	}
	return nil
}
