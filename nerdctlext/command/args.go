package command

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/kiln-build/kiln/nerdctlext/build"
)

// argFlags give values to the Dockerfile.
type argFlags struct {
	args      []string
	argFiles  []string
	epoch     string
	timestamp string
	rewrite   bool
	proxy     bool
}

func (a *argFlags) register(flags *pflag.FlagSet) {
	flags.StringArrayVar(&a.args, "build-arg", nil, "value of an ARG, `NAME=VALUE`; NAME alone takes that of the environment")
	flags.StringArrayVar(&a.argFiles, "build-arg-file", nil, "`file` with lines NAME=VALUE, read before --build-arg")
	flags.StringVar(&a.epoch, "source-date-epoch", "", "time of the image and its history, in `seconds` since 1970 (default $SOURCE_DATE_EPOCH)")
	flags.StringVar(&a.timestamp, "timestamp", "", "like --source-date-epoch, in `seconds`, for the files in the layers too")
	flags.BoolVar(&a.rewrite, "rewrite-timestamp", false, "let no file in a layer be younger than --source-date-epoch")
	flags.BoolVar(&a.proxy, "http-proxy", false, "pass the environment's proxy settings to the build")
}

// proxyVariables are known to every Dockerfile without an ARG.
var proxyVariables = []string{"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"}

func (a *argFlags) apply(_ context.Context, p *plan) error {
	if a.proxy {
		for _, name := range proxyVariables {
			for _, variable := range []string{name, strings.ToLower(name)} {
				p.set("build-arg:"+variable, p.env.Get(variable))
			}
		}
	}
	for _, path := range a.argFiles {
		if err := a.fromFile(p, path); err != nil {
			return fmt.Errorf("build-arg-file: %w", err)
		}
	}
	for _, text := range a.args {
		if err := setArg(p, text); err != nil {
			return fmt.Errorf("build-arg %q: %w", text, err)
		}
	}
	if inline, err := strconv.ParseBool(p.request.Options["build-arg:BUILDKIT_INLINE_CACHE"]); err == nil && inline {
		p.request.CacheExports = append(p.request.CacheExports, build.Cache{Type: "inline", Attrs: map[string]string{"mode": "min"}})
	}
	return a.times(p)
}

func (a *argFlags) fromFile(p *plan, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := setArg(p, line); err != nil {
			return fmt.Errorf("%s:%d: %w", path, number, err)
		}
	}
	return lines.Err()
}

// setArg sets one argument. A name alone takes its value from the environment; where
// that has none, the name is unset.
func setArg(p *plan, text string) error {
	name, value, given := strings.Cut(text, "=")
	if name == "" {
		return fmt.Errorf("expected NAME=VALUE or NAME")
	}
	if !given {
		if value, given = p.env.Lookup(name); !given {
			delete(p.request.Options, "build-arg:"+name)
			return nil
		}
	}
	p.request.Options["build-arg:"+name] = value
	return nil
}

// times pins the times that are written into the image.
func (a *argFlags) times(p *plan) error {
	const key = "build-arg:SOURCE_DATE_EPOCH"
	if a.epoch != "" && a.timestamp != "" {
		return fmt.Errorf("source-date-epoch and timestamp exclude each other")
	}
	for flag, text := range map[string]string{"source-date-epoch": a.epoch, "timestamp": a.timestamp} {
		if text == "" {
			continue
		}
		if _, err := strconv.ParseInt(text, 10, 64); err != nil {
			return fmt.Errorf("%s: %w", flag, err)
		}
		p.request.Options[key] = text
	}
	if at, found := p.env.Lookup("SOURCE_DATE_EPOCH"); found {
		if _, given := p.request.Options[key]; !given {
			p.request.Options[key] = at
		}
	}
	if a.rewrite || a.timestamp != "" {
		p.attrs["rewrite-timestamp"] = "true"
	}
	return nil
}
