// Package command is kiln's own command line. Its build takes the flags of nerdctl's and
// buildx's build and most of podman's; where they disagree, nerdctl's meaning is the one
// that counts.
package command

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"

	"github.com/kiln-build/kiln/nerdctlext"
	"github.com/kiln-build/kiln/nerdctlext/dial"
	"github.com/kiln-build/kiln/nerdctlext/perform"
)

// otherNames are the names that other command lines have for flags of this one.
var otherNames = map[string]string{
	"buildkit-host": "addr",
	"net":           "network",
	"raw-iidfile":   "iidfile-raw",
	"print":         "call",
}

// tool is what all commands share.
type tool struct {
	env        nerdctlext.Environment
	connection perform.Connection
}

// New returns the command tree.
func New(env nerdctlext.Environment) *cobra.Command {
	t := &tool{env: env, connection: perform.Connection{Address: defaultAddress(env)}}
	root := &cobra.Command{
		Use:   "kiln",
		Short: "build container images inside containerd",
		Long: `kiln builds container images with a kiln daemon, or with any daemon that speaks
BuildKit's API. What it builds is in containerd, ready to run, when it returns.

The daemon is found by --addr, else $KILN_HOST, else $BUILDKIT_HOST, else at
` + defaultSocket(env) + `.`,
		Example: `  kiln build -t app .
  kiln build --push -t registry.example.com/team/app:v2 .
  kiln --addr ssh://builder.example.com build -o out .
  kiln du`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       clientVersion(env),
	}
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	root.SetGlobalNormalizationFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if ours, ok := otherNames[name]; ok {
			name = ours
		}
		return pflag.NormalizedName(name)
	})
	flags := root.PersistentFlags()
	flags.Bool("debug", false, "print errors in full")
	t.connection.Register(flags)
	root.AddCommand(t.buildCommand(), t.usageCommand(), t.pruneCommand(), t.imagesCommand(), t.removeCommand(), t.workersCommand(),
		t.historyCommand(), t.versionCommand(), t.stdioCommand())
	return root
}

func defaultAddress(env nerdctlext.Environment) string {
	for _, variable := range []string{"KILN_HOST", "BUILDKIT_HOST"} {
		if address := env.Get(variable); address != "" {
			return address
		}
	}
	return defaultSocket(env)
}

// defaultSocket is the system's daemon for root, and the user's own for others.
func defaultSocket(env nerdctlext.Environment) string {
	dir := "/run"
	if own := env.Get("XDG_RUNTIME_DIR"); own != "" && env.User > 0 {
		dir = own
	}
	return "unix://" + dir + "/kiln/kilnd.sock"
}

// withDaemon makes a command's body one that is connected to the daemon.
func (t *tool) withDaemon(run func(ctx context.Context, conn *grpc.ClientConn, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		conn, err := t.connection.Open(cmd.Context(), t.env)
		if err != nil {
			return err
		}
		defer conn.Close()
		return perform.Unreachable(run(cmd.Context(), conn, args), t.connection.Address)
	}
}

func (t *tool) stdioCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "dial-stdio",
		Short: "join the standard streams to the daemon's socket",
		Long: `Joins standard input and output to the daemon's socket. Clients on other machines
start it, through ssh for instance; it is of no use by hand.`,
		Example: `  ssh builder.example.com kiln dial-stdio`,
		Hidden:  true,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return dial.Stdio(cmd.Context(), t.connection.Address, t.env.Stdin, t.env.Stdout)
		},
	}
}

func atMostOne(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > 1 {
			return fmt.Errorf("expected one %s, got %d: %q", what, len(args), args)
		}
		return nil
	}
}
