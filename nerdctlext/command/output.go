package command

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/kiln-build/kiln/nerdctlext"
	"github.com/kiln-build/kiln/nerdctlext/build"
	"github.com/kiln-build/kiln/nerdctlext/value"
)

// outputFlags say where the result goes.
type outputFlags struct {
	outputs []string
	push    bool
	format  string

	compression, level string
	force              bool
}

func (o *outputFlags) register(flags *pflag.FlagSet) {
	flags.StringArrayVarP(&o.outputs, "output", "o", nil, "where the result goes instead of containerd: `DIR`, - (a tar), or type=TYPE,dest=PATH,…")
	flags.BoolVar(&o.push, "push", false, "push the image to its registry")
	flags.StringVar(&o.format, "format", "", "media `types` of the image: oci or docker")
	flags.StringVar(&o.compression, "compression-format", "", "`compression` of the layers: gzip, zstd, zstd:chunked, estargz or uncompressed")
	flags.StringVar(&o.level, "compression-level", "", "`level` of the compression")
	flags.BoolVar(&o.force, "force-compression", false, "compress the layers of the base image in this way too")
}

// holdsImage are the types of outputs that are images, with names and annotations.
var holdsImage = map[string]bool{"image": true, "oci": true, "docker": true}

// withoutName is the name of images without one, as nerdctl asks for it.
const withoutName = "<none>"

func (o *outputFlags) apply(_ context.Context, p *plan) error {
	if err := o.setAttrs(p.attrs); err != nil {
		return err
	}
	outputs, err := o.read()
	if err != nil {
		return err
	}
	stored := false
	for _, output := range outputs {
		if !holdsImage[output.Type] {
			continue
		}
		o.complete(output.Attrs, p)
		if output.Type == "image" {
			stored = true
			if err := o.store(output.Attrs); err != nil {
				return err
			}
		}
	}
	if o.push && !stored {
		return errors.New("push needs an image among the outputs: add --output type=image")
	}
	p.request.Outputs = outputs
	return value.CheckOutputs(outputs, func() bool { return nerdctlext.IsTerminal(p.env.Stdout) })
}

// read returns the outputs that are asked for; without any, the image in containerd.
func (o *outputFlags) read() ([]build.Output, error) {
	if len(o.outputs) == 0 {
		return []build.Output{{Type: "image", Attrs: map[string]string{}}}, nil
	}
	var outputs []build.Output
	for _, text := range o.outputs {
		switch {
		case text == "":
			return nil, errors.New("the output is empty: name a directory or write type=TYPE")
		case text == "-":
			text = "type=tar,dest=-"
		case !strings.Contains(text, "type="):
			outputs = append(outputs, build.Output{Type: "local", Attrs: map[string]string{}, Dir: text})
			continue
		}
		output, err := value.Output(text)
		if err != nil {
			return nil, err
		}
		switch output.Type {
		case "cacheonly":
			continue
		case "registry":
			output.Type = "image"
			output.Attrs["push"] = "true"
		}
		outputs = append(outputs, output)
	}
	return outputs, nil
}

// complete adds what the flags say about every image and its output does not.
func (o *outputFlags) complete(attrs map[string]string, p *plan) {
	for key, value := range p.attrs {
		if _, given := attrs[key]; !given {
			attrs[key] = value
		}
	}
	if attrs["name"] == "" && len(p.tags) > 0 {
		attrs["name"] = strings.Join(p.tags, ",")
	}
}

// store completes an output to containerd: it is unpacked so that it can be run, unless
// it is for a registry, or its layers are not those of the snapshots.
func (o *outputFlags) store(attrs map[string]string) error {
	if o.push {
		attrs["push"] = "true"
	}
	pushed, rewritten := isOn(attrs, "push"), isOn(attrs, "rewrite-timestamp")
	if _, given := attrs["unpack"]; !given && !pushed && !rewritten {
		attrs["unpack"] = "true"
	}
	if attrs["name"] != "" {
		return nil
	}
	if pushed {
		return errors.New("pushing needs a name: give one with --tag")
	}
	attrs["dangling-name-prefix"] = withoutName
	return nil
}

// isOn reads a switch as the exporters do: present without a value it is on.
func isOn(attrs map[string]string, key string) bool {
	value, given := attrs[key]
	if on, err := strconv.ParseBool(value); err == nil {
		return on
	}
	return given
}

// setAttrs adds what the flags say about every image.
func (o *outputFlags) setAttrs(attrs map[string]string) error {
	switch o.format {
	case "", "oci":
	case "docker":
		attrs["oci-mediatypes"] = "false"
	default:
		return fmt.Errorf("format is oci or docker, not %q", o.format)
	}
	given := map[string]string{"compression": o.compression, "compression-level": o.level}
	if o.force {
		given["force-compression"] = "true"
	}
	maps.DeleteFunc(given, func(_, value string) bool { return value == "" })
	maps.Copy(attrs, given)
	return nil
}
