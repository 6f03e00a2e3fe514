package control

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/kiln-build/kiln/builder"
	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/sandbox/device"
	controlapi "github.com/moby/buildkit/api/services/control"
	apitypes "github.com/moby/buildkit/api/types"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Info implements the Control service.
func (s *Server) Info(context.Context, *controlapi.InfoRequest) (*controlapi.InfoResponse, error) {
	return &controlapi.InfoResponse{BuildkitVersion: s.cfg.Version.pb()}, nil
}

// ListWorkers implements the Control service. The first worker is the default.
func (s *Server) ListWorkers(_ context.Context, req *controlapi.ListWorkersRequest) (*controlapi.ListWorkersResponse, error) {
	filter, err := filters.ParseAll(req.Filter...)
	if err != nil {
		return nil, fmt.Errorf("filter %q of workers: %w: %w", req.Filter, err, errdefs.ErrInvalidArgument)
	}
	resp := &controlapi.ListWorkersResponse{}
	for _, w := range s.cfg.Builder.Workers() {
		if !filter.Match(workerFields(w)) {
			continue
		}
		resp.Record = append(resp.Record, &apitypes.WorkerRecord{
			ID:              w.ID,
			Labels:          w.Labels,
			Platforms:       pb.PlatformsFromSpec(w.Platforms),
			GCPolicy:        policiesPB(w.Policies),
			BuildkitVersion: s.cfg.Version.pb(),
			CDIDevices:      devicesPB(w.Devices),
		})
	}
	return resp, nil
}

func devicesPB(devices []device.Device) []*apitypes.CDIDevice {
	var out []*apitypes.CDIDevice
	for _, d := range devices {
		out = append(out, &apitypes.CDIDevice{Name: d.Name, AutoAllow: d.AutoAllow, Annotations: d.Annotations})
	}
	return out
}

func workerFields(w builder.Worker) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		switch {
		case len(path) == 1 && path[0] == "id":
			return w.ID, true
		case len(path) == 1 && path[0] == "platforms":
			names := make([]string, len(w.Platforms))
			for i, p := range w.Platforms {
				names[i] = platforms.FormatAll(p)
			}
			return strings.Join(names, ","), true
		case len(path) > 1 && path[0] == "labels":
			value, ok := w.Labels[strings.Join(path[1:], ".")]
			return value, ok
		}
		return "", false
	})
}

func policiesPB(policies []cache.Policy) []*apitypes.GCPolicy {
	var out []*apitypes.GCPolicy
	for _, p := range policies {
		out = append(out, &apitypes.GCPolicy{
			All:           p.All,
			Filters:       p.Filters,
			KeepDuration:  int64(p.KeepDuration),
			ReservedSpace: p.ReservedSpace,
			MaxUsedSpace:  p.MaxUsedSpace,
			MinFreeSpace:  p.MinFreeSpace,
		})
	}
	return out
}

// DiskUsage implements the Control service.
func (s *Server) DiskUsage(ctx context.Context, req *controlapi.DiskUsageRequest) (*controlapi.DiskUsageResponse, error) {
	all, err := s.cfg.Builder.DiskUsage(ctx, req.Filter)
	if err != nil {
		return nil, err
	}
	resp := &controlapi.DiskUsageResponse{}
	for _, u := range all {
		if req.AgeLimit > 0 && u.LastUsed != nil && time.Since(*u.LastUsed) < time.Duration(req.AgeLimit) {
			continue
		}
		resp.Record = append(resp.Record, usagePB(u))
	}
	return resp, nil
}

// Prune implements the Control service.
func (s *Server) Prune(req *controlapi.PruneRequest, stream controlapi.Control_PruneServer) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	return s.cfg.Builder.Prune(ctx, cache.PruneRequest{
		Filters:       req.Filter,
		All:           req.All,
		KeepDuration:  time.Duration(req.KeepDuration),
		ReservedSpace: req.ReservedSpace,
		MaxUsedSpace:  req.MaxUsedSpace,
		MinFreeSpace:  req.MinFreeSpace,
	}, func(u cache.Usage) {
		if err := stream.Send(usagePB(u)); err != nil {
			cancel(err)
		}
	})
}

func usagePB(u cache.Usage) *controlapi.UsageRecord {
	rec := &controlapi.UsageRecord{
		ID:          u.ID,
		Mutable:     u.Mutable,
		InUse:       u.InUse,
		Size:        u.Size,
		Parents:     u.Parents,
		CreatedAt:   timestamppb.New(u.Created),
		UsageCount:  int64(u.UsageCount),
		Description: strings.ToValidUTF8(u.Description, "\uFFFD"),
		RecordType:  u.Type,
		Shared:      u.Shared,
	}
	if u.LastUsed != nil {
		rec.LastUsedAt = timestamppb.New(*u.LastUsed)
	}
	return rec
}
