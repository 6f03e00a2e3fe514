package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	units "github.com/docker/go-units"
)

// Duration is written as Go does, 36h or 1m30s, or as a number of seconds.
type Duration struct{ time.Duration }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Duration) UnmarshalText(text []byte) error {
	s := unquote(string(text))
	if seconds, err := strconv.ParseInt(s, 10, 32); err == nil {
		d.Duration = time.Duration(seconds) * time.Second
		return nil
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 36h, 90s or a number of seconds", s)
	}
	d.Duration = v
	return nil
}

// Size is a number of bytes or a part of the disk that the root is on. It is
// written 10%, 512MB (of 2^20 bytes each), or as a number of bytes.
type Size struct {
	Bytes   int64
	Percent int64
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *Size) UnmarshalText(text []byte) error {
	t := unquote(string(text))
	if number, ok := strings.CutSuffix(t, "%"); ok {
		percent, err := strconv.ParseInt(number, 10, 64)
		if err != nil || percent < 0 || percent > 100 {
			return fmt.Errorf("%q is not a percentage from 0%% to 100%%", t)
		}
		*s = Size{Percent: percent}
		return nil
	}
	bytes, err := units.RAMInBytes(t)
	if err != nil {
		return fmt.Errorf("%q is not a size such as 512MB, 10%% or a number of bytes", t)
	}
	*s = Size{Bytes: bytes}
	return nil
}

// unknownDisk is what a percentage of a disk of unknown size is.
const unknownDisk = 2e9

// Of gives the size in bytes on a disk of so many bytes, 0 where it is unknown.
func (s Size) Of(disk int64) int64 {
	switch {
	case s.Percent == 0:
		return s.Bytes
	case disk == 0:
		return unknownDisk
	}
	return disk / 100 * s.Percent
}

// unquote removes the quotes that a value keeps when it comes out of a file.
func unquote(s string) string {
	if len(s) > 1 && s[0] == '"' && s[len(s)-1] == '"' {
		return s[1 : len(s)-1]
	}
	return s
}
