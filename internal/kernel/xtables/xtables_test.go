package xtables

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"reflect"
	"testing"

	"gantry/internal/kernel/netns"
)

// scene is a namespace in which iptables-legacy writes.
func scene(t *testing.T) *netns.Namespace {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	if _, err := exec.LookPath("iptables-legacy"); err != nil {
		t.Skip("needs iptables-legacy")
	}
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	if err := ns.Do(func() error { return exec.Command("iptables-legacy", "-w", "60", "-S").Run() }); err != nil {
		t.Skip("this kernel has no legacy tables")
	}
	return ns
}

func TestForward(t *testing.T) {
	made, fresh := scene(t), (*netns.Namespace)(nil)
	fresh, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	for v6, program := range map[bool]string{false: "iptables-legacy", true: "ip6tables-legacy"} {
		run := func(args ...string) {
			t.Helper()
			if err := made.Do(func() error {
				// -w: the lock is one for all namespaces, and other tests' programs take it, too.
				out, err := exec.Command(program, append([]string{"-w", "60"}, args...)...).CombinedOutput()
				if err != nil {
					err = errors.New(string(out))
				}
				return err
			}); err != nil {
				t.Fatal(args, err)
			}
		}
		is := func(ns *netns.Namespace, want *Chain) {
			t.Helper()
			var got *Chain
			if err := ns.Do(func() (err error) {
				got, err = Forward(v6)
				return err
			}); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %+v, %v; want %+v", program, got, err, want)
			}
		}
		// Looking does not make one.
		is(fresh, nil)
		is(fresh, nil)
		run("-S")
		is(made, &Chain{})
		run("-P", "FORWARD", "DROP")
		run("-A", "INPUT", "-j", "DROP")
		run("-N", "MINE")
		run("-A", "FORWARD", "-j", "MINE")
		run("-A", "FORWARD", "-i", "br0", "-p", "tcp", "-m", "comment", "--comment", "mine and yours", "-j", "ACCEPT")
		run("-I", "FORWARD", "-m", "conntrack", "--ctstate", "RELATED", "-m", "comment", "--comment", "first", "-j", "ACCEPT")
		is(made, &Chain{Drops: true, Comments: []string{"first", "mine and yours"}})
		run("-P", "FORWARD", "ACCEPT")
		run("-A", "FORWARD", "-o", "br0", "-j", "DROP")
		is(made, &Chain{Comments: []string{"first", "mine and yours"}})
		run("-A", "FORWARD", "-j", "REJECT")
		is(made, &Chain{Refuses: true, Comments: []string{"first", "mine and yours"}})
		run("-D", "FORWARD", "-j", "REJECT")
		run("-A", "FORWARD", "-j", "DROP")
		is(made, &Chain{Refuses: true, Comments: []string{"first", "mine and yours"}})
	}
}

// TestTargetWithoutData: a rule whose target has nothing but its name, such as TARPIT of xtables-addons, hides none of the others.
func TestTargetWithoutData(t *testing.T) {
	t.Parallel()
	for v6, l := range layouts {
		var entries []byte
		put := func(target string, data ...byte) {
			e := make([]byte, l.entry+32)
			binary.NativeEndian.PutUint16(e[l.offsets:], uint16(l.entry))
			binary.NativeEndian.PutUint16(e[l.offsets+2:], uint16(len(e)+len(data)))
			copy(e[l.entry+2:], target)
			entries = append(entries, append(e, data...)...)
		}
		put("TARPIT")
		put("REJECT", make([]byte, 8)...)
		policy := len(entries)
		put("", 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0)
		info := make([]byte, infoSize)
		binary.NativeEndian.PutUint32(info[56+4*2:], uint32(policy)) // of FORWARD
		if c, err := l.parse(info, entries); err != nil || !c.Drops || !c.Refuses {
			t.Errorf("v6 %v: %+v, %v", v6, c, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	info, entries := make([]byte, infoSize), make([]byte, 152)
	binary.NativeEndian.PutUint16(entries[88:], 112)
	binary.NativeEndian.PutUint16(entries[90:], 152)
	binary.NativeEndian.PutUint32(entries[112+32:], 0xffffffff)
	if c, err := layouts[false].parse(info, entries); err != nil || !c.Drops {
		f.Fatal(c, err)
	}
	f.Add(info, entries)
	f.Fuzz(func(t *testing.T, info, entries []byte) {
		if len(info) < infoSize {
			return
		}
		layouts[false].parse(info, entries)
		layouts[true].parse(info, entries)
	})
}
