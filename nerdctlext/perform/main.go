package perform

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"os"
	"os/signal"
	"syscall"

	"github.com/containerd/log"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
)

// Main runs a command tree and returns the process's exit status: 0, or 1 after any
// error. The first SIGINT or SIGTERM cancels what is running, which then ends in order;
// the second ends the process at once.
func Main(root *cobra.Command, stderr io.Writer) int {
	// What libraries note in passing is not the user's business.
	_ = log.SetLevel("error")
	stdlog.SetOutput(io.Discard)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	go func() {
		select {
		case first := <-signals:
			cancel(fmt.Errorf("got %s", first))
		case <-ctx.Done():
			return
		}
		<-signals
		fmt.Fprintln(stderr, "error: ended by a second signal, without cleaning up")
		os.Exit(1)
	}()
	if err := root.ExecuteContext(ctx); err != nil {
		debug, _ := root.PersistentFlags().GetBool("debug")
		PrintError(stderr, err, debug)
		return 1
	}
	return 0
}

// PrintError prints the source lines that the error is about, if the daemon named some,
// and then the error. With details the whole chain is printed.
func PrintError(out io.Writer, err error, details bool) {
	for _, source := range errdefs.Sources(err) {
		if wellFormed(source) {
			_ = source.Print(out)
		}
	}
	if details {
		fmt.Fprintf(out, "error: %+v\n", err)
		return
	}
	fmt.Fprintf(out, "error: %v\n", err)
}

// wellFormed tells whether the excerpt can be drawn: it comes from the daemon.
func wellFormed(source *errdefs.Source) bool {
	for _, r := range source.GetRanges() {
		if r.GetStart() == nil || r.GetEnd() == nil {
			return false
		}
	}
	return source.GetInfo() != nil
}

// Unreachable explains an error that means that no daemon answers at address.
func Unreachable(err error, address string) error {
	if err == nil || grpcerrors.Code(err) != codes.Unavailable || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w\nIs the daemon running, and is %s its address (see --addr)?", err, address)
}
