package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/jsonstream"
)

type message struct {
	jsonstream.Message
	OldError string `json:"error"` // what engines send beside errorDetail
}

// ShowProgress prints a stream of JSON messages as they come: on a terminal each ID has a line that is rewritten, elsewhere
// every new status is a line. Below the lines of a terminal stands the total. aux is called with what the engine says for programs. An error in the stream is returned.
func ShowProgress(w io.Writer, terminal bool, r io.Reader, aux func(json.RawMessage)) error {
	dec := json.NewDecoder(r)
	line := map[string]int{} // the line of an ID, counted from the first
	all := newTotal()
	defer all.clear(w)
	for {
		var m message
		if err := dec.Decode(&m); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		switch {
		case m.Aux != nil:
			if aux != nil {
				aux(*m.Aux)
			}
			continue
		case m.Error != nil:
			return errors.New(m.Error.Message)
		case m.OldError != "":
			return errors.New(m.OldError)
		case m.Stream != "":
			fmt.Fprint(w, m.Stream)
			continue
		}
		bar := progress(m.Progress)
		if !terminal {
			if bar == "" { // a bar that moves is nothing for a file
				fmt.Fprintln(w, label(m.ID)+m.Status)
			}
			continue
		}
		all.clear(w)
		if m.ID == "" || m.Progress == nil && len(line) == 0 {
			fmt.Fprintf(w, "%s%s\r\n", label(m.ID), m.Status)
			line = map[string]int{} // what comes now is below it
			continue
		}
		n, seen := line[m.ID]
		if !seen {
			n = len(line)
			line[m.ID] = n
			fmt.Fprint(w, "\n")
		}
		up := len(line) - n
		fmt.Fprintf(w, "\x1b[%dA\x1b[2K\r%s%s", up, label(m.ID), m.Status)
		if bar != "" {
			fmt.Fprint(w, " "+bar)
		}
		fmt.Fprintf(w, "\r\x1b[%dB", up)
		var p jsonstream.Progress
		if m.Progress != nil {
			p = *m.Progress
		}
		all.note(m.ID, m.Status, p.Current, p.Total)
		all.draw(w)
	}
}

func label(id string) string {
	if id == "" {
		return ""
	}
	return id + ": "
}

func progress(p *jsonstream.Progress) string {
	if p == nil || p.Current <= 0 && p.Total <= 0 {
		return ""
	}
	if p.Total <= 0 {
		if p.Units != "" {
			return fmt.Sprintf("%d %s", p.Current, p.Units)
		}
		return fmt.Sprintf("%8v", units.HumanSize(float64(p.Current)))
	}
	n := int(min(max(p.Current*50/p.Total, 0), 50))
	rest := ""
	if n < 50 {
		rest = ">" + strings.Repeat(" ", 49-n)
	}
	bar := "[" + strings.Repeat("=", n) + rest + "]"
	if p.HideCounts {
		return bar
	}
	return fmt.Sprintf("%s  %8v/%v", bar, units.HumanSize(float64(p.Current)), units.HumanSize(float64(p.Total)))
}
