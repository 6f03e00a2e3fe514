package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// buildkitd's flags.
var buildkitd = slices.Concat([]setting[bkFile]{
	{flag: "rootless", usage: "be compatible with rootless containers (default: in a user namespace)", set: func(f *bkFile, values []string) error {
		if err := boolean(func(f *bkFile) *bool { return &f.Rootless })(f, values); err != nil {
			return err
		}
		f.Worker.OCI.Rootless, f.Worker.Containerd.Rootless = f.Rootless, f.Rootless
		return nil
	}},
	{flag: "debug", usage: "enable debug output in logs", set: boolean(func(f *bkFile) *bool { return &f.Debug })},
	{flag: "trace", hidden: true, usage: "enable trace output in logs", set: boolean(func(f *bkFile) *bool { return &f.Trace })},
	{flag: "root", usage: "path to the state `DIR`", set: text(func(f *bkFile) *string { return &f.Root })},
	{flag: "addr", usage: "listening `URL`: unix://, tcp:// or fd:// (repeatable)", set: wholeTexts(func(f *bkFile) *[]string { return &f.GRPC.Address })},
	{flag: "log-format", usage: "log `FORMAT`: json or text", set: text(func(f *bkFile) *string { return &f.Log.Format })},
	{flag: "log-level", usage: "log `LEVEL`", env: "BUILDKITD_LOG_LEVEL", set: text(func(f *bkFile) *string { return &f.Log.Level })},
	{flag: "group", usage: "`GROUP` (name or gid) which owns unix sockets", set: text(func(f *bkFile) *string { return &f.GRPC.Group })},
	{flag: "debugaddr", usage: "debugging `ADDRESS` (e.g. 127.0.0.1:6060)", env: "BUILDKITD_DEBUGADDR", set: text(func(f *bkFile) *string { return &f.GRPC.DebugAddress })},
	{flag: "tlscert", usage: "certificate `FILE`", set: text(func(f *bkFile) *string { return &f.GRPC.TLS.Cert })},
	{flag: "tlskey", usage: "key `FILE`", set: text(func(f *bkFile) *string { return &f.GRPC.TLS.Key })},
	{flag: "tlscacert", usage: "CA certificate `FILE` to verify clients", set: text(func(f *bkFile) *string { return &f.GRPC.TLS.CA })},
	{flag: "allow-insecure-entitlement", usage: "allow `NAME`: network.host, security.insecure, device (repeatable)", set: wholeTexts(func(f *bkFile) *[]string { return &f.Entitlements })},
	{flag: "proxy-network", usage: "run all steps behind the capturing proxy", set: boolean(func(f *bkFile) *bool { return &f.ProxyNetwork })},
	{flag: "otel-socket-path", usage: "`PATH` of the OTEL collector's socket", set: text(func(f *bkFile) *string { return &f.OTel.SocketPath })},
	{flag: "cdi-disabled", usage: "no support of the Container Device Interface", set: func(f *bkFile, values []string) error {
		return optional(func(f *bkFile) **bool { return &f.CDI.Disabled })(f, values)
	}},
	{flag: "cdi-spec-dir", usage: "`DIR` with CDI spec files (repeatable)", set: wholeTexts(func(f *bkFile) *[]string { return &f.CDI.SpecDirs })},
	{flag: "save-cache-debug", usage: "save what cache digests were made of", set: boolean(func(f *bkFile) *bool { return &f.SaveCacheDebug })},

	{flag: "oci-worker-proxy-snapshotter-path", usage: "`PATH` of an external snapshotter's socket", set: text(func(f *bkFile) *string { return &f.Worker.OCI.ProxySnapshotterPath })},
	{flag: "oci-worker-binary", usage: "`NAME` of the OCI runtime", set: text(func(f *bkFile) *string { return &f.Worker.OCI.Binary })},
	{flag: "oci-worker-no-process-sandbox", usage: "use the host PID namespace and procfs; only when rootless", set: boolean(func(f *bkFile) *bool { return &f.Worker.OCI.NoProcessSandbox })},
	{flag: "containerd-worker-addr", usage: "`PATH` of containerd's socket", set: text(func(f *bkFile) *string { return &f.Worker.Containerd.Address })},
	{flag: "containerd-worker-namespace", hidden: true, usage: "containerd namespace `NAME`", set: text(func(f *bkFile) *string { return &f.Worker.Containerd.Namespace })},
	{flag: "containerd-worker-runtime", hidden: true, usage: "containerd runtime `NAME`", set: text(func(f *bkFile) *string { return &f.Worker.Containerd.Runtime.Name })},

	// Variables that are not flags of buildkitd.
	{flag: "step-log-max-size", hidden: true, usage: "`BYTES` of output kept of a step", env: "BUILDKIT_STEP_LOG_MAX_SIZE", set: lenient(func(f *bkFile) *int64 { return &f.StepLogSize })},
	{flag: "step-log-max-speed", hidden: true, usage: "`BYTES` of output kept of a step per second", env: "BUILDKIT_STEP_LOG_MAX_SPEED", set: lenient(func(f *bkFile) *int64 { return &f.StepLogSpeed })},
},
	workerFlags("oci", func(f *bkFile) *bkWorker { return &f.Worker.OCI.bkWorker }),
	workerFlags("containerd", func(f *bkFile) *bkWorker { return &f.Worker.Containerd.bkWorker }),
)

// workerFlags are those that both workers have.
func workerFlags(name string, of func(*bkFile) *bkWorker) []setting[bkFile] {
	str := func(field func(*bkWorker) *string) setter[bkFile] {
		return text(func(f *bkFile) *string { return field(of(f)) })
	}
	num := func(field func(*bkWorker) *int) setter[bkFile] {
		return number(func(f *bkFile) *int { return field(of(f)) })
	}
	worker := name + "-worker"
	return []setting[bkFile]{
		{flag: worker, usage: "enable the " + name + " worker: true, false or auto (`BOOL`)", set: optional(func(f *bkFile) **bool { return &of(f).Enabled })},
		{flag: worker + "-labels", usage: "label of the worker, `KEY=VALUE` (repeatable)", set: pairs(func(f *bkFile) *map[string]string { return &of(f).Labels })},
		{flag: worker + "-platform", hidden: name == "containerd", usage: "override the supported `PLATFORM`s (repeatable)", set: wholeTexts(func(f *bkFile) *[]string { return &of(f).Platforms })},
		{flag: worker + "-snapshotter", usage: "`NAME` of the snapshotter", set: str(func(w *bkWorker) *string { return &w.Snapshotter })},
		{flag: worker + "-net", usage: "network `MODE`: auto, host or cni", set: str(func(w *bkWorker) *string { return &w.NetworkMode })},
		{flag: name + "-cni-config-path", usage: "`FILE` of CNI configuration", set: str(func(w *bkWorker) *string { return &w.CNIConfigPath })},
		{flag: name + "-cni-binary-dir", usage: "`DIR` of CNI plugins", set: str(func(w *bkWorker) *string { return &w.CNIBinaryPath })},
		{flag: name + "-cni-pool-size", usage: "`N` network namespaces kept ready", set: num(func(w *bkWorker) *int { return &w.CNIPoolSize })},
		{flag: worker + "-apparmor-profile", usage: "`NAME` of the AppArmor profile of containers", set: str(func(w *bkWorker) *string { return &w.AppArmor })},
		{flag: worker + "-selinux", usage: "apply SELinux labels", set: boolean(func(f *bkFile) *bool { return &of(f).SELinux })},
		{flag: name + "-max-parallelism", usage: "most steps (`N`) that run at once", set: num(func(w *bkWorker) *int { return &w.MaxParallelism })},
		{flag: worker + "-rootless", usage: "rootless mode", set: boolean(func(f *bkFile) *bool { return &of(f).Rootless })},
		{flag: worker + "-gc", usage: "automatic garbage collection (default true)", set: optional(func(f *bkFile) **bool { return &of(f).GC })},
		{flag: worker + "-gc-keepstorage", usage: "storage kept, `RESERVED[,FREE[,MAX]]` in MB", set: func(f *bkFile, values []string) error { return of(f).keep(last(values)) }},
	}
}

// keep parses RESERVED[,FREE[,MAX]] in megabytes.
func (w *bkWorker) keep(s string) error {
	fields := []*Size{&w.ReservedSpace, &w.MinFreeSpace, &w.MaxUsedSpace}
	parts := strings.Split(s, ",")
	if len(parts) > len(fields) {
		return fmt.Errorf("%q has more than RESERVED,FREE,MAX", s)
	}
	for i, field := range fields {
		*field = Size{}
		if i >= len(parts) || parts[i] == "" {
			continue
		}
		mb, err := strconv.ParseInt(strings.TrimSpace(parts[i]), 10, 64)
		if err != nil || mb < 0 || mb > 1<<40 {
			return fmt.Errorf("%q is not a number of megabytes", parts[i])
		}
		field.Bytes = mb * 1e6
	}
	return nil
}

// lenient takes a number and ignores anything else.
func lenient(field func(*bkFile) *int64) setter[bkFile] {
	return func(f *bkFile, values []string) error {
		if n, err := strconv.ParseInt(last(values), 10, 32); err == nil {
			*field(f) = n
		}
		return nil
	}
}
