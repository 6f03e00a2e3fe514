package report

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
)

// Image is one that a daemon keeps.
type Image struct {
	Name      string            `json:"name"`
	Digest    digest.Digest     `json:"digest"`
	MediaType string            `json:"mediaType"`
	Labels    map[string]string `json:"labels,omitempty"`
	CreatedAt time.Time         `json:"createdAt"`
	UpdatedAt time.Time         `json:"updatedAt"`
	// Size is that of its documents and blobs in bytes, of all platforms; -1
	// where some of them are not there.
	Size int64 `json:"size"`
}

// Images lists images by their names, all of them where none are given.
func Images(ctx context.Context, conn grpc.ClientConnInterface, names []string) ([]Image, error) {
	var filters []string
	for _, name := range names {
		filters = append(filters, fmt.Sprintf("name==%q", name))
	}
	response, err := imagesapi.NewImagesClient(conn).List(ctx, &imagesapi.ListImagesRequest{Filters: filters})
	if err != nil {
		return nil, fmt.Errorf("asking for the images: %w", errgrpc.ToNative(err))
	}
	store := proxy.NewContentStore(contentapi.NewContentClient(conn))
	list := []Image{}
	for _, img := range response.GetImages() {
		list = append(list, imageOf(ctx, store, img))
	}
	slices.SortFunc(list, func(a, b Image) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// PrintImages prints a list of images. The format is applied once, to all of it.
func PrintImages(list []Image, style Style, out io.Writer) error {
	if style.Format != nil {
		return line(out, style.Format, list)
	}
	columns := table(out)
	fmt.Fprintln(columns, "NAME\tDIGEST\tSIZE\tUPDATED")
	for _, img := range list {
		d := string(img.Digest)
		if !style.Verbose && img.Digest.Validate() == nil {
			d = img.Digest.Encoded()[:12]
		}
		fmt.Fprintf(columns, "%s\t%s\t%s\t%s\n", img.Name, d, knownSize(img.Size), ago(img.UpdatedAt))
	}
	return columns.Flush()
}

func imageOf(ctx context.Context, store content.Provider, img *imagesapi.Image) Image {
	target := oci.DescriptorFromProto(img.GetTarget())
	out := Image{
		Name: img.GetName(), Digest: target.Digest, MediaType: target.MediaType, Labels: img.GetLabels(),
		CreatedAt: img.GetCreatedAt().AsTime(), UpdatedAt: img.GetUpdatedAt().AsTime(),
	}
	size, err := (&images.Image{Target: target}).Size(ctx, store, platforms.All)
	if err != nil {
		size = -1
	}
	out.Size = size
	return out
}

func knownSize(bytes int64) string {
	if bytes < 0 {
		return "incomplete"
	}
	return size(bytes)
}
