package command

import (
	"context"
	"errors"
	"fmt"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/distribution/reference"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/kiln-build/kiln/nerdctlext/report"
)

func (t *tool) imagesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "images [NAME]",
		Short: "list images",
		Long: `Lists the images where the daemon keeps those that it builds: in containerd, or in its own
store where it works without one. Sizes are of what is there, as it would be pulled.`,
		Example: `  kiln images
  kiln images app:v2
  kiln images --format '{{range .}}{{.Name}} {{.Digest}}{{"\n"}}{{end}}'`,
		Args: atMostOne("name"),
	}
	quiet := cmd.Flags().BoolP("quiet", "q", false, "print the names only")
	style := styleFlags(cmd.Flags())
	cmd.RunE = t.withDaemon(func(ctx context.Context, conn *grpc.ClientConn, args []string) error {
		chosen, err := style()
		if err != nil {
			return err
		}
		var names []string
		for _, arg := range args {
			if names, err = storedNames(arg); err != nil {
				return err
			}
		}
		list, err := report.Images(ctx, conn, names)
		if err != nil {
			return err
		}
		if !*quiet {
			return report.PrintImages(list, chosen, t.env.Stdout)
		}
		for _, img := range list {
			fmt.Fprintln(t.env.Stdout, img.Name)
		}
		return nil
	})
	return cmd
}

func (t *tool) removeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rmi NAME...",
		Short: "remove images",
		Long: `Removes images by their names, and what only they needed. The build cache stays: a
build that makes the same image again takes it from there. kiln prune removes that.`,
		Example: `  kiln rmi app
  kiln rmi $(kiln images -q)`,
		Args: cobra.MinimumNArgs(1),
	}
	cmd.RunE = t.withDaemon(func(ctx context.Context, conn *grpc.ClientConn, args []string) error {
		images := imagesapi.NewImagesClient(conn)
		var errs []error
		for _, arg := range args {
			name, err := removeImage(ctx, images, arg)
			if err != nil {
				errs = append(errs, fmt.Errorf("remove image %s: %w", arg, err))
				continue
			}
			fmt.Fprintln(t.env.Stdout, name)
		}
		return errors.Join(errs...)
	})
	return cmd
}

// removeImage removes the image that a person means by the text.
func removeImage(ctx context.Context, images imagesapi.ImagesClient, text string) (string, error) {
	names, err := storedNames(text)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		_, err = images.Delete(ctx, &imagesapi.DeleteImageRequest{Name: name, Sync: true})
		if err = errgrpc.ToNative(err); !errdefs.IsNotFound(err) {
			return name, err
		}
	}
	return "", errors.New("there is no such image; kiln images lists those there are")
}

// storedNames are the names under which an image may be kept that a person calls
// by the text: as it is, and in full.
func storedNames(text string) ([]string, error) {
	named, err := reference.ParseDockerRef(text)
	if err != nil {
		return nil, fmt.Errorf("%q is not the name of an image: %w", text, err)
	}
	if full := named.String(); full != text {
		return []string{text, full}, nil
	}
	return []string{text}, nil
}
