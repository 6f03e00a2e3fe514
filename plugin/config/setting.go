package config

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// setting is one flag and what it sets in a T.
type setting[T any] struct {
	flag string
	// usage explains the flag; the word in backquotes is its value. A flag
	// without one is a switch.
	usage string
	// env is the variable that counts where the flag is not given, "" for none.
	env    string
	hidden bool
	set    setter[T]
}

// setter takes the values that were given, at least one. Where one is meant the
// last counts.
type setter[T any] func(to *T, values []string) error

// given are the values of flags, by name.
type given map[string][]string

// parseFlags reads flags. It fails with pflag.ErrHelp where help is asked for.
func parseFlags[T any](settings []setting[T], extra *pflag.FlagSet, args []string) (given, error) {
	values := given{}
	flags := flagSet(settings, values)
	flags.AddFlagSet(extra)
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q; all settings are flags, see --help", flags.Arg(0))
	}
	return values, nil
}

// flagSet records what is set in values.
func flagSet[T any](settings []setting[T], values given) *pflag.FlagSet {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.Usage = func() {}
	for _, s := range settings {
		r := recorder{values: values, flag: s.flag}
		if !strings.Contains(s.usage, "`") {
			r.kind = "bool"
		}
		f := flags.VarPF(r, s.flag, "", s.usage)
		f.Hidden = s.hidden
		if r.kind == "bool" {
			f.NoOptDefVal = "true"
		}
	}
	return flags
}

// recorder is a pflag.Value that takes everything.
type recorder struct {
	values given
	flag   string
	kind   string // for the help: bool, or whatever the usage says
}

func (r recorder) String() string { return "" }

func (r recorder) Type() string { return r.kind }

func (r recorder) Set(s string) error {
	r.values[r.flag] = append(r.values[r.flag], s)
	return nil
}

// apply sets what flags and the environment say.
func apply[T any](to *T, settings []setting[T], flags given, env Environment) error {
	for _, s := range settings {
		values, from := flags[s.flag], "--"+s.flag
		if values == nil && s.env != "" {
			if v, ok := env.Lookup(s.env); ok && v != "" {
				values, from = []string{v}, s.env
			}
		}
		if values == nil {
			continue
		}
		if err := s.set(to, values); err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
	}
	return nil
}

func text[T any](field func(*T) *string) setter[T] {
	return func(to *T, values []string) error {
		*field(to) = last(values)
		return nil
	}
}

// texts takes lists that are separated by commas.
func texts[T any](field func(*T) *[]string) setter[T] {
	return func(to *T, values []string) error {
		*field(to) = nil
		for _, v := range values {
			*field(to) = append(*field(to), strings.Split(v, ",")...)
		}
		return nil
	}
}

// wholeTexts takes each value as it is, commas and all.
func wholeTexts[T any](field func(*T) *[]string) setter[T] {
	return func(to *T, values []string) error {
		*field(to) = values
		return nil
	}
}

func boolean[T any](field func(*T) *bool) setter[T] {
	return func(to *T, values []string) error {
		v, err := strconv.ParseBool(last(values))
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", last(values))
		}
		*field(to) = v
		return nil
	}
}

// optional is a boolean that can be left to be found out: auto, or nil.
func optional[T any](field func(*T) **bool) setter[T] {
	return func(to *T, values []string) error {
		if last(values) == "auto" || last(values) == "" {
			*field(to) = nil
			return nil
		}
		v, err := strconv.ParseBool(last(values))
		if err != nil {
			return fmt.Errorf("%q is none of true, false and auto", last(values))
		}
		*field(to) = &v
		return nil
	}
}

func number[T any](field func(*T) *int) setter[T] {
	return func(to *T, values []string) error {
		v, err := strconv.Atoi(last(values))
		if err != nil {
			return fmt.Errorf("%q is not a number", last(values))
		}
		*field(to) = v
		return nil
	}
}

func number64[T any](field func(*T) *int64) setter[T] {
	return func(to *T, values []string) error {
		v, err := strconv.ParseInt(last(values), 10, 64)
		if err != nil {
			return fmt.Errorf("%q is not a number", last(values))
		}
		*field(to) = v
		return nil
	}
}

func duration[T any](field func(*T) *Duration) setter[T] {
	return func(to *T, values []string) error { return field(to).UnmarshalText([]byte(last(values))) }
}

func size[T any](field func(*T) *Size) setter[T] {
	return func(to *T, values []string) error { return field(to).UnmarshalText([]byte(last(values))) }
}

// pairs adds KEY=VALUE to a map, commas and all.
func pairs[T any](field func(*T) *map[string]string) setter[T] {
	return func(to *T, values []string) error {
		all := maps.Clone(*field(to))
		if all == nil {
			all = map[string]string{}
		}
		for _, pair := range values {
			k, v, ok := strings.Cut(pair, "=")
			if !ok || k == "" {
				return fmt.Errorf("%q is not of the form KEY=VALUE", pair)
			}
			all[k] = v
		}
		*field(to) = all
		return nil
	}
}

// listedPairs takes lists of KEY=VALUE that are separated by commas.
func listedPairs[T any](field func(*T) *map[string]string) setter[T] {
	return func(to *T, values []string) error {
		return pairs(field)(to, strings.Split(strings.Join(values, ","), ","))
	}
}

func last(values []string) string { return values[len(values)-1] }
