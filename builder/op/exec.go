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
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/sandbox"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/kiln-build/kiln/builder/session"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// defaultPath is the PATH of a process whose environment has none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ExecConfig is what running processes takes. One serves all steps.
type ExecConfig struct {
	Layers   *layer.Store
	Runner   sandbox.Runner
	Sessions *session.Manager
	Caches   *CacheMounts
	// Slots bounds how many processes run at once; nil means no bound.
	Slots chan struct{}
	// Dir is where secrets and sockets of running steps are kept.
	Dir string
	// CgroupParent is that of steps that name none.
	CgroupParent string
}

// Exec runs a process on mounts.
type Exec struct {
	cfg  *ExecConfig
	step *graph.Step
	exec *pb.ExecOp
}

// NewExec makes the op of a step with an exec body.
func NewExec(cfg *ExecConfig, step *graph.Step) *Exec {
	return &Exec{cfg: cfg, step: step, exec: step.Op.GetExec()}
}

// Run implements schedule.Op.
func (e *Exec) Run(ctx context.Context, job schedule.Job, inputs []schedule.Result) (_ []schedule.Result, err error) {
	if err := e.takeSlot(ctx); err != nil {
		return nil, err
	}
	defer e.freeSlot()
	m := &mounting{cfg: e.cfg, job: job, fresh: e.step.Meta.IgnoreCache}
	defer m.close()
	for i := range inputs {
		l, _ := inputs[i].(*layer.Layer)
		m.inputs = append(m.inputs, l)
	}
	if err := m.all(ctx, e.exec.Mounts); err != nil {
		return nil, err
	}
	spec, err := e.spec(ctx, job, m)
	if err != nil {
		return nil, err
	}
	io := sandbox.IO{Stdout: job.Progress.Writer(event.Stdout), Stderr: job.Progress.Writer(event.Stderr)}
	if err := e.outcome(e.cfg.Runner.Run(ctx, spec, io, nil)); err != nil {
		return nil, err
	}
	m.unmount()
	return e.commit(ctx, m)
}

func (e *Exec) takeSlot(ctx context.Context) error {
	if e.cfg.Slots == nil {
		return nil
	}
	select {
	case e.cfg.Slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (e *Exec) freeSlot() {
	if e.cfg.Slots != nil {
		<-e.cfg.Slots
	}
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
		Resources:            resources(e.step.Meta.Resources),
		RemoveStubsRecursive: meta.RemoveMountStubsRecursive,
	}
	if spec.CgroupParent == "" {
		spec.CgroupParent = e.cfg.CgroupParent
	}
	for _, h := range meta.ExtraHosts {
		spec.ExtraHosts = append(spec.ExtraHosts, sandbox.Host{Name: h.GetHost(), IP: h.GetIP()})
	}
	for _, u := range meta.Ulimit {
		spec.Ulimits = append(spec.Ulimits, sandbox.Ulimit{Name: u.GetName(), Soft: u.GetSoft(), Hard: u.GetHard()})
	}
	var err error
	spec.Env, err = e.env(ctx, job)
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

func resources(r *pb.LinuxResources) sandbox.Resources {
	if r == nil {
		return sandbox.Resources{}
	}
	return sandbox.Resources{
		Memory: r.Memory, MemorySwap: r.MemorySwap,
		CPUShares: uint64(r.CpuShares), CPUPeriod: uint64(r.CpuPeriod), CPUQuota: r.CpuQuota,
		CpusetCPUs: r.CpusetCpus, CpusetMems: r.CpusetMems,
	}
}

// env is the process's environment: that of the step, a PATH, proxies, and
// secrets last.
func (e *Exec) env(ctx context.Context, job schedule.Job) ([]string, error) {
	env := slices.Clone(e.exec.Meta.Env)
	if !slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, "PATH=") }) {
		env = append(env, "PATH="+defaultPath)
	}
	if p := e.exec.Meta.ProxyEnv; p != nil {
		for name, value := range map[string]string{
			"HTTP_PROXY": p.HttpProxy, "HTTPS_PROXY": p.HttpsProxy, "FTP_PROXY": p.FtpProxy,
			"NO_PROXY": p.NoProxy, "ALL_PROXY": p.AllProxy,
		} {
			if value != "" {
				env = append(env, name+"="+value, strings.ToLower(name)+"="+value)
			}
		}
	}
	for _, s := range e.exec.Secretenv {
		name := s.GetName()
		if name == "" {
			name = s.GetID()
		}
		value, err := e.cfg.Sessions.Secret(ctx, job.Sessions(), s.GetID())
		if err != nil {
			if s.GetOptional() && isAbsent(err) {
				continue
			}
			return nil, err
		}
		env = append(env, name+"="+string(value))
	}
	return env, nil
}

// outcome says what the end of the process means for the step.
func (e *Exec) outcome(err error) error {
	if err == nil && !e.valid(0) {
		err = &sandbox.ExitError{Code: 0}
	}
	if err == nil {
		return nil
	}
	command := strings.Join(e.exec.Meta.Args, " ")
	var exit *sandbox.ExitError
	if errors.As(err, &exit) {
		if e.valid(int32(exit.Code)) {
			return nil
		}
		err = &gatewaypb.ExitError{ExitCode: uint32(exit.Code), Err: err}
	}
	return fmt.Errorf("process %q did not complete successfully: %w", command, err)
}

func (e *Exec) valid(code int32) bool {
	valid := e.exec.Meta.ValidExitCodes
	if len(valid) == 0 {
		return code == 0
	}
	return slices.Contains(valid, code)
}

// commit makes the outputs' layers.
func (e *Exec) commit(ctx context.Context, m *mounting) ([]schedule.Result, error) {
	results := make([]schedule.Result, e.step.Outputs)
	meta := layer.Meta{Created: time.Now(), Description: "mount / from exec " + strings.Join(e.exec.Meta.Args, " ")}
	for _, o := range m.outputs {
		l, err := o.workspace.Commit(ctx, meta)
		if err != nil {
			return nil, fmt.Errorf("keep the changes of mount %s: %w", o.dest, err)
		}
		results[o.index] = l
		e.cfg.Layers.Prepare(l)
	}
	return results, nil
}

func platformKey(p ocispec.Platform) string { return platforms.FormatAll(p) }
