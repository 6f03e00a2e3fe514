package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/spf13/pflag"
)

// Invocation is what a command line asks for.
type Invocation struct {
	// Program is kilnd or buildkitd.
	Program string
	// Help, where it is not empty, is all that is to be printed; so is the
	// version where Version is set.
	Help    string
	Version bool

	Config Config
	// Warnings are for the log: settings that have no effect.
	Warnings []string
}

// Parse reads the program's name and arguments, the environment and the
// configuration file. A program called buildkitd has buildkitd's settings.
func Parse(args []string, env Environment) (Invocation, error) {
	inv := Invocation{Program: "kilnd"}
	if len(args) > 0 && filepath.Base(args[0]) == "buildkitd" {
		inv.Program = "buildkitd"
	}
	args = args[min(1, len(args)):]
	if inv.Version = wantsVersion(args); inv.Version {
		return inv, nil
	}
	var err error
	if inv.Program == "buildkitd" {
		inv.Config, inv.Warnings, err = parseBuildkitd(args, env)
	} else {
		inv.Config, err = parseKilnd(args, env)
	}
	if errors.Is(err, pflag.ErrHelp) {
		inv.Help = help(inv.Program)
		return inv, nil
	}
	if err != nil {
		return inv, fmt.Errorf("%s: %w", inv.Program, err)
	}
	if err := inv.Config.validate(); err != nil {
		return inv, fmt.Errorf("%s: configuration: %w", inv.Program, err)
	}
	if inv.Config.Root, err = filepath.Abs(inv.Config.Root); err != nil {
		return inv, fmt.Errorf("%s: root: %w", inv.Program, err)
	}
	return inv, nil
}

func wantsVersion(args []string) bool {
	return slices.Contains(args, "--version") || slices.Contains(args, "-v")
}

func help(program string) string {
	flags, _ := configFlag()
	flags.SortFlags = false
	if program == "buildkitd" {
		flags.AddFlagSet(flagSet(buildkitd, given{}))
		return buildkitdHelp + flags.FlagUsages()
	}
	flags.AddFlagSet(flagSet(kilnd, given{}))
	return kilndHelp + flags.FlagUsages()
}
