package resolvconf

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestRead(t *testing.T) {
	t.Parallel()
	const resolved = "nameserver 192.0.2.1\nsearch lan\n"
	for _, x := range []struct{ conf, real, host, private string }{
		{"", "", "[]", "[]"},
		{"# no\n; no\n\n  search a  b\nnameserver 192.0.2.9\nnameserver\nnameserver odd\n", resolved,
			"[[search a b] [nameserver 192.0.2.9] [nameserver] [nameserver odd]]", "[[search a b] [nameserver 192.0.2.9] [nameserver] [nameserver odd]]"},
		{"nameserver 127.0.0.1\nnameserver ::1\nnameserver fe80::1%eth0\n", resolved,
			"[[nameserver 127.0.0.1] [nameserver ::1] [nameserver fe80::1%eth0]]", "[[nameserver fe80::1%eth0]]"},
		{"nameserver 127.0.0.53\noptions edns0\n", resolved, "[[nameserver 127.0.0.53] [options edns0]]", "[[nameserver 192.0.2.1] [search lan]]"},
		{"nameserver 127.0.0.53\noptions edns0\n", "", "[[nameserver 127.0.0.53] [options edns0]]", "[[options edns0]]"},
		{"nameserver 127.0.0.53\nnameserver 192.0.2.3", resolved, "[[nameserver 127.0.0.53] [nameserver 192.0.2.3]]", "[[nameserver 192.0.2.3]]"},
	} {
		root := t.TempDir()
		for path, text := range map[string]string{"etc/resolv.conf": x.conf, "run/systemd/resolve/resolv.conf": x.real} {
			if text == "" {
				continue
			}
			path = filepath.Join(root, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := fmt.Sprint(host(root)); got != x.host {
			t.Errorf("%q: %s, want %s", x.conf, got, x.host)
		}
		if got := fmt.Sprint(private(root)); got != x.private {
			t.Errorf("%q for another loopback: %s, want %s", x.conf, got, x.private)
		}
	}
	if got := fmt.Sprint(Conf{{"nameserver", "192.0.2.1"}, {"nameserver"}, {"search", "192.0.2.2"}, {"nameserver", "odd"}, {"nameserver", "::1"}}.Servers()); got != "[192.0.2.1 ::1]" {
		t.Errorf("servers: %s", got)
	}
}
