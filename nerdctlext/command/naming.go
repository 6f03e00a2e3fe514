package command

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/spf13/pflag"
)

// namingFlags say what the image is called and what is written on it.
type namingFlags struct {
	tags        []string
	labels      []string
	annotations []string
}

func (n *namingFlags) register(flags *pflag.FlagSet) {
	flags.StringArrayVarP(&n.tags, "tag", "t", nil, "name of the image, `NAME[:TAG]`")
	flags.StringArrayVar(&n.labels, "label", nil, "label of the image, `NAME=VALUE`")
	flags.StringArrayVar(&n.annotations, "annotation", nil, "annotation, `[TYPE[,TYPE][PLATFORM]:]NAME=VALUE`; TYPE is manifest, index, manifest-descriptor or index-descriptor")
}

func (n *namingFlags) apply(_ context.Context, p *plan) error {
	for _, tag := range n.tags {
		name, err := normalise(tag)
		if err != nil {
			return fmt.Errorf("tag %q: %w", tag, err)
		}
		if !slices.Contains(p.tags, name) {
			p.tags = append(p.tags, name)
		}
	}
	for _, label := range n.labels {
		name, value, _ := strings.Cut(label, "=")
		if name == "" {
			return fmt.Errorf("label %q: expected NAME=VALUE", label)
		}
		p.request.Options["label:"+name] = value
	}
	for _, text := range n.annotations {
		if err := annotate(p.attrs, text); err != nil {
			return fmt.Errorf("annotation %q: %w", text, err)
		}
	}
	return nil
}

// normalise writes a name in full: app is docker.io/library/app:latest.
func normalise(name string) (string, error) {
	if strings.Contains(name, "://") {
		return "", errors.New("names with a transport are not supported: use --output for archives and directories")
	}
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", err
	}
	if _, digested := named.(reference.Digested); digested {
		return "", errors.New("a name with a digest cannot be given to an image that is yet to be built")
	}
	return reference.TagNameOnly(named).String(), nil
}

// annotationPlace matches what may stand before the name of an annotation.
var annotationPlace = regexp.MustCompile(`^((?:[a-z-]+(?:,[a-z-]+)*)?)(?:\[([A-Za-z0-9_/.-]+)\])?:(.+)$`)

var annotationTypes = []string{"manifest", "index", "manifest-descriptor", "index-descriptor"}

// annotate adds one annotation to the attributes of an exporter.
func annotate(attrs map[string]string, text string) error {
	place, value, _ := strings.Cut(text, "=")
	types, platform, name := []string{"manifest"}, "", place
	if m := annotationPlace.FindStringSubmatch(place); m != nil && isPlace(m[1]) {
		if m[1] != "" {
			types = strings.Split(m[1], ",")
		}
		platform, name = m[2], m[3]
	}
	if name == "" || strings.ContainsAny(name, " \t") {
		return errors.New("expected [TYPE[PLATFORM]:]NAME=VALUE")
	}
	for _, kind := range types {
		key := "annotation"
		if kind != "manifest" {
			key += "-" + kind
		}
		if platform != "" {
			if strings.HasPrefix(kind, "index") {
				return fmt.Errorf("an %s has no platform", kind)
			}
			key += "[" + platform + "]"
		}
		attrs[key+"."+name] = value
	}
	return nil
}

// isPlace tells a list of types from a name that has a colon in it.
func isPlace(types string) bool {
	if types == "" {
		return true
	}
	for kind := range strings.SplitSeq(types, ",") {
		if !slices.Contains(annotationTypes, kind) {
			return false
		}
	}
	return true
}
