package dockerfile

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"gantry/internal/build/graph"
)

func (w *walk) run(cmd *instructions.RunCommand) error {
	s, c := w.s, w.s.c
	s.use("/") // it may read whatever is there
	exec := &graph.Exec{
		Env: s.env.slice(), Cwd: s.cwd(), User: s.image.Config.User, Hostname: c.o.Hostname,
		Hosts: c.o.Hosts, Ulimits: c.o.Ulimits, CgroupParent: c.o.CgroupParent, Network: c.o.Network,
		Mounts: []graph.Mount{{Type: graph.MountBind, Dest: "/"}},
	}
	if err := c.spend(s.env.size); err != nil {
		return err
	}
	v := &graph.Vertex{Op: exec, Platform: *s.platform}
	args, shown, script, err := runArgs(cmd)
	if err != nil {
		return err
	}
	if script != nil {
		exec.Mounts = append(exec.Mounts, graph.Mount{Type: graph.MountBind, Dest: "/dev/pipes", Input: 0, ReadOnly: true, Output: graph.NoOutput})
		v.Inputs = append(v.Inputs, graph.Edge{Vertex: script})
		script.Meta.Stage, script.Meta.Source = s.name, lines(cmd.Location())
	}
	if cmd.PrependShell {
		args = s.withShell(args)
	}
	exec.Args = args
	if err := w.mounts(cmd, exec, v); err != nil {
		return err
	}
	switch network := instructions.GetNetwork(cmd); network {
	case instructions.NetworkDefault:
	case instructions.NetworkNone:
		exec.Network = graph.NetworkNone
	case instructions.NetworkHost:
		exec.Network = graph.NetworkHost
	default:
		return fmt.Errorf("unsupported network mode %q", network)
	}
	switch security := instructions.GetSecurity(cmd); security {
	case instructions.SecuritySandbox:
	case instructions.SecurityInsecure:
		exec.Security = graph.SecurityInsecure
	default:
		return fmt.Errorf("unsupported security mode %q", security)
	}
	if len(instructions.GetDevices(cmd)) > 0 {
		return errors.New("RUN --device is not supported: devices of the Container Device Interface are not known here")
	}
	if c.o.ShmSize > 0 {
		exec.Mounts = append(exec.Mounts, graph.Mount{Type: graph.MountTmpfs, Dest: "/dev/shm", Input: graph.Scratch, Output: graph.NoOutput, Size: c.o.ShmSize})
	}
	// What is mounted below another mount must come after it.
	slices.SortStableFunc(exec.Mounts[1:], func(a, b graph.Mount) int { return strings.Compare(a.Dest, b.Dest) })

	v.Meta = graph.Meta{
		Stage: s.name, Command: cmd.String(), Source: lines(cmd.Location()), IgnoreCache: s.noCache,
		Proxy: c.proxy, Resources: c.o.Resources,
	}
	v.Meta.Name = w.runName(cmd, shown)
	s.change(v, &exec.Mounts[0].Input)
	return s.noteRun(args, v)
}

func (s *stage) cwd() string {
	if s.image.Config.WorkingDir == "" {
		return "/"
	}
	return s.image.Config.WorkingDir
}

// runName is the step's name; only variables that have a value are replaced in it, since the others may be the shell's.
func (w *walk) runName(cmd *instructions.RunCommand, shown string) string {
	lex := *w.s.c.lex
	lex.RawQuotes, lex.SkipUnsetEnv = true, true
	env := shell.EnvGetter(w.s.env)
	for _, m := range instructions.GetMounts(cmd) {
		if m.Type == instructions.MountTypeSecret && m.Env != nil {
			env = masked{env, *m.Env}
		}
	}
	return w.title(show(&lex, shown, env))
}

// masked shows that a variable's value is a secret, which isn't known here anyway.
type masked struct {
	shell.EnvGetter
	name string
}

func (m masked) Get(key string) (string, bool) {
	if key == m.name {
		return "****", true
	}
	return m.EnvGetter.Get(key)
}

// runArgs returns what a RUN passes to the shell, or executes, with its heredocs, and the text to show. A script
// with its own #! becomes a file, which is mounted on /dev/pipes.
func runArgs(cmd *instructions.RunCommand) (args []string, shown string, script *graph.Vertex, err error) {
	args, shown = cmd.CmdLine, cmd.String()
	if len(cmd.Files) == 0 {
		return args, shown, nil, nil
	}
	if len(args) != 1 || !cmd.PrependShell {
		return nil, "", nil, fmt.Errorf("parsing produced an invalid run command: %v", args)
	}
	if parser.MustParseHeredoc(args[0]) == nil {
		// The shell knows heredocs.
		var b strings.Builder
		b.WriteString(args[0])
		for _, f := range cmd.Files {
			b.WriteString("\n" + f.Data + f.Name)
		}
		return []string{b.String()}, shown, nil, nil
	}
	// RUN <<EOF: the document is the script.
	f := cmd.Files[0]
	data := f.Data
	if f.Chomp {
		data = parser.ChompHeredocContent(data)
	}
	first, _, more := strings.Cut(strings.TrimSpace(strings.ReplaceAll(f.Data, "\r\n", "\n")), "\n")
	if more {
		first += "..."
	}
	shown += " (" + first + ")"
	if !strings.HasPrefix(data, "#!") {
		return []string{data}, shown, nil, nil
	}
	script = &graph.Vertex{
		Op: &graph.File{Actions: []graph.Action{{
			Input: graph.Scratch, From: graph.Scratch,
			MkFile: &graph.MkFile{Path: path.Join("/", f.Name), Mode: 0o755, Data: []byte(data)},
		}}},
		Meta: graph.Meta{Name: "[internal] preparing inline document", Internal: true},
	}
	return []string{path.Join("/dev/pipes", f.Name)}, shown, script, nil
}

// mounts adds the mounts of RUN --mount.
func (w *walk) mounts(cmd *instructions.RunCommand, exec *graph.Exec, v *graph.Vertex) error {
	s, c := w.s, w.s.c
	input := func(e graph.Edge) int {
		if e.IsScratch() {
			return graph.Scratch
		}
		if i := slices.Index(v.Inputs, e); i >= 0 {
			return i
		}
		v.Inputs = append(v.Inputs, e)
		return len(v.Inputs) - 1
	}
	agents := 0
	for i, m := range instructions.GetMounts(cmd) {
		out := graph.Mount{Type: graph.MountType(m.Type), Dest: m.Target, Input: graph.Scratch, Output: graph.NoOutput, ReadOnly: m.ReadOnly, Optional: !m.Required}
		from := w.cmd.from[i]
		if from != nil && !from.walked {
			return fmt.Errorf("cannot mount from stage %q to %q, stage needs to be defined before current command", m.From, m.Target)
		}
		switch m.Type {
		case instructions.MountTypeSecret:
			env, err := secretMount(m, &out)
			if err != nil {
				return err
			}
			if env != nil {
				exec.SecretEnv = append(exec.SecretEnv, *env)
			}
			if out.Dest == "" {
				continue
			}
			out.ReadOnly = false
		case instructions.MountTypeSSH:
			if m.Source != "" {
				return errors.New("ssh does not support source")
			}
			out.ID, out.ReadOnly = m.CacheID, false
			if out.ID == "" {
				out.ID = "default"
			}
			if out.Dest == "" {
				out.Dest = fmt.Sprintf("/run/buildkit/ssh_agent.%d", agents)
			}
			out.UID, out.GID, out.Mode = ids(m, 0o600)
			if _, ok := s.env.Get("SSH_AUTH_SOCK"); !ok && agents == 0 {
				exec.Env = append(exec.Env, "SSH_AUTH_SOCK="+w.dest(out.Dest))
			}
			agents++
		case instructions.MountTypeTmpfs:
			out.Size, out.Optional = m.SizeLimit, false
		default:
			out.Optional = false
			if m.Type == instructions.MountTypeCache {
				out.ID, out.Sharing = m.CacheID, graph.CacheSharing(m.CacheSharing)
				if out.ID == "" {
					out.ID = path.Clean(m.Target)
				}
				if out.Sharing == "" {
					out.Sharing = graph.CacheShared
				}
				out.UID, out.GID, out.Mode = ids(m, 0o755)
			}
			source := path.Join("/", m.Source)
			switch {
			case from != nil:
				from.use(source)
				out.Input = input(from.root)
			case m.From == "" && m.Type == instructions.MountTypeBind:
				c.useContext(source)
				out.Input = input(c.local)
			}
			if source != "/" {
				out.Source = source
			} else if m.UID != nil || m.GID != nil || m.Mode != nil {
				// A directory of its own, whose owner can be chosen.
				out.Input = graph.Scratch
			}
		}
		out.Dest = w.dest(out.Dest)
		if out.Dest == "/" {
			return fmt.Errorf("invalid mount target %q", out.Dest)
		}
		exec.Mounts = append(exec.Mounts, out)
	}
	return nil
}

// dest makes a mount's target absolute.
func (w *walk) dest(target string) string {
	if path.IsAbs(target) {
		return path.Clean(target)
	}
	return path.Join("/", w.s.cwd(), target)
}

func ids(m *instructions.Mount, mode uint32) (uid, gid, perm uint32) {
	perm = mode
	if m.UID != nil {
		uid = uint32(*m.UID)
	}
	if m.GID != nil {
		gid = uint32(*m.GID)
	}
	if m.Mode != nil {
		perm = uint32(*m.Mode)
	}
	return uid, gid, perm
}

// secretMount fills in where a secret comes from and goes to; out.Dest stays "" for one that is only a variable.
func secretMount(m *instructions.Mount, out *graph.Mount) (*graph.SecretEnv, error) {
	out.ID = m.CacheID
	if m.Source != "" {
		out.ID = m.Source
	}
	if out.ID == "" {
		if m.Target == "" {
			return nil, errors.New("one of source, target required")
		}
		out.ID = path.Base(m.Target)
	}
	out.UID, out.GID, out.Mode = ids(m, 0o400)
	if m.Env != nil {
		name := *m.Env
		if name == "" {
			name = out.ID
		}
		return &graph.SecretEnv{ID: out.ID, Name: name, Optional: !m.Required}, nil
	}
	if out.Dest == "" {
		out.Dest = "/run/secrets/" + path.Base(out.ID)
	}
	return nil, nil
}
