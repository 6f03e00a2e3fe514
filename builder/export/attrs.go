package export

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/kiln-build/kiln/builder/export/assemble"
	"github.com/kiln-build/kiln/builder/layer"
)

// attrs takes a target's attributes one by one. The first bad value is kept as
// err; what is left at the end is for nobody here.
type attrs struct {
	left map[string]string
	err  error
}

func newAttrs(from map[string]string) *attrs {
	a := &attrs{left: make(map[string]string, len(from))}
	for k, v := range from {
		a.left[k] = v
	}
	return a
}

func (a *attrs) fail(format string, args ...any) {
	if a.err == nil {
		a.err = fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
}

// take removes the attribute and returns its value.
func (a *attrs) take(key string) (value string, ok bool) {
	value, ok = a.left[key]
	delete(a.left, key)
	return value, ok
}

func (a *attrs) text(key string) string {
	v, _ := a.take(key)
	return v
}

// flag is a boolean; the empty value is no boolean. It is nil if absent.
func (a *attrs) flag(key string) *bool {
	v, ok := a.take(key)
	if !ok {
		return nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		a.fail("non-bool value specified for %s: %w", key, err)
		return nil
	}
	return &b
}

// option is a boolean that is false if absent; the empty value is no boolean.
func (a *attrs) option(key string) bool {
	b := a.flag(key)
	return b != nil && *b
}

// mention is a boolean that is true if it has no value.
func (a *attrs) mention(key string, absent bool) bool {
	v, ok := a.left[key]
	if ok && v == "" {
		delete(a.left, key)
		return true
	}
	if b := a.flag(key); b != nil {
		return *b
	}
	return absent
}

// compressions are the values of the attribute, with the range of levels.
var compressions = map[string]struct {
	layer.Type
	maxLevel int
}{
	"gzip":         {layer.Gzip, 9},
	"estargz":      {layer.EStargz, 9},
	"zstd":         {layer.Zstd, 22},
	"uncompressed": {layer.Uncompressed, math.MaxInt},
}

func (a *attrs) compression() layer.Compression {
	name, ok := a.take("compression")
	if !ok {
		name = "gzip"
	}
	known, ok := compressions[name]
	if !ok {
		a.fail("unsupported compression type %s (there are uncompressed, gzip, estargz and zstd)", name)
	}
	c := layer.Compression{Type: known.Type, Force: a.mention("force-compression", false)}
	if v, ok := a.take("compression-level"); ok {
		level, err := strconv.Atoi(v)
		switch {
		case err != nil:
			a.fail("non-integer value %s specified for compression-level: %w", v, err)
		case level < 0 || level > known.maxLevel:
			a.fail("compression-level=%d: %s has the levels 0 to %d", level, name, known.maxLevel)
		}
		c.Level = &level
	}
	return c
}

func (a *attrs) annotations() assemble.Annotations {
	found, err := assemble.ParseAnnotations(a.left)
	if err != nil && a.err == nil {
		a.err = err
	}
	for k := range a.left {
		if assemble.IsAnnotation(k) {
			delete(a.left, k)
		}
	}
	return found
}

// epochAttr is what bounds the times in what is exported.
type epochAttr struct {
	set bool       // by the target, which overrides the frontend
	at  *time.Time // nil: unbounded
}

func (a *attrs) epoch() epochAttr {
	v, ok := a.take("source-date-epoch")
	if !ok {
		return epochAttr{}
	}
	at, err := parseEpoch(v)
	if err != nil {
		a.fail("invalid source-date-epoch: %w", err)
	}
	return epochAttr{set: true, at: at}
}

// of is the epoch for a platform of a result; the frontend may have chosen one
// for all platforms or one for each.
func (e epochAttr) of(p assemble.Platform, metadata map[string][]byte) (*time.Time, error) {
	if e.set {
		return e.at, nil
	}
	for _, key := range []string{assemble.KeyEpoch, assemble.KeyEpoch + "/" + p.ID} {
		at, err := parseEpoch(string(metadata[key]))
		if err != nil {
			return nil, fmt.Errorf("invalid SOURCE_DATE_EPOCH from frontend: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if at != nil {
			return at, nil
		}
	}
	return nil, nil
}

// parseEpoch reads seconds since 1970; the empty string is no time.
func parseEpoch(seconds string) (*time.Time, error) {
	if seconds == "" {
		return nil, nil
	}
	s, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return nil, err
	}
	if max := int64(math.MaxInt64 / time.Second); s > max || s < -max {
		return nil, fmt.Errorf("%d is too far from 1970", s)
	}
	t := time.Unix(s, 0).UTC()
	return &t, nil
}

// splitNames splits a list of image names.
func splitNames(list string) ([]string, error) {
	if list == "" {
		return nil, nil
	}
	names := strings.Split(list, ",")
	for _, n := range names {
		if n == "" {
			return nil, fmt.Errorf("empty image name in %q: %w", list, errdefs.ErrInvalidArgument)
		}
	}
	return names, nil
}
