package bridge

import (
	"context"

	"github.com/kiln-build/kiln/builder/frontend"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// NewContainer makes a container. Its id is the client's.
func (s *Server) NewContainer(ctx context.Context, req *gwpb.NewContainerRequest) (*gwpb.NewContainerResponse, error) {
	b, err := s.find(ctx)
	if err != nil {
		return nil, err
	}
	if req.ContainerID == "" {
		return nil, status.Error(codes.InvalidArgument, "the container has no id")
	}
	in := gwclient.NewContainerRequest{
		Hostname: req.Hostname, NetMode: req.Network, ExtraHosts: req.ExtraHosts,
		Platform: req.Platform, Constraints: req.Constraints,
	}
	for i, m := range req.Mounts {
		if m == nil {
			return nil, status.Errorf(codes.InvalidArgument, "mount %d is empty", i)
		}
		in.Mounts = append(in.Mounts, gwclient.Mount{
			Dest: m.Dest, Selector: m.Selector, ResultID: m.ResultID, Readonly: m.Readonly, MountType: m.MountType,
			CacheOpt: m.CacheOpt, SecretOpt: m.SecretOpt, SSHOpt: m.SSHOpt,
		})
	}
	if _, err := b.NewContainer(ctx, req.ContainerID, in); err != nil {
		return nil, ofBuild(err)
	}
	return &gwpb.NewContainerResponse{}, nil
}

// ReleaseContainer kills what runs in a container and removes it.
func (s *Server) ReleaseContainer(ctx context.Context, req *gwpb.ReleaseContainerRequest) (*gwpb.ReleaseContainerResponse, error) {
	c, err := s.container(ctx, req.ContainerID)
	if err != nil {
		return nil, err
	}
	return &gwpb.ReleaseContainerResponse{}, ofBuild(c.Release(ctx))
}

// ReadFileContainer reads a file of a container's mount.
func (s *Server) ReadFileContainer(ctx context.Context, req *gwpb.ReadFileRequest) (*gwpb.ReadFileResponse, error) {
	c, err := s.container(ctx, req.Ref)
	if err != nil {
		return nil, err
	}
	data, err := c.ReadFile(ctx, gwclient.ReadContainerRequest{ReadRequest: readRequest(req), MountIndex: int(req.MountIndex)})
	return &gwpb.ReadFileResponse{Data: data}, err
}

// ReadDirContainer lists a directory of a container's mount.
func (s *Server) ReadDirContainer(ctx context.Context, req *gwpb.ReadDirRequest) (*gwpb.ReadDirResponse, error) {
	c, err := s.container(ctx, req.Ref)
	if err != nil {
		return nil, err
	}
	entries, err := c.ReadDir(ctx, gwclient.ReadDirContainerRequest{
		ReadDirRequest: gwclient.ReadDirRequest{Path: req.DirPath, IncludePattern: req.IncludePattern},
		MountIndex:     int(req.MountIndex),
	})
	return &gwpb.ReadDirResponse{Entries: entries}, err
}

// StatFileContainer describes a file of a container's mount.
func (s *Server) StatFileContainer(ctx context.Context, req *gwpb.StatFileRequest) (*gwpb.StatFileResponse, error) {
	c, err := s.container(ctx, req.Ref)
	if err != nil {
		return nil, err
	}
	stat, err := c.StatFile(ctx, gwclient.StatContainerRequest{
		StatRequest: gwclient.StatRequest{Path: req.Path}, MountIndex: int(req.MountIndex),
	})
	return &gwpb.StatFileResponse{Stat: stat}, err
}

func (s *Server) container(ctx context.Context, id string) (*frontend.Container, error) {
	b, err := s.find(ctx)
	if err != nil {
		return nil, err
	}
	return b.Container(id)
}
