package report

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/containerd/platforms"
	controlapi "github.com/moby/buildkit/api/services/control"
	apitypes "github.com/moby/buildkit/api/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Worker is one backend of a daemon.
type Worker struct {
	ID              string             `json:"id"`
	Labels          map[string]string  `json:"labels"`
	Platforms       []ocispec.Platform `json:"platforms"`
	GCPolicy        []Rule             `json:"gcPolicy"`
	BuildkitVersion Version            `json:"buildkitVersion"`
	CDIDevices      []Device           `json:"cdiDevices"`
}

// Rule is one step of a garbage collection. Space is in bytes.
type Rule struct {
	All           bool          `json:"all"`
	Filter        []string      `json:"filter"`
	KeepDuration  time.Duration `json:"keepDuration"`
	ReservedSpace int64         `json:"reservedSpace"`
	MaxUsedSpace  int64         `json:"maxUsedSpace"`
	MinFreeSpace  int64         `json:"minFreeSpace"`
}

// Version is what a daemon says about itself.
type Version struct {
	Package           string `json:"package"`
	Version           string `json:"version"`
	Revision          string `json:"revision"`
	DockerfileVersion string `json:"dockerfileVersion,omitempty"`
}

// Device is one CDI device that a worker can give to a step.
type Device struct {
	Name        string            `json:"name"`
	AutoAllow   bool              `json:"autoAllow"`
	Annotations map[string]string `json:"annotations"`
	OnDemand    bool              `json:"onDemand"`
}

func workerOf(record *apitypes.WorkerRecord) Worker {
	worker := Worker{
		ID: record.GetID(), Labels: record.GetLabels(),
		BuildkitVersion: versionOf(record.GetBuildkitVersion()),
		GCPolicy:        []Rule{},
	}
	for _, p := range record.GetPlatforms() {
		worker.Platforms = append(worker.Platforms, ocispec.Platform{
			OS: p.GetOS(), Architecture: p.GetArchitecture(), Variant: p.GetVariant(),
			OSVersion: p.GetOSVersion(), OSFeatures: p.GetOSFeatures(),
		})
	}
	for _, rule := range record.GetGCPolicy() {
		worker.GCPolicy = append(worker.GCPolicy, Rule{
			All: rule.GetAll(), Filter: rule.GetFilters(), KeepDuration: time.Duration(rule.GetKeepDuration()),
			ReservedSpace: rule.GetReservedSpace(), MaxUsedSpace: rule.GetMaxUsedSpace(), MinFreeSpace: rule.GetMinFreeSpace(),
		})
	}
	for _, device := range record.GetCDIDevices() {
		worker.CDIDevices = append(worker.CDIDevices, Device{
			Name: device.GetName(), AutoAllow: device.GetAutoAllow(),
			Annotations: device.GetAnnotations(), OnDemand: device.GetOnDemand(),
		})
	}
	return worker
}

func versionOf(v *apitypes.BuildkitVersion) Version {
	return Version{v.GetPackage(), v.GetVersion(), v.GetRevision(), v.GetDockerfileVersion()}
}

// Workers prints the workers that match any of the filters. The format is applied once,
// to the whole list.
func Workers(ctx context.Context, control controlapi.ControlClient, filters []string, style Style, out io.Writer) error {
	response, err := control.ListWorkers(ctx, &controlapi.ListWorkersRequest{Filter: filters})
	if err != nil {
		return fmt.Errorf("listing workers: %w", err)
	}
	var workers []Worker
	for _, record := range response.GetRecord() {
		workers = append(workers, workerOf(record))
	}
	if style.Format != nil {
		return line(out, style.Format, workers)
	}
	columns := table(out)
	if !style.Verbose {
		fmt.Fprintln(columns, "ID\tPLATFORMS")
	}
	for _, worker := range workers {
		if style.Verbose {
			worker.details(columns)
		} else {
			fmt.Fprintf(columns, "%s\t%s\n", worker.ID, worker.platforms())
		}
	}
	return columns.Flush()
}

// Info prints what the daemon says about itself.
func Info(ctx context.Context, control controlapi.ControlClient, format *Template, out io.Writer) error {
	response, err := control.Info(ctx, &controlapi.InfoRequest{})
	if err != nil {
		return fmt.Errorf("asking for the daemon's version: %w", err)
	}
	info := struct {
		BuildkitVersion Version `json:"buildkitVersion"`
	}{versionOf(response.GetBuildkitVersion())}
	if format != nil {
		return line(out, format, info)
	}
	columns := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	info.BuildkitVersion.print(columns)
	return columns.Flush()
}

func (v Version) print(out io.Writer) {
	fmt.Fprintf(out, "BuildKit:\t%s %s %s\n", v.Package, v.Version, v.Revision)
	if v.DockerfileVersion != "" {
		fmt.Fprintf(out, "Dockerfile:\t%s\n", v.DockerfileVersion)
	}
}

func (w Worker) platforms() string {
	names := make([]string, len(w.Platforms))
	for i, p := range w.Platforms {
		names[i] = platforms.Format(platforms.Normalize(p))
	}
	return strings.Join(names, ",")
}

func (w Worker) details(out io.Writer) {
	fmt.Fprintf(out, "ID:\t%s\nPlatforms:\t%s\n", w.ID, w.platforms())
	w.BuildkitVersion.print(out)
	pairs(out, "Labels", w.Labels)
	for _, device := range w.CDIDevices {
		fmt.Fprintf(out, "Device:\t%s\n\tAutoAllow:\t%v\n\tOnDemand:\t%v\n", device.Name, device.AutoAllow, device.OnDemand)
		pairs(out, "\tAnnotations", device.Annotations)
	}
	for i, rule := range w.GCPolicy {
		fmt.Fprintf(out, "GC Policy rule#%d:\n\tAll:\t%v\n", i, rule.All)
		if len(rule.Filter) > 0 {
			fmt.Fprintf(out, "\tFilters:\t%s\n", strings.Join(rule.Filter, " "))
		}
		if rule.KeepDuration > 0 {
			fmt.Fprintf(out, "\tKeep duration:\t%s\n", rule.KeepDuration)
		}
		for _, limit := range []struct {
			name  string
			bytes int64
		}{{"Reserved space", rule.ReservedSpace}, {"Minimum free space", rule.MinFreeSpace}, {"Maximum used space", rule.MaxUsedSpace}} {
			if limit.bytes > 0 {
				fmt.Fprintf(out, "\t%s:\t%s\n", limit.name, size(limit.bytes))
			}
		}
	}
	fmt.Fprintln(out)
}

func pairs(out io.Writer, title string, values map[string]string) {
	if len(values) == 0 {
		return
	}
	fmt.Fprintf(out, "%s:\n", title)
	for _, key := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(out, "\t%s:\t%s\n", key, values[key])
	}
}
