package command

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
)

// limitFlags bound what a step may use.
type limitFlags struct {
	shm, memory, swap     string
	shares, period, quota string
	cpus, mems, parent    string
	ulimits, resources    []string
}

func (l *limitFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&l.shm, "shm-size", "", "`size` of /dev/shm, such as 64m")
	flags.StringSliceVar(&l.ulimits, "ulimit", nil, "limit of a process, `NAME=SOFT[:HARD]`")
	flags.StringVar(&l.parent, "cgroup-parent", "", "`cgroup` that the steps are put under")
	flags.StringVarP(&l.memory, "memory", "m", "", "`size` of the memory, such as 512m")
	flags.StringVar(&l.swap, "memory-swap", "", "`size` of memory and swap together, -1 is without a limit")
	flags.StringVarP(&l.shares, "cpu-shares", "c", "", "`weight` of the CPU time")
	flags.StringVar(&l.period, "cpu-period", "", "period of the CPU quota in `µs`")
	flags.StringVar(&l.quota, "cpu-quota", "", "CPU time in each period in `µs`")
	flags.StringVar(&l.cpus, "cpuset-cpus", "", "`CPUs` to run on, such as 0-2,4")
	flags.StringVar(&l.mems, "cpuset-mems", "", "memory `nodes` to use, such as 0,1")
	flags.StringArrayVar(&l.resources, "resource", nil, "one of the above as `NAME=VALUE`, such as memory=512m")
}

func (l *limitFlags) apply(_ context.Context, p *plan) error {
	given := map[string]string{
		"memory": l.memory, "memory-swap": l.swap, "cpu-shares": l.shares, "cpu-period": l.period,
		"cpu-quota": l.quota, "cpuset-cpus": l.cpus, "cpuset-mems": l.mems,
	}
	for _, text := range l.resources {
		name, value, ok := strings.Cut(text, "=")
		if _, known := given[name]; !ok || !known {
			return fmt.Errorf("resource %q: expected NAME=VALUE, NAME one of memory, memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus and cpuset-mems", text)
		}
		given[name] = value
	}
	for _, rule := range []struct {
		flag, option string
		read         func(string) (string, error)
	}{
		{"memory", "memory", bytesOf},
		{"memory-swap", "memswap", bytesOrUnlimited},
		{"cpu-shares", "cpushares", number},
		{"cpu-period", "cpuperiod", number},
		{"cpu-quota", "cpuquota", number},
		{"cpuset-cpus", "cpusetcpus", verbatim},
		{"cpuset-mems", "cpusetmems", verbatim},
	} {
		if given[rule.flag] == "" {
			continue
		}
		value, err := rule.read(given[rule.flag])
		if err != nil {
			return fmt.Errorf("%s: %w", rule.flag, err)
		}
		p.set(rule.option, value)
	}
	if l.shm != "" {
		size, err := bytesOf(l.shm)
		if err != nil {
			return fmt.Errorf("shm-size: %w", err)
		}
		p.set("shm-size", size)
	}
	for _, text := range l.ulimits {
		if _, err := units.ParseUlimit(text); err != nil {
			return fmt.Errorf("ulimit: %w", err)
		}
	}
	p.setAll("ulimit", l.ulimits)
	p.set("cgroup-parent", l.parent)
	return nil
}

func bytesOf(text string) (string, error) {
	size, err := units.RAMInBytes(text)
	if err == nil && size <= 0 {
		err = fmt.Errorf("%q is not a size", text)
	}
	return strconv.FormatInt(size, 10), err
}

func bytesOrUnlimited(text string) (string, error) {
	if text == "-1" {
		return text, nil
	}
	return bytesOf(text)
}

func number(text string) (string, error) {
	n, err := strconv.ParseUint(text, 10, 63)
	return strconv.FormatUint(n, 10), err
}

func verbatim(text string) (string, error) { return text, nil }
