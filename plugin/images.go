package plugin

import (
	"context"
	"fmt"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kiln-build/kiln/builder/store"
	"github.com/kiln-build/kiln/plugin/config"
)

// namedImages is where built images get names; nil: nowhere.
func namedImages(cfg config.Config, st *store.Store) images.Store {
	if st.Host == nil && !cfg.NameImages {
		return nil
	}
	return st.Images
}

// imageService is containerd's service for the images of the store's namespace,
// to list and remove them. Builds make them.
type imageService struct {
	imagesapi.UnimplementedImagesServer
	store *store.Store
}

// Get implements imagesapi.ImagesServer.
func (s *imageService) Get(ctx context.Context, req *imagesapi.GetImageRequest) (*imagesapi.GetImageResponse, error) {
	img, err := s.store.Images.Get(s.store.Context(ctx), req.GetName())
	if err != nil {
		return nil, err
	}
	return &imagesapi.GetImageResponse{Image: wireImage(img)}, nil
}

// List implements imagesapi.ImagesServer.
func (s *imageService) List(ctx context.Context, req *imagesapi.ListImagesRequest) (*imagesapi.ListImagesResponse, error) {
	found, err := s.store.Images.List(s.store.Context(ctx), req.GetFilters()...)
	if err != nil {
		return nil, err
	}
	resp := &imagesapi.ListImagesResponse{}
	for _, img := range found {
		resp.Images = append(resp.Images, wireImage(img))
	}
	return resp, nil
}

// Delete implements imagesapi.ImagesServer.
func (s *imageService) Delete(ctx context.Context, req *imagesapi.DeleteImageRequest) (*emptypb.Empty, error) {
	if req.GetName() == "" {
		return nil, fmt.Errorf("the name of the image to remove is missing: %w", errdefs.ErrInvalidArgument)
	}
	var opts []images.DeleteOpt
	if req.GetSync() {
		opts = append(opts, images.SynchronousDelete())
	}
	if t := req.GetTarget(); t != nil {
		desc := oci.DescriptorFromProto(t)
		opts = append(opts, images.DeleteTarget(&desc))
	}
	if err := s.store.Images.Delete(s.store.Context(ctx), req.GetName(), opts...); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

func wireImage(img images.Image) *imagesapi.Image {
	return &imagesapi.Image{
		Name: img.Name, Labels: img.Labels, Target: oci.DescriptorToProto(img.Target),
		CreatedAt: timestamppb.New(img.CreatedAt), UpdatedAt: timestamppb.New(img.UpdatedAt),
	}
}
