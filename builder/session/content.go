package session

import (
	"context"
	"fmt"
	"maps"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/v2/core/content"
	bksession "github.com/moby/buildkit/session"
	sessioncontent "github.com/moby/buildkit/session/content"
	"github.com/moby/buildkit/session/exporter"
)

// Content returns one of the client's content stores. That the client doesn't
// have the store shows when it is used.
func (c *Client) Content(storeID string) (content.Store, error) {
	if err := c.require("/"+contentapi.Content_ServiceDesc.ServiceName+"/Info", "content stores"); err != nil {
		return nil, fmt.Errorf("content store %s: %w", storeID, err)
	}
	return sessioncontent.NewCallerStore(c, storeID), nil
}

// ExporterRequest is an output that the client asks for after the build.
type ExporterRequest struct {
	Type  string
	Attrs map[string]string
}

// FindExporters asks the client what to export, given the build's metadata and
// the names of its results.
func (c *Client) FindExporters(ctx context.Context, metadata map[string][]byte, refs []string) ([]ExporterRequest, error) {
	if err := c.require(bksession.MethodURL(exporter.Exporter_ServiceDesc.ServiceName, "findexporters"), "to choose exporters"); err != nil {
		return nil, err
	}
	ctx, cancel := call(ctx)
	defer cancel()
	resp, err := exporter.NewExporterClient(c.cc).FindExporters(ctx, &exporter.FindExportersRequest{Metadata: metadata, Refs: refs})
	if err != nil {
		return nil, fmt.Errorf("find exporters: %w", c.fail(err))
	}
	out := make([]ExporterRequest, 0, len(resp.Exporters))
	for _, e := range resp.Exporters {
		if e != nil {
			out = append(out, ExporterRequest{Type: e.Type, Attrs: maps.Clone(e.Attrs)})
		}
	}
	return out, nil
}

// FinalizeExport tells the client that its outputs are done.
func (c *Client) FinalizeExport(ctx context.Context, response map[string]string) error {
	if err := c.require(bksession.MethodURL(exporter.Exporter_ServiceDesc.ServiceName, "finalizeexport"), "to finalize exports"); err != nil {
		return err
	}
	ctx, cancel := call(ctx)
	defer cancel()
	_, err := exporter.NewExporterClient(c.cc).FinalizeExport(ctx, &exporter.FinalizeExportRequest{ExporterResponse: response})
	if err != nil {
		return fmt.Errorf("finalize export: %w", c.fail(err))
	}
	return nil
}
