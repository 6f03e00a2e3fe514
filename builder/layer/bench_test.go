package layer

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"testing"

	"github.com/kiln-build/kiln/builder/event"
)

// BenchmarkStep makes a layer of one file, as a build step does.
func BenchmarkStep(b *testing.B) {
	for _, backend := range backends {
		b.Run(backend, func(b *testing.B) {
			ctx, s := openOn(b, backend)
			base := build(b, ctx, s, nil, func(dir string) { write(b, dir+"/a", "1") })
			base = build(b, ctx, s, base, func(dir string) { write(b, dir+"/b", "1") })
			for b.Loop() {
				build(b, ctx, s, base, func(dir string) { write(b, dir+"/c", "1") })
			}
		})
	}
}

// BenchmarkMount mounts a layer that is mounted already, and one that isn't.
func BenchmarkMount(b *testing.B) {
	for name, linger := range map[string]bool{"warm": true, "cold": false} {
		b.Run(name, func(b *testing.B) {
			ctx, s := open(b)
			l := twoLayers(b, ctx, s)
			for b.Loop() {
				_, release, err := s.Mount(ctx, l)
				if err != nil {
					b.Fatal(err)
				}
				release()
				if !linger {
					s.Settle()
				}
			}
		})
	}
}

// BenchmarkMountDeep mounts a tree of 200 layers.
func BenchmarkMountDeep(b *testing.B) {
	ctx, s := open(b)
	var l *Layer
	for i := range 200 {
		l = build(b, ctx, s, l, func(dir string) { write(b, fmt.Sprint(dir, "/", i), "") })
	}
	for b.Loop() {
		_, release, err := s.Mount(ctx, l)
		if err != nil {
			b.Fatal(err)
		}
		release()
		s.Settle()
	}
}

// BenchmarkBlob makes the blob of a layer of 300 MB.
func BenchmarkBlob(b *testing.B) {
	ctx, s := open(b)
	const size, files = 300 << 20, 300
	l := build(b, ctx, s, nil, func(dir string) {
		for i := range files {
			if err := os.WriteFile(fmt.Sprint(dir, "/", i), mixed(size/files), 0o644); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, typ := range []Type{Gzip, Zstd, EStargz, Uncompressed} {
		b.Run(string(typ), func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				blobs, err := s.Blobs(ctx, l, Compression{Type: typ}, event.Progress{})
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(blobs[0].Desc.Size)/size, "ratio")
				if err := s.store.Content.Delete(s.store.Context(context.Background()), blobs[0].Desc.Digest); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkUnpack unpacks an image of 280 MB in 4 layers.
func BenchmarkUnpack(b *testing.B) {
	for _, backend := range []string{"overlayfs", "host"} {
		b.Run(backend, func(b *testing.B) {
			ctx, s := openOn(b, backend)
			var img Image
			for i := range 4 {
				var files []file
				for j := range 700 {
					files = append(files, file{fmt.Sprint(i, "/", j), string(mixed(100_000))})
				}
				desc, diffID := blob(b, ctx, s.store, files...)
				img.Layers, img.DiffIDs = append(img.Layers, desc), append(img.DiffIDs, diffID)
			}
			b.SetBytes(280_000_000)
			for b.Loop() {
				mine := lease(b, s.store.Context(context.Background()), s.store)
				if _, err := s.Unpack(mine, img, event.Progress{}); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				deleteLease(b, mine, s.store)
				if err := s.store.GC(ctx); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// mixed returns bytes that compress to about half.
func mixed(n int) []byte {
	data := make([]byte, n)
	for i := 0; i < n; i += 64 {
		rand.Read(data[i:min(n, i+32)])
	}
	return data
}
