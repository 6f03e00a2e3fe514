// Package buildctl is kiln's client under the name buildctl: the same commands, flags
// and outputs as BuildKit's, so that what drives a buildctl (nerdctl among others)
// drives kiln.
package buildctl

import (
	"context"
	"fmt"
	"strings"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/kiln-build/kiln/nerdctlext"
	"github.com/kiln-build/kiln/nerdctlext/dial"
	"github.com/kiln-build/kiln/nerdctlext/perform"
)

// defaultAddress is buildctl's own; the environment's BUILDKIT_HOST comes before it.
const defaultAddress = "unix:///run/buildkit/buildkitd.sock"

// tool is what all commands share.
type tool struct {
	env        nerdctlext.Environment
	connection perform.Connection
}

// New returns the command tree.
func New(env nerdctlext.Environment) *cobra.Command {
	t := &tool{env: env}
	if t.connection.Address = env.Get("BUILDKIT_HOST"); t.connection.Address == "" {
		t.connection.Address = defaultAddress
	}
	root := &cobra.Command{
		Use:              "buildctl",
		Short:            "build utility",
		SilenceErrors:    true,
		SilenceUsage:     true,
		TraverseChildren: true,
		Version:          strings.Join([]string{env.Version.Module, env.Version.Version, env.Version.Revision}, " "),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("no command %q; see buildctl --help", args[0])
			}
			return cmd.Help()
		},
	}
	root.SetVersionTemplate("buildctl {{.Version}}\n")
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	flags := root.PersistentFlags()
	flags.Bool("debug", false, "print errors in full")
	t.connection.Register(flags)
	format := flags.String("log-format", "text", "format of log lines: text or json")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if *format != "text" && *format != "json" && *format != "" {
			return fmt.Errorf("unsupported log type %q: it is text or json", *format)
		}
		return nil
	}
	root.AddCommand(t.buildCommand(), t.usageCommand(), t.pruneCommand(), t.pruneHistoriesCommand(), t.debugCommand(), t.stdioCommand())
	root.InitDefaultCompletionCmd()
	if shell, _, err := root.Find([]string{"completion", "powershell"}); err == nil {
		shell.Aliases = append(shell.Aliases, "pwsh") // the name that buildctl has for it
	}
	eachCommand(root, func(cmd *cobra.Command) { cmd.Flags().SetInterspersed(false) })
	return root
}

func eachCommand(cmd *cobra.Command, fn func(*cobra.Command)) {
	fn(cmd)
	for _, child := range cmd.Commands() {
		eachCommand(child, fn)
	}
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

// withControl is withDaemon for what needs the control API alone.
func (t *tool) withControl(run func(ctx context.Context, control controlapi.ControlClient, args []string) error) func(*cobra.Command, []string) error {
	return t.withDaemon(func(ctx context.Context, conn *grpc.ClientConn, args []string) error {
		return run(ctx, controlapi.NewControlClient(conn), args)
	})
}

func (t *tool) stdioCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "dial-stdio",
		Short:  "join the standard streams to the daemon's socket; started by remote clients",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return dial.Stdio(cmd.Context(), t.connection.Address, t.env.Stdin, t.env.Stdout)
		},
	}
}
