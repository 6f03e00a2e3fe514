package command

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/spf13/pflag"
)

// platformFlags say for what the image is built and where its steps run.
type platformFlags struct {
	platforms         []string
	os, arch, variant string
	network           string
	hosts             []string
	gateway           string
	pull              string
	always, never     bool
}

func (f *platformFlags) register(flags *pflag.FlagSet) {
	flags.StringSliceVar(&f.platforms, "platform", nil, "`platform` of the image, such as linux/arm64; several make an index (default $DOCKER_DEFAULT_PLATFORM, else the daemon's)")
	flags.StringVar(&f.os, "os", "", "operating `system` of the image, in place of --platform")
	flags.StringVar(&f.arch, "arch", "", "`architecture` of the image, in place of --platform")
	flags.StringVar(&f.variant, "variant", "", "`variant` of --arch")
	flags.StringVar(&f.network, "network", "default", "`network` of the steps: default, none or host")
	flags.StringArrayVar(&f.hosts, "add-host", nil, "further line for /etc/hosts of the steps, `HOST:IP`")
	flags.StringVar(&f.gateway, "host-gateway-ip", "", "`IP` that host-gateway stands for in --add-host")
	flags.StringVar(&f.pull, "pull", "", "`when`: always, missing, newer or never; alone it is always")
	flags.Lookup("pull").NoOptDefVal = "true"
	flags.BoolVar(&f.always, "pull-always", false, "the same as --pull=always")
	flags.BoolVar(&f.never, "pull-never", false, "the same as --pull=never")
	flags.MarkHidden("pull-always")
	flags.MarkHidden("pull-never")
}

func (f *platformFlags) apply(_ context.Context, p *plan) error {
	if err := f.setPlatforms(p); err != nil {
		return err
	}
	if err := f.setNetwork(p); err != nil {
		return err
	}
	return f.setPull(p)
}

func (f *platformFlags) setPlatforms(p *plan) error {
	list := f.platforms
	if f.os != "" || f.arch != "" || f.variant != "" {
		if len(list) > 0 {
			return errors.New("platform excludes os, arch and variant")
		}
		own := platforms.DefaultSpec()
		if f.os != "" {
			own.OS = f.os
		}
		if f.arch != "" {
			own.Architecture, own.Variant = f.arch, ""
		}
		if f.variant != "" {
			own.Variant = f.variant
		}
		list = []string{platforms.Format(own)}
	}
	if preset := p.env.Get("DOCKER_DEFAULT_PLATFORM"); len(list) == 0 && preset != "" {
		list = strings.Split(preset, ",")
	}
	var distinct []string
	for _, platform := range list {
		if _, err := platforms.Parse(platform); err != nil {
			return fmt.Errorf("platform: %w", err)
		}
		if !slices.Contains(distinct, platform) {
			distinct = append(distinct, platform)
		}
	}
	p.setAll("platform", distinct)
	return nil
}

func (f *platformFlags) setNetwork(p *plan) error {
	switch f.network {
	case "", "default", "bridge", "private":
	case "none":
		p.request.Options["force-network-mode"] = "none"
	case "host":
		p.request.Options["force-network-mode"] = "host"
		if !slices.Contains(p.request.Entitlements, "network.host") {
			p.request.Entitlements = append(p.request.Entitlements, "network.host")
		}
	default:
		p.warn("network %q is ignored: a build has default, none or host", f.network)
	}
	var hosts []string
	for _, text := range f.hosts {
		lines, err := f.hostLines(text)
		if err != nil {
			return fmt.Errorf("add-host %q: %w", text, err)
		}
		hosts = append(hosts, lines...)
	}
	p.setAll("add-hosts", hosts)
	return nil
}

// hostLines reads HOST[;HOST]:IP, or with = in place of the colon.
func (f *platformFlags) hostLines(text string) ([]string, error) {
	i := strings.IndexAny(text, "=:")
	if i <= 0 {
		return nil, errors.New("expected HOST:IP")
	}
	ip := text[i+1:]
	if ip == "host-gateway" {
		if ip = f.gateway; ip == "" {
			return nil, errors.New("host-gateway needs --host-gateway-ip=IP")
		}
	}
	ip = strings.TrimSuffix(strings.TrimPrefix(ip, "["), "]")
	if net.ParseIP(ip) == nil {
		return nil, fmt.Errorf("%q is not an IP address", ip)
	}
	var lines []string
	for host := range strings.SplitSeq(text[:i], ";") {
		lines = append(lines, host+"="+ip)
	}
	return lines, nil
}

func (f *platformFlags) setPull(p *plan) error {
	given := 0
	for _, yes := range []bool{f.pull != "", f.always, f.never} {
		if yes {
			given++
		}
	}
	if given > 1 {
		return errors.New("only one of pull, pull-always and pull-never can be given")
	}
	switch {
	case f.always, f.pull == "true", f.pull == "always", f.pull == "newer":
		p.request.Options["image-resolve-mode"] = "pull"
	case f.never, f.pull == "false", f.pull == "never":
		p.request.Options["image-resolve-mode"] = "local"
	case f.pull == "", f.pull == "missing":
	default:
		return fmt.Errorf("pull is always, missing, newer or never (or true or false), not %q", f.pull)
	}
	return nil
}
