package command

import (
	"context"
	"errors"
	"fmt"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/kiln-build/kiln/nerdctlext/perform"
	"github.com/kiln-build/kiln/nerdctlext/report"
)

func (t *tool) historyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history",
		Short: "show and forget earlier builds",
		Long: `The daemon keeps a record of its builds: how each was started, its log, how it ended
and what it made. Records that are not pinned go by themselves after a time.`,
		Example: `  kiln history ls
  kiln history logs
  kiln history inspect REF
  kiln history rm REF`,
	}
	cmd.AddCommand(t.historyList(), t.historyLogs(), t.historyInspect(), t.historyRemove())
	return cmd
}

func (t *tool) historyList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "list builds, the newest first",
		Long: `Lists the builds that run and those in the history. Filters are those of the daemon:
status==error, repository==URL, startedAt>24h and the like.`,
		Example: `  kiln history ls
  kiln history ls --filter status==error
  kiln history ls --format json`,
		Args: cobra.NoArgs,
	}
	filters := cmd.Flags().StringArrayP("filter", "f", nil, "show only builds that match")
	format := cmd.Flags().String("format", "", "Go template for each build, or json")
	cmd.RunE = t.withDaemon(func(ctx context.Context, conn *grpc.ClientConn, _ []string) error {
		template, err := report.ParseTemplate(*format)
		if err != nil {
			return err
		}
		return report.List(ctx, controlapi.NewControlClient(conn), *filters, template, t.env.Stdout)
	})
	return cmd
}

func (t *tool) historyLogs() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "logs [REF]",
		Short: "show the log of a build, the last if none is named",
		Long: `Shows the progress of a build as it was shown when it ran. A build that is running is
followed to its end.`,
		Example: `  kiln history logs
  kiln history logs --progress rawjson REF
  kiln history logs --trace REF`,
		Args: atMostOne("ref"),
	}
	mode := cmd.Flags().String("progress", "plain", "how the log is shown: plain, tty or rawjson")
	trace := cmd.Flags().Bool("trace", false, "print the OpenTelemetry trace instead")
	cmd.RunE = t.withDaemon(func(ctx context.Context, conn *grpc.ClientConn, args []string) error {
		ref, err := t.refOrLast(ctx, conn, args)
		if err != nil {
			return err
		}
		if *trace {
			return report.Trace(ctx, conn, ref, t.env.Stdout)
		}
		return perform.Replay(ctx, conn, ref, *mode, t.env.Stdout)
	})
	return cmd
}

func (t *tool) historyInspect() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inspect [REF]",
		Short: "show what is known of a build, the last if none is named",
		Long:  `Shows when and how a build ran, with which options, and what it made.`,
		Example: `  kiln history inspect
  kiln history inspect --format json REF`,
		Args: atMostOne("ref"),
	}
	format := cmd.Flags().String("format", "", "Go template for the record, or json")
	cmd.RunE = t.withDaemon(func(ctx context.Context, conn *grpc.ClientConn, args []string) error {
		template, err := report.ParseTemplate(*format)
		if err != nil {
			return err
		}
		ref, err := t.refOrLast(ctx, conn, args)
		if err != nil {
			return err
		}
		record, err := report.Record(ctx, controlapi.NewControlClient(conn), ref)
		if err != nil {
			return err
		}
		return report.Inspect(record, template, t.env.Stdout)
	})
	return cmd
}

func (t *tool) historyRemove() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rm REF…",
		Short: "forget builds",
		Long:  `Removes builds from the history. What they made and their cache stay.`,
		Example: `  kiln history rm REF
  kiln history rm --all`,
	}
	all := cmd.Flags().BoolP("all", "a", false, "forget all builds that are not pinned")
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if *all == (len(args) > 0) {
			return errors.New("name the builds to forget, or give --all")
		}
		return nil
	}
	cmd.RunE = t.withDaemon(func(ctx context.Context, conn *grpc.ClientConn, args []string) error {
		control := controlapi.NewControlClient(conn)
		if *all {
			return report.PruneHistories(ctx, control, nil, t.env.Stdout)
		}
		var failed []error
		for _, ref := range args {
			failed = append(failed, report.Forget(ctx, control, ref))
		}
		return errors.Join(failed...)
	})
	return cmd
}

// refOrLast returns the build that is named, else the one that was started last.
func (t *tool) refOrLast(ctx context.Context, conn *grpc.ClientConn, args []string) (string, error) {
	if len(args) == 1 {
		return args[0], nil
	}
	records, err := report.Newest(ctx, controlapi.NewControlClient(conn), nil)
	if err != nil {
		return "", err
	}
	if len(records) == 0 {
		return "", fmt.Errorf("the history is empty")
	}
	return records[0].Ref, nil
}
