package cni

import (
	"testing"

	"github.com/kiln-build/kiln/builder/sandbox"
)

// BenchmarkNetwork takes a network: one that is new, and one that waits. bridge has the
// same.
func BenchmarkNetwork(b *testing.B) {
	for name, exclusive := range map[string]bool{"new": true, "waiting": false} {
		b.Run(name, func(b *testing.B) {
			cfg, _ := newConfig(b)
			p, err := Open(cfg)
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			for b.Loop() {
				ns, err := p.New(b.Context(), sandbox.NetworkRequest{Exclusive: exclusive})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				ns.Close()
				b.StartTimer()
			}
		})
	}
}
