package build

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-units"
	"golang.org/x/term"

	"gantry/internal/build/session/wire"
	"gantry/internal/cli/screen"
)

// terminal is a picture that moves: finished steps stay, what runs now is drawn again and again below them.
type terminal struct {
	book
	mu     sync.Mutex
	drawn  int // lines of the picture that may be drawn over
	stop   chan struct{}
	done   sync.WaitGroup
	width  func() (width, height int)
	clock  func() time.Time
	text   string // what is exported
	ended  bool
	failed bool
}

// frame is how often the picture is drawn.
const frame = 100 * time.Millisecond

// recent is how many lines of a step's output are seen while it runs.
const recent = 6

func newTerminal(b book) *terminal {
	t := &terminal{book: b, stop: make(chan struct{}), clock: time.Now, width: func() (int, int) {
		w, h, err := term.GetSize(int(os.Stderr.Fd()))
		if err != nil || w < 20 || h < 5 {
			return 80, 24
		}
		return w, h
	}}
	t.done.Go(func() {
		tick := time.NewTicker(frame)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				t.mu.Lock()
				t.draw(false)
				t.mu.Unlock()
			case <-t.stop:
				return
			}
		}
	})
	return t
}

func (t *terminal) event(e wire.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e.Kind {
	case "exporting":
		t.text = e.Text
	case wire.Ended:
		t.ended, t.failed = true, e.Error != ""
	}
	if s, _ := t.take(e); s != nil {
		s.lines(!s.ended.IsZero())
	}
}

func (t *terminal) close() {
	close(t.stop)
	t.done.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.draw(true)
}

// draw writes the picture over the last one. At the end all steps are drawn, before that as many as fit.
func (t *terminal) draw(all bool) {
	if len(t.steps) == 0 {
		return
	}
	width, height := t.width()
	lines := t.lines(width)
	if room := height - 2; !all && len(lines) > room {
		lines = append(lines[:1:1], lines[len(lines)-room+1:]...)
	}
	var b strings.Builder
	if t.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", t.drawn)
	}
	for _, l := range lines {
		b.WriteString("\r" + l + "\x1b[K\n")
	}
	b.WriteString("\x1b[J")
	fmt.Fprint(t.w, b.String())
	t.drawn = len(lines)
}

func (t *terminal) lines(width int) []string {
	now := t.clock()
	done := 0
	for _, s := range t.steps {
		if !s.ended.IsZero() && !s.failed {
			done++
		}
	}
	state := ""
	if t.ended && !t.failed {
		state = " FINISHED"
	}
	out := []string{fmt.Sprintf("[+] Building %s (%d/%d)%s", seconds(now.Sub(t.begun)), done, max(t.total, len(t.steps)), state)}
	for _, s := range t.steps {
		mark, color, end := "=>", "", s.ended
		switch {
		case s.failed:
			mark, color = "=> ERROR", "\x1b[31m"
		case s.cached:
			mark, color = "=> CACHED", "\x1b[34m"
		case end.IsZero():
			end = now
		default:
			color = "\x1b[34m"
		}
		took := 0 * time.Second
		if !s.began.IsZero() {
			took = end.Sub(s.began)
		}
		out = append(out, color+row(" "+mark+" "+s.Name, seconds(took), width)+"\x1b[0m")
		if t.why && s.why != "" && !s.cached {
			out = append(out, cut(" => => not cached: "+s.why, width))
		}
		if !s.ended.IsZero() {
			continue
		}
		for _, id := range s.order {
			p := s.status[id]
			text := " => => " + strings.TrimSpace(id+" "+p.action)
			if p.done {
				continue
			}
			progress := ""
			if p.total > 0 {
				progress = units.HumanSize(float64(p.current)) + " / " + units.HumanSize(float64(p.total))
			} else if p.current > 0 {
				progress = units.HumanSize(float64(p.current))
			}
			out = append(out, row(text, progress, width))
		}
		tail := s.tail
		if len(tail) > recent {
			tail = tail[len(tail)-recent:]
		}
		for _, l := range tail {
			out = append(out, "\x1b[2m"+cut(" => => # "+visible(l), width)+"\x1b[0m")
		}
	}
	if t.text != "" {
		out = append(out, cut(" => "+t.text, width))
	}
	return out
}

// row puts one text to the left and one to the right.
func row(left, right string, width int) string {
	room := width - len(right) - 2
	left = cut(left, room)
	return left + strings.Repeat(" ", max(room-screen.Width(left), 0)+1) + right
}

func cut(s string, width int) string { return screen.Cut(s, width, "...") }

// visible takes away what a program's output would do to the terminal.
func visible(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == 0x1b && i+1 < len(s) && s[i+1] == '[':
			for i += 2; i < len(s) && (s[i] < '@' || s[i] > '~'); i++ {
			}
		case c == '\t':
			b.WriteString("    ")
		case c < ' ' || c == 0x7f:
		default:
			b.WriteByte(c)
		}
	}
	return strings.ToValidUTF8(b.String(), "\ufffd")
}
