package export

import (
	"context"
	"fmt"
	"testing"

	"github.com/kiln-build/kiln/builder/layer"
)

// The export of an image whose layers were exported before, as at the end of a
// build that found everything in the cache.
func BenchmarkImageAgain(b *testing.B) {
	e := newEnv(b)
	var l *layer.Layer
	for i := range 20 {
		l = e.layer(b, l, map[string]string{fmt.Sprint(i): "x"})
	}
	for _, attrs := range []string{"name=x", "name=x,unpack=true", "name=x,compression=zstd"} {
		b.Run(attrs, func(b *testing.B) {
			for range b.N {
				x, err := e.Resolve(e.ctx, Target{Type: "image", Attrs: parse(attrs)})
				if err != nil {
					b.Fatal(err)
				}
				out, err := x.Export(context.Background(), e.job, single(l))
				if err != nil {
					b.Fatal(err)
				}
				out.Release()
			}
		})
	}
}
