package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/client"
)

// Copy is `container cp`.
var Copy = &command.Command{
	Name: "cp", Top: "cp", Args: "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-", OrArgs: "[OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
	Short: "Copy files between a container and this machine", Min: 2, Max: 2,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		follow := fs.BoolP("follow-link", "L", false, "Copy what a symbolic link SRC_PATH leads to")
		own := fs.BoolP("archive", "a", false, "Give the copies to the container's user")
		quiet := fs.BoolP("quiet", "q", false, "Say nothing of how much was copied")
		return func(ctx context.Context, env *command.Env, args []string) error {
			if args[0] == "" {
				return errors.New("source can not be empty")
			}
			if args[1] == "" {
				return errors.New("destination can not be empty")
			}
			from, src := cutCopyArg(args[0])
			to, dst := cutCopyArg(args[1])
			c, err := env.Client()
			if err != nil {
				return err
			}
			say := func(n int64, where string) {
				if !*quiet && env.IO.ErrIsTerminal() {
					fmt.Fprintf(env.IO.Err, "Successfully copied %s to %s\n", units.HumanSize(float64(n)), where)
				}
			}
			switch {
			case from != "" && to != "":
				return errors.New("copying between containers is not supported")
			case from != "":
				return copyFrom(ctx, env, c, from, src, dst, *follow, say)
			case to != "":
				return copyTo(ctx, env, c, src, to, dst, *follow, *own, say)
			}
			return errors.New("must specify at least one container source")
		}
	},
}

// cutCopyArg cuts CONTAINER:PATH. What is an absolute path, or begins with a dot, is a local path, colon or not.
func cutCopyArg(arg string) (container, path string) {
	if filepath.IsAbs(arg) {
		return "", arg
	}
	c, p, ok := strings.Cut(arg, ":")
	if !ok || strings.HasPrefix(c, ".") {
		return "", arg
	}
	return c, p
}

func copyTo(ctx context.Context, env *command.Env, c *client.Client, src, name, dst string, follow, own bool, say func(int64, string)) error {
	to := copyEnd{path: dst}
	st, err := c.ContainerStatPath(ctx, name, dst)
	if err == nil && st.Mode&fs.ModeSymlink != 0 {
		target := st.LinkTarget
		if !filepath.IsAbs(target) {
			parent, _ := splitEntry(dst)
			target = filepath.Join(parent, target)
		}
		to.path = target
		st, err = c.ContainerStatPath(ctx, name, target)
	}
	if err == nil {
		if m := st.Mode & (fs.ModeDevice | fs.ModeIrregular); m != 0 {
			return fmt.Errorf("destination %q must be a directory or a regular file: got a device", name+":"+dst)
		}
		to.exists, to.isDir = true, st.Mode.IsDir()
	} else if client.IsConnection(err) {
		return err
	}
	if src == "-" {
		if !to.isDir {
			return fmt.Errorf("destination \"%s:%s\" must be a directory", name, dst)
		}
		return c.ContainerCopyIn(ctx, name, to.path, env.IO.In, own)
	}
	local, err := resolveLocal(src)
	if err != nil {
		return err
	}
	from, err := copySource(local, follow)
	if err != nil {
		return err
	}
	dir, rename, err := from.prepare(to)
	if err != nil {
		return err
	}
	p := &packed{ctx: ctx, from: from, rename: rename}
	if err := c.ContainerCopyIn(ctx, name, dir, p, own); err != nil {
		return err
	}
	say(p.n.Load(), name+":"+dst)
	return nil
}

// packed is the archive of what is copied. It is only written, never read.
type packed struct {
	io.Reader
	ctx    context.Context
	from   copyEnd
	rename string
	n      atomic.Int64
}

func (p *packed) WriteTo(w io.Writer) (int64, error) {
	n, err := packLocal(p.ctx, w, p.from, p.rename)
	p.n.Store(n)
	return n, err
}

func copyFrom(ctx context.Context, env *command.Env, c *client.Client, name, src, dst string, follow bool, say func(int64, string)) error {
	local := dst
	if dst != "-" {
		var err error
		if local, err = resolveLocal(dst); err != nil {
			return err
		}
		if err := checkOutput(local); err != nil {
			return err
		}
	}
	from := copyEnd{path: src, exists: true}
	if follow {
		if st, err := c.ContainerStatPath(ctx, name, src); err == nil && st.Mode&fs.ModeSymlink != 0 {
			target := st.LinkTarget
			if !filepath.IsAbs(target) {
				parent, _ := splitEntry(src)
				target = filepath.Join(parent, target)
			}
			from.path, from.rebase = rebaseName(src, target)
		}
	}
	body, st, err := c.ContainerCopyOut(ctx, name, from.path)
	if err != nil {
		return err
	}
	defer body.Close()
	if dst == "-" {
		_, err := io.Copy(env.IO.Out, body)
		return err
	}
	from.isDir = st.Mode.IsDir()
	to, err := copyTarget(local)
	if err != nil {
		return err
	}
	// The archive's entries begin with the last element of the path; what was followed has its link's name.
	_, base := splitEntry(from.path)
	first := base
	if from.rebase != "" {
		first = from.rebase
	}
	dir, rename, err := from.prepare(to)
	if err != nil {
		return err
	}
	if rename == "" {
		rename = first
	}
	n := &countedReader{r: body}
	if err := unpackLocal(ctx, n, dir, base, rename); err != nil {
		return err
	}
	say(n.n, dst)
	return nil
}

type countedReader struct {
	r io.Reader
	n int64
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// checkOutput refuses a place on this machine into which nothing can be copied.
func checkOutput(path string) error {
	dir := filepath.Dir(filepath.Clean(path))
	if dir != "" && dir != "." {
		if _, err := os.Stat(dir); os.IsNotExist(err) {
			return fmt.Errorf("invalid output path: directory %q does not exist", dir)
		}
	}
	fi, err := os.Stat(path)
	if err == nil && fi.Mode()&fs.ModeDevice != 0 {
		return fmt.Errorf("invalid output path: %q must be a directory or a regular file: got a device", path)
	}
	return nil
}
