package buildctl

import (
	"context"
	"errors"

	controlapi "github.com/moby/buildkit/api/services/control"
	digest "github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/kiln-build/kiln/nerdctlext/perform"
	"github.com/kiln-build/kiln/nerdctlext/report"
)

func (t *tool) debugCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "debug", Short: "debug utilities"}
	cmd.AddCommand(t.dumpCommand(), t.workersCommand(), t.infoCommand(), t.monitorCommand(),
		t.logsCommand(), t.ctlCommand(), t.getCommand(), t.historiesCommand())
	return cmd
}

func (t *tool) workersCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "workers", Short: "list workers", Args: cobra.NoArgs}
	filters := cmd.Flags().StringArrayP("filter", "f", nil, "show only workers that match")
	style := styleFlags(cmd)
	cmd.RunE = t.withControl(func(ctx context.Context, control controlapi.ControlClient, _ []string) error {
		chosen, err := style()
		if err != nil {
			return err
		}
		return report.Workers(ctx, control, *filters, chosen, t.env.Stdout)
	})
	return cmd
}

func (t *tool) infoCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "info", Short: "display internal information", Args: cobra.NoArgs}
	format := formatFlag(cmd)
	cmd.RunE = t.withControl(func(ctx context.Context, control controlapi.ControlClient, _ []string) error {
		template, err := format()
		if err != nil {
			return err
		}
		return report.Info(ctx, control, template, t.env.Stdout)
	})
	return cmd
}

func (t *tool) monitorCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "monitor", Short: "display build events", Args: cobra.NoArgs}
	completed := cmd.Flags().Bool("completed", false, "show completed builds too")
	ref := cmd.Flags().String("ref", "", "show one build only")
	cmd.RunE = t.withControl(func(ctx context.Context, control controlapi.ControlClient, _ []string) error {
		return report.Monitor(ctx, control, &controlapi.BuildHistoryRequest{ActiveOnly: !*completed, Ref: *ref}, t.env.Stdout)
	})
	return cmd
}

func (t *tool) logsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "logs REF", Short: "display build logs", Args: refArgument}
	mode := cmd.Flags().String("progress", "auto", "how the log is shown: auto, plain, tty, rawjson or quiet")
	trace := cmd.Flags().Bool("trace", false, "print the OpenTelemetry trace instead")
	cmd.RunE = t.withDaemon(func(ctx context.Context, conn *grpc.ClientConn, args []string) error {
		if *trace {
			return report.Trace(ctx, conn, args[0], t.env.Stdout)
		}
		return perform.Replay(ctx, conn, args[0], *mode, t.env.Stdout)
	})
	return cmd
}

func (t *tool) ctlCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "ctl REF", Short: "control build records", Args: refArgument}
	flags := cmd.Flags()
	pin := flags.Bool("pin", false, "keep the record from garbage collection")
	flags.Bool("unpin", false, "leave the record to garbage collection")
	remove := flags.Bool("delete", false, "delete the record")
	cmd.MarkFlagsMutuallyExclusive("pin", "unpin", "delete")
	cmd.MarkFlagsOneRequired("pin", "unpin", "delete")
	cmd.RunE = t.withControl(func(ctx context.Context, control controlapi.ControlClient, args []string) error {
		_, err := control.UpdateBuildHistory(ctx, &controlapi.UpdateBuildHistoryRequest{Ref: args[0], Pinned: *pin, Delete: *remove})
		return err
	})
	return cmd
}

func (t *tool) getCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "get DIGEST",
		Short: "retrieve a blob from contentstore",
		Args:  cobra.ExactArgs(1),
		RunE: t.withDaemon(func(ctx context.Context, conn *grpc.ClientConn, args []string) error {
			if _, err := digest.Parse(args[0]); err != nil {
				return err
			}
			return report.Blob(ctx, conn, args[0], t.env.Stdout)
		}),
	}
}

func (t *tool) historiesCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "histories", Short: "list build records", Args: cobra.NoArgs}
	format := formatFlag(cmd)
	cmd.RunE = t.withControl(func(ctx context.Context, control controlapi.ControlClient, _ []string) error {
		template, err := format()
		if err != nil {
			return err
		}
		return report.Histories(ctx, control, template, t.env.Stdout)
	})
	return cmd
}

func refArgument(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return errors.New("build ref must be specified")
	}
	return nil
}
