package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// readFile reads a TOML file over what to holds, and returns the keys that mean
// nothing, with their lines. It fails with fs.ErrNotExist if there is no file.
func readFile(name string, to any) (unknown []string, err error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	dec := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	err = dec.Decode(to)
	if missing := (*toml.StrictMissingError)(nil); errors.As(err, &missing) {
		for _, e := range missing.Errors {
			line, _ := e.Position()
			unknown = append(unknown, fmt.Sprintf("%s (line %d)", strings.Join(e.Key(), "."), line))
		}
		return unknown, nil
	}
	if wrong := (*toml.DecodeError)(nil); errors.As(err, &wrong) {
		line, column := wrong.Position()
		return nil, fmt.Errorf("configuration: %s, line %d, column %d: %s: %w", name, line, column, strings.Join(wrong.Key(), "."), err)
	}
	if err != nil {
		return nil, fmt.Errorf("configuration: %s: %w", name, err)
	}
	return nil, nil
}

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
