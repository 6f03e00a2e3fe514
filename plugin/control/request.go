package control

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder"
	"github.com/kiln-build/kiln/builder/export"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/util/entitlements"
)

// order is what a request asks for, in the builder's words.
type order struct {
	request  builder.Request
	record   *controlapi.BuildHistoryRecord
	warnings []warning
}

// translate checks a request. Nothing of it is believed to be set.
func (s *Server) translate(req *controlapi.SolveRequest) (*order, error) {
	if req.Ref == "" {
		return nil, fmt.Errorf("the request to build has no ref: %w", errdefs.ErrInvalidArgument)
	}
	modernize(req)
	if err := checkCompatibility(req.CompatibilityVersion); err != nil {
		return nil, err
	}
	if err := checkCacheExports(req.Cache.Exports); err != nil {
		return nil, err
	}
	if err := s.checkEntitlements(req.Entitlements); err != nil {
		return nil, err
	}
	o := &order{record: newRecord(req), request: builder.Request{
		Ref:          req.Ref,
		Session:      req.Session,
		Definition:   req.Definition,
		Frontend:     req.Frontend,
		Attrs:        req.FrontendAttrs,
		Inputs:       req.FrontendInputs,
		Exporters:    targets(req),
		Entitlements: req.Entitlements,

		SourcePolicy:        req.SourcePolicy,
		SourcePolicySession: req.SourcePolicySession,
		ProxyNetwork:        req.ProxyNetwork,
	}}
	if req.EnableSessionExporter {
		all := target(req, len(req.Exporters), &controlapi.Exporter{})
		o.request.SessionTarget = &all
	}
	o.warnings = importWarnings(req.Cache.Imports)
	attestations, err := checkAttestations(req.FrontendAttrs)
	o.warnings = append(o.warnings, attestations...)
	return o, err
}

// modernize replaces the deprecated fields, which old clients set alone and
// new ones together with those that took their place.
func modernize(req *controlapi.SolveRequest) {
	if req.Cache == nil {
		req.Cache = &controlapi.CacheOptions{}
	}
	c := req.Cache
	if c.ExportRefDeprecated != "" {
		attrs := maps.Clone(c.ExportAttrsDeprecated)
		if attrs == nil {
			attrs = map[string]string{}
		}
		attrs["ref"] = c.ExportRefDeprecated
		c.Exports = append(c.Exports, &controlapi.CacheOptionsEntry{Type: "registry", Attrs: attrs})
	}
	for _, ref := range c.ImportRefsDeprecated {
		c.Imports = append(c.Imports, &controlapi.CacheOptionsEntry{Type: "registry", Attrs: map[string]string{"ref": ref}})
	}
	if len(req.Exporters) == 0 && req.ExporterDeprecated != "" {
		req.Exporters = []*controlapi.Exporter{{Type: req.ExporterDeprecated, Attrs: req.ExporterAttrsDeprecated}}
	}
	c.Exports = slices.DeleteFunc(c.Exports, func(e *controlapi.CacheOptionsEntry) bool { return e == nil })
	c.Imports = slices.DeleteFunc(c.Imports, func(e *controlapi.CacheOptionsEntry) bool { return e == nil })
	for i, e := range req.Exporters {
		if e == nil {
			req.Exporters[i] = &controlapi.Exporter{}
		}
	}
}

// The levels of behaviour that a client may ask for; 0 is the newest.
var compatibilityVersions = []int64{0, 10, 20, 30}

func checkCompatibility(v int64) error {
	if slices.Contains(compatibilityVersions, v) {
		return nil
	}
	if v > slices.Max(compatibilityVersions) {
		return fmt.Errorf("unsupported compatibility-version %d: upgrade buildkit (max supported: %d)", v, slices.Max(compatibilityVersions))
	}
	return fmt.Errorf("unsupported compatibility-version %d (supported: %d)", v, compatibilityVersions[1:])
}

// checkEntitlements checks that all that is asked for is allowed.
func (s *Server) checkEntitlements(asked []string) error {
	_, err := entitlements.WhiteList(convert[entitlements.Entitlement](asked), convert[entitlements.Entitlement](s.cfg.Entitlements))
	if err != nil {
		return fmt.Errorf("%w: start the daemon with --entitlement, or name it in its configuration", err)
	}
	return nil
}

func convert[To, From ~string](in []From) []To {
	out := make([]To, len(in))
	for i, v := range in {
		out[i] = To(v)
	}
	return out
}

// targets are the exporters of the request.
func targets(req *controlapi.SolveRequest) []export.Target {
	var out []export.Target
	for i, e := range req.Exporters {
		out = append(out, target(req, i, e))
	}
	return out
}

// target is an exporter with the attributes that the build gives to all.
func target(req *controlapi.SolveRequest, id int, e *controlapi.Exporter) export.Target {
	attrs := maps.Clone(e.Attrs)
	if attrs == nil {
		attrs = map[string]string{}
	}
	epoch := req.FrontendAttrs["build-arg:SOURCE_DATE_EPOCH"]
	_, notNumber := strconv.ParseInt(epoch, 10, 64)
	if _, set := attrs["source-date-epoch"]; !set && notNumber == nil {
		attrs["source-date-epoch"] = epoch
	}
	return export.Target{
		ID: id, Type: e.Type, Attrs: attrs, Session: req.Session, Compatibility: int(req.CompatibilityVersion),
	}
}

// cacheTypes are those of remote caches that BuildKit has.
var cacheTypes = []string{"registry", "local", "inline", "gha", "s3", "azblob"}

// checkCacheExports fails if there are any: none can be made yet.
func checkCacheExports(exports []*controlapi.CacheOptionsEntry) error {
	if len(exports) == 0 {
		return nil
	}
	kind := exports[0].GetType()
	if !slices.Contains(cacheTypes, kind) {
		return fmt.Errorf("unknown cache exporter: %q", kind)
	}
	return fmt.Errorf("failed to configure %s cache exporter: exporting cache is not supported by this builder: %w", kind, errdefs.ErrNotImplemented)
}

// importWarnings: an import that fails does not fail a build.
func importWarnings(imports []*controlapi.CacheOptionsEntry) []warning {
	var out []warning
	for _, e := range imports {
		from := e.Attrs["ref"]
		if from == "" {
			from = e.Type
		}
		out = append(out, warning{
			step: "importing cache manifest from " + from,
			text: "importing cache is not supported by this builder; cache of type " + e.Type + " is not used",
		})
	}
	return out
}

// checkAttestations fails where something is asked for that would be missed.
// Provenance is asked for by clients on their own, so it is a warning only.
func checkAttestations(attrs map[string]string) ([]warning, error) {
	var out []warning
	for key := range attrs {
		kind, ok := strings.CutPrefix(key, "attest:")
		if !ok {
			kind, ok = strings.CutPrefix(key, "build-arg:BUILDKIT_ATTEST_")
		}
		if !ok {
			continue
		}
		switch strings.ToLower(kind) {
		case "provenance":
			out = append(out, warning{step: "attesting provenance", text: "provenance attestations are not supported by this builder; the result has none"})
		case "sbom":
			return nil, fmt.Errorf("SBOM attestations are not supported by this builder: %w", errdefs.ErrNotImplemented)
		default:
			return nil, fmt.Errorf("unknown attestation type %q", strings.ToLower(kind))
		}
	}
	return out, nil
}
