package netlink

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// apart locks the test's thread into a network namespace of its own; the thread ends with the test.
func apart(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
}

// TestTransactionRefused: a kernel that takes no transaction at all (as without nf_tables) answers its first message alone, and
// nobody waits for more. NFNL_SUBSYS_QUEUE has no transactions on any kernel.
func TestTransactionRefused(t *testing.T) {
	apart(t)
	c, err := Dial(unix.NETLINK_NETFILTER)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answer := make(chan error, 1)
	go func() {
		for range 2 { // nor does what came of the first disturb the second
			var b Batch
			for range 3 {
				b.Begin(unix.NFNL_SUBSYS_QUEUE<<8, 0, []byte{0, 0, 0, 0})
			}
			err = c.Transact(unix.NFNL_SUBSYS_QUEUE, &b)
		}
		answer <- err
	}()
	select {
	case err := <-answer:
		if !errors.Is(err, unix.EOPNOTSUPP) {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("an answer is waited for that does not come")
	}
}

// TestReceiveTakesAll: what is there is handed over in one go, so that whoever acts on it acts once.
func TestReceiveTakesAll(t *testing.T) {
	apart(t)
	watch, err := Dial(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	c, err := Dial(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stop, err := NewStop()
	if err != nil {
		t.Fatal(err)
	}
	defer stop.Close()
	const made = 20
	for i := range made {
		var b Batch
		b.Begin(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, make([]byte, unix.SizeofIfInfomsg))
		b.String(unix.IFLA_IFNAME, "br"+strconv.Itoa(i))
		b.Nest(unix.IFLA_LINKINFO, func() { b.String(unix.IFLA_INFO_KIND, "bridge") })
		if err := c.Do(&b); err != nil {
			t.Fatal(err)
		}
	}
	got := 0
	if err := watch.Receive(stop, func(Message) { got++ }); err != nil || got < made {
		t.Errorf("%d messages of %d in one go, %v", got, made, err)
	}
	stop.Stop()
	if err := watch.Receive(stop, func(Message) {}); !errors.Is(err, ErrStopped) {
		t.Error(err)
	}
}
