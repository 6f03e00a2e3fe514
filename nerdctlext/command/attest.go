package command

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// attestFlags ask for statements about the image.
type attestFlags struct {
	attest           []string
	sbom, provenance string
}

func (a *attestFlags) register(flags *pflag.FlagSet) {
	flags.StringArrayVar(&a.attest, "attest", nil, "attestation, `type=TYPE[,…]`: type=sbom[,…] or type=provenance[,…]")
	flags.StringVar(&a.sbom, "sbom", "", "true, false or the `parameters` of --attest type=sbom")
	flags.StringVar(&a.provenance, "provenance", "", "true, false or the `parameters` of --attest type=provenance")
}

// sbomPresets are what podman's flag of the same name takes; they name scanners that run
// on the client.
var sbomPresets = map[string]bool{
	"syft": true, "syft-cyclonedx": true, "syft-spdx": true,
	"trivy": true, "trivy-cyclonedx": true, "trivy-spdx": true,
}

func (a *attestFlags) apply(_ context.Context, p *plan) error {
	if sbomPresets[a.sbom] {
		return fmt.Errorf("sbom: scanning with the preset %q is not supported; use --sbom=true or --sbom=generator=IMAGE", a.sbom)
	}
	list := a.attest
	for _, short := range []struct{ kind, value string }{{"sbom", a.sbom}, {"provenance", a.provenance}} {
		if short.value == "" {
			continue
		}
		if yes, err := strconv.ParseBool(short.value); err == nil {
			short.value = "disabled=" + strconv.FormatBool(!yes)
		}
		list = append(list, "type="+short.kind+","+short.value)
	}
	for _, text := range list {
		head, params, _ := strings.Cut(text, ",")
		kind, ok := strings.CutPrefix(head, "type=")
		if !ok || kind == "" {
			return fmt.Errorf("attest %q: expected type=TYPE first", text)
		}
		key := "attest:" + kind
		if flag, isSwitch := strings.CutPrefix(params, "disabled="); isSwitch {
			first, rest, _ := strings.Cut(flag, ",")
			disabled, err := strconv.ParseBool(first)
			if err != nil {
				return fmt.Errorf("attest %q: disabled: %w", text, err)
			}
			if disabled {
				delete(p.request.Options, key)
				continue
			}
			params = rest
		}
		p.request.Options[key] = params
	}
	return nil
}
