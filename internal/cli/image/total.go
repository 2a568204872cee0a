package image

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/docker/go-units"
)

// total is the line below the bars: what has come or gone of all layers together, how fast, and how long it will take.
type total struct {
	now     func() time.Time
	layers  map[string]*layerBytes
	waiting map[string]bool
	shown   bool

	began time.Time // of the running second
	from  int64     // bytes then
	speed float64   // bytes a second, smoothed; 0: not known yet
}

type layerBytes struct{ current, total int64 }

func newTotal() *total {
	return &total{now: time.Now, layers: map[string]*layerBytes{}, waiting: map[string]bool{}}
}

// note takes in a message about a layer.
func (t *total) note(id, status string, current, size int64) {
	switch status {
	case "Waiting", "Preparing":
		t.waiting[id] = true
		return
	case "Downloading", "Pushing":
		if size > 0 {
			t.layers[id] = &layerBytes{min(current, size), size}
		}
	case "Download complete", "Pushed", "Verifying Checksum", "Extracting", "Pull complete":
		if l := t.layers[id]; l != nil {
			l.current = l.total
		}
	}
	delete(t.waiting, id)
}

func (t *total) sum() (current, size int64) {
	for _, l := range t.layers {
		current += l.current
		size += l.total
	}
	return current, size
}

// line is what to show; empty when nothing is under way.
func (t *total) line() string {
	current, size := t.sum()
	if size == 0 || current >= size {
		return ""
	}
	switch passed := t.now().Sub(t.began); {
	case t.began.IsZero():
		t.began, t.from = t.now(), current
	case passed >= time.Second/2:
		now := float64(current-t.from) / passed.Seconds()
		if t.speed > 0 {
			now = t.speed*0.7 + now*0.3
		}
		t.began, t.from, t.speed = t.now(), current, now
	}
	parts := []string{fmt.Sprintf("Total: %s of %s", units.HumanSize(float64(current)), units.HumanSize(float64(size)))}
	if t.speed > 0 {
		parts = append(parts, units.HumanSize(t.speed)+"/s")
	}
	switch n := len(t.waiting); {
	case n > 1:
		parts = append(parts, fmt.Sprintf("%d layers wait", n))
	case n == 1:
		parts = append(parts, "1 layer waits")
	case t.speed > 0:
		left := time.Duration(float64(size-current) / t.speed * float64(time.Second))
		parts = append(parts, left.Round(time.Second).String()+" left")
	}
	return strings.Join(parts, ", ")
}

// draw writes the line where the cursor is, or takes it away.
func (t *total) draw(w io.Writer) {
	text := t.line()
	if text == "" && !t.shown {
		return
	}
	t.shown = text != ""
	fmt.Fprintf(w, "\x1b[2K\r%s\r", text)
}

// clear takes the line away, for something else to be written there.
func (t *total) clear(w io.Writer) {
	if t.shown {
		t.shown = false
		fmt.Fprint(w, "\x1b[2K\r")
	}
}
