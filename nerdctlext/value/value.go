// Package value reads the little languages inside the values of flags, those that all
// builders' command lines share: comma-separated fields with RFC 4180 quoting, and lists
// of NAME=VALUE.
package value

import (
	"fmt"
	"strings"

	"github.com/tonistiigi/go-csvvalue"
)

// field is one KEY=VALUE of a comma-separated value. Keys are in lower case.
type field struct{ key, value string }

// fields splits one value; a field without "=" is an error.
func fields(text string) ([]field, error) {
	parts, err := csvvalue.Fields(text, nil)
	if err != nil {
		return nil, err
	}
	out := make([]field, 0, len(parts))
	for _, part := range parts {
		key, value, ok := strings.Cut(part, "=")
		if !ok {
			return nil, fmt.Errorf("invalid value %s: expected KEY=VALUE", part)
		}
		out = append(out, field{strings.ToLower(key), value})
	}
	return out, nil
}

// typed reads fields of which one is type=T.
func typed(text string) (kind string, attrs map[string]string, err error) {
	list, err := fields(text)
	if err != nil {
		return "", nil, err
	}
	attrs = map[string]string{}
	for _, f := range list {
		if f.key == "type" {
			kind = f.value
		} else {
			attrs[f.key] = f.value
		}
	}
	if kind == "" {
		return "", nil, fmt.Errorf("%q lacks type=TYPE", text)
	}
	return kind, attrs, nil
}

// Pairs reads NAME=VALUE flags into a map; the last of a name wins.
func Pairs(list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, text := range list {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("invalid value %q: expected NAME=VALUE", text)
		}
		out[name] = value
	}
	return out, nil
}

// Options reads frontend options. build-arg:NAME without a value takes that of the
// environment, or is left out where that has none.
func Options(list []string, lookup func(string) (string, bool)) (map[string]string, error) {
	out := map[string]string{}
	for _, text := range list {
		name, value, ok := strings.Cut(text, "=")
		if arg, isArg := strings.CutPrefix(name, "build-arg:"); !ok && isArg && arg != "" {
			if value, ok = lookup(arg); !ok {
				continue
			}
		}
		if !ok || name == "" {
			return nil, fmt.Errorf("invalid value %q: expected NAME=VALUE", text)
		}
		out[name] = value
	}
	return out, nil
}
