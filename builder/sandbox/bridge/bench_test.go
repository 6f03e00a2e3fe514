package bridge

import (
	"testing"

	"github.com/kiln-build/kiln/builder/sandbox"
)

// BenchmarkNetwork takes a network: one that is new, and one that waits. cni has the
// same.
func BenchmarkNetwork(b *testing.B) {
	for name, exclusive := range map[string]bool{"new": true, "waiting": false} {
		b.Run(name, func(b *testing.B) {
			p, err := Open(b.Context(), Config{})
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
