package caps

import (
	"os"
	"slices"
	"strings"
	"testing"

	"gantry/internal/errs"
)

// dockers is the list that dockerd documents for a default container.
const dockers = "CAP_CHOWN,CAP_DAC_OVERRIDE,CAP_FOWNER,CAP_FSETID,CAP_KILL,CAP_SETGID,CAP_SETUID,CAP_SETPCAP," +
	"CAP_NET_BIND_SERVICE,CAP_NET_RAW,CAP_SYS_CHROOT,CAP_MKNOD,CAP_AUDIT_WRITE,CAP_SETFCAP"

func TestDefaultIsDockers(t *testing.T) {
	t.Parallel()
	// 0xa80425fb is what CapEff shows in a default container of Docker's.
	if Default() != 0xa80425fb || Default().String() != dockers || Default().Len() != 14 {
		t.Fatalf("got %#x %s", uint64(Default()), Default())
	}
}

func TestNumbersAreTheKernels(t *testing.T) {
	t.Parallel()
	// Some of linux/capability.h, spread over the list: a slip of iota would show.
	for name, n := range map[string]Cap{"CAP_CHOWN": 0, "CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_SYS_RESOURCE": 24,
		"CAP_SETFCAP": 31, "CAP_SYSLOG": 34, "CAP_AUDIT_READ": 37, "CAP_BPF": 39, "CAP_CHECKPOINT_RESTORE": 40} {
		if c, ok := Lookup(name); !ok || c != n || c.String() != name {
			t.Errorf("%s is %d, want %d", name, c, n)
		}
	}
	if All.Len() != 41 || len(All.Names()) != 41 || slices.Contains(All.Names(), "") || Cap(41).String() != "CAP_41" {
		t.Fatalf("all: %d %v", All.Len(), All.Names())
	}
}

func TestTweak(t *testing.T) {
	t.Parallel()
	host := All &^ Of(SYS_RESOURCE)
	def := Default()
	for _, c := range []struct {
		name       string
		privileged bool
		add, drop  string
		want       Set
		err        string
	}{
		{name: "nothing", want: def},
		{name: "privileged is bounded by the host", privileged: true, want: host},
		{name: "privileged beats drop", privileged: true, drop: "ALL", want: host},
		{name: "add", add: "net_admin CAP_SYS_TIME", want: def | Of(NET_ADMIN, SYS_TIME)},
		{name: "drop", drop: "cap_chown Kill", want: def &^ Of(CHOWN, KILL)},
		{name: "added and dropped is kept", add: "CHOWN", drop: "CHOWN", want: def},
		{name: "add all", add: "all", want: host},
		{name: "add all but", add: "ALL", drop: "SYS_ADMIN", want: host &^ Of(SYS_ADMIN)},
		{name: "add all beats drop all", add: "ALL", drop: "ALL", want: host},
		{name: "drop all", drop: "ALL", want: 0},
		{name: "drop all but", drop: "all", add: "SETUID", want: Of(SETUID)},
		{name: "unknown add", add: "chown x", err: `invalid CapAdd: unknown capability: "CAP_X"`},
		{name: "unknown drop", drop: "CAP_YY", err: `invalid CapDrop: unknown capability: "CAP_YY"`},
		{name: "CAP_ALL is no capability", add: "CAP_ALL", err: `invalid CapAdd: unknown capability: "CAP_ALL"`},
		{name: "the host lacks it", add: "sys_resource",
			err: `invalid CapAdd: capability not supported by your kernel or not available in the current environment: "CAP_SYS_RESOURCE"`},
	} {
		got, err := Tweak(def, c.privileged, strings.Fields(c.add), strings.Fields(c.drop), host)
		if c.err != "" {
			if err == nil || err.Error() != c.err || !errs.Invalid.Is(err) {
				t.Errorf("%s: error %q of kind %v, want %q", c.name, err, errs.KindOf(err), c.err)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("%s: got %s (%v), want %s", c.name, got, err, c.want)
		}
	}
	if _, err := Tweak(def, false, []string{""}, nil, host); err == nil || err.Error() != `invalid CapAdd: unknown capability: "CAP_"` {
		t.Errorf("an empty name: %v", err)
	}
}

func TestDefaultIsBoundedByTheHost(t *testing.T) {
	t.Parallel()
	got, err := Tweak(Default(), false, nil, nil, All&^Of(MKNOD))
	if err != nil || got != Default()&^Of(MKNOD) {
		t.Fatalf("got %s, %v", got, err)
	}
}

func TestHost(t *testing.T) {
	t.Parallel()
	s, err := Host()
	if err != nil || s&^All != 0 {
		t.Fatalf("got %#x, %v", uint64(s), err)
	}
	if s == 0 && os.Getuid() == 0 {
		t.Fatal("root without a single capability to give")
	}
}

func FuzzBounding(f *testing.F) {
	f.Add([]byte("Name:\tx\nCapBnd:\t000001fffeffffff\nSeccomp:\t0\n"))
	f.Add([]byte("CapBnd:"))
	f.Add([]byte("CapBnd:\tzz\n"))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = bounding(b) })
}
