package screen

import (
	"bytes"
	"fmt"
	"testing"
)

func TestCut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		s     string
		width int
		want  string
	}{
		{"abcdef", 6, "abcdef"}, {"abcdef", 5, "ab..."}, {"中文字", 6, "中文字"}, {"中文字", 5, "中..."}, {"a中文字", 6, "a中..."}, {"中文字", 2, "..."}, {"", 0, ""},
	} {
		if got := Cut(c.s, c.width, "..."); got != c.want {
			t.Errorf("Cut(%q, %d) = %q, want %q", c.s, c.width, got, c.want)
		}
	}
}

func TestTabs(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	tabs := NewTabs(&b, 10, 1, 3)
	fmt.Fprint(tabs, "NAME\tMOUNTS\tIMAGE\n")
	fmt.Fprint(tabs, "作者=张三,b=乙\t/tmp/中文目录\tubuntu\n")
	fmt.Fprint(tabs, "\xff bad\té\tx\n")
	tabs.Flush()
	want := "NAME             MOUNTS          IMAGE\n" +
		"作者=张三,b=乙   /tmp/中文目录   ubuntu\n" +
		"\ufffd bad            é               x\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}
