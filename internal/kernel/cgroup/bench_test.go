package cgroup

import (
	"runtime"
	"testing"
)

// BenchmarkCreateRemove is what a container pays: the limits of a usual one, Docker's device list included.
func BenchmarkCreateRemove(b *testing.B) {
	h := needRoot(b)
	parent := testParent(b, h)
	r := Resources{Memory: 256 << 20, CPUShares: 512, NanoCPUs: 5e8, PidsLimit: 100}
	for _, part := range []struct {
		name string
		r    Resources
	}{{"default", Resources{}}, {"limited", r}} {
		b.Run(part.name, func(b *testing.B) {
			for b.Loop() {
				g, err := h.Create(parent, "bench", part.r)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := g.Remove(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
	b.Run("remove", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			g, err := h.Create(parent, "bench", r)
			if err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if err := g.Remove(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("join", func(b *testing.B) {
		g, err := h.Create(parent, "bench", r)
		if err != nil {
			b.Fatal(err)
		}
		defer g.Remove()
		j := g.Join(h.Own())
		runtime.LockOSThread() // the thread goes there and comes back
		defer runtime.UnlockOSThread()
		for b.Loop() {
			for _, f := range j.Tasks {
				if err := writeFile(f, "0"); err != nil {
					b.Fatal(err)
				}
			}
			for _, f := range j.Home {
				if err := writeFile(f, "0"); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
