package command

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/kiln-build/kiln/nerdctlext/value"
)

// cacheFlags say which results may be used again, and where they are kept.
type cacheFlags struct {
	none     bool
	noneFor  []string
	from, to []string
	ttl      string
}

func (c *cacheFlags) register(flags *pflag.FlagSet) {
	flags.BoolVar(&c.none, "no-cache", false, "run all steps again")
	flags.StringArrayVar(&c.noneFor, "no-cache-filter", nil, "run the steps of this `stage` again")
	flags.StringArrayVar(&c.from, "cache-from", nil, "where cache is imported from, an `image` or type=TYPE,…")
	flags.StringArrayVar(&c.to, "cache-to", nil, "where the cache is exported to, an `image` or type=TYPE,…")
	flags.StringVar(&c.ttl, "cache-ttl", "", "`duration`: 0 is --no-cache; other durations are left to the daemon's policy")
}

func (c *cacheFlags) apply(_ context.Context, p *plan) error {
	if c.ttl != "" {
		age, err := time.ParseDuration(c.ttl)
		if err != nil && c.ttl != "0" {
			return fmt.Errorf("cache-ttl: %w", err)
		}
		if age == 0 {
			c.none = true
		} else {
			p.warn("cache-ttl is left to the daemon's policy")
		}
	}
	if c.none && len(c.noneFor) > 0 {
		return errors.New("no-cache and no-cache-filter exclude each other")
	}
	if c.none {
		p.request.Options["no-cache"] = ""
	}
	p.setAll("no-cache", c.noneFor)
	imports, err := value.CacheImports(images(c.from), p.env.Lookup)
	if err != nil {
		return err
	}
	p.request.CacheImports = append(p.request.CacheImports, imports...)
	exports, err := value.CacheExports(images(c.to), p.env.Lookup)
	if err != nil {
		return err
	}
	p.request.CacheExports = append(p.request.CacheExports, exports...)
	return nil
}

// images makes one value of each image in a list of names without "=".
func images(list []string) []string {
	var out []string
	for _, text := range list {
		if strings.Contains(text, "=") {
			out = append(out, text)
			continue
		}
		out = append(out, strings.Split(text, ",")...)
	}
	return out
}
