package mount

import "testing"

func TestUnescape(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{`/a\040b`: "/a b", `/a\134b`: `/a\b`, `/plain`: "/plain", `\04`: `\04`, `\999`: `\999`} {
		if got := unescape(in); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestParseInfo(t *testing.T) {
	t.Parallel()
	i, ok := ParseInfo(`36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue`)
	if !ok || i.Root != "/mnt1" || i.Point != "/mnt 2" || len(i.Optional) != 2 || i.Optional[1] != "shared:2" || i.FSType != "ext3" || i.Super != "rw,errors=continue" {
		t.Fatalf("%+v %v", i, ok)
	}
	for _, line := range []string{"", "1 2 3", "36 35 98:0 / /x rw - ext3"} {
		if _, ok := ParseInfo(line); ok {
			t.Errorf("%q was taken for a mount", line)
		}
	}
}
