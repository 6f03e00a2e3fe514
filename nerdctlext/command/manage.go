package command

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/docker/go-units"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"

	"github.com/kiln-build/kiln/nerdctlext"
	"github.com/kiln-build/kiln/nerdctlext/report"
)

// styleFlags adds --verbose and --format, read by the returned function.
func styleFlags(flags *pflag.FlagSet) func() (report.Style, error) {
	verbose := flags.BoolP("verbose", "v", false, "print all that is known")
	format := flags.String("format", "", "Go template for the output, or json")
	return func() (report.Style, error) {
		template, err := report.ParseTemplate(*format)
		return report.Style{Format: template, Verbose: *verbose}, err
	}
}

func (t *tool) usageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "du",
		Short: "show what the build cache holds",
		Long: `Lists what the daemon has on disk, the largest first, and the sum: the records of its
cache, and as lines of the type system what else takes space there. A star after the id
marks what can be written to (cache mounts and the like), a star after the size what is
shared with images.

With --why it lists instead what keeps a record from being removed, or what it has from
being freed: builds that run, records that stand on it, images, and leases.

Filters select records by their fields, such as id, type, description, inuse, shared
and parents: --filter type==exec.cachemount. Several are alternatives; conditions in
one, divided by commas, must all hold.`,
		Example: `  kiln du
  kiln du -v --filter type==exec.cachemount
  kiln du --why 09bd1c18b063fbfe5b68e255658097850e0e31227ed75428dc3fe845b6778304
  kiln du --format json`,
		Args: cobra.NoArgs,
	}
	filters := cmd.Flags().StringArrayP("filter", "f", nil, "show only records that match")
	why := cmd.Flags().String("why", "", "show what keeps the record with this id")
	cmd.MarkFlagsMutuallyExclusive("filter", "why")
	style := styleFlags(cmd.Flags())
	cmd.RunE = t.withDaemon(func(ctx context.Context, conn *grpc.ClientConn, _ []string) error {
		chosen, err := style()
		if err != nil {
			return err
		}
		control := controlapi.NewControlClient(conn)
		switch {
		case *why != "":
			return report.DiskUsage(ctx, control, []string{"pins==" + *why}, chosen, t.env.Stdout)
		case len(*filters) == 0:
			return report.WholeDiskUsage(ctx, control, chosen, t.env.Stdout)
		}
		return report.DiskUsage(ctx, control, *filters, chosen, t.env.Stdout)
	})
	return cmd
}

func (t *tool) pruneCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "remove build cache",
		Long: `Removes what nothing uses from the daemon's cache, and lists what was removed. The
limits leave a part: what is younger than --keep-duration, and as much as the sizes
allow. Images are not touched.`,
		Example: `  kiln prune
  kiln prune --all
  kiln prune --keep-duration 48h --max-used-space 20GB
  kiln prune --filter type==source.local`,
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	keep := flags.Duration("keep-duration", 0, "keep what was used in this time")
	var used, reserved, free bytesFlag
	flags.Var(&used, "max-used-space", "keep at most this much, such as 20GB")
	flags.Var(&reserved, "reserved-space", "always keep this much")
	flags.Var(&free, "min-free-space", "keep this much of the disk free")
	filters := flags.StringArray("filter", nil, "remove only records that match, as in kiln du")
	all := flags.BoolP("all", "a", false, "remove internal records and frontends too")
	flags.VarP(ignored{}, "force", "f", "accepted for nerdctl's sake: nothing is asked")
	flags.Lookup("force").NoOptDefVal = "true"
	style := styleFlags(flags)
	cmd.RunE = t.withDaemon(func(ctx context.Context, conn *grpc.ClientConn, _ []string) error {
		chosen, err := style()
		if err != nil {
			return err
		}
		return report.Prune(ctx, controlapi.NewControlClient(conn), &controlapi.PruneRequest{
			Filter: *filters, All: *all, KeepDuration: int64(*keep / time.Nanosecond),
			MaxUsedSpace: int64(used), ReservedSpace: int64(reserved), MinFreeSpace: int64(free),
		}, chosen, t.env.Stdout)
	})
	return cmd
}

// bytesFlag is a size in bytes, written with decimal units (20GB) or binary ones (20GiB).
type bytesFlag int64

func (b *bytesFlag) String() string {
	if *b == 0 {
		return ""
	}
	return units.HumanSize(float64(*b))
}

func (b *bytesFlag) Type() string { return "size" }

func (b *bytesFlag) Set(text string) error {
	size, err := units.FromHumanSize(text)
	if binary, binaryErr := units.RAMInBytes(text); len(text) > 2 && text[len(text)-2] == 'i' && binaryErr == nil {
		size, err = binary, nil
	}
	*b = bytesFlag(size)
	return err
}

func (t *tool) workersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "workers",
		Aliases: []string{"ls"},
		Short:   "list the daemon's workers",
		Long: `Lists what the daemon builds on: each worker with its platforms, and with --verbose
its labels, devices and rules for garbage collection.`,
		Example: `  kiln workers
  kiln workers -v
  kiln workers --format '{{range .}}{{.ID}} {{end}}'`,
		Args: cobra.NoArgs,
	}
	filters := cmd.Flags().StringArrayP("filter", "f", nil, "show only workers that match")
	style := styleFlags(cmd.Flags())
	cmd.RunE = t.withDaemon(func(ctx context.Context, conn *grpc.ClientConn, _ []string) error {
		chosen, err := style()
		if err != nil {
			return err
		}
		return report.Workers(ctx, controlapi.NewControlClient(conn), *filters, chosen, t.env.Stdout)
	})
	return cmd
}

func (t *tool) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Aliases: []string{"info"},
		Short:   "show the versions of the client and the daemon",
		Long: `Shows the version of this program, then what the daemon says of itself. It is an
error when no daemon answers.`,
		Example: `  kiln version
  kiln --addr tcp://builder.example.com:1234 version`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			fmt.Fprintf(t.env.Stdout, "Client:     %s\nAddress:    %s\n", clientVersion(t.env), t.connection.Address)
			return t.withDaemon(func(ctx context.Context, conn *grpc.ClientConn, _ []string) error {
				return report.Info(ctx, controlapi.NewControlClient(conn), nil, t.env.Stdout)
			})(cmd, args)
		},
	}
}

// clientVersion is the version of this program, its revision and its platform.
func clientVersion(env nerdctlext.Environment) string {
	return fmt.Sprintf("%s %s %s/%s", env.Version.Version, env.Version.Revision, runtime.GOOS, runtime.GOARCH)
}
