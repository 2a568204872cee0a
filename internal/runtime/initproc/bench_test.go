package initproc_test

import (
	"testing"

	"gantry/internal/runtime/spec"
)

// BenchmarkStart measures from the fork until execve(2) has succeeded, in the default set-up without network.
func BenchmarkStart(b *testing.B) {
	program(b)
	for b.Loop() {
		b.StopTimer()
		c := newContainer(b, "true")
		b.StartTimer()
		c.start()
		b.StopTimer()
		if c.failure != nil {
			b.Fatal(c.failure.Message)
		}
		c.cmd.Wait()
		b.StartTimer()
	}
}

// BenchmarkExec measures an exec from the fork to the end of `true`.
func BenchmarkExec(b *testing.B) {
	c := sleeper(b, nil)
	for b.Loop() {
		if r := c.exec(spec.Exec{Args: []string{"true"}}); r.failure != nil {
			b.Fatal(r.failure.Message)
		}
	}
}
