package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/continuity"
	"github.com/spf13/pflag"

	"github.com/kiln-build/kiln/nerdctlext"
	"github.com/kiln-build/kiln/nerdctlext/build"
	"github.com/kiln-build/kiln/nerdctlext/report"
)

// showFlags say what is shown of a build and written down about it.
type showFlags struct {
	progress        string
	quiet           bool
	iidFile, rawIID string
	metadataFile    string
	callText        string
	check           bool
	explain         bool
	call            call
}

func (s *showFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&s.progress, "progress", "auto", "`how` progress is shown: auto, plain, tty, rawjson or quiet (default $BUILDKIT_PROGRESS)")
	flags.BoolVarP(&s.quiet, "quiet", "q", false, "print nothing but the digest of the image")
	flags.StringVar(&s.iidFile, "iidfile", "", "`file` that receives the digest of the image")
	flags.StringVar(&s.rawIID, "iidfile-raw", "", "`file` that receives the digest of the image, without its algorithm")
	flags.StringVar(&s.metadataFile, "metadata-file", "", "`file` that receives all that is known of the result, as JSON")
	flags.StringVar(&s.callText, "call", "build", "`what` to do in place of a build: check, outline, targets or subrequests.describe[,format=json]")
	flags.BoolVar(&s.explain, "explain", false, "say for each step that ran why it was not taken from the cache")
	flags.BoolVar(&s.check, "check", false, "look for mistakes in the Dockerfile, the same as --call=check")
}

func (s *showFlags) apply(_ context.Context, p *plan) error {
	if s.check {
		if s.callText != "build" {
			return errors.New("check and call exclude each other")
		}
		s.callText = "check"
	}
	if s.explain {
		p.request.Options[report.ExplainOption] = "1"
	}
	var err error
	if s.call, err = parseCall(s.callText); err != nil {
		return err
	}
	if s.call.name != "" {
		p.request.Options["requestid"] = "frontend." + s.call.name
		p.request.Options["frontend.caps"] = "moby.buildkit.frontend.subrequests+forward"
		p.request.Outputs, p.request.CacheExports = nil, nil
	}
	if s.iidFile != "" || s.rawIID != "" {
		for _, output := range p.request.Outputs {
			if holdsImage[output.Type] {
				return nil
			}
		}
		return errors.New("iidfile needs an output that is an image")
	}
	return nil
}

// mode is how progress is drawn.
func (s *showFlags) mode(env nerdctlext.Environment) string {
	switch {
	case s.quiet:
		return "quiet"
	case s.progress == "none":
		return "quiet"
	case s.progress != "auto" && s.progress != "":
		return s.progress
	case s.call.name != "":
		return "quiet"
	}
	if chosen := env.Get("BUILDKIT_PROGRESS"); chosen != "" {
		return chosen
	}
	return "auto"
}

const digestKey = "containerimage.digest"

// writeIDs writes the image's digest to the files that were asked for.
func (s *showFlags) writeIDs(result *build.Result) error {
	id := result.Exported[digestKey]
	_, raw, _ := strings.Cut(id, ":")
	for path, content := range map[string]string{s.iidFile: id, s.rawIID: raw} {
		if path == "" {
			continue
		}
		if id == "" {
			return fmt.Errorf("iidfile %s: the daemon has not said which image was built", path)
		}
		if err := continuity.AtomicWriteFile(path, []byte(content), 0o644); err != nil {
			return fmt.Errorf("iidfile: %w", err)
		}
	}
	return nil
}

// announce tells what was made: in words on standard error, and the digest of an image on
// standard output unless an archive went there.
func (s *showFlags) announce(p *plan, result *build.Result) error {
	id := result.Exported[digestKey]
	say := p.env.Stdout
	for _, output := range p.request.Outputs {
		if output.File == "-" {
			say = p.env.Stderr
		}
		if !s.quiet {
			fmt.Fprintln(p.env.Stderr, sentence(output, result.Exported))
		}
	}
	if id == "" {
		return nil
	}
	_, err := fmt.Fprintln(say, id)
	return err
}

func sentence(output build.Output, exported map[string]string) string {
	names := strings.ReplaceAll(exported["image.name"], ",", ", ")
	if names == "" {
		names = "the image"
	}
	switch {
	case output.File == "-":
		return "wrote " + output.Type + " archive to standard output"
	case output.File != "":
		return "wrote " + output.Type + " archive " + output.File + size(output.File)
	case output.Dir != "":
		return "wrote " + output.Dir
	case output.Attrs["push"] == "true":
		return "pushed " + names
	}
	return "built " + names
}

func size(path string) string {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	return fmt.Sprintf(" (%.1f MB)", float64(info.Size())/1e6)
}
