package bridge

import (
	"context"
	"errors"

	"github.com/kiln-build/kiln/builder/frontend"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Solve gives the result of a definition or a frontend.
func (s *Server) Solve(ctx context.Context, req *gwpb.SolveRequest) (*gwpb.SolveResponse, error) {
	b, err := s.find(ctx)
	if err != nil {
		return nil, err
	}
	imports, err := cacheImports(req.CacheImports)
	if err != nil {
		return nil, err
	}
	res, err := b.Solve(ctx, gwclient.SolveRequest{
		Evaluate:       req.Evaluate,
		Definition:     req.Definition,
		Frontend:       req.Frontend,
		FrontendOpt:    req.FrontendOpt,
		FrontendInputs: req.FrontendInputs,
		CacheImports:   imports,
		SourcePolicies: req.SourcePolicies,
	})
	if err != nil {
		return nil, ofBuild(err)
	}
	if len(res.Refs) > 0 && !req.AllowResultReturn {
		return nil, errors.New("the client is too old for a result of several references")
	}
	out, err := resultPB(res, req.AllowResultArrayRef)
	if err != nil {
		return nil, err
	}
	resp := &gwpb.SolveResponse{Result: out}
	if !req.AllowResultReturn {
		resp.Ref = refPB(res.Ref).Id
	}
	return resp, nil
}

func cacheImports(in []*gwpb.CacheOptionsEntry) ([]gwclient.CacheOptionsEntry, error) {
	var out []gwclient.CacheOptionsEntry
	for _, e := range in {
		if e == nil {
			return nil, status.Error(codes.InvalidArgument, "a cache import is empty")
		}
		out = append(out, gwclient.CacheOptionsEntry{Type: e.Type, Attrs: e.Attrs})
	}
	return out, nil
}

// Return ends the build with a result, or with the error that the client says.
func (s *Server) Return(ctx context.Context, req *gwpb.ReturnRequest) (*gwpb.ReturnResponse, error) {
	b, err := s.find(ctx)
	if err != nil {
		return nil, err
	}
	if req.Error != nil {
		failure := grpcerrors.FromGRPC(status.FromProto(req.Error).Err())
		if failure == nil {
			return nil, status.Error(codes.InvalidArgument, "the error that the build is to end with has code OK")
		}
		b.Return(nil, failure)
		return &gwpb.ReturnResponse{}, nil
	}
	if req.Result == nil {
		return nil, status.Error(codes.InvalidArgument, "a build ends with a result or with an error; neither is given")
	}
	res, err := resultFromPB(req.Result, b)
	if err != nil {
		return nil, err
	}
	b.Return(res, nil)
	return &gwpb.ReturnResponse{}, nil
}

// Evaluate makes the tree of a reference.
func (s *Server) Evaluate(ctx context.Context, req *gwpb.EvaluateRequest) (*gwpb.EvaluateResponse, error) {
	ref, err := s.ref(ctx, req.Ref)
	if err != nil {
		return nil, err
	}
	return &gwpb.EvaluateResponse{}, ofBuild(ref.Evaluate(ctx))
}

// ReadFile reads a file of a reference's tree.
func (s *Server) ReadFile(ctx context.Context, req *gwpb.ReadFileRequest) (*gwpb.ReadFileResponse, error) {
	ref, err := s.ref(ctx, req.Ref)
	if err != nil {
		return nil, err
	}
	data, err := ref.ReadFile(ctx, readRequest(req))
	return &gwpb.ReadFileResponse{Data: data}, err
}

func readRequest(req *gwpb.ReadFileRequest) gwclient.ReadRequest {
	read := gwclient.ReadRequest{Filename: req.FilePath}
	if r := req.Range; r != nil {
		read.Range = &gwclient.FileRange{Offset: int(r.Offset), Length: int(r.Length)}
	}
	return read
}

// ReadDir lists a directory of a reference's tree.
func (s *Server) ReadDir(ctx context.Context, req *gwpb.ReadDirRequest) (*gwpb.ReadDirResponse, error) {
	ref, err := s.ref(ctx, req.Ref)
	if err != nil {
		return nil, err
	}
	entries, err := ref.ReadDir(ctx, gwclient.ReadDirRequest{Path: req.DirPath, IncludePattern: req.IncludePattern})
	return &gwpb.ReadDirResponse{Entries: entries}, err
}

// StatFile describes a file of a reference's tree.
func (s *Server) StatFile(ctx context.Context, req *gwpb.StatFileRequest) (*gwpb.StatFileResponse, error) {
	ref, err := s.ref(ctx, req.Ref)
	if err != nil {
		return nil, err
	}
	stat, err := ref.StatFile(ctx, gwclient.StatRequest{Path: req.Path})
	return &gwpb.StatFileResponse{Stat: stat}, err
}

// ofBuild marks an error as one of the build: what failed within it says nothing
// about the call, only a code that was given on purpose is its code.
func ofBuild(err error) error {
	if err == nil {
		return nil
	}
	return grpcerrors.WrapCode(err, grpcerrors.Code(err))
}

func (s *Server) ref(ctx context.Context, id string) (*frontend.Ref, error) {
	b, err := s.find(ctx)
	if err != nil {
		return nil, err
	}
	return b.Ref(id)
}
