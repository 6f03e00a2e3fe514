package buildctl

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/moby/buildkit/solver/pb"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"

	"github.com/kiln-build/kiln/nerdctlext"
	"github.com/kiln-build/kiln/nerdctlext/build"
	"github.com/kiln-build/kiln/nerdctlext/perform"
	"github.com/kiln-build/kiln/nerdctlext/progress"
	"github.com/kiln-build/kiln/nerdctlext/value"
)

// maxDefinition bounds what is read as a graph from standard input, in bytes.
const maxDefinition = 256 << 20

// buildFlags are the flags of build, as they were given.
type buildFlags struct {
	outputs, locals, layouts, options []string
	cacheExports, cacheImports        []string
	secrets, ssh, allow, registryTLS  []string
	frontend, progress, trace         string
	metadataFile, refFile, policyFile string
	cacheMetrics                      string
	noCache, proxyNetwork             bool
}

func (t *tool) buildCommand() *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:     "build [flags]",
		Aliases: []string{"b"},
		Short:   "build",
		Long: `Build with a frontend, or solve the marshalled LLB definition that comes on standard
input where no frontend is named.`,
		Example: `  buildctl build --frontend dockerfile.v0 --local context=. --local dockerfile=. \
    --output type=image,name=docker.io/library/app,push=true
  buildctl build --frontend dockerfile.v0 --opt target=foo --opt build-arg:foo=bar \
    --local context=. --local dockerfile=. --output type=local,dest=out
  generate-llb | buildctl build --output type=oci,dest=image.tar`,
		Args: cobra.NoArgs,
	}
	f.register(cmd.Flags())
	cmd.RunE = t.withDaemon(func(ctx context.Context, conn *grpc.ClientConn, _ []string) error {
		return f.run(ctx, t.env, conn)
	})
	return cmd
}

func (f *buildFlags) register(flags *pflag.FlagSet) {
	flags.StringArrayVarP(&f.outputs, "output", "o", nil, "exporter and destination: type=image,name=NAME,push=true; type=local,dest=DIR; …")
	flags.StringVar(&f.progress, "progress", "auto", "how progress is shown: auto, plain, tty, rawjson or quiet")
	flags.StringVar(&f.trace, "trace", "", "file that receives every status update as JSON")
	flags.StringArrayVar(&f.locals, "local", nil, "directory that the build may read: NAME=DIR")
	flags.StringArrayVar(&f.layouts, "oci-layout", nil, "directory in OCI layout that the build may read: ID=DIR")
	flags.StringVar(&f.frontend, "frontend", "", "frontend, such as dockerfile.v0 or gateway.v0")
	flags.StringArrayVar(&f.options, "opt", nil, "option of the frontend: NAME=VALUE, target=foo, build-arg:foo=bar")
	flags.BoolVar(&f.noCache, "no-cache", false, "run all steps again")
	flags.StringArrayVar(&f.cacheExports, "export-cache", nil, "where the cache is exported to: type=registry,ref=IMAGE,mode=max")
	flags.StringArrayVar(&f.cacheImports, "import-cache", nil, "where cache is imported from: type=local,src=DIR")
	flags.StringArrayVar(&f.secrets, "secret", nil, "secret for the build: id=NAME,src=FILE or id=NAME,env=VARIABLE")
	flags.StringArrayVar(&f.ssh, "ssh", nil, "agent or keys for the build: default or ID=SOCKET or ID=KEY[,KEY]")
	flags.StringArrayVar(&f.allow, "allow", nil, "entitlement: network.host, security.insecure or device[=NAME]")
	flags.StringVar(&f.metadataFile, "metadata-file", "", "file that receives what the exporters answered, as JSON")
	flags.StringVar(&f.policyFile, "source-policy-file", "", "source policy as JSON")
	flags.BoolVar(&f.proxyNetwork, "proxy-network", false, "run steps behind the recording proxy")
	flags.StringVar(&f.refFile, "ref-file", "", "file that receives the build's ref")
	flags.StringArrayVar(&f.registryTLS, "registry-auth-tlscontext", nil, "how to reach a token server: host=HOST,ca=FILE,cert=FILE,key=FILE,insecure=true")
	flags.StringVar(&f.cacheMetrics, "debug-json-cache-metrics", "", "count cache hits to stdout, stderr or a file")
}

func (f *buildFlags) run(ctx context.Context, env nerdctlext.Environment, conn *grpc.ClientConn) error {
	request, err := f.request(env)
	if err != nil {
		return err
	}
	registryTLS, err := value.RegistryTLS(f.registryTLS)
	if err != nil {
		return err
	}
	job := perform.Job{
		Env:          env,
		Conn:         conn,
		Request:      request,
		Credentials:  perform.Credentials(env),
		RegistryTLS:  registryTLS,
		Progress:     f.mode(env),
		TraceFile:    f.trace,
		RefFile:      f.refFile,
		MetadataFile: f.metadataFile,
	}
	if f.cacheMetrics != "" {
		out, err := metricsFile(env, f.cacheMetrics)
		if err != nil {
			return err
		}
		defer out.Close()
		job.Metrics = progress.NewCacheMetrics()
		defer func() { _ = job.Metrics.Print(out) }()
	}
	result, err := job.Build(ctx)
	if err != nil {
		return err
	}
	if _, asked := request.Options["requestid"]; asked {
		return perform.PrintSubrequest(env.Stdout, result)
	}
	return nil
}

func (f *buildFlags) mode(env nerdctlext.Environment) string {
	if chosen := env.Get("BUILDKIT_PROGRESS"); chosen != "" && f.progress == "auto" {
		return chosen
	}
	return f.progress
}

// metricsFile opens where the metrics go; the caller closes it.
func metricsFile(env nerdctlext.Environment, name string) (io.WriteCloser, error) {
	switch name {
	case "stdout":
		return kept{env.Stdout}, nil
	case "stderr":
		return kept{env.Stderr}, nil
	}
	return os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
}

type kept struct{ io.Writer }

func (kept) Close() error { return nil }

// request is what the flags ask for.
func (f *buildFlags) request(env nerdctlext.Environment) (*build.Request, error) {
	request := &build.Request{Ref: build.NewRef(), Frontend: f.frontend, ProxyNetwork: f.proxyNetwork}
	var err error
	if request.Agents, err = value.Agents(f.ssh, env.Get("SSH_AUTH_SOCK")); err != nil {
		return nil, err
	}
	if request.Secrets, err = value.Secrets(f.secrets, env.Lookup); err != nil {
		return nil, err
	}
	if request.Entitlements, err = value.Entitlements(f.allow); err != nil {
		return nil, err
	}
	if request.Outputs, err = value.Outputs(f.outputs, func() bool { return nerdctlext.IsTerminal(env.Stdout) }); err != nil {
		return nil, err
	}
	if request.CacheExports, err = value.CacheExports(f.cacheExports, env.Lookup); err != nil {
		return nil, err
	}
	if request.CacheImports, err = value.CacheImports(f.cacheImports, env.Lookup); err != nil {
		return nil, err
	}
	if request.SourcePolicy, err = value.SourcePolicy(f.policyFile); err != nil {
		return nil, err
	}
	if request.Layouts, err = value.Pairs(f.layouts); err != nil {
		return nil, fmt.Errorf("invalid oci-layout: %w", err)
	}
	if request.Locals, err = locals(f.locals); err != nil {
		return nil, err
	}
	if err := f.setOptions(request, env); err != nil {
		return nil, err
	}
	if f.frontend == "" {
		if request.Definition, err = readDefinition(env.Stdin, f.noCache); err != nil {
			return nil, err
		}
	}
	return request, nil
}

func (f *buildFlags) setOptions(request *build.Request, env nerdctlext.Environment) error {
	options, err := value.Options(f.options, env.Lookup)
	if err != nil {
		return fmt.Errorf("invalid opt: %w", err)
	}
	const epoch = "build-arg:SOURCE_DATE_EPOCH"
	if at, found := env.Lookup("SOURCE_DATE_EPOCH"); found {
		if _, given := options[epoch]; !given {
			options[epoch] = at
		}
	}
	if f.noCache && f.frontend != "" {
		options["no-cache"] = ""
	}
	if _, asked := options["requestid"]; asked {
		if _, given := options["frontend.caps"]; !given {
			options["frontend.caps"] = "moby.buildkit.frontend.subrequests"
		}
	}
	request.Options = options
	return nil
}

func locals(list []string) (map[string]build.Local, error) {
	dirs, err := value.Pairs(list)
	if err != nil {
		return nil, fmt.Errorf("invalid local: %w", err)
	}
	out := map[string]build.Local{}
	for name, dir := range dirs {
		out[name] = build.Local{Dir: dir}
	}
	return out, nil
}

// readDefinition reads a marshalled graph; with ignoreCache every step of it runs again.
func readDefinition(in io.Reader, ignoreCache bool) (*pb.Definition, error) {
	if nerdctlext.IsTerminal(in) {
		return nil, fmt.Errorf("please specify --frontend or pipe LLB definition to stdin")
	}
	content, err := io.ReadAll(io.LimitReader(in, maxDefinition+1))
	if err != nil {
		return nil, fmt.Errorf("reading the definition from stdin: %w", err)
	}
	if len(content) > maxDefinition {
		return nil, fmt.Errorf("the definition on stdin is larger than %d bytes", maxDefinition)
	}
	definition := &pb.Definition{}
	if err := definition.UnmarshalVT(content); err != nil {
		return nil, fmt.Errorf("stdin holds no LLB definition: %w", err)
	}
	if len(definition.Def) == 0 {
		return nil, fmt.Errorf("empty definition sent to build. Specify --frontend instead?")
	}
	if ignoreCache {
		rerunAll(definition)
	}
	return definition, nil
}
