package buildctl

import (
	"context"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/spf13/cobra"

	"github.com/kiln-build/kiln/nerdctlext/report"
)

// styleFlags adds --verbose and --format, read by the returned function.
func styleFlags(cmd *cobra.Command) func() (report.Style, error) {
	verbose := cmd.Flags().BoolP("verbose", "v", false, "print all that is known")
	format := formatFlag(cmd)
	return func() (report.Style, error) {
		template, err := format()
		return report.Style{Format: template, Verbose: *verbose}, err
	}
}

// formatFlag adds --format, read by the returned function.
func formatFlag(cmd *cobra.Command) func() (*report.Template, error) {
	text := cmd.Flags().String("format", "", "Go template for the output, such as '{{json .}}'")
	return func() (*report.Template, error) { return report.ParseTemplate(*text) }
}

func (t *tool) usageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "du", Short: "disk usage", Args: cobra.NoArgs}
	filters := cmd.Flags().StringArrayP("filter", "f", nil, "show only records that match")
	style := styleFlags(cmd)
	cmd.RunE = t.withControl(func(ctx context.Context, control controlapi.ControlClient, _ []string) error {
		chosen, err := style()
		if err != nil {
			return err
		}
		return report.DiskUsage(ctx, control, *filters, chosen, t.env.Stdout)
	})
	return cmd
}

func (t *tool) pruneCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "prune", Short: "clean up build cache", Args: cobra.NoArgs}
	flags := cmd.Flags()
	keep := flags.Duration("keep-duration", 0, "keep what is younger")
	storage := flags.Float64("keep-storage", 0, "keep the cache below this many MB")
	reserved := flags.Float64("keep-storage-min", 0, "always leave the cache this many MB")
	free := flags.Float64("free-storage", 0, "keep this many MB of the disk free")
	filters := flags.StringArrayP("filter", "f", nil, "remove only records that match")
	all := flags.Bool("all", false, "remove internal and frontend records too")
	style := styleFlags(cmd)
	cmd.RunE = t.withControl(func(ctx context.Context, control controlapi.ControlClient, _ []string) error {
		chosen, err := style()
		if err != nil {
			return err
		}
		return report.Prune(ctx, control, &controlapi.PruneRequest{
			Filter: *filters, All: *all, KeepDuration: int64(*keep / time.Nanosecond),
			MaxUsedSpace: megabytes(*storage), ReservedSpace: megabytes(*reserved), MinFreeSpace: megabytes(*free),
		}, chosen, t.env.Stdout)
	})
	return cmd
}

func megabytes(mb float64) int64 { return int64(mb * 1e6) }

func (t *tool) pruneHistoriesCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "prune-histories", Short: "clean up build histories", Args: cobra.NoArgs}
	format := formatFlag(cmd)
	cmd.RunE = t.withControl(func(ctx context.Context, control controlapi.ControlClient, _ []string) error {
		template, err := format()
		if err != nil {
			return err
		}
		return report.PruneHistories(ctx, control, template, t.env.Stdout)
	})
	return cmd
}
