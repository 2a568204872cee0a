package dockerfile

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"
	mode "github.com/tonistiigi/dchapes-mode"

	"gantry/internal/build/graph"
)

// transfer is a COPY or an ADD.
type transfer struct {
	instructions.SourcesAndDest
	add                    bool
	code                   string
	from                   graph.Edge
	chown, chmod, checksum string
	exclude                []string
	link, parents          bool
	// context is set if from is the build's context, to which .dockerignore applies.
	context            bool
	keepGitDir, unpack *bool
}

func (w *walk) copy(cmd *instructions.CopyCommand) error {
	c := w.s.c
	t := transfer{
		SourcesAndDest: cmd.SourcesAndDest, code: cmd.String(), from: c.local, context: true,
		chown: cmd.Chown, chmod: cmd.Chmod, exclude: cmd.ExcludePatterns, link: cmd.Link, parents: cmd.Parents,
	}
	if len(w.cmd.from) > 0 {
		from := w.cmd.from[0]
		if !from.walked {
			return fmt.Errorf("cannot copy from stage %q, it needs to be defined before current stage %q", cmd.From, w.s.name)
		}
		t.from, t.context = from.root, false
		for _, src := range cmd.SourcePaths {
			from.use(path.Join("/", src))
		}
	}
	if err := w.transfer(t); err != nil {
		return err
	}
	if t.context {
		for _, src := range cmd.SourcePaths {
			c.useContext(src)
		}
	}
	return nil
}

func (w *walk) add(cmd *instructions.AddCommand) error {
	err := w.transfer(transfer{
		SourcesAndDest: cmd.SourcesAndDest, add: true, code: cmd.String(), from: w.s.c.local, context: true,
		chown: cmd.Chown, chmod: cmd.Chmod, checksum: cmd.Checksum, exclude: cmd.ExcludePatterns, link: cmd.Link,
		keepGitDir: cmd.KeepGitDir, unpack: cmd.Unpack,
	})
	if err != nil {
		return err
	}
	for _, src := range cmd.SourcePaths {
		if !strings.HasPrefix(src, "http://") && !strings.HasPrefix(src, "https://") {
			w.s.c.useContext(src)
		}
	}
	return nil
}

func (w *walk) transfer(t transfer) error {
	s := w.s
	dest := s.destination(t.DestPath)
	perm, err := chmod(t.chmod)
	if err != nil {
		return err
	}
	if err := t.checkChecksum(); err != nil {
		return err
	}
	if s.c.o.Classic && len(t.SourcePaths) > 1 && !strings.HasSuffix(t.DestPath, "/") {
		return fmt.Errorf("When using %s with more than one source file, the destination must be a directory and end with a /", []string{"COPY", "ADD"}[b2i(t.add)])
	}
	name := w.name(t.code, s.env)
	file := &graph.File{}
	v := &graph.Vertex{Op: file, Meta: graph.Meta{
		Name: name, Stage: s.name, Command: t.code, Source: lines(w.cmd.Location()), IgnoreCache: s.noCache,
	}}
	// COPY --link makes the files without looking at what is below, and lays them over it: the layer stays good when what
	// is below changes. Where a name has to be looked up below, that can't be done. (BuildKit doesn't do it with a mode,
	// either.)
	linked := t.link && t.chmod == "" && !named(t.chown)
	last := graph.Scratch
	if !linked && !s.root.IsScratch() {
		v.Inputs = []graph.Edge{s.root}
		last = 0
	}
	input := func(e graph.Edge) int {
		if e.IsScratch() {
			return graph.Scratch
		}
		for i, in := range v.Inputs {
			if in == e {
				return i
			}
		}
		v.Inputs = append(v.Inputs, e)
		return len(v.Inputs) - 1
	}
	// Inputs first, since actions are numbered after them.
	var copies []graph.Action
	var files []graph.Action
	for _, src := range t.SourcePaths {
		from, cp, err := w.source(&t, src, name)
		if err != nil {
			return err
		}
		cp.Dest, cp.Mode, cp.Exclude, cp.CreateDest = dest, perm, t.exclude, true
		copies = append(copies, graph.Action{From: input(from), Copy: cp})
	}
	for _, doc := range t.SourceContents {
		p := path.Join("/", doc.Path)
		files = append(files, graph.Action{
			Input: graph.Scratch, From: graph.Scratch, Output: graph.NoOutput,
			MkFile: &graph.MkFile{Path: p, Mode: 0o644, Data: []byte(doc.Data)},
		})
		copies = append(copies, graph.Action{Copy: &graph.Copy{Src: p, Dest: dest, Mode: perm, Exclude: t.exclude, CreateDest: true}})
	}
	file.Actions = files
	for i, a := range copies {
		if doc := i - len(t.SourcePaths); doc >= 0 {
			a.From = len(v.Inputs) + doc
		}
		a.Input, a.Output = last, graph.NoOutput
		if t.chown != "" {
			a.Copy.Owner = owner(t.chown, last, s.c.o.Classic)
			if last == graph.Scratch {
				unbase(a.Copy.Owner, &graph.Vertex{})
			}
		}
		last = len(v.Inputs) + len(file.Actions)
		file.Actions = append(file.Actions, a)
	}
	file.Actions[len(file.Actions)-1].Output = 0
	below := s.root
	s.root = graph.Edge{Vertex: v}
	if linked && !below.IsScratch() {
		group := &graph.Group{ID: "link " + name, Name: name, Weak: true}
		v.Meta.Group = group
		link := *group
		link.Weak = false
		s.root = graph.Edge{Vertex: &graph.Vertex{
			Op: &graph.Merge{}, Inputs: []graph.Edge{below, {Vertex: v}},
			Meta: graph.Meta{
				Name: strings.Replace(name, "] ", "] LINK ", 1), Stage: s.name, Command: t.code,
				Source: v.Meta.Source, Group: &link, Internal: true,
			},
		}}
	}
	return s.noteCopy(&t, v)
}

// noteCopy writes the line of history of a COPY or ADD.
func (s *stage) noteCopy(t *transfer, v *graph.Vertex) error {
	var b strings.Builder
	b.WriteString([]string{"COPY", "ADD"}[b2i(t.add)])
	if t.parents {
		b.WriteString(" --parents")
	}
	if t.chown != "" && !s.c.o.Classic {
		b.WriteString(" --chown=" + t.chown)
	}
	if t.chmod != "" && !s.c.o.Classic {
		b.WriteString(" --chmod=" + t.chmod)
	}
	for _, src := range t.SourcePaths {
		b.WriteString(" " + src)
	}
	for _, doc := range t.SourceContents {
		b.WriteString(" <<" + doc.Path)
	}
	if s.c.o.Classic {
		b.WriteString(" in")
	}
	b.WriteString(" " + t.DestPath)
	return s.noteDone(b.String(), v)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (t *transfer) checkChecksum() error {
	switch {
	case t.checksum == "":
		return nil
	case !t.add:
		return errors.New("checksum can't be specified for COPY")
	case len(t.SourcePaths) != 1:
		return errors.New("checksum can't be specified for multiple sources")
	case !isHTTP(t.SourcePaths[0]) && !isGit(t.SourcePaths[0]):
		return errors.New("checksum requires HTTP(S) or Git sources")
	}
	return nil
}

func isGit(src string) bool {
	_, ok, err := parseGit(src)
	return ok && err == nil
}

func isHTTP(src string) bool {
	return (strings.HasPrefix(src, "http://") || strings.HasPrefix(src, "https://")) && !isGit(src)
}

// source says where src comes from and how it is copied.
func (w *walk) source(t *transfer, src, name string) (graph.Edge, *graph.Copy, error) {
	meta := graph.Meta{Name: name, Stage: w.s.name, Command: t.code, Source: lines(w.cmd.Location())}
	ref, git, err := parseGit(src)
	if git {
		if err != nil {
			return graph.Edge{}, nil, err
		}
		if !t.add {
			return graph.Edge{}, nil, errors.New("source can't be a git ref for COPY")
		}
		if err := t.agree(ref); err != nil {
			return graph.Edge{}, nil, err
		}
		return graph.Edge{Vertex: &graph.Vertex{Op: ref.op(), Meta: meta}}, &graph.Copy{Src: "/"}, nil
	}
	if isHTTP(src) {
		if !t.add {
			return graph.Edge{}, nil, errors.New("source can't be a URL for COPY")
		}
		op := &graph.HTTP{URL: src, Filename: "__unnamed__"}
		if u, err := url.Parse(src); err == nil {
			if base := path.Base(u.Path); base != "." && base != "/" {
				op.Filename = base
			}
		}
		if t.checksum != "" {
			if op.Checksum, err = digest.Parse(t.checksum); err != nil {
				return graph.Edge{}, nil, err
			}
		}
		// Only what lies in the context is unpacked unasked.
		return graph.Edge{Vertex: &graph.Vertex{Op: op, Meta: meta}}, &graph.Copy{Src: "/" + op.Filename, Unpack: t.unpack != nil && *t.unpack}, nil
	}
	if t.context {
		w.checkIgnored(t, src)
	}
	cp := &graph.Copy{FollowLinks: true, Contents: true, Unpack: t.add, Wildcard: true, EmptyWildcard: true}
	if t.unpack != nil {
		cp.Unpack = *t.unpack
	}
	if t.parents {
		// What stands before /./ is not part of what is kept.
		base, rest, ok := strings.Cut(src, "/./")
		if !ok {
			base, rest = "/", src
		}
		rest = absolute("/", rest)
		cp.Include = []string{strings.TrimPrefix(rest, "/")}
		if !wild(base) && !wild(rest) {
			cp.Required = []string{strings.TrimPrefix(rest, "/")}
		}
		src = base
	}
	cp.Src = absolute("/", src)
	return t.from, cp, nil
}

// agree brings together what an address and the flags say.
func (t *transfer) agree(ref *gitRef) error {
	switch {
	case ref.keepGitDir == nil:
		ref.keepGitDir = t.keepGitDir
	case t.keepGitDir != nil && *t.keepGitDir != *ref.keepGitDir:
		return errors.New("inconsistent keep-git-dir configuration")
	}
	switch {
	case ref.checksum == "":
		ref.checksum = t.checksum
	case t.checksum != "" && t.checksum != ref.checksum:
		return fmt.Errorf("checksum mismatch %q != %q", t.checksum, ref.checksum)
	}
	return nil
}

// destination makes a COPY's target absolute. A slash at its end, or a dot, says that it is a directory.
func (s *stage) destination(p string) string {
	if p == "." || p == "" {
		p = "./"
	}
	to := absolute(s.cwd(), p)
	if strings.HasSuffix(p, "/") && !strings.HasSuffix(to, "/") || strings.HasSuffix(p, "/.") && !strings.HasSuffix(to, "/.") {
		to += "/"
	}
	return to
}

// wild reports whether a path has the wildcards of filepath.Match.
func wild(p string) bool {
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '*', '?', '[':
			return true
		case '\\':
			i++
		}
	}
	return false
}

// chmod checks a mode: octal, or chmod(1)'s symbols.
func chmod(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	n, err := strconv.ParseUint(s, 8, 32)
	if err == nil && n <= 0o7777 {
		return fmt.Sprintf("%04o", n), nil
	}
	bad := fmt.Errorf("invalid chmod parameter: '%v'. it should be octal string and between 0 and 07777", s)
	if err == nil {
		return "", bad
	}
	if _, err := mode.Parse(s); err != nil {
		if number := new(strconv.NumError); errors.As(err, &number) {
			return "", bad
		}
		return "", err
	}
	return s, nil
}

// named reports whether user[:group] has a name.
func named(s string) bool {
	if s == "" {
		return false
	}
	o := owner(s, 0, false)
	return o.User.Name != "" || o.Group != nil && o.Group.Name != ""
}

// owner reads user[:group]; names are looked up in input.
func owner(s string, input int, required bool) *graph.Owner {
	one := func(s string) *graph.Principal {
		if s == "root" {
			return &graph.Principal{}
		}
		if n, err := strconv.ParseInt(s, 10, 32); err == nil {
			return &graph.Principal{ID: uint32(n)}
		}
		return &graph.Principal{Name: s, Input: input, Required: required}
	}
	user, group, ok := strings.Cut(s, ":")
	o := &graph.Owner{User: one(user)}
	if ok {
		o.Group = one(group)
	}
	return o
}
