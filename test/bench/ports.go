package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"gantry/internal/kernel/netns"
	"gantry/test/engine"
)

// ports is what goes through a published port. The program in the containers is this one, as `bench serve`.
var ports = subject{
	title: "Published ports",
	about: "From the host's side, to 127.0.0.1: 1 GiB by one connection, and requests with a connection each, 8 at a time. " +
		"In the row \"against direct\" both are Gantry's: through the port, and to the container's own address.",
	prepare: func(p *pair) error {
		if err := p.load("busybox"); err != nil {
			return err
		}
		self, err := os.Executable()
		if err != nil {
			return err
		}
		for _, e := range p.both() {
			if err := p.do(e, "run", "-d", "--name", "served", "-p", "18080:80", "-p", "18081:81", "-v", self+":/bench:ro", "busybox", "/bench", "serve"); err != nil {
				return err
			}
		}
		for _, e := range p.both() {
			for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
				err := requests(e, "127.0.0.1:18081", 1)
				if err == nil {
					break
				}
				if time.Since(begun) > 30*time.Second {
					return err
				}
			}
		}
		return nil
	},
	rows: []row{
		{name: "1 GiB from 127.0.0.1", wall: 1 / 1.5, do: func(_ *pair, e *engine.Engine) error { return bulk(e, "127.0.0.1:18080") }},
		{name: "2,000 requests", do: func(_ *pair, e *engine.Engine) error { return requests(e, "127.0.0.1:18081", 2000) }},
		{name: "2,000 requests, against direct", wall: 1 / 0.9, do: func(p *pair, e *engine.Engine) error {
			if e == p.ours {
				return requests(e, "127.0.0.1:18081", 2000)
			}
			r := engine.Run(p.ours.CLI("inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "served"))
			return requests(p.ours, strings.TrimSpace(r.Out)+":81", 2000)
		}},
	},
}

const bulkSize = 1 << 30

// serve is the program in the containers: port 80 sends bulkSize bytes to everyone, port 81 answers HTTP.
func serve() error {
	l, err := net.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	go func() {
		block := make([]byte, 256<<10)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for range bulkSize / len(block) {
					if _, err := c.Write(block); err != nil {
						return
					}
				}
			}()
		}
	}()
	return http.ListenAndServe(":81", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "here\n") }))
}

// dial connects from the engine's network namespace.
func dial(e *engine.Engine, addr string) (c net.Conn, err error) {
	ns, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", e.Pid()))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	err = ns.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", addr, 10*time.Second)
		return err
	})
	return c, err
}

func bulk(e *engine.Engine, addr string) error {
	c, err := dial(e, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, 256<<10)
	var n int
	for n < bulkSize {
		k, err := c.Read(buf)
		if n += k; err != nil {
			return fmt.Errorf("after %d bytes: %w", n, err)
		}
	}
	return nil
}

// requests asks n times, on a connection each, 8 at a time. Each asker enters the engine's namespace once.
func requests(e *engine.Engine, addr string, n int) error {
	ns, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", e.Pid()))
	if err != nil {
		return err
	}
	defer ns.Close()
	const askers = 8
	failed := make(chan error, askers)
	var all sync.WaitGroup
	for i := range min(askers, n) {
		all.Go(func() {
			err := ns.Do(func() error {
				for range (n + askers - 1 - i) / askers {
					if err := request(addr); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				failed <- err
			}
		})
	}
	all.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

func request(addr string) error {
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	b, err := io.ReadAll(c)
	if err == nil && len(b) == 0 {
		err = io.ErrUnexpectedEOF
	}
	return err
}
