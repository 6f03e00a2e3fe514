package value

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/kiln-build/kiln/nerdctlext/build"
)

// CacheExports reads --export-cache (or --cache-to) values.
func CacheExports(list []string, lookup func(string) (string, bool)) ([]build.Cache, error) {
	caches, err := caches(list, lookup)
	if err != nil {
		return nil, fmt.Errorf("cache export: %w", err)
	}
	for _, cache := range caches {
		if _, given := cache.Attrs["mode"]; !given {
			cache.Attrs["mode"] = "min"
		}
	}
	return caches, nil
}

// CacheImports reads --import-cache (or --cache-from) values.
func CacheImports(list []string, lookup func(string) (string, bool)) ([]build.Cache, error) {
	caches, err := caches(list, lookup)
	if err != nil {
		return nil, fmt.Errorf("cache import: %w", err)
	}
	return caches, nil
}

func caches(list []string, lookup func(string) (string, bool)) ([]build.Cache, error) {
	var out []build.Cache
	for _, text := range list {
		if !strings.Contains(text, "type=") { // the old form: the name of an image
			out = append(out, build.Cache{Type: "registry", Attrs: map[string]string{"ref": text}})
			continue
		}
		kind, attrs, err := typed(text)
		if err != nil {
			return nil, err
		}
		if kind == "gha" {
			if err := fillGitHub(attrs, lookup); err != nil {
				return nil, err
			}
		}
		out = append(out, build.Cache{Type: kind, Attrs: attrs})
	}
	return out, nil
}

// fillGitHub completes the access to the GitHub Actions cache from what a runner sets.
func fillGitHub(attrs map[string]string, lookup func(string) (string, bool)) error {
	set := func(key, variable string) {
		if _, given := attrs[key]; given {
			return
		}
		if value, ok := lookup(variable); ok {
			attrs[key] = value
		}
	}
	version, given := attrs["version"]
	if flag, ok := lookup("ACTIONS_CACHE_SERVICE_V2"); ok && !given {
		if v2, err := strconv.ParseBool(flag); err == nil && v2 {
			version, attrs["version"] = "2", "2"
		}
	}
	if version == "2" {
		set("url_v2", "ACTIONS_RESULTS_URL")
	}
	set("url", "ACTIONS_CACHE_URL")
	set("url", "ACTIONS_RESULTS_URL")
	set("token", "ACTIONS_RUNTIME_TOKEN")
	if attrs["url"] == "" && attrs["url_v2"] == "" {
		return errors.New("type=gha needs url=URL or the variable ACTIONS_CACHE_URL")
	}
	if attrs["token"] == "" {
		return errors.New("type=gha needs token=TOKEN or the variable ACTIONS_RUNTIME_TOKEN")
	}
	return nil
}
