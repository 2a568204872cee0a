package daemon

import (
	"gantry/internal/container"
	"gantry/internal/runtime/jsonlog"
	"gantry/internal/runtime/supervisor"
)

// openLog opens a json-file log.
func openLog(path string, o container.LogOptions, ended <-chan struct{}) (container.LogReader, error) {
	r, err := jsonlog.NewReader(path, jsonlog.Options{Stdout: o.Stdout, Stderr: o.Stderr, Since: o.Since, Until: o.Until, Tail: o.Tail,
		Follow: ended != nil, Ended: ended})
	if err != nil {
		return nil, err
	}
	return logReader{r}, nil
}

type logReader struct{ *jsonlog.Reader }

func (r logReader) Next() (container.LogLine, error) {
	rec, err := r.Reader.Next()
	line := container.LogLine{Stream: supervisor.Stdout, Time: rec.Time, Text: rec.Text, Attrs: rec.Attrs}
	if rec.Stream == "stderr" {
		line.Stream = supervisor.Stderr
	}
	return line, err
}
