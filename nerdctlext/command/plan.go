package command

import (
	"context"
	"fmt"
	"strings"

	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/spf13/pflag"

	"github.com/kiln-build/kiln/nerdctlext"
	"github.com/kiln-build/kiln/nerdctlext/build"
)

// plan is what the flags of a build come to: the request, and what is done around it.
type plan struct {
	env     nerdctlext.Environment
	args    []string // what stands beside the flags
	request *build.Request

	tags        []string // normalised
	attrs       map[string]string
	credentials authprovider.AuthConfigProvider
	warnings    []string
}

// group is some of the flags of a build that belong together. Groups are applied in
// order; what one needs of another stands in the plan.
type group interface {
	register(flags *pflag.FlagSet)
	apply(ctx context.Context, p *plan) error
}

func (p *plan) warn(format string, args ...any) {
	p.warnings = append(p.warnings, fmt.Sprintf(format, args...))
}

// set gives an option of the frontend unless the value is empty.
func (p *plan) set(option, value string) {
	if value != "" {
		p.request.Options[option] = value
	}
}

// setAll gives an option that is a list in one comma-separated value.
func (p *plan) setAll(option string, values []string) { p.set(option, strings.Join(values, ",")) }
