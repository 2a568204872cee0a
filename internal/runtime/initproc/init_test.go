package initproc_test

import "testing"

func TestHello(t *testing.T) {
	out := sh(t, `echo hello; id; pwd; ls -l /dev /proc/self/fd; mount; cat /proc/self/status; env; hostname`, func(c *container) { c.Init.Hostname = "box" })
	t.Log(out)
}
