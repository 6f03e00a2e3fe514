package command

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// foreignFlags are the flags of other builders that mean nothing here: those that change
// nothing are accepted, those that would be missed are refused with the reason.
type foreignFlags struct{}

// accepted are ignored: what they ask for is always so, or is a matter of the daemon.
var accepted = map[string]string{
	"rm": "true", "force-rm": "true", "compress": "true", "disable-content-trust": "true",
	"load": "true", "layers": "true", "skip-unused-stages": "true", "save-stages": "true", "stage-labels": "true",
	"identity-label": "true", "created-annotation": "true", "log-rusage": "true", "disable-compression": "true",
	"jobs": "", "retry": "", "retry-delay": "", "layer-label": "", "blob-cache": "", "rusage-logfile": "", "loglevel": "", "logsplit": "true",
}

// refused have a reason each, and for those that can stand alone the word "alone".
var refused = map[string]struct{ reason, alone string }{
	"all-platforms":        {"list the platforms with --platform", "true"},
	"builder":              {"name the daemon with --addr", ""},
	"cap-add":              {"a step can be given all privileges with RUN --security=insecure and --allow security.insecure", ""},
	"cap-drop":             {"steps run with the default capabilities", ""},
	"cdi-config-dir":       {"CDI is configured in the daemon", ""},
	"cert-dir":             {"registries are configured in the daemon", ""},
	"cgroupns":             {"every step has a cgroup namespace of its own", ""},
	"compat-volumes":       {"changes under a VOLUME are kept", "true"},
	"cpp-flag":             {"run cpp first and give its output with --file -", ""},
	"cw":                   {"confidential workloads are not built", ""},
	"decryption-key":       {"encrypted images are not read", ""},
	"device":               {"use RUN --device in the Dockerfile and --allow device=NAME", ""},
	"dns":                  {"name servers are configured in the daemon", ""},
	"dns-option":           {"name servers are configured in the daemon", ""},
	"dns-search":           {"name servers are configured in the daemon", ""},
	"env":                  {"write ENV in the Dockerfile", ""},
	"from":                 {"use --build-context NAME=docker-image://IMAGE with the name in FROM", ""},
	"group-add":            {"steps run with the groups of their user", ""},
	"hooks-dir":            {"steps run without OCI hooks", ""},
	"inherit-annotations":  {"annotations of the base are not taken over", "true"},
	"inherit-labels":       {"labels of the base are kept", "true"},
	"ipc":                  {"every step has an IPC namespace of its own", ""},
	"isolation":            {"it is configured in the daemon", ""},
	"logfile":              {"redirect standard error", ""},
	"manifest":             {"give all platforms to --platform to make an index", ""},
	"mount":                {"use RUN --mount in the Dockerfile", ""},
	"no-hostname":          {"the host name is set for steps, and is not in the image", "true"},
	"no-hosts":             {"/etc/hosts is set for steps, and is not in the image", "true"},
	"omit-history":         {"the history is kept", "true"},
	"os-feature":           {"it cannot be set", ""},
	"os-version":           {"it cannot be set", ""},
	"pid":                  {"every step has a PID namespace of its own", ""},
	"policy":               {"use --source-policy-file", ""},
	"runtime":              {"it is configured in the daemon", ""},
	"runtime-flag":         {"it is configured in the daemon", ""},
	"security-opt":         {"seccomp and LSM profiles are configured in the daemon", ""},
	"sign-by":              {"sign after the build", ""},
	"signature-policy":     {"use --source-policy-file", ""},
	"squash":               {"use a last stage FROM scratch with COPY --from", "true"},
	"squash-all":           {"use a last stage FROM scratch with COPY --from", "true"},
	"stdin":                {"steps have no standard input", "true"},
	"unsetannotation":      {"annotations of the base are not taken over", ""},
	"unsetenv":             {"write ENV NAME= in the Dockerfile", ""},
	"unsetlabel":           {"write LABEL NAME= in the Dockerfile", ""},
	"userns":               {"it is configured in the daemon", ""},
	"userns-gid-map":       {"it is configured in the daemon", ""},
	"userns-gid-map-group": {"it is configured in the daemon", ""},
	"userns-uid-map":       {"it is configured in the daemon", ""},
	"userns-uid-map-user":  {"it is configured in the daemon", ""},
	"uts":                  {"every step has a UTS namespace of its own", ""},
	"volume":               {"use RUN --mount in the Dockerfile, with --build-context for a directory", ""},
}

var foreignShorthands = map[string]string{"disable-compression": "D", "volume": "v"}

func (*foreignFlags) register(flags *pflag.FlagSet) {
	add := func(value pflag.Value, name, alone string) {
		flags.VarP(value, name, foreignShorthands[name], "of another builder")
		flags.Lookup(name).NoOptDefVal = alone
		flags.MarkHidden(name)
	}
	for name, alone := range accepted {
		add(ignored{}, name, alone)
	}
	for name, why := range refused {
		add(refusal(why.reason), name, why.alone)
	}
}

func (*foreignFlags) apply(context.Context, *plan) error { return nil }

// ignored is the value of a flag that is accepted and means nothing.
type ignored struct{}

func (ignored) String() string   { return "" }
func (ignored) Set(string) error { return nil }
func (ignored) Type() string     { return "string" }

// refusal is the value of a flag that is not accepted, for the reason that it holds.
type refusal string

func (refusal) String() string { return "" }
func (refusal) Type() string   { return "string" }

func (r refusal) Set(text string) error {
	if strings.EqualFold(text, "false") {
		return nil // what would not be done is not asked for
	}
	return fmt.Errorf("not supported: %s", string(r))
}
