package view

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNeverTheMainThread: even when the main thread is all that is free.
func TestNeverTheMainThread(t *testing.T) {
	for range 200 {
		got := make(chan int)
		thread(func() { got <- unix.Gettid() })
		runtime.Gosched()
		if id := <-got; id == unix.Getpid() {
			t.Fatal("it ran in the main thread")
		}
	}
}
