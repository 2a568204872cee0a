package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"gantry/internal/build/graph"
)

// translate tells BuildKit's definition in Gantry's words: they have the same meaning. What stands nowhere in ours is an
// error.
func translate(state llb.State) (graph.Edge, error) {
	def, err := state.Marshal(context.Background(), llb.LinuxAmd64)
	if err != nil {
		return graph.Edge{}, err
	}
	done := map[string]*graph.Vertex{}
	var last graph.Edge
	for _, dt := range def.Def {
		var op pb.Op
		if err := op.UnmarshalVT(dt); err != nil {
			return graph.Edge{}, err
		}
		v := &graph.Vertex{Meta: graph.Meta{Name: "buildkit"}}
		for _, in := range op.Inputs {
			v.Inputs = append(v.Inputs, graph.Edge{Vertex: done[in.Digest], Output: int(in.Index)})
		}
		if op.Platform != nil {
			v.Platform = graph.Platform{OS: op.Platform.OS, Architecture: op.Platform.Architecture, Variant: op.Platform.Variant}
		}
		switch o := op.Op.(type) {
		case *pb.Op_Source:
			v.Op, err = source(o.Source)
		case *pb.Op_Exec:
			v.Op = exec(o.Exec)
		case *pb.Op_File:
			v.Op, err = file(o.File)
		case *pb.Op_Merge:
			v.Op = &graph.Merge{}
		case nil:
			last = v.Inputs[0]
			continue
		default:
			err = fmt.Errorf("an operation of type %T", o)
		}
		if err != nil {
			return graph.Edge{}, err
		}
		done[digest.FromBytes(dt).String()] = v
	}
	return last, nil
}

func source(o *pb.SourceOp) (graph.Op, error) {
	scheme, rest, _ := strings.Cut(o.Identifier, "://")
	switch scheme {
	case "docker-image":
		return &graph.Image{Ref: rest}, nil
	case "local":
		l := &graph.Local{Name: rest}
		if v := o.Attrs[pb.AttrFollowPaths]; v != "" {
			return l, json.Unmarshal([]byte(v), &l.Follow)
		}
		return l, nil
	case "http", "https":
		h := &graph.HTTP{URL: o.Identifier, Checksum: digest.Digest(o.Attrs[pb.AttrHTTPChecksum]), Filename: o.Attrs[pb.AttrHTTPFilename]}
		return h, nil
	case "git":
		g := &graph.Git{
			Remote: o.Attrs[pb.AttrFullRemoteURL], Checksum: o.Attrs[pb.AttrGitChecksum], KeepGitDir: o.Attrs[pb.AttrKeepGitDir] == "true",
			SkipSubmodules: o.Attrs[pb.AttrGitSkipSubmodules] == "true", TokenSecret: o.Attrs[pb.AttrAuthTokenSecret],
			HeaderSecret: o.Attrs[pb.AttrAuthHeaderSecret], SSH: o.Attrs[pb.AttrMountSSHSock],
		}
		_, fragment, _ := strings.Cut(rest, "#")
		g.Ref, g.Subdir, _ = strings.Cut(fragment, ":")
		return g, nil
	}
	return nil, fmt.Errorf("a source %s", o.Identifier)
}

func exec(o *pb.ExecOp) *graph.Exec {
	e := &graph.Exec{
		Args: o.Meta.Args, Env: o.Meta.Env, Cwd: o.Meta.Cwd, User: o.Meta.User, Hostname: o.Meta.Hostname, CgroupParent: o.Meta.CgroupParent,
		Network:  map[pb.NetMode]graph.NetworkMode{pb.NetMode_HOST: graph.NetworkHost, pb.NetMode_NONE: graph.NetworkNone}[o.Network],
		Security: map[pb.SecurityMode]graph.SecurityMode{pb.SecurityMode_INSECURE: graph.SecurityInsecure}[o.Security],
	}
	for _, h := range o.Meta.ExtraHosts {
		e.Hosts = append(e.Hosts, graph.Host{Name: h.Host, IP: h.IP})
	}
	for _, u := range o.Meta.Ulimit {
		e.Ulimits = append(e.Ulimits, graph.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	for _, s := range o.Secretenv {
		e.SecretEnv = append(e.SecretEnv, graph.SecretEnv{ID: s.ID, Name: s.Name, Optional: s.Optional})
	}
	for _, m := range o.Mounts {
		out := graph.Mount{Type: graph.MountBind, Dest: path.Clean(m.Dest), Input: int(m.Input), Source: m.Selector, ReadOnly: m.Readonly, Output: int(m.Output)}
		if m.MountType != pb.MountType_BIND {
			out.Output = graph.NoOutput
		}
		if out.Source == "/" {
			out.Source = ""
		}
		switch m.MountType {
		case pb.MountType_TMPFS:
			out.Type = graph.MountTmpfs
			if m.TmpfsOpt != nil {
				out.Size = m.TmpfsOpt.Size
			}
		case pb.MountType_CACHE:
			out.Type, out.ID = graph.MountCache, strings.TrimPrefix(m.CacheOpt.ID, "/")
			out.Sharing = []graph.CacheSharing{graph.CacheShared, graph.CachePrivate, graph.CacheLocked}[m.CacheOpt.Sharing]
			out.Mode = 0o755
		case pb.MountType_SECRET:
			s := m.SecretOpt
			out.Type, out.ID, out.UID, out.GID, out.Mode, out.Optional = graph.MountSecret, s.ID, s.Uid, s.Gid, s.Mode, s.Optional
		case pb.MountType_SSH:
			s := m.SSHOpt
			out.Type, out.ID, out.UID, out.GID, out.Mode, out.Optional = graph.MountSSH, s.ID, s.Uid, s.Gid, s.Mode, s.Optional
			if out.ID == "" {
				out.ID = "default"
			}
		}
		e.Mounts = append(e.Mounts, out)
	}
	return e
}

func file(o *pb.FileOp) (*graph.File, error) {
	f := &graph.File{}
	for _, a := range o.Actions {
		out := graph.Action{Input: int(a.Input), From: int(a.SecondaryInput), Output: int(a.Output)}
		switch x := a.Action.(type) {
		case *pb.FileAction_Copy:
			c := x.Copy
			out.Copy = &graph.Copy{
				Src: c.Src, Dest: c.Dest, Owner: owner(c.Owner), Mode: c.ModeStr, FollowLinks: c.FollowSymlink, Contents: c.DirCopyContents,
				Unpack: c.AttemptUnpackDockerCompatibility, CreateDest: c.CreateDestPath, Wildcard: c.AllowWildcard, EmptyWildcard: c.AllowEmptyWildcard,
				Include: c.IncludePatterns, Exclude: c.ExcludePatterns, Required: c.RequiredPaths, Replace: c.AlwaysReplaceExistingDestPaths,
			}
			// What must be there is told from the root there.
			for i, r := range out.Copy.Required {
				out.Copy.Required[i] = strings.TrimPrefix(strings.TrimPrefix(r, c.Src), "/")
			}
			if c.Mode >= 0 && c.ModeStr == "" {
				out.Copy.Mode = fmt.Sprintf("%04o", c.Mode)
			}
			if c.Timestamp >= 0 {
				out.Copy.Timestamp = &c.Timestamp
			}
		case *pb.FileAction_Mkdir:
			d := x.Mkdir
			out.From = graph.Scratch
			out.MkDir = &graph.MkDir{Path: path.Clean(d.Path), Mode: uint32(d.Mode), Parents: d.MakeParents, Owner: owner(d.Owner)}
			if d.Timestamp >= 0 {
				t := d.Timestamp / 1e9
				out.MkDir.Timestamp = &t
			}
		case *pb.FileAction_Mkfile:
			m := x.Mkfile
			out.From = graph.Scratch
			out.MkFile = &graph.MkFile{Path: m.Path, Mode: uint32(m.Mode), Data: m.Data, Owner: owner(m.Owner)}
		default:
			return nil, fmt.Errorf("an action of type %T", x)
		}
		f.Actions = append(f.Actions, out)
	}
	return f, nil
}

func owner(o *pb.ChownOpt) *graph.Owner {
	if o == nil {
		return nil
	}
	one := func(u *pb.UserOpt) *graph.Principal {
		if u == nil {
			return nil
		}
		if n := u.GetByName(); n != nil {
			return &graph.Principal{Name: n.Name, Input: int(n.Input)}
		}
		return &graph.Principal{ID: u.GetByID()}
	}
	return &graph.Owner{User: one(o.User), Group: one(o.Group)}
}

// plain gives both graphs one form, where they say the same in two ways, and returns the root's digest and an outline.
func plain(root graph.Edge) (string, string, error) {
	g, err := graph.Seal(&root)
	if err != nil {
		return "", "", err
	}
	made := map[*graph.Vertex]*graph.Vertex{}
	for _, v := range g.Vertices {
		n := &graph.Vertex{Op: v.Op, Platform: v.Platform}
		for _, in := range v.Inputs {
			n.Inputs = append(n.Inputs, graph.Edge{Vertex: made[in.Vertex], Output: in.Output})
		}
		switch o := v.Op.(type) {
		case *graph.Exec:
			e := *o
			e.Env = slices.Sorted(slices.Values(o.Env))
			// A name at the root is the mount that all others are in; the rest is in the order of the names.
			e.Mounts = slices.Clone(o.Mounts)
			slices.SortStableFunc(e.Mounts, func(a, b graph.Mount) int { return strings.Compare(a.Dest, b.Dest) })
			// Inputs in the order of the mounts.
			var inputs []graph.Edge
			for i, m := range e.Mounts {
				if m.Type == graph.MountCache {
					// A new cache's owner is a folder made before, there.
					e.Mounts[i].Mode, e.Mounts[i].UID, e.Mounts[i].GID = 0, 0, 0
					e.Mounts[i].ID = strings.TrimPrefix(m.ID, "/")
					if m.Input >= 0 {
						if f, ok := n.Inputs[m.Input].Vertex.Op.(*graph.File); ok && m.Source == "/cache" && len(f.Actions) == 1 && f.Actions[0].MkDir != nil {
							e.Mounts[i].Input, e.Mounts[i].Source = graph.Scratch, ""
							continue
						}
					}
				}
				if m.Input == graph.Scratch {
					continue
				}
				in := n.Inputs[m.Input]
				at := slices.Index(inputs, in)
				if at < 0 {
					at = len(inputs)
					inputs = append(inputs, in)
				}
				e.Mounts[i].Input = at
			}
			n.Op, n.Inputs = &e, inputs
		case *graph.Local:
			l := *o
			l.Follow = slices.Sorted(slices.Values(o.Follow))
			n.Op = &l
		}
		made[v] = n
	}
	root.Vertex = made[root.Vertex]
	if g, err = graph.Seal(&root); err != nil {
		return "", "", err
	}
	var b bytes.Buffer
	if err := g.Outline(&b); err != nil {
		return "", "", err
	}
	if root.Vertex == nil {
		return "scratch", "", nil
	}
	return root.Vertex.Digest().String() + ":" + strconv.Itoa(root.Output), b.String(), nil
}
