package seccomp

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"gantry/internal/errs"
	"gantry/internal/kernel/caps"
)

func TestCacheKeepsFilters(t *testing.T) {
	t.Parallel()
	var c Cache
	one, err := c.Default(caps.Default())
	if err != nil {
		t.Fatal(err)
	}
	two, err := c.Default(caps.Default())
	if err != nil || &one[0] != &two[0] {
		t.Fatalf("the second is not the first (%v)", err)
	}
	admin, err := c.Default(caps.Default() | caps.Of(caps.SYS_ADMIN))
	if err != nil || string(admin) == string(one) {
		t.Fatalf("capabilities make no difference (%v)", err)
	}
	three, err := c.FromJSON([]byte(`{"defaultAction":"SCMP_ACT_ALLOW"}`), caps.Default())
	if err != nil || string(three) == string(one) {
		t.Fatalf("the profile makes no difference (%v)", err)
	}
}

func TestCacheForgets(t *testing.T) {
	t.Parallel()
	var c Cache
	var running sync.WaitGroup
	for i := range 2 * maxCached {
		running.Go(func() {
			profile := fmt.Appendf(nil, `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"read","action":"SCMP_ACT_ERRNO","errnoRet":%d}]}`, i/2)
			if f, err := c.FromJSON(profile, 0); err != nil || len(f) == 0 {
				t.Errorf("%s: %v", profile, err)
			}
			if _, err := c.FromJSON(profile[1:], 0); err == nil {
				t.Errorf("%s is taken", profile[1:])
			}
		})
	}
	running.Wait()
	if n := len(c.filters); n > maxCached {
		t.Errorf("%d filters are kept", n)
	}
	for k, e := range c.filters {
		if e.err != nil {
			t.Errorf("an error is kept for %x: %v", k.profile, e.err)
		}
	}
}

func TestSupported(t *testing.T) {
	t.Parallel()
	// The list of actions is there when filters are (Linux 4.14).
	_, err := os.Stat("/proc/sys/kernel/seccomp/actions_avail")
	if Supported() != (err == nil) {
		t.Errorf("supported: %v, but the kernel's list of actions: %v", Supported(), err)
	}
}

func TestEmptyProfileIsNoFilter(t *testing.T) {
	t.Parallel()
	var c Cache
	if f, err := c.FromJSON([]byte(`{}`), 0); err != nil || f != nil {
		t.Fatalf("got %v, %v", f, err)
	}
}

func TestBadProfiles(t *testing.T) {
	t.Parallel()
	var c Cache
	for profile, want := range map[string]string{
		`{"syscalls":[null]}`: "seccomp profile has a null in its list of syscalls",
		`[`:                   "Decoding seccomp profile failed: unexpected end of JSON input",
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_NOTIFY"}]}`: `rule for ["read"]: seccomp action SCMP_ACT_NOTIFY is not supported`,
		`{"defaultAction":"SCMP_ACT_NOPE"}`:                                      `default action: unknown seccomp action: "SCMP_ACT_NOPE"`,
		`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_PDP11"]}`: `unknown seccomp architecture: SCMP_ARCH_PDP11`,
		`{"defaultAction":"SCMP_ACT_ALLOW","flags":["X"]}`:                       `unknown seccomp flag: X`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":6,"op":"SCMP_CMP_EQ"}]}]}`: `rule for ["read"]: argument index 6 is not below 6`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"op":"="}]}]}`:           `rule for ["read"]: unknown seccomp operator: "="`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":[""],"action":"SCMP_ACT_ERRNO"}]}`:                                             `rule for a system call without a name`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"name":"write","action":"SCMP_ACT_ERRNO"}]}`:                          `both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","includes":{"minKernel":"5"}}]}`:            `Decoding seccomp profile failed: invalid kernel version: "5", expected "<kernel>.<major>"`,
	} {
		if _, err := c.FromJSON([]byte(profile), 0); err == nil || err.Error() != want || !errs.Invalid.Is(err) {
			t.Errorf("%s: %v of kind %v, want %s", profile, err, errs.KindOf(err), want)
		}
	}
	if _, err := c.FromJSON(make([]byte, maxProfile+1), 0); !errs.Invalid.Is(err) {
		t.Errorf("too large: %v", err)
	}
}
