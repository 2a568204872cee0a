package mount

import (
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   string
		want Options
	}{
		{"", Options{}},
		{"defaults", Options{}},
		{"ro,nosuid", Options{Set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID}},
		{"ro,rw", Options{Clear: unix.MOUNT_ATTR_RDONLY}},
		{"rw,ro", Options{Set: unix.MOUNT_ATTR_RDONLY}},
		{"rbind,rro,rslave", Options{Bind: true, Recursive: true, Set: unix.MOUNT_ATTR_RDONLY, RecSet: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_SLAVE, PropRec: true}},
		{"bind,private", Options{Bind: true, Propagation: unix.MS_PRIVATE}},
		{"size=64k,mode=1777,noexec", Options{Set: unix.MOUNT_ATTR_NOEXEC, Data: []string{"size=64k", "mode=1777"}}},
		{"noatime,strictatime", Options{Set: unix.MOUNT_ATTR_STRICTATIME, Clear: unix.MOUNT_ATTR__ATIME}},
		{"remount,ro", Options{Remount: true, Set: unix.MOUNT_ATTR_RDONLY}},
		{"tmpcopyup", Options{CopyUp: true}},
		{"newinstance", Options{Data: []string{"newinstance"}}},
		{"relabel,rubbish", Options{Data: []string{"relabel", "rubbish"}}},
	} {
		if got := Parse(strings.Split(c.in, ",")); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.in, got, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("ro,rbind,rshared,size=1")
	f.Add(",,r,rr,=,rrr=")
	f.Fuzz(func(t *testing.T, s string) {
		o := Parse(strings.Split(s, ","))
		if o.Set&o.Clear&^uint64(unix.MOUNT_ATTR__ATIME) != 0 {
			t.Errorf("%q sets and clears the same: %+v", s, o)
		}
	})
}
