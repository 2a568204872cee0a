package solve

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"slices"

	"gantry/internal/build/executor"
	"gantry/internal/build/graph"
	"gantry/internal/errs"
	"gantry/internal/layer"
)

// running is one Exec under way: what it takes is given back in the end.
type running struct {
	j      *job
	ctx    context.Context
	op     *graph.Exec
	ins    []*Ref
	run    *executor.Run
	drafts map[int]*layer.Draft // by output
	undo   []func()
}

// exec runs a program.
func (j *job) exec(ctx context.Context, f *flight, v *graph.Vertex, op *graph.Exec, ins []*Ref) (outs []*Ref, err error) {
	if op.Network == graph.NetworkHost && !slices.Contains(j.Allow, "network.host") {
		return nil, errs.Forbidden.Errorf("network.host is not allowed")
	}
	if op.Security == graph.SecurityInsecure && !slices.Contains(j.Allow, "security.insecure") {
		return nil, errs.Forbidden.Errorf("security.insecure is not allowed")
	}
	x := &running{j: j, ctx: ctx, op: op, ins: ins, drafts: map[int]*layer.Draft{}}
	defer func() {
		for _, u := range slices.Backward(x.undo) {
			u()
		}
		if err != nil {
			for _, d := range x.drafts {
				d.Release()
			}
		}
	}()
	x.run = &executor.Run{Op: op, ShmSize: j.ShmSize, Resources: v.Meta.Resources,
		Started: func(id string) { f.tell(Event{Kind: Running, Container: id}) },
		Output:  func(stream int, p []byte) { f.tell(Event{Kind: Logged, Stream: stream, Data: p}) },
	}
	if x.run.Env, err = x.environment(v.Meta.Proxy); err != nil {
		return nil, err
	}
	stubs := []string{"/etc/resolv.conf", "/etc/hosts", "/etc/hostname"}
	for i := range op.Mounts {
		m := &op.Mounts[i]
		if m.Dest != "/" {
			stubs = append(stubs, path.Join("/", op.Cwd, m.Dest))
			if path.IsAbs(m.Dest) {
				stubs[len(stubs)-1] = m.Dest
			}
		}
		if err := x.mount(m); err != nil {
			return nil, err
		}
	}
	if err := j.s.Runner.Run(ctx, x.run); err != nil {
		return nil, err
	}
	outs = make([]*Ref, len(x.drafts))
	for n, d := range x.drafts {
		if err := d.Finish(ctx, j.finishing(stubs)); err != nil {
			return nil, err
		}
		outs[n] = &Ref{draft: d, empty: d.Empty()}
	}
	return outs, nil
}

// environment adds what is not to be in the graph: secrets, and the way to proxies.
func (x *running) environment(p *graph.Proxy) ([]string, error) {
	env := slices.Clone(x.op.Env)
	for _, s := range x.op.SecretEnv {
		value, err := x.secret(s.ID, s.Optional)
		if err != nil {
			return nil, err
		}
		if value != nil {
			env = append(env, s.Name+"="+string(value))
		}
	}
	if p != nil {
		for _, kv := range []struct{ lower, upper, value string }{
			{"http_proxy", "HTTP_PROXY", p.HTTP}, {"https_proxy", "HTTPS_PROXY", p.HTTPS}, {"ftp_proxy", "FTP_PROXY", p.FTP},
			{"no_proxy", "NO_PROXY", p.No}, {"all_proxy", "ALL_PROXY", p.All},
		} {
			if kv.value != "" {
				env = append(env, kv.lower+"="+kv.value, kv.upper+"="+kv.value)
			}
		}
	}
	return env, nil
}

// secret returns a secret's content, nil for an optional one that the client does not have.
func (x *running) secret(id string, optional bool) ([]byte, error) {
	value, err := x.j.Client.Secret(x.ctx, id)
	if errs.NotFound.Is(err) {
		if optional {
			return nil, nil
		}
		return nil, errs.NotFound.Errorf("secret %s: not found", id)
	}
	if value == nil && err == nil {
		value = []byte{}
	}
	return value, err
}

func (x *running) input(n int) *Ref {
	if n == graph.Scratch {
		return &Ref{}
	}
	return x.ins[n]
}

func (x *running) mount(m *graph.Mount) error {
	target := m.Dest
	if !path.IsAbs(target) {
		target = path.Join("/", x.op.Cwd, target)
	}
	add := func(e executor.Mount) {
		e.Target, e.ReadOnly = target, e.ReadOnly || m.ReadOnly
		x.run.Mounts = append(x.run.Mounts, e)
	}
	switch m.Type {
	case graph.MountBind:
		o, err := x.bind(m)
		if err != nil {
			return err
		}
		if target == "/" {
			x.run.Root, x.run.ReadOnly = o, m.ReadOnly
			return nil
		}
		add(executor.Mount{Overlay: &o, Path: path.Join("/", m.Source), ReadOnly: o.Upper == ""})
	case graph.MountTmpfs:
		add(executor.Mount{Tmpfs: true, Size: m.Size})
	case graph.MountSecret:
		value, err := x.secret(m.ID, m.Optional)
		if err != nil {
			return err
		}
		if value != nil {
			add(executor.Mount{Secret: value, UID: m.UID, GID: m.GID, Mode: m.Mode})
		}
	case graph.MountSSH:
		socket, err := x.agent(m)
		if err != nil {
			return err
		}
		if socket != "" {
			add(executor.Mount{Socket: socket})
		}
	case graph.MountCache:
		dir, done, err := x.cache(m)
		if err != nil {
			return err
		}
		x.undo = append(x.undo, done)
		add(executor.Mount{Dir: dir, Path: path.Join("/", m.Source)})
	default:
		return errs.NotImplemented.Errorf("mounts of type %q are not supported", m.Type)
	}
	return nil
}

// bind makes of an input what is mounted: with a draft on top where it is written.
func (x *running) bind(m *graph.Mount) (layer.Overlay, error) {
	in := x.input(m.Input)
	root := m.Dest == "/"
	if in.tree != nil {
		made, err := x.j.s.folder(x.ctx, in)
		if err != nil {
			return layer.Overlay{}, err
		}
		x.undo = append(x.undo, made.release)
		in = made
	}
	if m.Output == graph.NoOutput && m.ReadOnly {
		o, err := x.j.s.overlay(in)
		if err == nil && len(o.Lower) == 1 {
			o.Lower = append(o.Lower, "layers/0") // an overlay wants two
			if o.Lower[0] == o.Lower[1] {
				o.Lower = o.Lower[:1]
			}
		}
		return o, err
	}
	d, err := x.j.s.newDraft(in)
	if err != nil {
		return layer.Overlay{}, err
	}
	if m.Output == graph.NoOutput {
		x.undo = append(x.undo, d.Release)
	} else {
		x.drafts[m.Output] = d
	}
	return d.Overlay(root), nil
}

// folder makes files of a folder of the client's, for a mount.
func (s *Solver) folder(ctx context.Context, r *Ref) (*Ref, error) {
	d, err := s.Layers.NewDraft(nil, "")
	if err != nil {
		return nil, err
	}
	w, err := d.Write(ctx)
	if err == nil {
		c := copier{ctx: ctx, w: w, f: r.tree, c: &graph.Copy{Src: "/", Dest: "/", Contents: true}}
		err = errors.Join(c.run(), w.Close())
	}
	if err == nil {
		err = d.Finish(ctx, layer.FinishOptions{})
	}
	if err != nil {
		d.Release()
		return nil, err
	}
	return &Ref{draft: d}, nil
}

// agent offers a socket that leads to the client's agent.
func (x *running) agent(m *graph.Mount) (string, error) {
	mode := os.FileMode(m.Mode & 0o777)
	if mode == 0 {
		mode = 0o600
	}
	socket, done, err := agentSocket(x.ctx, x.j.Client, x.j.s.tmpDir(), m.ID, m.UID, m.GID, mode)
	if errs.NotFound.Is(err) {
		if m.Optional {
			return "", nil
		}
		return "", errs.NotFound.Errorf("unset ssh forward key %s", m.ID)
	}
	if err != nil {
		return "", err
	}
	x.undo = append(x.undo, done)
	return socket, nil
}

func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = errs.Invalid.Errorf("file is larger than %d bytes", limit)
	}
	return data, err
}
