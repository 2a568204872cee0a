package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/jsonstream"

	"gantry/internal/build"
	"gantry/internal/build/executor"
	"gantry/internal/build/graph"
	"gantry/internal/build/solve"
	"gantry/internal/ids"
)

// classicPrinter tells of a build as Docker's classic builder does, one instruction after the other. What happens out of turn, for
// here independent steps are done at once, waits for its turn.
//
// Docker makes an image of each step, and prints its ID. Here there are none but the last; what is
// printed for the others stands for what the step made: equal IDs mean equal steps, as there.
type classicPrinter struct {
	m       *messages
	quiet   bool
	rm      bool
	forceRm bool

	plan   *graph.Result
	steps  []classicStep
	turn   int
	headed bool // the current step's first line is out
	from   bool // the first stage has begun
	id     string
	late   bool // the last step's ID waits for the image's
	failed *graph.Vertex
	quietB strings.Builder
}

// classicStep is what has happened to one instruction.
type classicStep struct {
	graph.Step
	word      string
	copies    bool
	container string
	begun     bool // "Running in" is out
	cached    bool
	done      bool
	state     string
	image     string // of FROM
	out       []string
}

func newClassicPrinter(m *messages, quiet, rm, forceRm bool) *classicPrinter {
	return &classicPrinter{m: m, quiet: quiet, rm: rm, forceRm: forceRm}
}

func (p *classicPrinter) stream(text string) {
	if p.quiet {
		if p.quietB.Len() < 1<<20 {
			p.quietB.WriteString(text)
		}
		return
	}
	p.m.stream(text)
}

// Event implements build.Sink.
func (p *classicPrinter) Event(e build.Event) {
	switch e.Kind {
	case build.Planned:
		p.plan = e.Result
		for _, s := range e.Result.Steps {
			word, _, _ := strings.Cut(strings.TrimSpace(s.Text), " ")
			x := classicStep{Step: s, word: strings.ToUpper(word)}
			x.copies = x.word == "COPY" || x.word == "ADD"
			p.steps = append(p.steps, x)
		}
	case build.Reported:
		if e.Status.Action != "" && !p.quiet {
			x := message{Message: jsonstream.Message{ID: e.Status.ID, Status: e.Status.Action}}
			if e.Status.ID != "" {
				x.Progress = &jsonstream.Progress{Current: e.Status.Current, Total: e.Status.Total}
			}
			p.m.send(x)
		}
		return
	case build.Failed:
		p.failed = e.Vertex
	}
	first := true
	for i := range p.steps {
		s := &p.steps[i]
		if s.Vertex == nil || s.Vertex != e.Vertex || s.done {
			continue
		}
		switch e.Kind {
		case build.Running:
			if first {
				s.container = ids.Short(e.Container)
			}
		case build.Logged:
			text := string(e.Data)
			if e.Stream == 2 {
				text = "\x1b[91m" + text + "\x1b[0m"
			}
			if first {
				s.out = append(s.out, text)
			}
		case build.Cached:
			s.cached, s.done, s.state = true, true, e.State.String()
		case build.Completed:
			// The same step in another stage is done once; Docker finds the second in its cache.
			s.cached, s.done, s.state, s.image = !first && s.word != "FROM", true, e.State.String(), e.Text
		}
		first = false
	}
	p.advance()
}

// advance prints what has its turn.
func (p *classicPrinter) advance() {
	for p.turn < len(p.steps) {
		s := &p.steps[p.turn]
		if !p.headed {
			p.head(s)
			p.headed = true
		}
		if s.Vertex != nil {
			if s.container != "" && !s.begun {
				p.stream(" ---> Running in " + s.container + "\n")
				s.begun = true
			}
			for _, x := range s.out {
				p.stream(x)
			}
			s.out = nil
			if !s.done {
				return
			}
		}
		if s.word == "ARG" && !p.from {
			// Before the first stage there is nothing that it could change.
		} else {
			p.from = true
			p.finish(s)
		}
		p.turn++
		p.headed = false
	}
}

// head prints what stands above a step. What an ONBUILD of the base image brought isn't counted; all of it has one line.
func (p *classicPrinter) head(s *classicStep) {
	if s.Trigger {
		if p.steps[p.turn-1].Trigger {
			return
		}
		n := 0
		for p.turn+n < len(p.steps) && p.steps[p.turn+n].Trigger {
			n++
		}
		plural := "s"
		if n == 1 {
			plural = ""
		}
		p.stream(fmt.Sprintf("# Executing %d build trigger%s\n", n, plural))
		return
	}
	number, total := 0, 0
	for i := range p.steps {
		if p.steps[i].Trigger {
			continue
		}
		total++
		if i <= p.turn {
			number++
		}
	}
	p.stream(fmt.Sprintf("Step %d/%d : %s", number, total, s.Text))
	p.stream("\n")
}

func (p *classicPrinter) finish(s *classicStep) {
	switch {
	case s.word == "FROM":
		p.id = ""
		if s.image != "" {
			p.id = ids.Short(s.image)
		} else if s.state != "" {
			p.id = short12(s.state)
		}
	case s.cached:
		p.stream(" ---> Using cache\n")
		p.id = short12(s.state)
	case s.copies, s.begun:
		if s.begun && p.rm {
			p.stream("Removing intermediate container " + s.container + "\n")
		}
		p.id = short12(s.state)
	default: // it changes the configuration alone: Docker runs nothing in a container for it, but has one
		id := short12(hash(p.id, s.Text, "container"))
		p.stream(" ---> Running in " + id + "\n")
		if p.rm {
			p.stream("Removing intermediate container " + id + "\n")
		}
		if s.state != "" {
			p.id = short12(s.state)
		} else {
			p.id = short12(hash(p.id, s.Text))
		}
	}
	if p.turn == len(p.steps)-1 {
		p.late = true
		return
	}
	p.stream(" ---> " + p.id + "\n")
}

func hash(list ...string) string {
	h := sha256.New()
	for _, s := range list {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func short12(s string) string {
	s = strings.TrimPrefix(strings.TrimPrefix(s, "image:"), "sha256:")
	return s[:min(len(s), ids.ShortLen)]
}

// end prints what comes last.
func (p *classicPrinter) end(b *build.Built) {
	if p.quiet {
		p.m.stream(b.Image.String() + "\n")
		return
	}
	if p.late {
		p.stream(" ---> " + ids.Short(b.Image.String()) + "\n")
	}
	aux, _ := json.Marshal(struct{ ID string }{b.Image.String()})
	p.m.send(message{Message: jsonstream.Message{Aux: (*json.RawMessage)(&aux)}})
	if p.plan != nil && len(p.plan.UnusedArgs) > 0 {
		p.stream(fmt.Sprintf("[Warning] One or more build-args %v were not consumed\n", p.plan.UnusedArgs))
	}
	p.stream("Successfully built " + ids.Short(b.Image.String()) + "\n")
	for _, n := range b.Names {
		if named, err := reference.ParseNormalizedNamed(n); err == nil {
			n = reference.FamiliarString(named)
		}
		p.stream("Successfully tagged " + n + "\n")
	}
}

// fail reports an error: as the reply's status while nothing is out, in the stream afterwards.
func (p *classicPrinter) fail(err error) error {
	text, code := p.explain(err)
	if p.plan != nil && p.failed != nil && p.turn < len(p.steps) {
		s := &p.steps[p.turn]
		if s.begun && p.forceRm {
			p.stream("Removing intermediate container " + s.container + "\n")
		}
	}
	if p.quiet && p.quietB.Len() > 0 {
		p.m.stream(p.quietB.String())
	}
	if !p.m.begun {
		return err
	}
	p.m.send(message{Message: jsonstream.Message{Error: &jsonstream.Error{Code: code, Message: text}}, ErrorMessage: text})
	return nil
}

// explain puts an error into the classic builder's words.
func (p *classicPrinter) explain(err error) (text string, code int) {
	var v *solve.VertexError
	if !errors.As(err, &v) {
		return err.Error(), 0
	}
	var exit *executor.ExitError
	if op, ok := v.Vertex.Op.(*graph.Exec); ok && errors.As(err, &exit) {
		return fmt.Sprintf("The command '%s' returned a non-zero code: %d", strings.Join(op.Args, " "), exit.Code), exit.Code
	}
	var missing *solve.NotFoundError
	if errors.As(err, &missing) {
		word := "COPY"
		for _, s := range p.steps {
			if s.Vertex == v.Vertex {
				word = s.word
			}
		}
		name := strings.TrimPrefix(path.Clean("/"+missing.Path), "/")
		switch {
		case missing.Wildcard:
			return word + " failed: no source files were specified", 0
		case missing.Context:
			return word + " failed: file not found in build context or excluded by .dockerignore: stat " + name + ": file does not exist", 0
		}
		return word + " failed: stat " + name + ": file does not exist", 0
	}
	return err.Error(), 0
}
