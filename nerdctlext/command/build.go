package command

import (
	"context"
	"errors"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/kiln-build/kiln/nerdctlext"
	"github.com/kiln-build/kiln/nerdctlext/build"
	"github.com/kiln-build/kiln/nerdctlext/perform"
	"github.com/kiln-build/kiln/nerdctlext/report"
)

// buildFlags are all flags of a build.
type buildFlags struct {
	source   sourceFlags
	naming   namingFlags
	args     argFlags
	access   accessFlags
	cache    cacheFlags
	platform platformFlags
	limits   limitFlags
	attest   attestFlags
	output   outputFlags
	show     showFlags
	foreign  foreignFlags
}

func (f *buildFlags) groups() []group {
	return []group{&f.source, &f.naming, &f.args, &f.access, &f.cache, &f.platform, &f.limits, &f.attest, &f.output, &f.show, &f.foreign}
}

func (t *tool) buildCommand() *cobra.Command {
	f := &buildFlags{}
	cmd := &cobra.Command{
		Use:   "build [flags] PATH|URL|-",
		Short: "build an image",
		Long: `Builds an image from a Dockerfile (or Containerfile) and a context: a directory, a
git repository, the URL of an archive, or an archive or a Dockerfile on standard input.

The image is stored in containerd under the names that --tag gives and unpacked, so
that it can be run at once. With --push it goes to its registry; with --output it goes
elsewhere instead. The digest is printed on standard output, all else on standard error.`,
		Example: `  kiln build -t app .
  kiln build -t app -f docker/Dockerfile.prod --build-arg VERSION=1.2 --target release .
  kiln build -t registry.example.com/app --push --platform linux/amd64,linux/arm64 .
  kiln build -o out .                                # the files, into the directory out
  kiln build -o type=oci,dest=app.tar -t app .       # an archive
  kiln build --secret id=token,env=TOKEN --ssh default https://example.com/app.git#v2
  kiln build --check .                               # look for mistakes, build nothing`,
		Args: atMostOne("context"),
	}
	for _, g := range f.groups() {
		g.register(cmd.Flags())
	}
	cmd.Flags().SortFlags = false
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p, err := f.plan(cmd.Context(), t.env, args)
		if err != nil {
			return err
		}
		return t.withDaemon(func(ctx context.Context, conn *grpc.ClientConn, _ []string) error {
			return f.run(ctx, conn, p)
		})(cmd, args)
	}
	return cmd
}

// plan works out what the flags ask for, before there is a daemon.
func (f *buildFlags) plan(ctx context.Context, env nerdctlext.Environment, args []string) (*plan, error) {
	p := &plan{
		env:   env,
		args:  args,
		attrs: map[string]string{},
		request: &build.Request{
			Ref:      build.NewRef(),
			Frontend: "dockerfile.v0",
			Options:  map[string]string{},
			Locals:   map[string]build.Local{},
			Layouts:  map[string]string{},
		},
	}
	for _, g := range f.groups() {
		if err := g.apply(ctx, p); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (f *buildFlags) run(ctx context.Context, conn *grpc.ClientConn, p *plan) error {
	for _, warning := range p.warnings {
		perform.Warn(p.env.Stderr, warning)
	}
	job := perform.Job{
		Env:          p.env,
		Conn:         conn,
		Request:      p.request,
		Credentials:  p.credentials,
		Progress:     f.show.mode(p.env),
		MetadataFile: f.show.metadataFile,
		ListWarnings: !f.show.quiet && f.show.call.name == "",
	}
	result, err := job.Build(ctx)
	if err != nil {
		if f.show.explain && ctx.Err() == nil {
			err = errors.Join(err, explainFailed(ctx, conn, p))
		}
		return err
	}
	if f.show.call.name != "" {
		return f.show.call.print(p.env.Stdout, result)
	}
	if err := f.show.writeIDs(result); err != nil {
		return err
	}
	if f.show.explain {
		if err := report.Explain(p.env.Stderr, result.Exported); err != nil {
			return err
		}
	}
	return f.show.announce(p, result)
}

// explainFailed prints why the steps ran of a build that failed, which only the
// history knows.
func explainFailed(ctx context.Context, conn *grpc.ClientConn, p *plan) error {
	record, err := report.Record(ctx, controlapi.NewControlClient(conn), p.request.Ref)
	if err != nil || record.GetExporterResponse()[report.ExplainOption] == "" {
		return err
	}
	return report.Explain(p.env.Stderr, record.GetExporterResponse())
}
