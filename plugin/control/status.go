package control

import (
	"context"
	"time"

	"github.com/kiln-build/kiln/plugin/status"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/solver/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// statusWait is how long a client that asks for the status of a build may be
// ahead of the request that begins it.
const statusWait = 6 * time.Second

// sendTime tells the client the daemon's time, so that it can correct those of
// the messages.
func sendTime(stream grpc.ServerStream) error {
	return stream.SendHeader(metadata.Pairs("buildkit-current-timestamp", time.Now().Format(time.RFC3339Nano)))
}

// Status implements the Control service. A build that runs or has just ended is
// followed, an older one replayed from its record.
func (s *Server) Status(req *controlapi.StatusRequest, stream controlapi.Control_StatusServer) error {
	if err := sendTime(stream); err != nil {
		return err
	}
	ctx, end := s.withServer(stream.Context())
	defer end()
	n, _ := s.runs.find(req.Ref)
	if n == nil {
		if found, err := s.replay(ctx, req.Ref, stream.Send); found || err != nil {
			return err
		}
		var err error
		if n, err = s.runs.wait(ctx, req.Ref, statusWait); err != nil {
			return err
		}
		if n == nil {
			return errdefs.NewUnknownJobError(req.Ref)
		}
	}
	defer s.runs.leave(n)
	// The last messages of a build that is cancelled with the server count too.
	return n.stream.Follow(stream.Context(), stream.Send)
}

// replay sends the status of a build that was recorded.
func (s *Server) replay(ctx context.Context, ref string, send func(*controlapi.StatusResponse) error) (found bool, _ error) {
	rec, err := s.cfg.History.Get(ref)
	if err != nil {
		return false, nil
	}
	if rec.Logs == nil {
		return true, nil
	}
	log, err := s.cfg.History.ReaderAt(ctx, ocispec.Descriptor{Digest: digest.Digest(rec.Logs.Digest)})
	if err != nil {
		return true, err
	}
	defer log.Close()
	return true, status.Send(log, 0, log.Size(), send)
}

// ListenBuildHistory implements the Control service.
func (s *Server) ListenBuildHistory(req *controlapi.BuildHistoryRequest, stream controlapi.Control_ListenBuildHistoryServer) error {
	if err := sendTime(stream); err != nil {
		return err
	}
	return s.cfg.History.Listen(stream.Context(), req, stream.Send)
}

// UpdateBuildHistory implements the Control service.
func (s *Server) UpdateBuildHistory(_ context.Context, req *controlapi.UpdateBuildHistoryRequest) (*controlapi.UpdateBuildHistoryResponse, error) {
	resp := &controlapi.UpdateBuildHistoryResponse{}
	switch {
	case req.Delete:
		return resp, s.cfg.History.Delete(req.Ref)
	case req.Finalize:
		// Log and trace are complete when a build has ended; there is no more
		// to save.
		return resp, nil
	}
	return resp, s.cfg.History.Update(req.Ref, func(rec *controlapi.BuildHistoryRecord) { rec.Pinned = req.Pinned })
}
