package initproc

import (
	"reflect"
	"strings"
	"testing"
)

const (
	testPasswd = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\n:x:5:5::/:\nalice:x:1000:1001:Alice:/home/alice:/bin/sh\n2000:x:3000:3000::/num:\nnohome:x:7:7::\nbig:x:2147483648:0::/:\n"
	testGroup  = "root:x:0:\nwheel:x:10:root,alice\nalice:x:1001:\n44:x:4400:\nbroken\nbig:x:4294967295:alice\n"
)

func TestResolveAccount(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		user  string
		added []string
		want  account
		err   string
	}{
		{"", nil, account{0, 0, []uint32{0, 10}, "/root"}, ""},
		{"alice", nil, account{1000, 1001, []uint32{1001, 10}, "/home/alice"}, ""},
		{"alice:", nil, account{1000, 1001, []uint32{1001, 10}, "/home/alice"}, ""},
		{"1000:0", nil, account{1000, 0, []uint32{0}, "/home/alice"}, ""},
		{"2000", nil, account{2000, 0, []uint32{0}, "/"}, ""}, // a number is a uid, even if it is somebody's name
		{"7", nil, account{7, 7, []uint32{7}, "/"}, ""},
		{"0:44", nil, account{0, 44, []uint32{44}, "/root"}, ""},
		{"nobody", nil, account{}, "unable to find user nobody: no matching entries in passwd file"},
		{"big", nil, account{}, "unable to find user big: no matching entries in passwd file"},
		{"-1", nil, account{}, "unable to find user -1: no matching entries in passwd file"},
		{"2147483648", nil, account{}, "uids and gids must be in range 0-2147483647"},
		{"0:2147483648", nil, account{}, "uids and gids must be in range 0-2147483647"},
		{"alice:big", nil, account{}, "unable to find group big: no matching entries in group file"},
		{"alice", []string{"wheel", "12", "12"}, account{1000, 1001, []uint32{1001, 10, 12}, "/home/alice"}, ""},
		{"alice", []string{""}, account{}, "unable to find group : no matching entries in group file"},
	} {
		got, err := resolveAccount(c.user, c.added, testPasswd, testGroup)
		if c.err != "" {
			if err == nil || err.Error() != c.err {
				t.Errorf("%q: %v, want %s", c.user, err, c.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %+v, %v; want %+v", c.user, got, err, c.want)
		}
	}
}

func FuzzResolveAccount(f *testing.F) {
	f.Add("alice:wheel", testPasswd, testGroup)
	f.Add("", "", "")
	f.Add(":", ":::::::", ":::,,,")
	f.Add("1:1", strings.Repeat(":", 100), "\x00\n\n")
	f.Fuzz(func(t *testing.T, user, passwd, group string) {
		a, err := resolveAccount(user, []string{"0"}, passwd, group)
		if err != nil {
			return
		}
		if a.uid > maxID || a.gid > maxID || len(a.groups) == 0 || a.groups[0] != a.gid || a.home == "" {
			t.Errorf("%q: %+v", user, a)
		}
	})
}
