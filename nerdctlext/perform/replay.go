package perform

import (
	"context"
	"errors"
	"io"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc"

	"github.com/kiln-build/kiln/nerdctlext/build"
	"github.com/kiln-build/kiln/nerdctlext/progress"
)

// Replay shows the progress of the build ref on out until its end; a finished build is
// shown at once.
func Replay(ctx context.Context, conn grpc.ClientConnInterface, ref, mode string, out io.Writer) error {
	shown, err := progress.Start(out, mode)
	if err != nil {
		return err
	}
	err = build.Follow(ctx, controlapi.NewControlClient(conn), ref, shown.Observe)
	_, showErr := shown.Close()
	return errors.Join(err, showErr)
}
