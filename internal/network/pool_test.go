package network

import (
	"testing"

	api "github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"gantry/internal/kernel/netns"
)

// TestNamespacesFromAPool: whoever keeps namespaces ready hands them over by Options.New, and nothing else need know.
func TestNamespacesFromAPool(t *testing.T) {
	h := newHost(t)
	ready := make(chan *netns.Namespace, 2)
	for range cap(ready) {
		ready <- must1(netns.New())
	}
	inode := func(path string) uint64 {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	made := map[uint64]bool{}
	h.New = func() (*netns.Namespace, error) {
		select {
		case ns := <-ready:
			made[inode(ns.Path())] = true
			return ns, nil
		default:
			return netns.New()
		}
	}
	h.create(t, &api.CreateRequest{Name: "n1"})
	for i, name := range []string{"a", "b", "c"} {
		j, ns := h.join(t, &JoinRequest{Name: name, Endpoints: on("n1"), First: "n1"})
		if got := inode(ns.Path()); made[got] != (i < 2) {
			t.Errorf("%s: from the pool: %v", name, made[got])
		}
		if got, err := lookup(ns, "udp4", name+"."); err != nil || len(got) != 1 || got[0] != j.Endpoints["n1"].IPAddress.String() {
			t.Errorf("%s is %v, %v", name, got, err)
		}
	}
}
