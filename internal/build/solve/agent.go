package solve

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"gantry/internal/ids"
)

// AgentSocket offers, in a folder of its own below dir, a socket that leads to the client's SSH agent, until done is called. It is
// the user's alone.
func AgentSocket(ctx context.Context, client Client, dir, id string) (socket string, done func(), err error) {
	return agentSocket(ctx, client, dir, id, 0, 0, 0o600)
}

func agentSocket(ctx context.Context, client Client, dir, id string, uid, gid uint32, mode os.FileMode) (socket string, done func(), err error) {
	first, err := client.Agent(ctx, id)
	if err != nil {
		return "", nil, err
	}
	dir = filepath.Join(dir, ids.New()[:12])
	if err := os.Mkdir(dir, 0o711); err != nil {
		first.Close()
		return "", nil, err
	}
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err == nil {
		if err = os.Chown(socket, int(uid), int(gid)); err == nil {
			err = os.Chmod(socket, mode)
		}
		if err != nil {
			l.Close()
		}
	}
	if err != nil {
		first.Close()
		os.RemoveAll(dir)
		return "", nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			to := first
			if first = nil; to == nil {
				if to, err = client.Agent(ctx, id); err != nil {
					c.Close()
					continue
				}
			}
			wg.Go(func() { join(ctx, c, to) })
		}
	})
	return socket, func() {
		cancel()
		l.Close()
		wg.Wait()
		if first != nil {
			first.Close()
		}
		os.RemoveAll(dir)
	}, nil
}

// join moves bytes between two connections until one ends.
func join(ctx context.Context, a, b net.Conn) {
	stop := context.AfterFunc(ctx, func() { a.Close(); b.Close() })
	defer stop()
	var wg sync.WaitGroup
	for _, p := range [][2]net.Conn{{a, b}, {b, a}} {
		wg.Go(func() {
			io.Copy(p[0], p[1])
			a.Close()
			b.Close()
		})
	}
	wg.Wait()
}
