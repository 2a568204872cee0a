package dockerfile

import (
	"fmt"
	"math"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/build/graph"
)

// note writes a line of history. v is the vertex whose change it tells of, nil if there is none.
func (s *stage) note(said string, v *graph.Vertex) error {
	h := ocispec.History{CreatedBy: said, EmptyLayer: v == nil, Created: s.c.epoch, Author: ""}
	if s.c.o.Classic {
		// The classic builder wrote down a command that does nothing, for the shell of that moment.
		h.CreatedBy = strings.Join(s.withShell([]string{"#(nop) "}), " ") + " " + said
		h.Author = s.image.Author
	} else {
		h.Comment = "buildkit.dockerfile.v0"
	}
	return s.addHistory(h, v)
}

// noteDone is note for what was run or copied: BuildKit marks those.
func (s *stage) noteDone(said string, v *graph.Vertex) error {
	if s.c.o.Classic {
		return s.note(said, v)
	}
	return s.note(said+" # buildkit", v)
}

// noteRun tells of a RUN.
func (s *stage) noteRun(args []string, v *graph.Vertex) error {
	if err := s.c.spend(48 * len(s.buildArgs)); err != nil {
		return err
	}
	said := s.runText(args)
	if s.c.o.Classic {
		return s.addHistory(ocispec.History{CreatedBy: said, Created: s.c.epoch, Author: s.image.Author}, v)
	}
	return s.note("RUN "+said+" # buildkit", v)
}

func (s *stage) addHistory(h ocispec.History, v *graph.Vertex) error {
	s.image.History = append(s.image.History, h)
	s.layers = append(s.layers, v)
	return nil
}

// runText is a command with the ARGs that it could see, |NUMBER NAME=value… first: the classic builder's cache went by
// this line.
func (s *stage) runText(args []string) string {
	var list []string
	index := map[string]int{}
	for _, kv := range s.buildArgs {
		v, ok := s.env.Get(kv.Key)
		if !ok {
			if s.c.o.Classic {
				continue // what has no value isn't there
			}
			v = kv.ValueString()
		}
		if i, ok := index[kv.Key]; ok {
			list[i] = kv.Key + "=" + v
			continue
		}
		index[kv.Key] = len(list)
		list = append(list, kv.Key+"="+v)
	}
	if len(list) > 0 {
		list = append([]string{fmt.Sprintf("|%d", len(list))}, list...)
	}
	return strings.Join(append(list, args...), " ")
}

// meta is what people are told about the vertex of an instruction, whose text is code.
func (w *walk) meta(code string) graph.Meta {
	return graph.Meta{
		Name:        w.name(code, w.s.env),
		Stage:       w.s.name,
		Command:     code,
		Source:      lines(w.cmd.Location()),
		IgnoreCache: w.s.noCache,
	}
}

// name is "[stage 2/5] RUN make", with variables replaced where they have a value.
func (w *walk) name(code string, env shell.EnvGetter) string {
	return w.title(show(w.s.c.lex, code, env))
}

// title is the step's name that says code, its keyword in capitals.
func (w *walk) title(code string) string {
	first, rest, ok := strings.Cut(code, " ")
	code = strings.ToUpper(first)
	if ok {
		code += " " + rest
	}
	if w.cmd.trigger {
		code = "ONBUILD " + code
	}
	return w.s.prefix(code)
}

// prefix counts the steps of the stage.
func (s *stage) prefix(text string) string {
	if s.steps == 0 {
		return text
	}
	var b strings.Builder
	b.WriteByte('[')
	if len(s.c.o.Platforms) > 1 && s.platform != nil {
		b.WriteString(formatAll(*s.platform))
		if p := s.c.target; p.OS == s.platform.OS && p.Architecture != s.platform.Architecture {
			b.WriteString("->" + strings.TrimPrefix(p.String(), p.OS+"/"))
		}
		b.WriteByte(' ')
	}
	if s.name != "" {
		b.WriteString(s.name + " ")
	}
	s.step++
	fmt.Fprintf(&b, "%*d/%d] ", int(1+math.Log10(float64(s.steps))), s.step, s.steps)
	return b.String() + text
}
