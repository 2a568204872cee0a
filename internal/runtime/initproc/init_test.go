package initproc_test

import "testing"

func TestHello(t *testing.T) {
	out := sh(t, `echo hello; id; pwd; ls -l /dev /proc/self/fd; mount; cat /proc/self/status; env; hostname`, func(c *container) { c.Init.Hostname = "box" })
	t.Log(out)
}

func TestReaper(t *testing.T) {
	c := newContainer(t, "sh", "-c", "cat /proc/1/status | grep -E 'Name|Threads|Rss|CapEff'; cat /proc/1/cmdline /proc/1/comm; ps; exit 7")
	c.Init.Exec.Reaper = true
	out, code := c.run()
	t.Log(out, code)
}
