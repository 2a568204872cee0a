package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/formatter"
	"gantry/internal/cli/parse"
	"gantry/internal/client"
)

// Events is `system events`.
var Events = &command.Command{
	Name: "events", Top: "events", Args: "[OPTIONS]", Short: "Show what happens as it happens",
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		var filters client.Filters
		command.Filters(fs, &filters, "f", "Only events that meet a condition, such as type=container")
		since := fs.String("since", "", "From this time on, or from that long ago")
		until := fs.String("until", "", "Up to this time, or that long ago; then end")
		format := fs.String("format", "", "json, or a Go template")
		return func(ctx context.Context, env *command.Env, args []string) error {
			return showEvents(ctx, env, *since, *until, *format, filters)
		}
	},
}

func showEvents(ctx context.Context, env *command.Env, since, until, format string, filters client.Filters) error {
	show := func(m *events.Message) error {
		_, err := io.WriteString(env.IO.Out, line(m))
		return err
	}
	if format == "json" {
		format = "{{json .}}"
	}
	if format != "" {
		t, err := formatter.Template("").Parse(format)
		if err == nil {
			// A field that does not exist is found before anything is waited for.
			err = t.Execute(io.Discard, &events.Message{})
		}
		if err != nil {
			return &command.StatusError{Text: "Error parsing format: " + err.Error(), Code: 64}
		}
		show = func(m *events.Message) error {
			if err := t.Execute(env.IO.Out, m); err != nil {
				return err
			}
			_, err := io.WriteString(env.IO.Out, "\n")
			return err
		}
	}
	var err error
	if since, err = parse.Time(since, time.Now()); err != nil {
		return err
	}
	if until, err = parse.Time(until, time.Now()); err != nil {
		return err
	}
	c, err := env.Client()
	if err != nil {
		return err
	}
	resp, err := c.Events(ctx, since, until, filters)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for dec := json.NewDecoder(resp.Body); ; {
		var m events.Message
		switch err := dec.Decode(&m); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := show(&m); err != nil {
			return err
		}
	}
}

func line(m *events.Message) string {
	var b strings.Builder
	const nano = "2006-01-02T15:04:05.000000000Z07:00" // unlike RFC3339Nano, always as wide
	switch {
	case m.TimeNano != 0:
		b.WriteString(time.Unix(0, m.TimeNano).Format(nano) + " ")
	case m.Time != 0:
		b.WriteString(time.Unix(m.Time, 0).Format(nano) + " ")
	}
	fmt.Fprintf(&b, "%s %s %s", m.Type, m.Action, m.Actor.ID)
	if len(m.Actor.Attributes) > 0 {
		var kv []string
		for k, v := range m.Actor.Attributes {
			kv = append(kv, k+"="+v)
		}
		slices.Sort(kv)
		b.WriteString(" (" + strings.Join(kv, ", ") + ")")
	}
	b.WriteByte('\n')
	return b.String()
}
