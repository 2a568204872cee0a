// Package corpus reads the corpus of Dockerfiles (../testdata/README.md says how a case is written) for those who try it:
// the conversion's tests, the end-to-end tests, and the comparison with BuildKit.
package corpus

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/txtar"
)

// Case is one Dockerfile that shows one thing.
type Case struct {
	Name    string
	Options map[string][]string // the lines "name: value" of its head, by name
	Files   []txtar.File
	head    []byte
}

// Parse reads a case in the txtar format.
func Parse(name string, data []byte) Case {
	ar := txtar.Parse(data)
	c := Case{Name: name, Options: map[string][]string{}, Files: ar.Files, head: ar.Comment}
	for line := range strings.Lines(string(ar.Comment)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			c.Options[k] = append(c.Options[k], v)
		}
	}
	return c
}

// Read returns all cases of a folder of test data, by name.
func Read(testdata string) ([]Case, error) {
	files, err := filepath.Glob(filepath.Join(testdata, "corpus/*.txtar"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s has no corpus", testdata)
	}
	var cases []Case
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		cases = append(cases, Parse(strings.TrimSuffix(filepath.Base(file), ".txtar"), data))
	}
	return cases, nil
}

// Write writes a case into a folder of test data, with got in place of the files of the same names; one without data is dropped.
func Write(testdata string, c Case, got ...txtar.File) error {
	files := slices.DeleteFunc(slices.Clone(c.Files), func(f txtar.File) bool {
		return slices.ContainsFunc(got, func(g txtar.File) bool { return g.Name == f.Name })
	})
	for _, g := range got {
		if len(g.Data) > 0 {
			files = append(files, g)
		}
	}
	data := txtar.Format(&txtar.Archive{Comment: c.head, Files: files})
	return os.WriteFile(filepath.Join(testdata, "corpus", c.Name+".txtar"), data, 0o644)
}

// Section is the text of a file of the case, "" where there is none.
func (c *Case) Section(name string) string {
	for _, f := range c.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

// Dockerfile is the file that is tried, with what the head says is done to it first.
func (c *Case) Dockerfile() []byte {
	data := []byte(c.Section("Dockerfile"))
	if c.Options["crlf"] != nil {
		data = bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n"))
	}
	if c.Options["bom"] != nil {
		data = append([]byte("\xef\xbb\xbf"), data...)
	}
	return data
}

// Describe writes a line for each part of a configuration that says something.
func Describe(img dockerspec.DockerOCIImage) string {
	var b strings.Builder
	line := func(name, value string) { fmt.Fprintf(&b, "%s: %s\n", name, value) }
	list := func(name string, value []string) {
		if value != nil {
			line(name, fmt.Sprintf("%q", value))
		}
	}
	c := img.Config
	if img.Author != "" {
		line("author", img.Author)
	}
	if c.User != "" {
		line("user", c.User)
	}
	if c.WorkingDir != "" {
		line("workdir", c.WorkingDir)
	}
	for _, e := range c.Env {
		line("env", fmt.Sprintf("%q", e))
	}
	list("entrypoint", c.Entrypoint)
	list("cmd", c.Cmd)
	list("shell", c.Shell)
	list("onbuild", c.OnBuild)
	for _, p := range slices.Sorted(maps.Keys(c.ExposedPorts)) {
		line("expose", p)
	}
	for _, p := range slices.Sorted(maps.Keys(c.Volumes)) {
		line("volume", p)
	}
	for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
		line("label", fmt.Sprintf("%q", k+"="+c.Labels[k]))
	}
	if c.StopSignal != "" {
		line("stopsignal", c.StopSignal)
	}
	if c.Healthcheck != nil {
		line("healthcheck", fmt.Sprintf("%+v", *c.Healthcheck))
	}
	for _, h := range img.History {
		name := "history"
		if h.EmptyLayer {
			name = "history (empty)"
		}
		said := strings.ReplaceAll(h.CreatedBy, "\n", "\\n")
		if h.Created != nil {
			said += " @ " + h.Created.UTC().Format("2006-01-02T15:04:05Z")
		}
		line(name, said)
	}
	return b.String()
}
