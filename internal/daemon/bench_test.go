package daemon

import (
	"os/exec"
	"sort"
	"testing"
	"time"
)

// BenchmarkRun times what `run --rm` asks of the engine, over its socket, with an idle gap between rounds: loops
// without one hide what the kernel does behind.
func BenchmarkRun(b *testing.B) {
	if _, err := exec.LookPath("busybox"); err != nil {
		b.Skip("needs busybox-static")
	}
	e := newEngine(b)
	e.start()
	e.must("POST", "/images/load", busybox(b), nil)
	config := map[string]any{"Image": "busybox", "Cmd": []string{"/bin/busybox", "true"}, "HostConfig": map[string]any{"NetworkMode": "none", "AutoRemove": true}}
	phases := map[string][]time.Duration{}
	for b.Loop() {
		b.StopTimer()
		time.Sleep(20 * time.Millisecond)
		b.StartTimer()
		last := time.Now()
		lap := func(name string) {
			now := time.Now()
			phases[name] = append(phases[name], now.Sub(last))
			last = now
		}
		var made struct{ ID string }
		e.must("POST", "/containers/create", config, &made)
		lap("create")
		ended := make(chan struct{})
		go func() {
			e.call("POST", "/containers/"+made.ID+"/wait?condition=removed", nil, nil)
			close(ended)
		}()
		e.must("POST", "/containers/"+made.ID+"/start", nil, nil)
		lap("start")
		<-ended
		lap("wait")
	}
	for name, all := range phases {
		sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
		b.ReportMetric(float64(all[len(all)/2].Microseconds()), name+"-µs")
	}
}
