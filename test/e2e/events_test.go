//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"gantry/test/engine"
)

// TestEventsDifferential has both engines live through the same and tell of it afterwards.
func TestEventsDifferential(t *testing.T) {
	docker := oracle(t)
	life := []string{
		"create --name evts --network none --label k=v busybox sh -c 'trap exit TERM; echo ready; while :; do sleep 0.05; done'",
		"start evts",
		"exec evts sh -c 'exit 3'",
		"kill -s USR2 evts",
		"restart -t 60 evts",
		"stop -t 60 evts",
		"rm evts",
		"run --rm --name evts --network none busybox true",
		"tag busybox evts:1",
		"rmi evts:1",
	}
	told := map[string][]string{}
	for _, e := range []*engine.Engine{gantry, docker} {
		since, runs := time.Now(), 0
		for _, line := range life {
			if r := must(t, e.StockCLI(words(line)...)); r.Code != 0 && r.Code != 3 {
				t.Fatalf("%s: %v", e.Name, r)
			}
			if strings.HasPrefix(line, "start ") || strings.HasPrefix(line, "restart ") { // before its trap is set, the first process ignores TERM
				runs++
				waitFor(t, func() bool { return strings.Count(must(t, e.StockCLI("logs", "evts")).Out, "ready\n") == runs })
			}
		}
		until := time.Now()
		stamp := func(t time.Time) string { return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond()) }
		for _, filters := range [][]string{
			{"type=container"}, {"type=image"}, {"type=container", "event=die", "event=start"}, {"container=evts", "event=destroy"}, {"label=k=v", "event=create"}, {"label=k=other"},
		} {
			args := []string{"events", "--since", stamp(since), "--until", stamp(until), "--format",
				"{{.Type}} {{.Action}} {{range $k, $v := .Actor.Attributes}}{{if ne $k \"execDuration\"}}{{$k}}={{$v}} {{end}}{{end}}"}
			for _, f := range filters {
				args = append(args, "--filter", f)
			}
			r := must(t, e.StockCLI(args...))
			if r.Code != 0 {
				t.Fatalf("%s: %v", e.Name, r)
			}
			told[strings.Join(filters, " ")] = append(told[strings.Join(filters, " ")], mask(r.Out))
		}
	}
	for filter, both := range told {
		if both[0] != both[1] {
			t.Errorf("events with %s\n  gantry:\n%s\n  docker:\n%s", filter, both[0], both[1])
		}
	}
}
