package graph

import (
	"fmt"
	"sort"

	"github.com/moby/buildkit/util/apicaps"
	capspb "github.com/moby/buildkit/util/apicaps/pb"
)

// capabilities are what of LLB, and of the requests around it, is implemented.
// Clients decide by this list what they send.
var capabilities = map[apicaps.CapID]bool{
	"source.image":                  true,
	"source.image.resolvemode":      true,
	"source.image.layerlimit":       true,
	"source.image.checksum":         true,
	"source.ocilayout":              true,
	"source.local":                  true,
	"source.local.unique":           true,
	"source.local.sessionid":        true,
	"source.local.includepatterns":  true,
	"source.local.followpaths":      true,
	"source.local.excludepatterns":  true,
	"source.local.sharedkeyhint":    true,
	"source.local.differ":           true,
	"source.local.metadatatransfer": true,
	"source.buildop.llbfilename":    true,
	"source.http":                   true,

	"exec.meta.base":                       true,
	"exec.meta.cdi":                        true,
	"exec.meta.cgroup.parent":              true,
	"exec.meta.linux.resources":            true,
	"exec.meta.network":                    true,
	"exec.meta.network.proxy":              true,
	"exec.meta.proxyenv":                   true,
	"exec.meta.removemountstubs.recursive": true,
	"exec.meta.security":                   true,
	"exec.meta.security.devices.v1":        true,
	"exec.meta.setsdefaultpath":            true,
	"exec.meta.ulimit":                     true,
	"exec.mount.bind":                      true,
	"exec.mount.bind.readwrite-nooutput":   true,
	"exec.mount.cache":                     true,
	"exec.mount.cache.content":             true,
	"exec.mount.cache.sharing":             true,
	"exec.mount.secret":                    true,
	"exec.mount.selector":                  true,
	"exec.mount.ssh":                       true,
	"exec.mount.tmpfs":                     true,
	"exec.mount.tmpfs.size":                true,
	"exec.cgroup":                          true,
	"exec.secretenv":                       true,
	"exec.validexitcode":                   true,

	"file.base": true,
	"file.copy.alwaysreplaceexistingdestpaths": true,
	"file.copy.includeexcludepatterns":         true,
	"file.copy.modestring":                     true,
	"file.copy.requiredpaths":                  true,
	"file.rm.nofollowsymlink":                  true,
	"file.rm.wildcard":                         true,
	"file.symlink.create":                      true,

	"constraints":      true,
	"platform":         true,
	"meta.description": true,
	"meta.exportcache": true,
	"meta.ignorecache": true,
	"passthroughop":    true,

	"exporter.image.annotations": true,
	"exporter.multiple":          true,
	"exporter.sourcedateepoch":   true,
	"gc.freespacefilter":         true,
	"history.filter":             true,
	"source.policy":              true,
	"source.policy.session":      true,
}

// Caps is the list that is told to clients, sorted by id.
func Caps() []*capspb.APICap {
	caps := make([]*capspb.APICap, 0, len(capabilities))
	for id := range capabilities {
		caps = append(caps, &capspb.APICap{ID: string(id), Enabled: true})
	}
	sort.Slice(caps, func(i, j int) bool { return caps[i].ID < caps[j].ID })
	return caps
}

func supports(id string) error {
	if capabilities[apicaps.CapID(id)] {
		return nil
	}
	return fmt.Errorf("it needs the capability %q, which this builder does not have", id)
}
