package op

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/kiln-build/kiln/builder/event"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/idmap"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/sandbox/emulation"
	"github.com/kiln-build/kiln/builder/sandbox/proxy"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/session"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// ExecConfig is what running processes takes. One serves all steps.
type ExecConfig struct {
	Layers   *layer.Store
	Runner   sandbox.Runner
	Sessions *session.Manager
	Caches   *CacheMounts
	// Dir is where secrets and sockets of running steps are kept.
	Dir string
	// CgroupParent is that of steps that name none.
	CgroupParent string
	// Limits hold for every process; steps may ask for less.
	Limits sandbox.Resources
	// Emulation is for steps of other platforms; nil is none.
	Emulation *emulation.Emulators
	// Users are those of sandboxed steps on the host; nil are the same.
	Users *idmap.Map
}

// Exec runs a process on mounts.
type Exec struct {
	cfg    *ExecConfig
	step   *graph.Step
	exec   *pb.ExecOp
	grants ExecGrants
}

// ExecGrants are what a step gets of its build.
type ExecGrants struct {
	// Devices are the full names of those that it gets of what it asks for.
	Devices []string
	// Proxies makes the proxy of a step whose network is one.
	Proxies *proxy.Authority
	// Policy tells apart policies by which requests to that proxy are decided.
	Policy string
}

// NewExec makes the op of a step with an exec body.
func NewExec(cfg *ExecConfig, step *graph.Step, grants ExecGrants) *Exec {
	return &Exec{cfg: cfg, step: step, exec: step.Op.GetExec(), grants: grants}
}

// Run implements schedule.Op.
func (e *Exec) Run(ctx context.Context, job schedule.Job, inputs []schedule.Result) ([]schedule.Result, error) {
	var layers []*layer.Layer
	for i := range inputs {
		l, _ := inputs[i].(*layer.Layer)
		layers = append(layers, l)
	}
	results, stale, err := e.attempt(ctx, job, layers)
	if stale && ctx.Err() == nil {
		job.Progress.Warn("a lazily pulled layer was lost while the step ran; it is mounted again, and the step runs once more")
		results, _, err = e.attempt(ctx, job, layers)
	}
	return results, err
}

// attempt runs the process once. stale says that it failed with a tree that could
// not be read any more.
func (e *Exec) attempt(ctx context.Context, job schedule.Job, layers []*layer.Layer) (_ []schedule.Result, stale bool, _ error) {
	m := newMounting(e.cfg, job, layers)
	m.fresh, m.cwd, m.users = e.step.Meta.IgnoreCache, e.exec.Meta.Cwd, e.users()
	defer m.close(ctx)
	err := e.process(ctx, job, m)
	stale = m.stale()
	if err == nil && stale {
		err = errors.New("a lazily pulled layer can't be read any more")
	}
	m.unmount()
	if stale {
		return nil, true, err // nobody could look into its trees
	}
	if err != nil {
		return nil, false, e.failure(ctx, m, err)
	}
	results, err := e.commit(ctx, m)
	return results, false, err
}

// users are those that the step has on the host. An insecure one is to have the rights
// of the machine's root.
func (e *Exec) users() *idmap.Map {
	if e.exec.Security == pb.SecurityMode_INSECURE {
		return nil
	}
	return e.cfg.Users
}

// process makes the mounts and runs the process on them.
func (e *Exec) process(ctx context.Context, job schedule.Job, m *mounting) error {
	if err := m.all(ctx, e.exec.Mounts); err != nil {
		return err
	}
	spec, err := e.spec(ctx, job, m)
	if err != nil {
		return err
	}
	if e.step.Proxied {
		spec.Proxy = e.grants.Proxies.New()
		defer report(job.Progress, spec.Proxy)
	}
	io := sandbox.IO{Stdout: job.Progress.Writer(event.Stdout), Stderr: job.Progress.Writer(event.Stderr)}
	return e.outcome(e.cfg.Runner.Run(ctx, spec, io, nil))
}

// report says what went through a step's proxy.
func report(to event.Progress, p *proxy.Proxy) {
	if text := p.Summary(); text != "" {
		to.Log(event.Stderr, []byte(text))
	}
	if all, more := p.Fetches(); len(all) > 0 {
		to.Fetched(all, more)
	}
}

// failure says what the process was given and what it left.
func (e *Exec) failure(ctx context.Context, m *mounting, err error) error {
	f := &Failure{Err: err}
	for _, mt := range e.exec.Mounts {
		in, left := m.input(mt), m.input(mt)
		if w := m.trees[mt]; w != nil {
			left = salvage(ctx, w)
		}
		f.Inputs, f.Mounts = append(f.Inputs, in), append(f.Mounts, left)
	}
	return f
}

func (e *Exec) spec(ctx context.Context, job schedule.Job, m *mounting) (sandbox.Spec, error) {
	meta := e.exec.Meta
	spec := sandbox.Spec{
		ID:                   newID(),
		Root:                 m.root,
		ReadonlyRoot:         m.rootReadonly,
		Mounts:               m.mounts,
		Args:                 meta.Args,
		Cwd:                  meta.Cwd,
		User:                 meta.User,
		Hostname:             meta.Hostname,
		CgroupParent:         meta.CgroupParent,
		Network:              networks[e.exec.Network],
		Security:             securities[e.exec.Security],
		Resources:            e.cfg.Limits.Under(resources(e.step.Meta.Resources)),
		Devices:              e.grants.Devices,
		Users:                m.users,
		UserNamespace:        e.cfg.Emulation.Namespace(e.step.OCIPlatform(), m.users),
		Observe:              job.Progress.Used,
		RemoveStubsRecursive: meta.RemoveMountStubsRecursive,
	}
	if spec.CgroupParent == "" {
		spec.CgroupParent = e.cfg.CgroupParent
	}
	spec.ExtraHosts = hosts(meta.ExtraHosts)
	for _, u := range meta.Ulimit {
		spec.Ulimits = append(spec.Ulimits, sandbox.Ulimit{Name: u.GetName(), Soft: u.GetSoft(), Hard: u.GetHard()})
	}
	var err error
	spec.Env, err = e.cfg.environment(ctx, job, environment{
		vars: slices.Concat(meta.Env, proxies(meta.ProxyEnv)), path: defaultPath, secrets: e.exec.Secretenv,
	})
	return spec, err
}

var networks = map[pb.NetMode]sandbox.Network{
	pb.NetMode_UNSET: sandbox.NetworkDefault,
	pb.NetMode_HOST:  sandbox.NetworkHost,
	pb.NetMode_NONE:  sandbox.NetworkNone,
}

var securities = map[pb.SecurityMode]sandbox.Security{
	pb.SecurityMode_SANDBOX:  sandbox.Sandboxed,
	pb.SecurityMode_INSECURE: sandbox.Insecure,
}

func hosts(in []*pb.HostIP) []sandbox.Host {
	var out []sandbox.Host
	for _, h := range in {
		out = append(out, sandbox.Host{Name: h.GetHost(), IP: h.GetIP()})
	}
	return out
}

// outcome says what the end of the process means for the step.
func (e *Exec) outcome(err error) error {
	if err == nil && !e.valid(0) {
		err = &sandbox.ExitError{Code: 0}
	}
	var exit *sandbox.ExitError
	exited := errors.As(err, &exit)
	if err == nil || exited && err == error(exit) && e.valid(int32(exit.Code)) {
		return nil // nothing else went wrong, either
	}
	command := strings.Join(e.exec.Meta.Args, " ")
	err = e.cfg.explain(err, e.step.OCIPlatform(), e.users())
	if exited {
		err = &gatewaypb.ExitError{ExitCode: uint32(exit.Code), Err: err}
	}
	return fmt.Errorf("process %q did not complete successfully: %w", command, err)
}

// Exit codes of what could not execute a program: a shell, and the runtime's first
// process, which has reported its start by then.
const (
	exitShell = 126
	exitInit  = 255
)

// explain adds what to do where a program may not have been one of this machine's.
func (cfg *ExecConfig) explain(err error, p ocispec.Platform, users *idmap.Map) error {
	var start *sandbox.StartError
	var exit *sandbox.ExitError
	foreign := errors.As(err, &start) && strings.Contains(start.Reason, unix.ENOEXEC.Error()) ||
		errors.As(err, &exit) && (exit.Code == exitShell || exit.Code == exitInit)
	if !foreign || cfg.Emulation.Namespace(p, users) != "" {
		return err
	}
	if advice := cfg.Emulation.Advice(p); advice != "" {
		return fmt.Errorf("%w: %s", err, advice)
	}
	return err
}

func (e *Exec) valid(code int32) bool {
	valid := e.exec.Meta.ValidExitCodes
	if len(valid) == 0 {
		return code == 0
	}
	return slices.Contains(valid, code)
}

// commit makes the outputs' layers. The output of a mount that can't be written
// to is its input.
func (e *Exec) commit(ctx context.Context, m *mounting) ([]schedule.Result, error) {
	results := make([]schedule.Result, e.step.Outputs)
	meta := layer.Meta{Created: time.Now(), Description: "mount / from exec " + strings.Join(e.exec.Meta.Args, " ")}
	for _, mt := range e.exec.Mounts {
		if mt.Output < 0 || mt.MountType != pb.MountType_BIND {
			continue
		}
		w := m.trees[mt]
		if w == nil {
			if l := m.input(mt); l != nil {
				results[mt.Output] = l
			}
			continue
		}
		l, err := w.Commit(ctx, meta)
		if err != nil {
			return nil, fmt.Errorf("keep the changes of mount %s: %w", mt.Dest, err)
		}
		results[mt.Output] = l
	}
	return results, nil
}

func platformKey(p ocispec.Platform) string { return platforms.FormatAll(p) }
