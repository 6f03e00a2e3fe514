package frontend

import (
	"sort"

	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/util/apicaps"
	capspb "github.com/moby/buildkit/util/apicaps/pb"
)

// capabilities are what of the frontend API is implemented.
var capabilities = []apicaps.CapID{
	gwpb.CapSolveBase,
	gwpb.CapSolveInlineReturn,
	gwpb.CapResolveImage,
	gwpb.CapResolveImageResolveMode,
	gwpb.CapReadFile,
	gwpb.CapReadDir,
	gwpb.CapStatFile,
	gwpb.CapReturnResult,
	gwpb.CapReturnMap,
	gwpb.CapProtoRefArray,
	gwpb.CapReferenceOutput,
	gwpb.CapFrontendInputs,
	gwpb.CapFrontendCaps,
	gwpb.CapGatewaySolveMetadata,
	gwpb.CapGatewayExec,
	gwpb.CapGatewayExecExtraHosts,
	gwpb.CapGatewayExecSecretEnv,
	gwpb.CapGatewayExecSignals,
	gwpb.CapGatewayExecFilesystem,
	gwpb.CapGatewayEvaluateSolve,
	gwpb.CapGatewayEvaluate,
	gwpb.CapGatewayWarnings,
	gwpb.CapSourceMetaResolver,
}

// Caps is the list that is told to frontends, sorted by id.
func Caps() []*capspb.APICap {
	caps := make([]*capspb.APICap, 0, len(capabilities))
	for _, id := range capabilities {
		caps = append(caps, &capspb.APICap{ID: string(id), Enabled: true})
	}
	sort.Slice(caps, func(i, j int) bool { return caps[i].ID < caps[j].ID })
	return caps
}
